"""Opens a plain folder of scans, with .label files beside them or in a `labels` folder."""

from __future__ import annotations

from pathlib import Path

from spvnas_ros.clouds.sensor_rules import Sensor
from spvnas_ros.labels import LabelMap
from spvnas_ros.offline.datasets.file_pairs import FileDataset, pair_files, settle

_LABELS = "labels"


def open_folder(folder: Path, label_map: LabelMap, sensor: Sensor) -> FileDataset:
    """Opens the scans (.bin, .npy, .pcd, .ply) of a folder, in order of their names.

    Raises DatasetError where the folder has no scans or the label file of a scan is missing.
    """
    labels = folder / _LABELS if (folder / _LABELS).is_dir() else folder
    files = pair_files(folder, folder, labels)
    return FileDataset(folder, tuple(files), label_map, settle(sensor, [folder / file.scan for file in files]))
