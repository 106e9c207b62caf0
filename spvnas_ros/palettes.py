"""The colours in which classes are shown, by the name of their palette.

SemanticKITTI's own colours are in the label maps and, with them, in every checkpoint of its classes. Some of them look
alike: person and traffic-sign are 2.9 apart (CIEDE2000), car and motorcycle are brightnesses of one blue. What shows
classes therefore asks here, and a network that has SemanticKITTI's default colours is shown in `spvnas`, whose colours
are at least 18 apart. A network with colours of its own keeps them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from spvnas_ros.errors import UserError
from spvnas_ros.labels import SEMANTIC_KITTI

Colour = tuple[int, int, int]
"""`(r, g, b)` 0..255."""

SPVNAS: Final = "spvnas"
PALETTES: Final = (SPVNAS, SEMANTIC_KITTI.name)
"""The names that can be chosen; the first one is the default."""

UNLABELLED_COLOUR: Final = (96, 104, 118)
"""A grey: points without a class belong to no palette."""

UNKNOWN_BOX: Final = (255, 255, 255)
"""Boxes of a class that has no colour: white is no class's."""

_BOXES: Final[Mapping[str, str]] = {
    "pedestrian": "person",
    "person_sitting": "person",
    "cyclist": "bicyclist",
    "rider": "bicyclist",
    "large-vehicle": "truck",
    "van": "other-vehicle",
    "bus": "other-vehicle",
    "tram": "other-vehicle",
    "trailer": "other-vehicle",
    "construction_vehicle": "other-vehicle",
}
"""The class of points whose colour a class of boxes has, where its name, in lower case, is another one."""

# Found by search: near the hues that people know from SemanticKITTI, as far apart as they get in CIEDE2000, and for the
# first eight, which move, also as people with deuteranopia or protanopia see them (Machado, Oliveira and Fernandes, "A
# Physiologically-based Model for Simulation of Color Vision Deficiency", 2009). The tests hold them to it.
_COLOURS: Final[Mapping[str, Colour]] = {
    "car": (98, 165, 255),
    "bicycle": (97, 233, 249),
    "motorcycle": (82, 49, 110),
    "truck": (2, 0, 239),
    "other-vehicle": (88, 104, 221),
    "person": (255, 117, 98),
    "bicyclist": (216, 85, 124),
    "motorcyclist": (162, 0, 70),
    "road": (255, 85, 225),
    "parking": (255, 172, 209),
    "sidewalk": (180, 17, 164),
    "other-ground": (114, 34, 18),
    "building": (255, 203, 3),
    "fence": (255, 131, 7),
    "vegetation": (61, 167, 63),
    "trunk": (144, 91, 44),
    "terrain": (165, 239, 117),
    "pole": (250, 240, 188),
    "traffic-sign": (218, 17, 26),
}
_DEFAULTS: Final = dict(zip(SEMANTIC_KITTI.classes, SEMANTIC_KITTI.palette, strict=True))


def shown(classes: Sequence[str], palette: Sequence[Colour], choice: str = SPVNAS) -> tuple[Colour, ...]:
    """Returns the colours in which classes are shown.

    classes, palette: names and colours as the weights or the label map have them, in one order
    choice:           one of `PALETTES`

    Colours that are not SemanticKITTI's default of their classes are somebody's choice and stay, all of them, whatever
    is chosen. Raises UserError for another choice.
    """
    check(choice)
    palette = tuple(palette)
    if choice == SPVNAS and all(_DEFAULTS.get(name) == colour for name, colour in zip(classes, palette, strict=True)):
        return tuple(_COLOURS[name] for name in classes)
    return palette


def colour_table(classes: Sequence[str], palette: Sequence[Colour], choice: str = SPVNAS) -> npt.NDArray[np.uint8]:
    """Returns the colour in which each label 0..255 is shown, uint8 `[256, 3]`; grey for what is no class.

    Raises UserError for another choice than `PALETTES`.
    """
    table = np.full((256, 3), UNLABELLED_COLOUR, np.uint8)
    table[: len(palette)] = shown(classes, palette, choice)
    return table


def box_colours(
    names: Sequence[str], classes: Sequence[str], palette: Sequence[Colour], choice: str = SPVNAS
) -> tuple[Colour, ...]:
    """Returns the colours in which boxes of some classes are shown: those of the points of the same objects.

    names:   of the classes of boxes, such as Car or Pedestrian
    classes, palette, choice: of the points, as in `shown`

    What the points have no class for has SemanticKITTI's, as `choice` shows it, and what is no class of it is white.
    Raises UserError for another choice.
    """
    known = dict(
        zip(SEMANTIC_KITTI.classes, shown(SEMANTIC_KITTI.classes, SEMANTIC_KITTI.palette, choice), strict=True)
    )
    known |= dict(zip(classes, shown(classes, palette, choice), strict=True))
    lower = {name.lower(): colour for name, colour in known.items()}
    return tuple(lower.get(_BOXES.get(name.lower(), name.lower()), UNKNOWN_BOX) for name in names)


def check(choice: str) -> None:
    """Raises UserError where `choice` is none of `PALETTES`."""
    if choice not in PALETTES:
        raise UserError(f"unknown palette {choice!r}, expected one of {', '.join(PALETTES)}")
