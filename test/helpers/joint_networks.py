"""Networks that nobody trained, small enough for a test, which label points and surely find boxes in a scan."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import torch

from spvnas_ros.frame import Points
from spvnas_ros.nets.box_spec import BoxBranchSpec, BoxClass
from spvnas_ros.nets.spec import NetSpec
from spvnas_ros.nets.unet import PointVoxelUNet
from spvnas_ros.sparse.coords import quantize
from spvnas_ros.zoo.checkpoint import Facts, save_checkpoint

EDGE = 0.2
"""Metres, of its voxels."""
CLASSES = (
    BoxClass("car", (4.3, 2.0, 1.6), -1.75, 0.5, 0.35),
    BoxClass("person", (0.7, 0.7, 1.75), -1.65, 0.4, 0.25),
)


def joint_network(level: int, scan: Points, point_branch: bool = True) -> PointVoxelUNet:
    """A network with this scan's statistics, which gives 100 anchors of it a score above the limit."""
    torch.manual_seed(1)
    plain = NetSpec.of((4, 4, 6, 8, 8, 8, 8, 6, 4), (1,) * 8, point_branch=point_branch)
    branch = BoxBranchSpec.around(EDGE, CLASSES, width=4, reach=25.6, level=level, merged=2 if level < 2 else 1)
    net = PointVoxelUNet(replace(plain, boxes=branch))
    assert net.boxes is not None
    points = torch.from_numpy(scan)
    voxels = quantize(points, EDGE)
    feats = points[voxels.first]
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.momentum = 1.0
        net.labels_and_boxes(voxels.coords, feats, 1)
        net.eval()
        net.boxes.head.classes.weight.mul_(10)
        best = net.labels_and_boxes(voxels.coords, feats, 1).boxes.classes.amax(2)[0].sort(descending=True).values
        net.boxes.head.classes.bias.add_(math.log(0.1 / 0.9) - float(best[99:101].mean()))
    return net


def joint_facts(net: PointVoxelUNet) -> Facts:
    return Facts(spec=net.spec, voxel_size=EDGE, name="tiny-joint", trained=False)


def write_joint(path: Path, scan: Points, level: int = 2) -> Path:
    """Writes such a network."""
    net = joint_network(level, scan)
    save_checkpoint(path, net, joint_facts(net))
    return path
