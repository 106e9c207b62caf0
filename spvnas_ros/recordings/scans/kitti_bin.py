"""Reads .bin: KITTI's float32 x, y, z and intensity, one point after another, without a header; or columns that are
named by the user.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from spvnas_ros.recordings.scans.columns import KITTI, implausible, likely_columns, written
from spvnas_ros.recordings.scans.records import (
    PIECE,
    Columns,
    Record,
    ScanError,
    ScanFormat,
    binary_pieces,
    record_dtype,
)

_NUSCENES_WIDTH = 5
_MOST_RINGS = 128
_FEW_POINTS = 16


def read_bin(data: bytes) -> Record:
    """Reads a scan of KITTI or SemanticKITTI: x, y, z and intensity of each point as float32.

    Raises ScanError where the size does not fit, for a scan that looks like one of nuScenes, and where the numbers
    cannot be these; it says which columns they may be.
    """
    if looks_like_nuscenes(data):
        raise ScanError(
            "it looks like a nuScenes scan, 5 values a point with the ring last; expected KITTI's 4 float32 values; "
            "call it NAME.pcd.bin, which is read and turned so that x points forward, or give --columns "
            "x,y,z,intensity,ring and, as x points to the right there, --mount yaw=-90"
        )
    dtype = _dtype(KITTI)
    likely = likely_columns(data)
    if len(data) % dtype.itemsize:
        raise ScanError(
            f"{len(data)} bytes are no multiple of {dtype.itemsize}; expected KITTI's x, y, z, intensity, float32"
            f"{_advice(likely)}"
        )
    record = np.frombuffer(data, dtype)
    wrong = implausible(record)
    if wrong or likely:
        reason = wrong or "each point is more like the next one with other columns"
        raise ScanError(f"its numbers cannot be KITTI's x, y, z, intensity, float32: {reason}{_advice(likely)}")
    return record


def read_columns(data: bytes, columns: Columns) -> Record:
    """Reads a scan of these columns. Raises ScanError where size or numbers do not fit them."""
    dtype = _dtype(columns)
    if len(data) % dtype.itemsize:
        raise ScanError(
            f"{len(data)} bytes are no multiple of {dtype.itemsize}, which a point of columns {written(columns)} takes"
        )
    record = np.frombuffer(data, dtype)
    if wrong := implausible(record):
        raise ScanError(f"its numbers cannot be the columns {written(columns)}: {wrong}; check names and types")
    return record


def looks_like_nuscenes(data: bytes) -> bool:
    """Returns whether every fifth value is a small whole number and these values vary, as a ring number does."""
    if len(data) % (4 * _NUSCENES_WIDTH) or len(data) < 4 * _NUSCENES_WIDTH * _FEW_POINTS:
        return False
    last = np.frombuffer(data, "<f4").reshape(-1, _NUSCENES_WIDTH)[:, -1]
    with np.errstate(invalid="ignore"):
        rings = bool(((last >= 0) & (last < _MOST_RINGS) & (last == np.floor(last))).all())
    return rings and bool((last != last[0]).any())


def _dtype(columns: Columns) -> np.dtype[np.void]:
    return record_dtype([(name, kind, 1) for name, kind in columns])


def _advice(likely: Columns | None) -> str:
    if likely is None:
        return "; name its columns, such as --columns x,y,z,intensity,time (x:float64,y,z for other types)"
    return f"; they look like {len(likely)} columns: name them, perhaps --columns {written(likely)}"


def _pieces(path: Path, columns: Columns | None, _: int) -> Iterator[Record]:
    """Yields a scan some points at a time. Raises ScanError as `read_bin` and `read_columns` do by the first points."""
    dtype, size = _dtype(columns or KITTI), path.stat().st_size
    with path.open("rb") as file:
        head = file.read(PIECE * dtype.itemsize)
    if columns is None:
        read_bin(head)
    else:
        read_columns(head, columns)
    if size % dtype.itemsize:
        raise ScanError(f"{size} bytes are no multiple of {dtype.itemsize}, which a point takes; get the file again")
    yield from binary_pieces(path, dtype, size // dtype.itemsize, 0)


FORMAT = ScanFormat(
    "bin",
    (".bin",),
    lambda path: read_bin(path.read_bytes()),
    read_columns=lambda path, columns: read_columns(path.read_bytes(), columns),
    count=lambda path, columns, _: path.stat().st_size // _dtype(columns or KITTI).itemsize,
    pieces=_pieces,
)
