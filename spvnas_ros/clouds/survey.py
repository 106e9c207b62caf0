"""What a file's coordinates are counted from: a sensor, a survey's datum around one scan, or a map's.

A scan is dense around its sensor, however far it reaches; a map of many scans is as dense everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from spvnas_ros.clouds.mount import FAR, SENSOR_HEIGHT, Positions, Vector3, find_sensor, is_far
from spvnas_ros.clouds.sensor_rules import Record, Sensor, finite_positions

_WIDE, _WIDER = 40.0, 60.0
"""Metres, in the plane: half of a scan's points lie nearer to its sensor than this; the larger where there are points
around the origin, so that a sensor may stand there."""
_SOME: Final = 30_000
_FEWEST: Final = 100

SENSOR, SCAN, MAP = "sensor", "scan", "map"


@dataclass(frozen=True)
class Survey:
    """What coordinates are.

    kind:  SENSOR where the origin is the sensor, SCAN for one scan whose sensor is elsewhere, MAP for many
    place: the sensor's; of a map its densest part, at the height of a sensor above the ground there
    """

    kind: str
    place: Vector3 = (0.0, 0.0, 0.0)


def survey(positions: Positions, *, alone: bool = True, height: float = SENSOR_HEIGHT) -> Survey:
    """Finds out what positions `[N, 3]`, finite and not at the origin, are counted from.

    alone:  whether the file is all there is: one of many scans around a sensor may look far ahead
    height: of the network's training sensor above the ground, metres
    """
    if len(positions) < _FEWEST:
        return Survey(SENSOR)
    far = is_far(positions)
    if not far and not alone:
        return Survey(SENSOR)
    place = find_sensor(positions, height)
    assert place is not None
    some = positions[:: max(1, len(positions) // _SOME), :2]
    distances = np.hypot(*(some - np.array(place[:2])).T)
    if float(np.median(distances)) > (_WIDE if far else _WIDER):
        return Survey(MAP, place)
    return Survey(SCAN, place) if far else Survey(SENSOR)


def place_remark(clouds: Sequence[Record], sensor: Sensor) -> str:
    """Says that a sensor's place was found in clouds, structured `[N]`, unasked for; "" where it was not."""
    place = sensor.place
    if place.origin is not None or not place.by_itself:
        return ""
    for cloud in clouds:
        found = finite_positions(cloud)
        if is_far(found):
            where = ", ".join(f"{value:.1f}" for value in place.origin_of(found))
            several = ", but this looks like a map of many scans" if survey(found).kind == MAP else ""
            return (
                f"place: no point lies within {FAR:g} m of the origin, so the sensor's place is found in each cloud, "
                f"at {where} in the first such one{several}; --origin x,y,z sets it, --origin 0,0,0 leaves the "
                "coordinates as they are"
            )
    return ""
