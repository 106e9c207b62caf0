"""The training steps of detectors, and how they are scored in validation."""

from __future__ import annotations

from itertools import zip_longest
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from spvnas_ros.nets.box_targets import assign_targets, box_losses, positives_of
from spvnas_ros.nets.detections import detections
from spvnas_ros.nets.detector_spec import DetectorSpec
from spvnas_ros.nets.heads import HeadOutput, anchor_boxes
from spvnas_ros.nets.second import Second
from spvnas_ros.offline.evaluation.box_ap import NUSCENES, Ap, ApConfig, BoxFrame, Criterion, average_precisions
from spvnas_ros.offline.training.boxed_batch import BoxedBatch, BoxedSample
from spvnas_ros.offline.training.config import Recipe
from spvnas_ros.offline.training.recorder import Exam, OnSkip, Verdict
from spvnas_ros.offline.training.task import RecipeTask
from spvnas_ros.zoo.detector_checkpoint import DetectorFacts, save_detector

_BEV: Final = Criterion("bev", 0.5)
CRITERIA: Final = ApConfig((*NUSCENES.criteria, _BEV), rings=(0.0,))
"""What a validation is scored by: AP at nuScenes' four distances, whose mean chooses the best network, and AP at half
the overlap from above."""
SCORE: Final = "mAP at 0.5, 1, 2, 4 m of the validation"


class BoxTask(RecipeTask):
    """The training steps of a recipe on a detector: targets are assigned and losses computed by its head's rules."""

    def __init__(self, recipe: Recipe, spec: DetectorSpec, steps: int) -> None:
        super().__init__(recipe, Second(spec), steps)
        self.anchors: torch.Tensor
        anchors = anchor_boxes(spec.head, spec.bev_shape, spec.point_range)
        self.register_buffer("anchors", anchors, persistent=False)

    def training_step(self, batch: BoxedBatch, batch_idx: int) -> dict[str, Any]:  # noqa: ARG002
        """Returns the loss of this process's batch and its parts.

        They are scaled so that their averages over the processes are those of the whole batch: every process has as
        many frames, and where the head divides by the positive anchors of all frames, it does by those of all
        processes.
        """
        head = self.net.spec.head
        said = self.net(batch.coords, batch.feats, len(batch))
        output = HeadOutput(said.classes.float(), said.boxes.float(), said.directions.float())
        boxes, classes = (torch.split(each, list(batch.sizes)) for each in (batch.boxes, batch.classes))
        targets = [assign_targets(head, self.anchors, *each) for each in zip(boxes, classes, strict=True)]
        divisor = positives_of(targets).sum()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(divisor)
            divisor = divisor / torch.distributed.get_world_size()
        losses = box_losses(head, output, targets, divisor)
        parts = {f"loss_{name}": getattr(losses, name).detach() for name in ("classes", "boxes", "directions")}
        return {"loss": losses.total, "parts": parts}


def box_exam(names: tuple[str, ...]) -> Exam:
    """Returns the exam of detectors with classes of these names: average precision by `CRITERIA`."""

    def exam(trainer: Trainer, task: RecipeTask, loader: DataLoader[BoxedSample], on_skip: OnSkip) -> Verdict:
        assert isinstance(task, BoxTask)
        with trainer.precision_plugin.forward_context():
            mine = frames_of(task.best_net, task.anchors, loader, on_skip)
        frames = [frame for frame in of_all(trainer, mine) if frame is not None]
        return verdict_of(average_precisions(frames, names, CRITERIA), names)

    return exam


def of_all(trainer: Trainer, mine: list[BoxFrame | None]) -> list[BoxFrame | None]:
    """Returns the frames of all processes in the data's order, in all of them: equal scores are ranked by it."""
    if trainer.world_size == 1:
        return mine
    parts: list[list[BoxFrame | None]] = [[] for _ in range(trainer.world_size)]
    torch.distributed.all_gather_object(parts, mine)
    return [frame for row in zip_longest(*parts) for frame in row]


@torch.no_grad()
def frames_of(
    net: Second, anchors: torch.Tensor, loader: DataLoader[BoxedSample], on_skip: OnSkip
) -> list[BoxFrame | None]:
    """Returns what is there and what a detector finds in each of a loader's scans, None where a scan cannot be scored,
    and leaves the detector in eval mode.
    """
    net.eval()
    frames: list[BoxFrame | None] = []
    batch: BoxedBatch
    for batch in loader:
        on_skip(batch.skipped)
        there = batch.to(anchors.device)
        if not len(there.coords):
            frames += [None] * len(batch)
            continue
        found = detections(net.spec.head, net(there.coords, there.feats, len(batch)), anchors)
        pairs = zip(batch.samples, found, strict=True)
        frames += [BoxFrame(each.name, each.truth, boxes, ignored=~each.seen) for each, boxes in pairs]
    return frames


def verdict_of(figures: tuple[Ap, ...], names: tuple[str, ...]) -> Verdict:
    """Returns what a validation says, from figures of `CRITERIA`: a share for each class, None without objects."""

    def mean(name: str, overlap: bool) -> float | None:
        wanted = [each for each in figures if each.kind == name and (each.criterion == str(_BEV)) == overlap]
        values = [each.ap for each in wanted if each.ap is not None]
        return float(np.mean(values)) / 100 if values else None

    by_class = {name: mean(name, overlap=False) for name in names}
    known = [value for value in by_class.values() if value is not None]
    value = float(np.mean(known)) if known else None
    objects = {name: next((each.objects for each in figures if each.kind == name), 0) for name in names}
    line = {"map": value, "ap": by_class, "ap_bev": {name: mean(name, overlap=True) for name in names}}
    return Verdict(line | {"objects": objects}, "mAP", SCORE, value)


def keep_boxes(path: Path, net: Second, facts: DetectorFacts, *, half: bool = False) -> None:
    """Writes a detector."""
    save_detector(path, net, facts, half=half)
