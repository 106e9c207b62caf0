"""Compares sensor and scene with SemanticKITTI, which all public weights were trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from spvnas_ros.clouds.cleaning import measured
from spvnas_ros.clouds.intensity import reference
from spvnas_ros.clouds.mount import ground_height
from spvnas_ros.doctor import sensor_guess
from spvnas_ros.doctor.finding import BAD, OK, WARN, Finding, Findings
from spvnas_ros.doctor.observe import Clouds
from spvnas_ros.frame import Points

if TYPE_CHECKING:
    from spvnas_ros.zoo.checkpoint import Facts

BEAMS = 64
VIEW = (-24.5, 3.5)
"""Degrees: 99.8 % of the points of SemanticKITTI's scans lie between these elevations."""
GROUND = -1.7
"""Metres: height of the ground in the frame of SemanticKITTI's sensor."""
POINTS = 122_000

_GROUND_OFF = 0.6
_FEW_POINTS = 5_000
_ORIGIN_SHARE = 0.05
_MUCH_DARKER, _MUCH_BRIGHTER = 0.4, 2.0


def check_points(clouds: Clouds) -> Findings:
    """Checks how many of the points were measured."""
    total = sum(len(sample.points) for sample in clouds.samples)
    finite = sum(int(np.isfinite(sample.points[:, :3]).all(axis=1).sum()) for sample in clouds.samples)
    there = sum(int(measured(sample.points).sum()) for sample in clouds.samples)
    shape = f"{clouds.samples[0].rows} rows (organised)" if clouds.samples[0].rows > 1 else "not organised"
    found = f"{1 - finite / total:.1%} NaN, {(finite - there) / total:.1%} at the origin, {shape}"
    each = there / len(clouds.samples)
    if not there:
        yield Finding(BAD, "points", found, "nothing was measured; is the sensor covered, or its range limited?")
    elif each < _FEW_POINTS:
        advice = f"the networks know about {POINTS:,} points a cloud; expect little from {each:,.0f}"
        yield Finding(WARN, "points", found, advice)
    elif finite - there > _ORIGIN_SHARE * total:
        yield Finding(
            WARN, "points", found, "points at the origin get labels like any other; publish NaN, or drop them"
        )
    else:
        yield Finding(OK, "points", found)


def check_intensity(clouds: Clouds, facts: Facts | None) -> Findings:
    """Checks whether the scale of the intensity is the one that the networks were trained on."""
    if facts and facts.intensity == "none":
        yield Finding(OK, "intensity", "not used by these weights", "run the node with intensity: none")
        return
    raw = [sample.raw[np.isfinite(sample.raw)] for sample in clouds.samples if sample.raw is not None]
    if not raw or not sum(map(len, raw)):
        return  # check_fields reports this
    values = np.concatenate(raw)
    scaled = np.concatenate([sample.points[:, 3] for sample in clouds.samples])
    median = float(np.median(scaled))
    found = f"{values.min():g} to {values.max():g} published; median {median:.2f} by the rule {clouds.intensity!r}"
    against = reference(facts.training_intensity if facts else None)
    usual, expected = against.intensity.median, f"the median of {against.whose} is {against.intensity.median:.2f}"
    if values.min() == values.max():
        yield Finding(WARN, "intensity", f"always {values.min():g}", "the sensor or its driver does not measure it")
    elif values.min() < 0:
        yield Finding(BAD, "intensity", found, "it is negative; decibels? Publish reflectivity, or use intensity: none")
    elif scaled.max() > 1.0:
        divisor = "u8" if values.max() <= 255 else "u16" if values.max() <= 65535 else f"{values.max():g}"
        yield Finding(BAD, "intensity", found, f"the network expects 0..1; set intensity: {divisor} (or auto)")
    elif usual and not _MUCH_DARKER * usual <= median <= _MUCH_BRIGHTER * usual:
        better = f"{np.median(values) / usual:.3g}" if np.median(values) > 0 else "none"
        yield Finding(WARN, "intensity", found, f"{expected}; try intensity: {better}, and compare")
    elif _changes_scale(clouds, raw):
        fixed = "u8" if values.max() <= 255 else "u16"
        yield Finding(WARN, "intensity", found, f"the first clouds are too dark for auto; set intensity: {fixed}")
    else:
        yield Finding(OK, "intensity", f"{found}; {expected}")


def _changes_scale(clouds: Clouds, raw: list[npt.NDArray[np.float32]]) -> bool:
    """Returns whether `auto` changes the scale during the recording, so that earlier clouds are scaled differently."""
    if clouds.intensity != "auto":
        return False
    first, highest = float(raw[0].max(initial=0)), max(float(values.max(initial=0)) for values in raw)
    return (first <= 1 < highest) or (first <= 255 < highest)


def check_beams(clouds: Clouds) -> Findings:
    """Checks how many beams the sensor has."""
    sample = max(clouds.samples, key=lambda sample: len(sample.points))
    estimate = sensor_guess.beams(sample.points, sample.ring, sample.rows)
    if estimate is None:
        yield Finding(OK, "beams", "cannot be told", "the driver publishes no ring field; nothing here needs one")
        return
    count, how = estimate
    if count < BEAMS * 3 // 4:
        advice = (
            f"public weights, and the package's own, know {BEAMS}: small things far away get too few points; expect "
            "worse labels"
        )
        yield Finding(WARN, "beams", f"{count} {how}", advice)
    else:
        yield Finding(OK, "beams", f"{count} {how}")


def check_view(clouds: Clouds) -> Findings:
    """Checks how far up and down the sensor looks."""
    views = [view for sample in clouds.samples if (view := sensor_guess.vertical_view(sample.points))]
    if not views:
        return
    low, high = (float(np.median(side)) for side in zip(*views, strict=True))
    found = f"{low:+.1f} to {high:+.1f} degrees, upright"
    if low < VIEW[0] - 8 or high > VIEW[1] + 8:
        advice = f"public weights saw nothing outside {VIEW[0]:+g} to {VIEW[1]:+g}; crop if labels there are bad"
        yield Finding(WARN, "view", found, advice)
    else:
        yield Finding(OK, "view", found)


def check_ground(clouds: Clouds) -> Findings:
    """Checks how high the sensor is above the ground."""
    heights = [height for sample in clouds.samples if (height := ground_height(sample.points)) is not None]
    if not heights:
        return
    height = float(np.median(heights))
    found = f"at z = {height:.2f} m"
    if abs(height - GROUND) <= _GROUND_OFF:
        yield Finding(OK, "ground", found)
    elif height > -0.2:
        advice = (
            f"none below the sensor, public weights know it at {GROUND} m; is z up, and is the cloud in the sensor's "
            "frame, not the vehicle's?"
        )
        yield Finding(WARN, "ground", f"the level with most points lies {found}", advice)
    else:
        advice = f"public weights know it at {GROUND} m and see the height; expect worse, or shift the cloud"
        yield Finding(WARN, "ground", found, advice)


def check_reach(clouds: Clouds, facts: Facts | None) -> Findings:
    """Checks how far the sensor sees, and whether the coordinates are metres."""
    if not any(measured(sample.points).any() for sample in clouds.samples):
        return  # check_points reports this
    usual, farthest = (
        float(np.nanmedian([sensor_guess.reach(sample.points, percent) for sample in clouds.samples]))
        for percent in (95, 99.9)
    )
    found = f"95% within {usual:.1f} m, farthest about {farthest:.1f} m"
    limits = facts.point_range if facts else None
    outside = float(np.mean([_outside(sample.points, limits) for sample in clouds.samples])) if limits else 0.0
    if usual > 1000:
        yield Finding(BAD, "range", found, "the node needs metres; does the driver publish millimetres?")
    elif usual < 3:
        yield Finding(WARN, "range", found, "streets are larger; are these metres, and is the sensor outdoors?")
    elif outside > 0.1:
        advice = f"{outside:.0%} of the points lie outside the weights' range and get no label"
        yield Finding(WARN, "range", found, advice)
    else:
        yield Finding(OK, "range", found)


def _outside(points: Points, limits: tuple[float, ...] | None) -> float:
    seen = points[measured(points), :3]
    if limits is None or not len(seen):
        return 0.0
    low, high = np.array(limits, np.float32).reshape(2, 3)
    return 1 - float(((seen >= low) & (seen <= high)).all(axis=1).mean())
