"""CUDA engines and the reference that they are held to."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch

from on_device import DEVICE  # isort: skip  # first: it decides how triton runs
import golden
from spvnas_ros.engine.cuda import CudaEngine
from spvnas_ros.engine.reference import ReferenceEngine
from spvnas_ros.frame import Boxes
from spvnas_ros.nets.box_spec import BoxBranchSpec, BoxClass
from spvnas_ros.nets.spec import BlockSpec, NetSpec, StageSpec
from spvnas_ros.nets.unet import PointVoxelUNet
from spvnas_ros.sparse import quantize

VOXEL_SIZE = 0.05
CLASSES = (
    BoxClass("car", (4.3, 2.0, 1.6), -1.75, 0.5, 0.35),
    BoxClass("person", (0.7, 0.7, 1.75), -1.65, 0.4, 0.25),
)


def narrow(point_branch: bool) -> NetSpec:
    """One block a stage, and widths that fill no block."""

    def stage(transition: int, out: int) -> StageSpec:
        return StageSpec(transition, (BlockSpec(out, out, True),))

    encoder = (stage(5, 7), stage(7, 10), stage(10, 18), stage(18, 20))
    decoder = (stage(20, 18), stage(17, 10), stage(10, 9), stage(9, 8))
    return NetSpec("narrow", (5, 6), encoder, decoder, (point_branch,) * 3, num_classes=7)


def with_boxes(spec: NetSpec, points: np.ndarray, level: int, reach: float = 3.2, spread: float = 10) -> PointVoxelUNet:
    """A network with a box branch, in which 60 anchors of a scan score enough; `spread` tells them apart."""
    branch = BoxBranchSpec.around(VOXEL_SIZE, CLASSES, width=5, reach=reach, level=level)
    net = golden.trained_looking(replace(spec, boxes=branch))
    assert net.boxes is not None
    voxels = quantize(torch.from_numpy(points), VOXEL_SIZE)
    with torch.inference_mode():
        net.boxes.head.classes.weight.mul_(spread)
        said = net.labels_and_boxes(voxels.coords, torch.from_numpy(points)[voxels.first], 1)
        best = said.boxes.classes.amax(2)[0].sort(descending=True).values
        net.boxes.head.classes.bias += math.log(0.1 / 0.9) - float(best[59:61].mean())
    return net


def compare_boxes(found: Boxes | None, expected: Boxes | None) -> None:
    assert found is not None
    assert expected is not None
    assert len(found) == len(expected) > 0
    np.testing.assert_array_equal(found.classes, expected.classes)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-3)
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-2, rtol=1e-3)


def compare(
    ours: CudaEngine, net: PointVoxelUNet, points: np.ndarray, limit: float = 1e-3, agreement: float = 1.0
) -> None:
    found = ours.segment(points, scores=True)
    expected = ReferenceEngine(net, VOXEL_SIZE, DEVICE).segment(points, scores=True)
    assert found.scores is not None
    assert expected.scores is not None
    assert np.abs(found.scores - expected.scores).max() <= limit
    assert (found.labels == expected.labels).mean() >= agreement
    np.testing.assert_allclose(found.confidence, found.scores.max(axis=1), rtol=1e-4)
