"""The data that travels, as it shows itself."""

from __future__ import annotations

import numpy as np

from spvnas_ros.frame import Segmentation


def test_a_result_is_shown_on_one_line() -> None:
    labels = np.array([0, 3, 3, 255], np.uint8)
    confidence = np.zeros(4, np.float32)
    assert repr(Segmentation(labels, confidence)) == "Segmentation(4 points, 75.0% labelled, classes [0, 3], no scores)"
    scores = np.zeros((4, 19), np.float32)
    assert repr(Segmentation(labels, confidence, scores)).endswith("scores (4, 19))")
    assert repr(Segmentation(labels[:0], confidence[:0])) == "Segmentation(0 points, classes [], no scores)"
