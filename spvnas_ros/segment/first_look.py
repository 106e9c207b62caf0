"""The first look at a recording: what about its clouds a network does not know."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from spvnas_ros.clouds.fit import Concern, concerns, look_at_all
from spvnas_ros.clouds.sensor_rules import Record, Sensor, finite_positions
from spvnas_ros.clouds.survey import MAP, survey
from spvnas_ros.clouds.wording import TO_COMMAND
from spvnas_ros.perception import known_of
from spvnas_ros.recordings.scans import Source
from spvnas_ros.segment.tile_rule import TileRule
from spvnas_ros.zoo.checkpoint import Facts

_OF_ONE_SENSOR = ("place", "range", "ground")
"""What concerns speak of that a map has not."""


def first_look(clouds: Sequence[Record], sensor: Sensor, facts: Facts) -> list[Concern]:
    """Returns what about some clouds, structured `[N]`, does not fit a network. Raises PointCloudError."""
    known = known_of(facts)
    return concerns(look_at_all(clouds, sensor, known.limits), sensor, known, TO_COMMAND)


def look_at_source(source: Source, facts: Facts, tiles: TileRule) -> list[str]:
    """Returns what about a recording does not fit a network, and what was found out about it, a sentence each.

    Of a map that is cut into tiles that is said, and nothing of where its sensor is. Raises PointCloudError.
    """
    clouds = source.look()
    found = first_look(clouds, source.sensor, facts)
    by_itself = source.kind != "bag" and source.sensor.place.by_itself and tiles.cuts
    alone = len(source) == 1
    if not by_itself or not any(survey(finite_positions(cloud), alone=alone).kind == MAP for cloud in clouds):
        return [*source.remarks, *map(str, found)]
    about = (
        "map: the points are spread as those of many scans; they are labelled tile by tile, each with an origin in "
        f"its middle, {facts.sensor_height:g} m above the ground there; how good such labels are is not measured (of "
        "one scan, give the sensor's place with --origin)"
    )
    others = [str(concern) for concern in found if concern.about not in _OF_ONE_SENSOR]
    return [about, *(remark for remark in source.remarks if not remark.startswith("place: ")), *others]


def tell(found: Sequence[Concern | str], *, quiet: bool = False) -> None:
    """Prints each concern, and what else was found out about the recording, on a line of stderr."""
    for concern in found if not quiet else ():
        print(f"warning: {concern}", file=sys.stderr)
