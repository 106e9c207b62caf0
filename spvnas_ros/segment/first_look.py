"""The first look at a recording: what is decided by its first clouds, and what about them a network does not know."""

from __future__ import annotations

import sys

from spvnas_ros.clouds.fit import Concern, concerns, look_at_all
from spvnas_ros.perception import known_of
from spvnas_ros.recordings.scans import Source
from spvnas_ros.zoo.checkpoint import Facts


def first_look(source: Source, facts: Facts) -> list[Concern]:
    """Settles what the source's rules leave open, and returns what does not fit a network.

    Raises IntensityError and UserError as `Source.look` does.
    """
    known = known_of(facts)
    source.sensor.suit(facts.sensor_height)
    return concerns(look_at_all(source.look(), source.sensor, known.limits), source.sensor, known)


def tell(found: list[Concern], *, quiet: bool = False) -> None:
    """Prints each concern on a line of stderr."""
    for concern in found if not quiet else ():
        print(f"warning: {concern}", file=sys.stderr)
