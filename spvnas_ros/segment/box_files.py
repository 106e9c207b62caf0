"""The boxes of a run as files: OUT/boxes/NAME.json, OUT/kitti/NAME.txt for scans of KITTI, and messages for a bag.

Boxes are written in the frame of the cloud as it was recorded, wherever the network saw it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from spvnas_ros.boxes.conversions import moved
from spvnas_ros.boxes.inside import counts_inside
from spvnas_ros.boxes.overlap import COLUMNS
from spvnas_ros.clouds.sensor_rules import Sensor
from spvnas_ros.frame import Boxes
from spvnas_ros.recordings.box_bags import RecordedBoxes
from spvnas_ros.recordings.files import replacing
from spvnas_ros.recordings.kitti_objects import (
    KINDS,
    KittiCalibration,
    KittiFileError,
    read_calibration,
    results,
    write_results,
)
from spvnas_ros.recordings.scans import Cloud, Source

if TYPE_CHECKING:
    from rosbags.typesys.stores.ros2_humble import sensor_msgs__msg__PointCloud2 as PointCloud2

FRAME: Final = "that of the scan's points: x, y, z of the centre, and yaw from x towards y"
"""The frame of reference in words."""
PICTURE: Final = (1242, 375)
"""Width and height of KITTI's pictures, pixels, where the picture itself is not there; others differ by a few."""
_KINDS: Final = {kind.lower(): kind for kind in KINDS} | {
    "person": "Pedestrian", "bicyclist": "Cyclist", "rider": "Cyclist", "large-vehicle": "Truck", "other": "Misc"
}  # fmt: skip
"""KITTI's word for a class of boxes; for all others it is Misc."""


@dataclass(frozen=True)
class PlacedBoxes:
    """The objects of a frame as they are written, the best score first.

    names:  of the classes, in index order
    boxes:  float64 `[B, 7]`, as in `frame.Boxes` but in the cloud's own frame, whose coordinates may be a map's
    scores: float32 `[B]`, 0..1
    classes: uint8 `[B]`, class index
    counts: int64 `[B]`, how many of the cloud's points lie in each
    """

    names: tuple[str, ...]
    boxes: npt.NDArray[np.float64]
    scores: npt.NDArray[np.float32]
    classes: npt.NDArray[np.uint8]
    counts: npt.NDArray[np.int64]

    @property
    def kinds(self) -> tuple[str, ...]:
        """The class name of each object."""
        return tuple(self.names[index] for index in self.classes.tolist())

    def document(self, name: str) -> dict[str, Any]:
        """Returns what OUT/boxes/NAME.json holds of the frame `name`."""
        rows = zip(self.kinds, self.scores.tolist(), self.boxes.tolist(), self.counts.tolist(), strict=True)
        boxes = [
            {"class": kind, "score": round(score, 6)}
            | {column: round(value, 4) for column, value in zip(COLUMNS, box, strict=True)}
            | {"points": count}
            for kind, score, box, count in rows
        ]
        units = {"lengths": "metres", "yaw": "radians"}
        return {"frame": name, "frame_of_reference": FRAME, "units": units, "classes": [*self.names], "boxes": boxes}

    def recorded(self, cloud: PointCloud2) -> RecordedBoxes:
        """Returns them with the stamp and the frame of a cloud's header."""
        stamp = cloud.header.stamp.sec * 10**9 + cloud.header.stamp.nanosec
        return RecordedBoxes(stamp, cloud.header.frame_id, self.kinds, self.boxes, self.scores.astype(np.float64))


def placed(boxes: Boxes, names: Sequence[str], cloud: Cloud, sensor: Sensor) -> PlacedBoxes:
    """Returns boxes in the frame in which a network saw a cloud, in the cloud's own.

    They stay upright where the cloud's own frame is tilted.
    """
    order = np.argsort(-boxes.scores, kind="stable")
    boxes = boxes.among(order)
    placement = sensor.placement(cloud.record)
    there = boxes.boxes.astype(np.float64)
    if placement is None:
        return PlacedBoxes(tuple(names), there, boxes.scores, boxes.classes, counts_inside(cloud.points, boxes.boxes))
    there = moved(there, np.linalg.inv(placement.matrix()))
    places = np.stack([cloud.record[axis].astype(np.float64) for axis in "xyz"], axis=1)
    counts = counts_inside(places, there)
    return PlacedBoxes(tuple(names), there, boxes.scores, boxes.classes, counts)


@dataclass(frozen=True)
class KittiScan:
    """What turns boxes in a scan of KITTI into results: its calibration, and the size of its picture, pixels."""

    calibration: KittiCalibration
    picture: tuple[int, int]


def calibration_files(source: Source) -> dict[str, Path]:
    """Returns the calibrations of a source's scans, by the name of the frame: those that lie as KITTI has them,
    `calib/NAME.txt` beside `velodyne/NAME.bin`.
    """
    if source.kind == "bag":
        return {}
    files = ((frame.name, frame.file.absolute()) for frame in source if frame.file is not None)
    beside = {
        name: file.parent.parent / "calib" / f"{file.stem}.txt"
        for name, file in files
        if file.parent.name == "velodyne"
    }
    return {name: file for name, file in beside.items() if file.is_file()}


def kitti_scans(source: Source) -> dict[str, KittiScan]:
    """Reads the calibrations of a source's scans, by the name of the frame.

    Raises KittiFileError where one is malformed or has no P2, OSError where one cannot be read.
    """
    found = {}
    for name, file in calibration_files(source).items():
        calibration = read_calibration(file)
        if calibration.projection is None:
            raise KittiFileError(f"{file} has no line 'P2', which says where in the picture boxes are")
        found[name] = KittiScan(calibration, _picture_size(file.parent.parent / "image_2" / f"{file.stem}.png"))
    return found


def _picture_size(path: Path) -> tuple[int, int]:
    try:
        with Image.open(path) as picture:
            return picture.size
    except OSError:  # Pillow's for what is no picture, too
        return PICTURE


def kitti_kind(name: str) -> str:
    """Returns KITTI's word for a class of boxes, such as Pedestrian for person."""
    return _KINDS.get(name.lower(), "Misc")


def write_document(path: Path, name: str, found: PlacedBoxes) -> None:
    """Writes the boxes of the scan `name` as JSON; whole, or not at all."""
    with replacing(path) as file:
        file.write(json.dumps(found.document(name), indent=1).encode() + b"\n")


def write_kitti(path: Path, found: PlacedBoxes, scan: KittiScan) -> None:
    """Writes the boxes of a scan of KITTI that the picture shows as KITTI's results; whole, or not at all."""
    boxes = Boxes(found.boxes.astype(np.float32), found.scores, found.classes)
    kinds = [kitti_kind(each) for each in found.names]
    write_results(path, results(boxes, kinds, scan.calibration, scan.picture))
