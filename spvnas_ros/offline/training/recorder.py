"""Records a run: its log, its checkpoints, the best and the last network, and the progress in the terminal."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
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
from spvnas_ros.offline.evaluation.metrics import Confusion, confusion_matrix, score
from spvnas_ros.offline.training.batch import Batch, Sample
from spvnas_ros.offline.training.precision import Products, changed
from spvnas_ros.offline.training.progress_line import ProgressLine
from spvnas_ros.offline.training.stop_signals import Stopped, StopSignals
from spvnas_ros.offline.training.task import RecipeTask, TrainingError
from spvnas_ros.segment.progress import Skipped
from spvnas_ros.sparse.on_cpu import build_training_levels
from spvnas_ros.zoo.checkpoint import Facts, save_checkpoint
from spvnas_ros.zoo.detector_checkpoint import DetectorFacts

LOG, CHECKPOINT, LAST, BEST = "log.jsonl", "last.ckpt", "last.safetensors", "best.safetensors"
VALIDATION, RECALL = "validation", "recall in boxes of the validation"
"""What a score is called in a network's facts; mIoU, unless it says otherwise."""


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


@dataclass(frozen=True)
class Verdict:
    """What a validation says of a network.

    line:   for the log
    figure: in the terminal, such as mIoU
    name:   of the score in the network's facts
    value:  the score by which the best network is chosen; None where nothing could be scored
    chooses: False where the score says nothing of what the network is for, so that the newest counts as the best
    """

    line: Mapping[str, Any]
    figure: str
    name: str
    value: float | None
    chooses: bool = True


OnSkip = Callable[[Sequence[Skipped]], None]
Exam = Callable[[Trainer, RecipeTask, "DataLoader[Any]", OnSkip], Verdict]
"""Scores a task's best network on a loader's scans, over all processes; is told of scans that cannot be scored."""
Keep = Callable[[Path, Any, Any], None]
"""Writes a network with its facts to a path."""


class Recorder(Callback):
    """Validates, logs, saves, and stops in time. It does all of this after a step, so that a checkpoint belongs to one
    step.

    out:        the run's folder
    facts:      of the networks it keeps
    validation: makes the loader of this process's scans; None = no validation
    exam:       scores a network in validation
    keep:       writes a network to a file
    products:   operands of the steps' products, which a resumed run compares with those of the steps before
    stop:       is asked after each step whether a signal ends the run

    skipped: scans that cannot be used, by name, and why
    """

    def __init__(
        self,
        out: Path,
        plan: Plan,
        facts: Facts | DetectorFacts,
        validation: Callable[[int, int], DataLoader[Any]] | None,
        progress: ProgressLine,
        *,
        exam: Exam,
        keep: Keep,
        products: Products = "fp32",
        stop: StopSignals | None = None,
    ) -> None:
        self.out, self.plan, self.facts = out, plan, facts
        self.best: float | None = None
        self.skipped: dict[str, str] = {}
        self._exam, self._write, self._products = exam, keep, products
        self._stop = stop or StopSignals()
        self._unvalidated: int | None = None
        self._validation = validation
        self._loader: DataLoader[Any] | None = None
        self._progress = progress
        self._begun = monotonic()

    def state_dict(self) -> dict[str, Any]:
        """Returns the state for the checkpoint."""
        return {
            "best": self.best,
            "skipped": dict(self.skipped),
            "unvalidated": self._unvalidated,
            "products": self._products,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the state from the checkpoint, and says where the steps to come are not like those before."""
        if said := changed(state_dict.get("products", "fp32"), self._products):
            self._progress.say(said)
        self.best = state_dict["best"]
        self.skipped = state_dict.get("skipped", {})
        self._unvalidated = state_dict.get("unvalidated")

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Removes the lines of the log after the checkpoint's step; they will be written again. Makes up for the
        validation that a signal has ended.
        """
        self._stop.install()  # Lightning has put its own handler of SIGTERM in front
        if self._validation is not None:
            self._loader = self._validation(trainer.global_rank, trainer.world_size)
        if trainer.is_global_zero:
            rewind_log(self.out / LOG, trainer.global_step)
            self._progress.start(trainer.global_step)
        self.make_up(trainer, pl_module)

    def make_up(self, trainer: Trainer, task: RecipeTask) -> None:
        """Validates where a signal has ended the validation of this step."""
        if self._unvalidated != trainer.global_step:
            return
        if self._loader is None and self._validation is not None:
            self._loader = self._validation(trainer.global_rank, trainer.world_size)
        self._validate(trainer, task, trainer.global_step)

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:  # noqa: ARG002
        """Saves where a signal ends the run. It comes between steps, so the checkpoint belongs to one step."""
        if isinstance(exception, Stopped):
            self._save(trainer)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        """Logs, validates, saves and stops, in this order, where each is due after this step."""
        assert isinstance(pl_module, RecipeTask)
        step, plan = trainer.global_step, self.plan
        self._note(trainer, batch.skipped, step)
        if plan.due(plan.log_every, step):
            self._log_loss(trainer, pl_module, outputs, step)
        if plan.due(plan.validate_every, step):
            self._validate(trainer, pl_module, step)
        spent = self._spent(trainer) and step < plan.steps
        if spent or plan.due(plan.save_every, step):
            self._save(trainer)
        if spent:
            raise BudgetSpent
        if self._stop.asked is not None or trainer.world_size > 1:
            self._end_together(trainer)

    def _end_together(self, trainer: Trainer) -> None:
        """Raises Stopped where a signal came to one of the processes, in all of them after the same step."""
        numbers = torch.tensor(float(self._stop.asked or 0), device=trainer.strategy.root_device)
        number = int(_over_all(trainer, numbers, torch.distributed.ReduceOp.MAX))
        if number:
            raise Stopped(number)

    def _note(self, trainer: Trainer, skipped: Sequence[Skipped], step: int) -> None:
        """Records scans that cannot be used, each once, and tells of the first."""
        for each in skipped:
            if each.name in self.skipped:
                continue
            if not self.skipped:
                self._progress.say(f"{each.name} is skipped: {each.reason} (more are counted, see {self.out / LOG})")
            self.skipped[each.name] = each.reason
            self._record(trainer, {"step": step, "skipped": each.name, "reason": each.reason})

    def _log_loss(self, trainer: Trainer, task: RecipeTask, outputs: Mapping[str, Any], step: int) -> None:
        value = _mean(trainer, outputs["loss"])
        if not np.isfinite(value):
            raise TrainingError(
                f"the loss is {value} after step {step}; lower optimiser.learning_rate, set optimiser.clip=10, or "
                "train with trainer.precision=fp32"
            )
        parts = {name: _mean(trainer, part) for name, part in outputs.get("parts", {}).items()}
        self._record(trainer, {"step": step, "loss": value} | parts | {"learning_rate": task.rate(step - 1)})
        if trainer.is_global_zero:
            self._progress.update(step, value)

    def _validate(self, trainer: Trainer, task: RecipeTask, step: int) -> None:
        verdict = None
        self._unvalidated = step
        if self._loader is not None:
            skipped: list[Skipped] = []
            verdict = self._exam(trainer, task, self._loader, skipped.extend)
            task.learn()
            self._note(trainer, _from_all(trainer, skipped), step)
            self._record(trainer, {"step": step, **verdict.line})
        if trainer.is_global_zero:
            self._keep(task.best_net, step, verdict)
        self._unvalidated = None

    def _keep(self, net: Any, step: int, verdict: Verdict | None) -> None:
        assert self.facts.training is not None
        value = verdict.value if verdict else None
        scores = {} if verdict is None or value is None else {verdict.name: value}
        record = replace(self.facts.training, steps=step, scores=scores)
        facts = replace(self.facts, training=record)
        self._write(self.out / LAST, net, facts)
        # Without validation the last network is kept; where nothing could be scored, the first, until one is.
        newest = verdict is None or not verdict.chooses
        better = newest if value is None else newest or self.best is None or value >= self.best
        if better or not (self.out / BEST).exists():
            self.best = value
            self._write(self.out / BEST, net, facts)
        if verdict is not None:
            self._progress.scored(step, verdict.figure, value, self.best)

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
        for kind in ("iou", "recall", "ap"):
            numbers |= {f"{kind}/{name}": value for name, value in line.get(kind, {}).items() if value is not None}
        for logger in trainer.loggers:
            logger.log_metrics(numbers, step=line["step"])


def label_exam(classes: Sequence[str], *, boxes_only: bool) -> Exam:
    """Returns the exam of networks that label points: the mIoU.

    boxes_only: only points in boxes have a truth, so that recall counts instead of IoU
    """

    def exam(trainer: Trainer, task: RecipeTask, loader: DataLoader[Sample], on_skip: OnSkip) -> Verdict:
        with trainer.precision_plugin.forward_context():
            counts = confusion_of(task.best_net, loader, task.device, on_skip)
        total = trainer.strategy.reduce(torch.from_numpy(counts).to(task.device), reduce_op="sum")
        found = score(total.cpu().numpy(), classes, boxes_only=boxes_only)
        if boxes_only:
            line = {"recall_in_boxes": found.mean_recall, "recall": found.recall}
            return Verdict(line, "recall in boxes", RECALL, found.mean_recall)
        return Verdict(
            {"miou": found.miou, "accuracy": found.accuracy, "iou": found.iou}, "mIoU", VALIDATION, found.miou
        )

    return exam


def keep_labels(path: Path, net: PointVoxelUNet, facts: Facts, *, half: bool = False) -> None:
    """Writes a network that labels points, without what training alone has."""
    plain = PointVoxelUNet(net.spec)
    plain.load_state_dict(net.state_dict())
    save_checkpoint(path, plain, facts, half=half)


def confusion_of(
    net: PointVoxelUNet,
    loader: DataLoader[Sample],
    device: torch.device,
    on_skip: Callable[[Sequence[Skipped]], None] = lambda _: None,
) -> Confusion:
    """Returns the network's confusion `[C, C + 1]` on the points of a loader's scans, and leaves it in eval mode.

    on_skip: is told of the scans that cannot be scored
    """
    return confusions_of([net], loader, device, on_skip)[0]


@torch.no_grad()
def confusions_of(
    nets: Sequence[PointVoxelUNet],
    loader: DataLoader[Sample],
    device: torch.device,
    on_skip: Callable[[Sequence[Skipped]], None] = lambda _: None,
) -> list[Confusion]:
    """Returns what `confusion_of` does for several networks, which share the scans and their geometry."""
    for net in nets:
        net.eval()
    classes = nets[0].spec.num_classes
    confusions = [np.zeros((classes, classes + 1), np.int64) for _ in nets]
    batch: Batch
    for batch in loader:
        assert batch.inverse is not None
        assert batch.point_labels is not None
        on_skip(batch.skipped)
        if not len(batch.coords):
            continue
        # Without gradients the network itself takes the plain path. The compiled one is several times faster.
        levels = build_training_levels(batch.coords, NUM_STAGES, POINT_LEVELS) if device.type == "cpu" else None
        coords, feats = batch.coords.to(device), batch.feats.to(device)
        truth = batch.point_labels.to(torch.uint8).numpy()
        for net, confusion in zip(nets, confusions, strict=True):
            labels = net(coords, feats, levels).argmax(dim=1).to(torch.uint8).cpu()
            confusion += confusion_matrix(truth, labels[batch.inverse].numpy(), classes)
    return confusions


def _over_all(trainer: Trainer, value: torch.Tensor, operation: Any) -> float:
    if trainer.world_size > 1:
        torch.distributed.all_reduce(value, operation)
    return float(value)


def _mean(trainer: Trainer, value: torch.Tensor) -> float:
    """Returns the mean over all processes."""
    return float(trainer.strategy.reduce(value.detach().clone(), reduce_op="mean"))


def _from_all(trainer: Trainer, skipped: list[Skipped]) -> list[Skipped]:
    """Returns what all processes have skipped, in all of them."""
    if trainer.world_size == 1:
        return skipped
    gathered: list[list[Skipped]] = [[] for _ in range(trainer.world_size)]
    torch.distributed.all_gather_object(gathered, skipped)
    return [each for part in gathered for each in part]


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
