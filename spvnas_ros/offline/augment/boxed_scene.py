"""Changes scans with their boxes, where they have any: moves a whole scene, and counts the points in boxes again."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from spvnas_ros.boxes.conversions import wrapped
from spvnas_ros.boxes.inside import counts_inside
from spvnas_ros.frame import UNLABELLED, Points
from spvnas_ros.offline.datasets.boxed import BoxedScan
from spvnas_ros.offline.datasets.scan import LabelledScan, Labels

AnyScan = TypeVar("AnyScan", LabelledScan, BoxedScan)
"""A scan with labels, or one with boxes: what an augmentation takes, it also gives."""


def carried(scan: AnyScan, matrix: npt.NDArray[np.float64]) -> AnyScan:
    """Returns the scene after a matrix `[3, 3]` that turns about z, mirrors or scales; boxes go with their points."""
    points = moved(scan.points, matrix)
    if not isinstance(scan, BoxedScan):
        return scan.with_points(points)
    boxes = scan.objects.boxes.astype(np.float64)
    front = np.column_stack((np.cos(boxes[:, 6]), np.sin(boxes[:, 6]))) @ matrix[:2, :2].T
    boxes[:, :3] = boxes[:, :3] @ matrix.T
    boxes[:, 3:6] *= np.cbrt(abs(np.linalg.det(matrix)))
    boxes[:, 6] = wrapped(np.arctan2(front[:, 1], front[:, 0]))
    return replace(scan, points=points, objects=scan.objects.with_boxes(boxes))


def shifted(scan: AnyScan, metres: npt.NDArray[np.float32]) -> AnyScan:
    """Returns the scene moved by float32 `[3]` along x, y and z; boxes go with their points."""
    points = scan.points.copy()
    points[:, :3] += metres
    if not isinstance(scan, BoxedScan):
        return scan.with_points(points)
    boxes = scan.objects.boxes.copy()
    boxes[:, :3] += metres
    return replace(scan, points=points, objects=scan.objects.with_boxes(boxes))


def counted(scan: BoxedScan) -> BoxedScan:
    """Returns the scan with the number of points that each of its boxes has now."""
    counts = counts_inside(scan.points, scan.objects.boxes)
    return replace(scan, objects=replace(scan.objects, counts=counts))


def labels_of(scan: BoxedScan) -> Labels:
    """Returns the labels of a scan's points, uint8 `[N]`, 255 where the data have none."""
    return np.full(len(scan), UNLABELLED, np.uint8) if scan.labels is None else scan.labels


def moved(points: Points, matrix: npt.NDArray[np.float64]) -> Points:
    """Returns points float32 `[N, 4]` with x, y, z multiplied by a matrix `[3, 3]`."""
    result = points.copy()
    result[:, :3] = points[:, :3] @ matrix.T.astype(np.float32)
    return result


def turn(angle: float) -> npt.NDArray[np.float64]:
    """Returns the matrix `[3, 3]` that turns about z by an angle in radians, counterclockwise as seen from above."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
