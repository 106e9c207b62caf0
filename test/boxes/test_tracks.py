"""Who is who from frame to frame, whatever the frame, the order, the stamps and the detector's mistakes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spvnas_ros.boxes.conversions import moved, wrapped
from spvnas_ros.boxes.overlap import BoxError
from spvnas_ros.boxes.tracks import NO_ID, RULES, Tracked, TrackError, TrackRules, TrackState, track
from spvnas_ros.frame import Boxes

TENTH = 100_000_000
CAR, PERSON = (4.3, 1.8, 1.5), (0.8, 0.7, 1.75)
SIZES = np.array([CAR, PERSON])


def boxes(rows: np.ndarray, classes: np.ndarray | None = None, scores: np.ndarray | None = None) -> Boxes:
    rows = np.asarray(rows, np.float32).reshape(-1, 7)
    return Boxes(
        rows,
        np.full(len(rows), 0.8, np.float32) if scores is None else scores.astype(np.float32),
        np.zeros(len(rows), np.uint8) if classes is None else classes.astype(np.uint8),
    )


def box(x: float, y: float = 0.0, yaw: float = 0.0, size: tuple[float, float, float] = CAR) -> Boxes:
    return boxes(np.array([x, y, -1, *size, yaw]))


def follow(
    frames: list[Boxes], stamps: list[int] | None = None, poses: list[np.ndarray] | None = None, **rules: float
) -> Iterator[Tracked]:
    """The frames, a tenth of a second apart; by default from a sensor that stands at the fixed frame's origin."""
    state = TrackState()
    for number, frame in enumerate(frames):
        stamp = stamps[number] if stamps else number * TENTH
        pose = poses[number] if poses else np.eye(4)
        state, tracked = track(state, frame, stamp, pose, replace(RULES, **rules))
        yield tracked


def drive(seed: int, frames: int = 12, objects: int = 8) -> list[Boxes]:
    """Cars and persons that move steadily, found with noise, gaps, false ones and turned headings."""
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, 2, objects)
    place = rng.uniform(-25, 25, (objects, 2))
    speed = rng.normal(0, 1, (objects, 2)) * np.array([4.0, 1.0])[classes, None]
    found = []
    for number in range(frames):
        rows = np.column_stack(
            (
                place + speed * number / 10 + rng.normal(0, 0.08, (objects, 2)),
                rng.normal(-1, 0.05, objects),
                SIZES[classes] * rng.normal(1, 0.03, (objects, 3)),
                np.arctan2(speed[:, 1], speed[:, 0]) + np.pi * (rng.random(objects) < 0.1),
            )
        )
        false = np.column_stack((rng.uniform(-25, 25, (2, 2)), [-1, -1], SIZES, rng.uniform(-3, 3, 2)))
        kept = rng.random(objects) > 0.15
        found.append(
            boxes(
                np.concatenate([rows[kept], false]),
                np.concatenate([classes[kept], rng.integers(0, 2, 2)]),
                rng.uniform(0.2, 1, int(kept.sum()) + 2),
            )
        )
    return found


def turned(yaw: float, shift: tuple[float, float, float]) -> np.ndarray:
    pose = np.eye(4)
    pose[:2, :2] = [[math.cos(yaw), -math.sin(yaw)], [math.sin(yaw), math.cos(yaw)]]
    pose[:3, 3] = shift
    return pose


def test_a_car_and_a_person_keep_their_ids_and_their_speeds_are_found() -> None:
    car, person = 8.0, 1.4
    frames = []
    for number in range(20):
        t = number / 10
        rows = [[-10 + car * t, 3, -1, *CAR, 0], [5, -4 + person * t, -1, *PERSON, math.pi / 2]]
        frames.append(boxes(np.array(rows), np.array([0, 1])))
    found = list(follow(frames))
    assert found[0].ids.tolist() == [NO_ID, NO_ID]
    assert all(each.ids.tolist() == [1, 2] for each in found[1:])
    np.testing.assert_allclose(found[-1].velocities, [[car, 0, 0], [0, person, 0]], atol=0.15)
    np.testing.assert_allclose(found[-1].boxes.boxes, frames[-1].boxes, atol=0.05)
    assert (np.diff([each.deviations for each in found], axis=0) <= 1e-6).all(), "ever surer"


def test_a_person_whose_boxes_do_not_touch_and_a_truck_that_jitters_are_followed() -> None:
    runner = list(follow([box(number * 0.85, size=PERSON) for number in range(6)]))
    assert [each.ids[0] for each in runner] == [NO_ID, 1, 1, 1, 1, 1]
    # Fast bicyclists behind each other, five times a second.
    rows = [[[2.5 * n, 0, 0, 1.7, 0.6, 1.7, 0], [2.5 * n - 7, 0, 0, 1.7, 0.6, 1.7, 0]] for n in range(6)]
    fast = list(follow([boxes(np.array(each)) for each in rows], [2 * TENTH * number for number in range(6)]))
    assert [each.ids.tolist() for each in fast[1:]] == [[2, 1]] * 5
    truck = list(follow([box(3 * (number % 2), size=(12, 2.5, 3.5)) for number in range(6)]))
    assert [each.ids[0] for each in truck] == [NO_ID, 1, 1, 1, 1, 1]


def test_a_heading_that_is_off_by_half_a_turn_is_turned_back_and_a_front_that_was_wrong_is_mended() -> None:
    flips = [0, 0, math.pi, 0, math.pi, 0, 0, math.pi, 0]
    found = list(follow([box(0, yaw=0.3 + flip) for flip in flips]))
    assert all(abs(wrapped(each.boxes.boxes[0, 6] - 0.3)) < 1e-3 for each in found)
    late = list(follow([box(0, yaw=math.pi * (number < 2)) for number in range(8)]))
    assert abs(late[1].boxes.boxes[0, 6]) > 3
    assert abs(late[-1].boxes.boxes[0, 6]) < 1e-3
    backwards = list(follow([box(number, yaw=math.pi) for number in range(15)]))
    assert abs(backwards[-1].boxes.boxes[0, 6]) < 1e-3, "what goes ten metres a second goes forward"
    # In the sensor's frame it is the vehicle that moves.
    state = TrackState()
    for number in range(15):
        state, own = track(state, box(-number, yaw=0), number * TENTH)
    assert abs(own.boxes.boxes[0, 6]) < 1e-3


def test_a_track_is_kept_through_misses_and_ends_after_them() -> None:
    def gone_for(count: int) -> int:
        frames = [box(0)] * 3 + [Boxes.none()] * count + [box(0)] * 2
        return int(list(follow(frames, longest=10**10))[-1].ids[0])

    assert gone_for(0) == gone_for(10) == 1
    assert gone_for(11) == 2
    assert [each.ids.tolist() for each in follow([box(0), Boxes.none(), box(0), box(0)])] == [[NO_ID], [], [NO_ID], [1]]


def test_what_scores_little_goes_on_with_a_track_and_begins_none() -> None:
    low = replace(box(0), scores=np.array([0.2], np.float32))
    assert [each.ids[0] for each in follow([low, low, low], begin=0.5)] == [NO_ID] * 3
    found = list(follow([box(0), low, low], begin=0.5))
    assert [each.ids[0] for each in found] == [NO_ID, 1, 1]
    assert found[-1].confidence[0] == pytest.approx((0.8 + 0.2 + 0.2) / 3)
    assert found[-1].boxes.scores[0] == np.float32(0.2)


# -- stamps -----------------------------------------------------------------------------------------------------------


def test_stamps_that_jump_back_or_far_ahead_forget_all_and_ids_go_on() -> None:
    for stamp in (-TENTH, 0, 10**18, 5 * TENTH + RULES.longest + 1):
        found = list(follow([box(0)] * 8, [*range(0, 6 * TENTH, TENTH), stamp, stamp + TENTH]))
        assert [each.restarted for each in found] == [False] * 6 + [True, False]
        assert [each.ids[0] for each in found[5:]] == [1, NO_ID, 2]


def test_a_second_cloud_of_the_same_moment_moves_and_ends_nothing() -> None:
    stamps = [0, TENTH, 2 * TENTH, 3 * TENTH, 3 * TENTH, 3 * TENTH, 4 * TENTH]
    places = [0.0, 1.0, 2.0, 3.0, 3.0, 3.0, 4.0]
    found = list(follow([box(x) for x in places], stamps))
    assert [each.ids[0] for each in found[1:]] == [1] * 6
    assert found[5].velocities[0, 0] == pytest.approx(10, abs=1)
    # Half of the objects are in each cloud of a moment: none is missed.
    state, halves = TrackState(), (box(0), box(20))
    for number in range(30):
        state, _ = track(state, halves[number % 2], number // 2 * TENTH, np.eye(4), replace(RULES, misses=1))
    assert state.next_id == 3
    assert len(state) == 2
    # Nor does a cloud that comes twice make an object sure.
    assert [each.ids[0] for each in follow([box(0)] * 3, [5, 5, 5])] == [NO_ID] * 3


@pytest.mark.parametrize("lost", [(3,), (3, 4), (3, 4, 5, 8)])
def test_clouds_that_are_lost_are_bridged_by_motion(lost: tuple[int, ...]) -> None:
    numbers = [number for number in range(14) if number not in lost]
    found = list(follow([box(0.9 * number) for number in numbers], [number * TENTH for number in numbers]))
    assert [each.ids[0] for each in found[1:]] == [1] * (len(numbers) - 1)
    assert found[-1].velocities[0, 0] == pytest.approx(9, abs=0.7)


@given(st.integers(0, 99), st.lists(st.sampled_from([0, 1, TENTH, TENTH, 3 * TENTH, 10**13, -TENTH]), max_size=12))
@settings(max_examples=12, deadline=None)
def test_whatever_the_stamps_ids_are_unique_never_reused_and_all_is_finite(seed: int, gaps: list[int]) -> None:
    frames = drive(seed, len(gaps) + 1)
    state, stamp, used, gone = TrackState(), 10**18, set[int](), set[int]()
    before = set[int]()
    for frame, gap in zip(frames, [0, *gaps], strict=True):
        stamp += gap
        state, tracked = track(state, frame, stamp, np.eye(4))
        ids = tracked.ids[tracked.ids != NO_ID].tolist()
        assert len(set(ids)) == len(ids)
        if tracked.restarted:
            gone |= used
        assert not gone & set(ids)
        assert all(first > max(before, default=0) for first in set(ids) - used)
        used |= set(ids)
        before = used.copy()
        assert len(state) <= sum(map(len, frames))
        for values in (tracked.boxes.boxes, tracked.velocities, tracked.deviations, tracked.confidence):
            assert np.isfinite(values).all()
        assert (tracked.boxes.boxes[:, 3:6] > 0).all()
        np.testing.assert_array_equal(tracked.boxes.classes, frame.classes)
        np.testing.assert_array_equal(tracked.boxes.scores, frame.scores)


@given(st.integers(0, 99), st.integers(-(10**18), 10**18))
@settings(max_examples=5, deadline=None)
def test_the_clock_s_beginning_does_not_matter(seed: int, shift: int) -> None:
    frames = drive(seed)
    stamps = [number * TENTH for number in range(len(frames))]
    for one, other in zip(follow(frames, stamps), follow(frames, [each + shift for each in stamps]), strict=True):
        np.testing.assert_array_equal(one.ids, other.ids)
        np.testing.assert_array_equal(one.boxes.boxes, other.boxes.boxes)


# -- order and frames -------------------------------------------------------------------------------------------------


@given(st.integers(0, 999))
@settings(max_examples=8, deadline=None)
def test_the_order_of_the_boxes_does_not_matter(seed: int) -> None:
    frames, rng = drive(seed), np.random.default_rng(seed)
    orders = [rng.permutation(len(frame)) for frame in frames]
    mixed = follow([frame.among(order) for frame, order in zip(frames, orders, strict=True)])
    for one, other, order in zip(follow(frames), mixed, orders, strict=True):
        np.testing.assert_array_equal(one.ids[order], other.ids)
        np.testing.assert_array_equal(one.boxes.boxes[order], other.boxes.boxes)
        np.testing.assert_array_equal(one.velocities[order], other.velocities)


@given(
    st.integers(0, 99), st.floats(-4, 4), st.tuples(*[st.floats(-1e5, 1e5)] * 2, st.floats(-100, 100)), st.booleans()
)
@settings(max_examples=8, deadline=None)
def test_another_fixed_frame_gives_the_same_tracks(
    seed: int, yaw: float, shift: tuple[float, float, float], driving: bool
) -> None:
    frames, other_frame = drive(seed), turned(yaw, shift)
    poses = [turned(0.02 * number, (0.8 * number, 0, 0)) if driving else np.eye(4) for number in range(len(frames))]
    first = follow(frames, poses=poses)
    for one, other in zip(first, follow(frames, poses=[other_frame @ pose for pose in poses]), strict=True):
        np.testing.assert_array_equal(one.ids, other.ids)
        np.testing.assert_allclose(one.boxes.boxes[:, :6], other.boxes.boxes[:, :6], atol=1e-4)
        np.testing.assert_allclose(wrapped(one.boxes.boxes[:, 6] - other.boxes.boxes[:, 6]), 0, atol=1e-4)
        np.testing.assert_allclose(one.velocities, other.velocities, atol=1e-4)


def test_what_stands_stands_while_the_vehicle_turns_and_only_with_a_pose() -> None:
    poses = [turned(0.1 * number, (1.5 * number, 0.2 * number, 0)) for number in range(20)]
    rows = np.array([[20.0, 8, 0.5, *CAR, 1.0], [12, -6, 0.5, *PERSON, 0.4], [12, -7.5, 0.5, *PERSON, 0.4]])
    frames = [boxes(moved(rows, np.linalg.inv(pose)), np.array([0, 1, 1])) for pose in poses]
    found = list(follow(frames, poses=poses))
    assert all(sorted(each.ids.tolist()) == [1, 2, 3] for each in found[1:])
    assert (np.linalg.norm(found[-1].velocities, axis=1) < 1e-2).all()
    np.testing.assert_allclose(found[-1].boxes.boxes, frames[-1].boxes, atol=1e-3)
    state = TrackState()
    for number, frame in enumerate(frames):
        state, own = track(state, frame, number * TENTH)
    assert np.linalg.norm(own.velocities[0]) > 5
    _, restarted = track(state, frames[-1], 20 * TENTH, poses[-1])
    assert restarted.restarted, "another frame"


# -- limits -----------------------------------------------------------------------------------------------------------


def test_tracks_are_bounded_and_those_that_were_missed_longest_go_first() -> None:
    rng = np.random.default_rng(0)
    rules = TrackRules(hits=1, most=50)
    state = TrackState()
    for number in range(12):
        places = rng.uniform(-1e5, 1e5, (40, 2))
        rows = np.column_stack((places, np.zeros(40), np.tile(CAR, (40, 1)), np.zeros(40)))
        state, tracked = track(state, boxes(rows), number * TENTH, np.eye(4), rules)
        assert len(state) <= 50
        assert len(set(tracked.ids.tolist())) == 40
    state, again = track(state, boxes(rows), 12 * TENTH, np.eye(4), rules)
    np.testing.assert_array_equal(again.ids, tracked.ids)
    assert state.next_id == 12 * 40 + 1


def test_boxes_of_the_same_place_are_two_objects() -> None:
    twice = boxes(np.tile([3, 1, -1, *CAR, 0.2], (2, 1)))
    found = list(follow([twice] * 5))
    assert all(set(each.ids.tolist()) == {1, 2} for each in found[1:])


def test_objects_of_different_classes_do_not_take_each_other_s_tracks() -> None:
    frames = [boxes(np.array([0, 0, 0, *CAR, 0]), np.array([number % 2])) for number in range(6)]
    assert [each.ids[0] for each in follow(frames)] == [NO_ID] * 6


def test_what_is_no_frame_is_refused() -> None:
    good = box(0)
    with pytest.raises(BoxError, match="the x nan"):
        track(TrackState(), box(math.nan), 0)
    with pytest.raises(TrackError, match="1e\\+08, expected 1e\\+06"):
        track(TrackState(), box(1e8), 0)
    with pytest.raises(TrackError, match="no finite score"):
        track(TrackState(), replace(good, scores=np.array([np.inf], np.float32)), 0)
    with pytest.raises(TrackError, match="expected a rotation"):
        track(TrackState(), good, 0, 2 * np.eye(4))
    for pose in (np.eye(3), np.full((4, 4), np.nan), turned(0, (1e12, 0, 0))):
        with pytest.raises(TrackError, match="the pose is"):
            track(TrackState(), good, 0, pose)
    with pytest.raises(TrackError, match="the stamp"):
        track(TrackState(), good, 2**63)


@given(st.lists(st.tuples(*[st.floats(-1e6, 1e6, width=32)] * 3, *[st.floats(0, 1e6, width=32)] * 4), max_size=5))
@settings(max_examples=12, deadline=None)
def test_boxes_of_any_numbers_give_numbers(rows: list[tuple[float, ...]]) -> None:
    found = boxes(np.array(rows, np.float32))
    for first, tracked in pairwise(follow([found, found, Boxes.none(), found])):
        assert len(first) in (0, len(found))
        for values in (tracked.boxes.boxes, tracked.velocities, tracked.deviations, tracked.confidence):
            assert np.isfinite(values).all()
