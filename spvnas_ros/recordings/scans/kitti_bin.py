"""Reads KITTI's .bin: float32 x, y, z and intensity, one point after another, without a header."""

from __future__ import annotations

import numpy as np

from spvnas_ros.recordings.scans.records import Record, ScanError, ScanFormat, record_dtype

_KITTI = record_dtype([(name, "<f4", 1) for name in ("x", "y", "z", "intensity")])
_NUSCENES_WIDTH = 5
_MOST_RINGS = 128
_FEW_POINTS = 16


def read_bin(data: bytes) -> Record:
    """Reads a scan of KITTI or SemanticKITTI: x, y, z and intensity of each point as float32.

    Raises ScanError where the size does not fit, and for a scan that looks like one of nuScenes.
    """
    if _looks_like_nuscenes(data):
        raise ScanError(
            "it looks like a nuScenes scan, 5 values a point with the ring last; expected KITTI's 4 float32 values; "
            "save it as .npy of shape [N, 5], whose first four columns are read"
        )
    if len(data) % _KITTI.itemsize:
        raise ScanError(
            f"{len(data)} bytes are no multiple of {_KITTI.itemsize}; expected KITTI's x, y, z, intensity, float32"
        )
    return np.frombuffer(data, _KITTI)


def _looks_like_nuscenes(data: bytes) -> bool:
    """Returns whether every fifth value is a small whole number and these values vary, as a ring number does."""
    if len(data) % (4 * _NUSCENES_WIDTH) or len(data) < 4 * _NUSCENES_WIDTH * _FEW_POINTS:
        return False
    last = np.frombuffer(data, "<f4").reshape(-1, _NUSCENES_WIDTH)[:, -1]
    with np.errstate(invalid="ignore"):
        rings = bool(((last >= 0) & (last < _MOST_RINGS) & (last == np.floor(last))).all())
    return rings and bool((last != last[0]).any())


FORMAT = ScanFormat("bin", ".bin", lambda path: read_bin(path.read_bytes()))
