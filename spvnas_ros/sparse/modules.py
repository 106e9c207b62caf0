"""Layers on sparse voxels. A layer takes and returns features `[n, C]`, and takes the geometry beside them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from spvnas_ros.sparse.backend import product_for
from spvnas_ros.sparse.kernel_map import KernelMap
from spvnas_ros.sparse.norms import normalised
from spvnas_ros.sparse.ops import conv3d


class Conv3d(nn.Module):
    """A sparse convolution without bias.

    volume: number of kernel rows; 1 makes a pointwise convolution, whose kernel is `[Cin, Cout]`

    Its `narrow` is that of `conv3d`, in training mode.
    """

    narrow = False

    def __init__(self, in_channels: int, out_channels: int, volume: int, transposed: bool = False) -> None:
        super().__init__()
        shape = (in_channels, out_channels) if volume == 1 else (volume, in_channels, out_channels)
        self.kernel = nn.Parameter(torch.empty(shape))
        fan = volume * (out_channels if transposed else in_channels)
        nn.init.uniform_(self.kernel, -1 / math.sqrt(fan), 1 / math.sqrt(fan))

    def forward(self, feats: Tensor, kernel_map: KernelMap | None) -> Tensor:
        narrow = self.narrow and self.training
        if self.kernel.ndim == 2:
            return product_for(feats, self.kernel, narrow)
        if kernel_map is None:
            raise ValueError("a convolution over neighbours needs a kernel map")
        return conv3d(feats, self.kernel, kernel_map, narrow=narrow)


class Linear(nn.Linear):
    """A linear layer on every point. Its `narrow` is that of `conv3d`, in training mode."""

    narrow = False

    def forward(self, feats: Tensor) -> Tensor:
        """Returns features `[n, out_features]` of features `[n, in_features]`."""
        if not (self.narrow and self.training):
            return super().forward(feats)
        return product_for(feats, self.weight.T, narrow=True) + self.bias


def narrow_products(module: nn.Module, narrow: bool = True) -> None:
    """Lets every convolution and linear layer of this room in a module round its operands to bfloat16 in training mode.

    See `conv3d`; features with fewer than 8 channels are not rounded.
    """
    for child in module.modules():
        if isinstance(child, Conv3d | Linear):
            child.narrow = narrow


class ConvNorm(nn.Module):
    """A convolution and a BatchNorm, followed by ReLU unless `relu` is False. A residual is added before a ReLU.

    eps, momentum: of the BatchNorm
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        volume: int,
        *,
        transposed: bool = False,
        relu: bool = True,
        eps: float = 1e-5,
        momentum: float = 0.1,
    ) -> None:
        super().__init__()
        self.conv = Conv3d(in_channels, out_channels, volume, transposed)
        self.norm = nn.BatchNorm1d(out_channels, eps, momentum)
        self.relu = relu

    def forward(self, feats: Tensor, kernel_map: KernelMap | None = None, residual: Tensor | None = None) -> Tensor:
        out = self.conv(feats, kernel_map)
        return normalised(self.norm, out, relu=self.relu or residual is not None, residual=residual)
