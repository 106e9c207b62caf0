"""The CPU engine gives the reference network's answers, on recorded inputs, real scans and odd clouds."""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

import cold_start
import golden
from places import HELPERS
from spvnas_ros import Perception
from spvnas_ros.engine.cpu import CpuEngine
from spvnas_ros.engine.plan import place_slots
from spvnas_ros.engine.reference import ReferenceEngine
from spvnas_ros.kernels.cpu.convolve import microkernel
from spvnas_ros.kernels.cpu.octree import build_octree, voxels_of_coords, voxels_of_points
from spvnas_ros.kernels.cpu.shape import AVX2, AVX512, NEON, SSE, MicroShape
from spvnas_ros.kernels.cpu.team import Team
from spvnas_ros.nets.spec import NetSpec
from spvnas_ros.nets.unet import PointVoxelUNet
from spvnas_ros.sparse import KeyRangeError, build_levels, quantize

RELATIVE_LIMIT = 1e-3
AGREEMENT = 0.9999
VOXEL_SIZE = 0.05


def compare(net: PointVoxelUNet, points: np.ndarray, threads: int = 2) -> None:
    """Same labels and probabilities from the CPU engine and from the reference."""
    ours = CpuEngine(net, VOXEL_SIZE, threads, "fp32").segment(points, scores=True)
    theirs = ReferenceEngine(net, VOXEL_SIZE, torch.device("cpu")).segment(points, scores=True)
    assert (ours.labels == theirs.labels).mean() >= AGREEMENT
    assert ours.scores is not None
    assert theirs.scores is not None
    np.testing.assert_allclose(ours.scores, theirs.scores, atol=RELATIVE_LIMIT)
    np.testing.assert_allclose(ours.confidence, ours.scores.max(axis=1), rtol=1e-5)
    assert (ours.scores.argmax(axis=1) == ours.labels).all()


@pytest.mark.parametrize(("model", "case"), golden.CASES)
def test_logits_match_upstream(shared: Path, model: str, case: str) -> None:
    engine = CpuEngine(golden.network(shared / "golden", model), VOXEL_SIZE, precision="fp32")
    with np.load(shared / "golden" / f"{model}_{case}.npz") as data:
        logits = engine.logits(golden.coords(data["in/C"]).numpy(), data["in/F"])
        recorded = data["logits_voxel"]
    assert np.abs(logits - recorded).max() <= RELATIVE_LIMIT * np.abs(recorded).max()
    assert (logits.argmax(1) == recorded.argmax(1)).all()


@pytest.mark.parametrize("model", golden.MODELS)
def test_raw_points_are_labelled_as_upstream_labelled_them(shared: Path, model: str) -> None:
    perception = Perception.from_net(golden.network(shared / "golden", model), engine="cpu", precision="fp32")
    with np.load(shared / "golden" / f"{model}_20k.npz") as data:
        assert (perception(data["points"]).labels == data["pred_point"]).all()


@pytest.mark.parametrize(
    "spec",
    [NetSpec.spvcnn(16), NetSpec.spvcnn(20), NetSpec.minkunet(16), NetSpec.spvcnn(5, num_classes=7)],
    ids=["w16", "w20", "minkunet", "w5"],
)
def test_full_scans_match_the_reference(full_scan: np.ndarray, spec: NetSpec) -> None:
    compare(golden.trained_looking(spec), full_scan)


@pytest.mark.parametrize("levels", list(product((False, True), repeat=3)))
def test_points_may_meet_the_voxels_at_any_levels(full_scan: np.ndarray, levels: tuple[bool, bool, bool]) -> None:
    spec = replace(NetSpec.of([8, 12, 4, 20, 16, 12, 8, 4, 12], [1] * 8), point_levels=levels)
    compare(golden.trained_looking(spec), full_scan[::8])


def test_other_real_scans_match_the_reference(shared: Path) -> None:
    net = golden.trained_looking(NetSpec.spvcnn(4))
    scans = sorted((shared / "data" / "semantickitti").glob("sequences/*/velodyne/*.bin"))
    assert scans
    for scan in scans[::4]:
        compare(net, np.fromfile(scan, np.float32).reshape(-1, 4))


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("count", [1, 2, 7, 300])
def test_small_clouds_match_the_reference(count: int, threads: int) -> None:
    rng = np.random.default_rng(count)
    points = rng.uniform(-3, 3, (count, 4)).astype(np.float32)
    compare(golden.trained_looking(NetSpec.spvcnn(6)), points, threads)


def test_frames_do_not_disturb_each_other(full_scan: np.ndarray) -> None:
    engine = CpuEngine(golden.trained_looking(NetSpec.spvcnn(4)), VOXEL_SIZE)
    first = engine.segment(full_scan[:20000], scores=True)
    for size in (500, 60000, 1, 20000):
        again = engine.segment(full_scan[:size], scores=True)
    assert first.scores is not None
    assert again.scores is not None
    np.testing.assert_array_equal(first.scores, again.scores)


@settings(max_examples=8, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 6000), st.sampled_from([0.5, 20.0])), min_size=2, max_size=4))
def test_frames_of_any_sizes_get_what_a_new_engine_gives(frames: list[tuple[int, float]]) -> None:
    """Memory is kept from frame to frame; what an earlier frame left in it reaches no answer, given or to come."""
    net = golden.trained_looking(NetSpec.spvcnn(4))
    engine, answers = CpuEngine(net, VOXEL_SIZE, threads=2), []
    for seed, (count, extent) in enumerate(frames):
        points = np.random.default_rng(seed).uniform(-extent, extent, (count, 4)).astype(np.float32)
        answers.append((points, engine.segment(points, scores=seed % 2 == 0)))
    for points, answer in answers:
        alone = CpuEngine(net, VOXEL_SIZE, threads=1).segment(points, scores=True)
        np.testing.assert_array_equal(answer.labels, alone.labels)
        np.testing.assert_array_equal(answer.confidence, alone.confidence)
        if answer.scores is not None:
            np.testing.assert_array_equal(answer.scores, alone.scores)


def test_a_frame_takes_no_new_memory(full_scan: np.ndarray) -> None:
    """Fresh memory would cost a page fault every 4 KiB: one of 3000 a frame."""
    engine = CpuEngine(golden.trained_looking(NetSpec.spvcnn(4)), VOXEL_SIZE, threads=1)
    faults = []
    for _ in range(12):
        before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
        engine.segment(full_scan, scores=False)
        faults.append(resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before)
    assert np.median(faults[2:]) < 300  # the answer itself is new memory


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(1, 400), st.sampled_from([2, 9, 60, 1000]), st.integers(1, 5))
def test_the_octree_finds_the_reference_kernel_maps(seed: int, count: int, extent: int, scans: int) -> None:
    rng = np.random.default_rng(seed)
    coords = np.concatenate([rng.integers(0, scans, (count, 1)), rng.integers(-extent, extent, (count, 3))], axis=1)
    coords = np.unique(coords, axis=0)
    rng.shuffle(coords)
    cloud = voxels_of_coords(coords)
    reference = build_levels(torch.from_numpy(coords))
    assert (cloud.first == reference.order.numpy()).all()
    assert (cloud.keys == reference.levels[0].keys.numpy()).all()
    keys, families, neighbours = build_octree(Team(2), cloud.keys, depth=4)
    for level, theirs in enumerate(reference.neighbours):
        ours = neighbours[level]
        rows = np.repeat(np.arange(len(keys[level])), np.diff(ours.starts))
        found = sorted(zip(rows.tolist(), ours.kernel_rows.tolist(), ours.rows.tolist(), strict=True))
        kernel_rows = np.repeat(np.arange(27), theirs.sizes).tolist()
        expected = sorted(zip(theirs.out_rows.tolist(), kernel_rows, theirs.in_rows.tolist(), strict=True))
        assert found == expected
    for family, parents in zip(families, reference.parents, strict=True):
        assert (family.parents == parents.numpy()).all()


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(1, 300), st.sampled_from([0.05, 0.1, 0.037]))
def test_voxels_are_the_reference_voxels(seed: int, count: int, voxel_size: float) -> None:
    points = np.random.default_rng(seed).normal(0, 1, (count, 4)).astype(np.float32)
    ours, theirs = voxels_of_points(points, voxel_size), quantize(torch.from_numpy(points), voxel_size)
    assert (ours.first == theirs.first.numpy()).all()
    assert (ours.inverse == theirs.inverse.numpy()).all()


@pytest.mark.parametrize("far", [0.05 * 2**18, 1e6, 1e30])
def test_clouds_beyond_the_key_range_are_refused(far: float) -> None:
    engine = CpuEngine(golden.trained_looking(NetSpec.spvcnn(4)), VOXEL_SIZE)
    with pytest.raises(KeyRangeError, match="at most 262144"):
        engine.segment(np.array([[0, 0, 0, 0], [far, 0, 0, 0]], np.float32), scores=False)
    with pytest.raises(KeyRangeError, match="from the origin"):
        engine.segment(np.array([[1e9, 0, 0, 0]], np.float32), scores=False)


def test_unusable_input_is_named() -> None:
    net = golden.trained_looking(NetSpec.spvcnn(4))
    with pytest.raises(ValueError, match="at least one thread, found 0"):
        CpuEngine(net, VOXEL_SIZE, threads=0)
    engine = CpuEngine(net, VOXEL_SIZE)
    with pytest.raises(ValueError, match=r"expected coords \[N, 4\]"):
        engine.logits(np.zeros((1, 3), np.int64), np.zeros((1, 4), np.float32))
    with pytest.raises(ValueError, match="same voxel more than once"):
        engine.logits(np.zeros((2, 4), np.int64), np.zeros((2, 4), np.float32))
    with pytest.raises(KeyRangeError, match="more than 1e38 voxels"):
        engine.segment(np.array([[3e38, 0, 0, 0], [0, 0, 0, 0]], np.float32), scores=False)


@pytest.mark.parametrize("shape", [AVX512, AVX2, NEON, SSE], ids=lambda s: s.name)
@pytest.mark.parametrize("vectors", [1, 4])
def test_every_register_block_multiplies(shape: MicroShape, vectors: int) -> None:
    """All shapes are compiled here, whatever this machine has: the compiler splits vectors that are too wide."""
    vectors = min(vectors, shape.vectors)
    kernel, channels, columns = microkernel(shape.rows, vectors, shape.lanes), 5, vectors * shape.lanes

    @njit
    def run(x, rows, panel, out):
        kernel(x.ctypes.data, 4 * x.shape[1], rows.ctypes.data, panel.ctypes.data, out.ctypes.data,
               4 * out.shape[1], rows.ctypes.data, x.shape[1])  # fmt: skip

    rng = np.random.default_rng(0)
    x, panel = rng.normal(size=(40, channels)), rng.normal(size=(channels, columns))
    out = rng.normal(size=(40, columns)).astype(np.float32)
    rows = rng.permutation(40).astype(np.int32)
    expected = out.copy()
    expected[rows[: shape.rows]] += (x[rows[: shape.rows]] @ panel).astype(np.float32)
    run(x.astype(np.float32), rows, panel.astype(np.float32), out)
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-4)


BLOCK = st.tuples(st.integers(1, 100), st.integers(0, 20), st.integers(0, 20))


@given(st.lists(BLOCK, max_size=30))
def test_blocks_that_live_together_never_overlap(blocks: list[tuple[int, int, int]]) -> None:
    sizes = [size for size, _, _ in blocks]
    lives = [(min(a, b), max(a, b)) for _, a, b in blocks]
    offsets, total = place_slots(sizes, lives)
    for i in range(len(blocks)):
        assert 0 <= offsets[i] <= total - sizes[i]
        for j in range(i):
            if lives[i][0] <= lives[j][1] and lives[j][0] <= lives[i][1]:
                assert offsets[i] + sizes[i] <= offsets[j] or offsets[j] + sizes[j] <= offsets[i]


def test_a_machine_without_avx_gets_its_own_kernels_once(tmp_path: Path) -> None:
    """Numba's own settings take AVX away: smaller register blocks, the same answers, compiled once and then cached."""
    if platform.machine() != "x86_64":
        pytest.skip(f"switches x86-64 features off; this machine is {platform.machine()}")

    def run(**settings: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, HELPERS / "cold_start.py", "auto"]
        return subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True, check=True)

    plain = {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": "+sse,+sse2", "NUMBA_CACHE_DIR": str(tmp_path)}
    cold, warm = run(**plain), run(**plain)
    assert "compiling the CPU kernels for this machine (SSE)" in cold.stderr
    assert "compiling" not in warm.stderr
    assert cold.stdout == warm.stdout
    np.testing.assert_allclose(json.loads(cold.stdout), cold_start.answers(), atol=2e-3)
