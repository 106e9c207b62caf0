"""Which points of a cloud lie in which boxes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from spvnas_ros.boxes.overlap import checked

_Rows = npt.NDArray[np.int64]


def rows_inside(points: npt.NDArray[np.floating[Any]], boxes: npt.NDArray[np.floating[Any]]) -> list[_Rows]:
    """Returns the rows, int64, of the points in each box; a point on a face lies in the box, and may lie in several.

    points: `[N, 3 or more]`: x, y, z first; boxes: `[B, 7]`

    Raises BoxError for boxes that are none.
    """
    rows = checked(boxes)
    # Most points are far from any box, and two coordinates tell, which are compared fastest where they lie together.
    columns = [np.ascontiguousarray(points[:, axis]) for axis in (0, 1)] if len(rows) else []
    return [_rows(points, columns, box) for box in rows]


def counts_inside(points: npt.NDArray[np.floating[Any]], boxes: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.int64]:
    """Returns how many points lie in each box, int64 `[B]`. Raises BoxError for boxes that are none."""
    return np.array([len(rows) for rows in rows_inside(points, boxes)], np.int64)


def _rows(
    points: npt.NDArray[np.floating[Any]], columns: list[npt.NDArray[np.floating[Any]]], box: npt.NDArray[np.float64]
) -> _Rows:
    reach = np.hypot(box[3], box[4]) / 2 + 1e-3
    around = np.ones(len(points), np.bool_)
    for column, middle in zip(columns, box[:2], strict=True):
        around &= (column >= _beyond(middle - reach, column.dtype, -np.inf)) & (
            column <= _beyond(middle + reach, column.dtype, np.inf)
        )
    near = np.flatnonzero(around)
    offset = points[near, :3].astype(np.float64) - box[:3]
    cos, sin = np.cos(box[6]), np.sin(box[6])
    along, across = offset[:, 0] * cos + offset[:, 1] * sin, offset[:, 1] * cos - offset[:, 0] * sin
    inside = (np.abs(along) <= box[3] / 2) & (np.abs(across) <= box[4] / 2) & (np.abs(offset[:, 2]) <= box[5] / 2)
    found: _Rows = near[inside]
    return found


def _beyond(limit: float, kind: np.dtype[Any], where: float) -> np.floating[Any]:
    """Returns a limit in the points' own type, in which they are compared, rounded outwards."""
    rounded: np.floating[Any] = np.nextafter(kind.type(limit), kind.type(where))
    return rounded
