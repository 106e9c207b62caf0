"""The columns of files that do not name them: what users write, which names coordinates have, and whether numbers
can be what they are taken for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from spvnas_ros.clouds.intensity import INTENSITY_FIELDS
from spvnas_ros.errors import UserError
from spvnas_ros.recordings.scans.records import Columns, record_dtype

KITTI: Final[Columns] = tuple((name, "<f4") for name in ("x", "y", "z", "intensity"))

_TYPES: Final = {
    "float32": "<f4",
    "float64": "<f8",
    **{f"{sign}int{8 * size}": f"<{sign or 'i'}{size}" for sign in ("u", "") for size in (1, 2, 4, 8)},
}
_GUESSES: Final = (
    ("x", "y", "z"),
    ("x", "y", "z", "intensity"),
    ("x", "y", "z", "intensity", "time"),
    ("x", "y", "z", "intensity", "ring", "time"),
    ("x", "y", "z", "intensity", "ring", "time", "label"),
)
_SAMPLE = 1 << 12
_FEWEST = 64
"""Points: fewer tell nothing."""
_FAR, _NEAR = 3e7, 1e-9
"""Metres: no coordinate on earth is larger, and none that is not 0 is smaller."""
_BRIGHT = 1 << 17
_WILD = 0.02
"""Share of numbers that may be beyond all that."""
_CLEARER = 0.8
"""Times: other columns are only thought of where a point is that much more like the next one with them."""

_AXES: Final = {
    "x": re.compile(r"x|easting|points?\w*:0|points?_?0|pos(ition)?[_.]x|x_?coord(inate)?|x_lidar"),
    "y": re.compile(r"y|northing|points?\w*:1|points?_?1|pos(ition)?[_.]y|y_?coord(inate)?|y_lidar"),
    "z": re.compile(r"z|elevation|points?\w*:2|points?_?2|pos(ition)?[_.]z|z_?coord(inate)?|z_lidar"),
}
"""Names of coordinates in lower case: as they are, of surveyors, of ParaView and VeloView, of flattened messages."""
_UNIT = re.compile(r"\s*[\[(]?\s*m(et(er|re)s?)?\s*[\])]$|_m$")


def parse_columns(text: str) -> Columns:
    """Reads "x,y,z,intensity,time": names of columns, each float32. A type behind a name (`x:float64`) is that of its
    column and of those after it, up to the next one.

    Raises UserError where x, y or z is missing, a name repeats or a type is unknown.
    """
    columns, kind = [], "<f4"
    for part in text.split(","):
        name, colon, type_name = (word.strip() for word in part.partition(":"))
        if colon:
            if type_name not in _TYPES:
                raise UserError(f"columns: {type_name!r} is no type, expected one of {', '.join(_TYPES)}")
            kind = _TYPES[type_name]
        columns.append((name, kind))
    names = [name for name, _ in columns]
    if not all(names) or len(set(names)) < len(names) or not {"x", "y", "z"} <= set(names):
        raise UserError(
            f"columns must name every column once, x, y and z among them, as x,y,z,intensity,time or "
            f"x:float64,y,z,intensity:uint8; found {text!r}"
        )
    return tuple(columns)


def written(columns: Iterable[tuple[str, str]]) -> str:
    """Returns the value of --columns."""
    names = {kind: name for name, kind in _TYPES.items()}
    parts, before = [], "<f4"
    for name, kind in columns:
        parts.append(name if kind == before else f"{name}:{names[kind]}")
        before = kind
    return ",".join(parts)


def coordinate_names(names: Sequence[str]) -> dict[str, str]:
    """Returns the columns that are x, y and z, as `{"Easting": "x"}`, where plain x, y and z are not all there.

    It is {} where they are, or not all three can be found.
    """
    if {"x", "y", "z"} <= set(names):
        return {}
    found: dict[str, str] = {}
    for axis, pattern in _AXES.items():
        plain = {name: _UNIT.sub("", name.strip().lower()) for name in names}
        exact = [name for name in names if name.strip().lower() == axis]
        likely = exact or [name for name in names if pattern.fullmatch(plain[name])]
        if len(likely) != 1:
            return {}
        found[likely[0]] = axis
    return found if len(found) == 3 else {}


def renamed(record: npt.NDArray[np.void]) -> npt.NDArray[np.void]:
    """Returns the points with coordinates called x, y and z, where they can be told by other names, such as X, Y, Z."""
    names = coordinate_names(record.dtype.names or ())
    if not names:
        return record
    taken = {old: f"input_{old}" for old in record.dtype.names or () if old in names.values()}
    change = {**taken, **names}
    kinds = dict(record.dtype.fields or {})
    dtype = np.dtype(
        {
            "names": [change.get(name, name) for name in kinds],
            "formats": [kind[0] for kind in kinds.values()],
            "offsets": [kind[1] for kind in kinds.values()],
            "itemsize": record.dtype.itemsize,
        }
    )
    return record.view(dtype)


def implausible(record: npt.NDArray[np.void]) -> str:
    """Says why the points, structured `[N]` with x, y, z, and intensity perhaps, can be none; "" where they may be.

    Fewer than 64 points may be anything.
    """
    if len(record) < _FEWEST:
        return ""
    some = record[:: len(record) // _SAMPLE | 1]
    for axis in "xyz":
        values = _numbers(some[axis])
        if (wild := _wild(values)) > _WILD:
            return f"{axis} is beyond {_FAR:g} m, or no distance at all, in {wild:.0%} of the points"
    if "intensity" in (record.dtype.names or ()):
        values = _numbers(some["intensity"])
        values = values[np.isfinite(values)]
        negative = float((values < 0).mean()) if len(values) else 0.0
        # Decibels are below 0 nearly always; what is not there is 0 or -1.
        if 0.05 < negative < 0.9 and len(np.unique(values[values < 0])) > _FEWEST:
            return f"the intensity is below 0 in {negative:.0%} of the points"
        if len(values) and (bright := float((np.abs(values) > _BRIGHT).mean())) > _WILD:
            return f"the intensity is beyond {_BRIGHT} in {bright:.0%} of the points"
    return ""


def likely_columns(data: bytes, taken: Columns = KITTI) -> Columns | None:
    """Returns what the columns of headerless numbers may be, where that is clearly likelier than `taken`; else None."""
    wild = bool(implausible(_as(data, taken)))
    likeness = 1.0 if wild else _likeness(data, len(taken), "<f4") * _CLEARER
    best = None
    for names in _GUESSES:
        # Of points that are as they should be, every second one is as like as every one.
        for kind in ("<f4", "<f8") if wild else ("<f4",) if len(names) % len(taken) else ():
            columns: Columns = tuple((name, kind) for name in names)
            if len(data) % (np.dtype(kind).itemsize * len(names)) or columns == taken:
                continue
            here = _likeness(data, len(names), kind)
            if here < likeness and not implausible(_as(data, columns)):
                best, likeness = columns, here * _CLEARER
    return best


def _as(data: bytes, columns: Columns) -> npt.NDArray[np.void]:
    dtype = record_dtype([(name, kind, 1) for name, kind in columns])
    return np.frombuffer(data, dtype, len(data) // dtype.itemsize)


def _likeness(data: bytes, width: int, kind: str) -> float:
    """Returns how far a number is from the one `width` further on, as a share of how far it is from any other one."""
    numbers = np.frombuffer(data, kind, len(data) // np.dtype(kind).itemsize)
    numbers = numbers[max(0, len(numbers) // 2 - _SAMPLE) :][: 2 * _SAMPLE]
    values = np.nan_to_num(_numbers(numbers), posinf=_FAR, neginf=-_FAR)
    flat = np.sign(values) * np.log1p(np.minimum(np.abs(values), _FAR))
    if len(flat) < _FEWEST * width:
        return 1.0
    any_other = np.abs(flat - np.random.default_rng(0).permutation(flat)).mean()
    return float(np.abs(flat[width:] - flat[:-width]).mean() / any_other) if any_other > 0 else 1.0


def _numbers(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    with np.errstate(invalid="ignore"):
        return values.astype(np.float64)


def _wild(values: npt.NDArray[np.float64]) -> float:
    size = np.abs(values[np.isfinite(values)])
    return float(((size > _FAR) | ((size > 0) & (size < _NEAR))).mean()) if len(size) else 0.0


def is_intensity(name: str) -> bool:
    """Returns whether a column's name is that of an intensity."""
    return name.strip().lower().removeprefix("scalar_") in INTENSITY_FIELDS
