"""The training of a supernet: which networks learn when, what a killed run does, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from spvnas_ros.offline.training.command import run
from spvnas_ros.offline.training.config import ConfigError
from spvnas_ros.offline.training.recipe_files import load_recipe
from spvnas_ros.offline.training.supernet_job import SupernetJob
from spvnas_ros.zoo.supernet_checkpoint import load_supernet
from training_runs import STEPS, killed

SUPERNET = {
    "around": [4, 8, 8, 8, 8, 8, 8, 8, 8],
    "sampling": "sandwich",
    "drawn": 1,
    "whole_until": 0.5,
    "widths_until": 0.75,
    "validated": 1,
    "calibration": 2,
}


@pytest.fixture
def supernet_recipe(recipe: Path) -> Path:
    document = yaml.safe_load(recipe.read_text())
    del document["net"]
    recipe.write_text(yaml.safe_dump(document | {"supernet": SUPERNET}, sort_keys=False))
    return recipe


@pytest.fixture
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def log_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.usefixtures("one_thread")
def test_a_killed_run_goes_on_as_if_nothing_had_happened(supernet_recipe: Path, tmp_path: Path) -> None:
    """The kill is after step 5, the checkpoint of step 3, and channels are put into order before step 5."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert run(supernet_recipe, [], whole) == 0
    killed(supernet_recipe, broken)
    assert run(supernet_recipe, [], broken, resume=True) == 0
    assert log_of(broken) == log_of(whole)
    (one, facts), (other, others) = (load_supernet(folder / "last.safetensors") for folder in (whole, broken))
    assert facts == others
    assert facts.weights_sha256 == others.weights_sha256
    assert one.space == other.space
    validation = [line for line in log_of(whole) if "miou" in line]
    assert [line["step"] for line in validation] == [4, STEPS]
    assert {key for key in validation[0] if key.startswith("miou_")} == {
        "miou_largest",
        "miou_smallest",
        "miou_drawn_1",
    }
    assert facts.training is not None
    assert facts.training.scores == {"mean of mIoU of 3 subnets in the validation": validation[-1]["miou"]}
    parts = [line["step"] for line in log_of(whole) if "loss_smallest" in line]
    assert parts == [5, 6, 7, 8]  # the largest alone before


@pytest.mark.parametrize("sampling", ["uniform", "sandwich"])
def test_the_networks_of_a_step_hang_on_seed_and_step_alone(supernet_recipe: Path, sampling: str) -> None:
    overrides = [f"supernet.sampling={sampling}", "supernet.drawn=2"]
    job = SupernetJob(load_recipe(supernet_recipe, overrides))
    one, other = job.task(40), job.task(40)
    other.drawn(3)
    steps = [one.drawn(step) for step in range(40)]
    assert steps == [other.drawn(step) for step in range(40)]
    largest, smallest = job.space.largest().spec, job.space.smallest().spec
    assert steps[:20] == [[largest]] * 20
    count = 1 if sampling == "uniform" else 4
    assert all(len(specs) == count for specs in steps[20:])
    depths = [{len(stage.blocks) for spec in specs for stage in spec.encoder} for specs in steps]
    assert set().union(*depths[20:30]) == {2}
    assert set().union(*depths[30:]) == {1, 2}
    assert len({specs[-1] for specs in steps[20:]}) == 20
    if sampling == "sandwich":
        assert {specs[0] for specs in steps} == {largest}
        assert {specs[1] for specs in steps[30:]} == {smallest}
    seeded = SupernetJob(load_recipe(supernet_recipe, [*overrides, "seed=9"])).task(40)
    assert seeded.drawn(30) != one.drawn(30)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["net.width=8"], "net is of single networks"),
        (["start=default"], "start is of single networks"),
        (["supernet.whole_until=0.9"], "must not be larger"),
        (["supernet.around=[4, 4]"], "lists 9 widths, found 2"),
        (["supernet.depths=[2, 1]"], "depths"),
        (["supernet.sampling=often"], "supernet.sampling"),
    ],
)
def test_what_no_supernet_has_is_refused(supernet_recipe: Path, changes: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_recipe(supernet_recipe, changes)
