"""The intensities a network was trained on, which tell whether a sensor's are on the same scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class TrainingIntensity:
    """Median and 95th percentile of the training data's intensities, as the network is given them, usually 0..1.

    Raises ValueError where they can be none.
    """

    median: float
    p95: float

    def __post_init__(self) -> None:
        if not 0 <= self.median <= self.p95 < float("inf"):
            raise ValueError(f"intensities need 0 <= median <= p95, found median {self.median}, p95 {self.p95}")


SEMANTIC_KITTI: Final = TrainingIntensity(0.3, 0.5)
"""Of SemanticKITTI's scans (HDL-64E), which all published networks were trained on."""


@dataclass(frozen=True)
class Reference:
    """What a sensor's intensities are held against, and whose it is in words that follow "of"."""

    intensity: TrainingIntensity = SEMANTIC_KITTI
    whose: str = "SemanticKITTI's scans"


def reference(recorded: TrainingIntensity | None) -> Reference:
    """What the weights have recorded of their training, else SemanticKITTI's."""
    return Reference(recorded, "the network's training data") if recorded else Reference()
