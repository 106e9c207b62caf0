"""Changes a scan as if another sensor had made it: fewer beams, shorter range, lost points, other intensities."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from spvnas_ros.frame import Points
from spvnas_ros.offline.augment.boxed_scene import AnyScan
from spvnas_ros.offline.augment.option_checks import AugmentationError, Interval, counts, draw, number, pair

_SPAN_PERCENTILES = (0.5, 99.5)
"""Percentiles of pitch that bound the rings. Points outside are reflections or hits on the vehicle, and would stretch
the rings.
"""


def beam_drop(scan: AnyScan, rng: np.random.Generator, *, beams: Sequence[int] = (16, 32), source: int = 64) -> AnyScan:
    """Keeps the points of n evenly spaced rings out of `source`, n drawn from `beams`, as a sensor with n beams would.

    source: number of beams of the sensor that made the scan

    The ring of a point is estimated from its pitch alone (`rings`). So this works for any scan that is still in its
    sensor's frame; apply it before `shift` and `jitter`.
    """
    source = counts("source", [source], least=1)[0]
    kept = int(rng.choice(counts("beams", beams, least=1)))
    if kept > source:
        raise AugmentationError(f"beams has {kept}, but source has only {source} beams to choose from")
    first = rng.random()
    ring = rings(scan.points, source)
    # Ring r is kept where a line of slope kept / source passes a whole number between r and r + 1.
    step = np.floor((np.arange(source + 1) + first * source / kept) * kept / source)
    chosen: npt.NDArray[np.bool_] = np.diff(step) > 0
    return scan.take(chosen[ring])


def rings(points: Points, beams: int) -> npt.NDArray[np.int64]:
    """Estimates the ring of each point, int64 `[N]`, 0 the lowest: the range of pitches is divided into `beams` equal
    steps.

    points: float32 `[N, 4]` in the sensor's frame

    The steps span the pitches of nearly all points. For a sensor with uneven beams, one ring may fall into two steps,
    or two rings into one. Number and distance of the rings are right on average.
    """
    if not len(points):
        return np.empty(0, np.int64)
    pitch = pitches(points)
    low, high = np.percentile(pitch, _SPAN_PERCENTILES)
    step = max(float(high - low), 1e-6) / beams
    ring: npt.NDArray[np.int64] = np.clip((pitch - low) / step, 0, beams - 1).astype(np.int64)
    return ring


def pitches(points: Points) -> npt.NDArray[np.float32]:
    """Returns the angle of each point above the sensor's horizon, float32 `[N]`, radians."""
    pitch: npt.NDArray[np.float32] = np.arctan2(points[:, 2], np.hypot(points[:, 0], points[:, 1]))
    return pitch


def point_drop(scan: AnyScan, rng: np.random.Generator, *, share: Interval = (0.0, 0.2)) -> AnyScan:
    """Drops each point with a probability that is drawn once per scan from `share`."""
    low, high = pair("share", share, 0, 1)
    return scan.take(rng.random(len(scan), np.float32) >= rng.uniform(low, high))


def range_crop(scan: AnyScan, rng: np.random.Generator, *, metres: Interval = (30.0, 80.0)) -> AnyScan:
    """Drops the points that are farther from the sensor than a distance drawn from `metres`."""
    reach = draw(rng, "metres", metres, least=0)
    return scan.take(np.linalg.norm(scan.points[:, :3], axis=1) <= np.float32(reach))


def intensity_scale(scan: AnyScan, rng: np.random.Generator, *, factor: Interval = (0.5, 1.5)) -> AnyScan:
    """Multiplies the intensities by one factor and clips them to 0..1, as another sensor's scale would."""
    return _with_intensity(scan, scan.points[:, 3] * np.float32(draw(rng, "factor", factor, least=0)))


def intensity_gamma(scan: AnyScan, rng: np.random.Generator, *, gamma: Interval = (0.5, 2.0)) -> AnyScan:
    """Clips the intensities to 0..1 and raises them to one power, as another sensor's response curve would.

    The power's logarithm is drawn uniformly between those of the ends of `gamma`.
    """
    low, high = pair("gamma", gamma, 1e-3)
    power = np.float32(np.exp(rng.uniform(np.log(low), np.log(high))))
    return _with_intensity(scan, np.clip(scan.points[:, 3], 0, 1) ** power)


def intensity_noise(scan: AnyScan, rng: np.random.Generator, *, sigma: float = 0.02) -> AnyScan:
    """Adds normal noise to each intensity and clips the sum to 0..1."""
    noise = rng.standard_normal(len(scan), np.float32) * np.float32(number("sigma", sigma))
    return _with_intensity(scan, scan.points[:, 3] + noise)


def intensity_drop(scan: AnyScan, rng: np.random.Generator) -> AnyScan:  # noqa: ARG001
    """Sets all intensities to 0, which the network also gets from a sensor that measures none."""
    return _with_intensity(scan, np.zeros(len(scan), np.float32))


def _with_intensity(scan: AnyScan, intensity: npt.NDArray[np.float32]) -> AnyScan:
    points = scan.points.copy()
    points[:, 3] = np.clip(intensity, 0, 1)
    return scan.with_points(points)
