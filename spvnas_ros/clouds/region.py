"""The part of space in which points are labelled."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spvnas_ros.errors import UserError
from spvnas_ros.frame import Points


@dataclass(frozen=True)
class Region:
    """A box and a shell around the sensor, limits included; the default is all of space.

    low, high:            corners of the box, metres: x forward, y left, z up
    min_range, max_range: distances from the sensor, metres

    Raises ValueError where nothing can be inside.
    """

    low: tuple[float, float, float] = (-math.inf,) * 3
    high: tuple[float, float, float] = (math.inf,) * 3
    min_range: float = 0.0
    max_range: float = math.inf

    def __post_init__(self) -> None:
        for axis, low, high in zip("xyz", self.low, self.high, strict=True):
            if not low < high:
                raise UserError(f"crop_box.min_{axis} must be less than crop_box.max_{axis}, found {low} and {high}")
        if not 0 <= self.min_range < self.max_range:
            raise UserError(
                f"range.min must be at least 0 and less than range.max, found {self.min_range} and {self.max_range}"
            )

    @property
    def limited(self) -> bool:
        """Whether anything lies outside."""
        return self != Region()

    def contains(self, points: Points) -> npt.NDArray[np.bool_]:
        """Which of the points `[N, 4]` lie inside, `[N]`. Points that are not finite may be either."""
        inside = np.ones(len(points), np.bool_)
        for column, (low, high) in enumerate(zip(self.low, self.high, strict=True)):
            if low > -math.inf:
                inside &= points[:, column] >= low
            if high < math.inf:
                inside &= points[:, column] <= high
        if self.min_range > 0 or self.max_range < math.inf:
            with np.errstate(over="ignore"):
                squares = np.einsum("ij,ij->i", points[:, :3], points[:, :3])
            inside &= (squares >= self.min_range**2) & (squares <= self.max_range**2)
        return inside
