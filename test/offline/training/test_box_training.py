"""Training of detectors: runs that are killed and go on, what is learnt, how it is scored and kept."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from spvnas_ros.frame import Boxes
from spvnas_ros.nets.box_targets import assign_targets, box_losses, positives_of
from spvnas_ros.nets.detections import detect
from spvnas_ros.nets.detector_spec import DetectorSpec
from spvnas_ros.nets.heads import HeadOutput, anchor_boxes
from spvnas_ros.offline.augment.compose import BoxedAugmentation
from spvnas_ros.offline.datasets import DatasetError
from spvnas_ros.offline.datasets.boxed import open_boxed
from spvnas_ros.offline.evaluation.box_ap import BoxFrame, average_precisions
from spvnas_ros.offline.simulation.drive import Plan, simulate
from spvnas_ros.offline.training.box_task import CRITERIA, SCORE, BoxTask, verdict_of
from spvnas_ros.offline.training.boxed_batch import BoxedSamples, collate_boxed
from spvnas_ros.offline.training.command import run
from spvnas_ros.offline.training.config import ConfigError, Recipe, ScheduleConfig
from spvnas_ros.offline.training.recipe_files import load_recipe
from spvnas_ros.offline.training.schedules import momentum, rate_factor
from spvnas_ros.recordings.object_tables import Objects, write_objects
from spvnas_ros.zoo.detector_checkpoint import load_detector
from training_runs import killed, train_in_two

STEPS = 6


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four scans of a small sensor in one street, with boxes."""
    out = tmp_path_factory.mktemp("boxed") / "drive"
    plan = Plan("vlp16", 4, seed=2, kind="urban", formats=("semantic-kitti", "boxes"))
    assert [done.scans for done in simulate(plan, 1, out)] == [4]
    return out


@pytest.fixture
def path(drive: Path, tmp_path: Path) -> Path:
    """A recipe with everything in it: the point branch, all augmentations, an average, one cycle, validation."""
    path = tmp_path / "boxes.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "name": "boxes",
                "seed": 5,
                "detector": {
                    "width": 2,
                    "point_branch": True,
                    "point_range": [-25.6, -25.6, -3, 25.6, 25.6, 1],
                    "voxel_size": [0.4, 0.4, 0.16],
                    "max_voxels": [2000, 4000],
                    "min_points": 3,
                },
                "data": {"train": str(drive), "validation": str(drive), "workers": 0, "validation_scans": 2},
                "augment": {"sample_objects": {"counts": {"car": 12, "person": 4}}, "object_noise": None}
                | {"flip": {"x": 0.5}, "rotate": None, "scale": None},
                "optimiser": {"kind": "adamw", "learning_rate": 0.01, "momentum": 0.95, "clip": 10},
                "schedule": {"kind": "one-cycle", "warmup_start": 0.1},
                "trainer": {"steps": STEPS, "batch_size": 2, "log_every": 1, "validate_every": 3, "ema": 0.5}
                | {"save_every": 2, "device": "cpu"},
            },
            sort_keys=False,  # augmentations are applied in their order
        )
    )
    return path


def samples_of(recipe: Recipe, *, training: bool = True) -> BoxedSamples:
    assert recipe.detector is not None
    augmentation = BoxedAugmentation.from_config({"rotate": None}) if training else None
    scans, kinds = open_boxed(recipe.data.train[0]), recipe.detector.classes_of_kinds()
    return BoxedSamples(scans, recipe.detector.spec(), kinds, augmentation, min_points=recipe.detector.min_points)


def log_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_a_killed_training_of_boxes_goes_on_as_if_nothing_had_happened(path: Path, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert run(path, [], whole) == 0
    # The last checkpoint is of step 4; what follows it must be forgotten and done again.
    killed(path, broken)
    assert log_of(broken)[-1]["step"] == 5
    with pytest.raises(ConfigError, match=r"detector.width 2, now 4"):
        run(path, ["detector.width=4"], broken, resume=True)
    assert run(path, [], broken, resume=True) == 0
    log = log_of(whole)
    assert log_of(broken) == log
    losses = [line for line in log if "loss" in line]
    assert [line["step"] for line in losses] == list(range(1, STEPS + 1))
    for line in losses:
        parts = line["loss_classes"] + line["loss_boxes"] + line["loss_directions"]
        assert line["loss"] == pytest.approx(parts, rel=1e-5)
    assert losses[0]["learning_rate"] == pytest.approx(0.001)
    (first, last) = [line for line in log if "map" in line]
    assert (first["step"], last["step"]) == (3, STEPS)
    assert set(last["ap"]) == set(last["objects"]) == {"Car", "Pedestrian", "Cyclist"}
    assert last["objects"]["Car"] > 0
    for name in ("best.safetensors", "last.safetensors"):
        (net, facts), (_, other) = (load_detector(folder / name) for folder in (whole, broken))
        assert facts == other
        assert facts.weights_sha256 == other.weights_sha256
        assert facts.training is not None
        assert (facts.training.recipe, facts.training.seed) == ("boxes", 5)
        assert facts.training.scores[SCORE] == pytest.approx(last["map"])
        assert (facts.classes, facts.spec.family, facts.provenance[:27]) == (
            ("Car", "Pedestrian", "Cyclist"),
            "spv_second",
            "trained with spvnas train, ",
        )
        assert isinstance(detect(net, [torch.rand(100, 4)])[0], Boxes)


@pytest.mark.parametrize("point_branch", [False, True])
@pytest.mark.parametrize("convention", ["openpcdet", "mmdet3d"])
def test_a_gradient_reaches_every_parameter(path: Path, convention: str, point_branch: bool) -> None:
    overrides = [f"detector.convention={convention}", f"detector.point_branch={json.dumps(point_branch)}"]
    recipe = load_recipe(path, overrides)
    assert recipe.detector is not None
    torch.manual_seed(1)
    task = BoxTask(recipe, recipe.detector.spec(), STEPS)
    samples = samples_of(recipe)
    task.training_step(collate_boxed([samples[0], samples[1]]), 0)["loss"].backward()
    for name, parameter in task.net.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
        assert torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize("convention", ["openpcdet", "mmdet3d"])
def test_the_losses_of_parts_of_a_batch_average_to_those_of_the_whole(path: Path, convention: str) -> None:
    samples = samples_of(load_recipe(path))
    spec = DetectorSpec.second(convention, 1, point_range=samples.spec.point_range, voxel_size=(0.4, 0.4, 0.16))
    anchors = anchor_boxes(spec.head, spec.bev_shape, spec.point_range)
    truths = [samples[index].truth for index in range(4)]
    targets = [
        assign_targets(spec.head, anchors, torch.from_numpy(t.boxes), torch.from_numpy(t.classes.astype(np.int64)))
        for t in truths
    ]
    assert len({int(count) for count in positives_of(targets)}) > 1
    torch.manual_seed(0)
    said = [torch.randn(4, len(anchors), n) for n in (3, 7, 2)]
    whole = box_losses(spec.head, HeadOutput(*said), targets)
    divisor = positives_of(targets).sum() / 2
    parts = [
        box_losses(spec.head, HeadOutput(*(s[i : i + 2] for s in said)), targets[i : i + 2], divisor) for i in (0, 2)
    ]
    for name in ("classes", "boxes", "directions"):
        mean = sum(getattr(part, name) for part in parts) / 2
        torch.testing.assert_close(mean, getattr(whole, name), rtol=1e-5, atol=0)


def test_samples_hang_on_seed_epoch_and_number_alone(path: Path) -> None:
    samples, others = (samples_of(load_recipe(path)) for _ in range(2))
    first, again, later = samples[0, 1], others[0, 1], samples[1, 1]
    assert torch.equal(first.coords, again.coords)
    assert torch.equal(first.feats, again.feats)
    np.testing.assert_array_equal(first.truth.boxes, again.truth.boxes)
    assert not np.array_equal(first.truth.boxes, later.truth.boxes)
    assert 0 < len(first.coords) <= 2000
    whole = samples_of(load_recipe(path), training=False)[1]
    assert len(whole.coords) > 2000
    assert whole.truth.boxes[:, :2].min() >= -25.6


def test_objects_are_those_of_the_detectors_classes_in_its_range(path: Path) -> None:
    recipe = load_recipe(path)
    samples = samples_of(recipe, training=False)
    scan = samples.read(0)
    truth = samples.truth(scan)
    classes = {"car": 0, "person": 1, "bicyclist": 2}
    expected = [
        classes[kind]
        for kind, box in zip(scan.objects.kinds, scan.objects.boxes, strict=True)
        if kind in classes and np.abs(box[:2]).max() <= 25.6
    ]
    assert truth.classes.tolist() == expected
    assert set(scan.objects.kinds) - set(classes)
    kitti = load_recipe(path, ["detector.classes=[{name: big, size: [5, 2, 2], bottom: -1, kinds: [Truck, car]}]"])
    assert kitti.detector is not None
    assert kitti.detector.classes_of_kinds() == {"big": 0, "truck": 0, "car": 0}
    assert kitti.detector.spec().head.names == ("big",)


def test_a_scan_without_boxes_is_background(path: Path, drive: Path, tmp_path: Path) -> None:
    recipe = load_recipe(path)
    copy = emptied(drive, tmp_path)
    samples = BoxedSamples(open_boxed(copy), recipe.detector.spec(), recipe.detector.classes_of_kinds())  # type: ignore[union-attr]
    batch = collate_boxed([samples[0], samples[1]])
    assert batch.sizes == (0, 0)
    torch.manual_seed(1)
    task = BoxTask(recipe, samples.spec, STEPS)
    said = task.training_step(batch, 0)
    assert said["loss"] == said["parts"]["loss_classes"] > 0
    assert said["parts"]["loss_boxes"] == said["parts"]["loss_directions"] == 0


def emptied(drive: Path, folder: Path) -> Path:
    """The drive with tables without objects."""
    out = folder / "empty"
    (out / "sequences").mkdir(parents=True)
    (out / "sequences" / "00").symlink_to(drive / "sequences" / "00")
    (out / "boxes" / "00").mkdir(parents=True)
    for number in range(4):
        write_objects(out / "boxes" / "00" / f"{number:06d}.csv", Objects.none())
    return out


def test_a_training_without_a_box_does_not_begin(path: Path, drive: Path, tmp_path: Path) -> None:
    empty = emptied(drive, tmp_path)
    for key, verb in (("train", "learnt"), ("validation", "scored")):
        with pytest.raises(DatasetError, match=rf"none of \d scan\(s\) has a box of Car, .* be {verb} \(data\.{key}"):
            run(path, [f"data.{key}={empty}"], tmp_path / "run")
    with pytest.raises(DatasetError, match="no scans to train on"):
        run(path, ["data.train=[]"], tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_scan_that_cannot_be_used_is_told_and_another_stands_in(path: Path, drive: Path, tmp_path: Path) -> None:
    copy = emptied(drive, tmp_path)
    (copy / "boxes" / "00" / "000001.csv").write_text("kind\n")
    recipe = load_recipe(path, [f"data.train={copy}"])
    sample = samples_of(recipe)[0, 1]
    assert (sample.name, [each.name for each in sample.skipped]) == ("00/000002", ["00/000001"])
    assert "000001.csv, line 1 has 'kind'" in sample.skipped[0].reason
    alone = samples_of(recipe, training=False)[1]
    assert (alone.name, len(alone.coords), len(alone.skipped)) == ("00/000001", 0, 1)
    far = load_recipe(path, ["detector.point_range=[100.0, 100.0, -3, 151.2, 151.2, 1]"])
    with pytest.raises(DatasetError, match=r"none of 4 scan.* voxels of it are in the detector's range"):
        samples_of(far)[0]


def test_the_score_is_the_mean_over_classes_and_distances(path: Path) -> None:
    samples = samples_of(load_recipe(path), training=False)
    names = samples.spec.head.names
    truths = [samples[index] for index in range(4)]
    perfect = [BoxFrame(each.name, each.truth, each.truth, ignored=~each.seen) for each in truths]
    verdict = verdict_of(average_precisions(perfect, names, CRITERIA), names)
    assert verdict.value == pytest.approx(1)
    assert verdict.line["ap_bev"]["Car"] == pytest.approx(1)
    seen = sum(int((each.seen & (each.truth.classes == 0)).sum()) for each in truths)
    assert verdict.line["objects"]["Car"] == seen > 0
    # 0.7 m off: right from 1 m on.
    shifted = [
        BoxFrame(
            f.name, f.truth, Boxes(f.truth.boxes + np.float32((0.7, 0, 0, 0, 0, 0, 0)), f.truth.scores, f.truth.classes)
        )
        for f in perfect
    ]
    assert verdict_of(average_precisions(shifted, names, CRITERIA), names).value == pytest.approx(0.75, abs=0.05)
    nothing = [BoxFrame(f.name, f.truth, Boxes.none()) for f in perfect]
    assert verdict_of(average_precisions(nothing, names, CRITERIA), names).value == 0
    assert verdict_of(average_precisions([], names, CRITERIA), names).value is None


def test_objects_that_nobody_can_sample_are_told(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sample = "augment={sample_objects: {counts: {Car: 3, car: 2, Tram: 0}}}"
    assert run(path, [sample, "trainer.steps=1", "data.validation=[]"], tmp_path / "run") == 0
    said = capsys.readouterr().err
    assert (
        "warning: augment.sample_objects wants Car, of which the training scans have no object with points enough"
        in said
    )
    assert "they have " in said
    assert (tmp_path / "run" / "best.safetensors").is_file()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("net.width=16", "trains a detector, and net is of networks that label points; leave that out"),
        ("data.voxel_size=0.1", "and data.voxel_size is of networks"),
        ("data.mount=auto", "and data.mount is of networks"),
        ("detector.width=0", "detector.width: found 0, expected"),
        ("detector.wide=1", "detector.wide: there is no such key"),
        ("detector.point_range=[0, 0, 0, 1, 1, 1]", "detector: the range .* is too small for the encoder"),
        (
            "detector.classes=[{name: a, size: [1, 1, 1], bottom: 0, positive: 0.1}]",
            "detector: the overlaps of a must be",
        ),
    ],
)
def test_what_is_wrong_with_a_recipe_of_a_detector_is_said(path: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_recipe(path, [override])


def test_two_processes_train_the_detector_that_one_trains(path: Path, tmp_path: Path) -> None:
    # With mmdet3d the losses are divided by the positive anchors of all frames. No point branch: torch's own BatchNorm
    # rounds its values to 1e-4, which so small a network makes percents of. So it would be with bfloat16.
    overrides = [
        "detector.point_branch=false",
        "trainer.precision=fp32",
        "trainer.steps=2",
        "trainer.validate_every=2",
        "optimiser.kind=sgd",
        "detector.convention=mmdet3d",
    ]
    assert run(path, overrides, tmp_path / "one") == 0
    train_in_two(path, overrides, tmp_path / "two")
    one, two = (log_of(tmp_path / name) for name in ("one", "two"))
    assert len(one) == len(two) == 3
    for ours, theirs in zip(one[:2], two[:2], strict=True):
        assert theirs == pytest.approx(ours, rel=1e-4)
    assert one[2]["objects"] == two[2]["objects"]
    first, second = (load_detector(tmp_path / name / "last.safetensors")[0].state_dict() for name in ("one", "two"))
    for key, value in first.items():
        torch.testing.assert_close(second[key], value, rtol=1e-3, atol=1e-5)


def test_one_cycle_is_that_of_openpcdet() -> None:
    config = ScheduleConfig(kind="one-cycle", rise=0.4, warmup_start=0.1, floor=1e-5, low_momentum=0.85)
    rates = [0.003 * rate_factor(config, step, 1000) for step in (0, 200, 400, 700, 1000)]
    assert rates == pytest.approx([3e-4, 0.00165, 0.003, 0.0015, 3e-8], rel=1e-4)
    momenta = [momentum(config, 0.95, step, 1000) for step in (0, 200, 400, 700, 1000)]
    assert momenta == pytest.approx([0.95, 0.9, 0.85, 0.9, 0.95])
    assert momentum(ScheduleConfig(), 0.95, 400, 1000) == 0.95
    assert all(math.isfinite(rate_factor(config, step, 1)) for step in range(2))
