"""What a file's coordinates are counted from: a sensor, a survey's datum around one scan, or a map's.

A scan is dense around its sensor, however far it reaches; a map of many scans is as dense everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from spvnas_ros.clouds.mount import SENSOR_HEIGHT, Positions, Vector3, find_sensor

FAR: Final = 100.0
"""Metres, in the plane: where all points are farther from the origin, no sensor stands there."""
_WIDE: Final = 40.0
"""Metres, in the plane: half of a scan's points lie nearer to its sensor than this."""
_SOME: Final = 30_000
_FEWEST: Final = 100

SENSOR, SCAN, MAP = "sensor", "scan", "map"


@dataclass(frozen=True)
class Survey:
    """What coordinates are.

    kind:  SENSOR where the origin is the sensor, SCAN for one scan whose sensor is elsewhere, MAP for many
    place: the sensor's; of a map its middle, at the median height
    """

    kind: str
    place: Vector3 = (0.0, 0.0, 0.0)


def is_far(positions: Positions) -> bool:
    """Returns whether no point, of positions `[N, 3]` that are finite, lies within `FAR` of the origin."""
    if not len(positions):
        return False
    some = positions[:: max(1, len(positions) // _SOME)]
    # The sample speaks for most clouds; single zeros that stand for "no return" were left out before.
    return bool(np.hypot(some[:, 0], some[:, 1]).min() > FAR and np.hypot(positions[:, 0], positions[:, 1]).min() > FAR)


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
    if float(np.median(distances)) > _WIDE:
        middle = np.median(positions[:: max(1, len(positions) // _SOME)], axis=0)
        return Survey(MAP, (float(middle[0]), float(middle[1]), float(middle[2])))
    return Survey(SCAN, place) if far else Survey(SENSOR)
