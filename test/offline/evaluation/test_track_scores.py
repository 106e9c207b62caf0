"""MOTA, AMOTA and their counts: of cases with known answers, and beside another implementation."""

from __future__ import annotations

from collections.abc import Sequence

import motmetrics
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spvnas_ros.frame import Boxes
from spvnas_ros.offline.evaluation.track_scores import TrackCounts, TrackFrame, TrackScore, track_scores

NAMES = ("car", "person")
Row = tuple[float, ...]
"""Id, x, score, and y where it is not 0."""


def boxes(rows: Sequence[Row], kind: int = 0) -> tuple[Boxes, np.ndarray]:
    places = np.array([[x, sum(y), 0, 4, 2, 1.5, 0] for _, x, _, *y in rows], np.float32).reshape(-1, 7)
    scores = np.array([score for _, _, score, *_ in rows], np.float32)
    return Boxes(places, scores, np.full(len(rows), kind, np.uint8)), np.array([each for each, *_ in rows], np.int64)


def frame(truth: Sequence[Row], found: Sequence[Row], kind: int = 0) -> TrackFrame:
    return TrackFrame("frame", *boxes(truth, kind), *boxes(found, kind))


def score(*drives: Sequence[TrackFrame], limit: float = 2.0) -> TrackScore:
    return track_scores(drives, NAMES, (limit,))[0]


def counts(of: TrackCounts | None) -> tuple[int, ...]:
    assert of is not None
    return of.objects, of.found, of.switches, of.misses, of.false, of.fragments


TRUTH = [(1, 0.0, 1.0), (2, 10.0, 1.0)]


def test_a_perfect_tracker_has_full_marks_and_an_absent_one_none() -> None:
    found = score([frame(TRUTH, [(7, 0.1, 0.9), (8, 10.1, 0.4)])] * 10)
    assert counts(found.all) == (20, 20, 0, 0, 0, 0)
    assert (found.amota, found.all.mota, found.identities) == (1, 1, 2)  # type: ignore[union-attr]
    none = score([frame(TRUTH, [])] * 10)
    assert counts(none.best) == (20, 0, 0, 20, 0, 0)
    assert (none.amota, none.best.mota) == (0, 0)  # type: ignore[union-attr]


def test_of_a_class_without_objects_nothing_is_known() -> None:
    (cars, persons) = track_scores([[frame(TRUTH, [])]], NAMES, (2.0,))
    assert (persons.kind, persons.objects, persons.amota, persons.best, persons.all) == ("person", 0, None, None, None)
    assert cars.objects == 2


def test_one_switch() -> None:
    first, later = [(7, 0.0, 0.9), (8, 10.0, 0.9)], [(7, 0.0, 0.9), (9, 10.0, 0.9)]
    found = score([frame(TRUTH, first)] * 4 + [frame(TRUTH, later)] * 4)
    assert counts(found.all) == (16, 16, 1, 0, 0, 0)
    assert found.all.mota == 1 - 1 / 16  # type: ignore[union-attr]
    # All have the same score, so every recall leaves all of them.
    assert found.amota == pytest.approx(1 - 1 / 16)
    # Two that exchange their tracks are two switches, and exchanging them back two more.
    swapped = [(7, 10.0, 0.9), (8, 0.0, 0.9)]
    assert counts(score([frame(TRUTH, first), frame(TRUTH, swapped), frame(TRUTH, first)]).all)[2] == 4
    # Of two tracks nearby the one of before is kept, although the other is nearer.
    both = [(7, 0.5, 0.9), (5, 0.0, 0.9), (8, 10.0, 0.9)]
    assert counts(score([frame(TRUTH, first), frame(TRUTH, both)]).all) == (4, 4, 0, 0, 1, 0)


def test_one_missing_frame_is_a_miss_and_a_fragment_and_a_switch_where_the_track_is_another_after_it() -> None:
    whole, half = [(7, 0.0, 0.9), (8, 10.0, 0.9)], [(7, 0.0, 0.9)]
    found = score([frame(TRUTH, whole)] * 2 + [frame(TRUTH, half)] + [frame(TRUTH, whole)] * 2)
    assert counts(found.all) == (10, 9, 0, 1, 0, 1)
    assert found.all.mota == pytest.approx(0.9)  # type: ignore[union-attr]
    # 9 of 10 objects are found: 36 of 40 recalls are reached, without any error among what is found.
    assert found.amota == pytest.approx(36 / 40)
    other = [(7, 0.0, 0.9), (9, 10.0, 0.9)]
    found = score([frame(TRUTH, whole)] * 2 + [frame(TRUTH, half)] + [frame(TRUTH, other)] * 2)
    assert counts(found.all) == (10, 9, 1, 1, 0, 1)


def test_a_false_track_costs_from_its_score_on() -> None:
    found = score([frame(TRUTH, [(7, 0.0, 0.9), (8, 10.0, 0.5), (9, 99.0, 0.7)])] * 10)
    assert counts(found.all) == (20, 20, 0, 0, 10, 0)
    assert found.all.mota == 0.5  # type: ignore[union-attr]
    # Up to a recall of one half the surest track alone is right; beyond, ten of thirty boxes are false.
    assert found.amota == pytest.approx((20 * 1 + 20 * (1 - 10 / 20)) / 40)
    assert counts(found.best) == (20, 10, 0, 10, 0, 0)
    # With the score of a track being its boxes' mean: here 0.9 and 0.1 make one of 0.5.
    uneven = [frame(TRUTH[:1], [(7, 0.0, each), (9, 99.0, 0.6)]) for each in (0.9, 0.1)]
    assert counts(score(uneven).all) == counts(score(uneven).best) == (2, 2, 0, 0, 2, 0)


def test_the_limit_is_not_within_and_as_many_as_possible_are_paired() -> None:
    assert counts(score([frame([(1, 0.0, 1.0)], [(7, 2.0, 0.9)])]).all) == (1, 0, 0, 1, 1, 0)
    assert counts(score([frame([(1, 0.0, 1.0)], [(7, 1.99, 0.9)])]).all) == (1, 1, 0, 0, 0, 0)
    # The nearest pair (1 and 10) would leave 0 and 11.5 alone.
    crowded = frame([(1, 8.5, 1.0), (2, 10.0, 1.0)], [(7, 9.9, 0.9), (8, 11.5, 0.9)])
    assert counts(score([crowded]).all) == (2, 2, 0, 0, 0, 0)


def test_ids_mean_nothing_beyond_a_drive_or_a_class() -> None:
    one, other = [frame(TRUTH, [(7, 0.0, 0.9), (8, 10.0, 0.9)])], [frame(TRUTH, [(8, 0.0, 0.9), (7, 10.0, 0.9)])]
    found = score(one, other)
    assert counts(found.all) == (4, 4, 0, 0, 0, 0)
    assert found.identities == 4
    assert counts(score([*one, *other]).all)[2] == 2


def test_what_is_no_frame_is_refused() -> None:
    with pytest.raises(ValueError, match="2 boxes and the ids"):
        frame(TRUTH, [(7, 0.0, 0.9), (7, 10.0, 0.9)])
    with pytest.raises(ValueError, match="has the class 2"):
        track_scores([[frame(TRUTH, [], kind=2)]], NAMES)


@given(st.integers(0, 10_000))
@settings(max_examples=8, deadline=None)
def test_counts_are_those_of_another_implementation(seed: int) -> None:
    """motmetrics, which nuScenes' tool counts with."""
    rng = np.random.default_rng(seed)
    # Not on a line, where pairs that cross are as good as pairs that do not.
    places, ids = rng.uniform(0, 8, (5, 2)), np.arange(5)
    accumulator, frames = motmetrics.MOTAccumulator(), []
    for number in range(12):
        places = places + rng.normal(0, 0.5, (5, 2))
        there, seen = rng.random(5) > 0.2, rng.random(5) > 0.25
        if rng.random() < 0.3:
            ids = rng.permutation(8)[:5]
        shown = places + rng.normal(0, 0.6, (5, 2))
        truth = [(int(each), places[each, 0], 1.0, places[each, 1]) for each in np.flatnonzero(there)]
        tracks = [(int(ids[each]) + 20, shown[each, 0], 0.5, shown[each, 1]) for each in np.flatnonzero(seen)]
        if not truth and not tracks:
            continue
        frames.append(frame(truth, tracks))
        ours, theirs = (each.boxes[:, :2].astype(float) for each in (frames[-1].truth, frames[-1].found))
        away = np.linalg.norm(ours[:, None] - theirs[None], axis=2)
        away[away >= 2] = np.nan
        accumulator.update([each for each, *_ in truth], [each for each, *_ in tracks], away, frameid=number)
    names = ["num_objects", "num_detections", "num_switches", "num_misses", "num_false_positives", "mota"]
    summary = motmetrics.metrics.create().compute(accumulator, metrics=[*names, "num_fragmentations"]).iloc[0]
    found = score(frames).all
    assert counts(found) == tuple(int(summary[name]) for name in [*names[:5], "num_fragmentations"])
    assert found is not None
    assert found.mota == pytest.approx(float(summary["mota"]))
