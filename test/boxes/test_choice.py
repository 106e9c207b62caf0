"""Which boxes a user gets: by score, class, distance, overlap and number."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spvnas_ros.boxes.choice import BoxChoice, LeastScore, LeastScores
from spvnas_ros.boxes.overlap import bev_overlap
from spvnas_ros.errors import UserError
from spvnas_ros.frame import Boxes

NAMES = ("car", "person")


def boxes(*rows: tuple[float, float, float, int]) -> Boxes:
    """Of x, y, score and class; two metres square."""
    full = [(x, y, 0, 2, 2, 2, 0) for x, y, _, _ in rows]
    scores, classes = ([row[column] for row in rows] for column in (2, 3))
    return Boxes(np.array(full, np.float32).reshape(-1, 7), np.array(scores, np.float32), np.array(classes, np.uint8))


def test_scores_are_read_as_one_number_by_class_and_by_distance() -> None:
    assert LeastScores.parse("") == LeastScores()
    assert LeastScores.parse(0.3) == LeastScores.parse("0.3") == LeastScores(0.3)
    read = LeastScores.parse(" 0.2, person@30=0.5,car=0.3 ,person=0.4")
    entries = (LeastScore("car", 0, 0.3), LeastScore("person", 0, 0.4), LeastScore("person", 30, 0.5))
    assert read == LeastScores(0.2, entries)
    assert (read.names, read.lowest, LeastScores().lowest) == (("car", "person"), 0.2, 0.0)
    near_and_far = boxes((9, 0, 1, 0), (99, 0, 1, 0), (0, 29.9, 1, 1), (18, 24.1, 1, 1), (5, 5, 1, 2))
    np.testing.assert_allclose(read.of(near_and_far, (*NAMES, "bus")), [0.3, 0.3, 0.4, 0.5, 0.2])


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("much", "expected a score, or scores such as 0.2,car=0.3,person@30=0.4"),
        ("car=", "found '' in 'car='"),
        ("car=0.3,", "found ''"),
        (1.5, "a score must be from 0 to 1, found 1.5"),
        ("nan", "found 'nan'"),
        ("car=-0.1", "from 0 to 1, found -0.1"),
        ("=0.3", "found '=0.3'"),
        ("car@-5=0.3", "found 'car@-5=0.3'"),
        ("car@inf=0.3", "found 'car@inf=0.3'"),
        ("car@far=0.3", "found 'far'"),
        ("0.1,0.2", "one score for all classes, found 0.1 and 0.2"),
        ("car=0.1,car@0=0.2", "two scores are for car@0"),
    ],
)
def test_what_is_no_score_is_refused_with_an_example(text: str | float, complaint: str) -> None:
    with pytest.raises(UserError, match=re.escape(complaint)):
        LeastScores.parse(text)


found_boxes = st.lists(
    st.tuples(st.floats(-40, 40), st.floats(-40, 40), st.floats(0, 1), st.integers(0, 1)), max_size=20
).map(lambda rows: boxes(*rows))
choices = st.builds(
    BoxChoice,
    st.sampled_from(["", 0.5, "0.2,car=0.6,person@20=0.1"]).map(LeastScores.parse),
    st.sampled_from([None, ("car",), NAMES]),
    st.sampled_from([0.0, 0.3, 1.0]),
    st.integers(0, 5),
)


@given(found_boxes, choices, st.randoms())
def test_what_comes_out_is_what_was_asked_for(found: Boxes, choice: BoxChoice, rng: object) -> None:
    where = np.array([rng.random() < 0.8 for _ in range(len(found))], np.bool_)  # type: ignore[attr-defined]
    chosen = choice(found, NAMES, where)
    assert (np.diff(chosen.scores) <= 0).all()
    assert (chosen.scores >= choice.min_scores.of(chosen, NAMES)).all()
    assert choice.max_count == 0 or len(chosen) <= choice.max_count
    assert choice.classes is None or {NAMES[index] for index in chosen.classes} <= set(choice.classes)
    shared = bev_overlap(chosen.boxes, chosen.boxes)
    assert (shared[~np.eye(len(chosen), dtype=bool)] <= choice.max_overlap + 1e-9).all()
    rows = {row.tobytes() for row in found.boxes[where]}
    assert all(row.tobytes() in rows for row in chosen.boxes)
    again = choice(chosen, NAMES)
    np.testing.assert_array_equal(again.boxes, chosen.boxes)
    if choice == BoxChoice():
        assert len(chosen) == where.sum()


def test_no_class_at_all_is_refused() -> None:
    with pytest.raises(UserError, match="expected names of classes, or all, found none"):
        BoxChoice(classes=())
