"""Checks whether the sensor shows objects as a network knows them that finds their boxes: reach, height, resolution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from spvnas_ros.clouds.cleaning import measured
from spvnas_ros.clouds.mount import GROUND_SHARE, typical_ground
from spvnas_ros.doctor import sensor_guess
from spvnas_ros.doctor.finding import OK, WARN, Finding, Findings
from spvnas_ros.doctor.observe import Clouds

if TYPE_CHECKING:
    from spvnas_ros.nets.box_spec import BoxHeadSpec

FEWEST_BEAMS: Final = 5
"""An object on which fewer beams end one above the other has hardly a shape."""
_OUTSIDE: Final = 0.05
"""Share of points beyond the boxes' range that is worth a warning."""
_SUNK: Final = 0.4
"""Metres between anchors and ground: more than voxels and slopes explain."""
_LOW: Final = 0.2
"""Metres: a sensor stands higher than that above a ground."""
_NEAR: Final = 20.0
"""Metres within which a network of boxes that is of use has to see an object."""


@dataclass(frozen=True)
class BoxKnowledge:
    """What a network that finds boxes knows.

    head:        its classes and their anchors
    point_range: x, y, z minimum, then maximum, metres: where it finds boxes
    """

    head: BoxHeadSpec
    point_range: tuple[float, ...]

    def in_words(self) -> str:
        """Returns where it finds boxes."""
        x, y, _, right, left, _ = self.point_range
        if -x == -y == right == left:
            return f"within {right:g} m along x and y"
        return f"at x {x:g} to {right:g} m, y {y:g} to {left:g} m"


def check_boxes(clouds: Clouds, boxes: BoxKnowledge) -> Findings:
    """Makes all checks."""
    yield from _reach(clouds, boxes)
    yield from _anchors(clouds, boxes)
    yield from _resolution(clouds, boxes)


def _reach(clouds: Clouds, boxes: BoxKnowledge) -> Findings:
    """Checks whether boxes are found where the sensor sees something."""
    low, high = np.array(boxes.point_range[:2]), np.array(boxes.point_range[3:5])
    places = [sample.points[measured(sample.points), :2] for sample in clouds.samples]
    shares = [float(((place < low) | (place > high)).any(axis=1).mean()) for place in places if len(place)]
    if not shares:
        return  # that nothing was measured is said elsewhere
    share = float(np.mean(shares))
    found = f"found {boxes.in_words()}; {share:.0%} of the points lie beyond, seen from above"
    if share > _OUTSIDE:
        yield Finding(WARN, "boxes", found, "no boxes are found there; train for such a range, or use another network")
    else:
        yield Finding(OK, "boxes", found)


def _anchors(clouds: Clouds, boxes: BoxKnowledge) -> Findings:
    """Checks whether anchors stand on the ground that the clouds show."""
    ground = typical_ground([sample.look.ground for sample in clouds.samples if sample.look.ground])
    if ground is None or ground.share <= GROUND_SHARE or ground.height < _LOW:
        yield Finding(OK, "anchors", "the clouds show no ground to compare them with")
        return
    # Some of KITTI's anchors float a metre above the ground, and their networks have learned it; the lowest never do.
    lowest = min(boxes.head.classes, key=lambda each: each.bottom)
    sunk = -ground.height - lowest.bottom
    found = f"{lowest.name} stands {-lowest.bottom:.2f} m below the origin, the ground lies {ground.height:.2f} m below"
    if abs(sunk) > _SUNK:
        how = "above" if sunk < 0 else "below"
        advice = (
            f"anchors stand {abs(sunk):.1f} m {how} the ground, so boxes will be missed or wrong; --mount auto (the "
            "node's parameters mount.*) moves the clouds to where the network knows them"
        )
        yield Finding(WARN, "anchors", found, advice)
    else:
        yield Finding(OK, "anchors", found)


def _resolution(clouds: Clouds, boxes: BoxKnowledge) -> Findings:
    """Says how far the beams are close enough to show an object of each class."""
    sample = max(clouds.samples, key=lambda sample: len(sample.points))
    estimate = sensor_guess.beams(sample.points, sample.ring, sample.rows)
    view = sensor_guess.vertical_view(sample.points)
    if estimate is None or view is None or estimate[0] < 2 or not view[1] > view[0]:
        return  # that beams cannot be told is said elsewhere
    between = np.radians((view[1] - view[0]) / (estimate[0] - 1))
    sees = {each.name: float(each.size[2] / (FEWEST_BEAMS * np.tan(between))) for each in boxes.head.classes}
    texts = ", ".join(f"{name} to {distance:.0f} m" for name, distance in sees.items())
    found = f"{FEWEST_BEAMS} beams or more meet {texts} (beams {np.degrees(between):.2f} degrees apart on average)"
    if short := [name for name, distance in sees.items() if distance < _NEAR]:
        advice = f"expect few boxes of {', '.join(short)} beyond; only a sensor with closer beams shows them"
        yield Finding(WARN, "objects", found, advice)
    else:
        yield Finding(OK, "objects", found)
