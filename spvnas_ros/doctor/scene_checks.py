"""Compares sensor and scene with SemanticKITTI, which all public weights were trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spvnas_ros.clouds.cleaning import measured
from spvnas_ros.clouds.fit import Known, concerns
from spvnas_ros.clouds.intensity import reference
from spvnas_ros.clouds.mount import GROUND_SHARE, typical_ground
from spvnas_ros.clouds.wording import TO_BOTH, TO_COMMAND
from spvnas_ros.doctor import sensor_guess
from spvnas_ros.doctor.finding import BAD, OK, WARN, Finding, Findings
from spvnas_ros.doctor.observe import Clouds
from spvnas_ros.frame import NONE_UNUSABLE, UNUSABLE_WORDS, Points

if TYPE_CHECKING:
    from spvnas_ros.zoo.checkpoint import Facts
    from spvnas_ros.zoo.detector_checkpoint import DetectorFacts

BEAMS = 64
VIEW = (-24.5, 3.5)
"""Degrees: 99.8 % of the points of SemanticKITTI's scans lie between these elevations."""
POINTS = 122_000

_FEW_POINTS = 5_000
_MANY = 0.02
"""Share of points that is worth a word."""
_LOW = 0.2
"""Metres: a sensor stands higher than that above a ground."""


def check_points(clouds: Clouds) -> Findings:
    """Checks how many of the points can be labelled."""
    total = sum(len(sample.points) for sample in clouds.samples)
    unusable = sum((sample.look.unusable for sample in clouds.samples), NONE_UNUSABLE)
    shape = f"{clouds.samples[0].rows} rows (organised)" if clouds.samples[0].rows > 1 else "not organised"
    shares = [f"{count / total:.1%} {UNUSABLE_WORDS[kind]}" for kind, count in unusable.counts().items() if count]
    found = f"{', '.join(shares)}, {shape}" if shares else f"all can be labelled, {shape}"
    each = (total - unusable.total) / len(clouds.samples)
    if not total - unusable.not_finite - unusable.at_origin:
        yield Finding(BAD, "points", found, "nothing was measured; is the sensor covered, or its range limited?")
    elif not each:
        yield Finding(BAD, "points", found, "no point can be labelled")
    elif unusable.too_far + unusable.no_intensity > _MANY * total:
        yield Finding(WARN, "points", found, "they get no label")
    elif each < _FEW_POINTS:
        advice = f"the networks know about {POINTS:,} points a cloud; expect little from {each:,.0f}"
        yield Finding(WARN, "points", found, advice)
    else:
        yield Finding(OK, "points", found)


def check_fit(clouds: Clouds, facts: Facts | DetectorFacts | None) -> Findings:
    """Makes the checks that every command makes: whether the clouds are such as the network knows."""
    known = Known()
    if facts is not None:
        from spvnas_ros.zoo.checkpoint import Facts

        if isinstance(facts, Facts):
            from spvnas_ros.perception import known_of

            known = known_of(facts)
        else:
            known = Known(reference(None), facts.intensity != "none", facts.sensor_height)
    to = TO_BOTH if clouds.topic else TO_COMMAND  # what is recorded or live is for the node, too
    for concern in concerns([sample.look for sample in clouds.samples], clouds.sensor, known, to):
        level = BAD if concern.about == "range" and "millimetres" in concern.advice else WARN
        yield Finding(level, concern.about, concern.found, concern.advice)


def check_intensity(clouds: Clouds, facts: Facts | DetectorFacts | None) -> Findings:
    """Says which intensities the network gets."""
    if facts and facts.intensity == "none":
        yield Finding(OK, "intensity", "not used by these weights", "run the node with intensity: none")
        return
    raw = [sample.raw[np.isfinite(sample.raw)] for sample in clouds.samples if sample.raw is not None]
    if not raw or not sum(map(len, raw)):
        return  # check_fit reports this
    values = np.concatenate(raw)
    seen = np.concatenate([sample.look.intensity for sample in clouds.samples])
    median = float(np.median(seen)) if len(seen) else 0.0
    against = reference(getattr(facts, "training_intensity", None))  # of detectors nobody recorded them
    found = f"{values.min():g} to {values.max():g} published, {clouds.sensor.intensity.describe()}; median {median:.2f}"
    yield Finding(OK, "intensity", f"{found}, that of {against.whose} {against.intensity.median:.2f}")


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
    """Says how the sensor stands above the ground."""
    ground = typical_ground([sample.look.unmoved for sample in clouds.samples if sample.look.unmoved])
    if ground is not None:
        found = f"{ground.height:.2f} m below the origin, tilted by {ground.tilt:.1f} degrees"
        found += f", seen in {ground.share:.0%} of the surroundings"
        if ground.height < _LOW or ground.share <= GROUND_SHARE:
            yield Finding(WARN, "ground", found, "that is hardly a ground; is z up, and is there a floor to see?")
        else:
            yield Finding(OK, "ground", found)


def check_reach(clouds: Clouds, facts: Facts | DetectorFacts | None) -> Findings:
    """Checks how far the sensor sees, and whether the coordinates are metres."""
    if not any(measured(sample.points).any() for sample in clouds.samples):
        return  # check_points reports this
    usual, farthest = (
        float(np.nanmedian([sensor_guess.reach(sample.points, percent) for sample in clouds.samples]))
        for percent in (95, 99.9)
    )
    found = f"95% within {usual:.1f} m, farthest about {farthest:.1f} m"
    limits = getattr(facts, "point_range", None)  # a detector's is that of its boxes
    outside = float(np.mean([_outside(sample.points, limits) for sample in clouds.samples])) if limits else 0.0
    if outside > 0.1:
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
