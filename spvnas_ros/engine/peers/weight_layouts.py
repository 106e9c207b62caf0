"""The layouts in which the libraries keep kernels and coordinates: pure permutations.

Here a kernel is `[K, Cin, Cout]`: 3x3x3 rows run x fastest, 2x2x2 rows z fastest (`kernels.grid`). torchsparse keeps
exactly that, from 1.0 to 2.1.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

SpconvLayout = Literal["KRSC", "RSKC", "RSCK"]
"""spconv's names: K output channels, R S the kernel's axes (here x, y, z), C input channels."""

TorchsparseOrder = Literal["xyzb", "bxyz"]
"""Columns of torchsparse's coordinates. "xyzb" (multiples of the stride) holds up to 2.0, and "bxyz" (divided by the
stride) from 2.1 on."""


def spatial_kernel(kernel: Tensor) -> Tensor:
    """Returns a kernel `[27 or 8, Cin, Cout]` with its rows spread over the axes: `[kx, ky, kz, Cin, Cout]`."""
    volume, *channels = kernel.shape
    if volume == 27:
        return kernel.view(3, 3, 3, *channels).permute(2, 1, 0, 3, 4)
    if volume == 8:
        return kernel.view(2, 2, 2, *channels)
    raise ValueError(f"expected a kernel of 27 or 8 rows, found {volume}")


def spconv_weight(kernel: Tensor, layout: SpconvLayout) -> Tensor:
    """Returns a kernel `[K, Cin, Cout]` as spconv's layers keep it, for coordinates in the order (batch, x, y, z)."""
    order = {"KRSC": (4, 0, 1, 2, 3), "RSKC": (0, 1, 2, 4, 3), "RSCK": (0, 1, 2, 3, 4)}[layout]
    return spatial_kernel(kernel).permute(order).contiguous()


def to_torchsparse(coords: Tensor, level: int, order: TorchsparseOrder) -> Tensor:
    """Returns voxels int `[N, 4]` (batch, x, y, z) of a level as torchsparse writes them.

    The given voxels are in units of the level's voxel.
    """
    if order == "bxyz":
        return coords.contiguous()
    scaled = coords.clone()
    scaled[:, 1:] <<= level
    return scaled[:, [1, 2, 3, 0]].contiguous()


def from_torchsparse(coords: Tensor, level: int, order: TorchsparseOrder) -> Tensor:
    """Returns voxels (batch, x, y, z) from torchsparse's coordinates: the inverse of `to_torchsparse`."""
    if order == "bxyz":
        return coords
    voxels = coords[:, [3, 0, 1, 2]]
    voxels[:, 1:] >>= level
    return voxels
