"""Training of networks that give labels and boxes: killed runs, sources that lack one of the two, what is kept."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from places import RECIPES
from spvnas_ros.frame import UNLABELLED
from spvnas_ros.nets.spec import NetSpec
from spvnas_ros.nets.unet import PointVoxelUNet
from spvnas_ros.offline.datasets import DatasetError
from spvnas_ros.offline.simulation.drive import Plan, simulate
from spvnas_ros.offline.training.command import run
from spvnas_ros.offline.training.config import ConfigError
from spvnas_ros.offline.training.joint_batch import JointSample, collate_joint
from spvnas_ros.offline.training.joint_job import JointJob
from spvnas_ros.offline.training.joint_task import SCORE, JointTask
from spvnas_ros.offline.training.label_job import LabelJob
from spvnas_ros.offline.training.recipe_files import load_recipe
from spvnas_ros.offline.training.start import begin
from spvnas_ros.perception import Perception
from spvnas_ros.recordings.object_tables import Objects, write_objects
from spvnas_ros.recordings.scans import read_scan
from spvnas_ros.zoo.checkpoint import Facts, load_checkpoint, save_checkpoint
from training_runs import killed

STEPS = 6
WIDTHS = [4, 4, 4, 6, 6, 6, 6, 4, 4]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four scans of a small sensor in one street, with labels and boxes."""
    out = tmp_path_factory.mktemp("joint") / "drive"
    plan = Plan("vlp16", 4, seed=5, kind="urban", formats=("semantic-kitti", "boxes"))
    assert [done.scans for done in simulate(plan, 1, out)] == [4]
    return out


@pytest.fixture(scope="module")
def labelled(drive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same scans without boxes."""
    out = tmp_path_factory.mktemp("joint") / "labelled"
    shutil.copytree(drive / "sequences", out / "sequences")
    return out


@pytest.fixture(scope="module")
def boxed(drive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same scans with boxes, and labels that say nothing."""
    out = tmp_path_factory.mktemp("joint") / "boxed"
    shutil.copytree(drive, out)
    for file in (out / "sequences").glob("*/labels/*.label"):
        file.write_bytes(bytes(file.stat().st_size))
    return out


@pytest.fixture
def path(drive: Path, tmp_path: Path) -> Path:
    path = tmp_path / "joint.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "name": "joint",
                "seed": 5,
                "net": {"widths": WIDTHS, "depths": [1] * 8},
                "boxes": {
                    "width": 4,
                    "reach": 25.6,
                    "min_points": 3,
                    "level": 1,
                    "box_weight": 0.5,
                    "classes": [
                        {"name": "car", "size": [4.3, 2.0, 1.6], "bottom": -1.75, "positive": 0.5, "negative": 0.35},
                        {"name": "person", "size": [0.7, 0.7, 1.75], "bottom": -1.65, "positive": 0.4}
                        | {"negative": 0.25, "kinds": ["bicyclist"]},
                    ],
                },
                "data": {"train": str(drive), "validation": str(drive), "workers": 0, "validation_scans": 2}
                | {"voxel_size": 0.4, "max_voxels": 4000},
                "augment": {"sample_objects": {"counts": {"car": 12, "person": 4}}, "object_noise": None}
                | {"flip": {"x": 0.5}, "rotate": None, "scale": None},
                "loss": {"class_weights": "inverse-sqrt", "lovasz": 1.0},
                "optimiser": {"kind": "adamw", "learning_rate": 0.01, "momentum": 0.95, "clip": 10},
                "schedule": {"warmup_steps": STEPS},
                "trainer": {"steps": STEPS, "batch_size": 2, "log_every": 1, "validate_every": 3, "ema": 0.5}
                | {"save_every": 2, "device": "cpu"},
            },
            sort_keys=False,
        )
    )
    return path


def job_of(path: Path, *overrides: str) -> JointJob:
    return JointJob(*begin(load_recipe(path, overrides)))


def samples_of(job: JointJob, *numbers: int) -> list[JointSample]:
    samples = job._samples(job.scans)
    return [samples[number] for number in numbers]


def loss_of(job: JointJob, samples: list[JointSample]) -> tuple[JointTask, dict[str, Any]]:
    torch.manual_seed(1)
    task = job.task(STEPS)
    task._trainer = type("Alone", (), {"world_size": 1})()  # type: ignore[assignment]
    return task, task.training_step(collate_joint(samples), 0)


def log_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_a_killed_training_goes_on_as_if_nothing_had_happened(path: Path, drive: Path, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert run(path, [], whole) == 0
    killed(path, broken)
    with pytest.raises(ConfigError, match=r"boxes.width 4, now 8"):
        run(path, ["boxes.width=8"], broken, resume=True)
    assert run(path, [], broken, resume=True) == 0
    log = log_of(whole)
    assert log_of(broken) == log
    for line in (line for line in log if "loss" in line):
        parts = sum(line[f"loss_{part}"] for part in ("labels", "classes", "boxes", "directions"))
        assert line["loss"] == pytest.approx(parts, rel=1e-5)
    last = log[-1]
    assert set(last["ap"]) == {"car", "person"}
    assert last["objects"]["car"] > 0
    net, facts = load_checkpoint(broken / "best.safetensors")
    assert load_checkpoint(whole / "best.safetensors")[1].weights_sha256 == facts.weights_sha256
    assert facts.training is not None
    best = max(np.mean([line["miou"], line["map"]]) for line in log if "map" in line)
    assert facts.training.scores[SCORE] == pytest.approx(best)
    assert net.spec.boxes == job_of(path).branch
    scan = read_scan(next((drive / "sequences").glob("*/velodyne/*.bin")))
    said = Perception.from_net(net, facts, device="cpu", engine="torch")(scan)
    assert said.boxes is not None
    assert len(said) == len(scan)


def test_a_gradient_of_either_task_reaches_the_shared_layers(path: Path) -> None:
    for weights in ((1, 0), (0, 1)):
        job = job_of(path, f"boxes.label_weight={weights[0]}", f"boxes.box_weight={weights[1]}")
        task, said = loss_of(job, samples_of(job, 0, 1))
        said["loss"].backward()
        shared = [p for name, p in task.net.named_parameters() if name.startswith(("stem", "encoder"))]
        assert all(p.grad is not None and float(p.grad.abs().max()) > 0 for p in shared)
        heads = {name: float(p.grad.abs().max()) for name, p in task.net.named_parameters() if p.grad is not None}
        assert (heads["classifier.weight"] > 0) == bool(weights[0])
        assert (heads["boxes.head.classes.weight"] > 0) == bool(weights[1])


def test_scans_that_lack_one_of_the_two_teach_the_other(path: Path, labelled: Path, boxed: Path) -> None:
    job = job_of(path, f"data.train=[{labelled},{boxed}]")
    assert len(job.scans) == 8
    plain, blank = samples_of(job, 0, 4)
    assert (plain.boxed, len(plain.truth), blank.boxed) == (False, 0, True)
    assert (plain.labels != UNLABELLED).any()
    assert (blank.labels == UNLABELLED).all()
    assert blank.seen.any()
    _, of_labels = loss_of(job, [plain, plain])
    assert of_labels["loss"] == of_labels["parts"]["loss_labels"] > 0
    assert of_labels["parts"]["loss_classes"] == 0
    _, of_boxes = loss_of(job, [blank, blank])
    assert of_boxes["parts"]["loss_labels"] == 0
    assert of_boxes["parts"]["loss_classes"] > 0
    # A scan whose objects nobody knows changes nothing about what the others teach of boxes, but for BatchNorm.
    task, both = loss_of(job, [plain, blank])
    task.eval()
    batches = ([blank], [plain, blank], [blank, plain])
    alone, before, behind = (task.training_step(collate_joint(batch), 0)["parts"] for batch in batches)
    for part in ("classes", "boxes", "directions"):
        assert float(before[f"loss_{part}"]) == pytest.approx(float(alone[f"loss_{part}"]), rel=1e-4)
        assert float(behind[f"loss_{part}"]) == pytest.approx(float(alone[f"loss_{part}"]), rel=1e-4)
    both["loss"].backward()
    assert all(parameter.grad is not None for parameter in task.net.parameters())


def test_boxes_are_learnt_with_all_that_makes_labels_robust(path: Path, labelled: Path, drive: Path) -> None:
    """The steps of the recipe of the package's boxes and those of its labels, in one."""
    boxes, labels = (load_recipe(RECIPES / f"{name}.yaml").augment for name in ("default_boxes", "sim_default_further"))
    both = {"sample_objects": boxes["sample_objects"]} | dict(labels) | {"point_drop": {"share": [0.5, 0.5]}}
    job = job_of(path, f"augment={json.dumps(both)}", f"data.train=[{drive},{labelled}]", "data.max_voxels=0")
    samples = job._samples(job.scans)
    drawn = [samples[(epoch, index)] for epoch in range(8) for index in (0, 1)]
    # Some are mixed with a scan whose objects nobody knows.
    assert {sample.boxed for sample in drawn} == {True, False}
    seen = [sample.seen for sample in drawn if sample.boxed]
    assert any(each.any() for each in seen)
    assert any(not each.all() for each in seen)  # of some objects too few points are left
    _, said = loss_of(job, drawn[:4])
    assert all(bool(torch.isfinite(part)) for part in said["parts"].values())
    assert said["parts"]["loss_labels"] > 0
    assert said["parts"]["loss_classes"] > 0


def test_what_cannot_be_learnt_or_scored_is_refused(path: Path, labelled: Path, boxed: Path, tmp_path: Path) -> None:
    boxes, labels = r"a box that counts .*within 25\.6 m", "a label that counts"
    cases = ((f"data.train={labelled}", boxes), (f"data.train={boxed}", labels))
    for override, lacking in (*cases, (f"data.validation={labelled}", boxes)):
        with pytest.raises(DatasetError, match=rf"none of \d scan\(s\) has {lacking}"):
            run(path, [override, "augment={}"], tmp_path / "run")
    assert not (tmp_path / "run").exists()
    nothing = tmp_path / "nothing"
    shutil.copytree(boxed / "sequences", nothing / "sequences")
    job = job_of(path, f"data.train=[{nothing},{boxed}]")
    assert [each.name for each in samples_of(job, 3)[0].skipped] == ["00/000003 (source 1 of 2)"]
    assert "neither boxes nor a label" in samples_of(job, 3)[0].skipped[0].reason


def test_a_scan_without_objects_is_background(path: Path, drive: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    shutil.copytree(drive, empty)
    for table in (empty / "boxes").glob("*/*.csv"):
        write_objects(table, Objects.none())
    job = job_of(path, f"data.train={empty}", "augment={}")
    _, said = loss_of(job, samples_of(job, 0, 1))
    assert said["parts"]["loss_classes"] > 0
    assert said["parts"]["loss_boxes"] == said["parts"]["loss_directions"] == 0


def test_a_branch_is_added_to_a_network_for_labels(path: Path, tmp_path: Path) -> None:
    torch.manual_seed(3)
    plain = PointVoxelUNet(NetSpec.of(WIDTHS, [1] * 8))
    save_checkpoint(tmp_path / "plain.safetensors", plain, Facts(spec=plain.spec, voxel_size=0.4, name="plain"))
    overrides = [f"start={tmp_path / 'plain.safetensors'}", "net={}"]
    assert (
        run(
            path,
            [*overrides, "trainer.steps=1", "schedule.warmup_steps=0", "optimiser.learning_rate=1e-12"],
            tmp_path / "run",
        )
        == 0
    )
    net, facts = load_checkpoint(tmp_path / "run" / "last.safetensors")
    assert facts.training is not None
    assert facts.training.start == "plain.safetensors"
    for name, value in plain.named_parameters():
        torch.testing.assert_close(net.get_parameter(name), value, atol=1e-6, rtol=0)
    # And further from there, with the boxes that it has learnt.
    joint = f"start={tmp_path / 'run' / 'last.safetensors'}"
    again = job_of(path, joint, "net={}").task(STEPS)
    assert torch.equal(again.net.boxes.head.classes.weight, net.get_parameter("boxes.head.classes.weight"))
    remarks = job_of(path, joint, "net={}", "boxes.level=2").remarks()
    assert any(
        "another box branch (level 1 and 2" in line and "the branch begins at random" in line for line in remarks
    )
    # Labels alone: nothing would look after the boxes.
    alone = LabelJob(*begin(load_recipe(path, [joint, "net={}", "boxes=null", "augment={}"])))  # type: ignore[arg-type]
    assert alone.task(STEPS).net.spec.boxes is None
    assert any("labels points alone" in line for line in alone.remarks())


def test_a_branch_alone_is_learnt_and_the_labels_stay_bit_by_bit(path: Path, drive: Path, tmp_path: Path) -> None:
    torch.manual_seed(3)
    plain = PointVoxelUNet(NetSpec.of(WIDTHS, [1] * 8))
    theirs = Facts(spec=plain.spec, voxel_size=0.4, name="plain", sensor_height=0.9, intensity="none")
    save_checkpoint(tmp_path / "plain.safetensors", plain, theirs, half=True)
    plain, theirs = load_checkpoint(tmp_path / "plain.safetensors")
    overrides = [f"start={tmp_path / 'plain.safetensors'}", "net={}", "boxes.only=true", "trainer.half=true"]
    overrides += ["trainer.steps=3", "schedule.warmup_steps=3", "trainer.validate_every=1"]
    assert run(path, overrides, tmp_path / "run") == 0
    net, facts = load_checkpoint(tmp_path / "run" / "last.safetensors")
    own = net.state_dict()
    for name, value in plain.state_dict().items():
        assert torch.equal(own[name], value), name
    begun = job_of(path, *overrides).task(3).net.state_dict()
    for name in ("boxes.columns.conv.kernel", "boxes.columns.norm.running_mean", "boxes.head.classes.bias"):
        assert not torch.equal(own[name], begun[name]), name
    assert (facts.sensor_height, facts.intensity, facts.name) == (0.9, "none", "joint")
    scan = read_scan(next((drive / "sequences").glob("*/velodyne/*.bin")))
    before, after = (Perception.from_net(n, f, device="cpu")(scan) for n, f in ((plain, theirs), (net, facts)))
    np.testing.assert_array_equal(after.labels, before.labels)
    np.testing.assert_array_equal(after.confidence, before.confidence)
    # The branch of that network goes before other features: it begins as it is there, what labels as in the start.
    torch.manual_seed(4)
    other = PointVoxelUNet(plain.spec)
    save_checkpoint(tmp_path / "other.safetensors", other, replace(theirs, weights_sha256=None))
    moved = [f"start={tmp_path / 'other.safetensors'}", "net={}", "boxes.only=true"]
    moved += [f"boxes.start={tmp_path / 'run' / 'last.safetensors'}"]
    boxes = yaml.safe_load(path.read_text())["boxes"]["classes"]
    boxes[0] |= {"positive": 0.45, "negative": 0.3}  # of training alone
    job = job_of(path, *moved, f"boxes.classes={json.dumps(boxes)}")
    assert not any("begins at random" in line for line in job.remarks())
    state, labels = job.task(3).net.state_dict(), other.state_dict()
    for name, value in own.items():
        assert torch.equal(state[name], value if name.startswith("boxes.") else labels[name]), name
    assert "its box branch from last.safetensors" in str(job.facts(job.task(3)).provenance)
    with pytest.raises(ConfigError, match=r"boxes.start: the branch of .* level 1 and 2"):
        job_of(path, *moved, "boxes.level=2")
    thin = PointVoxelUNet(NetSpec.of([max(width // 2, 1) for width in WIDTHS], [1] * 8))
    save_checkpoint(tmp_path / "thin.safetensors", thin, Facts(spec=thin.spec, voxel_size=0.4, name="thin"))
    with pytest.raises(ConfigError, match=r"boxes.start: .* reads \d+ features of a voxel, and .*thin.* has \d+ there"):
        job_of(path, f"start={tmp_path / 'thin.safetensors'}", *moved[1:])
    with pytest.raises(ConfigError, match="has no box branch"):
        job_of(path, *moved[:3], f"boxes.start={tmp_path / 'plain.safetensors'}")
    with pytest.raises(ConfigError, match="the network before the branch begins at random"):
        load_recipe(path, [moved[3]])
    with pytest.raises(ConfigError, match=r"boxes.only .* needs a start"):
        load_recipe(path, ["boxes.only=true"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("boxes.reach=25.0", "the range along x is 50 m, expected a multiple of"),
        ("boxes.classes=[]", "boxes.classes"),
        ("boxes.wide=1", "boxes.wide: there is no such key"),
        (
            "boxes={classes: [{name: a, size: [1, 1, 1], bottom: 0}], label_weight: 0, box_weight: 0}",
            "nothing would be",
        ),
        ("boxes.level=7", "boxes.level: found 7"),
        ("data.mount=auto", "data.origin and data.mount do not move"),
        ("detector={width: 2}", "and net, loss, boxes, data.voxel_size, data.max_voxels are of networks"),
    ],
)
def test_what_is_wrong_with_a_recipe_is_said(path: Path, override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        job_of(path, override)
