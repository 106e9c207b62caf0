"""Reads scans that are plain arrays: KITTI's .bin and numpy's .npy."""

from __future__ import annotations

from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
import numpy.typing as npt

from spvnas_ros.recordings.scans.records import Record, ScanError, record_dtype

_NAMES = ("x", "y", "z", "intensity")
_KITTI = record_dtype([(name, "<f4", 1) for name in _NAMES])
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


def read_npy(path: Path) -> Record:
    """Reads a numpy array: `[N, 3]`, `[N, 4]` or more columns (x, y, z, intensity first), or a structured array `[N]`.

    Raises ScanError for another shape or type, and for a file that is cut short.
    """
    try:
        # The file is mapped: a header that announces more than the file holds then reserves no memory.
        array = np.array(np.lib.format.open_memmap(path, mode="r"))
    except (ValueError, TypeError, OverflowError, SyntaxError, EOFError, TokenError) as error:
        raise ScanError(f"it is no whole numpy array of numbers: {error}") from error
    if array.dtype.names is not None:
        if array.ndim != 1:
            raise ScanError(f"its structured array has shape {array.shape}, expected [N]")
        return array
    if array.ndim != 2 or array.shape[1] < 3 or array.dtype.kind not in "iuf":
        raise ScanError(
            f"its array is {array.dtype} {array.shape}, expected numbers [N, 3], [N, 4] or more columns "
            "(x, y, z, intensity first), or a structured array with fields of these names"
        )
    return _columns(array)


def _columns(array: npt.NDArray[Any]) -> Record:
    names = _NAMES[: array.shape[1]]
    record = np.empty(len(array), record_dtype([(name, array.dtype.str, 1) for name in names]))
    for column, name in enumerate(names):
        record[name] = array[:, column]
    return record
