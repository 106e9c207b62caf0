"""The one network: SPVCNN, MinkUNet and every SPVNAS subnet are a `PointVoxelUNet` of some `NetSpec`.

With a box branch it finds boxes in the features of the same pass.

Reference: Tang et al., "Searching Efficient 3D Architectures with Sparse Point-Voxel Convolution", ECCV 2020, figure 2.
The order of operations is that of `core/models/semantic_kitti/spvcnn.py` in mit-han-lab/spvnas.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from spvnas_ros.nets.box_branch import BoxBranch, columns_of, scan_corners
from spvnas_ros.nets.heads import HeadOutput
from spvnas_ros.nets.spec import NUM_STAGES, POINT_LEVELS, BlockSpec, NetSpec, StageSpec
from spvnas_ros.sparse.backend import levels_for
from spvnas_ros.sparse.kernel_map import KernelMap, Levels
from spvnas_ros.sparse.modules import ConvNorm, Linear
from spvnas_ros.sparse.norms import normalised
from spvnas_ros.sparse.ops import exchange

DROPOUT = 0.3
"""The dropout rate of voxel features that come back from the points, while training."""


class ResidualBlock(nn.Module):
    """Two 3x3x3 convolutions and a skip: `relu(second(first(x)) + skip(x))`."""

    def __init__(self, in_channels: int, spec: BlockSpec) -> None:
        super().__init__()
        self.first = ConvNorm(in_channels, spec.middle, 27)
        self.second = ConvNorm(spec.middle, spec.out, 27, relu=False)
        self.projection = ConvNorm(in_channels, spec.out, 1, relu=False) if spec.projection else None

    def forward(self, feats: Tensor, kernel_map: KernelMap) -> Tensor:
        skip = feats if self.projection is None else self.projection(feats)
        out: Tensor = self.second(self.first(feats, kernel_map), kernel_map, skip)
        return out


class Stage(nn.Module):
    """A change of resolution and the residual blocks after it."""

    def __init__(self, in_channels: int, spec: StageSpec, skip_channels: int = 0, *, transposed: bool = False) -> None:
        super().__init__()
        self.transition = ConvNorm(in_channels, spec.transition, 8, transposed=transposed)
        widths = [spec.transition + skip_channels, *(block.out for block in spec.blocks)]
        self.blocks = nn.ModuleList(
            ResidualBlock(width, block) for width, block in zip(widths, spec.blocks, strict=False)
        )

    def forward(
        self, feats: Tensor, transition: KernelMap, neighbours: KernelMap, skip: Tensor | None = None
    ) -> Tensor:
        feats = self.transition(feats, transition)
        if skip is not None:
            feats = torch.cat([feats, skip], dim=1)
        for block in self.blocks:
            feats = block(feats, neighbours)
        return feats


class PointFusion(nn.Module):
    """The fine branch of SPVConv: an MLP on the points, plus the features of the voxels that surround them."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.linear = Linear(in_channels, out_channels)
        self.norm = nn.BatchNorm1d(out_channels)

    def forward(self, points: Tensor, from_voxels: Tensor) -> Tensor:
        return from_voxels + normalised(self.norm, self.linear(points), relu=True)


@dataclass(frozen=True)
class LabelsAndBoxes:
    """What a network with a box branch says of a batch.

    logits: float32 `[N, num_classes]`, scores of the classes of every voxel, in the caller's order
    boxes:  what is said of every anchor
    shifts: float32 `[frames, 3]`, metres by which each frame's anchors are moved, see `box_branch`
    """

    logits: Tensor
    boxes: HeadOutput
    shifts: Tensor


class PointVoxelUNet(nn.Module):
    """A sparse U-Net over voxels, with a fine branch over points and a branch for boxes where the spec has them.

    The points of the fine branch are the occupied voxels themselves, as in the published models.
    """

    def __init__(self, spec: NetSpec) -> None:
        super().__init__()
        self.spec = spec
        self.stem = nn.ModuleList(
            [ConvNorm(spec.in_channels, spec.stem[0], 27), ConvNorm(spec.stem[0], spec.stem[1], 27)]
        )
        encoder_in = [spec.stem[1], *(stage.out for stage in spec.encoder)]
        self.encoder = nn.ModuleList(Stage(encoder_in[i], stage) for i, stage in enumerate(spec.encoder))
        decoder_in = [encoder_in[-1], *(stage.out for stage in spec.decoder)]
        self.decoder = nn.ModuleList(
            Stage(decoder_in[i], stage, spec.skip_width(i), transposed=True) for i, stage in enumerate(spec.decoder)
        )
        # What is absent keeps its place, so that the others have the same names in all networks.
        fusions = spec.fusions
        self.points = nn.ModuleList(
            PointFusion(*fusions[i]) if i in fusions else nn.Identity()
            for i in range(len(POINT_LEVELS) if fusions else 0)
        )
        self.classifier = nn.Linear(decoder_in[-1], spec.num_classes)
        self.dropout = nn.Dropout(DROPOUT)
        self.boxes = None if spec.boxes is None else BoxBranch(spec.boxes, spec.level_width(spec.boxes.level))

    def forward(self, coords: Tensor, feats: Tensor, levels: Levels | None = None) -> Tensor:
        """Returns the class scores (logits) float32 `[N, num_classes]` of a batch of voxels, in the caller's order.

        coords: integers `[N, 4]` (batch, x, y, z) in voxels, every row once
        feats:  float32 `[N, in_channels]`: x, y, z in metres and intensity of the first point in the voxel
        levels: the geometry, if it has been built already
        """
        levels = levels_for(coords, feats, NUM_STAGES, POINT_LEVELS) if levels is None else levels
        if len(feats) == 0:
            return feats.new_zeros((0, self.spec.num_classes))
        logits, _ = self._run(levels, feats[levels.order])
        return torch.empty_like(logits).index_copy(0, levels.order, logits)

    def labels_and_boxes(
        self,
        coords: Tensor,
        feats: Tensor,
        frames: int,
        levels: Levels | None = None,
        corners: Tensor | None = None,
        *,
        labels: bool = True,
    ) -> LabelsAndBoxes:
        """Returns the class scores of a batch of voxels and what the box branch says of its anchors, from one pass.

        frames:  number of scans in the batch; some may have no voxel
        corners: int64 `[frames, 3]`, the voxel from which each scan's voxels are counted, if it is known; else it is
                 found from the features, which then are float32 and the coordinates of points in those voxels
        labels:  without them there are no logits, `[0, num_classes]`, and what only they need is not computed

        Other arguments as in `forward`. Raises ValueError where the spec has no box branch.
        """
        branch, spec = self.boxes, self.spec.boxes
        if branch is None or spec is None:
            raise ValueError("the network has no box branch; its spec has boxes = None")
        levels = levels_for(coords, feats, NUM_STAGES, POINT_LEVELS) if levels is None else levels
        corners = scan_corners(coords, feats, spec.voxel_size, frames) if corners is None else corners
        columns = columns_of(spec, levels.levels[spec.level], corners)
        if len(feats) == 0:
            none = feats.new_zeros((0, self.spec.level_width(spec.level)))
            return LabelsAndBoxes(self.forward(coords, feats, levels), branch(none, columns, frames), columns.shifts)
        logits, seen = self._run(levels, feats[levels.order], labels)
        if labels:
            logits = torch.empty_like(logits).index_copy(0, levels.order, logits)
        return LabelsAndBoxes(logits, branch(seen, columns, frames), columns.shifts)

    def _run(self, levels: Levels, feats: Tensor, labels: bool = True) -> tuple[Tensor, Tensor]:
        """Returns the class scores, and the features that the box branch takes, which is empty where there is none.

        Without labels it ends at these features.
        """
        taken = -1 if self.spec.boxes is None else self.spec.boxes.level
        for layer in self.stem:
            feats = layer(feats, levels.neighbours[0])
        skips = [feats]
        for i, stage in enumerate(self.encoder):
            skips.append(stage(skips[-1], levels.halvings[i], levels.neighbours[i + 1]))
        points, voxels = self._fuse(0, levels, skips[0], skips.pop())
        no_logits = voxels.new_zeros((0, self.spec.num_classes))
        seen = voxels if taken == NUM_STAGES else voxels.new_zeros((0, 0))
        for i, stage in enumerate(self.decoder):
            level = 3 - i
            if level < taken and not labels:
                return no_logits, seen
            voxels = stage(voxels, levels.halvings[level].transposed(), levels.neighbours[level], skips[level])
            if i == 1:
                points, voxels = self._fuse(1, levels, points, voxels)
            elif i == 3:
                points, voxels = self._fuse(2, levels, points, voxels)
            if level == taken:
                seen = points if level == 0 and self.spec.classifies_points else voxels
        if not labels:
            return no_logits, seen
        return self.classifier(points if self.spec.classifies_points else voxels), seen

    def _fuse(self, index: int, levels: Levels, points: Tensor, voxels: Tensor) -> tuple[Tensor, Tensor]:
        """Adds the voxel features to the points' own, and returns the points and their mean in each voxel.

        The last fusion returns the voxels as they are, and one that is absent returns both.
        """
        if not self.spec.point_levels[index]:
            return points, voxels
        level = POINT_LEVELS[index]
        between = exchange(levels, level, voxels)
        points = self.points[index](points, between.to_points(voxels))
        if index == 2:
            return points, voxels
        return points, self.dropout(between.to_voxels(points))
