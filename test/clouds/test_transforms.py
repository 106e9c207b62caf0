"""Rigid transforms and the buffer of them, against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spvnas_ros.clouds.transforms import Transform, TransformBuffer, TransformError

SECOND = 1_000_000_000

metres = st.floats(-1000, 1000)
parts = st.floats(-1, 1)
transforms = st.builds(
    Transform.of,
    st.tuples(metres, metres, metres),
    st.tuples(parts, parts, parts, parts).filter(lambda q: math.hypot(*q) > 0.1),
)
points = st.lists(st.tuples(metres, metres, metres), max_size=8).map(lambda rows: np.array(rows).reshape(-1, 3))


def yaw(angle: float, x: float = 0.0, y: float = 0.0) -> Transform:
    return Transform.of((x, y, 0), (0, 0, math.sin(angle / 2), math.cos(angle / 2)))


def same(a: Transform, b: Transform) -> bool:
    return np.allclose(a.translation, b.translation, atol=1e-7) and np.allclose(a.matrix(), b.matrix(), atol=1e-9)


# -- one transform ----------------------------------------------------------------------------------------------------


@given(transforms, transforms, transforms, points)
def test_one_after_the_other_is_their_product(a: Transform, b: Transform, c: Transform, rows: np.ndarray) -> None:
    np.testing.assert_allclose((a @ b).apply(rows), a.apply(b.apply(rows)), atol=1e-8)
    assert same((a @ b) @ c, a @ (b @ c))


@given(transforms, points)
def test_the_inverse_leads_back(transform: Transform, rows: np.ndarray) -> None:
    np.testing.assert_allclose(transform.inverse().apply(transform.apply(rows)), rows, atol=1e-8)
    assert same(transform @ transform.inverse(), Transform.identity())
    assert same(transform.inverse() @ transform, Transform.identity())


@given(transforms)
def test_a_rotation_keeps_lengths_and_handedness(transform: Transform) -> None:
    matrix = transform.matrix()
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(matrix) == pytest.approx(1)


@given(st.floats(-3.1, 3.1), metres, metres)
def test_yaw_turns_to_the_left(angle: float, x: float, y: float) -> None:
    np.testing.assert_allclose(
        yaw(angle, x, y).apply(np.array([[2.0, 0, 1]])),
        [[x + 2 * math.cos(angle), y + 2 * math.sin(angle), 1]],
        atol=1e-9,
    )


def test_points_keep_their_type() -> None:
    moved = yaw(math.pi / 2, 1).apply(np.array([[1, 0, 5]], np.float32))
    assert moved.dtype == np.float32
    np.testing.assert_allclose(moved, [[1, 1, 5]], atol=1e-6)


@given(transforms, transforms)
def test_between_two_poses_the_ends_are_the_poses(a: Transform, b: Transform) -> None:
    assert same(a.towards(b, 0), a)
    assert same(a.towards(b, 1), b)


@given(transforms, transforms, st.floats(0, 1))
def test_there_and_back_meet_half_way_and_a_quaternion_s_sign_means_nothing(
    a: Transform, b: Transform, fraction: float
) -> None:
    # Half a turn apart both ways around are as short.
    if abs(float(a.rotation @ b.rotation)) > 1e-3:
        assert same(a.towards(b, fraction), b.towards(a, 1 - fraction))
        assert same(a.towards(Transform(b.translation, -b.rotation), fraction), a.towards(b, fraction))


@given(st.floats(-3, 3), st.floats(-3, 3), st.floats(0, 1))
def test_a_turn_goes_at_a_constant_rate_the_shorter_way(start: float, turn: float, fraction: float) -> None:
    between = yaw(start, 10).towards(yaw(start + turn, 20), fraction)
    assert same(between, yaw(start + fraction * turn, 10 + 10 * fraction))


@pytest.mark.parametrize(
    ("translation", "rotation"),
    [((0, 0, math.nan), (0, 0, 0, 1)), ((0, 0, 0), (0, 0, 0, 0)), ((0, 0, 0), (0, math.inf, 0, 1))],
)
def test_what_is_no_transform_is_refused(translation: tuple[float, ...], rotation: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="finite numbers and a quaternion"):
        Transform.of(translation, rotation)


# -- the buffer -------------------------------------------------------------------------------------------------------


def drive(seconds: float) -> Transform:
    """Where the vehicle is."""
    return yaw(0.4 * seconds, 5 * seconds)


@pytest.fixture
def buffer() -> TransformBuffer:
    """A vehicle in odom for three seconds, ten times a second; a lidar and a camera on it; odom in map."""
    tree = TransformBuffer()
    for tenth in range(31):
        tree.insert("odom", "base", tenth * SECOND // 10, drive(tenth / 10))
    tree.insert("base", "lidar", 0, yaw(0.3, 1, 0.5), static=True)
    tree.insert("base", "camera", 0, yaw(-0.2, 2), static=True)
    tree.insert("map", "odom", 0, yaw(1, -100, 40), static=True)
    return tree


@given(then=st.floats(0, 3), now=st.floats(0, 3))
def test_a_frame_then_is_found_in_another_now(then: float, now: float) -> None:
    tree = TransformBuffer()
    for tenth in range(31):
        tree.insert("odom", "base", tenth * SECOND // 10, drive(tenth / 10))
    tree.insert("base", "lidar", 0, yaw(0.3, 1, 0.5), static=True)
    found = tree.lookup("lidar", int(now * SECOND), "lidar", int(then * SECOND), "odom")
    lidar = yaw(0.3, 1, 0.5)
    expected = (drive(now) @ lidar).inverse() @ (drive(then) @ lidar)
    assert np.allclose(found.translation, expected.translation, atol=1e-6)
    assert np.allclose(found.matrix(), expected.matrix(), atol=1e-6)


def test_branches_meet_where_they_join_and_what_is_above_need_not_be_known(buffer: TransformBuffer) -> None:
    assert same(buffer.lookup("camera", 0, "lidar", 0, "camera"), yaw(-0.2, 2).inverse() @ yaw(0.3, 1, 0.5))
    later = 99 * SECOND
    assert same(buffer.lookup("camera", later, "lidar", later, "base"), yaw(-0.2, 2).inverse() @ yaw(0.3, 1, 0.5))
    assert same(buffer.lookup("map", 0, "base", SECOND, "map"), yaw(1, -100, 40) @ drive(1))
    assert same(buffer.lookup("nobody", 5, "nobody", 7, "nobody"), Transform.identity())


def test_what_is_not_known_is_named_and_whether_it_may_come(buffer: TransformBuffer) -> None:
    with pytest.raises(TransformError, match=r"newest transform from base to odom is 0\.500 s too old") as late:
        buffer.lookup("lidar", 3 * SECOND + SECOND // 2, "lidar", 0, "odom")
    with pytest.raises(TransformError, match=r"oldest transform from base to odom is 1\.000 s too new") as early:
        buffer.lookup("lidar", 0, "lidar", -SECOND, "odom")
    with pytest.raises(TransformError, match="no transform connects radar with odom") as missing:
        buffer.lookup("lidar", 0, "radar", 0, "odom")
    assert [error.value.may_come for error in (late, early, missing)] == [True, False, True]


def test_old_ones_are_forgotten_and_too_old_ones_not_taken() -> None:
    tree = TransformBuffer(history_ns=2 * SECOND)
    for second in (5, 1, 3, 2, 4):
        tree.insert("odom", "base", second * SECOND, drive(second))
    assert same(tree.lookup("odom", 0, "base", 7 * SECOND // 2, "odom"), drive(3).towards(drive(4), 0.5))
    with pytest.raises(TransformError, match="too new"):
        tree.lookup("odom", 0, "base", 2 * SECOND, "odom")


def test_the_same_time_again_replaces_and_another_parent_begins_anew(buffer: TransformBuffer) -> None:
    buffer.insert("odom", "base", SECOND, yaw(0, 7))
    assert same(buffer.lookup("odom", 0, "base", SECOND, "odom"), yaw(0, 7))
    buffer.insert("map", "base", SECOND, yaw(0, 9))
    assert same(buffer.lookup("map", 0, "base", SECOND, "map"), yaw(0, 9))
    with pytest.raises(TransformError, match="too old"):
        buffer.lookup("map", 0, "base", 2 * SECOND, "map")


def test_clearing_leaves_what_is_static(buffer: TransformBuffer) -> None:
    buffer.clear()
    assert same(buffer.lookup("base", 0, "lidar", 0, "base"), yaw(0.3, 1, 0.5))
    with pytest.raises(TransformError, match="no transform connects"):
        buffer.lookup("odom", 0, "base", 0, "odom")


def test_circles_and_frames_without_a_name_are_refused(buffer: TransformBuffer) -> None:
    buffer.insert("lidar", "map", 0, Transform.identity())
    with pytest.raises(TransformError, match="in a circle"):
        buffer.lookup("odom", 0, "base", 0, "odom")
    for parent, child in (("", "base"), ("base", ""), ("base", "base")):
        with pytest.raises(ValueError, match="two frames"):
            buffer.insert(parent, child, 0, Transform.identity())
