"""Reads E57 (ASTM E2807) by pye57: every scan of a file is a cloud of its own, around its scanner.

A scan's pose turns its points upright; its place is left out, for a network knows clouds around the sensor.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from spvnas_ros.recordings.scans.records import Record, ScanError, ScanFormat, missing

_CHUNK = 1 << 20
"""Points read at a time: no header makes this reserve more than the points of one."""
_CARTESIAN = ("cartesianX", "cartesianY", "cartesianZ")
_SPHERICAL = ("sphericalRange", "sphericalAzimuth", "sphericalElevation")
# Whole numbers are read as "q" (long long): pye57 takes numpy's int64, "l" on Linux, for 32 bits.
_OTHERS = {
    "cartesianInvalidState": "i1",
    "sphericalInvalidState": "i1",
    "intensity": "f4",
    "isIntensityInvalid": "i1",
    "timeStamp": "f8",
    "rowIndex": "q",
    "columnIndex": "q",
    "returnIndex": "q",
    "colorRed": "u2",
    "colorGreen": "u2",
    "colorBlue": "u2",
}
_KEPT = {
    "timeStamp": "time",
    "rowIndex": "row",
    "columnIndex": "column",
    "returnIndex": "return",
    "colorRed": "red",
    "colorGreen": "green",
    "colorBlue": "blue",
}
"""What else a point has, and what we call it."""


def scans_in(path: Path) -> int:
    """Returns how many scans a file holds. Raises ScanError for a damaged one."""
    with _opened(path) as file:
        return int(file.scan_count)


def read_e57(path: Path, part: int = 0) -> Record:
    """Reads one scan: x, y, z around the scanner, upright, in metres, NaN where nothing was measured; intensity.

    Intensities are brought to 0..1 by the limits that the file gives, where these are a scanner's: whole numbers, or
    below 0. Raises ScanError for a damaged file, and where pye57 is not installed.
    """
    pieces = list(e57_pieces(path, part))
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


def e57_pieces(path: Path, part: int = 0) -> Iterator[Record]:
    """Yields one scan some points at a time, one piece at least, as `read_e57` reads it. Raises ScanError."""
    with _opened(path) as file:
        if part >= file.scan_count:
            raise ScanError("it holds no scans")
        header = file.get_header(part)
        for columns in _columns(file, header):
            yield _record(columns, header, part)


def points_in(path: Path, part: int) -> int:
    """Returns how many points a scan announces. Raises ScanError for a damaged file."""
    with _opened(path) as file:
        return int(file.get_header(part).point_count) if part < file.scan_count else 0


def _record(columns: dict[str, npt.NDArray[Any]], header: Any, part: int) -> Record:
    named = [name for name in (_CARTESIAN, _SPHERICAL) if set(name) <= set(columns)]
    if not named:
        raise ScanError(
            f"its scan {part} has neither {', '.join(_CARTESIAN)} nor {', '.join(_SPHERICAL)}; found "
            f"{', '.join(header.point_fields)}"
        )
    positions = _cartesian(columns) if named[0] is _CARTESIAN else _from_angles(columns)
    positions[columns.get(f"{named[0][0][:-1]}InvalidState", np.zeros(len(positions))) != 0] = np.nan
    turned = positions @ _upright(header).T
    found: dict[str, npt.NDArray[Any]] = {axis: turned[:, row] for row, axis in enumerate("xyz")}
    if "intensity" in columns:
        found["intensity"] = _intensity(columns, header)
    found |= {ours: columns[name] for name, ours in _KEPT.items() if name in columns}
    record = np.empty(len(positions), [(name, values.dtype) for name, values in found.items()])
    for name, values in found.items():
        record[name] = values
    return record


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        import pye57
    except ImportError as error:
        raise missing("pye57", ".e57", "e57") from error
    with path.open("rb"):  # pye57 does not say that a file cannot be read
        pass
    try:
        with pye57.E57(str(path)) as file:
            yield file
    except (ScanError, OSError):
        raise
    except Exception as error:  # libe57's own class, and whatever pye57 meets in its place
        reason = " ".join(str(error).split())[:200]
        raise ScanError(f"it is no whole E57 file: {reason}; get the file again") from error


def _columns(file: Any, header: Any) -> Iterator[dict[str, npt.NDArray[Any]]]:
    """Reads the fields of a scan that we know, some points at a time; once at least."""
    from pye57 import libe57

    kinds = dict.fromkeys((*_CARTESIAN, *_SPHERICAL), "f8") | _OTHERS
    names = [name for name in header.point_fields if name in kinds]
    announced, there = int(header.point_count), 0
    capacity = max(1, min(announced, _CHUNK))
    buffers, pieces = libe57.VectorSourceDestBuffer(), [np.empty(capacity, kinds[name]) for name in names]
    for name, piece in zip(names, pieces, strict=True):
        buffers.append(libe57.SourceDestBuffer(file.image_file, name, piece, capacity, True, True))
    if names and announced:
        reader = header.points.reader(buffers)
        while count := reader.read():
            there += count
            yield {name: piece[:count].copy() for name, piece in zip(names, pieces, strict=True)}
    else:
        yield {name: piece[:0] for name, piece in zip(names, pieces, strict=True)}
    if names and there != announced:
        raise ScanError(f"cut short: {announced} points announced, found {there}; get the file again")


def _cartesian(columns: dict[str, npt.NDArray[Any]]) -> npt.NDArray[np.float64]:
    return np.stack([columns[name] for name in _CARTESIAN], axis=1)


def _from_angles(columns: dict[str, npt.NDArray[Any]]) -> npt.NDArray[np.float64]:
    """Turns range, azimuth and elevation into x, y, z (ASTM E2807)."""
    distance, azimuth, elevation = (columns[name] for name in _SPHERICAL)
    flat = distance * np.cos(elevation)
    return np.stack((flat * np.cos(azimuth), flat * np.sin(azimuth), distance * np.sin(elevation)), axis=1)


def _upright(header: Any) -> npt.NDArray[np.float64]:
    """Returns the rotation matrix `[3, 3]` of a scan's pose.

    The quaternion's numbers are asked for by name: their order in the file is free.
    """
    if not (header.has_pose() and header.node["pose"].isDefined("rotation")):
        return np.eye(3)
    rotation = header.node["pose"]["rotation"]
    w, x, y, z = (float(rotation[name].value()) for name in "wxyz")
    length = float(np.linalg.norm((w, x, y, z)))
    if not (np.isfinite(length) and length > 0.5):
        raise ScanError(f"the rotation of its pose is {(w, x, y, z)}, expected a quaternion of length 1")
    w, x, y, z = (value / length for value in (w, x, y, z))
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def _intensity(columns: dict[str, npt.NDArray[Any]], header: Any) -> npt.NDArray[np.float32]:
    values = columns["intensity"]
    if "isIntensityInvalid" in columns:
        values[columns["isIntensityInvalid"] != 0] = 0
    limits = _limits(header.node)
    if limits is None:
        return values
    low, high = limits
    # Others are the least and the largest value of this very scan: scans would get different scales.
    scanners = low < 0 or (low == int(low) and high == int(high))
    return np.asarray((values - low) / (high - low), np.float32) if scanners else values


def _limits(node: Any) -> Sequence[float] | None:
    if not node.isDefined("intensityLimits"):
        return None
    limits = node["intensityLimits"]
    names = ("intensityMinimum", "intensityMaximum")
    if not all(limits.isDefined(name) for name in names):
        return None
    low, high = (_value(limits[name]) for name in names)
    return (low, high) if np.isfinite((low, high)).all() and high > low else None


def _value(node: Any) -> float:
    return float(node.scaledValue() if hasattr(node, "scaledValue") else node.value())


FORMAT = ScanFormat(
    "e57",
    (".e57",),
    read_e57,
    rb"ASTM-E57",
    parts=scans_in,
    read_part=read_e57,
    count=lambda path, _, part: points_in(path, part),
    pieces=lambda path, _, part: e57_pieces(path, part),
)
