"""The CPU engine on integers: labels as in float32, or nearly so, and never wrong in silence."""

from __future__ import annotations

import gc
import logging
import os
import platform
import subprocess
import sys
import weakref
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import cold_start
import golden
from places import HELPERS
from spvnas_ros import Perception
from spvnas_ros.engine import build_engine
from spvnas_ros.engine.cpu import CpuEngine
from spvnas_ros.engine.cpu.float_steps import compile_kernels
from spvnas_ros.engine.cpu.retreat import FIRST_REST, Retreat
from spvnas_ros.engine.plan import Convolution, build_plan
from spvnas_ros.errors import UserError
from spvnas_ros.kernels.cpu import convolve
from spvnas_ros.kernels.cpu.shape import host_words
from spvnas_ros.nets.spec import NetSpec
from spvnas_ros.nets.unet import PointVoxelUNet
from spvnas_ros.recordings.scans import read_scan
from spvnas_ros.recordings.scans.source import open_source
from spvnas_ros.workers import command_of

VOXEL_SIZE = 0.05
EQUAL_LABELS = {"int16": (0.999, 0.999, 0.999), "int8": (0.99, 0.99, 0.98)}
"""Of two scans of the kind that the network was trained for, and of one with 16 beams."""
LOGIT_ERROR = {"int16": 0.01, "int8": 0.15}
SCORE_ERROR = {"int16": 0.02, "int8": 0.2}

HOST = host_words()
LEVELS = [(True, True, False), (False, True, True), (True, False, False)]
"""At which levels points and voxels exchange features: in one pass where the points go on, else not."""
needs_words = pytest.mark.skipif(HOST is None, reason="this machine has no fast 16-bit products")
needs_bytes = pytest.mark.skipif(HOST is None or not HOST.fused, reason="this machine has no exact 8-bit products")
INTEGERS = [pytest.param("int16", marks=needs_words), pytest.param("int8", marks=needs_bytes)]


def engines(net: PointVoxelUNet, precision: str, threads: int = 2) -> tuple[CpuEngine, CpuEngine]:
    return CpuEngine(net, VOXEL_SIZE, threads, "fp32"), CpuEngine(net, VOXEL_SIZE, threads, precision)


@pytest.fixture(scope="module")
def labelled_exactly(shared: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """Three real clouds, and the shipped network's labels of them in float32."""
    exact = Perception.load("default", device="cpu", precision="fp32")
    assert exact.engine.precision == "fp32"
    scans = sorted((shared / "data" / "semantickitti").glob("sequences/*/velodyne/*.bin"))
    clouds = [read_scan(scan, "unit") for scan in scans[::7]]
    with open_source(shared / "data" / "bags" / "vlp16_pointcloud2_mcap") as bag:
        clouds.append(next(iter(bag)).load().points)
    assert len(clouds) == 3
    return [(cloud, exact(cloud, boxes=False).labels) for cloud in clouds]


@pytest.mark.parametrize("precision", INTEGERS)
def test_the_shipped_network_labels_real_scans_as_in_float32(
    labelled_exactly: list[tuple[np.ndarray, np.ndarray]], precision: str
) -> None:
    whole = Perception.load("default", device="cpu", precision=precision)
    assert whole.engine.precision == precision
    for (cloud, labels), share in zip(labelled_exactly, EQUAL_LABELS[precision], strict=True):
        assert (labels == whole(cloud, boxes=False).labels).mean() >= share
    assert isinstance(whole.engine, CpuEngine)
    assert whole.engine.frames_beyond_range == 0
    # That few of 45 million features a cloud, and it is told.
    assert whole.engine.values_cut_off < 1000
    told = {"labelled again in fp32": 0, "values cut off": whole.engine.values_cut_off}
    assert whole.engine.range_counts().items() <= told.items()


@pytest.mark.parametrize("precision", INTEGERS)
@pytest.mark.parametrize(
    "spec",
    [
        NetSpec.spvcnn(4),
        NetSpec.minkunet(6),
        NetSpec.spvcnn(5, num_classes=7),
        NetSpec.spvcnn(9, in_channels=5),
        *(replace(NetSpec.spvcnn(4), point_levels=levels) for levels in LEVELS),
    ],
    ids=["w4", "minkunet", "w5", "five channels", *map(str, LEVELS)],
)
@pytest.mark.parametrize("threads", [1, 3])
def test_logits_of_any_network_are_those_in_float32_but_for_rounding(
    spec: NetSpec, threads: int, precision: str
) -> None:
    """Of networks with random weights, whose classes all but tie, the logits are compared and not the labels."""
    rng = np.random.default_rng(0)
    coords = np.unique(rng.integers(0, 60, (6000, 4)) * [0, 1, 1, 1], axis=0)
    feats = rng.uniform(0, 1, (len(coords), spec.in_channels)).astype(np.float32)
    exact, whole = (
        engine.logits(coords, feats) for engine in engines(golden.trained_looking(spec), precision, threads)
    )
    assert np.sqrt(np.mean((whole - exact) ** 2)) <= LOGIT_ERROR[precision] * exact.std()


@pytest.mark.parametrize("precision", INTEGERS)
@pytest.mark.parametrize("count", [1, 2, 7, 300])
def test_small_clouds_are_labelled_on_any_number_of_threads(count: int, precision: str) -> None:
    points = np.random.default_rng(count).uniform(-3, 3, (count, 4)).astype(np.float32)
    net = golden.trained_looking(NetSpec.spvcnn(6))
    exact, *others = (CpuEngine(net, VOXEL_SIZE, *how) for how in ((1, "fp32"), (1, precision), (3, precision)))
    expected = exact.segment(points, scores=True).scores
    found = [engine.segment(points, scores=True).scores for engine in others]
    np.testing.assert_array_equal(*found)  # type: ignore[arg-type]
    np.testing.assert_allclose(found[0], expected, atol=SCORE_ERROR[precision])  # type: ignore[arg-type]


@pytest.mark.parametrize("precision", INTEGERS)
@pytest.mark.parametrize("far", [5e3, 1e30, 3e38])
def test_a_cloud_beyond_the_range_is_labelled_in_float32(
    far: float, precision: str, caplog: pytest.LogCaptureFixture
) -> None:
    """An input as no training had it: every answer is that in float32, and it is said once."""
    exact, whole = engines(golden.trained_looking(NetSpec.spvcnn(4)), precision)
    rng = np.random.default_rng(0)
    usual = rng.uniform(-5, 5, (500, 4)).astype(np.float32)
    beyond = usual.copy()
    beyond[::50, 3] = far
    with caplog.at_level(logging.WARNING):
        for cloud in (usual, beyond, beyond, usual):
            expected, found = (engine.segment(cloud, scores=True) for engine in (exact, whole))
            if cloud is beyond:
                np.testing.assert_array_equal(found.labels, expected.labels)
                np.testing.assert_array_equal(found.scores, expected.scores)  # type: ignore[arg-type]
    assert whole.frames_beyond_range == 2
    assert caplog.text.count("beyond the range") == 1


@pytest.mark.parametrize("precision", INTEGERS)
def test_weights_are_read_again_when_a_frame_needs_float32(precision: str) -> None:
    """Until then nobody holds the network's weights, and then the answers are those in float32."""
    reads: list[PointVoxelUNet] = []

    def read() -> PointVoxelUNet:
        reads.append(golden.trained_looking(NetSpec.spvcnn(4)))
        return reads[-1]

    net = golden.trained_looking(NetSpec.spvcnn(4))
    exact = CpuEngine(net, VOXEL_SIZE, 1, "fp32")
    weights = weakref.ref(next(net.parameters()))
    engine = CpuEngine(net, VOXEL_SIZE, 1, precision, again=read)
    del net
    gc.collect()
    assert weights() is None
    usual = np.random.default_rng(0).uniform(-5, 5, (500, 4)).astype(np.float32)
    beyond = usual.copy()
    beyond[::50, 3] = 1e5
    engine.segment(usual, scores=True)
    assert not reads
    for _ in range(2):
        expected, found = (each.segment(beyond, scores=True) for each in (exact, engine))
        np.testing.assert_array_equal(found.scores, expected.scores)  # type: ignore[arg-type]
    assert len(reads) == 1


def test_a_stream_that_never_fits_is_tried_on_integers_less_and_less() -> None:
    retreat = Retreat()
    tried = []
    for frame in range(2000):
        if retreat.tries():
            tried.append(frame)
            retreat.tell(fitted=False)
    assert tried == [0, 1, 2, 53, 154, 355, 756, 1557]


@given(st.lists(st.booleans(), max_size=600))
def test_a_frame_that_fits_ends_the_retreat(fits: list[bool]) -> None:
    """Of frames that fit, one is tried after at most the first rest; and those that fit cost no trial."""
    retreat = Retreat()
    for fitted in fits:
        if retreat.tries():
            retreat.tell(fitted)
    while not retreat.tries():
        pass
    retreat.tell(fitted=True)
    assert all(retreat.tries() and not retreat.tell(fitted=True) for _ in range(100))
    assert [retreat.tries() and retreat.tell(fitted=False) for _ in range(3)] == [False, False, True]
    assert retreat.resting == FIRST_REST


@needs_words
def test_a_stream_that_never_fits_costs_one_frame_each(caplog: pytest.LogCaptureFixture) -> None:
    """Stages are counted: the voxels are made once, the geometry once for each way that a frame is run."""
    exact, whole = engines(golden.trained_looking(NetSpec.spvcnn(4)), "int16", threads=1)
    beyond = np.random.default_rng(0).uniform(-5, 5, (300, 4)).astype(np.float32)
    beyond[::50, 3] = 1e5
    expected, runs = exact.segment(beyond, scores=False).labels, []
    with caplog.at_level(logging.WARNING):
        for _ in range(60):
            ticks = count()
            found, laps = whole.segment_timed(beyond, now=lambda ticks=ticks: float(next(ticks)))  # type: ignore[misc]
            runs.append(int(laps["geometry"]))
            np.testing.assert_array_equal(found.labels, expected)
    assert runs == [2, 2, 2, *[1] * FIRST_REST, 2, *[1] * 6]
    assert whole.frames_beyond_range == 60
    assert caplog.text.count("in a row") == 1


@needs_words
@pytest.mark.parametrize("precision", INTEGERS)
def test_a_rehearsal_changes_neither_answers_nor_counts(precision: str) -> None:
    net = golden.trained_looking(NetSpec.spvcnn(4))
    plain, rehearsed = (CpuEngine(net, VOXEL_SIZE, 1, precision) for _ in range(2))
    rng = np.random.default_rng(0)
    beyond = rng.uniform(-5, 5, (3000, 4)).astype(np.float32)
    beyond[::50, 3] = 1e5
    rehearsed.rehearse(beyond, True)
    assert rehearsed.frames_beyond_range == 0
    # One that is smaller, for which the memory is given up, and one that is larger.
    for points in (300, 4000, 300):
        cloud = np.column_stack((rng.uniform(-5, 5, (points, 3)), rng.random(points))).astype(np.float32)
        expected, found = (each.segment(cloud, scores=True) for each in (plain, rehearsed))
        np.testing.assert_array_equal(found.labels, expected.labels)
        np.testing.assert_array_equal(found.scores, expected.scores)
    assert rehearsed.range_counts() == plain.range_counts()


def test_kernels_compiled_ahead_are_those_that_frames_need() -> None:
    """Another type of any argument would have them compiled again, in the frame that needs them."""
    net = golden.trained_looking(NetSpec.spvcnn(4))
    compile_kernels(build_plan(net).light())
    CpuEngine(net, VOXEL_SIZE, 1, "fp32").segment(np.ones((5, 4), np.float32), scores=True)
    for kernel in (convolve.convolve, convolve.fuse_points, convolve.mean_points):
        assert len(kernel.signatures) == 1


def test_kernels_are_compiled_ahead_in_a_process_that_says_nothing() -> None:
    done = subprocess.run(
        command_of("spvnas_ros.engine.cpu.compile_ahead"), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_an_engine_does_not_run_on_weights_that_were_changed_meanwhile() -> None:
    net = golden.trained_looking(NetSpec.spvcnn(4))
    plan = build_plan(net)
    with torch.no_grad():
        net.encoder[0].transition.conv.kernel.mul_(2)  # type: ignore[union-attr, index]
    with pytest.raises(RuntimeError, match="build the engine again"):
        [source.kernel for step in plan.steps if isinstance(step, Convolution) for source in step.sources]


@needs_words
def test_a_network_without_known_ranges_runs_in_float32() -> None:
    net = golden.trained_looking(NetSpec.spvcnn(4))
    with torch.no_grad():
        net.encoder[1].transition.norm.weight[0] = float("inf")  # type: ignore[union-attr, index]
    engine = CpuEngine(net, VOXEL_SIZE, 1)
    assert engine.precision == "fp32"
    assert "encoder.1.transition" in engine.precision_reason
    for precision in ("int16", "int8"):
        with pytest.raises(UserError, match=rf"'{precision}' is not to be had.*'fp32'"):
            CpuEngine(net, VOXEL_SIZE, 1, precision)


@needs_words
@pytest.mark.parametrize("spoil", ["one channel large", "a weight that nothing reaches"])
def test_a_network_that_rounding_would_drown_runs_in_float32(spoil: str) -> None:
    """The same function in float32, but with channels, or weights, that one step of an integer does not fit."""
    net = golden.trained_looking(NetSpec.spvcnn(4))
    usual = CpuEngine(net, VOXEL_SIZE, 1)
    assert usual.precision == "int16"
    block = net.encoder[0].blocks[1]  # type: ignore[union-attr, index]
    norm, kernel = block.first.norm, block.second.conv.kernel  # type: ignore[union-attr]
    with torch.no_grad():
        if spoil == "one channel large":
            norm.weight[1:] *= 1e-4  # type: ignore[index, operator]
            norm.bias[1:] *= 1e-4  # type: ignore[index, operator]
            kernel[:, 1:] *= 1e4  # type: ignore[index, operator]
        else:
            norm.weight[0], norm.bias[0] = 0, -1  # type: ignore[index, operator]
            kernel[:, 0] *= 1e6  # type: ignore[index, operator]
    engine = CpuEngine(net, VOXEL_SIZE, 1)
    assert engine.precision == "fp32"
    assert "encoder.0.blocks.1.second reads differ too much" in engine.precision_reason
    with pytest.raises(UserError, match=r"differ too much.*use 'fp32'"):
        CpuEngine(net, VOXEL_SIZE, 1, "int16")


def test_a_precision_that_an_engine_has_not_is_named() -> None:
    net = golden.trained_looking(NetSpec.spvcnn(4))
    with pytest.raises(UserError, match=r"CPU engine has no precision 'bf16', expected auto, int16, int8, fp32"):
        build_engine(net, VOXEL_SIZE, device="cpu", precision="bf16")
    with pytest.raises(UserError, match="unknown precision 'int4'"):
        build_engine(net, VOXEL_SIZE, device="cpu", precision="int4")
    with pytest.raises(UserError, match="engine 'torch' runs in fp32 alone"):
        build_engine(net, VOXEL_SIZE, device="cpu", engine="torch", precision="int16")


def test_ranges_add_where_branches_meet() -> None:
    """A feature never exceeds its slot's range where BatchNorm's values are within so many deviations."""
    net = golden.trained_looking(NetSpec.spvcnn(4))
    plan = build_plan(net)
    by_name = {step.name: plan.slots[step.out] for step in plan.steps}
    fused, mean = by_name["points.1"], by_name["points.1.mean"]
    assert mean.reach(8) == fused.reach(8) > by_name["decoder.1.blocks.1.second"].reach(8)
    block = net.encoder[0].blocks[1]  # type: ignore[union-attr, index]
    own = (block.second.norm.bias + 8 * block.second.norm.weight.abs()).clamp(min=0).max().item()  # type: ignore[union-attr]
    assert own < by_name["encoder.0.blocks.1.second"].reach(8)
    assert by_name["classifier"].reach(8) == np.inf
    assert replace(fused, spreads=()).reach(8) == np.inf


@needs_words
def test_without_avx512_integers_give_the_same_answers(tmp_path: Path) -> None:
    """Numba's own settings take AVX-512 away: another instruction, smaller register blocks, the same sums."""
    if platform.machine() != "x86_64":
        pytest.skip(f"switches x86-64 features off; this machine is {platform.machine()}")
    names = "sse sse2 sse3 ssse3 sse4.1 sse4.2 avx avx2 fma f16c bmi bmi2 popcnt lzcnt cx16 movbe"
    avx2 = {
        "NUMBA_CPU_NAME": "haswell",
        "NUMBA_CPU_FEATURES": ",".join(f"+{name}" for name in names.split()),
        "NUMBA_CACHE_DIR": str(tmp_path),
    }
    command = [sys.executable, HELPERS / "cold_start.py", "int16", "int8"]
    run = subprocess.run(command, env={**os.environ, **avx2}, capture_output=True, text=True, check=True)
    assert "compiling the CPU kernels for this machine (AVX2, int16)" in run.stderr
    # Without VNNI there is no int8, and nothing is compiled for it.
    assert "int8' is not to be had: this machine (AVX2) has no exact products of 8 bits: AVX512-VNNI" in run.stderr
    assert "use 'auto', 'int16' or 'fp32'" in run.stderr
    np.testing.assert_allclose(
        np.fromstring(run.stdout.strip("[]\n "), sep=","), cold_start.answers("int16"), atol=0.05
    )
