"""How much boxes cover each other, seen from above and in space; and which of many boxes stay.

Boxes are rows x, y, z, length, width, height, yaw, as in `spvnas_ros.frame.Boxes`, of any float type; all is computed
in double precision. Boxes of no area cover nothing, themselves neither. Every function raises BoxError for boxes that
are none.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from spvnas_ros.errors import UserError

_Numbers = npt.NDArray[np.floating[Any]]
_Doubles = npt.NDArray[np.float64]
_Indices = npt.NDArray[np.int64]

COLUMNS: Final = ("x", "y", "z", "length", "width", "height", "yaw")
"""What the columns of a box are."""
LARGEST: Final = 1e9
"""What a number of a box may be, in metres or radians: its volume is a number then, too."""
_SIZES = slice(3, 6)


class BoxError(UserError):
    """Boxes that are none: not seven numbers, not finite, or with a negative size."""


def checked(boxes: npt.ArrayLike, name: str = "boxes") -> _Doubles:
    """Returns boxes as float64 `[N, 7]`. Raises BoxError that names the first box that is none, and what it has."""
    array = np.asarray(boxes, np.float64)
    if array.ndim != 2 or array.shape[1] != len(COLUMNS):
        raise BoxError(f"{name} has the shape {array.shape}, expected [N, 7]: {', '.join(COLUMNS)}")
    wrong = ~(np.abs(array) <= LARGEST)
    wrong[:, _SIZES] |= array[:, _SIZES] < 0
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        negative = column in range(3, 6) and array[row, column] < 0
        expected = "a size of 0 or more" if negative else f"a finite number, {LARGEST:g} at most"
        raise BoxError(f"box {row} of {name} has the {COLUMNS[column]} {array[row, column]:g}, expected {expected}")
    return np.ascontiguousarray(array)


def bev_overlap(a: _Numbers, b: _Numbers, *, over_first: bool = False) -> _Doubles:
    """Returns the intersection over union of boxes seen from above, float64 `[N, M]`, 0..1.

    a: `[N, 7]`; b: `[M, 7]`
    over_first: divide by the area of `a` instead of the union
    """
    a, b = checked(a, "a"), checked(b, "b")
    return _ratio(_shared(a, b, solid=False), _area(a), _area(b), over_first)


def overlap_3d(a: _Numbers, b: _Numbers, *, over_first: bool = False) -> _Doubles:
    """Returns the intersection over union of boxes in space, float64 `[N, M]`, 0..1.

    a: `[N, 7]`; b: `[M, 7]`
    over_first: divide by the volume of `a` instead of the union
    """
    a, b = checked(a, "a"), checked(b, "b")
    return _ratio(_shared(a, b, solid=True), _volume(a), _volume(b), over_first)


def nms(
    boxes: _Numbers,
    scores: _Numbers,
    threshold: float,
    rotated: bool = True,
    *,
    classes: npt.NDArray[np.integer[Any]] | None = None,
) -> _Indices:
    """Returns the indices of the boxes that stay, int64, the best score first; of equal scores the first box.

    A box goes when its overlap with a better one that stays, seen from above, is larger than `threshold`.

    boxes: `[N, 7]`; scores: `[N]`
    rotated: turned boxes as they are; False turns each to the nearer axis first (`nearest_upright`)
    classes: integers `[N]`; boxes of different ones, or frames numbered likewise, do not see each other. None: all do

    Raises BoxError for boxes that are none, and where scores or classes are not as many or a score is NaN.
    """
    boxes = checked(boxes)
    scores = np.asarray(scores, np.float64)
    groups = np.zeros(len(boxes), np.int64) if classes is None else np.asarray(classes, np.int64)
    if scores.shape != (len(boxes),) or groups.shape != (len(boxes),):
        raise BoxError(f"{len(boxes)} boxes have scores {scores.shape} and classes {groups.shape}, expected one each")
    if np.isnan(scores).any():
        raise BoxError(f"box {int(np.flatnonzero(np.isnan(scores))[0])} has the score nan, expected a number")
    from spvnas_ros.kernels.cpu.rectangles import suppress

    order = np.argsort(-scores, kind="stable")
    sorted_boxes = (boxes if rotated else nearest_upright(boxes))[order]
    kept = np.empty(len(boxes), np.int64)
    count = suppress(np.ascontiguousarray(sorted_boxes), groups[order], float(threshold), kept)
    return order[kept[:count]].astype(np.int64)


def nearest_upright(boxes: _Numbers) -> _Doubles:
    """Returns boxes float64 `[N, 7]` turned to the nearer axis: those within 45 degrees of x keep length and width, the
    others have them swapped; yaw is 0. Training and mmdetection3d's suppression compare boxes like this.
    """
    upright = checked(boxes).copy()
    yaw = upright[:, 6]
    across = np.abs(yaw - np.floor(yaw / np.pi + 0.5) * np.pi) >= np.pi / 4
    upright[across, 3:5] = upright[across, 4:2:-1]
    upright[:, 6] = 0
    return upright


def _shared(a: _Doubles, b: _Doubles, *, solid: bool) -> _Doubles:
    # Compiled loops are loaded when they are first needed.
    from spvnas_ros.kernels.cpu.rectangles import shared_areas

    shared = np.zeros((len(a), len(b)))
    shared_areas(a, b, int(solid), shared)
    return shared


def _ratio(shared: _Doubles, first: _Doubles, second: _Doubles, over_first: bool) -> _Doubles:
    whole = np.broadcast_to(first[:, None], shared.shape) if over_first else first[:, None] + second[None] - shared
    return np.divide(shared, whole, out=np.zeros_like(shared), where=whole > 0)


def _area(boxes: _Doubles) -> _Doubles:
    area: _Doubles = boxes[:, 3] * boxes[:, 4]
    return area


def _volume(boxes: _Doubles) -> _Doubles:
    # In this order the volume that a box shares with itself is the same to the last bit.
    volume: _Doubles = boxes[:, 5] * (boxes[:, 3] * boxes[:, 4])
    return volume
