"""The reference engine: the network's own definition in plain torch, on any device."""

from __future__ import annotations

import copy

import torch

from spvnas_ros.frame import Points, Segmentation
from spvnas_ros.nets.unet import PointVoxelUNet
from spvnas_ros.sparse.coords import quantize


class ReferenceEngine:
    """Runs `PointVoxelUNet` as it is written."""

    name = "torch"

    def __init__(self, net: PointVoxelUNet, voxel_size: float, device: torch.device) -> None:
        self.device = str(device)
        self.in_channels = net.spec.in_channels
        self._net = copy.deepcopy(net).float().eval().to(device)
        self._voxel_size = voxel_size

    @torch.inference_mode()
    def segment(self, points: Points, scores: bool) -> Segmentation:
        """Label a cloud of finite points, as `Engine.segment` says."""
        cloud = torch.from_numpy(points).to(self.device)
        voxels = quantize(cloud, self._voxel_size)
        probabilities = self._net(voxels.coords, cloud[voxels.first]).softmax(dim=1)
        confidence, labels = probabilities.max(dim=1)
        return Segmentation(
            labels[voxels.inverse].to(torch.uint8).cpu().numpy(),
            confidence[voxels.inverse].cpu().numpy(),
            probabilities[voxels.inverse].cpu().numpy() if scores else None,
        )
