"""Chooses which labels of a network its student learns: of every class the same share, the most confident ones.

Class-balanced self-training: Zou et al., "Unsupervised Domain Adaptation for Semantic Segmentation via Class-Balanced
Self-Training", ECCV 2018, section 4.2.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

LOWEST: Final = -4.0
"""Log-odds of the lowest bin's lower edge. What wins among 50 classes has more."""
WIDTH: Final = 0.05
BINS: Final = 400
"""Bins of the confidence p of a label by its log-odds, log(p / (1 - p)), from `LOWEST` in steps of `WIDTH`. Confidences
crowd at 1, where evenly spaced bins would put all of a class into one.
"""


def confident(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the label of each row, int64 `[M]`, and the bin of its confidence, int64 `[M]`, from logits `[M, C]`."""
    best, labels = logits.double().log_softmax(dim=1).max(dim=1)
    odds = best - torch.log(-torch.expm1(best.clamp(max=-1e-12)))
    bins = ((odds - LOWEST) / WIDTH).floor().clamp(0, BINS - 1)
    return labels, bins.long()


def counted(labels: Tensor, bins: Tensor, classes: int) -> Tensor:
    """Counts labels by class and bin of confidence, float64 `[C, BINS]`."""
    return torch.bincount(labels * BINS + bins, minlength=classes * BINS).reshape(classes, BINS).double()


def thresholds(counts: npt.NDArray[np.float64], share: float) -> npt.NDArray[np.int64]:
    """Returns the lowest bin of each class that is learnt, int64 `[C]`; `BINS` for a class that was not counted.

    counts: `[C, BINS]`, as `counted` has them; those of several scans may be added, and weighted
    share:  of each class' labels, 0..1: from the threshold on there are as many or more, above its bin fewer
    """
    total = counts.sum(axis=1, keepdims=True)
    # Number of labels in each bin and above.
    above = np.cumsum(counts[:, ::-1], axis=1)[:, ::-1]
    enough = (above >= share * total - 1e-9 * np.maximum(total, 1)) & (above > 0)
    last = BINS - 1 - np.argmax(enough[:, ::-1], axis=1)
    found: npt.NDArray[np.int64] = np.where(enough.any(axis=1), last, BINS)
    return found


def confidence_of(bins: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Returns the confidence at the lower edge of bins, 0..1; above 1 there is none, so `BINS` is 1."""
    return np.where(bins >= BINS, 1.0, 1 / (1 + np.exp(-(LOWEST + WIDTH * bins))))
