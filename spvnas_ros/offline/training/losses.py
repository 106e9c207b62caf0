"""Computes the losses of training, from logits `[M, C]` and class indices `[M]`, 255 = no true label."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from spvnas_ros.frame import UNLABELLED


def cross_entropy_sum(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Returns the cross-entropy summed over the voxels with a true label, and the divisor that makes it a mean.

    logits:  float32 `[M, C]`
    labels:  int64 `[M]`, 255 = left out
    weights: float32 `[C]`, weight of a voxel of each class; None = 1

    Sum and divisor are separate so that several processes can add up the parts of a batch before they divide.
    """
    known = labels != UNLABELLED
    total = functional.cross_entropy(logits, labels, weights, ignore_index=UNLABELLED, reduction="sum")
    if weights is None:
        return total, known.sum().to(logits.dtype)
    return total, weights[labels[known]].sum()


def lovasz_softmax(logits: Tensor, labels: Tensor) -> Tensor:
    """Returns the Lovász extension of 1 - IoU, averaged over the classes that occur: Berman et al., CVPR 2018, eq. 8
    and 11.

    logits: float32 `[M, C]`
    labels: int64 `[M]`, 255 = left out

    The result is a scalar in 0..1, 0 where no voxel has a true label.
    """
    known = labels != UNLABELLED
    labels = labels[known]
    probabilities = logits[known].softmax(dim=1)
    losses = [_lovasz_of_class(labels == index, probabilities[:, index]) for index in torch.unique(labels).tolist()]
    return torch.stack(losses).mean() if losses else logits.sum() * 0.0


def _lovasz_of_class(is_class: Tensor, probability: Tensor) -> Tensor:
    """Returns the loss of one class: each error, largest first, times the growth of the Jaccard loss at it (algorithm
    1).
    """
    errors = torch.where(is_class, 1 - probability, probability)
    order = _descending(errors)
    errors = errors[order]
    # Counted in whole numbers, because sums of floats on a GPU differ from run to run.
    truth = is_class[order].long()
    total = truth.sum()
    jaccard = 1 - (total - truth.cumsum(0)).to(errors.dtype) / (total + (1 - truth).cumsum(0))
    growth = torch.cat([jaccard[:1], jaccard[1:] - jaccard[:-1]])
    return torch.dot(errors, growth)


def _descending(errors: Tensor) -> Tensor:
    """Returns the order int64 `[M]` that sorts errors, largest first; no error may be negative."""
    if errors.device.type != "cpu" or errors.dtype != torch.float32:
        return torch.argsort(errors, descending=True)
    # Floats that are not negative sort like their bits. NumPy sorts whole numbers six times as fast as PyTorch sorts
    # pairs. So the bits go into the upper half of a number and the row into the lower half, which gives the order.
    bits = np.abs(errors.detach().numpy()).view(np.uint32).astype(np.uint64)
    keys = np.sort((bits << np.uint64(32)) | np.arange(len(bits), dtype=np.uint64))
    return torch.from_numpy((keys[::-1] & np.uint64(0xFFFFFFFF)).astype(np.int64))


def inverse_sqrt_weights(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Returns class weights float32 `[C]` that fall with the square root of a class's frequency.

    counts: int64 `[C]`, points or voxels of each class

    The weights of the classes that occur have the mean 1. A class that does not occur gets the weight 1.
    """
    occurs = counts > 0
    weights = np.ones(len(counts))
    weights[occurs] = 1 / np.sqrt(counts[occurs] / counts.sum())
    weights[occurs] /= weights[occurs].mean() if occurs.any() else 1
    return weights.astype(np.float32)
