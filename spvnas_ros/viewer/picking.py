"""Finds the point under the pointer, and says what is known of it."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from spvnas_ros.frame import UNLABELLED, Points
from spvnas_ros.viewer.colours import Classes
from spvnas_ros.viewer.frames import ViewFrame

_AIM: Final = 0.008
"""Radians around the ray in which a point is met: some pixels of the page."""

Vector = tuple[float, float, float]


def under_pointer(points: Points, shown: npt.NDArray[np.bool_], origin: Vector, direction: Vector) -> int | None:
    """Returns the number of the point that a ray from the camera meets; None where it meets none.

    points:            float32 `[N, 4]`
    shown:             bool `[N]`, which of them can be met
    origin, direction: of the ray, metres; the direction has any length but 0

    Of points close to the ray, one in front of others is met, and one nearer to the ray.
    """
    along = np.asarray(direction, np.float64) / np.linalg.norm(direction)
    away = points[:, :3].astype(np.float64) - np.asarray(origin, np.float64)
    depth = away @ along
    beside = np.linalg.norm(away - depth[:, None] * along, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        off = beside / depth / _AIM
    met = np.flatnonzero(shown & (depth > 0) & (off < 1))
    if not len(met):
        return None
    return int(met[np.argmin(depth[met] * (1 + off[met]))])


def describe(frame: ViewFrame, index: int, classes: Classes) -> list[tuple[str, str]]:
    """Returns what is known of a point as names and values: class, true class, confidence, intensity, range, place."""
    x, y, z, intensity = (float(value) for value in frame.points[index])
    found = []
    if frame.labels is not None:
        found.append(("class", _name(int(frame.labels[index]), classes)))
    if frame.truth is not None:
        true = int(frame.truth[index])
        found.append(("true class", "not known" if true == UNLABELLED else _name(true, classes)))
    if frame.confidence is not None:
        found.append(("confidence", f"{float(frame.confidence[index]):.2f}"))
    return [
        *found,
        ("intensity", f"{intensity:.2f}"),
        ("range", f"{np.hypot(np.hypot(x, y), z):.1f} m"),
        ("x, y, z", f"{x:.2f}, {y:.2f}, {z:.2f} m"),
    ]


def _name(label: int, classes: Classes) -> str:
    return classes.rows[min(label, len(classes.names))]
