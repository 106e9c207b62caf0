"""Checks the options of augmentations, because they come from files that people write."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from spvnas_ros.errors import UserError

Interval = Sequence[float]
"""`(low, high)`, both included; a config writes it as `[low, high]`."""


class AugmentationError(UserError):
    """Raised for an unknown augmentation and for a wrong option. The message names it and says what was expected."""


def draw(rng: np.random.Generator, name: str, interval: Interval, least: float = -math.inf) -> float:
    """Draws a number uniformly from an interval. Raises AugmentationError for no interval, or one that begins below
    `least`.
    """
    low, high = pair(name, interval, least)
    return float(rng.uniform(low, high))


def pair(name: str, interval: Interval, least: float = -math.inf, most: float = math.inf) -> tuple[float, float]:
    """Returns the ends of an interval within `least`..`most`. Raises AugmentationError where it is no such interval."""
    try:
        low, high = (float(end) for end in interval)
    except (TypeError, ValueError):
        low, high = math.nan, math.nan
    if not (math.isfinite(low) and math.isfinite(high) and least <= low <= high <= most):
        limits = "" if (least, most) == (-math.inf, math.inf) else f" within {least:g} to {most:g}"
        raise AugmentationError(f"{name} is {interval!r}, expected two numbers [low, high]{limits}")
    return low, high


def number(name: str, value: float, least: float = 0.0, most: float = math.inf) -> float:
    """Returns a number within limits. Raises AugmentationError where it is no such number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        limits = f"from {least:g} on" if most == math.inf else f"from {least:g} to {most:g}"
        raise AugmentationError(f"{name} is {value!r}, expected a number {limits}")
    return float(value)


def counts(name: str, values: Sequence[int], least: int = 0) -> list[int]:
    """Returns a list of at least one whole number from `least` on. Raises AugmentationError for anything else."""
    whole = isinstance(values, list | tuple | range) and len(values) > 0
    if not whole or any(isinstance(value, bool) or not isinstance(value, int) or value < least for value in values):
        raise AugmentationError(f"{name} is {values!r}, expected a list of whole numbers from {least} on")
    return list(values)


def mapping(name: str, value: Any) -> Mapping[str, Any]:
    """Returns options by name; None has none. Raises AugmentationError for anything else."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise AugmentationError(f"{name} is {value!r}, expected options by name")
    return value
