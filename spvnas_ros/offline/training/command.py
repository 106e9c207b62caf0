"""Runs `spvnas train`: turns a recipe into a run folder.

OUT/config.yaml          the recipe with all its values
OUT/data.json            names and sizes of the scans, by which a resumed run knows them
OUT/log.jsonl            a line for each logged step, each validation, and each scan that could not be used
OUT/tensorboard/         the same for TensorBoard
OUT/last.ckpt            the checkpoint that `--resume` continues from
OUT/best.safetensors     the network that scored best in validation, with its facts and scores
OUT/last.safetensors     the network of the last validation

A recipe with a `start` continues from the weights of a checkpoint: fine-tuning.

A run that was stopped by Ctrl-C or SIGTERM, or killed, continues from its last checkpoint and takes the same steps as
an uninterrupted run. Several processes or machines train one network when this command runs under torchrun.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from rich.console import Console

from spvnas_ros.kernels.cpu.steady_memory import keep_freed_memory
from spvnas_ros.offline.datasets import DatasetError
from spvnas_ros.offline.evaluation.dataset_evaluation import prelabelled
from spvnas_ros.offline.evaluation.report import skipped_line
from spvnas_ros.offline.training.adapt_job import AdaptJob, check_before
from spvnas_ros.offline.training.config import ConfigError, Recipe
from spvnas_ros.offline.training.data import steps_of
from spvnas_ros.offline.training.job import job_of
from spvnas_ros.offline.training.precision import Precision, settle
from spvnas_ros.offline.training.progress_line import ProgressLine
from spvnas_ros.offline.training.recipe_files import load_recipe
from spvnas_ros.offline.training.recorder import BEST, CHECKPOINT, LAST, LOG, BudgetSpent, Plan, Recorder
from spvnas_ros.offline.training.simulated import folders, make_missing
from spvnas_ros.offline.training.start import Start, begin
from spvnas_ros.offline.training.stop_signals import Stopped, StopSignals
from spvnas_ros.recordings.files import replacing
from spvnas_ros.segment.progress import Skipped

CONFIG = "config.yaml"
UNFINISHED = 75
"""Exit status of a run whose minutes ended before its steps (EX_TEMPFAIL of sysexits.h: try again)."""

_VALIDATIONS = 10
DATA = "data.json"
"""Names and sizes of the files that the run learns from."""

_MAY_CHANGE = {
    "": ("start",),
    "data": ("workers", "validation_scans", "train", "validation"),
    "data.simulate": ("folder",),
    "adapt": ("target",),
    "trainer": ("max_minutes", "save_every", "log_every", "validate_every", "device"),
}
"""Keys that a resumed run may change, because a step does not depend on them. Whether data and start are the same tell
their files (`DATA`) and `start_sha256`, not the place where they lie."""


def run(
    config: Path,
    overrides: Sequence[str],
    out: Path | None,
    *,
    resume: bool = False,
    deterministic: bool = False,
    quiet: bool = False,
) -> int:
    """Trains. Returns the exit status: 0, `UNFINISHED` where `trainer.max_minutes` ended first, or 128 more than the
    signal that did (Ctrl-C: 130). What was done by then is kept.

    Raises ConfigError for a recipe that cannot be used or a folder of another run, FetchError and CheckpointError for
    the weights to begin from, DatasetError for data, and TrainingError where the training fails.
    """
    with StopSignals() as stop:
        try:
            return _run(config, overrides, out, stop, resume=resume, deterministic=deterministic, quiet=quiet)
        except Stopped as stopped:
            out = out or Path("runs") / "train" / load_recipe(config, overrides).name
            if _is_first():
                command = _resuming(config, overrides, out, deterministic=deterministic)
                print(f"stopped by {stopped}; nothing is lost. Go on with: {command}", file=sys.stderr, flush=True)
            return 128 + stopped.number


def _resuming(config: Path, overrides: Sequence[str], out: Path, *, deterministic: bool) -> str:
    """Returns the command that goes on with a run."""
    words = ["spvnas", "train", str(config), *overrides, "--out", str(out), "--resume"]
    processes = _from_environment("WORLD_SIZE", 1)
    torchrun = f"torchrun --nproc_per_node={_from_environment('LOCAL_WORLD_SIZE', 1)} --no-python "
    return (torchrun if processes > 1 else "") + shlex.join([*words, *(["--deterministic"] if deterministic else [])])


def _run(
    config: Path,
    overrides: Sequence[str],
    out: Path | None,
    stop: StopSignals,
    *,
    resume: bool,
    deterministic: bool,
    quiet: bool,
) -> int:
    recipe, beginning = begin(load_recipe(config, overrides))
    out = out or Path("runs") / "train" / recipe.name
    _check_folder(out, recipe, resume=resume)
    replicas = _from_environment("WORLD_SIZE", 1)
    if recipe.adapt:
        assert isinstance(beginning, Start)
        check_before(recipe, beginning, replicas)
    _prepare_data(recipe)
    device = _device(recipe)
    precision = settle(recipe.trainer.precision, device)
    job = job_of(recipe, beginning)
    scans = job.scans
    if _is_first() and not quiet:
        # Before the check: what makes clouds useless, such as a map's coordinates, is told first.
        for remark in job.remarks():
            print(remark, file=sys.stderr, flush=True)
    job.check(replicas)
    adapts = job if isinstance(job, AdaptJob) else None
    parts = [("train", scans), ("validation", job.validation), *(adapts.others.items() if adapts else ())]
    data = {name: part.inventory() for name, part in parts if part and _is_first()}
    begun = resume and (out / CHECKPOINT).is_file()
    if begun and _is_first():
        _check_data(out, data)
    steps = steps_of(recipe, len(scans))
    torch.manual_seed(recipe.seed)
    task = job.task(steps)
    task.narrow = precision.products == "bf16"
    out.mkdir(parents=True, exist_ok=True)
    if _is_first():
        (out / CONFIG).write_text(yaml.safe_dump(recipe.document(), sort_keys=False))
        with replacing(out / DATA) as file:
            file.write(json.dumps(data, indent=0).encode())
    with ProgressLine(steps, silent=not _is_first()) as progress:
        for source in (*recipe.data.train, *recipe.data.validation):
            if warning := prelabelled(Path(source)):
                progress.say(warning)
        progress.say(f"{recipe.name}: {len(scans)} scans, {steps} steps of {recipe.trainer.batch_size}, into {out}")
        if precision.remark:
            progress.say(precision.remark)
        if cold := recipe.schedule.never_warm(steps):
            progress.say(cold)
        facts = job.facts(task)
        recorder = Recorder(
            out,
            _plan(recipe, steps),
            facts,
            job.validation_loader(facts, stop),
            progress,
            exam=job.exam(),
            keep=job.keep(),
            products=precision.products,
            stop=stop,
        )
        trainer = _trainer(recipe, out, steps, recorder, device, precision, deterministic=deterministic)
        if device == "cpu":
            keep_freed_memory()
        loader = job.training_loader(
            steps,
            facts,
            start=lambda: trainer.global_step,
            rank=_from_environment("RANK", 0),
            replicas=replicas,
            pin_memory=trainer.strategy.root_device.type == "cuda",
            stop=stop,
        )
        stop.immediate = trainer.world_size == 1
        try:
            with stop.held():
                trainer.fit(task, loader, ckpt_path=out / CHECKPOINT if begun else None)
                recorder.make_up(trainer, task)
        except BudgetSpent:
            command = _resuming(config, overrides, out, deterministic=deterministic)
            progress.say(f"time is over after step {trainer.global_step} of {steps}; go on with: {command}")
            return UNFINISHED
        finally:
            if skipped := [Skipped(name, reason) for name, reason in recorder.skipped.items()]:
                progress.say(f"{skipped_line(skipped, 'used')} (all: {out / LOG})")
        for line in adapts.finish(task, facts, out) if adapts else ():
            progress.say(line)
        progress.say(f"{steps} steps done: {out / BEST}, {out / LAST}, {out / LOG}")
    return 0


def _check_data(out: Path, now: dict[str, dict[str, str]]) -> None:
    """Raises ConfigError where a run was begun with other data. Runs of earlier versions do not say."""
    if not (out / DATA).is_file():
        return
    try:
        begun: dict[str, dict[str, str]] = json.loads((out / DATA).read_text())
        differ = [
            words
            for part in sorted(begun.keys() | now.keys())
            if (words := _other_files(begun.get(part, {}), now.get(part, {})))
        ]
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigError(f"{out / DATA} cannot be read ({error}), so the run cannot go on") from error
    if differ:
        raise ConfigError(
            f"{out} holds a run with other data: {'; '.join(differ)}; bring the old data back, or name another folder "
            "with --out"
        )


def _other_files(begun: dict[str, str], now: dict[str, str]) -> str:
    new, lost = sorted(now.keys() - begun.keys()), sorted(begun.keys() - now.keys())
    changed = sorted(name for name in now.keys() & begun.keys() if now[name] != begun[name])
    lines = [f"{len(names)} {what} (first {names[0]})" for names, what in ((new, "new"), (lost, "missing")) if names]
    if changed:
        name = changed[0]
        lines.append(f"{len(changed)} changed (first {name}: {begun[name]}, now {now[name]})")
    return ", ".join(lines)


def _check_folder(out: Path, recipe: Recipe, *, resume: bool) -> None:
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file, expected a folder for the run")
    if not (out / CHECKPOINT).exists():
        return
    if not resume:
        raise ConfigError(f"{out} holds a run; go on with --resume, or name another folder with --out")
    try:
        begun = load_recipe(out / CONFIG)
    except (OSError, ConfigError) as error:
        raise ConfigError(f"{out / CONFIG} cannot be read ({error}), so the run cannot go on") from error
    if differ := _differences(begun.document(), recipe.document()):
        raise ConfigError(f"{out} holds a run with other settings: {'; '.join(differ)}; name another folder with --out")


def _differences(begun: dict[str, Any], now: dict[str, Any]) -> list[str]:
    before, after = _flat(begun), _flat(now)
    free = {f"{part}.{key}" if part else key for part, keys in _MAY_CHANGE.items() for key in keys}
    return [
        f"{key} {before.get(key)!r}, now {after.get(key)!r}"
        for key in sorted(before.keys() | after.keys())
        if key not in free and before.get(key) != after.get(key)
    ]


def _flat(document: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(document, dict):
        return {prefix: document}
    parts = (_flat(value, f"{prefix}.{key}" if prefix else str(key)) for key, value in document.items())
    return {key: value for part in parts for key, value in part.items()}


def _prepare_data(recipe: Recipe) -> None:
    boxes = bool(recipe.detector or recipe.boxes)
    if _from_environment("WORLD_SIZE", 1) == 1:
        say = Console(stderr=True, soft_wrap=True, markup=False).print
        make_missing(recipe.data.simulate, say, boxes=boxes)
    elif missing := [folder.path for folder in folders(recipe.data.simulate, boxes=boxes) if not folder.finished]:
        raise DatasetError(
            f"{missing[0]} is not complete; start the recipe once without torchrun, which simulates what is missing"
        )


def _plan(recipe: Recipe, steps: int) -> Plan:
    config = recipe.trainer
    return Plan(
        steps,
        config.validate_every or max(steps // _VALIDATIONS, 1),
        config.save_every,
        config.log_every,
        60 * config.max_minutes or None,
    )


def _device(recipe: Recipe) -> str:
    """Returns "cpu" or "cuda". Raises ConfigError where the recipe's is not there."""
    device = recipe.trainer.device
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"trainer.device is cuda, but torch {torch.__version__} sees no CUDA device; use cpu")
    return device


def _trainer(
    recipe: Recipe,
    out: Path,
    steps: int,
    recorder: Recorder,
    device: str,
    precision: Precision,
    *,
    deterministic: bool,
) -> Trainer:
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # Batches depend on the step alone, so a new loader gives a resumed run the same batches.
    warnings.filterwarnings("ignore", "You're resuming from a checkpoint that ended before the epoch ended")
    warnings.filterwarnings("ignore", ".*does not have many workers")
    warnings.filterwarnings("ignore", "Found .* in eval mode at the start of training")  # the average of the weights
    warnings.filterwarnings("ignore", ".*is deprecated", module="lightning")
    local = _from_environment("LOCAL_WORLD_SIZE", 1)
    processes = _from_environment("WORLD_SIZE", 1)
    wanted: Any = precision.lightning
    try:
        return Trainer(
            accelerator=device,
            devices=local,
            num_nodes=processes // local,
            strategy="ddp" if processes > 1 else "auto",
            precision=wanted,
            max_steps=steps,
            gradient_clip_val=recipe.optimiser.clip or None,
            limit_val_batches=0,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            deterministic=deterministic,
            logger=TensorBoardLogger(out, name="tensorboard", version=""),
            log_every_n_steps=1,
            callbacks=[recorder],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
    except ValueError as error:
        raise ConfigError(f"trainer.precision is {recipe.trainer.precision!r}: {error}") from error


def _from_environment(name: str, default: int) -> int:
    """Returns a number that torchrun sets for each process."""
    return int(os.environ.get(name, default))


def _is_first() -> bool:
    return _from_environment("RANK", 0) == 0
