"""What the labels of the points say of boxes."""

from __future__ import annotations

import numpy as np

from spvnas_ros.boxes.support import counterparts, support
from spvnas_ros.frame import Boxes
from spvnas_ros.labels import SEMANTIC_KITTI

CLASSES = SEMANTIC_KITTI.classes


def named(*indices: int) -> set[str]:
    return {CLASSES[index] for index in indices}


def test_a_class_of_boxes_has_the_classes_of_points_that_such_objects_have() -> None:
    assert named(*counterparts("Car", CLASSES)) == {"car"}
    assert named(*counterparts("Pedestrian", CLASSES)) == {"person"}
    assert named(*counterparts("Cyclist", CLASSES)) == {"bicyclist", "bicycle", "person"}
    assert named(*counterparts("motorcycle", CLASSES)) == {"motorcycle", "motorcyclist", "person"}
    assert named(*counterparts("construction_vehicle", CLASSES)) == {"other-vehicle"}
    assert counterparts("barrier", CLASSES) == ()


def test_the_share_is_of_the_labelled_points_in_the_box() -> None:
    car, road = CLASSES.index("car"), CLASSES.index("road")
    places = np.array([(0, 0, 0, 1)] * 10 + [(50, 0, 0, 1)] * 4 + [(np.nan, 0, 0, 1)], np.float32)
    labels = np.array([car] * 3 + [road] * 1 + [255] * 6 + [car] * 4 + [car], np.uint8)
    rows = [(0, 0, 0), (0, 0, 0), (0, 0, 0), (20, 0, 0), (20, 0, 0)]
    centres = np.array([(*row, 4, 2, 2, 0.3) for row in rows], np.float32)
    kinds = np.array([0, 1, 2, 0, 2], np.uint8)
    said = support(places, labels, Boxes(centres, np.ones(5, np.float32), kinds), ("car", "person", "cone"), CLASSES)
    np.testing.assert_allclose(said.share, [0.75, 0, np.nan, 0, np.nan])
    assert said.labels.tolist() == [car, car, car, 255, 255]
    np.testing.assert_allclose(said.label_share, [0.75, 0.75, 0.75, 0, 0])
    assert said.below(0.5).tolist() == [False, True, False, True, False]
