"""Reads numpy's .npz: one array of points, or an array for each field."""

from __future__ import annotations

import zipfile
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
import numpy.typing as npt

from spvnas_ros.recordings.scans.npy import as_record
from spvnas_ros.recordings.scans.records import Record, ScanError, ScanFormat

_MOST_PACKED = 1100
"""Bytes out of each byte of a zip file: deflate packs no better."""


def read_npz(path: Path) -> Record:
    """Reads arrays x, y, z and others `[N]`, or one array of points as `read_npy` takes it and others `[N]` beside it.

    Raises ScanError where there is neither, and for a damaged file.
    """
    arrays = _arrays(path)
    axes = [name for axis in "xyz" for name in arrays if name.lower() == axis]
    if len(axes) == 3:
        length = len(np.atleast_1d(arrays[axes[0]]))
        fields = {
            name: array for name, array in arrays.items() if array.shape == (length,) and array.dtype.kind in "iuf"
        }
        return _joined(fields, length)
    points = [
        name
        for name, array in arrays.items()
        if (array.ndim == 2 and array.shape[1] >= 3 and array.dtype.kind in "iuf")
        or (array.ndim == 1 and array.dtype.names)
    ]
    if len(points) != 1:
        shapes = ", ".join(f"{name} {array.dtype} {array.shape}" for name, array in list(arrays.items())[:8])
        raise ScanError(
            "expected arrays x, y and z, or one array of points [N, 3] or more columns; found "
            f"{'several: ' if points else ''}{shapes or 'no arrays'}"
        )
    record = as_record(arrays.pop(points[0]))
    names = record.dtype.names or ()
    beside = {
        name: array
        for name, array in arrays.items()
        if array.shape == (len(record),) and array.dtype.kind in "iuf" and name not in names
    }
    return _joined({name: record[name] for name in names} | beside, len(record)) if beside else record


def _arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    try:
        with zipfile.ZipFile(path) as packed:
            size = path.stat().st_size
            if (announced := sum(entry.file_size for entry in packed.infolist())) > _MOST_PACKED * size:
                raise ScanError(f"it announces {announced} bytes out of {size}, more than can be")
            for entry in packed.infolist():
                _check_header(packed, entry)
        with np.load(path, allow_pickle=False) as arrays:
            # Numpy gives bytes for what is no array.
            return {name: array for name in arrays.files if isinstance(array := arrays[name], np.ndarray)}
    except (ValueError, TypeError, KeyError, OverflowError, SyntaxError, EOFError, TokenError, MemoryError) as error:
        raise ScanError(f"it is no whole set of numpy arrays: {' '.join(str(error).split())[:200]}") from error
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, zipfile.zlib.error) as error:  # type: ignore[attr-defined]
        raise ScanError(f"it is no whole zip file of numpy arrays: {str(error)[:80]}; get the file again") from error


def _check_header(packed: zipfile.ZipFile, entry: zipfile.ZipInfo) -> None:
    """Raises ScanError where an array announces more than its entry holds, for numpy reserves what is announced."""
    with packed.open(entry) as file:
        if file.read(6) != np.lib.format.MAGIC_PREFIX:
            return
        version = tuple(file.read(2))
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
        if int(np.prod(shape, dtype=object)) * dtype.itemsize > entry.file_size:
            raise ScanError(f"cut short: {entry.filename} announces {shape} of {dtype} in {entry.file_size} bytes")


def _joined(fields: dict[str, npt.NDArray[Any]], length: int) -> Record:
    record = np.empty(length, [(name, array.dtype, array.shape[1:]) for name, array in fields.items()])
    for name, array in fields.items():
        record[name] = array
    return record


FORMAT = ScanFormat("npz", (".npz",), read_npz, rb"PK\x03\x04")
