"""What goes into KITTI's evaluation and what comes out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from spvnas_ros.recordings.kitti_objects import KittiObjects

METRICS: Final = ("bbox", "aos", "bev", "3d")
"""Overlap in the picture, the same weighted by orientation, overlap from above, overlap in space."""


@dataclass(frozen=True)
class KittiFrame:
    """A frame: what is there and what was found."""

    name: str
    truth: KittiObjects
    found: KittiObjects


@dataclass(frozen=True)
class Curve:
    """Precision over recall, of one class, metric and difficulty.

    precision:  at the recalls 0, 1/40, .., 1; for `aos` the orientation similarity. 0 where the recall is not reached
    thresholds: the scores at which it was taken, from high to low; as many as recalls were reached
    objects:    labelled objects that count
    detections: detections that count
    reachable:  recalls that a perfect detector would reach with so many objects
    """

    precision: tuple[float, ...]
    thresholds: tuple[float, ...]
    objects: int
    detections: int
    reachable: int

    @property
    def r40(self) -> float:
        """AP in percent, the mean over the recalls 1/40 to 1."""
        return 100 * float(np.mean(self.precision[1:]))

    @property
    def r11(self) -> float:
        """AP in percent, the mean over the recalls 0, 0.1, .., 1."""
        return 100 * float(np.mean(self.precision[::4]))

    @property
    def reachable_r40(self) -> float:
        """The R40 of a perfect detector with so many objects."""
        return 100 * max(self.reachable - 1, 0) / (len(self.precision) - 1)

    @property
    def reachable_r11(self) -> float:
        """The R11 of a perfect detector with so many objects."""
        return 100 * len(range(0, self.reachable, 4)) / len(range(0, len(self.precision), 4))


@dataclass(frozen=True)
class Figure:
    """One cell of KITTI's table.

    kind, metric, difficulty: such as `car`, `3d`, `moderate`
    curve:   None where KITTI's evaluation gives no figure
    reason:  why it gives none; "" where it does
    """

    kind: str
    metric: str
    difficulty: str
    curve: Curve | None
    reason: str = ""
