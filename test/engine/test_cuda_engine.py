"""The CUDA engine gives the reference network's answers, whatever comes: sizes, batches, values, clouds out of range.

Without a GPU it runs in Triton's interpreter, on small crops of real scans; whole scans need a GPU (mark `cuda`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

import on_device  # isort: skip  # first: it decides how triton runs
import golden
from cuda_engines import VOXEL_SIZE, compare, compare_boxes, narrow, with_boxes
from spvnas_ros.engine import build_engine, check_agreement, gpu_engine
from spvnas_ros.engine.cuda import CudaEngine, HalfRangeError
from spvnas_ros.engine.cuda.launches import LEVELS, Frame, Network, Wanted
from spvnas_ros.engine.cuda.session import Session
from spvnas_ros.engine.plan import build_plan
from spvnas_ros.engine.reference import ReferenceEngine
from spvnas_ros.frame import UNLABELLED
from spvnas_ros.kernels.cuda.geometry import Capacity
from spvnas_ros.nets.unet import PointVoxelUNet
from spvnas_ros.sparse import KeyRangeError

DEVICE, TILE_ROWS = on_device.DEVICE, on_device.TILE_ROWS


@pytest.fixture(autouse=True, scope="module")
def small_steps() -> Iterator[None]:
    """Without a GPU, capacities in steps of 64: the interpreter takes its time for programs that have nothing to do."""
    with pytest.MonkeyPatch.context() as patch:
        if DEVICE.type == "cpu":
            patch.setattr(Capacity, "UNIT", 64)
        yield


def engine(net: PointVoxelUNet, precision: str = "auto", sample: np.ndarray | None = None) -> CudaEngine:
    return CudaEngine(net, VOXEL_SIZE, DEVICE, precision, sample, tile_rows=TILE_ROWS)  # type: ignore[arg-type]


def crop(scan: np.ndarray, number: int) -> np.ndarray:
    near = scan[np.linalg.norm(scan[:, :2], axis=1) < 25]
    return near[np.argsort(np.abs(np.arctan2(near[:, 1], near[:, 0])))[:number]]


def nearest(scan: np.ndarray, number: int) -> np.ndarray:
    return scan[np.argsort(np.linalg.norm(scan[:, :2], axis=1))[:number]]


def lonely(number: int) -> np.ndarray:
    """Points without neighbours at any level, which is quick to run."""
    cells = np.stack(np.meshgrid(*[np.arange(16)] * 3), axis=-1).reshape(-1, 3)[:number]
    return np.concatenate([cells * 4.0, np.full((number, 1), 0.3)], axis=1).astype(np.float32)


@pytest.mark.parametrize(
    ("point_branch", "precision", "limit"), [(True, "fp32", 1e-4), (False, "fp16", 3e-3)], ids=["fp32", "fp16"]
)
def test_a_network_matches_the_reference(
    full_scan: np.ndarray, point_branch: bool, precision: str, limit: float
) -> None:
    net = golden.trained_looking(narrow(point_branch))
    compare(engine(net, precision), net, crop(full_scan, 80), limit)


@pytest.mark.parametrize("levels", [(True, False, True), (False, True, False)])
def test_points_may_meet_the_voxels_at_some_levels(full_scan: np.ndarray, levels: tuple[bool, bool, bool]) -> None:
    net = golden.trained_looking(replace(narrow(True), point_levels=levels))
    compare(engine(net, "fp32"), net, nearest(full_scan, 30), 1e-4)


@pytest.mark.parametrize(("level", "point_branch"), [(0, True), (0, False), (1, False), (2, True), (4, True)])
def test_boxes_are_those_of_the_reference(full_scan: np.ndarray, level: int, point_branch: bool) -> None:
    points = nearest(full_scan, 30)
    net = with_boxes(narrow(point_branch), points, level)
    expected = ReferenceEngine(net, VOXEL_SIZE, DEVICE).segment(points, scores=False, boxes=True)
    both = engine(net, "fp32").segment(points, scores=False, boxes=True)
    np.testing.assert_array_equal(both.labels, expected.labels)
    compare_boxes(both.boxes, expected.boxes)


def test_what_nobody_asks_for_is_not_run(full_scan: np.ndarray) -> None:
    """Boxes alone, labels alone and both give the same, in whichever order they are asked for."""
    points = nearest(full_scan, 20)
    net = with_boxes(narrow(True), points, 3)
    ours = engine(net, "fp32")
    alone = ours.segment(points, scores=True, boxes=True, labels=False)
    both = ours.segment(points, scores=False, boxes=True)
    compare_boxes(both.boxes, ReferenceEngine(net, VOXEL_SIZE, DEVICE).segment(points, scores=False, boxes=True).boxes)
    assert set(alone.labels.tolist()) == {UNLABELLED}
    assert both.boxes is not None
    assert alone.boxes is not None
    np.testing.assert_array_equal(alone.boxes.boxes, both.boxes.boxes)
    labels = ours.segment(points, scores=False)
    assert labels.boxes is None
    np.testing.assert_array_equal(labels.labels, both.labels)
    assert ours.segment(points, scores=False, boxes=False, labels=False).boxes is None
    nothing = ours.segment(points[:0], scores=False, boxes=True).boxes
    assert nothing is not None
    assert len(nothing) == 0


def test_an_engine_that_finds_other_boxes_than_the_reference_is_not_trusted(full_scan: np.ndarray) -> None:
    points = nearest(full_scan, 300)
    net = with_boxes(narrow(True), points, 2, reach=25.6, spread=2000)
    other = copy.deepcopy(net)
    assert other.boxes is not None
    with torch.no_grad():
        other.boxes.head.boxes.bias += 1.0
    ours, theirs = (ReferenceEngine(each, VOXEL_SIZE, torch.device("cpu")) for each in (net, other))
    check_agreement(ours, ours, points)
    with pytest.raises(RuntimeError, match=r"misses \d+ boxes of \d+ in a sample"):
        check_agreement(ours, theirs, points)


def test_batches_match_the_reference_in_the_callers_order(full_scan: np.ndarray) -> None:
    net = golden.trained_looking(narrow(True))
    cells = np.unique((crop(full_scan, 30)[:, :3] / VOXEL_SIZE).round().astype(np.int64), axis=0)
    other = cells[::2, [1, 0, 2]] - 40
    coords = np.concatenate([np.insert(cells, 0, 0, axis=1), np.insert(other, 0, 1, axis=1)])
    coords = np.random.default_rng(0).permutation(coords)
    feats = np.random.default_rng(1).normal(size=(len(coords), 4)).astype(np.float32)
    with torch.inference_mode():
        expected = net(torch.from_numpy(coords), torch.from_numpy(feats)).numpy()
    logits = engine(net, "fp32").logits(coords, feats)
    assert np.abs(logits - expected).max() <= 1e-4 * np.abs(expected).max()


def test_scans_that_do_not_fit_are_answered_and_make_room(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First more voxels than there is room for, found on the device; then more points, which the host sees."""
    monkeypatch.setattr(Capacity, "UNIT", 64)
    net = golden.trained_looking(narrow(False))
    ours = engine(net, "fp32")
    compare(ours, net, np.repeat(lonely(30), 4, axis=0))
    assert ours.capacity == Capacity(192, (64,) * LEVELS)
    compare(ours, net, lonely(100))
    assert "a scan of 100 points and 100/100/100/100/100 voxels did not fit" in caplog.text
    assert ours.capacity == Capacity(192, (128,) * LEVELS)
    caplog.clear()
    compare(ours, net, np.repeat(lonely(50), 5, axis=0))
    assert caplog.text.count("did not fit") == 1
    assert ours.capacity == Capacity(320, (128,) * LEVELS)
    compare(ours, net, lonely(3))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the interpreter's, of the infinities that are meant
def test_values_that_half_precision_cannot_hold_are_named(caplog: pytest.LogCaptureFixture) -> None:
    """They are found in any layer, on a sample or in a frame: here the next ReLU would have hidden the infinity."""
    net, points = golden.trained_looking(narrow(False)), lonely(20)
    with torch.no_grad():
        net.encoder[1].blocks[0].first.norm.bias.fill_(1e5)
    with pytest.raises(HalfRangeError, match=r"values beyond 65504 in encoder\.1\.blocks\.0\.first.*'bf16' or 'fp32'"):
        engine(net, "fp16").segment(points, scores=False)
    with pytest.raises(HalfRangeError, match=r"encoder\.1\.blocks\.0\.first"):
        engine(net, "fp16", points)
    ours = engine(net, sample=points)
    assert ours.precision == "fp32"
    assert "encoder.1.blocks.0.first" in caplog.text
    compare(ours, net, points)
    with torch.no_grad():
        net.stem[1].norm.weight.fill_(1e6)
    with pytest.raises(HalfRangeError, match=r"the weights of stem\.1"):
        engine(net, "fp16")
    assert engine(net).precision == "fp32"


def test_a_frame_that_cannot_be_captured_is_launched_kernel_by_kernel(caplog: pytest.LogCaptureFixture) -> None:
    net, points = golden.trained_looking(narrow(False)), lonely(20)
    network = Network(build_plan(net), VOXEL_SIZE, "fp32", DEVICE, TILE_ROWS)

    def refuse(_: Frame, _wanted: Wanted, _pool: object) -> Callable[[], None]:
        raise RuntimeError("operation not permitted when stream is capturing")

    session = Session(network, Capacity.with_room(20, (20,) * LEVELS), refuse)
    assert caplog.text.count("CUDA graph (RuntimeError: operation not permitted") == 1
    assert not session.captured
    expected = ReferenceEngine(net, VOXEL_SIZE, DEVICE).segment(points, scores=False)
    np.testing.assert_array_equal(session.label(torch.from_numpy(points)).labels, expected.labels)


def test_the_factory_makes_the_engine_ready_on_a_sample(caplog: pytest.LogCaptureFixture) -> None:
    net, sample = golden.trained_looking(narrow(False)), lonely(20)
    ready = build_engine(net, VOXEL_SIZE, device=str(DEVICE), engine="cuda", sample=sample)
    assert isinstance(ready, CudaEngine)
    assert ready.capacity == Capacity.with_room(20, (20,) * LEVELS)
    far = sample + np.float32([[1e5, 0, 0, 0]]) * (np.arange(20)[:, None] == 0)
    instead = gpu_engine(net, VOXEL_SIZE, DEVICE, far.astype(np.float32))
    assert isinstance(instead, ReferenceEngine)
    assert "engine 'cuda' cannot start" in caplog.text
    assert "KeyRangeError: the scan spans" in caplog.text


def test_an_engine_that_labels_otherwise_than_the_reference_is_not_trusted(full_scan: np.ndarray) -> None:
    points = crop(full_scan, 300)
    ours, other = (
        ReferenceEngine(golden.trained_looking(narrow(True), seed), VOXEL_SIZE, torch.device("cpu")) for seed in (0, 1)
    )
    check_agreement(ours, ours, points)
    check_agreement(ours, other, points[:0])
    with pytest.raises(RuntimeError, match=r"gives \d+\.\d% of the points of a sample the reference's label"):
        check_agreement(ours, other, points)


def test_unusable_input_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    net = golden.trained_looking(narrow(False))
    ours = engine(net)
    for far in (0.05 * 2**18, 1e6, 1e30, 3e38):
        with pytest.raises(KeyRangeError, match="at most 262144"):
            ours.segment(np.array([[0, 0, 0, 0], [far, 0, 0, 0]], np.float32), scores=False)
    with pytest.raises(KeyRangeError, match="from the origin"):
        ours.segment(np.array([[1e9, 0, 0, 0]], np.float32), scores=False)
    with pytest.raises(ValueError, match=r"expected coords \[N, 4\]"):
        ours.logits(np.zeros((1, 3), np.int64), np.zeros((1, 4), np.float32))
    with pytest.raises(ValueError, match="same voxel more than once"):
        ours.logits(np.zeros((2, 4), np.int64), np.zeros((2, 4), np.float32))
    with pytest.raises(ValueError, match=r"batch indices must be in 0\.\.511, found 0\.\.512"):
        ours.logits(np.array([[0, 0, 0, 0], [512, 0, 0, 0]]), np.zeros((2, 4), np.float32))
    with pytest.raises(KeyRangeError, match="spans 300001 voxels"):
        ours.logits(np.array([[0, 0, 0, 0], [0, 300000, 0, 0]]), np.zeros((2, 4), np.float32))
    with pytest.raises(ValueError, match="at most 79536431 points and voxels"):
        Capacity.with_room(10**8, (10**8,) * LEVELS)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match="engine 'cuda' runs on CUDA devices, not on cpu"):
        CudaEngine(net, VOXEL_SIZE, "cpu")


def test_a_cloud_without_points_has_no_labels() -> None:
    result = engine(golden.trained_looking(narrow(False))).segment(np.zeros((0, 4), np.float32), scores=True)
    assert result.scores is not None
    assert (len(result), result.scores.shape) == (0, (0, 7))
