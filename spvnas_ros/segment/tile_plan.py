"""Cuts the ground into tiles: squares of small columns, as large as their points allow.

The ground is laid out in square columns of `COLUMN` voxels. A tile is a rectangle of columns; what is labelled with it
is the points around it, too, as far as the network sees.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

COLUMN: Final = 128
"""Voxels along the edge of a column."""

MOST_VOXELS: Final = 400_000
"""Voxels that a tile and its surroundings have at most, where columns are not denser than that by themselves."""

Columns = npt.NDArray[np.int64]
"""int64 `[B, 2]`: the places of columns, in columns from voxel 0 along x and y."""


@dataclass(frozen=True)
class Tile:
    """A rectangle of columns: from `low` to before `high`, both in columns along x and y."""

    low: tuple[int, int]
    high: tuple[int, int]

    def holds(self, columns: Columns, margin: int = 0) -> npt.NDArray[np.bool_]:
        """Returns which columns lie in it, bool `[B]`, or so many columns around it."""
        low, high = np.array(self.low) - margin, np.array(self.high) + margin
        return np.asarray(((columns >= low) & (columns < high)).all(axis=1))


def plan_tiles(
    columns: Columns, voxels: npt.NDArray[np.int64], halo: int, edge: float | None, most: int = MOST_VOXELS
) -> list[Tile]:
    """Cuts columns into tiles, each of which holds one at least.

    columns: the places of those that hold points
    voxels:  int64 `[B]`, how many voxels each holds
    halo:    voxels around a tile that are labelled with it
    edge:    columns along a tile's edge, at most; None for no limit
    most:    voxels of a tile with its surroundings; a tile of more is cut in four, down to one column
    """
    if not len(columns):
        return []
    margin = -(-halo // COLUMN)
    low, high = columns.min(axis=0), columns.max(axis=0) + 1
    limit = int((high - low).max()) if edge is None else max(1, round(edge))
    found: list[Tile] = []
    for x, y in np.unique((columns - low) // limit, axis=0) * limit + low:
        found += _cut(Tile((int(x), int(y)), (int(x) + limit, int(y) + limit)), columns, voxels, margin, most)
    return found


def _cut(tile: Tile, columns: Columns, voxels: npt.NDArray[np.int64], margin: int, most: int) -> Iterator[Tile]:
    around = tile.holds(columns, margin)
    columns, voxels = columns[around], voxels[around]
    if not tile.holds(columns).any():
        return
    (left, bottom), (right, top) = tile.low, tile.high
    if max(right - left, top - bottom) == 1 or int(voxels.sum()) <= most:
        yield tile
        return
    middle, centre = (left + right + 1) // 2, (bottom + top + 1) // 2
    for begin, end in ((left, middle), (middle, right)):
        for lower, upper in ((bottom, centre), (centre, top)):
            if begin < end and lower < upper:
                yield from _cut(Tile((begin, lower), (end, upper)), columns, voxels, margin, most)
