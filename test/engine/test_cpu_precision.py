"""The CPU engine on integers: labels as in float32, or nearly so, and never wrong in silence."""

from __future__ import annotations

import logging
import os
import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import cold_start
import golden
from places import HELPERS
from spvnas_ros import Perception
from spvnas_ros.engine import build_engine
from spvnas_ros.engine.cpu import CpuEngine
from spvnas_ros.engine.plan import build_plan
from spvnas_ros.errors import UserError
from spvnas_ros.kernels.cpu.shape import host_words
from spvnas_ros.nets.spec import NetSpec
from spvnas_ros.nets.unet import PointVoxelUNet
from spvnas_ros.recordings.scans import read_scan
from spvnas_ros.recordings.scans.source import open_source

VOXEL_SIZE = 0.05
EQUAL_LABELS = {"int16": (0.999, 0.999, 0.999), "int8": (0.99, 0.99, 0.98)}
"""Of two scans of the kind that the network was trained for, and of one with 16 beams."""
LOGIT_ERROR = {"int16": 0.01, "int8": 0.15}
SCORE_ERROR = {"int16": 0.02, "int8": 0.2}

HOST = host_words()
needs_words = pytest.mark.skipif(HOST is None, reason="this machine has no fast 16-bit products")
needs_bytes = pytest.mark.skipif(HOST is None or not HOST.fused, reason="this machine has no exact 8-bit products")
INTEGERS = [pytest.param("int16", marks=needs_words), pytest.param("int8", marks=needs_bytes)]


def engines(net: PointVoxelUNet, precision: str, threads: int = 2) -> tuple[CpuEngine, CpuEngine]:
    return CpuEngine(net, VOXEL_SIZE, threads, "fp32"), CpuEngine(net, VOXEL_SIZE, threads, precision)


@pytest.mark.parametrize("precision", INTEGERS)
def test_the_shipped_network_labels_real_scans_as_in_float32(shared: Path, precision: str) -> None:
    exact, whole = (Perception.load("default", device="cpu", precision=p) for p in ("fp32", precision))
    assert (exact.engine.precision, whole.engine.precision) == ("fp32", precision)
    scans = sorted((shared / "data" / "semantickitti").glob("sequences/*/velodyne/*.bin"))
    clouds = [read_scan(scan, "unit") for scan in scans[::7]]
    with open_source(shared / "data" / "bags" / "vlp16_pointcloud2_mcap") as bag:
        clouds.append(next(iter(bag)).load().points)
    assert len(clouds) == 3
    for cloud, share in zip(clouds, EQUAL_LABELS[precision], strict=True):
        assert (exact(cloud).labels == whole(cloud).labels).mean() >= share
    assert isinstance(whole.engine, CpuEngine)
    assert whole.engine.frames_beyond_range == 0
    # That few of 45 million features a cloud, and it is told.
    assert whole.engine.values_cut_off < 1000
    told = {"labelled again in fp32": 0, "values cut off": whole.engine.values_cut_off}
    assert whole.engine.range_counts().items() <= told.items()


@pytest.mark.parametrize("precision", INTEGERS)
@pytest.mark.parametrize(
    "spec",
    [NetSpec.spvcnn(4), NetSpec.minkunet(6), NetSpec.spvcnn(5, num_classes=7), NetSpec.spvcnn(9, in_channels=5)],
    ids=["w4", "minkunet", "w5", "five channels"],
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
