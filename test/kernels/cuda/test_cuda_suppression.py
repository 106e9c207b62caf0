"""On the device the same boxes displace each other as by `boxes.overlap`, whatever the boxes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from on_device import DEVICE  # isort: skip  # first: it decides how triton runs
from spvnas_ros.boxes.overlap import nms
from spvnas_ros.kernels.cuda.suppression import Suppression

LENGTHS = st.sampled_from([0.0, 0.5, 1.0, 2.0, 4.2])
PLACES = st.one_of(st.integers(-4, 4).map(float), st.floats(-4, 4, width=32))
ANGLES = st.one_of(st.sampled_from([0.0, np.pi / 2, np.pi, -np.pi]), st.floats(-7, 7, width=32))
BOX = st.tuples(PLACES, PLACES, st.just(0.0), LENGTHS, LENGTHS, st.just(1.0), ANGLES)


def kept(
    boxes: np.ndarray, classes: np.ndarray, overlap: float, per_class: bool, most: int = 1000, valid: object = True
) -> list[int]:
    """The boxes that stay on the device; they are the best first."""
    suppression = Suppression(len(boxes), min(most, len(boxes)), overlap, per_class, DEVICE)
    count = torch.zeros(4, dtype=torch.int32, device=DEVICE)[:1]
    seen = torch.tensor([len(boxes)], dtype=torch.int32, device=DEVICE)
    there = torch.from_numpy(np.broadcast_to(valid, len(boxes)).copy()).to(DEVICE)
    suppression.run(torch.from_numpy(boxes).to(DEVICE), torch.from_numpy(classes).to(DEVICE), there, seen, count)
    return suppression.kept[: int(count)].tolist()


@settings(max_examples=15, deadline=None)
@given(
    st.lists(BOX, min_size=1, max_size=12), st.lists(st.integers(0, 2), min_size=12, max_size=12),
    st.sampled_from([0.0, 0.01, 0.3, 0.5, 1.0]), st.booleans(),
)  # fmt: skip
def test_the_boxes_that_stay_are_those_of_the_definition(
    rows: list[tuple[float, ...]], numbers: list[int], overlap: float, per_class: bool
) -> None:
    boxes, classes = np.asarray(rows, np.float32), np.asarray(numbers[: len(rows)], np.int64)
    scores = -np.arange(len(boxes), dtype=np.float64)
    # Where rounding decides, both answers are right: such an overlap is moved away from the limit.
    limit = overlap + 1e-9
    expected = nms(boxes, scores, limit, classes=classes if per_class else None)
    assert kept(boxes, classes, limit, per_class) == expected.tolist()


@pytest.mark.parametrize("per_class", [False, True])
def test_many_boxes_on_a_street(per_class: bool) -> None:
    """More boxes than a word has bits, of all sizes, crowded as around an object."""
    rng = np.random.default_rng(3)
    centres = rng.uniform(-60, 60, (20, 2))[rng.integers(0, 20, 200)]
    boxes = np.zeros((200, 7), np.float32)
    boxes[:, :2] = centres + rng.normal(0, 0.7, (200, 2))
    boxes[:, 3:6] = rng.uniform(0.4, 5, (200, 3))
    boxes[:, 6] = rng.uniform(-4, 4, 200)
    classes = rng.integers(0, 3, 200)
    valid = rng.random(200) < 0.9
    scores = -np.arange(200.0)
    expected = nms(boxes[valid], scores[valid], 0.1, classes=classes[valid] if per_class else None)
    found = kept(boxes, classes, 0.1, per_class, valid=valid)
    assert found == np.flatnonzero(valid)[expected].tolist()
    assert kept(boxes, classes, 0.1, per_class, most=20, valid=valid) == found[:20]


def test_boxes_that_coincide_or_touch() -> None:
    box = np.float32([[1, 2, 0, 4, 2, 1, 0.3]])
    same = np.concatenate([box, box + np.float32([[0, 0, 5, 0, 0, 1, np.pi]]), box])
    assert kept(same, np.zeros(3, np.int64), 0.99, False) == [0]
    assert kept(same, np.arange(3), 0.99, True) == [0, 1, 2]
    beside = np.float32([[0, 0, 0, 2, 2, 1, 0], [2, 0, 0, 2, 2, 1, 0], [0, 2, 0, 2, 2, 1, 0], [2, 2, 0, 2, 2, 1, 0]])
    assert kept(beside, np.zeros(4, np.int64), 0.0, False) == [0, 1, 2, 3]
    flat = np.float32([[0, 0, 0, 2, 2, 1, 0], [0, 0, 0, 2, 0, 1, 0], [0, 0, 0, 0, 0, 1, 1]])
    assert kept(flat, np.zeros(3, np.int64), 0.0, False) == [0, 1, 2]
