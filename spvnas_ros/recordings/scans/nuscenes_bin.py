"""Reads nuScenes' .pcd.bin: float32 x, y, z, intensity and ring, turned so that x points forward and y to the left.

In the files x points to the right and y forward (https://www.nuscenes.org/nuscenes#data-format).
"""

from __future__ import annotations

import numpy as np

from spvnas_ros.recordings.scans.columns import implausible
from spvnas_ros.recordings.scans.records import Record, ScanError, ScanFormat, record_dtype

_FIELDS = record_dtype([(name, "<f4", 1) for name in ("x", "y", "z", "intensity", "ring")])


def read_nuscenes(data: bytes) -> Record:
    """Reads a sweep of nuScenes' LIDAR_TOP, in a frame as other sensors have it. Raises ScanError for other numbers."""
    if len(data) % _FIELDS.itemsize:
        raise ScanError(
            f"{len(data)} bytes are no multiple of {_FIELDS.itemsize}; expected nuScenes' x, y, z, intensity, ring, "
            "float32; another .bin must not be called .pcd.bin"
        )
    record = np.frombuffer(data, _FIELDS).copy()
    if wrong := implausible(record):
        raise ScanError(
            f"its numbers cannot be nuScenes' x, y, z, intensity, ring: {wrong}; another .bin must not be called "
            ".pcd.bin"
        )
    right = record["x"].copy()
    record["x"] = record["y"]
    np.negative(right, out=record["y"])
    return record


FORMAT = ScanFormat("nuscenes", (".pcd.bin",), lambda path: read_nuscenes(path.read_bytes()))
