"""The numbers of KITTI's evaluation. `OFFICIAL` are the benchmark's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Difficulty:
    """Which labelled objects count.

    min_height:     of the rectangle in the picture, pixels; an object counts when it is taller, a detection when, cut
                    to whole pixels, it is not less tall
    max_occlusion:  0 fully visible, 1 partly, 2 largely occluded
    max_truncation: share outside the picture
    """

    name: str
    min_height: float
    max_occlusion: int
    max_truncation: float


@dataclass(frozen=True)
class ClassRule:
    """A class that is evaluated.

    overlap:   intersection over union that a detection must exceed, in the picture, from above and in space
    neighbour: a class so much alike that finding it is neither right nor wrong; None if there is none
    """

    name: str
    overlap: float
    neighbour: str | None = None


@dataclass(frozen=True)
class KittiConfig:
    """Classes, difficulties, and at how many recalls, 0 to 1, the precision is taken."""

    classes: tuple[ClassRule, ...]
    difficulties: tuple[Difficulty, ...]
    positions: int = 41


OFFICIAL: Final = KittiConfig(
    classes=(
        ClassRule("car", 0.7, "van"),
        ClassRule("pedestrian", 0.5, "person_sitting"),
        ClassRule("cyclist", 0.5),
    ),
    difficulties=(
        Difficulty("easy", 40, 0, 0.15),
        Difficulty("moderate", 25, 1, 0.30),
        Difficulty("hard", 25, 2, 0.50),
    ),
)
