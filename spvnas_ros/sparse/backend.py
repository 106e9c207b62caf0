"""The choice of the kernels that a network runs on, and that find its geometry."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from importlib.util import find_spec

import torch
from torch import Tensor

from spvnas_ros.sparse.coords import Level
from spvnas_ros.sparse.kernel_map import KernelMap, Levels, build_levels, neighbour_map
from spvnas_ros.sparse.ops import PlainExchange
from spvnas_ros.sparse.sites import (
    MeanVoxels,
    Sites,
    Triple,
    Window,
    mean_voxels,
    site_exchange,
    sort_sites,
    spread,
)


def levels_for(coords: Tensor, feats: Tensor, depth: int, point_levels: Collection[int]) -> Levels:
    """Builds the geometry of a batch in plain torch, which is the definition, or with compiled kernels in its maps.

    coords:       integer `[N, 4]` (batch, x, y, z), every row once
    feats:        `[N, C]`, the features that will be convolved
    depth:        how often the resolution is halved
    point_levels: where points and voxels exchange features

    Compiled kernels are used where gradients are wanted. In a single pass they cost more to prepare than they save.
    Raises the errors of `build_levels`.
    """
    if not torch.is_grad_enabled():
        return build_levels(coords, depth)
    if coords.device.type == "cuda" and find_spec("triton"):
        from spvnas_ros.sparse import on_cuda

        return on_cuda.build_training_levels(coords, depth)
    if coords.device.type == "cpu" and feats.dtype == torch.float32:
        from spvnas_ros.sparse import on_cpu

        return on_cpu.build_training_levels(coords, depth, point_levels)
    return build_levels(coords, depth)


def map_for(kernel_map: KernelMap, feats: Tensor) -> KernelMap:
    """Returns the map with a compiled convolution over the same pairs, where there is one.

    feats: `[N, C]`, features of the type and on the device of those that will be convolved

    A detector's maps are few, and its convolutions many: their tiles pay even in a single pass.
    """
    if len(kernel_map) and _on_cpu(feats):
        from spvnas_ros.sparse import sites_on_cpu

        return sites_on_cpu.with_tiles(kernel_map)
    return kernel_map


def product_for(feats: Tensor, kernel: Tensor, narrow: bool) -> Tensor:
    """Returns `feats @ kernel`.

    feats: `[n, Cin]`; kernel: `[Cin, Cout]`; narrow: as in `conv3d`
    """
    if narrow and len(feats) and _on_cpu(feats):
        from spvnas_ros.sparse import on_cpu

        if on_cpu.fits_narrow(feats, kernel):
            return on_cpu.product(feats, kernel)
    return feats @ kernel


def sites_for(coords: Tensor, shape: Triple) -> tuple[Sites, Tensor]:
    """Returns what `sites.sort_sites` does, by compiled loops where there are some."""
    if coords.device.type == "cpu":
        from spvnas_ros.sparse import sites_on_cpu

        return sites_on_cpu.sort_sites(coords, shape)
    return sort_sites(coords, shape)


def spread_for(sites: Sites, window: Window, feats: Tensor) -> tuple[Sites, KernelMap]:
    """Returns what `sites.spread` does, with a compiled convolution in the map as in `map_for`."""
    if _on_cpu(feats):
        from spvnas_ros.sparse import sites_on_cpu

        return sites_on_cpu.spread(sites, window)
    return spread(sites, window)


def neighbours_for(level: Level, feats: Tensor) -> KernelMap:
    """Returns what `kernel_map.neighbour_map` does, with a compiled convolution in the map as in `map_for`."""
    if _on_cpu(feats):
        from spvnas_ros.sparse import sites_on_cpu

        return sites_on_cpu.neighbours(level)
    return neighbour_map(level)


def exchange_for(points: Level, path: Sequence[Sites]) -> PlainExchange:
    """Returns what `sites.site_exchange` does, by compiled loops where there are some."""
    if points.keys.device.type == "cpu":
        from spvnas_ros.sparse import sites_on_cpu

        return sites_on_cpu.site_exchange(points, path)
    return site_exchange(points, path)


def means_for(
    points: Tensor, point_range: Sequence[float], size: Sequence[float], max_points: int, max_voxels: int
) -> MeanVoxels:
    """Returns what `sites.mean_voxels` does, by compiled loops where there are some."""
    if _on_cpu(points) and not points.requires_grad:
        from spvnas_ros.sparse import sites_on_cpu

        return sites_on_cpu.mean_voxels(points, point_range, size, max_points, max_voxels)
    return mean_voxels(points, point_range, size, max_points, max_voxels)


def _on_cpu(feats: Tensor) -> bool:
    return feats.device.type == "cpu" and feats.dtype == torch.float32
