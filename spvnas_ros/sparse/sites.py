"""Sites on a bounded grid, and strided convolutions that make new ones, as spconv has them.

A strided convolution has an output at every site that any input reaches, so sites grow. Reference: Yan et al., "SECOND:
Sparsely Embedded Convolutional Detection", Sensors 2018.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, product

import torch
from torch import Tensor

from spvnas_ros.kernels.grid import MAX_BATCH, MAX_EXTENT, key_range_error
from spvnas_ros.sparse.coords import Level, encode
from spvnas_ros.sparse.kernel_map import KernelMap
from spvnas_ros.sparse.ops import PlainExchange, interpolation

Triple = tuple[int, int, int]
"""Numbers along x, y and z."""


@dataclass(frozen=True)
class Window:
    """A convolution's kernel, stride and padding, in cells along x, y and z."""

    kernel: Triple
    stride: Triple
    padding: Triple

    @property
    def volume(self) -> int:
        """The number of kernel rows. x runs fastest, as in `KERNEL_OFFSETS`."""
        return self.kernel[0] * self.kernel[1] * self.kernel[2]

    def shape(self, shape: Triple) -> Triple:
        """Returns the cells of the output grid over an input grid of `shape` cells."""
        x, y, z = (
            (n + 2 * p - k) // s + 1 for n, k, s, p in zip(shape, self.kernel, self.stride, self.padding, strict=True)
        )
        return x, y, z


@dataclass(frozen=True)
class Sites:
    """The occupied cells of a batch of bounded grids at one resolution.

    level:  the cells, sorted by key; none lies outside the grid
    shape:  cells of the grid along x, y, z
    scale:  edge of a cell in finest cells, along x, y, z
    offset: centre of cell (0, 0, 0), in finest cells from the centre of the finest cell (0, 0, 0)
    """

    level: Level
    shape: Triple
    scale: Triple = (1, 1, 1)
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def __len__(self) -> int:
        return len(self.level)


def sort_sites(coords: Tensor, shape: Triple) -> tuple[Sites, Tensor]:
    """Returns the sites of distinct cells, and the caller's row of each, int64 `[n]`.

    coords: integer `[n, 4]` (batch, x, y, z)
    shape:  cells of the grid along x, y, z

    Raises KeyRangeError for a grid of more than 2**18 cells along an axis, and ValueError for coords of another shape,
    cells outside the grid, repeated cells and batch indices outside 0..511.
    """
    if max(shape) > MAX_EXTENT:
        raise key_range_error(max(shape))
    coords = coords.long()
    if coords.ndim != 2 or coords.shape[1] != 4:
        raise ValueError(f"coords must be integers [N, 4] (batch, x, y, z), found shape {tuple(coords.shape)}")
    limits = torch.tensor([MAX_BATCH, *shape], device=coords.device)
    if bool(((coords < 0) | (coords >= limits)).any()):
        low, high = coords.amin(0).tolist(), coords.amax(0).tolist()
        raise ValueError(f"coords (batch, x, y, z) must be from 0 to below {limits.tolist()}, found {low} to {high}")
    level, order = Level.sort(coords, coords.new_zeros(4))
    if bool((level.keys[1:] == level.keys[:-1]).any()):
        raise ValueError("coords holds the same cell more than once")
    return Sites(level, shape), order


def spread(sites: Sites, window: Window) -> tuple[Sites, KernelMap]:
    """Returns the sites that a strided convolution reaches, and its kernel map.

    Output o meets input i in kernel row k where `i = o * stride - padding + k`, along every axis.
    """
    coords, device = sites.level.coords, sites.level.keys.device
    shape = window.shape(sites.shape)
    stride, limits = (torch.tensor(values, device=device) for values in (window.stride, shape))
    keys, in_rows = [], []
    for z, y, x in product(*map(range, reversed(window.kernel))):
        reach = coords[:, 1:] + torch.tensor([p - k for p, k in zip(window.padding, (x, y, z), strict=True)]).to(device)
        out = torch.div(reach, stride, rounding_mode="floor")
        rows = torch.nonzero(((out * stride == reach) & (out >= 0) & (out < limits)).all(dim=1)).squeeze(1)
        keys.append(encode(torch.cat([coords[rows, :1], out[rows]], dim=1)))
        in_rows.append(rows)
    unique, out_rows = torch.unique(torch.cat(keys), return_inverse=True)
    level = Level.from_keys(unique, torch.zeros(4, dtype=torch.long, device=device))
    sizes = tuple(len(rows) for rows in in_rows)
    grown = Sites(level, shape, *placed(sites, window))
    return grown, KernelMap(torch.cat(in_rows), out_rows, sizes, len(sites), len(level))


def placed(sites: Sites, window: Window) -> tuple[Triple, tuple[float, float, float]]:
    """Returns the scale and the offset of the sites that a window makes of others."""
    x, y, z = (a * s for a, s in zip(sites.scale, window.stride, strict=True))
    u, v, w = (
        start + a * ((k - 1) / 2 - p)
        for start, a, k, p in zip(sites.offset, sites.scale, window.kernel, window.padding, strict=True)
    )
    return (x, y, z), (u, v, w)


def site_exchange(points: Level, path: Sequence[Sites]) -> PlainExchange:
    """Returns the exchange between the finest cells, which are the points, and the last sites of a path.

    A point belongs to the cell `cell // stride` at every step, and to the last cell of an axis where that lies outside.
    Every such cell is a site. Sites that only grew have no points of their own, and their mean is zero.

    path: the sites at every resolution from the finest to those of the exchange
    """
    sites, device = path[-1], points.keys.device
    cells = points.coords[:, 1:]
    for finer, coarser in pairwise(path):
        steps = [b // a for a, b in zip(finer.scale, coarser.scale, strict=True)]
        last = torch.tensor(coarser.shape, device=device) - 1
        cells = torch.minimum(torch.div(cells, torch.tensor(steps, device=device), rounding_mode="floor"), last)
    ancestors = sites.level.find(torch.cat([points.coords[:, :1], cells], dim=1)) if len(points) else cells[:, 0]
    offset, scale = (torch.tensor(v, dtype=torch.float32, device=device) for v in (sites.offset, sites.scale))
    places = (points.coords[:, 1:].float() - offset) / scale
    where = interpolation(sites.level, 1, torch.cat([points.coords[:, :1].float(), places], dim=1))
    return PlainExchange(where, ancestors, len(sites))


@dataclass(frozen=True)
class MeanVoxels:
    """The occupied cells of a cloud, in the order of their first points.

    coords: int64 `[M, 3]`, x, y, z in cells from the range's lower corner
    feats:  float32 `[M, C]`, the mean of the points that were kept
    counts: int64 `[M]`, how many were kept
    """

    coords: Tensor
    feats: Tensor
    counts: Tensor


def grid_shape(point_range: Sequence[float], size: Sequence[float]) -> Triple:
    """Returns the cells of a range (x, y, z minimum, then maximum) along x, y, z: the quotient, rounded half up."""
    x, y, z = (int((high - low) / s + 0.5) for low, high, s in zip(point_range[:3], point_range[3:], size, strict=True))
    return x, y, z


def mean_voxels(
    points: Tensor, point_range: Sequence[float], size: Sequence[float], max_points: int, max_voxels: int
) -> MeanVoxels:
    """Returns the cells of a cloud with the mean of the first points in each, as SECOND's voxel features have it.

    points:      float32 `[N, C]`, x, y, z in metres first; those outside the range and those not finite are left out
    point_range: x, y, z minimum, then maximum, metres; a point on the upper border is outside
    size:        edges of a cell, metres
    max_points:  how many points of a cell count, in the order of the cloud
    max_voxels:  how many cells there may be; later ones are left out, earlier ones still fill
    """
    shape = torch.tensor(grid_shape(point_range, size), device=points.device)
    low, edges = (torch.tensor(list(v), dtype=torch.float32, device=points.device) for v in (point_range[:3], size))
    cells = torch.floor((points[:, :3].float() - low) / edges)
    points = points[inside := ((cells >= 0) & (cells < shape)).all(dim=1)]
    cells = cells[inside].long()
    keys = (cells[:, 2] * shape[1] + cells[:, 1]) * shape[0] + cells[:, 0]
    unique, inverse, counts = torch.unique(keys, return_inverse=True, return_counts=True)
    numbers = torch.arange(len(points), device=points.device)
    first = torch.full_like(unique, len(points)).scatter_reduce(0, inverse, numbers, "amin")
    by_first = torch.argsort(first)
    rank = torch.empty_like(by_first)
    rank[by_first] = torch.arange(len(unique), device=points.device)
    voxel, counts, first = rank[inverse], counts[by_first], first[by_first][:max_voxels]
    by_voxel = torch.argsort(voxel, stable=True)
    place = numbers - (torch.cumsum(counts, 0) - counts)[voxel[by_voxel]]
    kept = by_voxel[(place < max_points) & (voxel[by_voxel] < max_voxels)]
    total = points.new_zeros((len(first), points.shape[1])).index_add(0, voxel[kept], points[kept])
    counts = counts[:max_voxels].clamp(max=max_points)
    return MeanVoxels(cells[first], total / counts[:, None], counts)
