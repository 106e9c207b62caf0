"""Finds the scans of KITTI's raw drives: `2011_09_26/2011_09_26_drive_0001_sync/velodyne_points/data/0000000000.bin`.

Layout: Geiger et al., "Vision meets Robotics: The KITTI Dataset", IJRR 2013. A scan is float32 x (forward), y (left), z
(up) and reflectance 0..1 in the Velodyne's frame, as in the object set.
"""

from __future__ import annotations

from pathlib import Path

from spvnas_ros.recordings.scans.layouts.recording_layout import Layout, recordings_in
from spvnas_ros.recordings.scans.read import read_record, scan_files
from spvnas_ros.recordings.scans.records import ScanError

_SCANS = "velodyne_points/data"


def find(path: Path) -> Layout | None:
    """Returns the scans of a drive (its folder, or `velodyne_points`), or of a folder of drives or of days of drives.

    Frames of one drive have the names of their files, those of several "DRIVE/NAME". Raises ScanError where a drive has
    no scans.
    """
    alone = path.parent if path.name == "velodyne_points" else path
    if (alone / _SCANS).is_dir():
        files = tuple((file.stem, file) for file in _scans_of(alone))
        return Layout("KITTI raw", "folder", files, read_record, "unit")
    drives = recordings_in(path, _SCANS)
    if not drives:
        return None
    files = tuple((f"{name}/{file.stem}", file) for name, drive in drives.items() for file in _scans_of(drive))
    return Layout("KITTI raw", "dataset", files, read_record, "unit")


def _scans_of(drive: Path) -> list[Path]:
    if not any((drive / _SCANS).iterdir()) and any((drive / "velodyne_points").glob("*.txt")):
        raise ScanError(
            f"{drive / _SCANS} is empty, expected the drive's scans; get the synced and rectified drive (`_sync.zip`)"
        )
    return scan_files(drive / _SCANS)
