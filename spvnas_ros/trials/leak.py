"""Whether memory leaks: judged by what a cloud leaves behind, over many windows of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from statistics import median

import numpy as np

_WINDOWS = 12
_WARM_UP = 0.25
"""Share of the clouds that warms the process up, and is not judged."""

_MOST_PER_CLOUD = 1_000
_MOST_AT_ALL = 4_000_000
"""Bytes that a run of any length may end higher by: buffers that a busy machine had in flight at once, and what the
node remembers of its last few thousand frames."""


@dataclass(frozen=True)
class Trend:
    """How a process's memory goes with the clouds that it has answered.

    per_cloud: bytes that each leaves behind
    clouds:    how many were judged
    """

    per_cloud: float
    clouds: int

    @property
    def limit(self) -> float:
        """Bytes per cloud from which on it is a leak. The more clouds, the finer."""
        return _MOST_PER_CLOUD + _MOST_AT_ALL / self.clouds

    @property
    def leaks(self) -> bool:
        """Whether it is a leak."""
        return self.per_cloud >= self.limit

    def __str__(self) -> str:
        return f"{self.per_cloud:+.0f} bytes per cloud over {self.clouds} clouds, expected less than {self.limit:.0f}"


def trend(answered: Sequence[int], memory: Sequence[int]) -> Trend:
    """The trend in samples of a process: clouds it has answered, and bytes it has in memory then.

    By clouds, not by time, so that a busy machine is judged like a quiet one. Of the means of twelve windows with
    equally many clouds each, two medians of growth are taken, and the lesser counts. Steps that come once, as for a
    buffer more, do not move the one between neighbours; a saw-tooth, as allocators draw it, goes up between most
    neighbours, but does not move the one between all (Theil and Sen).

    Raises ValueError where no cloud was answered, or all at once.
    """
    clouds, held = np.asarray(answered, float), np.asarray(memory, float)
    first = clouds[0] + _WARM_UP * (clouds[-1] - clouds[0])
    edges = np.linspace(first, clouds[-1], _WINDOWS + 1)
    window = np.searchsorted(edges[1:-1], clouds, side="right")
    judged = [(clouds >= first) & (window == each) for each in range(_WINDOWS)]
    means = [(clouds[inside].mean(), held[inside].mean()) for inside in judged if inside.any()]
    if len(means) < 2:
        raise ValueError(f"{len(means)} windows with clouds answered, expected at least 2")
    slopes = [
        median((after - before) / (late - early) for (early, before), (late, after) in pairs)
        for pairs in (pairwise(means), combinations(means, 2))
    ]
    return Trend(min(slopes), int(clouds[-1] - first))
