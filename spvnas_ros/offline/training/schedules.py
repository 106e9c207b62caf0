"""Builds optimisers and computes the learning rate from the step alone, so that a resumed run has the same rates."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from spvnas_ros.offline.training.config import OptimiserConfig, ScheduleConfig


def build_optimiser(config: OptimiserConfig, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Returns SGD with Nesterov momentum, or AdamW."""
    if config.kind == "sgd":
        return torch.optim.SGD(
            parameters,
            lr=config.learning_rate,
            momentum=config.momentum,
            nesterov=config.momentum > 0,
            weight_decay=config.weight_decay,
        )
    betas = config.momentum, config.second_momentum
    return torch.optim.AdamW(parameters, lr=config.learning_rate, betas=betas, weight_decay=config.weight_decay)


def rate_factor(config: ScheduleConfig, step: int, total: int) -> float:
    """Returns the factor on the learning rate at a step, 0 to `total` - 1.

    The rate warms up linearly from `warmup_start`. During and after the warm-up, "cosine" falls to `floor` at `total`,
    "steps" multiplies by `gamma` at each share of the training in `milestones`, and "constant" stays.

    "one-cycle" has no warm-up: from `warmup_start` it rises to 1 at the share `rise` of the training and falls to
    `floor` at `total`, along half cosines (Smith and Topin, 2018; as OpenPCDet has it).
    """
    if config.kind == "one-cycle":
        return _cycle(config, step, total, config.warmup_start, 1.0, config.floor)
    factor = 1.0
    if config.kind == "cosine":
        factor = config.floor + (1 - config.floor) * (1 + math.cos(math.pi * min(step / max(total, 1), 1))) / 2
    elif config.kind == "steps":
        factor = config.gamma ** sum(step >= milestone * total for milestone in config.milestones)
    if step < config.warmup_steps:
        factor *= config.warmup_start + (1 - config.warmup_start) * step / config.warmup_steps
    return factor


def momentum(config: ScheduleConfig, usual: float, step: int, total: int) -> float:
    """Returns the momentum at a step; "one-cycle" lowers it while the rate is high.

    usual: the optimiser's
    """
    if config.kind != "one-cycle":
        return usual
    return _cycle(config, step, total, usual, config.low_momentum, usual)


def _cycle(config: ScheduleConfig, step: int, total: int, first: float, middle: float, last: float) -> float:
    turn = config.rise * total
    begin, end, share = (first, middle, step / turn) if step < turn else (middle, last, (step - turn) / (total - turn))
    return end + (begin - end) * (1 + math.cos(math.pi * min(share, 1))) / 2
