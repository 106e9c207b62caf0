"""Reads pairs of a scan file and a SemanticKITTI .label file. SemanticKITTI's layout and plain folders are both made of
such pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from spvnas_ros.clouds.sensor_rules import Sensor
from spvnas_ros.clouds.survey import place_remark
from spvnas_ros.errors import UserError
from spvnas_ros.labels import LabelMap
from spvnas_ros.offline.datasets.scan import (
    DatasetError,
    Inventory,
    LabelledScan,
    Looked,
    checksums_of,
    finite,
    read_label_file,
    sizes_of,
)
from spvnas_ros.recordings.scans import Record, ScanError, frames_of, read_record, read_scan, scan_files

LABEL_SUFFIX = ".label"

_SAMPLED = 16
"""Number of scans, at most, that are read to learn the scale of a sensor's intensities."""


@dataclass(frozen=True)
class ScanFile:
    """Paths of a scan and of its labels, relative to the data set's folder; `part` says which scan of the file."""

    name: str
    scan: str
    labels: str
    part: int = 0


@dataclass(frozen=True)
class FileDataset:
    """A `ScanDataset` of scan files and label files.

    sensor: the rules for the sensor, settled by sample scans, so that no scan depends on which were read before
    """

    folder: Path
    files: tuple[ScanFile, ...]
    label_map: LabelMap
    sensor: Sensor
    boxes_only: Literal[False] = False

    def name(self, index: int) -> str:
        """Returns the name of a scan."""
        return self.files[index].name

    def look(self) -> list[Looked]:
        """Returns some scans as they are in the files."""
        clouds = samples(self.folder / file.scan for file in self.files)
        remark = place_remark(clouds, self.sensor)
        return [Looked(self.sensor, clouds, (remark,) if remark else ())]

    def inventory(self) -> Inventory:
        """Returns sizes of the scans, sizes and checksums of their labels."""
        scans = sizes_of(self.folder, (file.scan for file in self.files))
        return scans | checksums_of(self.folder, (file.labels for file in self.files))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> LabelledScan:
        file = self.files[index]
        path = self.folder / file.scan
        try:
            points = read_scan(path, self.sensor, file.part)
        except UserError as error:
            raise DatasetError(str(error)) from error
        labels, instances = read_label_file(self.folder / file.labels, len(points), path, self.label_map)
        return finite(LabelledScan(file.name, points, labels, instances))


def pair_files(folder: Path, scans: Path, labels: Path, prefix: str = "") -> list[ScanFile]:
    """Pairs the scans of one folder with the label files of the same stems in another folder.

    folder: the paths become relative to it; prefix: put before the names of the scans

    Raises DatasetError where there are no scans or a label file is missing; the message names the first missing one.
    """
    try:
        found = scan_files(scans)
    except (ScanError, OSError) as error:
        raise DatasetError(str(error)) from error
    there = {path.name for path in labels.iterdir()} if labels.is_dir() else set()
    named = [(name, scan, part) for scan in found for name, _, part in frames_of(scan.stem, scan)]
    missing = [(name, scan) for name, scan, _ in named if name + LABEL_SUFFIX not in there]
    if missing:
        name, scan = missing[0]
        raise DatasetError(
            f"{labels / name}{LABEL_SUFFIX} is missing, the labels of {scan} (so are those of "
            f"{len(missing) - 1} of {len(named)} scans more); scans without labels can be labelled with "
            "`spvnas segment`, not learnt from"
        )
    return [
        ScanFile(
            prefix + name, str(scan.relative_to(folder)), str((labels / name).relative_to(folder)) + LABEL_SUFFIX, part
        )
        for name, scan, part in named
    ]


def settle(sensor: Sensor, scans: Iterable[Path]) -> Sensor:
    """Returns the rules for a sensor, after sample scans have settled what they leave open.

    Raises DatasetError where they cannot be followed.
    """
    try:
        if sensor.open:
            sensor.settle(samples(scans))
    except UserError as error:
        raise DatasetError(str(error)) from error
    return sensor


def samples(scans: Iterable[Path], read: Callable[[Path], Record] = read_record) -> list[Record]:
    """Returns some scans, spread over all of them, as `read` reads them.

    One that cannot be read is passed over: it is an error where it is used, not for those beside it.
    """
    paths, found = list(scans), []
    for number in np.unique(np.linspace(0, len(paths) - 1, _SAMPLED).astype(int)):
        with suppress(ScanError):
            found.append(read(paths[number]))
    return [record for record in found if len(record)]
