"""Scores of labels against the truth, as SemanticKITTI's benchmark defines them. Pure numpy.

The facts, from the benchmark's own tool (semantic-kitti-api, evaluate_semantics.py):

* One confusion matrix is filled over all frames, and the scores are taken from it at the end; there is no score of a
  frame that would be averaged.
* A point without a truth (raw ids that the label map ignores) counts nowhere, whatever was predicted for it.
* A point with a truth that is left unlabelled counts against its class.
* IoU of a class = right / (right + wrongly given that class + of that class and not found).
* Its mean goes over all classes, and one that does not occur counts as 0. On its validation sequence every class
  occurs, so nobody notices; on a short drive the mean would mostly count what is not there.

So `Score.miou` is the mean over the classes that occur in the truth, and `Score.miou_official` the tool's own; where
all classes occur they are the same number. Its accuracy leaves out points without a label; ours counts them as wrong.

For nuScenes' classes `Score.miou_official` is the one of its challenge (nuscenes-devkit, eval/lidarseg/utils.py):
classes that occur neither in the truth nor in the labels are left out, and one that was only given wrongly counts as 0.
Points of class 0 count nowhere. The tool refuses points without a label; here they count against their class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spvnas_ros.frame import UNLABELLED
from spvnas_ros.labels import NUSCENES

Labels = npt.NDArray[np.uint8]
"""`[N]` class indices, 255 = none."""

Confusion = npt.NDArray[np.int64]
"""`[C, C + 1]` points by truth (row) and prediction (column); the last column holds those left unlabelled."""


@dataclass(frozen=True)
class Score:
    """How good labels are, in shares of 1.

    Where only points in boxes have a truth, what is wrong outside of them is not known, and so no IoU is.

    miou:          mean IoU over the classes that occur in the truth; None where no point has a truth, or only boxes do
    miou_official: mean IoU over all classes, those that do not occur counting as 0, or as nuScenes' challenge has it;
                   None as `miou`
    accuracy:      share of the points with a truth whose label is right; None where there are none
    iou:           by class name; None for a class that does not occur in the truth, or where only boxes do
    mean_recall:   mean of `recall` over the classes that occur in the truth; None where no point has a truth
    recall:        by class name, share of its points that are found; None for a class that does not occur in the truth
    truth_points:  points by class name, as the truth has them
    unlabelled:    points with a truth that were left without a label; they count as wrong
    confusion:     rows by truth, columns by prediction, the last one unlabelled
    """

    miou: float | None
    miou_official: float | None
    accuracy: float | None
    iou: dict[str, float | None]
    mean_recall: float | None
    recall: dict[str, float | None]
    truth_points: dict[str, int]
    unlabelled: int
    confusion: list[list[int]]


def confusion_matrix(truth: Labels, predicted: Labels, num_classes: int) -> Confusion:
    """Count points by truth and prediction; those of several frames may be added.

    truth, predicted: uint8 `[N]`, class indices, 255 = no truth, unlabelled

    Raises ValueError where they are not as many, or hold an index that is no class.
    """
    if truth.shape != predicted.shape or truth.ndim != 1:
        raise ValueError(f"truth is {truth.shape} and predicted {predicted.shape}, expected one number a point each")
    for name, labels in (("truth", truth), ("predicted", predicted)):
        if len(wrong := np.unique(labels[(labels >= num_classes) & (labels != UNLABELLED)])):
            raise ValueError(f"{name} holds {wrong.tolist()}, expected 0 to {num_classes - 1}, or 255 for none")
    known = truth != UNLABELLED
    column = np.minimum(predicted[known], num_classes).astype(np.int64)
    cell = truth[known].astype(np.int64) * (num_classes + 1) + column
    return np.bincount(cell, minlength=num_classes * (num_classes + 1)).reshape(num_classes, num_classes + 1)


def intersection_over_union(confusion: Confusion) -> npt.NDArray[np.float64]:
    """IoU of each class, float64 `[C]`, NaN for a class that does not occur in the truth."""
    right = np.diagonal(confusion)
    in_truth = confusion.sum(axis=1)
    union = in_truth + confusion[:, :-1].sum(axis=0) - right
    return np.where(in_truth > 0, right / np.maximum(union, 1), np.nan)


def accuracy(truth: Labels, predicted: Labels) -> float | None:
    """Returns the share of the points with a truth whose label is right, 0..1; None where none has a truth."""
    known = truth != UNLABELLED
    return float((truth == predicted)[known].mean()) if known.any() else None


def score(confusion: Confusion, classes: Sequence[str], *, boxes_only: bool = False) -> Score:
    """The scores of a confusion matrix `[C, C + 1]`. Raises ValueError where it is not of these C classes.

    boxes_only: only points in boxes have a truth; then there is recall, but no IoU
    """
    if confusion.shape != (len(classes), len(classes) + 1):
        raise ValueError(f"the confusion matrix is {confusion.shape}, expected {(len(classes), len(classes) + 1)}")
    iou = intersection_over_union(confusion)
    in_truth = confusion.sum(axis=1)
    recall = np.where(in_truth > 0, np.diagonal(confusion) / np.maximum(in_truth, 1), np.nan)
    if boxes_only:
        iou = np.full(len(classes), np.nan)
    total = int(confusion.sum())
    return Score(
        miou=_mean(iou),
        miou_official=None if np.isnan(iou).all() else _official(confusion, iou, classes),
        accuracy=float(np.diagonal(confusion).sum() / total) if total else None,
        iou=_by_name(classes, iou),
        mean_recall=_mean(recall),
        recall=_by_name(classes, recall),
        truth_points=dict(zip(classes, in_truth.tolist(), strict=True)),
        unlabelled=int(confusion[:, -1].sum()),
        confusion=confusion.tolist(),
    )


def official_rule(classes: Sequence[str]) -> str:
    """Says in words which mean is `Score.miou_official`."""
    return "by nuScenes' rule" if tuple(classes) == NUSCENES.classes else "all classes, absent ones as 0"


def _official(confusion: Confusion, iou: npt.NDArray[np.float64], classes: Sequence[str]) -> float:
    counted = np.ones(len(classes), np.bool_)
    if tuple(classes) == NUSCENES.classes:
        counted = (confusion.sum(axis=1) > 0) | (confusion[:, :-1].sum(axis=0) > 0)
    return float(np.nan_to_num(iou)[counted].mean())


def _mean(shares: npt.NDArray[np.float64]) -> float | None:
    known = shares[~np.isnan(shares)]
    return float(known.mean()) if len(known) else None


def _by_name(classes: Sequence[str], shares: npt.NDArray[np.float64]) -> dict[str, float | None]:
    pairs = zip(classes, shares.tolist(), strict=True)
    return {name: None if np.isnan(value) else value for name, value in pairs}
