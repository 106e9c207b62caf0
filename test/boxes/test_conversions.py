"""Boxes in other projects' conventions: recorded examples, and that each way back leads home."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from spvnas_ros.boxes.conversions import (
    box_corners,
    from_kitti_camera,
    from_mmdet3d,
    from_nuscenes,
    from_openpcdet,
    image_boxes,
    kitti_corners,
    moved,
    observation_angle,
    to_kitti_camera,
    to_mmdet3d,
    to_nuscenes,
    to_openpcdet,
    wrapped,
)

AXES = np.array([[0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1.0]])
"""The camera's frame from the sensor's, both at one place."""

places = hnp.arrays(np.float64, (5, 3), elements=st.floats(-100, 100))
sizes = hnp.arrays(np.float64, (5, 3), elements=st.floats(0.01, 20))
angles = hnp.arrays(np.float64, 5, elements=st.floats(-20, 20))
boxes = st.builds(lambda place, size, yaw: np.c_[place, size, wrapped(yaw)], places, sizes, angles)
tilts = st.tuples(st.floats(-0.1, 0.1), st.floats(-0.1, 0.1), st.floats(-3, 3))


def same(found: np.ndarray, expected: np.ndarray) -> None:
    """Equal boxes, whose yaws may differ by whole turns within rounding."""
    np.testing.assert_allclose(found[:, :6], expected[:, :6], rtol=0, atol=1e-9)
    np.testing.assert_allclose(wrapped(found[:, 6] - expected[:, 6]), 0, atol=1e-9)


def rigid(turns: tuple[float, float, float]) -> np.ndarray:
    """A frame that is turned about x, y and z, and shifted."""
    matrix = np.eye(4)
    for (i, j), angle in zip(((1, 2), (2, 0), (0, 1)), turns, strict=True):
        turn = np.eye(4)
        turn[[i, i, j, j], [i, j, i, j]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        matrix = turn @ matrix
    matrix[:3, 3] = (0.3, -0.1, 1.2)
    return matrix


@given(hnp.arrays(np.float64, 8, elements=st.floats(-1e4, 1e4)))
def test_an_angle_is_the_same_direction_within_pi(given_angles: np.ndarray) -> None:
    found = wrapped(given_angles)
    assert (found >= -np.pi).all()
    assert (found < np.pi).all()
    np.testing.assert_allclose(np.exp(1j * found), np.exp(1j * given_angles), atol=1e-9)
    np.testing.assert_array_equal(wrapped(found), found)


def test_the_ends_of_the_circle_are_one() -> None:
    np.testing.assert_array_equal(wrapped([np.pi, -np.pi, np.nextafter(np.pi, 4)]), [-np.pi] * 3)
    np.testing.assert_array_equal(wrapped([np.nextafter(-np.pi, -4)])[0] < np.pi, True)


@given(boxes, tilts)
def test_the_way_to_the_camera_and_back_leads_home(ours: np.ndarray, turns: tuple[float, float, float]) -> None:
    camera_from_lidar = AXES @ rigid(turns)
    same(from_kitti_camera(to_kitti_camera(ours, camera_from_lidar), camera_from_lidar), ours)


@given(boxes)
def test_in_the_camera_the_same_corners_are_found(ours: np.ndarray) -> None:
    camera = to_kitti_camera(ours, AXES)
    seen = box_corners(ours) @ AXES[:3, :3].T
    np.testing.assert_allclose(np.sort(kitti_corners(camera), axis=1), np.sort(seen, axis=1), atol=1e-9)
    # OpenPCDet's alpha, from the sensor's x and y; what is at the sensor itself lies in no direction
    expected = camera[:, 6] - np.arctan2(-ours[:, 1], ours[:, 0])
    away = np.hypot(ours[:, 0], ours[:, 1]) > 1e-6
    off = wrapped(observation_angle(camera) - expected)[away]
    np.testing.assert_allclose(off, 0, atol=1e-9)


@given(boxes, st.booleans())
def test_the_way_to_other_projects_and_back_leads_home(ours: np.ndarray, sensor_axes: bool) -> None:
    same(from_openpcdet(to_openpcdet(ours)), ours)
    same(from_mmdet3d(to_mmdet3d(ours)), ours)
    np.testing.assert_allclose(to_mmdet3d(ours)[:, 2], ours[:, 2] - ours[:, 5] / 2)
    parts = to_nuscenes(ours, sensor_axes=sensor_axes)
    same(from_nuscenes(*parts, sensor_axes=sensor_axes), ours)
    np.testing.assert_allclose(np.linalg.norm(parts[2], axis=1), 1)


@given(boxes, tilts)
def test_moving_and_moving_back_leads_home(ours: np.ndarray, turns: tuple[float, float, float]) -> None:
    level = rigid((0, 0, turns[2]))
    there = moved(ours, level)
    same(moved(there, np.linalg.inv(level)), ours)
    corners = box_corners(ours) @ level[:3, :3].T + level[:3, 3]
    np.testing.assert_allclose(box_corners(there), corners, atol=1e-9)


def test_nuscenes_sensor_looks_along_y() -> None:
    # 10 m ahead of the sensor, heading ahead: there x is right and y ahead
    ahead = from_nuscenes(
        np.array([[0, 10, 0]]), np.array([[2, 4, 1.5]]), np.array([[1, 0, 0, 1]]) / np.sqrt(2), sensor_axes=True
    )
    same(ahead, np.array([[10, 0, 0, 4, 2, 1.5, 0]]))


def test_a_label_becomes_the_box_that_is_recorded(shared: Path) -> None:
    label = np.array([[2, 1.6, 20, 3.9, 1.5, 1.6, -1.57]])
    same(from_kitti_camera(label, AXES), np.array([[20, -2, -0.85, 3.9, 1.6, 1.5, 1.57 - np.pi / 2]]))
    with np.load(shared / "golden" / "detection" / "openpcdet_second_w4_004139.npz", allow_pickle=True) as recorded:
        camera, lidar = recorded["gt_camera"], recorded["gt_lidar"]
    text = (shared / "data" / "kitti" / "training" / "calib" / "004139.txt").read_text()
    rows = {line.split(":")[0]: np.array(line.split(":")[1].split(), float) for line in text.splitlines() if line}
    matrix = np.eye(4)
    matrix[:3] = rows["R0_rect"].reshape(3, 3) @ rows["Tr_velo_to_cam"].reshape(3, 4)
    found = from_kitti_camera(camera, matrix)
    np.testing.assert_allclose(found, from_openpcdet(lidar), atol=2e-5)
    np.testing.assert_allclose(to_kitti_camera(found, matrix)[:, :6], camera[:, :6], atol=2e-5)


def test_the_rectangle_in_the_picture_is_the_labelled_one(shared: Path) -> None:
    root = shared / "data" / "kitti" / "training"
    differences = []
    for path in sorted((root / "label_2").glob("*.txt")):
        lines = [line.split() for line in path.read_text().splitlines()]
        numbers = np.array([line[1:15] for line in lines if line[0] != "DontCare"], float)
        camera = numbers[:, [10, 11, 12, 9, 7, 8, 13]]
        text = (root / "calib" / path.name).read_text()
        projection = np.array(next(line for line in text.splitlines() if line.startswith("P2:")).split()[1:], float)
        found = image_boxes(camera, projection.reshape(3, 4), (1242, 375))
        whole = numbers[:, 0] == 0  # not cut by the picture's edge
        differences.append(np.abs(found - numbers[:, 3:7])[whole])
    # People labelled the two apart from each other: they agree within some pixels.
    assert np.median(np.concatenate(differences)) < 2


def test_what_is_behind_the_camera_has_no_rectangle() -> None:
    camera = np.array([[0, 1, -5, 4, 1.5, 2, 0], [0, 1, 20, 4, 1.5, 2, 0]])
    found = image_boxes(camera, np.c_[np.diag([700, 700, 1.0]), np.zeros(3)])
    assert np.isnan(found[0]).all()
    assert np.isfinite(found[1]).all()
