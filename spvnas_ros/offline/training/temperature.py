"""Fits a temperature, so that confidences say how often labels are right: Guo et al., "On Calibration of Modern
Neural Networks", ICML 2017, section 4.2. It divides the logits, which changes no label.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from spvnas_ros.frame import UNLABELLED, Segmentation
from spvnas_ros.nets.unet import PointVoxelUNet
from spvnas_ros.offline.evaluation.tally import Tally
from spvnas_ros.offline.training.calibration import ONE, Calibration, fit


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Returns the temperature, 1/4 to 4, at which labels are likeliest; 1 where none is known.

    logits: float32 `[M, C]`
    labels: int64 `[M]`, 255 = none
    """
    known = labels != UNLABELLED
    if not known.any():
        return 1.0
    count = int(known.sum())
    return fit(logits[known], labels[known], torch.full((count,), 1 / count), ONE).temperatures[0]


def calibration_error(logits: Tensor, labels: Tensor) -> float | None:
    """Returns the expected calibration error, 0..1, as `spvnas evaluate` has it; None where no label is known."""
    confidence, found = logits.softmax(dim=1).max(dim=1)
    tally = Tally([str(index) for index in range(logits.shape[1])])
    said = Segmentation(found.to(torch.uint8).numpy(), confidence.float().numpy())
    tally.add(np.zeros((len(logits), 4), np.float32), labels.to(torch.uint8).numpy(), said)
    return tally.calibration_error()


def with_temperature(net: PointVoxelUNet, temperature: float) -> PointVoxelUNet:
    """Returns a copy of the network whose last layer divides its logits by a temperature; no format has to know it."""
    return Calibration((temperature,)).of_net(net)


def gathered(parts: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Joins logits and labels of several scans; of no scan there are none."""
    found = list(parts)
    if not found:
        return torch.empty(0, 1), torch.empty(0, dtype=torch.long)
    return torch.cat([logits for logits, _ in found]), torch.cat([labels for _, labels in found])
