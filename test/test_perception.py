"""The one public door: every point gets an answer, whatever the cloud looks like and whichever engine runs."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from joint_networks import joint_facts, joint_network
from spvnas_ros import Perception, Segmentation
from spvnas_ros.engine.sample_street import street_scan
from spvnas_ros.frame import UNLABELLED
from spvnas_ros.labels import LABEL_MAPS, MIT_HAN_LAB, SEMANTIC_KITTI
from spvnas_ros.nets.spec import NetSpec
from spvnas_ros.nets.unet import PointVoxelUNet
from spvnas_ros.zoo.checkpoint import CheckpointError, Facts, save_checkpoint

ENGINES = ("cpu", "torch")


def network() -> PointVoxelUNet:
    torch.manual_seed(0)
    return PointVoxelUNet(NetSpec.spvcnn(4)).eval()


@cache
def reference() -> Perception:
    """By the torch engine; the same for every example of a property."""
    return Perception.from_net(network(), engine="torch")


@pytest.fixture(scope="module", params=ENGINES)
def perception(request: pytest.FixtureRequest) -> Perception:
    return Perception.from_net(network(), engine=request.param)


def cloud(count: int = 500, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-5, 5, (count, 4)).astype(np.float32)


def assert_whole(result: Segmentation, points: np.ndarray) -> None:
    assert result.labels.dtype == np.uint8
    assert result.confidence.dtype == np.float32
    assert len(result.labels) == len(result.confidence) == len(points)
    usable = np.isfinite(points).all(axis=1) & (points[:, :3] != 0).any(axis=1)
    assert (result.labels[usable] < 19).all()
    assert (result.confidence[usable] > 0).all()
    assert (result.labels[~usable] == UNLABELLED).all()
    assert (result.confidence[~usable] == 0).all()


def test_every_point_is_labelled_and_scores_are_probabilities(perception: Perception) -> None:
    points = cloud()
    result = perception(points, scores=True)
    assert_whole(result, points)
    assert result.scores is not None
    assert result.scores.shape == (500, 19)
    np.testing.assert_allclose(result.scores.sum(axis=1), 1, rtol=1e-5)
    assert perception(points).scores is None


def test_an_empty_cloud_gives_empty_results(perception: Perception) -> None:
    result = perception(np.zeros((0, 4), np.float32), scores=True)
    assert_whole(result, np.zeros((0, 4), np.float32))
    assert result.scores is not None
    assert result.scores.shape == (0, 19)


def test_a_cloud_of_nothing_but_nan_is_unlabelled(perception: Perception) -> None:
    points = np.full((5, 4), np.nan, np.float32)
    assert_whole(perception(points, scores=True), points)


@settings(max_examples=30)
@given(
    hnp.arrays(np.float32, st.tuples(st.integers(0, 60), st.just(4)), elements=st.floats(-50, 50, width=32)),
    st.lists(st.tuples(st.integers(0, 59), st.integers(0, 3), st.sampled_from([np.nan, np.inf, -np.inf])), max_size=9),
)
def test_points_that_are_not_finite_change_nothing_for_the_others(
    points: np.ndarray, holes: list[tuple[int, int, float]]
) -> None:
    perception = reference()
    for row, column, value in holes:
        if row < len(points):
            points[row, column] = value
    result = perception(points)
    assert_whole(result, points)
    usable = result.labels != UNLABELLED
    np.testing.assert_array_equal(result.labels[usable], perception(points[usable]).labels)


def test_points_outside_the_networks_range_are_unlabelled() -> None:
    facts = replace(Facts(spec=NetSpec.spvcnn(4)), point_range=(-2.0, -5.0, -5.0, 2.0, 5.0, 5.0))
    points = cloud()
    result = Perception.from_net(network(), facts)(points)
    inside = np.abs(points[:, 0]) <= 2
    assert (result.labels[inside] < 19).all()
    assert (result.labels[~inside] == UNLABELLED).all()


@pytest.mark.parametrize(
    ("points", "found"),
    [
        (np.zeros((3, 3), np.float32), r"float32 \(3, 3\)"),
        (np.zeros(4, np.float32), r"float32 \(4,\)"),
        ([[0, 0, 0, 0]], "list"),
    ],
)
def test_a_wrong_shape_is_named(perception: Perception, points: object, found: str) -> None:
    with pytest.raises(ValueError, match=rf"\[N, 4\].*found {found}"):
        perception(points)  # type: ignore[arg-type]


def test_a_stray_point_beyond_the_key_range_is_left_out(perception: Perception) -> None:
    points = cloud()
    others = np.arange(len(points)) != 7
    points[7, 0] = 1e6
    result = perception(points)
    assert (result.labels[7], result.confidence[7], result.unusable.counts()["too_far"]) == (UNLABELLED, 0, 1)
    alone = perception(points[others])
    np.testing.assert_array_equal(result.labels[others], alone.labels)
    np.testing.assert_array_equal(result.confidence[others], alone.confidence)


def test_unknown_engines_and_devices_are_named() -> None:
    with pytest.raises(ValueError, match="unknown engine 'tpu', expected one of auto, cpu, cuda, torch"):
        Perception.from_net(network(), engine="tpu")
    with pytest.raises(ValueError, match="unknown device 'banana'"):
        Perception.from_net(network(), device="banana")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match=r"'cuda' is not there: torch .* sees 0 CUDA"):
            Perception.from_net(network(), device="cuda")


def test_the_cpu_engine_can_be_chosen_where_there_is_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert Perception.from_net(network(), engine="cpu").engine.device == "cpu"


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int32, np.uint8, ">f4"])
def test_other_numbers_strides_and_orders_mean_the_same(perception: Perception, dtype: npt.DTypeLike) -> None:
    points = cloud().round().astype(np.float32).clip(0, None)
    expected = perception(points).labels
    np.testing.assert_array_equal(perception(points.astype(dtype)).labels, expected)
    np.testing.assert_array_equal(perception(np.asfortranarray(points)).labels, expected)
    np.testing.assert_array_equal(perception(np.repeat(points, 2, axis=0)[::2]).labels, expected)
    points.flags.writeable = False
    np.testing.assert_array_equal(perception(points).labels, expected)


def test_facts_of_another_network_are_refused() -> None:
    with pytest.raises(CheckpointError, match="the facts describe another network"):
        Perception.from_net(network(), Facts(spec=NetSpec.spvcnn(5)))


def test_a_process_that_is_forked_while_a_cloud_is_labelled_labels_too() -> None:
    """The clock of the stages is read in the middle of a frame: then another thread forks."""
    code = (
        "import os, threading, numpy as np; from spvnas_ros.engine.cpu import CpuEngine;"
        "from spvnas_ros.nets.spec import NetSpec; from spvnas_ros.nets.unet import PointVoxelUNet;"
        "engine = CpuEngine(PointVoxelUNet(NetSpec.spvcnn(4)), 0.05, threads=1);"
        "points = np.ones((10, 4), np.float32); codes = []\n"
        "def fork():\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        os._exit(len(engine.segment(points, False).labels))\n"
        "    codes.append(os.waitpid(child, 0)[1])\n"
        "def now():\n"
        "    if not codes:\n"
        "        thread = threading.Thread(target=fork); thread.start(); thread.join()\n"
        "    return 0.0\n"
        "engine.segment_timed(points, now=now); print(os.waitstatus_to_exitcode(codes[0]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=True)
    assert done.stdout.strip() == "10"


def test_a_forked_process_labels_too() -> None:
    """As data loaders and multiprocessing do it: the child has none of its parent's threads."""
    code = (
        "import os, numpy as np, torch; from spvnas_ros.engine.cpu import CpuEngine;"
        "from spvnas_ros.nets.spec import NetSpec; from spvnas_ros.nets.unet import PointVoxelUNet;"
        "engine = CpuEngine(PointVoxelUNet(NetSpec.spvcnn(4)), 0.05, threads=2);"
        "points = np.random.default_rng(0).uniform(-5, 5, (500, 4)).astype(np.float32);"
        "engine.segment(points, False); child = os.fork();"
        "engine.segment(points, False);"
        "os._exit(0) if child == 0 else exit(os.waitpid(child, 0)[1])"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=120, check=False).returncode == 0


def test_a_forked_process_finds_boxes_too() -> None:
    """Torch's threads, which the parent has used for the bird's-eye view, are not the child's."""
    code = (
        "import os; from spvnas_ros.perception import Perception;"
        "from spvnas_ros.engine.sample_street import street_scan;"
        "perception = Perception.load('default', device='cpu'); points = street_scan(1, beams=16)[0];"
        "count = len(perception(points).boxes.scores); child = os.fork();"
        "found = len(perception(points).boxes.scores);"
        "os._exit(0 if found == count else 3) if child == 0 else exit(os.waitpid(child, 0)[1] // 256)"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, timeout=100, check=False)
    assert done.returncode == 0


def test_nowhere_to_keep_the_kernels_is_said() -> None:
    code = (
        "import sys; from numba.core import caching; caching.CacheImpl._locator_classes = [];"
        "from spvnas_ros.nets.spec import NetSpec; from spvnas_ros.nets.unet import PointVoxelUNet;"
        "from spvnas_ros.engine import build_engine;"
        "build_engine(PointVoxelUNet(NetSpec.spvcnn(4)), 0.05, device='cpu')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "OSError" in done.stderr
    assert "NUMBA_CACHE_DIR" in done.stderr


def test_load_picks_the_cpu_engine_and_keeps_the_facts(tmp_path: Path) -> None:
    net = network()
    save_checkpoint(tmp_path / "net.safetensors", net, Facts(spec=net.spec, name="mine", trained=False))
    loaded = Perception.load(tmp_path / "net.safetensors", device="cpu")
    assert loaded.engine.name == "cpu"
    assert loaded.facts.name == "mine"
    points = cloud()
    np.testing.assert_array_equal(loaded(points).labels, Perception.from_net(net, engine="torch")(points).labels)
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError):
        Perception.load(tmp_path / "broken.safetensors")


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_gives_the_same_labels_on_a_full_scan(full_scan: np.ndarray) -> None:
    torch.manual_seed(0)
    net = PointVoxelUNet(NetSpec.spvcnn(16)).eval()
    here = Perception.from_net(net, device="cpu", engine="torch")(full_scan)
    there = Perception.from_net(net, device="cuda", engine="torch")(full_scan)
    assert (here.labels == there.labels).mean() >= 0.9999


def test_idle_openmp_threads_sleep_unless_the_user_says_otherwise() -> None:
    code = "import spvnas_ros, os; print(os.environ['OMP_WAIT_POLICY'])"
    for mine, expected in ({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE"):
        done = subprocess.run([sys.executable, "-c", code], env=mine, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == expected


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from spvnas_ros import cli; print(sorted({'torch', 'numba', 'numpy', 'rclpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_two_label_maps_differ_where_the_sources_do() -> None:
    raw = np.array([13, 16, 60, 256, 257, 40, 0, 252], np.uint32) | (7 << 16)
    official, released = SEMANTIC_KITTI.encode(raw), MIT_HAN_LAB.encode(raw)
    names = [SEMANTIC_KITTI.classes[i] if i < 19 else "-" for i in official]
    assert names == ["other-vehicle", "other-vehicle", "road", "other-vehicle", "other-vehicle", "road", "-", "car"]
    assert released.tolist() == [255, 255, 255, 255, 255, 8, 255, 0]


@pytest.mark.parametrize("name", LABEL_MAPS)
def test_raw_ids_round_trip_and_unknown_ones_are_refused(name: str) -> None:
    label_map = LABEL_MAPS[name]
    labels = np.array([*range(len(label_map.classes)), UNLABELLED], np.uint8)
    assert (label_map.encode(label_map.decode(labels)) == labels).all()
    with pytest.raises(ValueError, match=r"does not list raw label id\(s\) \[77, 1234\]"):
        label_map.encode(np.array([10, 1234, 77]))


def test_real_labels_are_all_listed(shared: Path) -> None:
    files = sorted((shared / "data" / "semantickitti").glob("sequences/*/labels/*.label"))
    assert files
    for file in files:
        encoded = SEMANTIC_KITTI.encode(np.fromfile(file, np.uint32))
        assert set(np.unique(encoded)) <= {*range(19), UNLABELLED}


def test_intensities_of_another_scale_are_clipped_with_a_warning_and_a_few_bright_ones_without() -> None:
    perception, points = reference(), cloud()
    points[:, 3] = np.linspace(0.1, 0.9, len(points))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        few = points.copy()
        few[::10, 3] = 1.004
        clipped = few.copy()
        clipped[::10, 3] = 1
        np.testing.assert_array_equal(perception(few).confidence, perception(clipped).confidence)
    with pytest.warns(UserWarning, match="intensities were above 1 and clipped; scale them to 0..1"):
        perception(points * np.array([1, 1, 1, 255], np.float32))


@pytest.mark.parametrize("engine", ["cpu", "torch"])
def test_labels_that_are_handed_over_first_are_those_of_a_call(engine: str) -> None:
    scan = street_scan(9, 16, 200)[0]
    net = joint_network(2, scan)
    perception = Perception.from_net(net, joint_facts(net), device="cpu", engine=engine)
    points = scan.copy()
    points[::7, 0] = np.nan
    expected, early = perception(points), []
    found = perception.in_two(points, early.append)
    assert perception.labels_first == (engine == "cpu")
    assert len(early) == 1
    for each in (early[0], found):
        np.testing.assert_array_equal(each.labels, expected.labels)
        np.testing.assert_array_equal(each.confidence, expected.confidence)
        assert each.unusable == expected.unusable
    assert found.boxes is not None
    assert expected.boxes is not None
    np.testing.assert_array_equal(found.boxes.boxes, expected.boxes.boxes)
    assert (early[0].boxes is None) == (engine == "cpu")
    nothing = perception.in_two(points[:0], early.append)
    assert len(early[1]) == len(nothing) == 0
    with pytest.raises(ZeroDivisionError):
        perception.in_two(points, lambda _: 1 // 0)
    np.testing.assert_array_equal(perception(points).labels, expected.labels)
