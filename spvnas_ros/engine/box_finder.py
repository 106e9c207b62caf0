"""Boxes from the features of the pass that labels: what an engine runs behind its own steps."""

from __future__ import annotations

import copy

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spvnas_ros.frame import Boxes
from spvnas_ros.nets.box_branch import branch_anchors, columns_of, shifted
from spvnas_ros.nets.detections import detections
from spvnas_ros.nets.unet import PointVoxelUNet
from spvnas_ros.sparse.coords import Level


class BoxFinder:
    """The box branch of a network, on a device and in eval mode.

    level: of the features that it takes, see `BoxBranchSpec`
    """

    def __init__(self, net: PointVoxelUNet, device: torch.device | str = "cpu") -> None:
        if net.boxes is None:
            raise ValueError("the network has no box branch")
        self._branch = copy.deepcopy(net.boxes).to(device, torch.float32).eval()
        self._anchors = branch_anchors(self._branch.spec).to(device)
        self.level = self._branch.spec.level

    @torch.inference_mode()
    def __call__(self, feats: Tensor, cells: Tensor, corner: Tensor) -> Boxes:
        """Returns the boxes of one scan, the best score first.

        feats:  `[n, C]`, of the level's voxels
        cells:  integer `[n, 3]`, x, y, z of these voxels, in the level's voxels
        corner: int64 `[3]`, the finest voxel from which they are counted, see `scan_corners`
        """
        coords = torch.cat([cells.new_zeros((len(cells), 1)), cells], dim=1).long()
        columns = columns_of(self._branch.spec, Level(coords[:, 0], coords, coords.new_zeros(4)), corner[None])
        said = self._branch(feats.float(), columns, 1)
        (found,) = detections(self._branch.spec.head, said, shifted(self._anchors, columns.shifts[0]))
        return found

    def of_arrays(
        self, feats: npt.NDArray[np.float32], cells: npt.NDArray[np.int32], corner: npt.NDArray[np.int64]
    ) -> Boxes:
        """Returns the boxes of one scan as `__call__` does, from arrays in main memory."""
        return self(*(torch.from_numpy(np.ascontiguousarray(each)) for each in (feats, cells, corner)))
