"""All classes can be told apart, by everyone; weights with colours of their own keep them."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from spvnas_ros.errors import UserError
from spvnas_ros.labels import MIT_HAN_LAB, SEMANTIC_KITTI
from spvnas_ros.palettes import PALETTES, UNKNOWN_BOX, UNLABELLED_COLOUR, box_colours, colour_table, shown
from spvnas_ros.segment.picture import BACKGROUND, PANEL

coloraide = pytest.importorskip("coloraide", reason="coloraide is not installed: pip install coloraide")

CLASSES = SEMANTIC_KITTI.classes
MOVABLE = CLASSES[: CLASSES.index("road")]
COLOURS = dict(zip(CLASSES, shown(CLASSES, SEMANTIC_KITTI.palette), strict=True))
APART = 12.0
"""CIEDE2000."""


def seen(colour: tuple[int, ...], deficiency: str | None = None, method: str = "machado") -> coloraide.Color:
    """A colour as somebody sees it."""
    found = coloraide.Color("srgb", [value / 255 for value in colour])
    return found.filter(deficiency, method=method).clip() if deficiency else found


def apart(one: coloraide.Color, other: coloraide.Color) -> float:
    distance: float = one.delta_e(other, method="2000")
    return distance


def test_the_measure_is_ciede2000() -> None:
    """Pairs 1, 7, 17 and 25 of Sharma, Wu and Dalal, "The CIEDE2000 Color-Difference Formula", 2005, table 1."""
    for one, other, expected in (
        ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
        ((50, 0, 0), (50, -1, 2), 2.3669),
        ((50, 2.5, 0), (73, 25, -18), 27.1492),
        ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
    ):
        found = apart(coloraide.Color("lab-d65", one), coloraide.Color("lab-d65", other))
        assert found == pytest.approx(expected, abs=1e-4)


def test_all_classes_can_be_told_apart_from_each_other_from_unlabelled_points_and_from_the_background() -> None:
    around = {"unlabelled": UNLABELLED_COLOUR, "background": BACKGROUND, "panel": PANEL}
    for (one, colour), (other, beside) in combinations((COLOURS | around).items(), 2):
        if one in COLOURS:
            assert apart(seen(colour), seen(beside)) > APART, (one, other)


@pytest.mark.parametrize(
    ("deficiency", "method"), [("deutan", "machado"), ("deutan", "brettel"), ("protan", "machado")]
)
def test_what_moves_can_be_told_apart_without_red_or_green(deficiency: str, method: str) -> None:
    for one, other in combinations(MOVABLE, 2):
        pair = (seen(COLOURS[name], deficiency, method) for name in (one, other))
        assert apart(*pair) > APART, (one, other)


def test_semantic_kittis_own_colours_can_be_chosen_and_do_not_do_that() -> None:
    own = shown(CLASSES, SEMANTIC_KITTI.palette, "semantic-kitti")
    assert own == SEMANTIC_KITTI.palette
    assert min(apart(seen(one), seen(other)) for one, other in combinations(own, 2)) < 3


def test_both_label_maps_and_a_part_of_the_classes_in_any_order_have_one_colour_a_class() -> None:
    assert shown(MIT_HAN_LAB.classes, MIT_HAN_LAB.palette) == tuple(COLOURS.values())
    some = ("road", "car")
    palette = tuple(SEMANTIC_KITTI.palette[CLASSES.index(name)] for name in some)
    assert shown(some, palette) == (COLOURS["road"], COLOURS["car"])


@pytest.mark.parametrize("choice", PALETTES)
def test_colours_of_somebodys_own_stay_all_of_them(choice: str) -> None:
    own = ((1, 2, 3), *SEMANTIC_KITTI.palette[1:])
    assert shown(CLASSES, own, choice) == own
    assert shown(("cat", "dog"), own[:2], choice) == own[:2]


def test_what_is_no_class_is_grey() -> None:
    table = colour_table(CLASSES, SEMANTIC_KITTI.palette)
    assert table.dtype == np.uint8
    assert [tuple(row) for row in table[:19].tolist()] == list(COLOURS.values())
    assert (table[19:] == UNLABELLED_COLOUR).all()


def test_another_palette_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(UserError, match="unknown palette 'kitti', expected one of spvnas, semantic-kitti"):
        shown(CLASSES, SEMANTIC_KITTI.palette, "kitti")


def test_boxes_have_the_colour_of_the_points_of_the_same_objects() -> None:
    own = SEMANTIC_KITTI.palette
    names = ("Car", "person", "Pedestrian", "Cyclist", "Van", "wheelbarrow")
    words = ("car", "person", "person", "bicyclist", "other-vehicle")
    assert box_colours(names, CLASSES, own) == (*(COLOURS[word] for word in words), UNKNOWN_BOX)
    theirs = tuple(own[CLASSES.index(word)] for word in words)
    assert box_colours(names, CLASSES, own, "semantic-kitti") == (*theirs, UNKNOWN_BOX)
    assert box_colours(names, ("Car", "Wheelbarrow"), ((1, 2, 3), (4, 5, 6)))[::5] == ((1, 2, 3), (4, 5, 6))
    assert box_colours(("Cyclist",), ("cat",), ((1, 2, 3),)) == (COLOURS["bicyclist"],)


def test_a_box_of_no_known_class_is_like_no_other_and_seen_before_the_background() -> None:
    for colour in (*COLOURS.values(), UNLABELLED_COLOUR, BACKGROUND, PANEL):
        assert apart(seen(UNKNOWN_BOX), seen(colour)) > APART
