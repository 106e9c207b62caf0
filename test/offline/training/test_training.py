"""Training as a user meets it: runs that are killed and go on, two processes, scans learned by heart."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from spvnas_ros.engine.sample_street import street_scan
from spvnas_ros.offline.datasets import open_dataset
from spvnas_ros.offline.evaluation.dataset_evaluation import evaluate
from spvnas_ros.offline.training.command import UNFINISHED, run
from spvnas_ros.offline.training.config import ConfigError
from spvnas_ros.offline.training.task import TrainingError
from spvnas_ros.perception import Perception
from spvnas_ros.zoo.checkpoint import load_checkpoint
from training_runs import STEPS, killed

REACH = 8.0
"""Metres: what is learned by heart is small enough for a test, and still holds 11 classes."""


def log_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def losses_of(folder: Path) -> list[tuple[int, float]]:
    return [(line["step"], line["loss"]) for line in log_of(folder) if "loss" in line]


@pytest.fixture
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_a_killed_run_goes_on_as_if_nothing_had_happened(recipe: Path, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert run(recipe, [], whole) == 0
    # The last checkpoint is of step 3; what follows it must be forgotten and done again.
    killed(recipe, broken)
    assert losses_of(broken)[-1][0] == 5
    with (broken / "log.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')  # a line that was being written
    with pytest.raises(ConfigError, match="--resume"):
        run(recipe, [], broken)
    with pytest.raises(ConfigError, match=r"optimiser.learning_rate 0.01, now 0.5"):
        run(recipe, ["optimiser.learning_rate=0.5"], broken, resume=True)
    assert run(recipe, ["trainer.log_every=1"], broken, resume=True) == 0
    assert log_of(broken) == log_of(whole)
    assert [step for step, _ in losses_of(whole)] == list(range(1, STEPS + 1))
    for name in ("best.safetensors", "last.safetensors"):
        one, other = (load_checkpoint(folder / name)[1] for folder in (whole, broken))
        assert one == other
        assert one.weights_sha256 == other.weights_sha256


@pytest.mark.usefixtures("one_thread")
def test_a_run_in_pieces_is_a_run(recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "pieces"
    overrides = ["trainer.max_minutes=1e-9", "trainer.steps=3"]
    assert [run(recipe, overrides, out, resume=True) for _ in range(3)] == [UNFINISHED, UNFINISHED, 0]
    assert [step for step, _ in losses_of(out)] == [1, 2, 3]
    assert (out / "tensorboard").is_dir()
    net, facts = load_checkpoint(out / "last.safetensors")
    assert facts.training is not None
    assert (facts.training.recipe, facts.training.seed, facts.training.steps) == ("small", 5, 3)
    assert 0 <= facts.training.scores["validation"] <= 1
    labels = Perception.from_net(net, facts, device="cpu")(street_scan(seed=9, beams=16, columns=300)[0]).labels
    assert (labels < 19).all()


@pytest.mark.usefixtures("one_thread")
def test_other_scans_under_a_run_are_noticed(recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    overrides = ["trainer.steps=0", "trainer.epochs=1.5", "trainer.max_minutes=1e-9"]
    assert run(recipe, overrides, out) == UNFINISHED
    state = torch.load(out / "last.ckpt", weights_only=True)
    torch.save(state | {"steps": 99}, out / "last.ckpt")
    with pytest.raises(TrainingError, match="99 steps, now there are 4"):
        run(recipe, overrides, out, resume=True)


@pytest.fixture
def moved(drive: Path, tmp_path: Path) -> Path:
    """The scans of the drive in another place."""
    return shutil.copytree(drive, tmp_path / "elsewhere" / drive.name)


@pytest.mark.usefixtures("one_thread")
def test_the_same_data_in_another_place_are_the_same_data(recipe: Path, moved: Path, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "run"
    steps = ["trainer.steps=3"]
    assert run(recipe, steps, whole) == 0
    assert run(recipe, [*steps, "trainer.max_minutes=1e-9"], out) == UNFINISHED
    assert run(recipe, [*steps, f"data.train={moved}", f"data.validation={moved}"], out, resume=True) == 0
    assert log_of(out) == log_of(whole)


def _grown(folder: Path) -> None:
    for part, name, new in (
        ("velodyne", "000004.bin", "000005.bin"),
        ("labels", "000004.label", "000005.label"),
    ):
        shutil.copy(folder / part / name, folder / part / new)


def _relabelled(folder: Path) -> None:
    path = folder / "labels" / "000002.label"
    labels = np.fromfile(path, np.uint32)
    np.where(labels == 40, 48, labels).astype(np.uint32).tofile(path)


def _renamed(folder: Path) -> None:
    for path in (folder / "velodyne" / "000000.bin", folder / "labels" / "000000.label"):
        path.rename(path.with_stem("000009"))


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_grown, r"2 new \(first labels/000005\.label\)"),
        (_relabelled, r"1 changed \(first labels/000002\.label: [0-9]+ bytes, crc [0-9a-f]{8}, now [0-9]+ bytes, crc"),
        (_renamed, r"2 new \(first labels/000009\.label\), 2 missing \(first labels/000000\.label\)"),
    ],
)
@pytest.mark.parametrize("part", ["train", "validation"])
def test_other_data_under_a_run_are_refused_and_the_difference_is_named(
    recipe: Path, moved: Path, tmp_path: Path, change: Callable[[Path], None], says: str, part: str
) -> None:
    out = tmp_path / "run"
    overrides = [f"data.{part}={moved}", "trainer.max_minutes=1e-9"]  # the steps are fixed
    assert run(recipe, overrides, out) == UNFINISHED
    change(moved)
    with pytest.raises(ConfigError, match=f"{out} holds a run with other data: {says}"):
        run(recipe, overrides, out, resume=True)


@pytest.mark.usefixtures("one_thread")
def test_two_processes_train_the_network_that_one_trains(recipe: Path, tmp_path: Path) -> None:
    # Without a point branch there is no dropout, and the Lovász loss is each process's own. In bfloat16, sums in
    # another order round some operands to their other neighbours.
    overrides = ["net.point_branch=false", "loss.lovasz=0", "trainer.precision=fp32"]
    overrides += ["trainer.steps=3", "optimiser.kind=sgd", "trainer.ema=0.5"]
    assert run(recipe, overrides, tmp_path / "one") == 0
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m"]
    command += ["spvnas_ros.cli", "train", str(recipe), *overrides, "--out", str(tmp_path / "two")]
    subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, timeout=300)
    one, two = (dict(losses_of(tmp_path / name)) for name in ("one", "two"))
    assert two == pytest.approx(one, rel=1e-5)
    first, second = (load_checkpoint(tmp_path / name / "last.safetensors")[0].state_dict() for name in ("one", "two"))
    for key, value in first.items():
        torch.testing.assert_close(second[key], value, rtol=1e-3, atol=1e-5)


@pytest.mark.usefixtures("one_thread")
def test_two_real_scans_are_learned_by_heart(shared: Path, tmp_path: Path) -> None:
    scans = tmp_path / "scans"
    for name in ("000000", "000009"):
        sequence = shared / "data" / "semantickitti" / "sequences" / "07"
        points = np.fromfile(sequence / "velodyne" / f"{name}.bin", np.float32).reshape(-1, 4)
        near = np.linalg.norm(points[:, :2], axis=1) < REACH
        for folder, file, rows in (
            ("velodyne", f"{name}.bin", points),
            ("labels", f"{name}.label", np.fromfile(sequence / "labels" / f"{name}.label", np.uint32)),
        ):
            (scans / folder).mkdir(parents=True, exist_ok=True)
            rows[near].tofile(scans / folder / file)
    recipe = tmp_path / "overfit.yaml"
    recipe.write_text(
        yaml.safe_dump(
            {
                "name": "overfit",
                "net": {"widths": [16, 16, 24, 32, 48, 48, 32, 24, 24], "depths": [1] * 8},
                "data": {"train": str(scans), "validation": str(scans), "voxel_size": 0.15, "workers": 0},
                "loss": {"lovasz": 1.0},
                "optimiser": {"kind": "adamw", "learning_rate": 0.01, "weight_decay": 0},
                "schedule": {"warmup_steps": 0},
                "trainer": {"steps": 80, "batch_size": 2, "device": "cpu", "validate_every": 80},
            }
        )
    )
    assert run(recipe, [], tmp_path / "run") == 0
    assert log_of(tmp_path / "run")[-1]["miou"] > 0.9
    # What was kept is what was validated, and the engine that labels scans agrees with it.
    found = evaluate(Perception.load(tmp_path / "run" / "best.safetensors", device="cpu"), open_dataset(scans))
    assert found.score.miou == pytest.approx(log_of(tmp_path / "run")[-1]["miou"], abs=0.002)
