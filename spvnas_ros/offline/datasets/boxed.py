"""Opens scans with boxes around their objects: KITTI's object set, and simulated drives.

| data | where the boxes are | kinds | labels |
| --- | --- | --- | --- |
| KITTI (`training/velodyne`, `label_2`, `calib`) | in the camera's picture | KITTI's words | none |
| a simulated drive (`sequences`, `boxes`) | all around | SemanticKITTI's movable classes | of every point |

Points follow the same rules for intensities and usable points as in `open_dataset`. There is no rule for the sensor's
place: boxes are in the frame in which the scans are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from spvnas_ros.boxes.inside import counts_inside
from spvnas_ros.clouds.cleaning import usable
from spvnas_ros.clouds.intensity import Intensity
from spvnas_ros.clouds.mount import PlaceRule
from spvnas_ros.clouds.sensor_rules import Sensor
from spvnas_ros.errors import UserError
from spvnas_ros.frame import Points
from spvnas_ros.offline.datasets.file_pairs import FileDataset
from spvnas_ros.offline.datasets.joined import Several, Source
from spvnas_ros.offline.datasets.kitti import KittiDataset, is_kitti, open_kitti
from spvnas_ros.offline.datasets.scan import (
    DatasetError,
    Inventory,
    Labels,
    Looked,
    ScanDataset,
    checksums_of,
    find_label_map,
)
from spvnas_ros.offline.datasets.semantic_kitti import Sequences, is_semantic_kitti, open_semantic_kitti
from spvnas_ros.recordings.kitti_objects import (
    DONT_CARE,
    KittiCalibration,
    KittiFileError,
    lidar_boxes,
    read_calibration,
    read_objects,
)
from spvnas_ros.recordings.object_tables import Objects, ObjectTableError, read_objects_of
from spvnas_ros.recordings.scans import read_scan

PICTURE: Final = (1242, 375)
"""Width and height in pixels of the picture of KITTI's camera; those of some drives are a few pixels smaller."""
_TABLES = "boxes"


@dataclass(frozen=True)
class BoxedScan:
    """A scan with its true boxes. Every point is finite.

    name:    source of the scan
    points:  float32 `[N, 4]`: x forward, y left, z up in metres in the sensor's frame, and intensity in 0..1
    objects: in the same frame
    labels:  uint8 `[N]`, class index, 255 = unlabelled; None where the data have none
    boxed:   whether the data have boxes; where they have none, nobody knows what objects there are

    Raises ValueError where points and labels differ in length.
    """

    name: str
    points: Points
    objects: Objects
    labels: Labels | None = None
    boxed: bool = True

    def __post_init__(self) -> None:
        if self.labels is not None and len(self.labels) != len(self.points):
            raise ValueError(f"scan {self.name!r} has {len(self.points)} points and {len(self.labels)} labels")

    def __len__(self) -> int:
        return len(self.points)

    def take(self, rows: npt.NDArray[Any]) -> BoxedScan:
        """Returns the points that a mask bool `[N]` or row numbers select, with all objects."""
        labels = None if self.labels is None else self.labels[rows]
        return replace(self, points=self.points[rows], labels=labels)

    def with_points(self, points: Points) -> BoxedScan:
        """Returns the same scan with other points: the same points after a change of position or intensity."""
        return replace(self, points=points)


BoxedDataset: TypeAlias = Source[BoxedScan]
"""Scans with boxes. `dataset[i]` raises DatasetError where the scan or its boxes cannot be read."""


@dataclass(frozen=True)
class BoxedKitti:
    """KITTI's frames with their boxes.

    ahead: take only the points that the camera's picture shows, as all that is published does: what it does not show
           nobody labelled
    """

    frames: KittiDataset
    ahead: bool = True

    def name(self, index: int) -> str:
        """Returns the name of a frame."""
        return self.frames.name(index)

    def look(self) -> list[Looked]:
        """Returns some scans as they are in the files."""
        return self.frames.look()

    def inventory(self) -> Inventory:
        """Returns sizes of the scans, sizes and checksums of their boxes and calibrations."""
        return self.frames.inventory()

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> BoxedScan:
        name, folder = self.frames.name(index), self.frames.folder
        try:
            points = read_scan(folder / "velodyne" / f"{name}.bin", self.frames.sensor)
            calibration = read_calibration(folder / "calib" / f"{name}.txt")
            found = read_objects(folder / "label_2" / f"{name}.txt", scored=False)
        except (UserError, OSError) as error:
            raise DatasetError(str(error)) from error
        points = points[usable(points)]
        if self.ahead:
            if calibration.projection is None:
                raise DatasetError(
                    f"{folder / 'calib' / name}.txt has no P2, which says which points the picture shows; what it does "
                    "not show nobody labelled"
                )
            points = points[in_picture(points, calibration)]
        boxes = lidar_boxes(found, calibration).astype(np.float32)
        kept = found.has_box & np.array([kind.lower() != DONT_CARE.lower() for kind in found.kinds], np.bool_)
        objects = Objects(found.kinds, boxes, counts_inside(points, boxes), found.occlusion)
        return BoxedScan(name, points, objects.among(kept))


@dataclass(frozen=True)
class BoxedDrives:
    """Simulated drives with their boxes.

    tables: the table of each scan, relative to the folder
    """

    scans: FileDataset
    tables: tuple[str, ...]

    def name(self, index: int) -> str:
        """Returns the name of a scan."""
        return self.scans.name(index)

    def look(self) -> list[Looked]:
        """Returns some scans as they are in the files."""
        return self.scans.look()

    def inventory(self) -> Inventory:
        """Returns sizes of the scans, sizes and checksums of labels and boxes."""
        return self.scans.inventory() | checksums_of(self.scans.folder, self.tables)

    def __len__(self) -> int:
        return len(self.scans)

    def __getitem__(self, index: int) -> BoxedScan:
        scan = self.scans[index]
        try:
            objects = read_objects_of(self.scans.folder / self.tables[index])
        except ObjectTableError as error:
            raise DatasetError(str(error)) from error
        return BoxedScan(scan.name, scan.points, objects, scan.labels)


@dataclass(frozen=True)
class Unboxed:
    """Labelled scans without boxes, as scans whose objects nobody knows."""

    scans: ScanDataset

    def name(self, index: int) -> str:
        """Returns the name of a scan."""
        return self.scans.name(index)

    def look(self) -> list[Looked]:
        """Returns some scans as they are in the files."""
        return self.scans.look()

    def inventory(self) -> Inventory:
        """Returns sizes of the scans, sizes and checksums of labels."""
        return self.scans.inventory()

    def __len__(self) -> int:
        return len(self.scans)

    def __getitem__(self, index: int) -> BoxedScan:
        scan = self.scans[index]
        return BoxedScan(scan.name, scan.points, Objects.none(), scan.labels, boxed=False)


def has_boxes(path: Path) -> bool:
    """Tells whether `open_boxed` is for a path: KITTI's object set, or a simulated drive with boxes."""
    if not path.is_dir():
        return False
    return (path / _TABLES).is_dir() if is_semantic_kitti(path) else is_kitti(path)


def open_boxed(
    source: str | Path,
    *,
    label_map: str = "semantic-kitti",
    sequences: Sequences = None,
    intensity: str | None = None,
    intensity_field: str | None = None,
) -> BoxedKitti | BoxedDrives:
    """Opens scans with boxes; the kind is guessed from the files. Arguments as in `open_dataset`.

    Raises DatasetError, which names the file, where `source` is neither KITTI's object set nor a simulated drive with
    boxes, and where files are missing.
    """
    path, known = Path(source), find_label_map(label_map)
    try:
        sensor = Sensor(Intensity(intensity or "unit", intensity_field), PlaceRule())
    except UserError as error:
        raise DatasetError(str(error)) from error
    if path.is_dir() and is_semantic_kitti(path):
        scans = open_semantic_kitti(path, known, sensor, sequences)
        tables = tuple(f"{_TABLES}/{Path(file.scan).parts[-3]}/{Path(file.scan).stem}.csv" for file in scans.files)
        if missing := [table for table in tables if not (path / table).is_file()]:
            raise DatasetError(
                f"{path / missing[0]} is missing (one of {len(missing)}); boxes of a simulated drive are made by "
                "`spvnas simulate --format semantic-kitti,boxes`"
            )
        return BoxedDrives(scans, tables)
    if sequences is not None:
        raise DatasetError(f"{path} is not in SemanticKITTI's layout, so it has no sequences {sequences!r} to choose")
    if path.is_dir() and is_kitti(path):
        return BoxedKitti(open_kitti(path, known, sensor))
    raise DatasetError(
        f"{path} {'has no boxes' if path.exists() else 'does not exist'}; expected KITTI's object set "
        "(training/velodyne, label_2, calib) or a simulated drive with boxes (sequences, boxes)"
    )


def join_boxed(parts: Sequence[BoxedDataset]) -> Several[BoxedScan]:
    """Returns several data sets one after another."""
    return Several(parts)


def in_picture(
    points: Points, calibration: KittiCalibration, picture: tuple[int, int] = PICTURE
) -> npt.NDArray[np.bool_]:
    """Returns which points, float32 `[N, 4]`, the camera's picture shows, bool `[N]`, as OpenPCDet tells them.

    picture: its width and height, pixels

    Raises KittiFileError where the calibration has no P2.
    """
    if calibration.projection is None:
        raise KittiFileError("the calibration has no P2, which says which points the picture shows")
    ones = np.ones((len(points), 1))
    camera = np.hstack([points[:, :3], ones]) @ calibration.camera_from_lidar[:3].T
    image = np.hstack([camera, ones]) @ calibration.projection.T
    with np.errstate(divide="ignore", invalid="ignore"):
        pixels = image[:, :2] / camera[:, 2:]
    depth = image[:, 2] - calibration.projection[2, 3]
    shown: npt.NDArray[np.bool_] = np.all((pixels >= 0) & (pixels < picture), axis=1) & (depth >= 0)
    return shown
