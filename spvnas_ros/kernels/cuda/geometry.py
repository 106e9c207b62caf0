"""The geometry of a scan on the device: the voxels of every level and their neighbours.

All arrays have a fixed capacity and the counts stay on the device. The host is never asked, and the same launches serve
every scan that fits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
import triton
from torch import Tensor

from spvnas_ros.kernels.cuda import geometry_kernels as kernels
from spvnas_ros.kernels.cuda.launch import Launch, run

RARE_FIRST = (2, 24, 26, 0, 8, 18, 20, 6, 5, 21, 25, 1, 3, 23, 19, 7, 22, 4, 11, 15, 9, 17, 12, 14, 16, 10, 13)
"""Kernel offsets by how seldom a voxel of an outdoor scan has that neighbour: corners first, the voxel itself last."""

_MASK_BITS = 27
"""The bits of a sort key below the number of its segment. They hold a mask of neighbours or a child slot. One sort
therefore serves all levels and both orders, and every segment stays where it is."""

_POINTS_BLOCK = 1024
_VOXELS_BLOCK = 32
_HIGHEST = 2**31 - 128
"""The largest float32 that an int32 can hold."""
_MOST = 2**31 // 27
"""The most rows of an array. With more rows, the kernels' 32-bit indices into tables of 27 entries per row would
overflow."""


@dataclass(frozen=True)
class Capacity:
    """The size of the scans that fit: points, and voxels at every level, in multiples of `UNIT`.

    Raises ValueError for more than 79 million points or voxels of a level, or 268 million voxels above the finest
    level.
    """

    points: int
    voxels: tuple[int, ...]

    UNIT = 1024

    def __post_init__(self) -> None:
        children = 8 * sum(self.voxels[1:])  # their table is indexed in 32 bits, too
        if max(self.points, *self.voxels) > _MOST or children >= 2**31:
            raise ValueError(f"found a scan that needs room for {self}, expected at most {_MOST} points and voxels")

    @classmethod
    def with_room(cls, points: int, voxels: Sequence[int], room: float = 1.25) -> Capacity:
        """Returns a capacity that is `room` times as large as a scan of so many points and voxels."""

        def rounded(number: int) -> int:
            return max(1, -(-int(number * room) // cls.UNIT)) * cls.UNIT

        return cls(rounded(points), tuple(rounded(n) for n in voxels))

    def holds(self, points: int, voxels: Sequence[int]) -> bool:
        """Returns whether a scan of so many points and voxels fits."""
        return points <= self.points and all(n <= most for n, most in zip(voxels, self.voxels, strict=True))

    def grown(self, points: int, voxels: Sequence[int]) -> Capacity:
        """Returns a capacity that is at least this one and has room for a scan of so many points and voxels."""
        other = Capacity.with_room(points, voxels)
        wider = tuple(max(pair) for pair in zip(self.voxels, other.voxels, strict=True))
        return Capacity(max(self.points, other.points), wider)


@dataclass(frozen=True)
class Gather:
    """The input row that each output row of a convolution reads, per kernel row.

    inputs: int32 `[K, capacity]`, -1 for none
    rows:   int32 `[capacity]`, the output row of each column of `inputs`; None where row and column are the same
    lists, lengths: int32 `[tiles, 32]` and `[tiles]`, the kernel rows that each tile of columns needs; None for all
    """

    inputs: Tensor
    rows: Tensor | None
    lists: Tensor | None
    lengths: Tensor | None


class Geometry:
    """The buffers of a capacity, and the launches that fill them.

    levels:    number of resolutions, as many as the capacity names
    number:    int32 `[1]`, points of the scan, written by the caller
    cells:     int32 `[points, 4]` (batch, x, y, z), written by the caller
    low:       int32 `[4]`, the lowest cell, from which the keys count, written by the caller
    counts:    int32 `[levels, 4]`, voxels found at each level (column 0); more than the capacity where they do not fit
    sizes:     int32 `[levels, 4]`, the same, but never more than the capacity
    first:     int32 `[voxels]`, first point of each finest voxel; inverse: int32 `[points]`, finest voxel of each point
    keys, starts, ancestors, tables: per level, see `geometry_kernels`
    neighbours, halvings, doublings: per level of the output, the gathers of its convolutions
    """

    def __init__(
        self,
        capacity: Capacity,
        tile_rows: tuple[int, ...],
        device: torch.device,
        counts: Tensor | None = None,
        launch: Launch = run,
    ) -> None:
        self.capacity = capacity
        self._launch = launch
        self._tile_rows = tile_rows
        voxels = capacity.voxels
        levels = self.levels = len(voxels)
        total, finest = sum(voxels), voxels[0]

        def integers(*shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        self.number = integers(4)[:1]
        self.cells = integers(capacity.points, 4)
        self.low = integers(4)
        self.counts = integers(levels, 4) if counts is None else counts
        self.sizes = integers(levels, 4)
        self.first, self.inverse = integers(finest), integers(capacity.points)
        self._capacities = torch.tensor(voxels, dtype=torch.int32, device=device)
        self._bits = torch.tensor(
            [26 - RARE_FIRST.index(k) if k < 27 else 0 for k in range(32)], dtype=torch.int32, device=device
        )
        self._point_keys = integers(capacity.points, dtype=torch.int64)
        self._flags = integers(levels * capacity.points)
        self._all_keys = integers(total, dtype=torch.int64)
        self._all_parents, self._all_starts = integers(total), integers(total)
        self._all_children = integers(8 * sum(voxels[1:]))
        self._sort_keys = integers(total + sum(voxels[:-1]))
        segments = [*voxels, *voxels[:-1]]
        self._last_keys = torch.cat(
            [torch.full((n,), (i + 1 << _MASK_BITS) - 1, dtype=torch.int32) for i, n in enumerate(segments)]
        ).to(device)
        self.keys = torch.split(self._all_keys, list(voxels))
        self.starts = torch.split(self._all_starts, list(voxels))
        self._parents = torch.split(self._all_parents, list(voxels))
        children = torch.split(self._all_children, [8 * n for n in voxels[1:]])
        self._children = [part.view(8, -1) for part in children]
        self._segments = torch.split(self._sort_keys, segments)
        self._bases = [0, *accumulate(segments)]
        self.ancestors = integers(levels, finest)
        self.tables = [integers(27, n) for n in voxels]

        def sorted_gather(volume: int, level: int) -> Gather:
            tiles = -(-voxels[level] // tile_rows[level])
            return Gather(
                integers(volume, voxels[level]), integers(voxels[level]), integers(tiles, 32), integers(tiles)
            )

        self.neighbours = [sorted_gather(27, level) for level in range(levels)]
        self.doublings = [sorted_gather(8, level) for level in range(levels - 1)]
        self.halvings = [None, *(Gather(children, None, None, None) for children in self._children)]

    def find_voxels(self) -> None:
        """Counts the voxels of every level from `cells` and `number`.

        Fills the buffers that do not depend on neighbours.
        """
        points = self.capacity.points
        grid = (triton.cdiv(points, _POINTS_BLOCK),)
        self._launch(
            kernels.encode, grid, self.cells, self.low, self.number, self._point_keys, points, BLOCK=_POINTS_BLOCK
        )
        keys, order = torch.sort(self._point_keys, stable=True)
        self._launch(
            kernels.mark_levels, grid, keys, self.number, self._flags, points, LEVELS=self.levels, BLOCK=_POINTS_BLOCK
        )
        # One running count serves all levels: the count of a level begins where that of the level before ended.
        ranks = torch.cumsum(self._flags, 0, dtype=torch.int32)
        self._all_children.fill_(-1)
        self._launch(
            kernels.build_levels, grid,
            keys, order, ranks, self.number, self._capacities, self.counts, self.sizes, self._all_keys,
            self._all_parents, self._all_starts, self._all_children, self.ancestors, self.first, self.inverse, points,
            LEVELS=self.levels, BLOCK=_POINTS_BLOCK,
        )  # fmt: skip

    def find_neighbours(self) -> None:
        """Fills the gathers. `find_voxels` must come before."""
        voxels, last = self.capacity.voxels, self.levels - 1
        self._sort_keys.copy_(self._last_keys)
        self._launch(
            kernels.search_neighbours, (triton.cdiv(voxels[last], _VOXELS_BLOCK),),
            self.keys[last], self.sizes[last], self._bits, self.tables[last], self._segments[last], voxels[last],
            voxels[last].bit_length(), LEVEL=last, SEGMENT=last, BLOCK=_VOXELS_BLOCK,
        )  # fmt: skip
        for level in reversed(range(last)):
            self._launch(
                kernels.refine_neighbours, (triton.cdiv(voxels[level], _VOXELS_BLOCK),),
                self.keys[level], self._parents[level], self.sizes[level], self._bits, self.tables[level + 1],
                self._children[level], self.tables[level], self._segments[level], self._segments[self.levels + level],
                voxels[level], voxels[level + 1], SEGMENT=level, SLOT_SEGMENT=self.levels + level, BLOCK=_VOXELS_BLOCK,
            )  # fmt: skip
        order = torch.sort(self._sort_keys, stable=True).indices
        for level in range(self.levels):
            gather, base = self.neighbours[level], self._bases[level]
            self._launch(
                kernels.tile_neighbours, (triton.cdiv(voxels[level], self._tile_rows[level]),),
                order[base:], self.sizes[level], self.tables[level], gather.rows, gather.inputs, gather.lists,
                gather.lengths, voxels[level], base, BLOCK=self._tile_rows[level],
            )  # fmt: skip
        for level in range(last):
            gather, base = self.doublings[level], self._bases[self.levels + level]
            self._launch(
                kernels.tile_parents, (triton.cdiv(voxels[level], self._tile_rows[level]),),
                order[base:], self.sizes[level], self.keys[level], self._parents[level], gather.rows, gather.inputs,
                gather.lists, gather.lengths, voxels[level], base, BLOCK=self._tile_rows[level],
            )  # fmt: skip


def cells_of_points(
    points: Tensor, number: Tensor, voxel_size: Tensor, cells: Tensor, low: Tensor, extent: Tensor
) -> None:
    """Rounds points to voxels as `sparse.coords.quantize` does, but with the count on the device.

    points: float32 `[capacity, C]`; number: int32 `[1]`; voxel_size: float32 `[]`, on the device
    cells:  int32 `[capacity, 4]`, columns 1 to 3 are written
    low:    int32 `[4]`, entries 1 to 3 are written: the lowest cell
    extent: float32 `[2]`, written: voxels spanned along the longest axis, less one, and the largest coordinate in
            voxels
    """
    # The divisor is a tensor, as in `quantize`: division by a Python number would round differently.
    scaled = torch.round(points[:, :3] / voxel_size)
    beyond = torch.arange(len(points), device=points.device)[:, None] >= number
    lowest = scaled.masked_fill(beyond, torch.inf).amin(0)
    highest = scaled.masked_fill(beyond, -torch.inf).amax(0)
    extent[0] = (highest - lowest).max()
    extent[1] = torch.maximum(lowest.abs(), highest.abs()).max()
    cells[:, 1:] = scaled.clamp(-_HIGHEST, _HIGHEST).int()
    low[1:] = lowest.clamp(-_HIGHEST, _HIGHEST).int()
