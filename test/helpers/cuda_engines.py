"""CUDA engines and the reference that they are held to."""

from __future__ import annotations

import numpy as np

from on_device import DEVICE  # isort: skip  # first: it decides how triton runs
from spvnas_ros.engine.cuda import CudaEngine
from spvnas_ros.engine.reference import ReferenceEngine
from spvnas_ros.nets.spec import BlockSpec, NetSpec, StageSpec
from spvnas_ros.nets.unet import PointVoxelUNet

VOXEL_SIZE = 0.05


def narrow(point_branch: bool) -> NetSpec:
    """One block a stage, and widths that fill no block."""

    def stage(transition: int, out: int) -> StageSpec:
        return StageSpec(transition, (BlockSpec(out, out, True),))

    encoder = (stage(5, 7), stage(7, 10), stage(10, 18), stage(18, 20))
    decoder = (stage(20, 18), stage(17, 10), stage(10, 9), stage(9, 8))
    return NetSpec("narrow", (5, 6), encoder, decoder, point_branch, num_classes=7)


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
