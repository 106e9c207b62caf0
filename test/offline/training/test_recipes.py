"""Recipes: every one of the project's can be used, and what is wrong with one is said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

import places
from spvnas_ros.nets.spec import NetSpec
from spvnas_ros.nets.spec_error import SpecError
from spvnas_ros.offline.augment import Augmentation
from spvnas_ros.offline.augment.boxed_compose import BoxedAugmentation
from spvnas_ros.offline.training.config import ConfigError, load_recipe
from training_runs import STEPS

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
        assert recipe.boxes.spec(recipe.data.voxel_size).columns[0] > 0
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
