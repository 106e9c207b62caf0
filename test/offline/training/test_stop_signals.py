"""Ctrl-C and SIGTERM at any moment of a training: what was done is kept, and the run goes on as if nothing had been."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from spvnas_ros.offline.datasets.file_pairs import FileDataset
from spvnas_ros.offline.training import label_job, recorder
from spvnas_ros.offline.training.command import run
from spvnas_ros.offline.training.task import SegmentationTask
from training_runs import STEPS

NO_MIXING = ["augment={rotate: null}", "trainer.save_every=100"]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def whole_log() -> dict[str, list[dict[str, Any]]]:
    """The log of a whole run, by what it was given."""
    return {}


def log_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def calls(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, number: int, signum: int, *, before: bool) -> None:
    """Sends this process a signal before or after the call of that number."""
    plain: Callable[..., Any] = getattr(owner, name)
    count = 0

    def counted(*given: Any, **options: Any) -> Any:
        nonlocal count
        count += 1
        if count == number and before:
            os.kill(os.getpid(), signum)
        result = plain(*given, **options)
        if count == number and not before:
            os.kill(os.getpid(), signum)
        return result

    monkeypatch.setattr(owner, name, counted)


# One scan is read to check the training data, one for the validation's, five for class weights, five for intensities.
PREPARED = 12
MOMENTS = {
    "opening the data": (label_job, "open_training", 1, True, None),
    "reading scans before the first step": (FileDataset, "__getitem__", 5, False, None),
    "reading the first batch": (FileDataset, "__getitem__", PREPARED + 1, False, 0),
    "reading a batch": (FileDataset, "__getitem__", PREPARED + 6, True, None),
    "in a step": (SegmentationTask, "training_step", 3, True, 3),
    "stepping the optimiser": (SegmentationTask, "optimizer_step", 2, False, 2),
    "in the first validation": (recorder, "confusion_matrix", 1, True, 4),
    "in the last validation": (recorder, "confusion_matrix", 4, False, STEPS),
    "in the last step": (SegmentationTask, "training_step", STEPS, False, STEPS),
}


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_signal_at_any_moment_loses_nothing(
    recipe: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    whole_log: dict[str, list[dict[str, Any]]],
    moment: str,
    signum: signal.Signals,
) -> None:
    if not whole_log:
        assert run(recipe, NO_MIXING, tmp_path / "whole") == 0
        whole_log["log"] = log_of(tmp_path / "whole")
    owner, name, number, before, step = MOMENTS[moment]
    out, handler = tmp_path / "run", signal.getsignal(signum)
    with monkeypatch.context() as patch:
        calls(patch, owner, name, number, signum, before=before)
        assert run(recipe, NO_MIXING, out) == 128 + signum
    assert signal.getsignal(signum) == handler
    words = shlex.join(["spvnas", "train", str(recipe), *NO_MIXING, "--out", str(out), "--resume"])
    assert f"stopped by {signum.name}; nothing is lost. Go on with: {words}\n" in capsys.readouterr().err
    if step is not None:
        assert torch.load(out / "last.ckpt", weights_only=True)["global_step"] == step
    assert run(recipe, NO_MIXING, out, resume=True) == 0
    assert log_of(out) == whole_log["log"]
    assert not list(out.glob("*.part"))


STOPPED = """
import os, signal, sys
from spvnas_ros.cli import app
from spvnas_ros.offline.training.task import SegmentationTask

plain = SegmentationTask.training_step

def training_step(self, *given):
    if self.global_step == 1:
        os.killpg(0, signal.SIGINT)
    return plain(self, *given)

SegmentationTask.training_step = training_step
app(["train", *sys.argv[1:]])
"""
"""Gets a Ctrl-C from its terminal in the second step: it and its workers."""


def test_the_command_ends_with_130_and_its_workers_say_nothing(recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = [str(recipe), "data.workers=2", "--out", str(out)]
    done = subprocess.run(
        [sys.executable, "-c", STOPPED, *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        start_new_session=True,
    )
    assert done.returncode == 130, done.stderr
    assert f"Go on with: spvnas train {recipe} data.workers=2 --out {out} --resume\n" in done.stderr
    assert "Traceback" not in done.stderr
    assert "exited unexpectedly" not in done.stderr
    assert torch.load(out / "last.ckpt", weights_only=True)["global_step"] == 2
