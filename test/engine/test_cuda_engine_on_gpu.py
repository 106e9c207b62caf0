"""The CUDA engine on a GPU: whole scans, with the tiles and the graph that frames run with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from on_device import DEVICE  # isort: skip  # first: it decides how triton runs
import golden
from cuda_engines import VOXEL_SIZE, compare, compare_boxes, with_boxes
from spvnas_ros.engine import build_engine
from spvnas_ros.engine.cuda import CudaEngine
from spvnas_ros.engine.reference import ReferenceEngine
from spvnas_ros.nets.spec import NetSpec
from spvnas_ros.zoo.cache import shipped_path
from spvnas_ros.zoo.checkpoint import load_checkpoint

NEEDS_GPU = [pytest.mark.cuda, pytest.mark.skipif(DEVICE.type == "cpu", reason="no CUDA device")]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize(
    "spec", [NetSpec.spvcnn(16), NetSpec.spvcnn(32), NetSpec.minkunet(32)], ids=["w16", "w32", "minkunet-w32"]
)
class TestOnTheDevice:
    """Whole scans, with the tiles and the graph that frames run with."""

    pytestmark = NEEDS_GPU

    def test_full_scans_match_the_reference(self, full_scan: np.ndarray, spec: NetSpec, precision: str) -> None:
        """Made ready on a part, so that the first whole scan makes the engine grow and capture its frame anew."""
        net = golden.trained_looking(spec)
        ours = CudaEngine(net, VOXEL_SIZE, DEVICE, precision, sample=full_scan[:40000])  # type: ignore[arg-type]
        limit, agreement = (1e-3, 0.9999) if precision == "fp32" else (0.02, 0.999)
        for count in (len(full_scan), 40000, 3, 120000):
            compare(ours, net, full_scan[:count], limit, agreement)

    def test_a_captured_frame_never_waits_but_for_its_result(
        self, full_scan: np.ndarray, spec: NetSpec, precision: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        ours = CudaEngine(golden.trained_looking(spec), VOXEL_SIZE, DEVICE, precision, sample=full_scan)  # type: ignore[arg-type]
        first = ours.segment(full_scan, scores=False)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        torch.cuda.set_sync_debug_mode("error")
        try:
            ours.segment(full_scan[:50000], scores=False)
            again = ours.segment(full_scan, scores=False)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        np.testing.assert_array_equal(first.labels, again.labels)
        assert "cannot be captured" not in caplog.text
        assert torch.cuda.memory_allocated() == before
        assert torch.cuda.max_memory_allocated() < 2**30


@pytest.mark.cuda
@pytest.mark.skipif(DEVICE.type == "cpu", reason="no CUDA device")
@pytest.mark.parametrize("level", range(5))
@pytest.mark.parametrize("point_branch", [True, False])
def test_boxes_in_full_scans_match_the_reference(full_scan: np.ndarray, level: int, point_branch: bool) -> None:
    """Captured three times, for labels, boxes and both, and none waits but for its result."""
    spec = NetSpec.spvcnn(16) if point_branch else NetSpec.minkunet(16)
    net = with_boxes(spec, full_scan, level, reach=25.6)
    ours = CudaEngine(net, VOXEL_SIZE, DEVICE, "fp32", sample=full_scan)
    allowed = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        expected = ReferenceEngine(net, VOXEL_SIZE, DEVICE).segment(full_scan, scores=False, boxes=True)
    finally:
        torch.backends.cudnn.allow_tf32 = allowed
    asked = ((True, True), (True, False), (False, True))
    for boxes, labels in asked:
        ours.segment(full_scan, scores=False, boxes=boxes, labels=labels)
    torch.cuda.set_sync_debug_mode("error")
    try:
        both, _, alone = (ours.segment(full_scan, scores=False, boxes=b, labels=w) for b, w in asked)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    compare_boxes(both.boxes, expected.boxes)
    compare_boxes(alone.boxes, expected.boxes)
    assert (both.labels == expected.labels).mean() >= 0.9999


@pytest.mark.cuda
@pytest.mark.skipif(DEVICE.type == "cpu", reason="no CUDA device")
def test_a_gpu_gets_this_engine_for_boxes_too(full_scan: np.ndarray) -> None:
    net = with_boxes(NetSpec.spvcnn(16), full_scan, 2, reach=25.6)
    assert isinstance(build_engine(net, VOXEL_SIZE, sample=full_scan), CudaEngine)


@pytest.mark.cuda
@pytest.mark.skipif(DEVICE.type == "cpu", reason="no CUDA device")
def test_half_precision_keeps_a_trained_networks_labels(full_scan: np.ndarray) -> None:
    net, facts = load_checkpoint(shipped_path())
    ours = CudaEngine(net, facts.voxel_size, DEVICE, "fp16", sample=full_scan)
    found = ours.segment(full_scan, scores=False).labels
    expected = ReferenceEngine(net, facts.voxel_size, DEVICE).segment(full_scan, scores=False).labels
    assert (found == expected).mean() >= 0.999


@pytest.mark.cuda
@pytest.mark.skipif(DEVICE.type == "cpu", reason="no CUDA device")
def test_a_gpu_gets_this_engine_and_a_generated_street_makes_it_ready() -> None:
    ready = build_engine(golden.trained_looking(NetSpec.spvcnn(16)), VOXEL_SIZE)
    assert isinstance(ready, CudaEngine)
    assert ready.capacity is not None


@pytest.mark.cuda
@pytest.mark.skipif(DEVICE.type == "cpu", reason="no CUDA device")
@pytest.mark.parametrize(("model", "case"), golden.CASES)
def test_logits_match_upstream(shared: Path, model: str, case: str) -> None:
    ours = CudaEngine(golden.network(shared / "golden", model), VOXEL_SIZE, DEVICE, "fp32")
    with np.load(shared / "golden" / f"{model}_{case}.npz") as data:
        logits = ours.logits(golden.coords(data["in/C"]).numpy(), data["in/F"])
        recorded = data["logits_voxel"]
    assert np.abs(logits - recorded).max() <= 1e-3 * np.abs(recorded).max()
    assert (logits.argmax(1) == recorded.argmax(1)).all()
