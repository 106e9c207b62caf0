"""Voxels as tensors: sparse convolution and point-voxel exchange, differentiable, on any device torch has.

`nets` builds the networks on it, and `engine`, `zoo`, `bench` and `offline` take voxels and kernel maps from it.
"""

from spvnas_ros.kernels.grid import KeyRangeError
from spvnas_ros.sparse.coords import Level, Voxels, quantize
from spvnas_ros.sparse.kernel_map import KernelMap, Levels, build_levels
from spvnas_ros.sparse.ops import Interpolation, conv3d, devoxelize, interpolation, voxelize

__all__ = [
    "Interpolation",
    "KernelMap",
    "KeyRangeError",
    "Level",
    "Levels",
    "Voxels",
    "build_levels",
    "conv3d",
    "devoxelize",
    "interpolation",
    "quantize",
    "voxelize",
]
