"""Recipes: every one of the project's can be used, and what is wrong with one is said."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

import places
from spvnas_ros.nets.space import Candidate, Space
from spvnas_ros.nets.spec import NetSpec
from spvnas_ros.nets.spec_error import SpecError
from spvnas_ros.nets.supernet import Supernet
from spvnas_ros.nets.unet import PointVoxelUNet
from spvnas_ros.offline.augment import Augmentation
from spvnas_ros.offline.augment.compose import BoxedAugmentation
from spvnas_ros.offline.training.command import run
from spvnas_ros.offline.training.config import ConfigError
from spvnas_ros.offline.training.recipe_files import load_recipe
from spvnas_ros.offline.training.start import begin
from spvnas_ros.zoo.checkpoint import Facts, load_checkpoint, save_checkpoint
from spvnas_ros.zoo.supernet_checkpoint import save_supernet
from training_runs import STEPS

SPACE = Space((4,) * 9, (4, 8, 8, 12, 12, 12, 8, 8, 8), voxel_sizes=(0.25,))
RECIPES = sorted(places.RECIPES.glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_of_the_project_can_be_used(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.name == path.stem
    if recipe.detector:
        BoxedAugmentation.from_config(recipe.augment)
        assert recipe.detector.spec().point_branch == ("spv" in path.stem)
        return
    if recipe.boxes:
        BoxedAugmentation.from_config(recipe.augment)
        assert recipe.boxes.spec(recipe.data.voxel_size or 0.1).columns[0] > 0
        return
    Augmentation.from_config(recipe.augment)
    recipe.net.spec(19)
    if recipe.supernet:
        assert recipe.supernet.space(19, recipe.data.voxel_size).size > 10**9


@pytest.mark.parametrize("name", ["second_kitti", "sim_second_tiny"])
def test_both_detectors_are_trained_alike(name: str) -> None:
    """So that what differs between them is the point branch alone."""
    plain, spv = (load_recipe(places.RECIPES / f"{each}.yaml") for each in (name, name.replace("second", "spv_second")))
    assert plain.detector is not None
    assert replace(plain, name="", detector=replace(plain.detector, point_branch=True)) == replace(spv, name="")


def test_a_recipe_says_all_that_is_wrong_with_it(tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text("name: x\ntrainer: {epoch: 3, batch_size: 0}\nnet: {width: wide}\n")
    with pytest.raises(ConfigError) as caught:
        load_recipe(path)
    message = str(caught.value)
    assert "trainer.epoch: there is no such key" in message
    assert "trainer.batch_size: found 0, expected" in message
    assert "net.width: found 'wide', expected" in message
    path.write_text("name: x\nboxes: {classes: [{name: car}]}\nnet: {like: []}\n")
    with pytest.raises(ConfigError) as caught:
        load_recipe(path)
    lines = str(caught.value).splitlines()[1:]  # each fault once
    assert lines == [
        "  net.like: found [], expected: Value error, a file, or the content of one",
        "  boxes.classes.0.size: is missing",
        "  boxes.classes.0.bottom: is missing",
    ]
    for supernet, words in (
        ("{around: [8, 8, 8, 8, 8, 8, 8, 8, 8], highest: [8]}", "supernet.highest would change nothing"),
        ("{low: 0.1}", "supernet.low would change nothing"),
    ):
        path.write_text(f"name: x\nsupernet: {supernet}\n")
        with pytest.raises(ConfigError, match=words):
            load_recipe(path)
    for text in ("[1, 2", "- a list"):
        path.write_text(text)
        with pytest.raises(ConfigError, match=r"wrong\.yaml"):
            load_recipe(path)


def test_values_of_the_command_line_replace_those_of_the_file(recipe: Path) -> None:
    found = load_recipe(recipe, ["optimiser.learning_rate=1e-3", "data.train=[a, b]", "augment.flip={x: 0.1}"])
    assert found.optimiser.learning_rate == 1e-3
    assert found.data.train == ("a", "b")
    assert list(found.augment) == ["lasermix", "rotate", "jitter", "flip"]
    assert found.trainer.steps == STEPS
    for wrong in ("steps", "trainer.steps.more=1", "trainer.stepz=1", ".=1", "net=[", "seed=-1"):
        with pytest.raises(ConfigError):
            load_recipe(recipe, [wrong])


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("data.sequences=[010]", "010 would be read as 8, as YAML has it; write 8 if that is meant, or '010' in"),
        ("trainer.max_minutes=1:30", "1:30 would be read as 90"),
        ("trainer.max_minutes=1:30.5", "1:30.5 would be read as 90.5"),
        ("data.max_voxels=012345670", "012345670 would be read as 2739128, as YAML has it; write 2739128 if"),
        ("trainer.steps=1", "warmup_steps is 2, but the training has 1 steps.*schedule.warmup_steps=0 is a tenth"),
        ("schedule.milestones=[0.5]", "schedule.milestones would change nothing: schedule.kind is 'cosine'"),
        (
            "schedule={kind: steps, warmup_steps: 0, rise: 0.2, low_momentum: 0.5}",
            r"schedule.rise and schedule.low_momentum would",
        ),
        ("supernet={drawn: 3}", "supernet.drawn is 3 and would change nothing: with sampling 'uniform' one"),
    ],
)
def test_what_would_be_read_otherwise_or_not_at_all_is_refused(
    recipe: Path, tmp_path: Path, override: str, said: str
) -> None:
    plain = [] if not override.startswith("supernet") else ["net={}"]
    with pytest.raises(ConfigError, match=said):
        load_recipe(recipe, [*plain, override])
    if "would be read" in said:
        key, _, value = override.partition("=")
        parent, last = key.split(".")
        path = tmp_path / "own.yaml"
        path.write_text(f"name: own\n{parent}:\n  {last}: {value}\n")
        with pytest.raises(ConfigError, match=rf"own\.yaml, line 3: {said}"):
            load_recipe(path)


@pytest.mark.parametrize("value", ["2024-13-01", "0x_", "!!int foo", "&a [*a]", "{[1, 2]: 3}", "{? !!python/none : 1}"])
def test_values_that_yaml_cannot_read_are_said(recipe: Path, tmp_path: Path, value: str) -> None:
    with pytest.raises(ConfigError):
        load_recipe(recipe, [f"seed={value}"])
    path = tmp_path / "own.yaml"
    path.write_text(f"name: own\nseed: {value}\n")
    with pytest.raises(ConfigError, match=r"own\.yaml"):
        load_recipe(path)


def test_numbers_that_are_what_they_look_like_are_read(recipe: Path) -> None:
    assert load_recipe(recipe, ["data.sequences=[00, 07, 08, '010', 10]"]).data.sequences == (
        "0", "7", "08", "010", "10",
    )  # fmt: skip
    assert load_recipe(recipe, ["trainer.steps=1_000", "seed=0x10"]).seed == 16
    sandwich = "supernet={drawn: 3, sampling: sandwich, around: [16, 16, 16, 16, 16, 16, 16, 16, 16]}"
    assert load_recipe(recipe, ["net={}", sandwich]).supernet is not None


def test_a_warm_up_that_takes_longer_than_the_passes_over_few_scans_is_said(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["trainer.steps=0", "trainer.epochs=0.4", "data.validation=[]"]
    assert run(recipe, given, tmp_path / "run") == 0
    assert "schedule.warmup_steps is 2, but the training has 1 steps" in "".join(capsys.readouterr())


def test_what_a_run_writes_down_is_the_same_recipe(recipe: Path, tmp_path: Path) -> None:
    found = load_recipe(recipe)
    copy = tmp_path / "copy.yaml"
    copy.write_text(yaml.safe_dump(found.document()))
    assert load_recipe(copy) == found


def test_a_network_of_ones_own_is_the_published_one_where_the_widths_are() -> None:
    w16 = [16, 16, 32, 64, 128, 128, 64, 48, 48]
    assert NetSpec.of(w16) == NetSpec.spvcnn(16)
    assert NetSpec.of(w16, point_branch=False) == NetSpec.minkunet(16)
    assert [len(stage.blocks) for stage in NetSpec.of(w16, [1, 2, 3, 4, 1, 1, 1, 1]).encoder] == [1, 2, 3, 4]
    for widths, depths in (([1] * 8, [1] * 8), ([1] * 9, [1] * 7), ([1] * 9, [0] * 8), ([0] * 9, [1] * 8)):
        with pytest.raises(SpecError):
            NetSpec.of(widths, depths)


def written(folder: Path, candidate: Candidate) -> dict[str, Path]:
    """The files that describe a network: what a search leaves, the published form, and a checkpoint."""
    entry = json.dumps({"limit": 1, "marks": {"miou": 0.5}, "candidate": candidate.to_dict()})
    other = json.dumps({"candidate": SPACE.smallest().to_dict()})
    files = {
        "found_1.json": entry,
        "candidate.json": json.dumps(candidate.to_dict()),
        "line.jsonl": entry + "\n",
        "front.json": json.dumps([json.loads(other), json.loads(entry)]),
        "candidates.jsonl": f"{other}\n{entry}\n",
        "net.config": json.dumps(candidate.to_net_config()),
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    net = PointVoxelUNet(candidate.spec)
    save_checkpoint(folder / "net.safetensors", net, Facts(candidate.spec, voxel_size=candidate.voxel_size))
    return {path.name: path for path in folder.iterdir()}


def test_a_recipe_takes_a_networks_form_from_any_file_that_describes_it(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "forms").mkdir()
    candidate = SPACE.sample(np.random.default_rng(0))
    for name, path in written(tmp_path / "forms", candidate).items():
        several = name in ("front.json", "candidates.jsonl")
        net = f"net={{like: {path}{', number: 2' if several else ''}}}"
        found = load_recipe(recipe, [net, "data.voxel_size=0"])
        assert found.net.spec(19) == candidate.spec, name
        assert found.net.spec(5) == replace(candidate.spec, num_classes=5), name
        assert found.data.voxel_size == 0.25, name
        assert load_recipe(recipe, [net]).data.voxel_size == 0.3  # what the recipe says goes first
        copy = tmp_path / "copy.yaml"
        copy.write_text(yaml.safe_dump(found.document()))
        path.unlink()
        assert load_recipe(copy) == found, name  # a run needs the file no more
        if several:
            path.write_text("[]")
            with pytest.raises(ConfigError, match=f"{name}: it holds 0 networks; choose one"):
                load_recipe(recipe, [net])


@pytest.mark.parametrize(
    ("net", "words"),
    [
        ("{like: gone.json}", "there is no file gone.json"),
        ("{like: front.json}", "front.json: it holds 2 networks; choose one by its number, 1 to 2"),
        ("{like: front.json, number: 3}", "it holds 2 networks; choose one by its number"),
        ("{like: found_1.json, number: 2}", "it holds one network, and number 2 of it was asked for"),
        ("{like: net.safetensors, number: 1}", "holds one network, and number 1 of it was asked for"),
        ("{like: found_1.json, widths: [4, 4, 8, 8, 8, 8, 8, 8, 8]}", "net has widths beside it; leave that out"),
        ("{like: small.yaml}", "small.yaml: it is neither JSON"),
        ("{like: other.json}", "it has 'a', 'b'; expected a network that a search found"),
        ("{like: {spec: {stem: [a]}, voxel_size: 1}}", "not a network description"),
        ("{like: {}}", "it has no entries"),
        ("{like: float.json}", "widths must be of type int, found 16.5"),
        ("{like: inputs.json}", "takes 7 features of a voxel, and trainings give 4"),
        ("{like: supernet.safetensors}", "holds a supernet, which is many networks"),
        ("{number: 2}", "net.like names none"),
        ("{depths: [1, 1, 1, 1, 1, 1, 1, 1]}", "net.depths are of a network that net.widths describes"),
        ("{width: 16, widths: [4, 4, 8, 8, 8, 8, 8, 8, 8]}", "both say how wide the network is"),
    ],
)
def test_a_file_that_describes_no_network_is_said(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, net: str, words: str
) -> None:
    candidate = SPACE.largest()
    written(tmp_path, candidate)
    content = candidate.to_dict()
    (tmp_path / "other.json").write_text('{"a": 1, "b": 2}')
    (tmp_path / "float.json").write_text(json.dumps(content | {"spec": content["spec"] | {"stem": [16.5, 16]}}))
    (tmp_path / "inputs.json").write_text(json.dumps(content | {"spec": content["spec"] | {"in_channels": 7}}))
    supernet = Supernet(SPACE)
    save_supernet(tmp_path / "supernet.safetensors", supernet, Facts(supernet.spec, voxel_size=0.25))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        load_recipe(recipe, [f"net={net}"])
    assert words in str(caught.value)


@pytest.mark.usefixtures("one_thread")
def test_a_network_begins_with_random_weights_in_the_form_of_a_file(recipe: Path, tmp_path: Path) -> None:
    candidate, out = SPACE.sample(np.random.default_rng(1)), tmp_path / "run"
    path = written(tmp_path, candidate)["found_1.json"]
    changes = [f"net={{like: {path}}}", "trainer.steps=1", "schedule.warmup_steps=0"]
    assert run(recipe, changes, out) == 0
    net, facts = load_checkpoint(out / "last.safetensors")
    assert (net.spec, facts.voxel_size) == (candidate.spec, 0.3)
    path.write_text(json.dumps(SPACE.smallest().to_dict()))
    with pytest.raises(ConfigError, match=r"other settings: net\.like\.spec"):
        run(recipe, changes, out, resume=True)
    # With a start the form must be the start's, or one with fewer blocks.
    begin(load_recipe(out / "config.yaml", [f"start={out / 'last.safetensors'}"]))
    with pytest.raises(ConfigError, match="is not that of"):
        begin(load_recipe(recipe, [f"net={{like: {path}}}", f"start={out / 'last.safetensors'}"]))
