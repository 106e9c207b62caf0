"""`spvnas evaluate DATA --boxes WEIGHTS`: the boxes of a network against those of simulated drives and of KITTI."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from spvnas_cli import spvnas
from spvnas_ros.frame import Boxes, Points
from spvnas_ros.nets.box_spec import BoxBranchSpec, BoxClass
from spvnas_ros.nets.detector_spec import DetectorSpec
from spvnas_ros.nets.second import Second
from spvnas_ros.nets.spec import NetSpec
from spvnas_ros.nets.unet import PointVoxelUNet
from spvnas_ros.offline.datasets.boxed import open_boxed
from spvnas_ros.offline.evaluation.box_network import BoxNetwork, evaluate_network
from spvnas_ros.offline.simulation.drive import Plan, simulate
from spvnas_ros.zoo.checkpoint import Facts, save_checkpoint
from spvnas_ros.zoo.detector_checkpoint import DetectorFacts, save_detector

NAMES = ("Car", "Pedestrian", "Cyclist")
RANGE = (-25.6, -25.6, -3.0, 25.6, 25.6, 1.0)


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("boxed") / "drive"
    plan = Plan("vlp16", 3, seed=6, kind="urban", formats=("semantic-kitti", "boxes"))
    assert [done.scans for done in simulate(plan, 1, out)] == [3]
    return out


def knowing(drive: Path, moved: float = 0.0) -> BoxNetwork:
    """A network that knows the drive, scan by scan, by KITTI's names; its boxes are moved along x."""
    kinds = {"car": 0, "person": 1, "bicyclist": 2}
    scans = open_boxed(drive)
    answers: Iterator[Boxes] = iter(
        Boxes(
            objects.boxes[rows] + np.float32((moved, 0, 0, 0, 0, 0, 0)),
            np.ones(len(rows), np.float32),
            np.array([kinds[objects.kinds[row]] for row in rows], np.uint8),
        )
        for objects in (scans[index].objects for index in range(len(scans)))
        for rows in [[row for row, kind in enumerate(objects.kinds) if kind in kinds]]
    )

    def find(points: Points) -> Boxes:
        assert points.shape[1] == 4
        return next(answers)

    return BoxNetwork(find, NAMES, RANGE)


def test_a_network_that_knows_all_has_full_marks(drive: Path) -> None:
    report = evaluate_network(drive, knowing(drive), name="all")
    cars = [figure for figure in report.around if figure.kind == "Car" and (figure.begin, figure.end) == (0, None)]
    assert [figure.criterion for figure in cars] == ["0.5 m", "1 m", "2 m", "4 m"]
    assert all(figure.recall == 1 for figure in cars)
    far = evaluate_network(drive, knowing(drive, moved=1.5), name="far")
    whole = [figure for figure in far.around if figure.kind == "Car" and (figure.begin, figure.end) == (0, None)]
    found = {figure.criterion: figure.recall for figure in whole}
    assert found["0.5 m"] is not None
    assert found["0.5 m"] < found["2 m"] == 1  # type: ignore[operator]
    seen = evaluate_network(drive, knowing(drive), name="all", min_points=10**6)
    assert all(figure.objects == 0 for figure in seen.around)


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    spec = DetectorSpec.second("openpcdet", 2, point_range=RANGE, voxel_size=(0.4, 0.4, 0.16))
    path = tmp_path_factory.mktemp("weights") / "second.safetensors"
    save_detector(path, Second(spec), DetectorFacts(spec))
    return path


@pytest.fixture(scope="module")
def joint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    branch = BoxBranchSpec.around(0.4, [BoxClass("car", (4.3, 2.0, 1.6), -1.75, 0.5, 0.35)], width=4, reach=25.6)
    spec = replace(NetSpec.of((4, 4, 4, 6, 6, 6, 6, 4, 4), (1,) * 8), boxes=branch)
    path = tmp_path_factory.mktemp("weights") / "joint.safetensors"
    save_checkpoint(path, PointVoxelUNet(spec), Facts(spec=spec, voxel_size=0.4))
    return path


def test_detectors_and_networks_that_give_both_are_scored(
    drive: Path, shared: Path, detector: Path, joint: Path, tmp_path: Path
) -> None:
    found = spvnas("evaluate", drive, "--boxes", detector, "--json", "--device", "cpu", "--out", tmp_path / "out")
    assert found.exit_code == 0, found.output
    report = json.loads(found.stdout)
    assert (report["kind"], report["frames"], report["predictions"]) == ("boxes", 3, "second.safetensors")
    assert {entry["kind"] for entry in report["around"]} == set(NAMES)
    assert (tmp_path / "out" / "curves.png").is_file()
    kitti = spvnas("evaluate", shared / "data" / "kitti", "--boxes", joint, "--device", "cpu")
    assert kitti.exit_code == 0, kitti.output
    assert "car all distances" in kitti.stdout
    assert "joint.safetensors" in kitti.stdout


def test_what_has_no_boxes_is_said(drive: Path, detector: Path, tmp_path: Path) -> None:
    net = PointVoxelUNet(NetSpec.of((4,) * 9, (1,) * 8))
    save_checkpoint(tmp_path / "plain.safetensors", net, Facts(spec=net.spec))
    plain = spvnas("evaluate", drive, "--boxes", tmp_path / "plain.safetensors")
    assert plain.exit_code == 1
    assert "labels points and finds no boxes" in plain.output.replace("\n", " ")
    (tmp_path / "results").mkdir()
    refused = spvnas("evaluate", drive, "--boxes", tmp_path / "results", "--sequences", "00")
    assert "is no network; --sequences and --device" in refused.output.replace("\n", " ")
    none = spvnas("evaluate", tmp_path / "results", "--boxes", detector)
    assert none.exit_code == 1
    assert "has no boxes" in none.output.replace("\n", " ")
    topics = spvnas("evaluate", drive, "--boxes", detector, "--topic", "/x")
    assert "are of bags" in topics.output


def test_scans_that_cannot_be_used_are_listed_and_the_status_says_so(
    shared: Path, detector: Path, tmp_path: Path
) -> None:
    """A frame without P2 has no picture: what it does not show nobody labelled, so it is not scored on that."""
    training = shared / "data" / "kitti" / "training"
    copy = tmp_path / "kitti"
    for part in ("velodyne", "label_2", "calib"):
        shutil.copytree(training / part, copy / "training" / part)
    calibration = copy / "training" / "calib" / "000001.txt"
    calibration.write_text("".join(f"{line}\n" for line in calibration.read_text().splitlines() if line[:2] != "P2"))
    found = spvnas("evaluate", copy, "--boxes", detector, "--device", "cpu", "--json")
    assert found.exit_code == 1
    report = json.loads(found.stdout)
    assert [each["name"] for each in report["skipped"]] == ["000001"]
    assert "000001.txt has no P2" in report["skipped"][0]["reason"]
    assert report["frames"] == len(list((training / "velodyne").iterdir())) - 1
