"""Training as a user meets it: recipes, losses by their definitions, runs that are killed and go on, two processes."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import places
from drives import write_drive
from spvnas_ros.engine.sample_street import street_scan
from spvnas_ros.nets.spec import NetSpec, SpecError
from spvnas_ros.nets.unet import PointVoxelUNet
from spvnas_ros.offline.augment import Augmentation
from spvnas_ros.offline.datasets import open_dataset
from spvnas_ros.offline.evaluation.dataset_evaluation import evaluate
from spvnas_ros.offline.training.command import UNFINISHED, run
from spvnas_ros.offline.training.config import ConfigError, ScheduleConfig, load_recipe
from spvnas_ros.offline.training.data import StepSampler
from spvnas_ros.offline.training.losses import cross_entropy_sum, inverse_sqrt_weights, lovasz_softmax
from spvnas_ros.offline.training.schedules import rate_factor
from spvnas_ros.offline.training.task import TrainingError, averaged
from spvnas_ros.perception import Perception
from spvnas_ros.zoo.checkpoint import load_checkpoint

RECIPES = sorted(places.RECIPES.glob("*.yaml"))
STEPS = 8
REACH = 8.0
"""Metres: what is learned by heart is small enough for a test, and still holds 11 classes."""


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five small labelled scans in SemanticKITTI's layout."""
    folder = tmp_path_factory.mktemp("drive")
    write_drive(folder, 5)
    return folder


@pytest.fixture
def recipe(drive: Path, tmp_path: Path) -> Path:
    """A recipe with everything in it: augmentation with mixing, dropout, an average, weights, Lovász, validation."""
    path = tmp_path / "small.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "name": "small",
                "seed": 5,
                "net": {"widths": [4, 4, 8, 8, 8, 8, 8, 8, 8], "depths": [1] * 8},
                "data": {"train": str(drive), "validation": str(drive), "voxel_size": 0.3, "workers": 0}
                | {"max_voxels": 1500, "validation_scans": 2},
                "augment": {"lasermix": {"probability": 0.5}, "rotate": None, "jitter": None},
                "loss": {"class_weights": "inverse-sqrt", "lovasz": 0.5},
                "optimiser": {"kind": "adamw", "learning_rate": 0.01, "clip": 10},
                "schedule": {"warmup_steps": 2},
                "trainer": {"steps": STEPS, "batch_size": 2, "log_every": 1, "validate_every": 4, "ema": 0.9}
                | {"save_every": 3, "device": "cpu"},
            },
            sort_keys=False,  # augmentations are applied in their order
        )
    )
    return path


def log_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def losses_of(folder: Path) -> list[tuple[int, float]]:
    return [(line["step"], line["loss"]) for line in log_of(folder) if "loss" in line]


# Recipes


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_of_the_project_can_be_used(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.name == path.stem
    Augmentation.from_config(recipe.augment)
    recipe.net.spec(19)


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


# Losses and rates


def jaccard_loss(truth: np.ndarray, wrong: np.ndarray) -> float:
    """1 - IoU of a class whose voxels are `truth` when the voxels `wrong` are mistaken for the opposite."""
    found = truth ^ wrong
    return 1 - (truth & found).sum() / (truth | found).sum()


def lovasz_by_definition(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The Lovász extension as the maximum over the base polytope: of <errors, marginals> over all orders of voxels."""
    losses = []
    for index in np.unique(labels):
        truth = labels == index
        errors = np.where(truth, 1 - probabilities[:, index], probabilities[:, index])
        best = -np.inf
        for order in itertools.permutations(range(len(labels))):
            value, before, wrong = 0.0, 0.0, np.zeros(len(labels), bool)
            for voxel in order:
                wrong[voxel] = True
                value += errors[voxel] * (jaccard_loss(truth, wrong) - before)
                before = jaccard_loss(truth, wrong)
            best = max(best, value)
        losses.append(best)
    return float(np.mean(losses))


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.integers(1, 5))
def test_the_lovasz_loss_is_the_extension_of_the_jaccard_loss(seed: int, voxels: int) -> None:
    rng = np.random.default_rng(seed)
    logits, labels = rng.normal(size=(voxels, 3)), rng.integers(0, 3, voxels)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    padded = torch.from_numpy(np.append(labels, 255))
    loss = lovasz_softmax(torch.from_numpy(np.vstack([logits, rng.normal(size=3)])), padded)
    assert float(loss) == pytest.approx(lovasz_by_definition(probabilities, labels))


@given(st.integers(1, 60), st.integers(0, 2**32 - 1), st.booleans())
@settings(max_examples=40)
def test_lovasz_in_single_precision_is_that_in_double(count: int, seed: int, ties: bool) -> None:
    drawn = torch.randn(count, 4, generator=torch.Generator().manual_seed(seed))
    exact = (drawn.round() if ties else drawn).double().requires_grad_()
    single = exact.detach().float().requires_grad_()
    labels = torch.randint(0, 4, (count,), generator=torch.Generator().manual_seed(seed + 1))
    losses = [lovasz_softmax(logits, labels) for logits in (exact, single)]
    torch.testing.assert_close(losses[1].double(), losses[0], rtol=1e-5, atol=1e-6)
    for loss in losses:
        loss.backward()
    assert single.grad is not None
    assert exact.grad is not None
    if not ties:
        torch.testing.assert_close(single.grad.double(), exact.grad, rtol=1e-4, atol=1e-6)


def test_losses_without_any_truth_are_zero_and_have_a_gradient() -> None:
    logits = torch.randn(4, 3, requires_grad=True)
    nothing = torch.full((4,), 255)
    loss = lovasz_softmax(logits, nothing) + cross_entropy_sum(logits, nothing)[0]
    loss.backward()
    assert float(loss) == 0
    assert logits.grad is not None
    assert not logits.grad.any()


@pytest.mark.parametrize("weights", [None, torch.tensor([0.5, 1.0, 4.0])])
def test_the_cross_entropy_comes_in_parts_that_make_the_mean(weights: torch.Tensor | None) -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(50, 3), torch.randint(0, 3, (50,))
    labels[::7] = 255
    parts = [cross_entropy_sum(logits[part], labels[part], weights) for part in (slice(0, 20), slice(20, 50))]
    mean = sum(total for total, _ in parts) / sum(count for _, count in parts)
    torch.testing.assert_close(mean, nn.functional.cross_entropy(logits, labels, weights, ignore_index=255))


def test_rare_classes_weigh_more_and_absent_ones_one() -> None:
    weights = inverse_sqrt_weights(np.array([900, 100, 0]))
    np.testing.assert_allclose(weights, [0.5, 1.5, 1.0])


def test_the_rate_warms_up_and_falls() -> None:
    cosine = ScheduleConfig(warmup_steps=10, warmup_start=0.1, floor=0.01)
    rates = [rate_factor(cosine, step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[50] == pytest.approx(0.505)
    assert max(rates) == rates[10]
    assert rates[10:] == sorted(rates[10:], reverse=True)
    steps = ScheduleConfig(kind="steps", warmup_steps=0, milestones=(0.5, 0.75), gamma=0.1)
    assert [rate_factor(steps, step, 8) for step in (3, 4, 6)] == pytest.approx([1, 0.1, 0.01])


def test_the_average_forgets_its_beginning_and_then_follows_slowly() -> None:
    net = PointVoxelUNet(NetSpec.spvcnn(2))
    average = averaged(net, 0.9)
    for value in (1.0, 1.0, 2.0):
        with torch.no_grad():
            net.classifier.bias.fill_(value)
        net.stem[0].norm.num_batches_tracked += 1
        average.update_parameters(net)
    kept = 3 / 12
    torch.testing.assert_close(average.module.classifier.bias, torch.full((19,), kept * 1 + (1 - kept) * 2))
    assert int(average.module.stem[0].norm.num_batches_tracked) == 3


# Batches by step


@given(st.integers(1, 9), st.sampled_from([1, 2]), st.integers(1, 3), st.integers(0, 6))
def test_steps_share_the_scans_among_processes_and_do_not_depend_on_the_start(
    size: int, replicas: int, share: int, start: int
) -> None:
    batch, steps = share * replicas, 7
    whole = list(StepSampler(size, batch, steps, seed=3))
    parts = [
        list(StepSampler(size, batch, steps, seed=3, start=lambda: start, rank=rank, replicas=replicas))
        for rank in range(replicas)
    ]
    assert [[*itertools.chain(*step)] for step in zip(*parts, strict=True)] == whole[start:]
    keys = [key for step in whole for key in step]
    for epoch in range(len(keys) // size):
        assert sorted(keys[epoch * size : (epoch + 1) * size]) == [(epoch, index) for index in range(size)]


# Runs


KILLED = """
import os, signal, sys
import torch
from pathlib import Path
from spvnas_ros.offline.training import command

class Recorder(command.Recorder):
    def on_train_batch_end(self, trainer, *others):
        super().on_train_batch_end(trainer, *others)
        if trainer.global_step == 5:
            os.kill(os.getpid(), signal.SIGKILL)

torch.set_num_threads(1)
command.Recorder = Recorder
command.run(Path(sys.argv[1]), [], Path(sys.argv[2]))
"""


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
    killed = subprocess.run([sys.executable, "-c", KILLED, str(recipe), str(broken)], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
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


@pytest.mark.usefixtures("one_thread")
def test_two_processes_train_the_network_that_one_trains(recipe: Path, tmp_path: Path) -> None:
    # Without a point branch there is no dropout, and the Lovász loss is each process's own.
    overrides = ["net.point_branch=false", "loss.lovasz=0", "trainer.steps=3", "optimiser.kind=sgd", "trainer.ema=0.5"]
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
