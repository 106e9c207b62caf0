"""What every data set gives: labelled scans, by number."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from spvnas_ros.clouds.cleaning import usable
from spvnas_ros.frame import Points
from spvnas_ros.labels import LABEL_MAPS, LabelMap

SEMANTIC_BITS = 16
"""SemanticKITTI keeps the class in the lower half of a label and the instance in the upper one."""

Labels = npt.NDArray[np.uint8]
Instances = npt.NDArray[np.uint16]


class DatasetError(ValueError):
    """A data set that cannot be opened or read. Names the file, says what was found and what was expected."""


@dataclass(frozen=True)
class LabelledScan:
    """A scan and the truth about it. Every point is finite.

    name:      where it comes from, such as `08/000123`
    points:    float32 `[N, 4]`: x forward, y left, z up in metres in the sensor's frame, and intensity in 0..1
    labels:    uint8 `[N]`, class index, 255 = unlabelled
    instances: uint16 `[N]`, 0 = none; a number belongs to one object of the scan

    Raises ValueError where they are not of one length.
    """

    name: str
    points: Points
    labels: Labels
    instances: Instances

    def __post_init__(self) -> None:
        if not len(self.points) == len(self.labels) == len(self.instances):
            raise ValueError(
                f"scan {self.name!r} has {len(self.points)} points, {len(self.labels)} labels and "
                f"{len(self.instances)} instances, expected as many of each"
            )

    def __len__(self) -> int:
        return len(self.points)

    def take(self, rows: npt.NDArray[Any]) -> LabelledScan:
        """The points chosen by a mask bool `[N]` or by row numbers."""
        return LabelledScan(self.name, self.points[rows], self.labels[rows], self.instances[rows])

    def with_points(self, points: Points) -> LabelledScan:
        """The same scan, its points moved or brightened."""
        return replace(self, points=points)


class ScanDataset(Protocol):
    """Labelled scans by number. It pickles small, holds no open file, and may be read by several processes at once.

    label_map: how raw ids became classes

    `dataset[i]` raises DatasetError for a scan or labels that cannot be read, IndexError outside 0..len - 1.
    """

    @property
    def label_map(self) -> LabelMap: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> LabelledScan: ...


def find_label_map(label_map: LabelMap | str) -> LabelMap:
    """A label map by its name. Raises DatasetError for an unknown one."""
    if isinstance(label_map, LabelMap):
        return label_map
    if label_map not in LABEL_MAPS:
        raise DatasetError(f"label map is {label_map!r}, expected one of {', '.join(LABEL_MAPS)}")
    return LABEL_MAPS[label_map]


def read_label_file(path: Path, count: int, scan: Path, label_map: LabelMap) -> tuple[Labels, Instances]:
    """A SemanticKITTI .label file (uint32 a point): classes uint8 `[count]` and instances uint16 `[count]`.

    Raises DatasetError, which names the file, where it is missing, not of `count` points, or holds an unlisted id.
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
    return labels, (raw >> SEMANTIC_BITS).astype(np.uint16)


def finite(scan: LabelledScan) -> LabelledScan:
    """The scan without points that are not finite: organised clouds hold NaN where nothing came back."""
    kept = usable(scan.points)
    return scan if kept.all() else scan.take(kept)
