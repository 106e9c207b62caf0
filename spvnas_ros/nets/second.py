"""SECOND and SPV-SECOND: detectors of some `DetectorSpec`.

Voxels go through a sparse encoder whose sites grow, are laid out in the bird's-eye view, and go through a network of
two resolutions to an anchor head. References: Yan et al., "SECOND: Sparsely Embedded Convolutional Detection", Sensors
2018, in the form that OpenPCDet and mmdetection3d give it. The point branch is that of Tang et al., ECCV 2020, who
replace SECOND's sparse convolutions by SPVConv and never published the code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from spvnas_ros.nets.bev import BevNetwork
from spvnas_ros.nets.detector_spec import STEPS, DetectorSpec
from spvnas_ros.nets.heads import BoxHead, HeadOutput
from spvnas_ros.sparse.backend import exchange_for, means_for, neighbours_for, sites_for, spread_for
from spvnas_ros.sparse.kernel_map import KernelMap
from spvnas_ros.sparse.modules import ConvNorm, Linear
from spvnas_ros.sparse.norms import normalised
from spvnas_ros.sparse.ops import PlainExchange
from spvnas_ros.sparse.sites import Sites


@dataclass(frozen=True)
class EncoderSites:
    """The geometry of a batch for the sparse encoder.

    sites:      of the four stages and of the output
    neighbours: kernel maps of the submanifold convolutions of the four stages
    steps:      kernel maps of the strided convolutions into stages 1, 2, 3 and the output
    exchanges:  between the points, which are the finest voxels, and the sites of each stage and of the output; empty
                without a point branch
    order:      int64 `[n]`, the caller's row of each finest voxel
    """

    sites: tuple[Sites, ...]
    neighbours: tuple[KernelMap, ...]
    steps: tuple[KernelMap, ...]
    exchanges: tuple[PlainExchange, ...]
    order: Tensor


def encoder_sites(spec: DetectorSpec, coords: Tensor, feats: Tensor) -> EncoderSites:
    """Builds the geometry of a batch.

    coords: integer `[N, 4]` (batch, x, y, z) in voxels from the range's lower corner, every row once
    feats:  `[N, C]`, the features that will be convolved

    Raises the errors of `sites.sort_sites`.
    """
    finest, order = sites_for(coords, spec.shapes()[0])
    sites, steps = [finest], []
    for window in STEPS:
        grown, step = spread_for(sites[-1], window, feats)
        sites.append(grown)
        steps.append(step)
    neighbours = tuple(neighbours_for(each.level, feats) for each in sites[:-1])
    exchanges: tuple[PlainExchange, ...] = ()
    if spec.point_branch:
        exchanges = tuple(exchange_for(finest.level, sites[: i + 1]) for i in range(len(sites)))
    return EncoderSites(tuple(sites), neighbours, tuple(steps), exchanges, order)


class SparseStage(nn.Module):
    """Convolutions of one stage: the first changes the resolution, except in stage 0, and the others keep the sites."""

    def __init__(self, in_channels: int, widths: Sequence[int], spec: DetectorSpec) -> None:
        super().__init__()
        pairs = zip([in_channels, *widths], widths, strict=False)
        self.layers = nn.ModuleList(ConvNorm(a, b, 27, eps=spec.eps, momentum=spec.momentum) for a, b in pairs)

    def forward(self, feats: Tensor, step: KernelMap, neighbours: KernelMap) -> Tensor:
        for i, layer in enumerate(self.layers):
            feats = layer(feats, neighbours if i else step)
        return feats


class PointTransform(nn.Module):
    """The fine branch's own layer: a linear layer, BatchNorm and ReLU on every point."""

    def __init__(self, in_channels: int, out_channels: int, spec: DetectorSpec) -> None:
        super().__init__()
        self.linear = Linear(in_channels, out_channels)
        self.norm = nn.BatchNorm1d(out_channels, spec.eps, spec.momentum)

    def forward(self, points: Tensor) -> Tensor:
        return normalised(self.norm, self.linear(points), relu=True)


class SparseEncoder(nn.Module):
    """The convolutions over voxels, with a fine branch over points where the spec has one.

    With the branch, every stage is an SPVConv. The points go through a layer of their own; the mean of its result in
    each voxel is added to the voxels' features, and the voxels' features around each point are added to the point's.
    Sites without points keep the convolution's features, so with a branch that gives zeros the voxels are SECOND's.
    """

    def __init__(self, spec: DetectorSpec) -> None:
        super().__init__()
        self.stem = ConvNorm(spec.in_channels, spec.stem, 27, eps=spec.eps, momentum=spec.momentum)
        ends = [stage[-1] for stage in spec.stages]
        self.stages = nn.ModuleList(
            SparseStage(width, stage, spec) for width, stage in zip([spec.stem, *ends], spec.stages, strict=False)
        )
        self.out = ConvNorm(ends[-1], spec.out, STEPS[-1].volume, eps=spec.eps, momentum=spec.momentum)
        self.points = nn.ModuleList()
        if spec.point_branch:
            widths = [spec.stem, *ends, spec.out]
            self.points.extend(PointTransform(a, b, spec) for a, b in pairwise(widths))

    def forward(self, feats: Tensor, sites: EncoderSites) -> Tensor:
        """Returns the features of the output's sites, `[n, out]`, of voxels' features `[N, C]` in sorted order."""
        points = voxels = self.stem(feats, sites.neighbours[0])
        for i, stage in enumerate(self.stages):
            voxels = stage(voxels, sites.steps[i - 1] if i else sites.neighbours[0], sites.neighbours[i])
            points, voxels = self._fuse(i, points, voxels, sites)
        _, voxels = self._fuse(len(self.stages), points, self.out(voxels, sites.steps[-1]), sites)
        return voxels

    def _fuse(self, index: int, points: Tensor, voxels: Tensor, sites: EncoderSites) -> tuple[Tensor, Tensor]:
        if not self.points:
            return points, voxels
        between = sites.exchanges[index]
        own = self.points[index](points)
        return own + between.to_points(voxels), voxels + between.to_voxels(own)


def birds_eye_view(feats: Tensor, sites: Sites, frames: int) -> Tensor:
    """Returns sites' features `[n, C]` laid out flat, `[frames, C * Z, Y, X]`, zeros where there is no site.

    Channel `c * Z + z` holds feature c at height z.
    """
    x, y, z = sites.shape
    flat = feats.new_zeros((frames, z, y, x, feats.shape[1]))
    batch, i, j, k = sites.level.coords.unbind(dim=1)
    flat = flat.index_put((batch, k, j, i), feats)
    return flat.permute(0, 4, 1, 2, 3).reshape(frames, -1, y, x)


class Second(nn.Module):
    """SECOND, or SPV-SECOND where the spec has a point branch."""

    def __init__(self, spec: DetectorSpec) -> None:
        super().__init__()
        self.spec = spec
        self.encoder = SparseEncoder(spec)
        self.bev = BevNetwork(spec.out * spec.shapes()[-1][2], spec.bev, spec.eps, spec.momentum)
        self.head = BoxHead(spec.head, sum(block.up for block in spec.bev))

    def voxels(self, clouds: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Returns coords int64 `[N, 4]` (batch, x, y, z) and mean features float32 `[N, C]` of a batch of clouds.

        clouds: float32 `[N, in_channels]` each: x, y, z in metres, intensity. The limit of voxels is that of training
                where the network is in training mode.

        Raises ValueError for a cloud of another shape.
        """
        for cloud in clouds:
            if cloud.ndim != 2 or cloud.shape[1] != self.spec.in_channels:
                raise ValueError(f"a cloud must be [N, {self.spec.in_channels}], found shape {list(cloud.shape)}")
        limit = self.spec.max_voxels[0 if self.training else 1]
        means = [means_for(c, self.spec.point_range, self.spec.voxel_size, self.spec.max_points, limit) for c in clouds]
        coords = [torch.cat([torch.full_like(m.coords[:, :1], i), m.coords], dim=1) for i, m in enumerate(means)]
        return torch.cat(coords), torch.cat([m.feats for m in means])

    def forward(self, coords: Tensor, feats: Tensor, frames: int, sites: EncoderSites | None = None) -> HeadOutput:
        """Returns what the head says of every anchor of a batch.

        coords: integers `[N, 4]` (batch, x, y, z) in voxels from the range's lower corner, every row once
        feats:  float32 `[N, in_channels]`, the mean of each voxel's points
        frames: how many frames the batch has; some may have no voxel
        sites:  the geometry, if it has been built already
        """
        sites = encoder_sites(self.spec, coords, feats) if sites is None else sites
        flat = birds_eye_view(self.encoder(feats[sites.order], sites), sites.sites[-1], frames)
        out: HeadOutput = self.head(self.bev(flat))
        return out
