"""`spvnas doctor` with weights that find boxes: do reach, height and resolution fit, in a line each."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from examined_bags import about, invoke
from joint_networks import joint_facts, joint_network
from spvnas_ros.doctor import examine, observe
from spvnas_ros.doctor.command import Looking, measure
from spvnas_ros.engine.sample_street import street_scan, write_drive_bag
from spvnas_ros.nets.box_spec import BoxBranchSpec
from spvnas_ros.nets.detector_spec import DetectorSpec
from spvnas_ros.perception import Perception
from spvnas_ros.zoo.checkpoint import Facts
from spvnas_ros.zoo.detector_checkpoint import DetectorFacts


@pytest.fixture(scope="module")
def joint() -> Perception:
    net = joint_network(2, street_scan(0, 16, 200)[0])
    return Perception.from_net(net, joint_facts(net), device="cpu")


def reaching(facts: Facts, reach: float) -> Facts:
    """The same network with boxes within another distance."""
    assert facts.spec.boxes is not None
    branch = BoxBranchSpec.around(facts.voxel_size, facts.spec.boxes.head.classes, width=4, reach=reach)
    return replace(facts, spec=replace(facts.spec, boxes=branch))


def test_real_scans_fit_a_network_of_their_height_whose_boxes_reach_as_far(shared: Path, joint: Perception) -> None:
    clouds = observe(shared / "data/kitti/training/velodyne")
    findings = examine(clouds, reaching(joint.facts, 51.2))
    assert {name: about(findings, name).level for name in ("boxes", "anchors", "objects")} == dict.fromkeys(
        ("boxes", "anchors", "objects"), "ok"
    )
    assert "found within 51.2 m along x and y" in about(findings, "boxes").found
    assert "person to 4" in about(findings, "objects").found  # 64 beams, 1.75 m
    near = about(examine(clouds, reaching(joint.facts, 12.8)), "boxes")
    assert near.level == "warn"
    assert "within 12.8 m" in near.found


def test_a_detector_that_looks_ahead_is_told_what_lies_beyond(shared: Path) -> None:
    facts = DetectorFacts(DetectorSpec.second("openpcdet"), name="second")
    findings = examine(observe(shared / "data/kitti/training/velodyne"), facts)
    assert "boxes of Car, Pedestrian, Cyclist" in about(findings, "weights").found
    beyond = about(findings, "boxes")
    assert beyond.level == "warn"
    assert "at x 0 to 70.4 m, y -40 to 40 m" in beyond.found
    # The anchors of its Pedestrian float, and its network knows it.
    assert "Car stands 1.78 m below" in about(findings, "anchors").found
    assert about(findings, "anchors").level == "ok"


@pytest.mark.parametrize(("up", "level", "word"), [(0.0, "ok", ""), (1.0, "warn", "below"), (-0.7, "warn", "above")])
def test_anchors_off_the_ground_are_told(tmp_path: Path, joint: Perception, up: float, level: str, word: str) -> None:
    points = street_scan(0, 64, 400)[0] + np.array([0, 0, up, 0], np.float32)
    points.tofile(tmp_path / "a.bin")
    found = about(examine(observe(tmp_path / "a.bin"), joint.facts), "anchors")
    assert found.level == level
    assert f"m {word} the ground" in found.advice or not word
    mounted = Looking(mount="auto").observe(tmp_path / "a.bin")
    assert about(examine(mounted, joint.facts), "anchors").level == "ok"


def test_few_beams_show_a_person_only_near_by(shared: Path, joint: Perception) -> None:
    found = about(examine(observe(shared / "data/bags/vlp16_pointcloud2_mcap"), joint.facts), "objects")
    assert found.level == "warn"
    assert "person" in found.advice


def test_a_network_for_both_is_timed_with_and_without_boxes(tmp_path: Path, joint: Perception) -> None:
    street_scan(0, 16, 200)[0].tofile(tmp_path / "a.bin")
    clouds = observe(tmp_path / "a.bin")
    timing = measure(joint, clouds, 1)
    assert timing is not None
    assert (len(timing.ms), len(timing.boxed_ms)) == (1, 1)
    findings = examine(clouds, joint.facts, timing)
    assert [each.about for each in findings][-2:] == ["network", "with boxes"]


def test_the_command_takes_a_detector(tmp_path: Path, detector_weights: Path) -> None:
    write_drive_bag(tmp_path / "drive", 1, beams=16, columns=60)
    status, out, error = invoke(tmp_path / "drive", "-w", detector_weights, "--device", "cpu", "--frames", "1")
    assert (status, error) == (0, "")
    assert "these weights are untrained: the boxes will mean nothing" in out
    assert "1 measured" in out
    assert "anchors" in out
