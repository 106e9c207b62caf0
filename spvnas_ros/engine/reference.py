"""The reference engine: the network's own definition in plain torch, on any device."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch

from spvnas_ros.engine.laps import Laps
from spvnas_ros.frame import Boxes, Points, Segmentation
from spvnas_ros.nets.box_branch import branch_anchors, scan_corners, shifted
from spvnas_ros.nets.detections import detections
from spvnas_ros.nets.heads import HeadOutput
from spvnas_ros.nets.unet import LabelsAndBoxes, PointVoxelUNet
from spvnas_ros.sparse.coords import quantize
from spvnas_ros.sparse.kernel_map import build_levels


class ReferenceEngine:
    """An engine that runs `PointVoxelUNet` as it is written, with features of type `dtype`."""

    name = "torch"
    precision = "fp32"

    def __init__(
        self, net: PointVoxelUNet, voxel_size: float, device: torch.device, dtype: torch.dtype = torch.float32
    ) -> None:
        self.device = str(device)
        self.in_channels = net.spec.in_channels
        self.finds_boxes = net.spec.boxes is not None
        self._device = device
        self._dtype = dtype
        self._net = copy.deepcopy(net).to(device, dtype).eval()
        self._voxel_size = voxel_size
        self._anchors = branch_anchors(net.spec.boxes).to(device) if net.spec.boxes else None

    def segment(self, points: Points, scores: bool, boxes: bool = False, labels: bool = True) -> Segmentation:
        """Labels a cloud of finite points, as `Engine.segment` says."""
        return self.segment_timed(points, scores, boxes, labels)[0]

    @torch.inference_mode()
    def segment_timed(
        self, points: Points, scores: bool = False, boxes: bool = False, labels: bool = True
    ) -> tuple[Segmentation, dict[str, float]]:
        """Labels a cloud as `segment` does, and returns the seconds of each stage too.

        The stages are voxels, geometry, network, and what is asked for of labels and boxes.
        """
        if not labels and not (boxes and self._net.spec.boxes):
            return Segmentation.unlabelled(len(points)), {}
        laps = Laps(self._device)
        cloud = torch.from_numpy(points).to(self._device)
        voxels = quantize(cloud, self._voxel_size)
        laps.lap("voxels")
        levels = build_levels(voxels.coords)
        laps.lap("geometry")
        feats = cloud[voxels.first]
        said = None
        if boxes and (branch := self._net.spec.boxes):
            corners = scan_corners(voxels.coords, feats, branch.voxel_size, 1)
            feats = feats.to(self._dtype)
            said = self._net.labels_and_boxes(voxels.coords, feats, 1, levels, corners, labels=labels)
        logits = self._net(voxels.coords, feats.to(self._dtype), levels) if said is None else said.logits
        laps.lap("network")
        result = Segmentation.unlabelled(len(points))
        if labels:
            probabilities = logits.float().softmax(dim=1)
            confidence, classes = probabilities.max(dim=1)
            result = Segmentation(
                classes[voxels.inverse].to(torch.uint8).cpu().numpy(),
                confidence[voxels.inverse].cpu().numpy(),
                probabilities[voxels.inverse].cpu().numpy() if scores else None,
            )
            laps.lap("labels")
        if said is not None:
            result = replace(result, boxes=self._boxes(said))
            laps.lap("boxes")
        return result, laps.seconds()

    def _boxes(self, said: LabelsAndBoxes) -> Boxes:
        branch = self._net.spec.boxes
        assert branch is not None
        assert self._anchors is not None
        anchors = shifted(self._anchors, said.shifts[0])
        output = HeadOutput(said.boxes.classes.float(), said.boxes.boxes.float(), said.boxes.directions.float())
        (found,) = detections(branch.head, output, anchors)
        return found
