"""Puts the confidences of a trained network right in its last layer: temperatures and biases of the classes.

Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, sections 4.2 (temperature and vector scaling).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize, minimize_scalar
from torch import Tensor
from torch.nn import functional

from spvnas_ros.nets.unet import PointVoxelUNet

ONE, CLASS, CLASS_BIAS = "one", "class", "class-bias"
KINDS: Final = (ONE, CLASS, CLASS_BIAS)
"""One temperature, which changes no label; one for each class; one for each class and a bias. The last two may change
labels.
"""

TEMPERATURES: Final = (0.25, 4.0)
_BIASES = (-4.0, 4.0)
_LEAST = 100
"""Points of a class that its own values are fitted from, at least; with fewer it has those of all classes."""


@dataclass(frozen=True)
class Calibration:
    """What is done to logits: each is divided by a temperature, then a bias is added.

    temperatures: one for all classes, or one for each
    biases:       one for each class, or none
    """

    temperatures: tuple[float, ...] = (1.0,)
    biases: tuple[float, ...] = ()

    def flatter(self, margin: float) -> Calibration:
        """Returns the calibration after which all logits are divided by `margin`, too."""
        return Calibration(
            tuple(margin * each for each in self.temperatures), tuple(each / margin for each in self.biases)
        )

    def of_logits(self, logits: Tensor) -> Tensor:
        """Returns logits `[M, C]`, put right."""
        changed = logits / torch.tensor(self.temperatures, dtype=logits.dtype)
        return changed + torch.tensor(self.biases, dtype=logits.dtype) if self.biases else changed

    @torch.no_grad()
    def of_net(self, net: PointVoxelUNet) -> PointVoxelUNet:
        """Returns a copy of the network, in evaluation mode, whose last layer does it: it costs nothing, and no format
        has to know it.
        """
        changed = PointVoxelUNet(net.spec)
        changed.load_state_dict(net.state_dict())
        last = changed.classifier
        divisors = torch.tensor(self.temperatures, dtype=last.weight.dtype)
        last.weight.div_(divisors[:, None])
        last.bias.div_(divisors)
        if self.biases:
            last.bias.add_(torch.tensor(self.biases, dtype=last.bias.dtype))
        return changed.eval()


def fit(logits: Tensor, labels: Tensor, weights: Tensor, kind: str) -> Calibration:
    """Returns the calibration of a kind at which labels are likeliest, temperatures within 1/4 to 4.

    logits: float32 `[M, C]`; labels: int64 `[M]`, all of them classes; weights: float32 `[M]` of the points, sum 1

    Raises ValueError for a kind that is none, and for no points.
    """
    if kind not in KINDS or not len(labels):
        raise ValueError(f"{kind!r} and {len(labels)} points, expected one of {', '.join(KINDS)} and some points")
    log, classes = _one(logits.double(), labels, weights.double()), logits.shape[1]
    if kind == ONE:
        return Calibration((float(np.exp(log)),))
    enough = np.bincount(labels.numpy(), minlength=classes) >= _LEAST
    begin, free = np.full(classes, log), enough
    if kind == CLASS:
        found = _minimum(logits, labels, weights, begin, free, lambda x: (x, None))
        return Calibration(tuple(np.exp(found).tolist()))
    begin, free = np.concatenate([begin, np.zeros(classes)]), np.concatenate([enough, enough])
    found = _minimum(logits, labels, weights, begin, free, lambda x: (x[:classes], x[classes:]))
    return Calibration(tuple(np.exp(found[:classes]).tolist()), tuple(found[classes:].tolist()))


def _one(logits: Tensor, labels: Tensor, weights: Tensor) -> float:
    """Returns the logarithm of the temperature of all classes."""

    def loss(log: float) -> float:
        losses = functional.cross_entropy(logits / np.exp(log), labels, reduction="none")
        return float((losses * weights).sum())

    found = minimize_scalar(loss, bounds=np.log(TEMPERATURES), method="bounded", options={"xatol": 1e-3})
    return float(found.x)


def _minimum(
    logits: Tensor, labels: Tensor, weights: Tensor, begin: npt.NDArray[Any], free: npt.NDArray[np.bool_], split: Any
) -> npt.NDArray[np.float64]:
    """Returns the values with the smallest loss; those that are not free stay as they begin.

    split: of values into logarithms of temperatures, and biases or None
    """

    def loss(values: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        x = torch.tensor(values, dtype=torch.float32, requires_grad=True)
        logs, biases = split(x)
        said = logits / logs.exp()
        said = said if biases is None else said + biases
        value = (functional.cross_entropy(said, labels, reduction="none") * weights).sum()
        (slope,) = torch.autograd.grad(value, x)
        return value.item(), slope.double().numpy()

    limits = [*np.log([TEMPERATURES] * len(begin)).tolist()]
    if split(torch.zeros(len(begin)))[1] is not None:
        limits[len(begin) // 2 :] = [_BIASES] * (len(begin) - len(begin) // 2)
    bounds = [limit if own else (at, at) for limit, own, at in zip(limits, free, begin, strict=True)]
    found: npt.NDArray[np.float64] = minimize(loss, begin, jac=True, method="L-BFGS-B", bounds=bounds).x
    return found
