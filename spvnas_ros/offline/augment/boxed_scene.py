"""Turns, mirrors or scales a scene with its boxes. Labels, intensities and the order of points and objects stay."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from spvnas_ros.boxes.conversions import wrapped
from spvnas_ros.offline.augment.geometric import moved
from spvnas_ros.offline.augment.option_checks import Interval, draw, number
from spvnas_ros.offline.datasets.boxed import BoxedScan


def rotate(scan: BoxedScan, rng: np.random.Generator, *, degrees: Interval = (-45.0, 45.0)) -> BoxedScan:
    """Turns the scene about the sensor's upright axis by an angle from `degrees`."""
    angle = np.radians(draw(rng, "degrees", degrees))
    c, s = np.cos(angle), np.sin(angle)
    return _changed(scan, np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]))


def scale(scan: BoxedScan, rng: np.random.Generator, *, factor: Interval = (0.95, 1.05)) -> BoxedScan:
    """Scales the scene by one factor, the sizes of the boxes with it."""
    return _changed(scan, np.eye(3) * draw(rng, "factor", factor, least=1e-3))


def flip(scan: BoxedScan, rng: np.random.Generator, *, x: float = 0.0, y: float = 0.5) -> BoxedScan:
    """Mirrors the scene: swaps front and back with probability `x`, and left and right with probability `y`."""
    chances = (number("x", x, most=1), number("y", y, most=1))
    signs = [-1.0 if rng.random() < chance else 1.0 for chance in chances]
    return _changed(scan, np.diag([*signs, 1.0]))


def _changed(scan: BoxedScan, matrix: npt.NDArray[np.float64]) -> BoxedScan:
    """Returns the scene after a matrix `[3, 3]` that turns about z, mirrors or scales."""
    boxes = scan.objects.boxes.astype(np.float64)
    front = np.column_stack((np.cos(boxes[:, 6]), np.sin(boxes[:, 6]))) @ matrix[:2, :2].T
    boxes[:, :3] = boxes[:, :3] @ matrix.T
    boxes[:, 3:6] *= np.cbrt(abs(np.linalg.det(matrix)))
    boxes[:, 6] = wrapped(np.arctan2(front[:, 1], front[:, 0]))
    return replace(scan, points=moved(scan.points, matrix), objects=scan.objects.with_boxes(boxes))
