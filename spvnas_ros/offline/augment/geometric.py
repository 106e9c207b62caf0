"""Turns, mirrors, scales or moves the scene. Labels, instances, intensities and the order of points stay."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from spvnas_ros.frame import Points
from spvnas_ros.offline.augment.option_checks import AugmentationError, Interval, draw, number
from spvnas_ros.offline.datasets.scan import LabelledScan


def rotate(scan: LabelledScan, rng: np.random.Generator, *, degrees: Interval = (0.0, 360.0)) -> LabelledScan:
    """Turns the scene about the sensor's upright axis by an angle from `degrees`. Heights and distances stay."""
    return scan.with_points(rotated(scan.points, np.radians(draw(rng, "degrees", degrees))))


def scale(scan: LabelledScan, rng: np.random.Generator, *, factor: Interval = (0.95, 1.05)) -> LabelledScan:
    """Scales the scene by one factor; directions stay the same."""
    return scan.with_points(moved(scan.points, np.eye(3) * draw(rng, "factor", factor, least=1e-3)))


def flip(scan: LabelledScan, rng: np.random.Generator, *, x: float = 0.5, y: float = 0.5) -> LabelledScan:
    """Mirrors the scene: swaps front and back with probability `x`, and left and right with probability `y`."""
    chances = (number("x", x, most=1), number("y", y, most=1))
    signs = [-1.0 if rng.random() < chance else 1.0 for chance in chances]
    return scan.with_points(moved(scan.points, np.diag([*signs, 1.0])))


def shift(scan: LabelledScan, rng: np.random.Generator, *, metres: Sequence[float] = (0.2, 0.2, 0.2)) -> LabelledScan:
    """Moves the scene by up to `metres` along x, y and z, as if the sensor were at another place on the vehicle."""
    if not isinstance(metres, list | tuple) or len(metres) != 3:
        raise AugmentationError(f"metres is {metres!r}, expected three numbers: the most along x, y and z")
    most = np.array([number("metres", value) for value in metres])
    points = scan.points.copy()
    points[:, :3] += rng.uniform(-most, most).astype(np.float32)
    return scan.with_points(points)


def jitter(scan: LabelledScan, rng: np.random.Generator, *, sigma: float = 0.01, limit: float = 0.05) -> LabelledScan:
    """Moves each point by its own normal noise of `sigma` metres per axis, at most `limit` metres per axis."""
    sigma, limit = number("sigma", sigma), number("limit", limit)
    noise = rng.standard_normal((len(scan), 3), np.float32) * np.float32(sigma)
    points = scan.points.copy()
    points[:, :3] += np.clip(noise, -limit, limit)
    return scan.with_points(points)


def rotated(points: Points, angle: float) -> Points:
    """Returns points float32 `[N, 4]` turned about z by an angle in radians, counterclockwise as seen from above."""
    c, s = np.cos(angle), np.sin(angle)
    return moved(points, np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]))


def moved(points: Points, matrix: npt.NDArray[np.float64]) -> Points:
    """Returns points float32 `[N, 4]` with x, y, z multiplied by a matrix `[3, 3]`."""
    result = points.copy()
    result[:, :3] = points[:, :3] @ matrix.T.astype(np.float32)
    return result
