"""Which points of a cloud are usable: the one answer for the network, for training and for scores."""

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
