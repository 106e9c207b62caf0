"""Which points of a cloud are measured, and which a network may see: the one answer for labels, training and scores."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from spvnas_ros.frame import Points


def usable(points: Points, point_range: tuple[float, ...] | None = None) -> npt.NDArray[np.bool_]:
    """Returns which points `[N, 4]` a network may see, bool `[N]`; the others are labelled 255.

    point_range: lowest x, y, z and highest x, y, z in metres, limits included; None for all of space

    A point is usable where its coordinates and its intensity are finite and it lies in the range.
    """
    found: npt.NDArray[np.bool_] = np.logical_and.reduce(np.isfinite(points), axis=1)
    if point_range is not None:
        low, high = np.array(point_range, np.float32).reshape(2, 3)
        found &= ((points[:, :3] >= low) & (points[:, :3] <= high)).all(axis=1)
    return found


def measured(points: Points) -> npt.NDArray[np.bool_]:
    """Returns which points `[N, 4]` have a place, bool `[N]`: finite, and not at the origin.

    Drivers put points at the origin that nothing came back from.
    """
    place = points[:, :3]
    found: npt.NDArray[np.bool_] = np.isfinite(place).all(axis=1) & (place != 0).any(axis=1)
    return found
