"""Boxes from the pass that labels: the engines agree with the network, and nothing is done for nobody."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from joint_networks import EDGE
from joint_networks import joint_facts as facts
from joint_networks import joint_network as network
from spvnas_ros.boxes.overlap import bev_overlap
from spvnas_ros.engine import build_engine, check_agreement
from spvnas_ros.engine.box_finder import bfloat_is_fast
from spvnas_ros.engine.cpu import CpuEngine
from spvnas_ros.frame import UNLABELLED, Points
from spvnas_ros.kernels.cpu.shape import host_words
from spvnas_ros.nets.unet import PointVoxelUNet
from spvnas_ros.perception import Perception
from spvnas_ros.recordings.scans import read_scan


@pytest.fixture(scope="module")
def scan(shared: Path) -> Points:
    return read_scan(shared / "data" / "kitti" / "training" / "velodyne" / "000000.bin")


@pytest.mark.parametrize(("level", "point_branch"), [(1, True), (2, True), (2, False), (3, True), (4, True)])
def test_the_engine_finds_the_boxes_of_the_network(scan: Points, level: int, point_branch: bool) -> None:
    """In float32: the scores of a random network all but tie, and only equal sums put them into one order."""
    net = network(level, scan, point_branch)
    reference, fast = (
        Perception.from_net(net, facts(net), device="cpu", engine=engine, precision="fp32")(scan)
        for engine in ("torch", "cpu")
    )
    assert reference.boxes is not None
    assert fast.boxes is not None
    assert len(fast.boxes) == len(reference.boxes) > 0
    np.testing.assert_array_equal(fast.boxes.classes, reference.boxes.classes)
    np.testing.assert_allclose(fast.boxes.scores, reference.boxes.scores, atol=1e-4)
    np.testing.assert_allclose(fast.boxes.boxes, reference.boxes.boxes, atol=1e-3, rtol=1e-3)


def test_boxes_from_the_fastest_precision_are_alike(scan: Points) -> None:
    net = network(2, scan)
    check_agreement(*(build_engine(net, EDGE, device="cpu", engine=engine) for engine in ("cpu", "torch")), scan)


@pytest.mark.parametrize("engine", ["torch", "cpu"])
@pytest.mark.parametrize("level", [0, 2, 4])
def test_boxes_alone_are_those_beside_labels(scan: Points, level: int, engine: str) -> None:
    net = network(level, scan[::20])
    perception = Perception.from_net(net, facts(net), device="cpu", engine=engine)
    both, alone = perception(scan[::20]), perception(scan[::20], labels=False)
    assert both.boxes is not None
    assert alone.boxes is not None
    assert len(both.boxes) > 0
    np.testing.assert_array_equal(alone.boxes.boxes, both.boxes.boxes)
    np.testing.assert_array_equal(alone.boxes.scores, both.boxes.scores)
    assert set(alone.labels.tolist()) == {UNLABELLED}
    assert not alone.confidence.any()
    np.testing.assert_array_equal(perception(scan[::20], boxes=False).labels, both.labels)


def test_what_only_labels_need_is_not_run_for_boxes(scan: Points) -> None:
    net = network(2, scan[::20])
    engine = build_engine(net, EDGE, engine="cpu")
    assert isinstance(engine, CpuEngine)
    stages = engine.segment_timed(scan[::20], boxes=True, labels=False)[1]
    assert "boxes" in stages
    assert not {"labels", "classifier", "decoder.3.transition", "points.2"} & set(stages)


@pytest.mark.parametrize("engine", ["torch", "cpu"])
def test_points_that_no_network_sees_change_no_box(scan: Points, engine: str) -> None:
    net = network(2, scan)
    perception = Perception.from_net(net, facts(net), device="cpu", engine=engine)
    assert perception.box_names == ("car", "person")
    spoilt = np.concatenate([scan[:100], np.full((5, 4), np.nan, np.float32), np.zeros((3, 4), np.float32), scan[100:]])
    clean, found = perception(scan).boxes, perception(spoilt).boxes
    assert clean is not None
    assert found is not None
    np.testing.assert_array_equal(found.boxes, clean.boxes)
    np.testing.assert_array_equal(found.scores, clean.scores)
    nothing = perception(np.zeros((0, 4), np.float32)).boxes
    assert nothing is not None
    assert perception(scan, boxes=False).boxes is None


@pytest.mark.parametrize("engine", ["torch", "cpu"])
def test_a_network_without_a_branch_finds_none(scan: Points, engine: str) -> None:
    net = PointVoxelUNet(replace(network(2, scan).spec, boxes=None)).eval()
    perception = Perception.from_net(net, facts(net), device="cpu", engine=engine)
    assert perception.box_names == ()
    assert perception(scan).boxes is None


needs_bfloat = pytest.mark.skipif(
    host_words() is None or not bfloat_is_fast(), reason="this CPU does not multiply bfloat16 (AVX512-BF16)"
)


@needs_bfloat
def test_boxes_in_bfloat_are_those_in_float32(shared: Path) -> None:
    """As docs/detection.md says of `default`: scores within 0.01, and places within 2 cm but for two in a hundred."""
    exact, narrow = (Perception.load("default", device="cpu", precision=each) for each in ("fp32", "int16"))
    files = sorted((shared / "data").glob("semantickitti/sequences/*/velodyne/*.bin"))
    files += sorted((shared / "data" / "kitti" / "training" / "velodyne").glob("*.bin"))
    moved, changed = [], []
    for file in files[::3]:
        ours, theirs = (each(read_scan(file, "unit"), labels=False).boxes for each in (narrow, exact))
        assert ours is not None
        assert theirs is not None
        for one, other in ((ours, theirs), (theirs, ours)):
            sure = one.scores > 0.3
            overlaps = bev_overlap(one.boxes[sure], other.boxes) * (one.classes[sure, None] == other.classes)
            match = overlaps.argmax(axis=1)
            moved.append(np.abs(one.boxes[sure, :6] - other.boxes[match, :6]).max(axis=1))
            changed.append(np.abs(one.scores[sure] - other.scores[match]))
    distances = np.concatenate(moved)
    assert len(distances) > 80
    assert (distances < 0.02).mean() >= 0.98
    assert np.concatenate(changed).max() < 0.01
