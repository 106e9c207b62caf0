"""The geometry of bounded grids on the CPU by compiled loops: the sites and maps of `sites`, to the last bit."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from spvnas_ros.kernels.cpu import bounded_grid
from spvnas_ros.kernels.cpu.first_points import mean_cells
from spvnas_ros.kernels.cpu.octree import Neighbours, build_octree
from spvnas_ros.kernels.grid import MAX_EXTENT
from spvnas_ros.sparse import sites as plain
from spvnas_ros.sparse.coords import Level
from spvnas_ros.sparse.kernel_map import KernelMap, neighbour_map
from spvnas_ros.sparse.on_cpu import site_map, team
from spvnas_ros.sparse.ops import Interpolation, PlainExchange
from spvnas_ros.sparse.sites import MeanVoxels, Sites, Triple, Window, grid_shape


def _level(keys: np.ndarray) -> Level:
    coords = torch.from_numpy(bounded_grid.coords_of(keys))
    return Level(torch.from_numpy(keys), coords, torch.zeros(4, dtype=torch.long))


def sort_sites(coords: Tensor, shape: Triple) -> tuple[Sites, Tensor]:
    """Sorts as `sites.sort_sites` does, with its errors."""
    if coords.ndim != 2 or coords.shape[1] != 4 or max(shape) > MAX_EXTENT:
        return plain.sort_sites(coords, shape)
    keys, inside = bounded_grid.keys_of(np.ascontiguousarray(coords.long().numpy()), np.array(shape))
    keys, order = bounded_grid.sort_keys(keys) if inside else (keys, keys)
    if not inside or (keys[1:] == keys[:-1]).any():
        return plain.sort_sites(coords, shape)  # which says what is wrong
    return Sites(_level(keys), shape), torch.from_numpy(order)


def spread(sites: Sites, window: Window) -> tuple[Sites, KernelMap]:
    """Finds the sites and the map of `sites.spread`; a convolution is in the map where it has pairs."""
    shape = window.shape(sites.shape)
    sizes = (np.array(each) for each in (window.kernel, window.stride, window.padding, shape))
    pairs = bounded_grid.pair_sites(sites.level.coords.numpy(), *sizes)
    grown = Sites(_level(pairs.keys), shape, *plain.placed(sites, window))
    sides = pairs.by_output, pairs.by_input
    return grown, site_map(pairs.in_rows, pairs.out_rows, pairs.sizes, sides)


def neighbours(level: Level) -> KernelMap:
    """Finds the map of `kernel_map.neighbour_map`; a convolution is in it where it has pairs."""
    if not len(level):
        return neighbour_map(level)
    _, _, (found,) = build_octree(team(), level.keys.numpy(), 0)
    in_rows, out_rows, sizes = bounded_grid.mirrored_pairs(found)
    return site_map(in_rows, out_rows, sizes, (found,))


def with_tiles(kernel_map: KernelMap) -> KernelMap:
    """Returns the map of the same pairs with a compiled convolution. Each kernel row leads to an output once at most.

    kernel_map: in main memory, with at least one pair
    """
    in_rows, out_rows, sizes = kernel_map.in_rows.numpy(), kernel_map.out_rows.numpy(), np.array(kernel_map.sizes)
    kernel_rows = np.repeat(np.arange(len(sizes), dtype=np.uint8), sizes)
    sides: Sequence[Neighbours] = (
        bounded_grid.compress(kernel_rows, in_rows, out_rows, kernel_map.num_out),
        bounded_grid.compress(kernel_rows, out_rows, in_rows, kernel_map.num_in),
    )
    return site_map(in_rows, out_rows, sizes, sides)


def site_exchange(points: Level, path: Sequence[Sites]) -> PlainExchange:
    """Finds the exchange of `sites.site_exchange`."""
    sites = path[-1]
    steps = [[b // a for a, b in zip(x.scale, y.scale, strict=True)] for x, y in pairwise(path)]
    lasts = [[n - 1 for n in coarser.shape] for coarser in path[1:]]
    ancestors, rows, weights = bounded_grid.around_points(
        points.coords.numpy(),
        sites.level.keys.numpy(),
        np.array(steps, np.int64).reshape(-1, 3),
        np.array(lasts, np.int64).reshape(-1, 3),
        np.array(sites.offset, np.float32),
        np.array(sites.scale, np.float32),
    )
    shares = torch.from_numpy(weights)
    shares /= shares.sum(dim=1, keepdim=True) + 1e-8  # by torch: the order of its sum is the machine's
    return PlainExchange(Interpolation(torch.from_numpy(rows), shares), torch.from_numpy(ancestors), len(sites))


def mean_voxels(
    points: Tensor, point_range: Sequence[float], size: Sequence[float], max_points: int, max_voxels: int
) -> MeanVoxels:
    """Finds the voxels of `sites.mean_voxels`."""
    low, edges, shape = (np.array(v, np.float32) for v in (point_range[:3], size, grid_shape(point_range, size)))
    found = mean_cells(np.ascontiguousarray(points.numpy()), low, edges, shape, max_points, max_voxels)
    return MeanVoxels(*map(torch.from_numpy, found))
