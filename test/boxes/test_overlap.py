"""Overlap and suppression, against areas of a polygon library and recorded upstream answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from spvnas_ros.boxes.overlap import BoxError, bev_overlap, nearest_upright, nms, overlap_3d

KINDS = ("random", "near", "touching", "identical", "inside", "flat", "aligned")
EACH = 100_000 // len(KINDS) + 1


def pairs(kind: str, count: int = EACH) -> tuple[np.ndarray, np.ndarray]:
    """Boxes two and two, float64 `[count, 7]` each."""
    rng = np.random.default_rng(sum(map(ord, kind)))
    a, b = (
        np.c_[rng.uniform(-3, 3, (count, 3)), np.exp(rng.uniform(-3, 2, (count, 3))), rng.uniform(-7, 7, count)]
        for _ in range(2)
    )
    a[:, :2] += rng.uniform(-80, 80, (count, 2))
    b[:, :2] += a[:, :2]
    if kind == "near":
        b = a + rng.normal(0, 1, a.shape) * 10.0 ** rng.uniform(-12, -1, (count, 1))
        b[:, 3:6] = np.abs(b[:, 3:6])
    elif kind == "touching":  # b's back on a's front, the yaw equal or turned by quarters
        b[:, 6] = a[:, 6] + rng.integers(0, 4, count) * np.pi / 2
        deep = np.where(np.isclose(np.abs(np.cos(b[:, 6] - a[:, 6])), 1), b[:, 3], b[:, 4])
        step, side = (a[:, 3] + deep) / 2, rng.uniform(-1, 1, count)
        b[:, 0] = a[:, 0] + np.cos(a[:, 6]) * step - np.sin(a[:, 6]) * side
        b[:, 1] = a[:, 1] + np.sin(a[:, 6]) * step + np.cos(a[:, 6]) * side
    elif kind == "identical":
        b = a.copy()
    elif kind == "inside":
        b[:, :2], b[:, 3:5] = a[:, :2], a[:, 3:5] / 10
    elif kind == "flat":
        for sides in (a, b):
            sides[rng.random(count) < 0.5, 3] = 0
            sides[rng.random(count) < 0.5, 4] = 0
        b[: count // 4] = a[: count // 4]
    elif kind == "aligned":  # whole numbers, quarter turns: edges and corners coincide
        a, b = (np.c_[rng.integers(-2, 3, (count, 3)), rng.integers(1, 5, (count, 4))].astype(float) for _ in range(2))
        a[:, 6] *= np.pi / 2
        b[:, 6] *= np.pi / 2
    return a, b


def polygons(boxes: np.ndarray, origin: np.ndarray) -> np.ndarray:
    along, across = np.array([1, -1, -1, 1]) * boxes[:, 3:4] / 2, np.array([1, 1, -1, -1]) * boxes[:, 4:5] / 2
    cos, sin = np.cos(boxes[:, 6:]), np.sin(boxes[:, 6:])
    x = boxes[:, :1] - origin[:, :1] + cos * along - sin * across
    y = boxes[:, 1:2] - origin[:, 1:2] + sin * along + cos * across
    return shapely.polygons(np.stack([x, y], -1))


def shared_areas(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Areas by the library, computed on a grid of 1e-10 m where it contradicts itself: of one of the coinciding pairs
    GEOS 3.14 says that 4 by 2 m share a point only.
    """
    shared = shapely.area(shapely.intersection(one, other))
    coarse = shapely.area(shapely.intersection(one, other, grid_size=1e-10))
    contradicted = np.abs(shared - coarse) > 1e-6
    assert contradicted.sum() <= 3
    return np.where(contradicted, coarse, shared)


def diagonal(overlap: Callable[..., np.ndarray], a: np.ndarray, b: np.ndarray, **options: bool) -> np.ndarray:
    """Of pairs, in blocks: what is off the diagonal is thrown away, yet a call for each would take longer."""
    size = 16
    parts = [np.diagonal(overlap(a[i : i + size], b[i : i + size], **options)) for i in range(0, len(a), size)]
    return np.concatenate(parts)


@pytest.mark.parametrize("kind", KINDS)
def test_overlap_is_that_of_a_polygon_library(kind: str) -> None:
    a, b = pairs(kind)
    one, other = polygons(a, a), polygons(b, a)
    shared = np.zeros(len(a))
    solid = (shapely.area(one) > 0) & (shapely.area(other) > 0)
    shared[solid] = shared_areas(one[solid], other[solid])
    areas = [box[:, 3] * box[:, 4] for box in (a, b)]
    union = areas[0] + areas[1] - shared
    expected = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    found = diagonal(bev_overlap, a, b)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)
    over_first = np.divide(shared, areas[0], out=np.zeros_like(shared), where=areas[0] > 0)
    np.testing.assert_allclose(diagonal(bev_overlap, a, b, over_first=True), over_first, rtol=0, atol=1e-9)
    low = np.maximum(a[:, 2] - a[:, 5] / 2, b[:, 2] - b[:, 5] / 2)
    high = np.minimum(a[:, 2] + a[:, 5] / 2, b[:, 2] + b[:, 5] / 2)
    shared = shared * np.maximum(high - low, 0)
    union = areas[0] * a[:, 5] + areas[1] * b[:, 5] - shared
    expected = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    np.testing.assert_allclose(diagonal(overlap_3d, a, b), expected, rtol=0, atol=1e-9)
    assert found.min() >= 0
    assert found.max() <= 1


def test_a_box_covers_itself_exactly() -> None:
    for boxes in (pairs("random", 10_000)[0], pairs("random", 10_000)[0].astype(np.float32)):
        assert (diagonal(bev_overlap, boxes, boxes.copy()) == 1).all()
        assert (diagonal(overlap_3d, boxes, boxes.copy()) == 1).all()
        assert (diagonal(overlap_3d, boxes, boxes.copy(), over_first=True) == 1).all()


def test_overlaps_are_those_recorded(shared: Path) -> None:
    with np.load(shared / "golden" / "detection" / "ops.npz") as recorded:
        a, b = recorded["iou/a"], recorded["iou/b"]
        np.testing.assert_allclose(bev_overlap(a, b), recorded["iou/exact_bev"], rtol=0, atol=1e-7)
        upright = bev_overlap(nearest_upright(a), nearest_upright(b))
        np.testing.assert_allclose(upright, recorded["iou/nearest_bev"], rtol=0, atol=1e-5)
        np.testing.assert_allclose(overlap_3d(a, b), recorded["iou/openpcdet_3d"], rtol=0, atol=3e-3)
        edges = diagonal(bev_overlap, recorded["iou_edge/a"], recorded["iou_edge/b"])
        np.testing.assert_allclose(edges, recorded["iou_edge/exact_openpcdet_numba"][:, 0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("threshold", ["0.01", "0.5"])
@pytest.mark.parametrize("case", ["nms", "nms_ties"])
def test_the_boxes_that_stay_are_those_recorded(shared: Path, case: str, threshold: str) -> None:
    with np.load(shared / "golden" / "detection" / "ops.npz") as recorded:
        kept = nms(recorded[f"{case}/boxes"], recorded[f"{case}/scores"], float(threshold))
        np.testing.assert_array_equal(kept, recorded[f"{case}/keep_stable_{threshold}"])


def test_of_equal_scores_the_first_stays_and_classes_do_not_see_each_other() -> None:
    boxes = np.tile(np.array([[0, 0, 0, 4, 2, 1.5, 0.3]]), (6, 1))
    scores = np.array([0.5, 0.9, 0.9, 0.5, 0.9, 0.5])
    assert nms(boxes, scores, 0.5).tolist() == [1]
    assert nms(boxes, scores, 0.5, classes=np.array([0, 0, 1, 1, 2, 3])).tolist() == [1, 2, 4, 5]
    assert nms(boxes, scores, 1.0).tolist() == [1, 2, 4, 0, 3, 5]
    assert nms(boxes[:0], scores[:0], 0.5).tolist() == []


def test_upright_suppression_turns_boxes_to_the_nearer_axis() -> None:
    boxes = np.array([[0, 0, 0, 4, 1, 1, 0], [0, 1.2, 0, 4, 1, 1, 0.7], [0, 0, 0, 1, 4, 1, 1.6]])
    assert nms(boxes, np.array([0.9, 0.8, 0.7]), 0.1).tolist() == [0]
    assert nms(boxes, np.array([0.9, 0.8, 0.7]), 0.1, rotated=False).tolist() == [0, 1]


BOXES = hnp.arrays(
    np.float64,
    st.tuples(st.integers(0, 12), st.just(7)),
    elements=st.floats(0, 8, width=32),
)


@given(BOXES, st.floats(0, 1))
def test_what_stays_overlaps_little_and_what_goes_overlaps_a_better_one(boxes: np.ndarray, threshold: float) -> None:
    scores = np.arange(len(boxes), dtype=float) // 2
    kept = nms(boxes, scores, threshold)
    overlap = bev_overlap(boxes, boxes)
    for position, index in enumerate(kept):
        assert (overlap[kept[:position], index] <= threshold + 1e-12).all()
    for gone in set(range(len(boxes))) - set(kept.tolist()):
        better = [index for index in kept if (-scores[index], index) < (-scores[gone], gone)]
        assert (overlap[better, gone] > threshold - 1e-12).any()


ANY = hnp.arrays(np.float64, (4, 7), elements=st.floats(-1e9, 1e9)).map(
    lambda a: np.c_[a[:, :3], np.abs(a[:, 3:6]), a[:, 6]]
)


@given(ANY, ANY)
def test_an_overlap_is_a_share_whatever_the_boxes(a: np.ndarray, b: np.ndarray) -> None:
    b[0] = a[0]
    for overlap in (bev_overlap, overlap_3d):
        for over_first in (False, True):
            found = overlap(a, b, over_first=over_first)
            assert (found >= 0).all()
            assert (found <= 1).all()
    # What is thinner than any object has an area that rounding may take away.
    if min(a[0, 3:5]) > 1e-3:
        assert bev_overlap(a, b)[0, 0] == 1
    if min(a[0, 3:5]) == 0:
        assert bev_overlap(a, b)[0, 0] == 0


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        (0, np.nan, "box 2 of a has the x nan"),
        (4, -1.5, "width -1.5, expected a size"),
        (6, np.inf, "yaw inf"),
        (3, 2e9, "length 2e.09, exp.* 1e.09 at most"),
    ],
)
def test_what_is_no_box_is_told(column: int, value: float, said: str) -> None:
    boxes = np.ones((4, 7))
    boxes[2, column] = value
    with pytest.raises(BoxError, match=said):
        bev_overlap(boxes, boxes)
    with pytest.raises(BoxError, match="box 2 of boxes"):
        nms(boxes, np.ones(4), 0.5)


def test_what_does_not_fit_together_is_told() -> None:
    with pytest.raises(BoxError, match=r"shape \(4, 6\)"):
        overlap_3d(np.ones((4, 6)), np.ones((4, 7)))
    with pytest.raises(BoxError, match="4 boxes have scores"):
        nms(np.ones((4, 7)), np.ones(3), 0.5)
    with pytest.raises(BoxError, match="box 1 has the score nan"):
        nms(np.ones((2, 7)), np.array([1, np.nan]), 0.5)
