"""The scene as another sensor would see it: fewer beams, shorter range, lost points, other intensities."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from spvnas_ros.frame import Points
from spvnas_ros.offline.augment.options import AugmentationError, Interval, counts, draw, number, pair
from spvnas_ros.offline.datasets.scan import LabelledScan

_SPAN_PERCENTILES = (0.5, 99.5)
"""Of pitch: what lies outside is a reflection or a hit on the vehicle, and would stretch the rings."""


def beam_drop(
    scan: LabelledScan, rng: np.random.Generator, *, beams: Sequence[int] = (16, 32), source: int = 64
) -> LabelledScan:
    """Keep the points of `source` / n evenly spaced rings, n drawn from `beams`: a sensor with n beams.

    source: beams of the sensor that made the scan

    Rings are told by pitch alone (`rings`), so any scan will do that is still in its sensor's frame: put this before
    `shift` and `jitter`.
    """
    source = counts("source", [source], least=1)[0]
    kept = int(rng.choice(counts("beams", beams, least=1)))
    if kept > source:
        raise AugmentationError(f"beams has {kept}, but source has only {source} beams to choose from")
    first = rng.random()
    ring = rings(scan.points, source)
    # Ring r is kept where the line of slope kept / source steps over a whole number.
    step = np.floor((np.arange(source + 1) + first * source / kept) * kept / source)
    chosen: npt.NDArray[np.bool_] = np.diff(step) > 0
    return scan.take(chosen[ring])


def rings(points: Points, beams: int) -> npt.NDArray[np.int64]:
    """Estimated ring int64 `[N]` of each point, 0 the lowest: its pitch in `beams` equal steps.

    points: float32 `[N, 4]` in the sensor's frame

    The steps span the pitches of nearly all points. A ring of a sensor with uneven beams may fall into two steps, or
    two rings into one; how many there are, and how far apart, is right in the mean.
    """
    if not len(points):
        return np.empty(0, np.int64)
    pitch = pitches(points)
    low, high = np.percentile(pitch, _SPAN_PERCENTILES)
    step = max(float(high - low), 1e-6) / beams
    ring: npt.NDArray[np.int64] = np.clip((pitch - low) / step, 0, beams - 1).astype(np.int64)
    return ring


def pitches(points: Points) -> npt.NDArray[np.float32]:
    """Angle of each point above the sensor's horizon, float32 `[N]`, radians."""
    pitch: npt.NDArray[np.float32] = np.arctan2(points[:, 2], np.hypot(points[:, 0], points[:, 1]))
    return pitch


def point_drop(scan: LabelledScan, rng: np.random.Generator, *, share: Interval = (0.0, 0.2)) -> LabelledScan:
    """Lose each point with one probability drawn from `share`."""
    low, high = pair("share", share, 0, 1)
    return scan.take(rng.random(len(scan), np.float32) >= rng.uniform(low, high))


def range_crop(scan: LabelledScan, rng: np.random.Generator, *, metres: Interval = (30.0, 80.0)) -> LabelledScan:
    """Lose what is farther from the sensor than a distance drawn from `metres`."""
    reach = draw(rng, "metres", metres, least=0)
    return scan.take(np.linalg.norm(scan.points[:, :3], axis=1) <= np.float32(reach))


def intensity_scale(scan: LabelledScan, rng: np.random.Generator, *, factor: Interval = (0.5, 1.5)) -> LabelledScan:
    """Multiply intensities by one factor, cut to 0..1: another sensor's scale."""
    return _with_intensity(scan, scan.points[:, 3] * np.float32(draw(rng, "factor", factor, least=0)))


def intensity_gamma(scan: LabelledScan, rng: np.random.Generator, *, gamma: Interval = (0.5, 2.0)) -> LabelledScan:
    """Raise intensities, cut to 0..1, to one power, whose logarithm is drawn evenly: another sensor's curve."""
    low, high = pair("gamma", gamma, 1e-3)
    power = np.float32(np.exp(rng.uniform(np.log(low), np.log(high))))
    return _with_intensity(scan, np.clip(scan.points[:, 3], 0, 1) ** power)


def intensity_noise(scan: LabelledScan, rng: np.random.Generator, *, sigma: float = 0.02) -> LabelledScan:
    """Add normal noise to each intensity, cut to 0..1."""
    noise = rng.standard_normal(len(scan), np.float32) * np.float32(number("sigma", sigma))
    return _with_intensity(scan, scan.points[:, 3] + noise)


def intensity_drop(scan: LabelledScan, rng: np.random.Generator) -> LabelledScan:  # noqa: ARG001
    """No intensities at all: zeros, which is what the network gets from a sensor that measures none."""
    return _with_intensity(scan, np.zeros(len(scan), np.float32))


def _with_intensity(scan: LabelledScan, intensity: npt.NDArray[np.float32]) -> LabelledScan:
    points = scan.points.copy()
    points[:, 3] = np.clip(intensity, 0, 1)
    return scan.with_points(points)
