"""The network that comes with the package: what its file says, and what it scores."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from places import RECIPES
from spvnas_ros.cli import app
from spvnas_ros.offline.datasets import open_dataset
from spvnas_ros.offline.evaluation.dataset_evaluation import evaluate
from spvnas_ros.offline.training.recipe_files import load_recipe
from spvnas_ros.perception import Perception
from spvnas_ros.zoo.cache import shipped_path
from spvnas_ros.zoo.checkpoint import load_checkpoint

REAL_MIOU, STREET_MIOU = 0.366, 0.479
OF_LABELS = "b14297d5b6ac3167823f85eee016840ea25a6f9c0491a452411decffc2cf4ec9"
"""sha256 of the weights of the network without boxes, whose labels the network with boxes keeps."""


@pytest.fixture(scope="module")
def perception() -> Perception:
    return Perception.load("default", device="cpu")


def test_it_is_small_and_says_where_it_comes_from() -> None:
    net, facts = load_checkpoint(shipped_path())
    labels, boxes = (load_recipe(RECIPES / f"{name}.yaml") for name in ("sim_default", "default_boxes"))
    assert boxes.boxes is not None
    assert 1e6 < sum(parameter.numel() for parameter in net.parameters()) < 3e6
    assert shipped_path().stat().st_size < 6e6
    assert net.spec == replace(labels.net.spec(19), boxes=boxes.boxes.spec(facts.voxel_size))
    assert facts.training is not None
    assert (facts.training.recipe, facts.training.seed) == (boxes.name, boxes.seed)
    assert facts.training.steps <= boxes.trainer.steps
    assert facts.training.start == "labels.safetensors"
    assert facts.training.start_sha256 == OF_LABELS
    assert f"from labels.safetensors (weights sha256 {OF_LABELS}; blended: 50% of sim_world " in facts.provenance


def test_its_score_on_real_scans_is_the_one_that_is_told(perception: Perception, shared: Path) -> None:
    real = open_dataset(shared / "data" / "semantickitti")
    assert evaluate(perception, real).score.miou == pytest.approx(REAL_MIOU, abs=0.01)


def test_its_score_on_a_street_it_has_not_seen_is_pinned(perception: Perception, tmp_path: Path) -> None:
    street = ("--kind", "residential", "--seed", "1", "--scenes", "1", "--scans-per-scene", "1")
    done = CliRunner().invoke(app, ["simulate", *street, "--out", str(tmp_path / "street")])
    assert done.exit_code == 0, done.output
    assert evaluate(perception, open_dataset(tmp_path / "street")).score.miou == pytest.approx(STREET_MIOU, abs=0.02)
