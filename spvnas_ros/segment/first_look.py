"""The first look at a recording: what about its clouds a network does not know."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from spvnas_ros.clouds.fit import Concern, concerns, look_at_all
from spvnas_ros.clouds.sensor_rules import Record, Sensor
from spvnas_ros.perception import known_of
from spvnas_ros.zoo.checkpoint import Facts


def first_look(clouds: Sequence[Record], sensor: Sensor, facts: Facts) -> list[Concern]:
    """Returns what about some clouds, structured `[N]`, does not fit a network. Raises PointCloudError."""
    known = known_of(facts)
    return concerns(look_at_all(clouds, sensor, known.limits), sensor, known)


def tell(found: Sequence[Concern | str], *, quiet: bool = False) -> None:
    """Prints each concern, and what else was found out about the recording, on a line of stderr."""
    for concern in found if not quiet else ():
        print(f"warning: {concern}", file=sys.stderr)
