"""The branch that finds boxes in the features of a network that labels points: one pass, two answers.

The voxels of one level are summed up in columns by a sparse convolution as high as the range, the columns are laid out
in the bird's-eye view, and a network over it ends in an anchor head, as in SECOND.

The published networks count voxels from each scan's lower corner, so the coarse voxels of two scans are not aligned.
The bird's-eye view is therefore aligned with the scan's own voxels, and the anchors are moved by what that differs from
the range: at most half a voxel of the level.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from spvnas_ros.nets.bev import BevNetwork
from spvnas_ros.nets.box_spec import BoxBranchSpec
from spvnas_ros.nets.heads import BoxHead, HeadOutput, anchor_boxes
from spvnas_ros.sparse.backend import map_for
from spvnas_ros.sparse.coords import Level
from spvnas_ros.sparse.kernel_map import KernelMap
from spvnas_ros.sparse.modules import ConvNorm


@dataclass(frozen=True)
class Columns:
    """Where the voxels of one level stand in the bird's-eye view.

    kernel_map: from the voxels to the columns that hold any, a kernel row for each place within a column
    places:     int64 `[n]`, the cell of each column in `[frames, Y, X]`, flat
    shifts:     float32 `[frames, 3]`, metres from the range's lower corner to that of the bird's-eye view
    """

    kernel_map: KernelMap
    places: Tensor
    shifts: Tensor


def scan_corners(coords: Tensor, feats: Tensor, voxel_size: float, frames: int) -> Tensor:
    """Returns the voxel, counted from the sensor, from which each scan's voxels are counted, int64 `[frames, 3]`.

    coords: integer `[N, 4]` (batch, x, y, z)
    feats:  float32 `[N, 3 or more]`, x, y, z in metres of a point in each voxel

    Zeros where a scan has no voxel.
    """
    first = torch.full((frames,), len(coords), device=coords.device)
    first.scatter_reduce_(0, coords[:, 0].long(), torch.arange(len(coords), device=coords.device), "amin")
    there = first < len(coords)
    rows = first[there]
    # As in `quantize`, so that the quotients round alike.
    cells = torch.round(feats[rows, :3].float() / torch.tensor(voxel_size, device=feats.device)).long()
    corners = coords.new_zeros((frames, 3), dtype=torch.long)
    corners[there] = cells - coords[rows, 1:].long()
    return corners


def columns_of(spec: BoxBranchSpec, level: Level, corners: Tensor) -> Columns:
    """Returns where the voxels of a batch stand in the bird's-eye view. Those outside the range stand nowhere.

    level:   the voxels at the spec's level
    corners: int64 `[frames, 3]`, see `scan_corners`
    """
    device = corners.device
    base, shifts = base_of(spec, corners)
    batch = level.coords[:, 0]
    cells = level.coords[:, 1:] - base[batch]
    limits = torch.tensor(spec.cells, device=device)
    rows = torch.nonzero(((cells >= 0) & (cells < limits)).all(dim=1)).squeeze(1)
    x, y, z = cells[rows].unbind(dim=1)
    wide, deep = spec.columns
    merged = spec.merged
    place = (batch[rows] * deep + y // merged) * wide + x // merged
    kernel_rows = (z * merged + y % merged) * merged + x % merged
    order = torch.argsort(kernel_rows, stable=True)
    places, out_rows = torch.unique(place, return_inverse=True)
    sizes = tuple(torch.bincount(kernel_rows, minlength=spec.volume).tolist())
    kernel_map = KernelMap(rows[order], out_rows[order], sizes, len(level), len(places))
    return Columns(kernel_map, places, shifts)


def base_of(spec: BoxBranchSpec, corners: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the voxel of the level at the lower corner of each bird's-eye view, int64 `[frames, 3]`, and the metres
    from the range's lower corner to it, float32 `[frames, 3]`.

    corners: int64 `[frames, 3]`, see `scan_corners`
    """
    size = 2**spec.level
    low = torch.tensor(spec.point_range[:3], dtype=torch.float64, device=corners.device)
    # A voxel is half a voxel to both sides of a multiple of its edge.
    base = torch.round((low / spec.voxel_size + 0.5 - corners) / size).long()
    shifts = (corners + base * size - 0.5) * spec.voxel_size - low
    return base, shifts.float()


class BoxBranch(nn.Module):
    """The branch itself: columns, the network over the bird's-eye view, and the head.

    in_channels: of the level's features
    """

    def __init__(self, spec: BoxBranchSpec, in_channels: int) -> None:
        super().__init__()
        self.spec = spec
        self.columns = ConvNorm(in_channels, spec.width, spec.volume, eps=spec.eps, momentum=spec.momentum)
        self.bev = BevNetwork(spec.width, spec.bev, spec.eps, spec.momentum)
        self.head = BoxHead(spec.head, sum(block.up for block in spec.bev))

    def forward(self, feats: Tensor, columns: Columns, frames: int) -> HeadOutput:
        """Returns what the head says of every anchor of a batch.

        feats: `[n, in_channels]`, of the level's voxels
        """
        x, y = self.spec.columns
        flat = feats.new_zeros((frames * y * x, self.spec.width))
        # BatchNorm has no deviation of a single column.
        if len(columns.places) > (1 if self.training else 0):
            summed = self.columns(feats, map_for(columns.kernel_map, feats))
            flat = flat.index_put((columns.places,), summed.to(flat.dtype))
        out: HeadOutput = self.head(self.bev(flat.view(frames, y, x, -1).permute(0, 3, 1, 2)))
        return out


def branch_anchors(spec: BoxBranchSpec) -> Tensor:
    """Returns the anchors in the middle of the cells of the head's map, float32 `[A, 7]`, for a scan without shift."""
    cells = spec.head_cells
    middles = list(spec.point_range)
    for axis, count in enumerate(cells):
        half = (middles[axis + 3] - middles[axis]) / count / 2
        middles[axis] += half
        middles[axis + 3] -= half
    return anchor_boxes(spec.head, cells, middles)


def shifted(anchors: Tensor, shift: Tensor) -> Tensor:
    """Returns anchors `[A, 7]` of a scan whose bird's-eye view is moved along x and y by `shift` `[3]`, metres."""
    moved = anchors.clone()
    moved[:, :2] += shift[:2]
    return moved
