"""Training of a detector that begins from a checkpoint: what it takes over, what it records, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from spvnas_ros.nets.detector_spec import DetectorSpec
from spvnas_ros.nets.second import Second
from spvnas_ros.nets.spec import NetSpec
from spvnas_ros.nets.unet import PointVoxelUNet
from spvnas_ros.offline.simulation.drive import Plan, simulate
from spvnas_ros.offline.training.command import UNFINISHED, run
from spvnas_ros.offline.training.config import ConfigError
from spvnas_ros.offline.training.recipe_files import load_recipe
from spvnas_ros.offline.training.start import DetectorStart, begin
from spvnas_ros.zoo.checkpoint import CheckpointError, Facts, save_checkpoint
from spvnas_ros.zoo.detector_checkpoint import DetectorFacts, load_detector, save_detector

SPEC = replace(
    DetectorSpec.second(
        "mmdet3d", 2, point_branch=True, point_range=(-25.6, -25.6, -3, 25.6, 25.6, 1), voxel_size=(0.4, 0.4, 0.16)
    ),
    momentum=0.2,
    max_voxels=(2000, 4000),
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scans of a small sensor in one street, with boxes."""
    out = tmp_path_factory.mktemp("boxed") / "drive"
    plan = Plan("vlp16", 2, seed=5, kind="urban", formats=("semantic-kitti", "boxes"))
    assert [done.scans for done in simulate(plan, 1, out)] == [2]
    return out


@pytest.fixture
def start(tmp_path: Path) -> Path:
    """A detector that no recipe's defaults describe."""
    return made(tmp_path / "start.safetensors", 1)


def made(path: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    save_detector(path, Second(SPEC), DetectorFacts(SPEC, "before", provenance="from a friend, for research only"))
    return path


def recipe_of(folder: Path, drive: Path, start: Path, **detector: object) -> Path:
    path = folder / "tuned.yaml"
    document = {
        "name": "tuned",
        "start": str(start),
        "detector": detector,
        "data": {"train": str(drive), "validation": str(drive), "workers": 0},
        "optimiser": {"kind": "sgd", "learning_rate": 1e-12, "weight_decay": 0},
        "schedule": {"warmup_steps": 0},
        "trainer": {"steps": 1, "batch_size": 2, "log_every": 1, "device": "cpu"},
    }
    path.write_text(yaml.safe_dump(document))
    return path


def test_a_detector_goes_on_from_a_checkpoint_and_says_so(drive: Path, start: Path, tmp_path: Path) -> None:
    path, out = recipe_of(tmp_path, drive, start), tmp_path / "run"
    assert run(path, ["trainer.max_minutes=1e-9", "trainer.steps=2"], out) == UNFINISHED
    assert run(path, ["trainer.steps=2"], out, resume=True) == 0
    (before, old), (after, new) = load_detector(start), load_detector(out / "last.safetensors")
    for (name, value), found in zip(before.named_parameters(), after.parameters(), strict=True):
        torch.testing.assert_close(found, value, rtol=0, atol=1e-6, msg=name)
    assert new.spec == SPEC
    assert new.training is not None
    assert (new.training.start, new.training.start_sha256) == ("start.safetensors", old.weights_sha256)
    assert "from a friend, for research only" in new.provenance
    # The data's words of KITTI's classes are still known.
    assert json.loads((out / "log.jsonl").read_text().splitlines()[-1])["objects"]["Car"] > 0


def test_other_classes_get_a_new_head_and_are_told(
    drive: Path, start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    classes = [{"name": "vehicle", "size": [4, 2, 1.6], "bottom": -1.7, "kinds": ["car", "truck"]}]
    out = tmp_path / "run"
    assert run(recipe_of(tmp_path, drive, start, classes=classes, norm_momentum=0.5), [], out) == 0
    said = capsys.readouterr().err
    assert "start.safetensors finds Pedestrian, Cyclist, Car, the recipe vehicle, with other names or anchors" in said
    (before, _), (after, facts) = load_detector(start), load_detector(out / "last.safetensors")
    assert facts.classes == ("vehicle",)
    assert (facts.spec.momentum, facts.spec.max_voxels, facts.spec.head.forced) == (0.5, (2000, 4000), "above_negative")
    theirs = before.state_dict()
    for name, value in after.named_parameters():
        if name.startswith("head."):
            assert value.shape != theirs[name].shape
        else:
            torch.testing.assert_close(value, theirs[name], rtol=0, atol=1e-6)


def test_what_the_recipe_leaves_open_is_the_starts_and_what_it_says_must_agree(
    drive: Path, start: Path, tmp_path: Path
) -> None:
    def begun(*overrides: str, **detector: object) -> DetectorStart:
        recipe, found = begin(load_recipe(recipe_of(tmp_path, drive, start, **detector), overrides))
        assert isinstance(found, DetectorStart)
        again, same = begin(recipe)
        assert isinstance(same, DetectorStart)
        assert (again, same.spec) == (recipe, found.spec), "a recipe that is written down means the same"
        return found

    assert begun().spec == begun(width=2, convention="mmdet3d", point_branch=True).spec == SPEC
    recipe, _ = begin(load_recipe(recipe_of(tmp_path, drive, start)))
    assert recipe.detector is not None
    kinds = recipe.detector.classes_of_kinds()
    assert kinds == {"pedestrian": 0, "person": 0, "cyclist": 1, "bicyclist": 1, "car": 2}
    overlaps = [
        {"name": c.name, "size": c.size, "bottom": c.bottom, "positive": 0.3, "negative": 0.1}
        for c in SPEC.head.classes
    ]
    found = begun(classes=overlaps)
    assert found.keeps_head
    assert found.spec.head.classes[0].positive == 0.3
    assert not begun(classes=overlaps[::-1]).keeps_head
    assert not begun(classes=[overlaps[0] | {"size": [1, 1, 1]}, *overlaps[1:]]).keeps_head
    for detector, message in (
        ({"width": 4}, r"detector\.width is 4, but .*start\.safetensors has 2; leave it out"),
        ({"voxel_size": [0.2, 0.2, 0.16]}, r"detector\.voxel_size is \(0\.2"),
    ):
        with pytest.raises(ConfigError, match=message):
            begun(**detector)
    with pytest.raises(ConfigError, match=r"sha256 [0-9a-f]{64}, expected abc"):
        begun("start_sha256=abc")


def test_weights_that_label_points_are_no_start_of_a_detector(drive: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.safetensors"
    spec = NetSpec.of([4] * 9, [1] * 8, num_classes=19)
    save_checkpoint(labels, PointVoxelUNet(spec), Facts(spec, "labels", "semantic-kitti", voxel_size=0.3))
    with pytest.raises(CheckpointError, match=r"labels\.safetensors"):
        begin(load_recipe(recipe_of(tmp_path, drive, labels)))
