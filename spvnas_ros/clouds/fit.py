"""Whether a sensor's first clouds are such as a network knows: the checks that every command and the node make.

Silence means that they fit. Each concern is one line, with the option that mends it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from spvnas_ros.clouds.cleaning import Limits, clean
from spvnas_ros.clouds.intensity import IntensitySpread, Reference
from spvnas_ros.clouds.mount import (
    GROUND_SHARE,
    SENSOR_HEIGHT,
    Ground,
    Vector3,
    find_ground,
    find_sensor,
    typical_ground,
)
from spvnas_ros.clouds.sensor_rules import Record, Sensor, finite_positions, has_positions
from spvnas_ros.clouds.wording import TO_NODE, Wording
from spvnas_ros.frame import NONE_UNUSABLE, Points, Unusable

LOOKED_AT: Final = 5
"""Clouds that are enough."""

_MANY = 0.02
"""Share of points that is worth a word."""
_HEIGHT_OFF = 0.6
"""Metres."""
_TILTED_DEGREES = 4.5
_AWAY, _FAR_AWAY = 4.0, 9.5
"""Metres from the middle of the cloud to its origin: suspicious, and beyond what scenes do to it."""
_COARSE = 0.02
"""Metres: a rounding that a network sees."""
_ASKEW = 14.0
"""Metres from the middle of the cloud to an origin that looks like a sensor's place, ground around it and none seen
beneath: a house or a bank on one side does that much.
"""
_BENEATH = 1.5
"""Metres around the origin: no sensor on a vehicle sees the ground there."""
_BENEATH_POINTS = 10
_SMALL_SCENE = 12.0
"""Metres within which nearly all points of a room lie; streets are larger."""
_HUGE_SCENE = 1000.0
_FEW_POINTS = 100
_SOME = 4000
"""Points that tell whether many lie at one place."""


@dataclass(frozen=True)
class Known:
    """What a network knows of the clouds it was trained on.

    reference:      their intensities
    uses_intensity: False for a network trained on zeros
    sensor_height:  of their sensor above the ground, metres
    limits:         which points it can use
    """

    reference: Reference = field(default_factory=Reference)
    uses_intensity: bool = True
    sensor_height: float = SENSOR_HEIGHT
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True)
class Concern:
    """Something about the clouds that makes labels worse.

    about:  a word
    found:  what was found
    advice: what to do, with the names of options, or of the node's parameters
    """

    about: str
    found: str
    advice: str

    def __str__(self) -> str:
        return f"{self.about}: {self.found}; {self.advice}"


NOTHING_MEASURED: Final = Concern(
    "points", "none was measured: all are NaN, or at 0, 0, 0", "is the sensor covered, or its range limited?"
)


@dataclass(frozen=True)
class Look:
    """What one cloud shows.

    count:     number of points
    unusable:  those that the network will not see
    piled:     the place where most points lie that share one, and their number: a driver's "no return", moved
    sensor:    where the sensor seems to be, in the cloud's own frame, metres; None without points
    beneath:   whether there is ground right below the origin
    ground:    the plane of the ground around the sensor, as the network is given it; None where none is seen
    unmoved:   the same plane before the mount is applied
    reach:     metres from the sensor within which 95 % of the points lie; NaN without points
    rounding:  metres to which float32 coordinates of this size are rounded; 0 for other types
    intensity: a sample of the intensities, scaled but not clipped, of points that the network sees
    """

    count: int
    unusable: Unusable
    piled: tuple[Vector3, int]
    sensor: Vector3 | None
    beneath: bool
    ground: Ground | None
    unmoved: Ground | None
    reach: float
    rounding: float
    intensity: npt.NDArray[np.float32]


def look_at(cloud: Record, sensor: Sensor, limits: Limits, points: Points | None = None) -> Look:
    """Looks at a cloud, structured `[N]`, and at what the network is given of it.

    points: that, where it is at hand; None for what the sensor's rules make of the cloud

    It takes about 0.1 s for 120 000 points. Raises PointCloudError where the cloud cannot be read.
    """
    found = finite_positions(cloud)
    points = sensor.points(cloud) if points is None else points
    cleaned = clean(points, limits)
    seen = points[np.isfinite(points[:, :3]).all(axis=1) & (points[:, :3] != 0).any(axis=1)]
    centre = find_sensor(seen[:, :3].astype(np.float64))
    ground = unmoved = find_ground(seen[:, :3])
    if sensor.place.moves:
        unmoved = find_ground(found - np.array(sensor.place.origin_of(found)))
    middle = np.array(centre) if centre else np.zeros(3)
    reach = float(np.percentile(np.linalg.norm(seen[:, :3] - middle, axis=1), 95)) if len(seen) else float("nan")
    # Before it is clipped: what is too bright tells that the scale is another one.
    lit = points[:, 3] if cleaned.kept is None else points[cleaned.kept, 3]
    intensity = lit[:: max(1, len(lit) // 2000)].copy()
    below = _beneath(seen, ground)
    return Look(
        len(points), cleaned.unusable, _pile(found), centre, below, ground, unmoved, reach, _rounding(cloud), intensity
    )


def look_at_all(clouds: Sequence[Record], sensor: Sensor, limits: Limits) -> list[Look]:
    """Looks at up to `LOOKED_AT` of the clouds, evenly spread. Clouds without x, y and z are passed over."""
    step = max(1, -(-len(clouds) // LOOKED_AT))
    looks = []
    for cloud in clouds[::step]:
        if has_positions(cloud):
            looks.append(look_at(cloud, sensor, limits))
    return looks


def concerns(looks: Sequence[Look], sensor: Sensor, known: Known, to: Wording = TO_NODE) -> list[Concern]:
    """Returns what does not fit, the most telling first; [] where the clouds are such as the network knows.

    to: whom the advice is for
    """
    looks = [look for look in looks if look.count >= _FEW_POINTS]
    blind = [look for look in looks if not look.sensor]
    if looks and len(blind) == len(looks):
        return [NOTHING_MEASURED]
    looks = [look for look in looks if look.sensor]
    if not looks:
        return []
    return [*_of_place(looks, sensor, known, to), *_of_points(looks, to), *_of_intensity(looks, sensor, known, to)]


def _of_place(looks: Sequence[Look], sensor: Sensor, known: Known, to: Wording) -> Iterator[Concern]:
    reach = float(np.nanmedian([look.reach for look in looks]))
    away = _away(looks)
    if (rounding := max(look.rounding for look in looks)) > _COARSE:
        yield Concern(
            "place",
            f"coordinates are float32 and so large that they are rounded to {rounding:.2g} m",
            "shapes are lost already; record them as float64, or relative to a place near by",
        )
    ground = typical_ground([look.ground for look in looks if look.ground and look.ground.share > GROUND_SHARE])
    if reach > _HUGE_SCENE:
        yield Concern(
            "range", f"95 % of the points lie within {reach:,.0f} m", "the network needs metres; are these millimetres?"
        )
    elif away:
        where = "where it was said to be" if sensor.place.origin else "at the origin"
        yield Concern(
            "place",
            f"the sensor seems to be at {away[0]:.1f}, {away[1]:.1f}, {away[2]:.1f}, not {where}",
            to.place,
        )
    elif reach < _SMALL_SCENE:
        yield Concern(
            "range",
            f"95 % of the points lie within {reach:.1f} m",
            "the network knows streets, not rooms or yards: expect wrong labels",
        )
    elif ground and (ground.tilt > _TILTED_DEGREES or abs(ground.height - known.sensor_height) > _HEIGHT_OFF):
        tilted = f", tilted by {ground.tilt:.1f} degrees" if ground.tilt > _TILTED_DEGREES else ""
        unmoved = typical_ground([look.unmoved for look in looks if look.unmoved]) or ground
        yield Concern(
            "ground",
            f"it lies {ground.height:.2f} m below the origin{tilted}; the network knows it "
            f"{known.sensor_height:.2f} m below",
            to.mount(unmoved.mount(known.sensor_height)) or to.no_mount,
        )


def _away(looks: Sequence[Look]) -> Vector3 | None:
    """Returns where the sensor is, where that is not the origin."""
    places = [look.sensor for look in looks if look.sensor]
    if not places:
        return None
    distances = [float(np.hypot(x, y)) for x, y, _ in places]
    distance = float(np.median(distances))
    beneath = np.mean([look.beneath for look in looks]) > 0.5
    height = abs(float(np.median([z for _, _, z in places])))
    like_a_sensor = not beneath and np.mean([look.ground is not None for look in looks]) > 0.5
    if height > _FAR_AWAY or distance > (_ASKEW if like_a_sensor else _FAR_AWAY) or (distance > _AWAY and beneath):
        return places[int(np.argsort(distances)[len(distances) // 2])]
    return None


def _of_points(looks: Sequence[Look], to: Wording) -> Iterator[Concern]:
    total = sum(look.count for look in looks)
    unusable = sum((look.unusable for look in looks), NONE_UNUSABLE)
    if unusable.no_intensity > _MANY * total:
        yield Concern(
            "intensity",
            f"{unusable.no_intensity / total:.0%} of the points have none (NaN) and get no label",
            f"{to.scale('none')}, or choose another field with {to.field}",
        )
    place, count = max((look.piled for look in looks), key=lambda pile: pile[1])
    if count > _MANY * total / len(looks):
        where = ", ".join(f"{value:g}" for value in place)
        yield Concern(
            "points",
            f"{count:,} points of a cloud lie at {where}",
            "the driver puts them there where nothing came back, and they get labels; publish NaN or 0, 0, 0",
        )


def _of_intensity(looks: Sequence[Look], sensor: Sensor, known: Known, to: Wording) -> Iterator[Concern]:
    if sensor.intensity.rule == "none" or not known.uses_intensity:
        return
    values = np.concatenate([look.intensity for look in looks])
    if sensor.intensity.field is None and sensor.intensity.known:
        return  # its points have none, which is told already
    if sensor.intensity.field is None:
        fields = ", ".join(sensor.intensity.fields) or "none"
        yield Concern(
            "intensity",
            f"no field is known to hold it (fields: {fields})",
            f"the network sees zeros and knows less; name the field with {to.field}",
        )
    elif len(values):
        median, p95, largest = np.percentile(values, (50, 95, 100))
        spread = IntensitySpread(float(median), float(p95), float(largest))
        scale = sensor.intensity.scale
        if complaint := spread.complaint(known.reference, scale.divisor if scale else 1.0, to):
            yield Concern("intensity", *complaint)


def _pile(positions: npt.NDArray[np.float64]) -> tuple[Vector3, int]:
    """Returns the place that most of some points share, and how many of all are there; 0 where none share one."""
    # An odd step: beams and returns alternate by powers of two.
    counts = Counter(map(tuple, positions[:: len(positions) // _SOME | 1].tolist()))
    if not counts:
        return (0.0, 0.0, 0.0), 0
    (x, y, z), count = counts.most_common(1)[0]
    return (x, y, z), int((positions == np.array((x, y, z))).all(axis=1).sum()) if count > 1 else 0


def _rounding(cloud: Record) -> float:
    """Returns the distance of neighbouring float32 numbers at the cloud's coordinates."""
    steps = [0.0]
    for name in "xyz":
        if cloud.dtype[name].kind == "f" and cloud.dtype[name].itemsize == 4 and len(cloud):
            some = np.abs(cloud[name][:: len(cloud) // _SOME | 1])
            some = some[np.isfinite(some)]
            if len(some):
                steps.append(float(np.spacing(np.float32(np.median(some)))))
    return max(steps)


def _beneath(points: Points, ground: Ground | None) -> bool:
    if ground is None:
        return False
    below = (np.hypot(points[:, 0], points[:, 1]) < _BENEATH) & (np.abs(points[:, 2] + ground.height) < 0.25)
    return int(below.sum()) >= _BENEATH_POINTS
