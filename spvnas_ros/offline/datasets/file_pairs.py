"""Reads pairs of a scan file and a SemanticKITTI .label file. SemanticKITTI's layout and plain folders are both made of
such pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spvnas_ros.clouds.intensity import Intensity
from spvnas_ros.labels import LabelMap
from spvnas_ros.offline.datasets.scan import DatasetError, LabelledScan, finite, read_label_file
from spvnas_ros.recordings.scans import ScanError, read_scan, scan_files
from spvnas_ros.recordings.scans.read import read_record

LABEL_SUFFIX = ".label"

_SAMPLED = 16
"""Number of scans, at most, that are read to learn the scale of a sensor's intensities."""


@dataclass(frozen=True)
class ScanFile:
    """Paths of a scan and of its labels, relative to the data set's folder."""

    name: str
    scan: str
    labels: str


@dataclass(frozen=True)
class FileDataset:
    """A `ScanDataset` of scan files and label files.

    intensity: the rule for the sensor's intensity; it has looked at sample scans already, so that no scan depends on
               which scans were read before
    """

    folder: Path
    files: tuple[ScanFile, ...]
    label_map: LabelMap
    intensity: Intensity

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> LabelledScan:
        file = self.files[index]
        path = self.folder / file.scan
        try:
            points = read_scan(path, copy(self.intensity))
        except ScanError as error:
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
    missing = [scan for scan in found if scan.stem + LABEL_SUFFIX not in there]
    if missing:
        raise DatasetError(
            f"{labels / missing[0].stem}{LABEL_SUFFIX} is missing, the labels of {missing[0]} (so are those of "
            f"{len(missing) - 1} of {len(found)} scans more); scans without labels can be labelled with "
            "`spvnas segment`, not learnt from"
        )
    return [
        ScanFile(
            prefix + scan.stem,
            str(scan.relative_to(folder)),
            str((labels / scan.stem).relative_to(folder)) + LABEL_SUFFIX,
        )
        for scan in found
    ]


def settle(rule: str, scans: Sequence[Path]) -> Intensity:
    """Returns the intensity rule of a sensor, decided by sample scans, spread over all of them.

    Raises DatasetError for an unknown rule and for a scan that cannot be read.
    """
    try:
        intensity = Intensity(rule)
        if not intensity.decided:
            samples = np.unique(np.linspace(0, len(scans) - 1, _SAMPLED).astype(int))
            intensity.settle(read_record(scans[number]) for number in samples)
    except ValueError as error:
        raise DatasetError(str(error)) from error
    return intensity
