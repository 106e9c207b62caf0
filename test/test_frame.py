"""The data that travels, as it shows itself."""

from __future__ import annotations

import numpy as np
import pytest

from spvnas_ros.frame import Boxes, Segmentation, Unusable


def test_a_result_is_shown_on_one_line() -> None:
    labels = np.array([0, 3, 3, 255], np.uint8)
    confidence = np.zeros(4, np.float32)
    assert repr(Segmentation(labels, confidence)) == "Segmentation(4 points, 75.0% labelled, classes [0, 3], no scores)"
    scores = np.zeros((4, 19), np.float32)
    assert repr(Segmentation(labels, confidence, scores)).endswith("scores (4, 19))")
    assert repr(Segmentation(labels, confidence, boxes=Boxes.none())).endswith("no scores, 0 boxes)")
    assert repr(Segmentation(labels[:0], confidence[:0])) == "Segmentation(0 points, classes [], no scores)"


def test_a_larger_cloud_has_the_same_boxes() -> None:
    boxes = Boxes(np.ones((1, 7), np.float32), np.ones(1, np.float32), np.ones(1, np.uint8))
    small = Segmentation(np.array([3], np.uint8), np.ones(1, np.float32), boxes=boxes)
    large = small.among(np.array([False, True]), Unusable(at_origin=1))
    assert (large.labels.tolist(), large.boxes, small.boxes) == ([255, 3], boxes, boxes)
    assert Segmentation(small.labels, small.confidence).among(np.array([True]), Unusable()).boxes is None


def test_boxes_are_as_many_as_their_scores_and_classes() -> None:
    boxes, scores, classes = np.zeros((3, 7), np.float32), np.arange(3, dtype=np.float32), np.array([0, 2, 2], np.uint8)
    found = Boxes(boxes, scores, classes)
    assert repr(found) == "Boxes(3 objects, classes [0, 2])"
    assert found.among(scores > 0).scores.tolist() == found.among(np.array([1, 2])).scores.tolist() == [1, 2]
    assert repr(Boxes.none()) == "Boxes(0 objects, classes [])"
    for wrong in (
        (boxes.astype(float), scores, classes),
        (boxes, scores[:2], classes),
        (boxes[:, :6], scores, classes),
    ):
        with pytest.raises(ValueError, match="expected"):
            Boxes(*wrong)
