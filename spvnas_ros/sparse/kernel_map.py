"""Kernel maps: which input voxel meets which output voxel, per kernel offset.

They are the geometry of a scan, which is computed once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from spvnas_ros.kernels.grid import AXIS_BITS, CENTRE, KERNEL_OFFSETS, MAX_BATCH, MAX_EXTENT, key_range_error
from spvnas_ros.sparse.coords import Level


class Convolver(Protocol):
    """A differentiable convolution over the pairs of one kernel map, faster than plain torch operations."""

    def fits(self, feats: Tensor, kernel: Tensor) -> bool:
        """Returns whether it can take these features and this kernel."""
        ...

    def __call__(self, feats: Tensor, kernel: Tensor, narrow: bool = False) -> Tensor:
        """Convolves as `sparse.conv3d` does."""
        ...

    def transposed(self) -> Convolver:
        """Returns the convolver of the same pairs with input and output exchanged."""
        ...


class Exchange(Protocol):
    """A differentiable exchange of features between the finest voxels and the voxels of one level.

    The finest voxels are the points.
    """

    def fits(self, feats: Tensor) -> bool:
        """Returns whether it can take these features."""
        ...

    def to_points(self, voxels: Tensor) -> Tensor:
        """Interpolates the voxels' features `[n_l, C]` trilinearly at the points, `[n_0, C]`."""
        ...

    def to_voxels(self, points: Tensor) -> Tensor:
        """Returns `[n_l, C]`, the mean of the features `[n_0, C]` of every voxel's points."""
        ...


@dataclass(frozen=True)
class KernelMap:
    """Pairs of rows, grouped by kernel row.

    in_rows, out_rows: int64 `[P]`; pair p adds `feats[in_rows[p]] @ kernel[k]` to `out[out_rows[p]]`
    sizes:             pairs of each kernel row k
    num_in, num_out:   rows of the input and of the output
    convolver:         a faster convolution over the same pairs, where there is one
    """

    in_rows: Tensor
    out_rows: Tensor
    sizes: tuple[int, ...]
    num_in: int
    num_out: int
    convolver: Convolver | None = None

    def __len__(self) -> int:
        return len(self.in_rows)

    def pairs(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Yields `(k, in_rows, out_rows)` for every kernel row that has pairs."""
        groups = zip(*(torch.split(rows, list(self.sizes)) for rows in (self.in_rows, self.out_rows)), strict=True)
        for k, (in_rows, out_rows) in enumerate(groups):
            if len(in_rows):
                yield k, in_rows, out_rows

    def transposed(self) -> KernelMap:
        """Returns the map of the same pairs with input and output exchanged. The kernel is not flipped."""
        convolver = None if self.convolver is None else self.convolver.transposed()
        return KernelMap(self.out_rows, self.in_rows, self.sizes, self.num_out, self.num_in, convolver)


@dataclass(frozen=True)
class Levels:
    """A batch of scans at every resolution of a network.

    levels[l]:     the voxels at stride `2**l`
    parents[l]:    int64 `[n_l]`, row at level l + 1 of each voxel of level l
    neighbours[l]: kernel map of a 3x3x3 convolution on level l
    halvings[l]:   kernel map of the 2x2x2 convolution with stride 2 from level l to l + 1
    order:         int64 `[n_0]`, the caller's row of each voxel of level 0
    exchanges:     faster exchanges between points and voxels, by level, where there are any
    """

    levels: tuple[Level, ...]
    parents: tuple[Tensor, ...]
    neighbours: tuple[KernelMap, ...]
    halvings: tuple[KernelMap, ...]
    order: Tensor
    exchanges: Mapping[int, Exchange] = field(default_factory=dict)

    def ancestors(self, level: int) -> Tensor:
        """Returns the row at `level` of every voxel of level 0, int64 `[n_0]`."""
        rows = torch.arange(len(self.levels[0]), device=self.order.device)
        for parent in self.parents[:level]:
            rows = parent[rows]
        return rows


def build_levels(coords: Tensor, depth: int = 4) -> Levels:
    """Builds the geometry of a batch of scans.

    coords: integer `[N, 4]` (batch, x, y, z), every row once; negative coordinates are allowed
    depth:  how often the resolution is halved

    Raises KeyRangeError for scans that span 2**18 voxels or more. Raises ValueError for coords of another shape, for
    repeated rows and for batch indices outside 0..511.
    """
    coords = coords.long()
    if coords.ndim != 2 or coords.shape[1] != 4:
        raise ValueError(f"coords must be integers [N, 4] (batch, x, y, z), found shape {tuple(coords.shape)}")
    origin = _origin(coords, depth)
    _check_range(coords - origin)
    finest, order = Level.sort(coords, origin)
    if bool((finest.keys[1:] == finest.keys[:-1]).any()):
        raise ValueError("coords holds the same voxel more than once; quantize the points first")
    levels = [finest]
    parents, halvings = [], []
    for _ in range(depth):
        fine = levels[-1]
        unique, parent = torch.unique_consecutive(parent_keys(fine.keys), return_inverse=True)
        levels.append(Level.from_keys(unique, fine.origin >> 1))
        parents.append(parent)
        halvings.append(_halving_map(fine, parent, len(unique)))
    return Levels(tuple(levels), tuple(parents), tuple(neighbour_map(lv) for lv in levels), tuple(halvings), order)


def _origin(coords: Tensor, depth: int) -> Tensor:
    """Returns the corner to count from. It is aligned to the coarsest voxel, so that cells stay where they are."""
    if len(coords) == 0:
        return coords.new_zeros(4)
    low = coords.amin(0)
    low = torch.div(low, 1 << depth, rounding_mode="floor") << depth
    low[0] = 0
    return low


def parent_keys(keys: Tensor) -> Tensor:
    """Returns the keys one level up.

    The batch index sits above the 18-bit axes and stays where it is.
    """
    spatial = (1 << 3 * AXIS_BITS) - 1
    return (keys & ~spatial) | ((keys & spatial) >> 3)


def _check_range(coords: Tensor) -> None:
    if len(coords) == 0:
        return
    extent = int(coords[:, 1:].max()) + 1
    if extent > MAX_EXTENT:
        raise key_range_error(extent)
    batches = int(coords[:, 0].min()), int(coords[:, 0].max())
    if batches[0] < 0 or batches[1] >= MAX_BATCH:
        raise ValueError(f"batch indices must be in 0..{MAX_BATCH - 1}, found {batches[0]}..{batches[1]}")


def neighbour_map(level: Level) -> KernelMap:
    """Returns the kernel map of a 3x3x3 convolution whose outputs are its inputs' voxels (submanifold)."""
    rows = torch.arange(len(level), device=level.keys.device)
    half: list[tuple[Tensor, Tensor]] = []
    for offset in KERNEL_OFFSETS[:CENTRE]:
        shift = torch.tensor([0, *offset], device=rows.device)
        found = level.find(level.coords + shift) if len(level) else rows
        out_rows = torch.nonzero(found >= 0).squeeze(1)
        half.append((found[out_rows], out_rows))
    # A pair at offset d is a pair at -d with the roles exchanged: row 26 - k mirrors row k.
    pairs = [*half, (rows, rows), *((out_rows, in_rows) for in_rows, out_rows in reversed(half))]
    sizes = tuple(len(in_rows) for in_rows, _ in pairs)
    in_rows, out_rows = (torch.cat(part) for part in zip(*pairs, strict=True))
    return KernelMap(in_rows, out_rows, sizes, len(level), len(level))


def _halving_map(fine: Level, parent: Tensor, num_coarse: int) -> KernelMap:
    slots = fine.keys & 7
    in_rows = torch.argsort(slots, stable=True)
    sizes = tuple(torch.bincount(slots, minlength=8).tolist())
    return KernelMap(in_rows, parent[in_rows], sizes, len(fine), num_coarse)
