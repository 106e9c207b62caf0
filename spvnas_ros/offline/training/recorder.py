"""Records a run: its log, its checkpoints, the best and the last network, and the progress in the terminal."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, Trainer
from torch.utils.data import DataLoader

from spvnas_ros.nets.spec import NUM_STAGES, POINT_LEVELS
from spvnas_ros.nets.unet import PointVoxelUNet
from spvnas_ros.offline.evaluation.metrics import Confusion, Score, confusion_matrix, score
from spvnas_ros.offline.training.batch import Batch, Sample
from spvnas_ros.offline.training.progress_line import ProgressLine
from spvnas_ros.offline.training.task import SegmentationTask, TrainingError
from spvnas_ros.sparse.on_cpu import build_training_levels
from spvnas_ros.zoo.checkpoint import Facts, save_checkpoint

LOG, CHECKPOINT, LAST, BEST = "log.jsonl", "last.ckpt", "last.safetensors", "best.safetensors"
VALIDATION = "validation"


class BudgetSpent(Exception):
    """Raised when the minutes of this call have ended; the checkpoint to resume from is saved by then."""


@dataclass(frozen=True)
class Plan:
    """The steps at which a run of `steps` validates, saves and logs.

    max_seconds: of this call, None = no limit
    """

    steps: int
    validate_every: int
    save_every: int
    log_every: int
    max_seconds: float | None = None

    def due(self, every: int, step: int) -> bool:
        """Tells whether an action of every `every` steps is due after this step; after the last step every action is
        due.
        """
        return step % every == 0 or step == self.steps


class Recorder(Callback):
    """Validates, logs, saves, and stops in time. It does all of this after a step, so that a checkpoint belongs to one
    step.

    out:        the run's folder
    facts:      of the networks it keeps
    validation: makes the loader of this process's scans; None = no validation
    """

    def __init__(
        self,
        out: Path,
        plan: Plan,
        facts: Facts,
        validation: Callable[[int, int], DataLoader[Sample]] | None,
        progress: ProgressLine,
        *,
        half: bool = False,
    ) -> None:
        self.out, self.plan, self.facts, self.half = out, plan, facts, half
        self.best: float | None = None
        self._validation = validation
        self._loader: DataLoader[Sample] | None = None
        self._progress = progress
        self._begun = monotonic()

    def state_dict(self) -> dict[str, Any]:
        """Returns the state for the checkpoint."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the state from the checkpoint."""
        self.best = state_dict["best"]

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:  # noqa: ARG002
        """Removes the lines of the log after the checkpoint's step; they will be written again."""
        if self._validation is not None:
            self._loader = self._validation(trainer.global_rank, trainer.world_size)
        if trainer.is_global_zero:
            rewind_log(self.out / LOG, trainer.global_step)
            self._progress.start(trainer.global_step)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: Any,
        outputs: Any,
        batch: Any,  # noqa: ARG002
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        """Logs, validates, saves and stops, in this order, where each is due after this step."""
        assert isinstance(pl_module, SegmentationTask)
        step, plan = trainer.global_step, self.plan
        if plan.due(plan.log_every, step):
            self._log_loss(trainer, pl_module, outputs["loss"], step)
        if plan.due(plan.validate_every, step):
            self._validate(trainer, pl_module, step)
        spent = self._spent(trainer) and step < plan.steps
        if spent or plan.due(plan.save_every, step):
            self._save(trainer)
        if spent:
            raise BudgetSpent

    def _log_loss(self, trainer: Trainer, task: SegmentationTask, loss: torch.Tensor, step: int) -> None:
        value = float(trainer.strategy.reduce(loss.detach().clone(), reduce_op="mean"))
        if not np.isfinite(value):
            raise TrainingError(
                f"the loss is {value} after step {step}; lower optimiser.learning_rate, set optimiser.clip=10, or "
                "train with trainer.precision=32-true"
            )
        self._record(trainer, {"step": step, "loss": value, "learning_rate": task.rate(step - 1)})
        if trainer.is_global_zero:
            self._progress.update(step, value)

    def _validate(self, trainer: Trainer, task: SegmentationTask, step: int) -> None:
        found = None
        if self._loader is not None:
            with trainer.precision_plugin.forward_context():
                counts = confusion_of(task.best_net, self._loader, task.device)
            task.net.train()
            total = trainer.strategy.reduce(torch.from_numpy(counts).to(task.device), reduce_op="sum")
            found = score(total.cpu().numpy(), self.facts.classes)
            self._record(trainer, {"step": step, "miou": found.miou, "accuracy": found.accuracy, "iou": found.iou})
        if trainer.is_global_zero:
            self._keep(task.best_net, step, found)

    def _keep(self, net: PointVoxelUNet, step: int, found: Score | None) -> None:
        assert self.facts.training is not None
        scores = {} if found is None or found.miou is None else {VALIDATION: found.miou}
        record = replace(self.facts.training, steps=step, scores=scores)
        facts = replace(self.facts, training=record)
        plain = PointVoxelUNet(net.spec)
        plain.load_state_dict(net.state_dict())
        save_checkpoint(self.out / LAST, plain, facts, half=self.half)
        value = scores.get(VALIDATION, 0.0)
        if self.best is None or value >= self.best:
            self.best = value
            save_checkpoint(self.out / BEST, plain, facts, half=self.half)
        if found is not None:
            self._progress.scored(step, value, self.best)

    def _save(self, trainer: Trainer) -> None:
        part = self.out / f".{CHECKPOINT}.part"
        trainer.save_checkpoint(part)
        if trainer.is_global_zero:
            os.replace(part, self.out / CHECKPOINT)

    def _spent(self, trainer: Trainer) -> bool:
        limit = self.plan.max_seconds
        mine = limit is not None and monotonic() - self._begun > limit
        return bool(trainer.strategy.broadcast(mine)) if limit is not None else False

    def _record(self, trainer: Trainer, line: Mapping[str, Any]) -> None:
        if not trainer.is_global_zero:
            return
        with (self.out / LOG).open("a") as file:
            file.write(json.dumps(line) + "\n")
        numbers = {key: value for key, value in line.items() if isinstance(value, float)}
        numbers |= {f"iou/{name}": value for name, value in line.get("iou", {}).items() if value is not None}
        for logger in trainer.loggers:
            logger.log_metrics(numbers, step=line["step"])


@torch.no_grad()
def confusion_of(net: PointVoxelUNet, loader: DataLoader[Sample], device: torch.device) -> Confusion:
    """Returns the network's confusion `[C, C + 1]` on the points of a loader's scans, and leaves it in eval mode."""
    net.eval()
    classes = net.spec.num_classes
    confusion = np.zeros((classes, classes + 1), np.int64)
    batch: Batch
    for batch in loader:
        assert batch.inverse is not None
        assert batch.point_labels is not None
        # Without gradients the network itself takes the plain path. The compiled one is several times faster.
        levels = build_training_levels(batch.coords, NUM_STAGES, POINT_LEVELS) if device.type == "cpu" else None
        logits = net(batch.coords.to(device), batch.feats.to(device), levels)
        labels = logits.argmax(dim=1).to(torch.uint8).cpu()
        truth = batch.point_labels.to(torch.uint8).numpy()
        confusion += confusion_matrix(truth, labels[batch.inverse].numpy(), classes)
    return confusion


def rewind_log(path: Path, step: int) -> None:
    """Drops the lines of a log after a step, and a last line that was cut short when the process was killed."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError):
            continue
    path.write_text("".join(kept))
