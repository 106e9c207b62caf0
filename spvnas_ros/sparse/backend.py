"""The choice of the kernels that a network in training runs on."""

from __future__ import annotations

from collections.abc import Collection
from importlib.util import find_spec

import torch
from torch import Tensor

from spvnas_ros.sparse.kernel_map import KernelMap, Levels, build_levels


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

    A detector's maps are few, and its convolutions many: their tiles pay even in a single pass (KITTI, full width:
    0.05 s to prepare, 0.3 s saved).
    """
    if feats.device.type == "cpu" and feats.dtype == torch.float32 and len(kernel_map):
        from spvnas_ros.sparse import on_cpu

        return on_cpu.with_tiles(kernel_map)
    return kernel_map
