"""Which points of a cloud a network may see: the one answer for labels, training, scores and checks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spvnas_ros.frame import NONE_UNUSABLE, Points, Unusable
from spvnas_ros.kernels.grid import MAX_EXTENT

Mask = npt.NDArray[np.bool_]


def key_window(voxel_size: float) -> float:
    """Returns how far from the sensor a point may be along an axis, metres, so that its voxel can be numbered."""
    return (MAX_EXTENT // 2 - 1) * voxel_size


@dataclass(frozen=True)
class Limits:
    """What a network can use.

    window:      largest coordinate along any axis, metres; see `key_window`
    brightest:   largest intensity; brighter points are seen with this one
    point_range: lowest x, y, z and highest x, y, z in metres, limits included; None for all of the window
    """

    window: float = key_window(0.05)
    brightest: float = 1.0
    point_range: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Cleaned:
    """The points of a cloud that a network sees.

    points:   float32 `[M, 4]`, with intensities from 0 to the brightest; the cloud itself where all of it can be used
    kept:     bool `[N]`, which points of the cloud these are; None where they are all
    unusable: the others, by kind
    too_bright: number of points whose intensity was clipped to the brightest
    """

    points: Points
    kept: Mask | None = None
    unusable: Unusable = NONE_UNUSABLE
    too_bright: int = 0


def clean(points: Points, limits: Limits) -> Cleaned:
    """Takes what a network can use out of a cloud `[N, 4]`.

    `Unusable` says which points are left out. Intensities beyond the limits are clipped: calibrated sensors exceed 1 at
    retroreflectors. The cloud is not changed.
    """
    if not len(points):
        return Cleaned(points)
    reach, intensity = _reach(points), points[:, 3]
    darkest, brightest = intensity.min(), intensity.max()
    # NaN fails every comparison, so a cloud that passes these has none.
    fits = reach.min() > 0 and reach.max() <= limits.window
    lit = darkest >= 0 and brightest <= limits.brightest
    if fits and lit and limits.point_range is None:
        return Cleaned(points)
    kept = _usable(points, reach, limits)
    # `compress` is ten times faster than `points[kept]`, which numpy does value by value.
    seen, left = (points, None) if kept.all() else (points.compress(kept, axis=0), kept)
    too_bright = 0
    if not lit:
        seen = seen.copy() if seen is points else seen
        too_bright = int(np.count_nonzero(seen[:, 3] > limits.brightest))
        np.clip(seen[:, 3], 0, limits.brightest, out=seen[:, 3])
    unusable = NONE_UNUSABLE if left is None else _count(points, reach, left, limits)
    return Cleaned(seen, left, unusable, too_bright)


def usable(points: Points, limits: Limits | None = None) -> Mask:
    """Returns which points `[N, 4]` a network may see, bool `[N]`. `clean` takes the same ones."""
    return _usable(points, _reach(points), limits or Limits())


def measured(points: Points) -> Mask:
    """Returns which points `[N, 4]` have a place, bool `[N]`: finite, and not at the origin."""
    reach = _reach(points)
    found: Mask = (reach > 0) & np.isfinite(reach)
    return found


def _usable(points: Points, reach: npt.NDArray[np.float32], limits: Limits) -> Mask:
    kept = (reach > 0) & (reach <= limits.window) & np.isfinite(points[:, 3])
    if limits.point_range is not None:
        kept &= _inside(points, limits.point_range)
    return kept


def _reach(points: Points) -> npt.NDArray[np.float32]:
    """Returns each point's largest coordinate, `[N]`; NaN where one is NaN."""
    # Column by column: numpy's maximum over an axis of three is ten times slower.
    reach = np.abs(points[:, 0])
    for column in (1, 2):
        np.maximum(reach, np.abs(points[:, column]), out=reach)
    return reach


def _inside(points: Points, point_range: tuple[float, ...]) -> Mask:
    inside = np.ones(len(points), np.bool_)
    for column, (low, high) in enumerate(zip(point_range[:3], point_range[3:], strict=True)):
        inside &= (points[:, column] >= np.float32(low)) & (points[:, column] <= np.float32(high))
    return inside


def _count(points: Points, reach: npt.NDArray[np.float32], kept: Mask, limits: Limits) -> Unusable:
    reach, intensity = reach[~kept], points[~kept, 3]
    finite = np.isfinite(reach)
    origin = reach == 0
    far = finite & (reach > limits.window)
    dark = finite & ~origin & ~far & ~np.isfinite(intensity)
    infinite, zero, away, unlit = (int(kind.sum()) for kind in (~finite, origin, far, dark))
    return Unusable(infinite, zero, away, unlit, len(reach) - infinite - zero - away - unlit)
