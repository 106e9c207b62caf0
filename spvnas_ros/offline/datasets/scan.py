"""Defines what every data set provides: labelled scans, by number."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol
from zlib import crc32

import numpy as np
import numpy.typing as npt

from spvnas_ros.clouds.cleaning import Limits, clean
from spvnas_ros.clouds.sensor_rules import Sensor
from spvnas_ros.errors import UserError
from spvnas_ros.frame import NONE_UNUSABLE, Points, Unusable
from spvnas_ros.labels import LABEL_MAPS, LabelMap, plain_ids

SEMANTIC_BITS = 16
"""Number of low bits of a SemanticKITTI label that hold the class; the bits above hold the instance."""

Labels = npt.NDArray[np.uint8]
Instances = npt.NDArray[np.uint16]

Inventory = dict[str, str]
"""What a data set is read from: by the names of its files, relative to its folder, their sizes; and of labels, which
keep their size when they are corrected, a checksum.
"""


class DatasetError(UserError):
    """Raised where a data set cannot be opened or read. The message names the file and says what was found and what was
    expected.
    """


@dataclass(frozen=True)
class LabelledScan:
    """A scan with its true labels. Every point can be labelled.

    name:      source of the scan, such as `08/000123`
    points:    float32 `[N, 4]`: x forward, y left, z up in metres in the sensor's frame, and intensity in 0..1
    labels:    uint8 `[N]`, class index, 255 = unlabelled
    instances: uint16 `[N]`, 0 = none; a number belongs to one object of the scan
    unusable:  points of the recording that are left out, by reason

    Raises ValueError where points, labels and instances differ in length.
    """

    name: str
    points: Points
    labels: Labels
    instances: Instances
    unusable: Unusable = NONE_UNUSABLE

    def __post_init__(self) -> None:
        if not len(self.points) == len(self.labels) == len(self.instances):
            raise ValueError(
                f"scan {self.name!r} has {len(self.points)} points, {len(self.labels)} labels and "
                f"{len(self.instances)} instances, expected as many of each"
            )

    def __len__(self) -> int:
        return len(self.points)

    def take(self, rows: npt.NDArray[Any]) -> LabelledScan:
        """Returns the points that a mask bool `[N]` or row numbers select."""
        return replace(self, points=self.points[rows], labels=self.labels[rows], instances=self.instances[rows])

    def with_points(self, points: Points) -> LabelledScan:
        """Returns the same scan with other points: the same points after a change of position or intensity."""
        return replace(self, points=points)


@dataclass(frozen=True)
class Looked:
    """Some clouds of a sensor as they were recorded, structured `[N]`, and the rules that make them points.

    remarks: what the reader said of the recording, such as where it was cut off, a sentence each
    """

    sensor: Sensor
    clouds: list[npt.NDArray[np.void]]
    remarks: tuple[str, ...] = ()


class ScanDataset(Protocol):
    """Labelled scans that are accessed by number. A data set is small when pickled, keeps no file open, and can be read
    by several processes at once.

    label_map:  the map that turned raw ids into classes
    boxes_only: whether only points in boxes have a truth, as in KITTI: what is said of other points is never wrong

    `dataset[i]` raises DatasetError where the scan or its labels cannot be read, and IndexError outside 0..len - 1.
    """

    @property
    def label_map(self) -> LabelMap: ...

    @property
    def boxes_only(self) -> bool: ...

    def name(self, index: int, /) -> str:
        """Returns the name of a scan, which does not have to be readable."""
        ...

    def look(self) -> list[Looked]:
        """Returns some clouds of each of its sensors."""
        ...

    def inventory(self) -> Inventory:
        """Returns what tells these data from others, wherever they lie. Raises OSError for files that are not there."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> LabelledScan: ...


def find_label_map(label_map: LabelMap | str) -> LabelMap:
    """Returns the label map of that name; a map is returned as it is. Raises DatasetError for an unknown name."""
    if isinstance(label_map, LabelMap):
        return label_map
    if label_map not in LABEL_MAPS:
        raise DatasetError(f"label map is {label_map!r}, expected one of {', '.join(LABEL_MAPS)}")
    return LABEL_MAPS[label_map]


def read_label_file(path: Path, count: int, scan: Path, label_map: LabelMap) -> tuple[Labels, Instances]:
    """Reads a SemanticKITTI .label file (uint32 per point). Returns classes uint8 `[count]` and instances uint16
    `[count]`.

    Raises DatasetError, which names the file, where it is missing, does not have `count` labels, or holds an id that
    the map does not list.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DatasetError(
            f"{path}: cannot be read: {error.strerror or error}; expected the labels of {scan}"
        ) from error
    if len(data) != 4 * count:
        raise DatasetError(
            f"{path} has {len(data)} bytes, but {scan} has {count} points; expected 4 bytes a point, {4 * count} in all"
        )
    raw = np.frombuffer(data, "<u4")
    try:
        labels = label_map.encode(raw)
    except ValueError as error:
        raise DatasetError(f"{path}: {error}") from error
    return labels, np.where(plain_ids(raw) == -1, 0, raw >> SEMANTIC_BITS).astype(np.uint16)


def sizes_of(folder: Path, files: Iterable[str]) -> Inventory:
    """Returns the sizes of files by their names relative to a folder. Raises OSError where one is not there."""
    return {file: f"{(folder / file).stat().st_size} bytes" for file in files}


def checksums_of(folder: Path, files: Iterable[str]) -> Inventory:
    """Returns sizes and CRC-32 of small files by their names relative to a folder. Raises OSError where one is not
    there.
    """
    found = {}
    for file in files:
        data = (folder / file).read_bytes()
        found[file] = f"{len(data)} bytes, crc {crc32(data):08x}"
    return found


def finite(scan: LabelledScan) -> LabelledScan:
    """Returns the scan without points that no network could see, such as NaN where no echo came back."""
    cleaned = clean(scan.points, Limits(brightest=np.inf))
    return scan if cleaned.kept is None else replace(scan.take(cleaned.kept), unusable=cleaned.unusable)
