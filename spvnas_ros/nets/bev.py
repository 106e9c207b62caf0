"""The network over the bird's-eye view: blocks at falling resolution, whose features come back to the first one's.

Reference: Yan et al., "SECOND: Sparsely Embedded Convolutional Detection", Sensors 2018, section 3.1.3.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from spvnas_ros.nets.box_spec import BevBlock


class PlaneConvNorm(nn.Module):
    """A convolution over the bird's-eye view without bias, BatchNorm and ReLU."""

    def __init__(self, conv: nn.Conv2d | nn.ConvTranspose2d, eps: float, momentum: float) -> None:
        super().__init__()
        self.conv = conv
        self.norm = nn.BatchNorm2d(conv.out_channels, eps, momentum)

    def forward(self, feats: Tensor) -> Tensor:
        out: Tensor = self.norm(self.conv(feats))
        return out.relu_()


class BevStage(nn.Module):
    """A block over the bird's-eye view: `(features, what it hands to the head)`."""

    def __init__(self, in_channels: int, block: BevBlock, upsampling: int, eps: float, momentum: float) -> None:
        super().__init__()
        first = nn.Conv2d(in_channels, block.width, 3, block.stride, 1, bias=False)
        others = (nn.Conv2d(block.width, block.width, 3, 1, 1, bias=False) for _ in range(block.layers))
        self.layers = nn.ModuleList(PlaneConvNorm(conv, eps, momentum) for conv in (first, *others))
        up = nn.ConvTranspose2d(block.width, block.up, upsampling, upsampling, bias=False)
        self.up = PlaneConvNorm(up, eps, momentum)

    def forward(self, feats: Tensor) -> tuple[Tensor, Tensor]:
        for layer in self.layers:
            feats = layer(feats)
        return feats, self.up(feats)


class BevNetwork(nn.Module):
    """The network over the bird's-eye view. Every block's features come back to the first one's resolution."""

    def __init__(self, in_channels: int, blocks: Sequence[BevBlock], eps: float, momentum: float) -> None:
        super().__init__()
        widths = [in_channels, *(block.width for block in blocks)]
        self.stages, upsampling = nn.ModuleList(), 1
        for i, block in enumerate(blocks):
            upsampling *= block.stride if i else 1
            self.stages.append(BevStage(widths[i], block, upsampling, eps, momentum))

    def forward(self, feats: Tensor) -> Tensor:
        ups = []
        for stage in self.stages:
            feats, up = stage(feats)
            ups.append(up)
        return torch.cat(ups, dim=1)
