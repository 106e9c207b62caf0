"""Finds the scans of Argoverse 2's sensor set, and reads them: `sensor/val/LOG/sensors/lidar/TIMESTAMP.feather`.

Layout: Wilson et al., "Argoverse 2: Next Generation Datasets for Self-Driving Perception and Forecasting", NeurIPS 2021
(datasets and benchmarks). Both LiDARs' points are in the vehicle's frame: x forward, y left, z up, from the rear axle.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from spvnas_ros.recordings.scans.layouts.recording_layout import Layout, recordings_in
from spvnas_ros.recordings.scans.records import Record, ScanError

_SCANS = "sensors/lidar"
_SUFFIX = ".feather"
_COLUMNS = {"x": "f4", "y": "f4", "z": "f4", "intensity": "u1", "laser_number": "u1", "offset_ns": "i4"}
"""Columns and what they become. x, y and z are float16 in the files."""
_NEEDED = ("x", "y", "z", "intensity")


def find(path: Path) -> Layout | None:
    """Returns the scans of a log, or of a folder of logs, such as the set's root or one of its splits.

    Frames have the time of the scan, nanoseconds, as name; those of several logs "LOG/TIME". Raises ScanError where a
    log has no scans.
    """
    if (path / _SCANS).is_dir():
        return Layout("Argoverse 2", "folder", tuple((file.stem, file) for file in _scans_of(path)), read_lidar, "u8")
    logs = recordings_in(path, _SCANS)
    files = tuple((f"{name}/{file.stem}", file) for name, log in logs.items() for file in _scans_of(log))
    return Layout("Argoverse 2", "dataset", files, read_lidar, "u8") if logs else None


def read_lidar(path: Path) -> Record:
    """Reads a scan as structured `[N]`: x, y, z in metres, intensity 0..255, and laser_number and offset_ns where it
    has them.

    Raises ScanError where pyarrow is missing, and where the file cannot be read or is no such table.
    """
    try:
        import pyarrow as pa
        from pyarrow import feather
    except ImportError as error:
        raise ScanError(f"{path}: Feather files are read by pyarrow; pip install 'spvnas_ros[tables]'") from error
    try:
        with path.open("rb") as file:
            if file.read(4) == b"FEA1":
                # pyarrow ends the process on damaged files of this version.
                raise ScanError(f"{path} is of Feather's version 1; Argoverse 2's files are of version 2")
        with pa.memory_map(str(path)) as source:
            table = feather.read_table(source, memory_map=False)
            for column in table.columns:
                column.validate(full=True)
    except (pa.ArrowException, ValueError, KeyError, TypeError, OverflowError, MemoryError) as error:
        if isinstance(error, ScanError):
            raise
        raise ScanError(f"{path} is no whole Feather file: {' '.join(str(error).split())[:200]}") from error
    except OSError as error:
        raise ScanError(f"{path}: cannot be read: {error.strerror or ' '.join(str(error).split())[:200]}") from error
    names = table.column_names
    if lacking := [name for name in _NEEDED if names.count(name) != 1]:
        raise ScanError(
            f"{path} has no column {lacking[0]!r} (or several); expected Argoverse 2's {', '.join(_COLUMNS)}, found "
            f"{', '.join(names)[:200] or 'none'}"
        )
    record = np.empty(table.num_rows, [(name, kind) for name, kind in _COLUMNS.items() if names.count(name) == 1])
    for name in record.dtype.names or ():
        record[name] = _numbers(path, name, table.column(name).to_numpy())
    return record


def _numbers(path: Path, name: str, values: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """Returns a column's values. Raises ScanError where its type could not hold them."""
    whole = np.dtype(_COLUMNS[name]).kind in "iu"
    if values.dtype.kind not in ("iu" if whole else "iuf"):
        raise ScanError(f"{path}: its column {name!r} holds {values.dtype}, expected numbers as Argoverse 2 has them")
    if whole and len(values):
        limits = np.iinfo(_COLUMNS[name])
        lowest, highest = int(np.min(values)), int(np.max(values))
        if lowest < limits.min or highest > limits.max:
            raise ScanError(
                f"{path}: its column {name!r} goes from {lowest} to {highest}, expected {limits.min} to {limits.max}"
            )
    return values


def _scans_of(log: Path) -> list[Path]:
    files = [file for file in (log / _SCANS).iterdir() if file.suffix == _SUFFIX and not file.name.startswith(".")]
    if not files:
        raise ScanError(f"{log / _SCANS} holds no scans, expected Argoverse 2's TIMESTAMP{_SUFFIX}")
    # By length first, so that 2 comes before 10.
    return sorted(files, key=lambda file: (len(file.stem), file.stem))
