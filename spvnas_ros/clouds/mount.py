"""Where the sensor is: its height above the ground, as a cloud shows it."""

from __future__ import annotations

import numpy as np

from spvnas_ros.frame import Points

_GROUND_RING = (3.0, 25.0)
"""Metres from the sensor: the ground is searched between these distances."""


def ground_height(points: Points) -> float | None:
    """Returns the height of the ground in the cloud's frame, metres; None where there are too few points near the
    sensor.

    The ground is the level with the most points among the lower 60 % of the heights.
    """
    distance = np.hypot(points[:, 0], points[:, 1])
    z = points[(distance > _GROUND_RING[0]) & (distance < _GROUND_RING[1]) & np.isfinite(points[:, 2]), 2]
    if len(z) < 100:
        return None
    # A level with many points, not the lowest point: single reflections may lie below the ground.
    low, middle = np.percentile(z, (1, 60))
    counts, edges = np.histogram(z, bins=max(1, round((middle - low) / 0.1)), range=(low, max(middle, low + 0.1)))
    fullest = int(counts.argmax())
    return float((edges[fullest] + edges[fullest + 1]) / 2)
