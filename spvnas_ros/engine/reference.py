"""The reference engine: the network's own definition in plain torch, on any device."""

from __future__ import annotations

import copy

import torch

from spvnas_ros.engine.laps import Laps
from spvnas_ros.frame import Points, Segmentation
from spvnas_ros.nets.unet import PointVoxelUNet
from spvnas_ros.sparse.coords import quantize
from spvnas_ros.sparse.kernel_map import build_levels


class ReferenceEngine:
    """An engine that runs `PointVoxelUNet` as it is written, with features of type `dtype`."""

    name = "torch"

    def __init__(
        self, net: PointVoxelUNet, voxel_size: float, device: torch.device, dtype: torch.dtype = torch.float32
    ) -> None:
        self.device = str(device)
        self.in_channels = net.spec.in_channels
        self._device = device
        self._dtype = dtype
        self._net = copy.deepcopy(net).to(device, dtype).eval()
        self._voxel_size = voxel_size

    def segment(self, points: Points, scores: bool) -> Segmentation:
        """Labels a cloud of finite points, as `Engine.segment` says."""
        return self.segment_timed(points, scores)[0]

    @torch.inference_mode()
    def segment_timed(self, points: Points, scores: bool = False) -> tuple[Segmentation, dict[str, float]]:
        """Labels a cloud as `segment` does, and returns the seconds of each stage too.

        The stages are voxels, geometry, network and labels.
        """
        laps = Laps(self._device)
        cloud = torch.from_numpy(points).to(self._device)
        voxels = quantize(cloud, self._voxel_size)
        laps.lap("voxels")
        levels = build_levels(voxels.coords)
        laps.lap("geometry")
        logits = self._net(voxels.coords, cloud[voxels.first].to(self._dtype), levels)
        laps.lap("network")
        probabilities = logits.float().softmax(dim=1)
        confidence, labels = probabilities.max(dim=1)
        result = Segmentation(
            labels[voxels.inverse].to(torch.uint8).cpu().numpy(),
            confidence[voxels.inverse].cpu().numpy(),
            probabilities[voxels.inverse].cpu().numpy() if scores else None,
        )
        laps.lap("labels")
        return result, laps.seconds()
