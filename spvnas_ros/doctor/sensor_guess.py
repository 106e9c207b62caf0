"""Estimates the sensor's beams, vertical view and reach from a cloud. Pure numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from spvnas_ros.clouds.cleaning import measured
from spvnas_ros.frame import Points

_NEAREST = 1.0
"""Metres. Nearer points often belong to the vehicle, and their angles depend on the inside of the sensor."""
_FEWEST, _MOST = 4, 256
_BIN = 0.02
"""Degrees: far less than the angle between two beams (0.3 or more), far more than the rounding of float32."""
_QUIET = 0.05
"""Share of the fullest bin. A bin of elevations with fewer points than that lies between beams."""


def reach(points: Points, percent: float) -> float:
    """Returns the distance, in metres, that `percent` of the points do not exceed; NaN without points."""
    seen = points[measured(points)]
    return float(np.percentile(np.linalg.norm(seen[:, :3], axis=1), percent)) if len(seen) else float("nan")


def vertical_view(points: Points) -> tuple[float, float] | None:
    """Returns the lowest and the highest elevation in degrees, or None without points.

    One point in 1000 may lie beyond each of them.
    """
    elevation = _elevation(points)
    if not len(elevation):
        return None
    low, high = np.percentile(elevation, (0.1, 99.9))
    return float(low), float(high)


def beams(points: Points, ring: npt.NDArray[Any] | None = None, rows: int = 1) -> tuple[int, str] | None:
    """Returns how many beams the sensor has and what tells it, or None where nothing tells it.

    ring: beam of each point
    rows: height of an organised cloud
    """
    if ring is not None:
        return len(np.unique(ring)), "seen, by the ring field"
    if rows > 1:
        return min(rows, len(points) // rows), "by the organised cloud"
    if found := _revolutions(points):
        return found, "by the order of the points"
    if found := _levels(points):
        return found, "by their elevations"
    return None


def _elevation(points: Points) -> npt.NDArray[np.float64]:
    seen = points[measured(points)].astype(np.float64)
    flat = np.hypot(seen[:, 0], seen[:, 1])
    return np.degrees(np.arctan2(seen[:, 2], flat))[flat > _NEAREST]


def _revolutions(points: Points) -> int | None:
    """Returns the number of beams of a cloud that is written beam by beam: how often the azimuth starts again."""
    seen = points[measured(points)]
    azimuth = np.unwrap(np.arctan2(seen[:, 1], seen[:, 0]).astype(np.float64))
    if len(azimuth) < 2:
        return None
    turns = abs(azimuth[-1] - azimuth[0]) / (2 * np.pi)
    steady = np.mean(np.sign(np.diff(azimuth)) == np.sign(azimuth[-1] - azimuth[0]))
    count = round(turns)
    return count if _FEWEST <= count <= _MOST and steady > 0.8 else None


def _levels(points: Points) -> int | None:
    """Returns the number of beams of a cloud in any order: on how many sharp levels its elevations lie."""
    elevation = _elevation(points)
    if len(elevation) < 1000:
        return None
    low, high = elevation.min(), elevation.max()
    counts, _ = np.histogram(elevation, bins=max(1, int((high - low) / _BIN)))
    full = counts > _QUIET * counts.max()
    if full.mean() > 0.5:
        return None
    levels = int(np.count_nonzero(np.diff(full.astype(np.int8)) == 1) + full[0])
    return levels if _FEWEST <= levels <= _MOST else None
