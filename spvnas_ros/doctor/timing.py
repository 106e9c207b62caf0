"""Estimates the rate of clouds from their stamps. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

_GAP = 1.5
"""A pause of more than this many periods means that clouds are missing."""


@dataclass(frozen=True)
class Rate:
    """The rate of clouds.

    hertz:    clouds each second
    lost:     clouds that seem to be missing
    expected: clouds that were to be expected, including the missing ones
    """

    hertz: float
    lost: int
    expected: int


def rate_of(stamps: Sequence[int]) -> Rate | None:
    """Returns the rate of clouds from their stamps (nanoseconds, in order of arrival).

    Steps back and repeated stamps are left out. Returns None where no stamp is later than the one before.
    """
    steps = [(after - before) / 1e9 for before, after in pairwise(stamps) if after > before]
    if not steps:
        return None
    period = median(steps)
    lost = sum(round(step / period) - 1 for step in steps if step > _GAP * period)
    return Rate(1 / period, lost, len(stamps) + lost)
