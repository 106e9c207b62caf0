"""The training steps of networks that give labels and boxes, and how they are scored in validation."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from spvnas_ros.nets.box_branch import branch_anchors, shifted
from spvnas_ros.nets.box_targets import assign_targets, box_losses
from spvnas_ros.nets.detections import detections
from spvnas_ros.nets.heads import HeadOutput
from spvnas_ros.nets.spec import NUM_STAGES, POINT_LEVELS, NetSpec
from spvnas_ros.nets.unet import PointVoxelUNet
from spvnas_ros.offline.evaluation.box_ap import BoxFrame, average_precisions
from spvnas_ros.offline.evaluation.metrics import Confusion, confusion_matrix, score
from spvnas_ros.offline.training.box_task import CRITERIA, of_all, verdict_of
from spvnas_ros.offline.training.config import BoxBranchConfig, Recipe
from spvnas_ros.offline.training.joint_batch import JointBatch, JointSample
from spvnas_ros.offline.training.recorder import Exam, OnSkip, Verdict
from spvnas_ros.offline.training.task import RecipeTask, SegmentationTask
from spvnas_ros.sparse.on_cpu import build_training_levels

SCORE: Final = "mean of mIoU and mAP of the validation"


class JointTask(SegmentationTask):
    """The training steps of a recipe on a network with a box branch: the losses of both tasks, with their weights.

    Scans without labels have no part in the one, scans whose objects nobody knows none in the other. Both are scaled so
    that their averages over the processes are those of the whole batch.

    With `boxes.only` the branch alone is learnt: no other weight changes, nor any statistics.
    """

    def __init__(self, recipe: Recipe, spec: NetSpec, steps: int, class_weights: Tensor | None = None) -> None:
        assert spec.boxes is not None
        assert recipe.boxes is not None
        super().__init__(recipe, spec, steps, class_weights)
        self.head, self.weights = spec.boxes.head, recipe.boxes
        self.anchors: Tensor
        self.register_buffer("anchors", branch_anchors(spec.boxes), persistent=False)
        if recipe.boxes.only:
            self.net.requires_grad_(False)
            self.net.boxes.requires_grad_(True)
            self.learn()

    def learn(self) -> None:
        """Sets what is learnt into the mode of training; the rest stays in that of its use."""
        super().learn()
        if self.weights.only:
            self.net.eval()
            self.net.boxes.train()

    def training_step(self, batch: Any, batch_idx: int) -> Any:  # noqa: ARG002
        """Returns the loss of a `JointBatch` and its parts."""
        found = self.net.labels_and_boxes(batch.coords, batch.feats, len(batch), labels=not self.weights.only)
        parts = self._box_losses(batch, found.boxes, found.shifts)
        parts = {name: self.weights.box_weight * part for name, part in parts.items()}
        if not self.weights.only:
            parts["labels"] = self.weights.label_weight * self.loss(found.logits.float(), batch.labels)
        return {
            "loss": sum(parts.values()),
            "parts": {f"loss_{name}": part.detach() for name, part in parts.items()},
        }

    def _box_losses(self, batch: JointBatch, said: HeadOutput, shifts: Tensor) -> dict[str, Tensor]:
        known = torch.nonzero(batch.boxed).squeeze(1)
        output = HeadOutput(*(part[known].float() for part in (said.classes, said.boxes, said.directions)))
        whole = torch.tensor(float(len(known)), device=shifts.device)
        if self.trainer.world_size > 1:
            torch.distributed.all_reduce(whole)
            whole = whole / self.trainer.world_size
        if not len(known):
            # Every parameter has a part in the loss of every process.
            names = ("classes", "boxes", "directions")
            return {name: 0 * getattr(said, name).float().sum() for name in names}
        boxes, classes = (torch.split(each, list(batch.sizes)) for each in (batch.boxes, batch.classes))
        targets = [
            assign_targets(self.head, shifted(self.anchors, shifts[row]), boxes[row], classes[row])
            for row in known.tolist()
        ]
        losses, share = box_losses(self.head, output, targets), len(known) / whole
        return {name: share * getattr(losses, name) for name in ("classes", "boxes", "directions")}


def joint_exam(classes: tuple[str, ...], config: BoxBranchConfig) -> Exam:
    """Returns the exam of networks that give both: mIoU of the labels, average precision of the boxes.

    classes: of the labels
    """
    names = tuple(each.name for each in config.classes)

    def exam(trainer: Trainer, task: RecipeTask, loader: DataLoader[JointSample], on_skip: OnSkip) -> Verdict:
        assert isinstance(task, JointTask)
        with trainer.precision_plugin.forward_context():
            confusion, frames = answers_of(task.best_net, task.anchors, loader, on_skip)
        total = trainer.strategy.reduce(torch.from_numpy(confusion).to(task.device), reduce_op="sum")
        labels = score(total.cpu().numpy(), classes)
        known = [frame for frame in of_all(trainer, frames) if frame is not None]
        boxes = verdict_of(average_precisions(known, names, CRITERIA), names)
        values = [value for value in (labels.miou, boxes.value) if value is not None]
        line = {"miou": labels.miou, "accuracy": labels.accuracy, "iou": labels.iou} | dict(boxes.line)
        return Verdict(line, "mean of mIoU and mAP", SCORE, float(np.mean(values)) if values else None)

    return exam


@torch.no_grad()
def answers_of(
    net: PointVoxelUNet, anchors: Tensor, loader: DataLoader[JointSample], on_skip: OnSkip
) -> tuple[Confusion, list[BoxFrame | None]]:
    """Returns the confusion `[C, C + 1]` on the points of a loader's scans, and the boxes that are there and that are
    found in each, None where a scan cannot be scored or nobody knows its objects. Leaves the network in eval mode.
    """
    net.eval()
    assert net.spec.boxes is not None
    classes = net.spec.num_classes
    confusion = np.zeros((classes, classes + 1), np.int64)
    frames: list[BoxFrame | None] = []
    batch: JointBatch
    for batch in loader:
        on_skip(batch.skipped)
        if not len(batch.coords):
            frames += [None] * len(batch)
            continue
        # As in `confusion_of`: the compiled path is several times faster.
        on_cpu = anchors.device.type == "cpu"
        levels = build_training_levels(batch.coords, NUM_STAGES, POINT_LEVELS) if on_cpu else None
        there = batch.to(anchors.device)
        said = net.labels_and_boxes(there.coords, there.feats, len(batch), levels)
        labels = said.logits.argmax(dim=1).to(torch.uint8).cpu().numpy()
        begin = 0
        for row, sample in enumerate(batch.samples):
            assert sample.inverse is not None
            assert sample.point_labels is not None
            own, begin = labels[begin : begin + len(sample.cells)], begin + len(sample.cells)
            confusion += confusion_matrix(sample.point_labels, own[sample.inverse], classes)
            frames.append(None)
            if sample.boxed:
                output = HeadOutput(*(part[row : row + 1].float() for part in vars(said.boxes).values()))
                (found,) = detections(net.spec.boxes.head, output, shifted(anchors, said.shifts[row]))
                frames[-1] = BoxFrame(sample.name, sample.truth, found, ignored=~sample.seen)
    return confusion, frames
