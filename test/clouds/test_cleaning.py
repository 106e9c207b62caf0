"""Points that a network cannot use: they get no label, are counted by reason, and change nothing for the others."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from spvnas_ros import Perception
from spvnas_ros.clouds.cleaning import Limits, clean, key_window, measured, usable
from spvnas_ros.clouds.intensity import TrainingIntensity
from spvnas_ros.frame import NONE_UNUSABLE, UNLABELLED, Unusable
from spvnas_ros.nets.spec import NetSpec
from spvnas_ros.nets.unet import PointVoxelUNet
from spvnas_ros.perception import limits_of
from spvnas_ros.zoo.checkpoint import Facts

ENGINES = ("cpu", "torch")
SPEC = NetSpec.spvcnn(4)
VOXEL = 0.05
WINDOW = key_window(VOXEL)
RANGE = (-60.0, -60.0, -60.0, 60.0, 60.0, 60.0)
BEYOND = float(np.nextafter(np.float32(WINDOW), np.float32(np.inf)))

BAD: dict[str, list[tuple[float, float, float, float]]] = {
    "not_finite": [
        (np.nan, 0, 0, 0.5),
        (1, np.inf, 2, np.nan),
        (1, 2, -np.inf, 0.5),
        (np.nan, np.nan, np.nan, np.nan),
        (np.nan, 1e30, 0, 0),
    ],
    "at_origin": [(0, 0, 0, 0.5), (-0.0, 0, 0, 0), (0, 0, 0, np.nan), (0, -0.0, -0.0, np.inf)],
    "too_far": [(1e6, 0, 0, 0.5), (3, -BEYOND, 1, 0.5), (0, 0, 3e38, np.nan), (-1e9, 1e9, 1e9, 1)],
    "no_intensity": [(1, 2, 3, np.nan), (-4, 2, 0, np.inf), (0, 0, 1e-30, -np.inf)],
    "outside": [(61, 0, 0, 0.5), (0, -6000, 0, 0), (1, 1, 60.01, 1)],
}
"""Points that no network sees, by the reason that is counted."""


@cache
def perception(engine: str) -> Perception:
    torch.manual_seed(0)
    return Perception.from_net(
        PointVoxelUNet(SPEC).eval(), Facts(spec=SPEC, point_range=RANGE), device="cpu", engine=engine
    )


metres = st.floats(-50, 50, width=32).map(lambda value: value or np.float32(0.25))
seen = st.lists(st.tuples(metres, metres, metres, st.floats(0, 1, width=32)), max_size=40)
unseen = st.lists(
    st.tuples(st.integers(0, 40), st.sampled_from([(kind, point) for kind in BAD for point in BAD[kind]])), max_size=30
)


@pytest.mark.parametrize("engine", ENGINES)
@settings(max_examples=40)
@given(good=seen, bad=unseen)
@example(good=[(1, 2, 3, 0.5)], bad=[(row, (kind, point)) for kind in BAD for row, point in enumerate(BAD[kind])])
@example(good=[], bad=[(0, (kind, point)) for kind in BAD for point in BAD[kind]])
@example(good=[], bad=[])
def test_what_cannot_be_used_is_counted_and_changes_no_other_label(
    engine: str, good: list[tuple[float, ...]], bad: list[tuple[int, tuple[str, tuple[float, ...]]]]
) -> None:
    rows: list[tuple[tuple[float, ...], str | None]] = [(point, None) for point in good]
    for place, (kind, point) in bad:
        rows.insert(min(place, len(rows)), (point, kind))
    points = np.array([point for point, _ in rows], np.float32).reshape(-1, 4)
    before = points.copy()
    whole = np.array([kind is None for _, kind in rows], bool)

    found = perception(engine)(points, scores=True)
    alone = perception(engine)(np.array(good, np.float32).reshape(-1, 4), scores=True)

    np.testing.assert_array_equal(points, before)
    np.testing.assert_array_equal(found.labels[whole], alone.labels)
    np.testing.assert_array_equal(found.confidence[whole], alone.confidence)
    assert found.scores is not None
    assert alone.scores is not None
    np.testing.assert_array_equal(found.scores[whole], alone.scores)
    assert (found.labels[~whole] == UNLABELLED).all()
    assert not found.confidence[~whole].any()
    assert not found.scores[~whole].any()
    kinds = [kind for _, kind in rows]
    assert found.unusable.counts() == {kind: kinds.count(kind) for kind in BAD}
    assert found.unusable.total == len(bad)
    assert alone.unusable == NONE_UNUSABLE


@pytest.mark.parametrize("engine", ENGINES)
@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(*(st.floats(width=32) | st.sampled_from([WINDOW, -WINDOW, BEYOND, 0.0]) for _ in range(4))),
        max_size=30,
    )
)
@example([(sign * WINDOW, sign * WINDOW, sign * WINDOW, 0.5) for sign in (-1, 1)])
@example([(1, 2, 3, 3.4e38), (1, 2, 3.5, -3.4e38), (4, 4, 4, 1e-45)])
def test_any_numbers_at_all_give_answers_without_nan(engine: str, rows: list[tuple[float, ...]]) -> None:
    unlimited = _unlimited(engine)
    points = np.array(rows, np.float32).reshape(-1, 4)
    found = unlimited(points, scores=True)
    kept = usable(points, unlimited.limits)
    assert found.scores is not None
    assert np.isfinite(found.confidence).all()
    assert np.isfinite(found.scores).all()
    assert (found.labels[kept] < 19).all()
    assert (found.confidence[kept] > 0).all()
    assert (found.labels[~kept] == UNLABELLED).all()
    assert found.unusable.total == (~kept).sum()


@cache
def _unlimited(engine: str) -> Perception:
    torch.manual_seed(0)
    return Perception.from_net(PointVoxelUNet(SPEC).eval(), device="cpu", engine=engine)


@pytest.mark.parametrize("engine", ENGINES)
def test_too_bright_or_dark_is_seen_as_the_limit(engine: str) -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(-5, 5, (300, 4)).astype(np.float32)
    points[7, 3] = 3e38
    clipped = points.copy()
    clipped[:, 3] = clipped[:, 3].clip(0, 1)
    found, expected = perception(engine)(points, scores=True), perception(engine)(clipped, scores=True)
    np.testing.assert_array_equal(found.labels, expected.labels)
    np.testing.assert_array_equal(found.scores, expected.scores)
    assert found.unusable == NONE_UNUSABLE
    assert points[7, 3] == np.float32(3e38), "the caller's cloud is not changed"


def test_a_cloud_that_fits_is_not_copied_and_others_are_left_alone() -> None:
    points = np.random.default_rng(0).uniform(0.1, 1, (50, 4)).astype(np.float32)
    assert clean(points, Limits()).points is points
    points[3, 3] = 1.004
    cleaned = clean(points, Limits())
    assert cleaned.kept is None
    assert cleaned.points[3, 3] == 1
    assert points[3, 3] == np.float32(1.004)


def test_clean_usable_and_measured_agree() -> None:
    points = np.array([point for points in BAD.values() for point in points] + [(1, 2, 3, 0.5)], np.float32)
    limits = Limits(WINDOW, point_range=RANGE)
    cleaned = clean(points, limits)
    np.testing.assert_array_equal(cleaned.kept, usable(points, limits))
    np.testing.assert_array_equal(cleaned.points, points[-1:])
    assert cleaned.unusable == Unusable(*(len(BAD[kind]) for kind in NONE_UNUSABLE.counts()))
    there = measured(points)
    assert there.sum() == len(points) - len(BAD["not_finite"]) - len(BAD["at_origin"])


def test_limits_of_the_range_belong_to_it() -> None:
    points = np.array([(60, -60, 60, 0), (np.nextafter(np.float32(60), np.float32(61)), 0, 0, 0)], np.float32)
    assert usable(points, Limits(point_range=RANGE)).tolist() == [True, False]


@pytest.mark.parametrize(("voxel", "metres"), [(0.05, 6553.5), (0.1, 13107)])
def test_the_window_follows_the_voxels(voxel: float, metres: float) -> None:
    assert limits_of(replace(Facts(spec=SPEC), voxel_size=voxel)).window == pytest.approx(metres, abs=0.2)


def test_a_network_trained_on_other_intensities_gets_them() -> None:
    facts = Facts(spec=SPEC)
    assert limits_of(facts).brightest == 1
    assert limits_of(replace(facts, training_intensity=TrainingIntensity(0.2, 0.6))).brightest == 1
    assert limits_of(replace(facts, training_intensity=TrainingIntensity(60, 200))).brightest > 255


def test_reasons_add_up_and_are_said() -> None:
    both = Unusable(not_finite=1, at_origin=1200) + Unusable(at_origin=34, too_far=2, no_intensity=3, outside=4)
    assert both == Unusable(1, 1234, 2, 3, 4)
    assert both.total == 1244
    assert str(both) == "1 not finite, 1,234 at the origin, 2 too far, 3 without intensity, 4 outside the range"
    assert str(NONE_UNUSABLE) == ""
