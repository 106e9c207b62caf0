"""Turns, mirrors, scales or moves the scene, boxes with it. Labels, instances, intensities and the order of points and
objects stay.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spvnas_ros.offline.augment.boxed_scene import AnyScan, carried, shifted, turn
from spvnas_ros.offline.augment.option_checks import AugmentationError, Interval, draw, number


def rotate(scan: AnyScan, rng: np.random.Generator, *, degrees: Interval = (0.0, 360.0)) -> AnyScan:
    """Turns the scene about the sensor's upright axis by an angle from `degrees`. Heights and distances stay."""
    return carried(scan, turn(np.radians(draw(rng, "degrees", degrees))))


def scale(scan: AnyScan, rng: np.random.Generator, *, factor: Interval = (0.95, 1.05)) -> AnyScan:
    """Scales the scene by one factor, the sizes of boxes with it; directions stay the same."""
    return carried(scan, np.eye(3) * draw(rng, "factor", factor, least=1e-3))


def flip(scan: AnyScan, rng: np.random.Generator, *, x: float = 0.5, y: float = 0.5) -> AnyScan:
    """Mirrors the scene: swaps front and back with probability `x`, and left and right with probability `y`."""
    chances: tuple[float, float] = (number("x", x, most=1), number("y", y, most=1))
    signs: list[float] = [-1.0 if rng.random() < chance else 1.0 for chance in chances]
    return carried(scan, np.diag([*signs, 1.0]))


def shift(scan: AnyScan, rng: np.random.Generator, *, metres: Sequence[float] = (0.2, 0.2, 0.2)) -> AnyScan:
    """Moves the scene by up to `metres` along x, y and z, as if the sensor were at another place on the vehicle."""
    if not isinstance(metres, list | tuple) or len(metres) != 3:
        raise AugmentationError(f"metres is {metres!r}, expected three numbers: the most along x, y and z")
    most = np.array([number("metres", value) for value in metres])
    return shifted(scan, rng.uniform(-most, most).astype(np.float32))


def jitter(scan: AnyScan, rng: np.random.Generator, *, sigma: float = 0.01, limit: float = 0.05) -> AnyScan:
    """Moves each point by its own normal noise of `sigma` metres per axis, at most `limit` metres per axis.

    Boxes stay, so that a point on the face of its box may leave it.
    """
    sigma, limit = number("sigma", sigma), number("limit", limit)
    noise = rng.standard_normal((len(scan), 3), np.float32) * np.float32(sigma)
    points = scan.points.copy()
    points[:, :3] += np.clip(noise, -limit, limit)
    return scan.with_points(points)
