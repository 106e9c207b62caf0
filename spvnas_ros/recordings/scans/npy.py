"""Reads numpy's .npy: columns, or a structured array with named fields."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
import numpy.typing as npt

from spvnas_ros.recordings.scans.records import PIECE, Columns, Record, ScanError, ScanFormat, record_dtype

_NAMES = ("x", "y", "z", "intensity")


def read_npy(path: Path, named: Columns | None = None) -> Record:
    """Reads a numpy array: `[N, 3]`, `[N, 4]` or more columns (x, y, z, intensity first), or a structured array `[N]`.

    named: what the columns are, of which the types say nothing here; None for x, y, z, intensity

    Raises ScanError for another shape or type, and for a file that is cut short.
    """
    return as_record(np.array(_mapped(path)), named)


def _mapped(path: Path) -> npt.NDArray[Any]:
    try:
        # The file is mapped: a header that announces more than the file holds then reserves no memory.
        return np.lib.format.open_memmap(path, mode="r")
    except (ValueError, TypeError, OverflowError, SyntaxError, EOFError, TokenError) as error:
        raise ScanError(f"it is no whole numpy array of numbers: {error}") from error


def _pieces(path: Path, named: Columns | None, _: int) -> Iterator[Record]:
    """Yields an array some points at a time. Raises ScanError as `read_npy` does."""
    count = _count(path)
    for at in range(0, max(1, count), PIECE):
        # Mapped anew each time: what was read of it before does not stay in memory.
        yield as_record(np.array(_mapped(path)[at : at + PIECE]), named)


def _count(path: Path) -> int:
    array = _mapped(path)
    return len(array) if array.ndim else 0


def as_record(array: npt.NDArray[Any], named: Columns | None = None) -> Record:
    """Returns the points of an array, as `read_npy` takes it. Raises ScanError for another shape or type."""
    if array.dtype.names is not None and named is None:
        if array.ndim != 1:
            raise ScanError(f"its structured array has shape {array.shape}, expected [N]")
        return array
    if array.ndim != 2 or array.shape[1] < 3 or array.dtype.kind not in "iuf":
        raise ScanError(
            f"its array is {array.dtype} {array.shape}, expected numbers [N, 3], [N, 4] or more columns "
            "(x, y, z, intensity first), or a structured array with fields of these names"
        )
    if named is not None and len(named) != array.shape[1]:
        raise ScanError(f"its array has {array.shape[1]} columns, --columns names {len(named)}")
    names = [name for name, _ in named] if named is not None else list(_NAMES[: array.shape[1]])
    record = np.empty(len(array), record_dtype([(name, array.dtype.str, 1) for name in names]))
    for column, name in enumerate(names):
        record[name] = array[:, column]
    return record


FORMAT = ScanFormat(
    "npy",
    (".npy",),
    read_npy,
    rb"\x93NUMPY",
    read_columns=read_npy,
    count=lambda path, *_: _count(path),
    pieces=_pieces,
)
