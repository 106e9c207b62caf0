"""Finds the scans of data sets whose files lie deeper than a folder of scans: KITTI's raw drives, nuScenes and
Argoverse 2. `scans/source.py` and the data sets of `offline/` ask here.
"""

from __future__ import annotations

from pathlib import Path

from spvnas_ros.recordings.scans.layouts import argoverse, kitti_raw, nuscenes_tables
from spvnas_ros.recordings.scans.layouts.recording_layout import Layout

__all__ = ["Layout", "find_layout"]


def find_layout(path: Path, *, sweeps: bool = False) -> Layout | None:
    """Returns the scans of a data set by the layout of its folder; None where no layout here is its.

    sweeps: of nuScenes, the scans between the keyframes, too

    Raises ScanError where it has a layout, but tables or files that cannot be used, and OSError where the folder cannot
    be read.
    """
    if not path.is_dir():
        return None
    return nuscenes_tables.find(path, sweeps=sweeps) or kitti_raw.find(path) or argoverse.find(path)
