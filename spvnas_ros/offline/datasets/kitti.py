"""Reads KITTI's object detection set: scans, 3D boxes, and labels for the points in the boxes.

Format: Geiger et al., CVPR 2012, https://www.cvlibs.net/datasets/kitti/eval_object.php. KITTI's files give a box in the
rectified camera's frame (x right, y down, z forward), by the centre of its bottom. This module gives it in the sensor's
frame, by its middle.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from spvnas_ros.clouds.sensor_rules import Sensor
from spvnas_ros.errors import UserError
from spvnas_ros.frame import Points
from spvnas_ros.labels import LabelMap
from spvnas_ros.offline.datasets.file_pairs import samples, settle
from spvnas_ros.offline.datasets.scan import (
    DatasetError,
    Inventory,
    LabelledScan,
    Looked,
    checksums_of,
    finite,
    sizes_of,
)
from spvnas_ros.recordings.kitti_objects import DONT_CARE, KittiFileError, read_calibration, read_objects
from spvnas_ros.recordings.scans import read_scan, scan_files

RAW_IDS = {
    "Car": 10,
    "Van": 10,
    "Truck": 18,
    "Tram": 16,
    "Pedestrian": 30,
    "Person_sitting": 30,
    "Cyclist": 31,
}
"""SemanticKITTI's raw id for each kind of box. `Misc` is left out because it may be any object, and `DontCare` because
it marks no object.
"""

_Matrix = npt.NDArray[np.float64]
_GROUND = 0.2
"""Height above the bottom of a box, in metres, below which points stay unlabelled. Wheels, feet and road cannot be told
apart there.
"""
_SCANS, _LABELS, _CALIBRATION, _TRAINING = "velodyne", "label_2", "calib", "training"


@dataclass(frozen=True)
class Box:
    """An object in the sensor's frame (x forward, y left, z up).

    kind:   KITTI's word for it, such as `Car`
    size:   length, width, height, metres
    centre: x, y, z of its middle, metres
    yaw:    direction of its front, radians from x towards y
    """

    kind: str
    size: tuple[float, float, float]
    centre: tuple[float, float, float]
    yaw: float

    def contains(self, points: Points) -> npt.NDArray[np.bool_]:
        """Tells for each point of float32 `[N, 3 or more]` whether it lies inside the box, as bool `[N]`."""
        return _inside(points, self, 0.0)


@dataclass(frozen=True)
class KittiDataset:
    """A `ScanDataset` of KITTI's frames. Points in a box get the class and the number of the box; all other points are
    unlabelled.

    The points in the lowest 20 cm of a box stay unlabelled. `boxes` returns the boxes themselves.
    """

    folder: Path
    frames: tuple[str, ...]
    label_map: LabelMap
    sensor: Sensor
    boxes_only: Literal[True] = True

    def name(self, index: int) -> str:
        """Returns the name of a frame."""
        return self.frames[index]

    def look(self) -> list[Looked]:
        """Returns some scans as they are in the files."""
        return [Looked(self.sensor, samples(self.folder / _SCANS / f"{frame}.bin" for frame in self.frames))]

    def inventory(self) -> Inventory:
        """Returns sizes of the scans, sizes and checksums of their boxes and calibrations."""
        texts = [f"{part}/{frame}.txt" for frame in self.frames for part in (_LABELS, _CALIBRATION)]
        scans = sizes_of(self.folder, (f"{_SCANS}/{frame}.bin" for frame in self.frames))
        return scans | checksums_of(self.folder, texts)

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> LabelledScan:
        path = self.folder / _SCANS / f"{self.frames[index]}.bin"
        try:
            points = read_scan(path, self.sensor)
        except UserError as error:
            raise DatasetError(str(error)) from error
        raw, instances = np.zeros(len(points), np.uint16), np.zeros(len(points), np.uint16)
        for number, box in enumerate(self.boxes(index), start=1):
            inside = _inside(points, box, _GROUND)
            raw[inside], instances[inside] = RAW_IDS.get(box.kind, 0), number
        try:
            labels = self.label_map.encode(raw)
        except ValueError as error:
            raise DatasetError(f"{self.folder / _LABELS / self.frames[index]}.txt: {error}") from error
        return finite(LabelledScan(self.frames[index], points, labels, instances))

    def boxes(self, index: int) -> list[Box]:
        """Returns the objects of a frame. Raises DatasetError for a file that is missing or malformed; the message
        names it.
        """
        frame = self.frames[index]
        try:
            calibration = read_calibration(self.folder / _CALIBRATION / f"{frame}.txt")
            objects = read_objects(self.folder / _LABELS / f"{frame}.txt", scored=False, kinds=None)
        except (KittiFileError, OSError) as error:
            raise DatasetError(str(error)) from error
        to_sensor = np.linalg.inv(calibration.camera_from_lidar).astype(np.float64)
        there = zip(objects.kinds, objects.camera, strict=True)
        return [_box(kind, camera, to_sensor) for kind, camera in there if kind != DONT_CARE]


def is_kitti(folder: Path) -> bool:
    """Tells whether a folder is KITTI's folder or the training folder in it."""
    return (_root(folder) / _LABELS).is_dir() and (_root(folder) / _SCANS).is_dir()


def open_kitti(folder: Path, label_map: LabelMap, sensor: Sensor) -> KittiDataset:
    """Opens the frames of KITTI's training part. Raises DatasetError that names the first missing file."""
    root = _root(folder)
    try:
        scans = scan_files(root / _SCANS)
        settled, frames = settle(sensor, scans), [path.stem for path in scans]
    except ValueError as error:
        raise DatasetError(str(error)) from error
    for part in (_LABELS, _CALIBRATION):
        there = {path.name for path in (root / part).iterdir()} if (root / part).is_dir() else set()
        if missing := [frame for frame in frames if f"{frame}.txt" not in there]:
            raise DatasetError(f"{root / part / missing[0]}.txt is missing; expected one for each of {root / _SCANS}")
    return KittiDataset(root, tuple(frames), label_map, settled)


def _root(folder: Path) -> Path:
    return folder / _TRAINING if (folder / _TRAINING).is_dir() else folder


def _box(kind: str, camera: _Matrix, to_sensor: _Matrix) -> Box:
    x, y, z, length, height, width, angle = camera.tolist()
    centre = to_sensor @ (x, y - height / 2, z, 1)
    # The camera's angle turns from its x (right) towards -z (back). The heading is rotated into the sensor's frame.
    front = to_sensor[:3, :3] @ (np.cos(angle), 0, -np.sin(angle))
    return Box(
        kind,
        (length, width, height),
        (float(centre[0]), float(centre[1]), float(centre[2])),
        float(np.arctan2(front[1], front[0])),
    )


def _inside(points: Points, box: Box, above: float) -> npt.NDArray[np.bool_]:
    """Tells which points lie in a box and at least `above` metres over its bottom."""
    offset = points[:, :3] - np.array(box.centre, np.float32)
    c, s = np.cos(box.yaw), np.sin(box.yaw)
    along, across = offset[:, 0] * c + offset[:, 1] * s, offset[:, 1] * c - offset[:, 0] * s
    length, width, height = box.size
    inside: npt.NDArray[np.bool_] = (np.abs(along) <= length / 2) & (np.abs(across) <= width / 2)
    return inside & (np.abs(offset[:, 2]) <= height / 2) & (offset[:, 2] >= above - height / 2)
