"""What training minimises, on logits `[M, C]` and class indices `[M]`, 255 = no truth."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from spvnas_ros.frame import UNLABELLED


def cross_entropy_sum(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Cross-entropy summed over the voxels with a truth, and what to divide it by for the mean.

    logits:  float32 `[M, C]`
    labels:  int64 `[M]`, 255 = left out
    weights: float32 `[C]`, how much a voxel of each class counts; None = 1

    The two come apart so that the parts of a batch on several processes can be added before they are divided.
    """
    known = labels != UNLABELLED
    total = functional.cross_entropy(logits, labels, weights, ignore_index=UNLABELLED, reduction="sum")
    if weights is None:
        return total, known.sum().to(logits.dtype)
    return total, weights[labels[known]].sum()


def lovasz_softmax(logits: Tensor, labels: Tensor) -> Tensor:
    """The Lovász extension of 1 - IoU, averaged over the classes that occur: Berman et al., CVPR 2018, eq. 8 and 11.

    logits: float32 `[M, C]`
    labels: int64 `[M]`, 255 = left out

    Returns a scalar in 0..1, 0 where no voxel has a truth.
    """
    known = labels != UNLABELLED
    labels = labels[known]
    probabilities = logits[known].softmax(dim=1)
    losses = [_lovasz_of_class(labels == index, probabilities[:, index]) for index in torch.unique(labels).tolist()]
    return torch.stack(losses).mean() if losses else logits.sum() * 0.0


def _lovasz_of_class(is_class: Tensor, probability: Tensor) -> Tensor:
    """The loss of one class: errors, largest first, times how much the Jaccard loss grows with each (algorithm 1)."""
    errors = torch.where(is_class, 1 - probability, probability)
    order = _descending(errors)
    errors = errors[order]
    # Whole numbers: sums of floats on a GPU differ from run to run.
    truth = is_class[order].long()
    total = truth.sum()
    jaccard = 1 - (total - truth.cumsum(0)).to(errors.dtype) / (total + (1 - truth).cumsum(0))
    growth = torch.cat([jaccard[:1], jaccard[1:] - jaccard[:-1]])
    return torch.dot(errors, growth)


def _descending(errors: Tensor) -> Tensor:
    """The order int64 `[M]` that sorts errors, none of them negative, the largest first."""
    if errors.device.type != "cpu" or errors.dtype != torch.float32:
        return torch.argsort(errors, descending=True)
    # The bits of floats that are not negative are in the order of the floats, and NumPy sorts whole numbers six times
    # as fast as PyTorch sorts pairs: with the rows in the lower half, the numbers tell the order.
    bits = np.abs(errors.detach().numpy()).view(np.uint32).astype(np.uint64)
    keys = np.sort((bits << np.uint64(32)) | np.arange(len(bits), dtype=np.uint64))
    return torch.from_numpy((keys[::-1] & np.uint64(0xFFFFFFFF)).astype(np.int64))


def inverse_sqrt_weights(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Class weights float32 `[C]` that fall with the square root of how often a class occurs; their mean is 1.

    counts: int64 `[C]`, points or voxels of each class; a class that does not occur gets the weight 1
    """
    occurs = counts > 0
    weights = np.ones(len(counts))
    weights[occurs] = 1 / np.sqrt(counts[occurs] / counts.sum())
    weights[occurs] /= weights[occurs].mean() if occurs.any() else 1
    return weights.astype(np.float32)
