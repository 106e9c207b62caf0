"""KITTI's boxes label the points that are in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from labelled_files import write_kitti
from spvnas_ros.offline.datasets import DatasetError, open_dataset
from spvnas_ros.offline.datasets.kitti import Box, KittiDataset

CAR, NONE = 0, 255


def line(kind: str, size: tuple[float, float, float], place: tuple[float, float, float], angle: float) -> str:
    """A line of label_2: size is height, width, length, place the bottom's centre in the camera's frame."""
    return " ".join(map(str, (kind, 0, 0, 0, 0, 0, 0, 0, *size, *place, angle)))


def test_kitti_boxes_stand_in_the_sensors_frame(tmp_path: Path) -> None:
    car = line("Car", (1.5, 1.6, 4.0), (-2.0, 1.7, 10.0), -np.pi / 2)  # 10 m ahead, 2 m to the left, driving ahead
    points = np.array([[11.9, 2.7, -0.5, 0], [11.9, 2.9, -0.5, 0], [10, 2, -1.6, 0], [10, 2, 0, 0]])
    dataset = open_dataset(write_kitti(tmp_path, [car, "DontCare " + "0 " * 14], points))
    assert isinstance(dataset, KittiDataset)
    (box,) = dataset.boxes(0)
    assert (box.kind, box.size) == ("Car", (4.0, 1.6, 1.5))
    np.testing.assert_allclose(box.centre, (10, 2, -0.95), atol=1e-9)
    assert box.yaw == pytest.approx(0, abs=1e-9)
    np.testing.assert_array_equal(box.contains(dataset[0].points), [True, False, True, False])
    # The third point is wheel or road.
    np.testing.assert_array_equal(dataset[0].labels, [CAR, NONE, NONE, NONE])
    np.testing.assert_array_equal(dataset[0].instances, [1, 0, 0, 0])


@settings(max_examples=40)
@given(yaw=st.floats(-3, 3), along=st.floats(-2.5, 2.5), across=st.floats(-1.5, 1.5))
def test_a_turned_box_holds_what_lies_within_its_length_and_width(yaw: float, along: float, across: float) -> None:
    assume(abs(abs(along) - 2) > 1e-3 and abs(abs(across) - 1) > 1e-3)
    heading, left = np.array([np.cos(yaw), np.sin(yaw)]), np.array([-np.sin(yaw), np.cos(yaw)])
    point = np.array([[*(np.array([20, -3]) + along * heading + across * left), 0.5, 0]], np.float32)
    inside = Box("Car", (4, 2, 1.5), (20, -3, 0.5), yaw).contains(point)
    assert inside[0] == (abs(along) < 2 and abs(across) < 1)


@pytest.mark.parametrize(
    ("box", "calibration", "message"),
    [
        ("Car 0 0", None, r"000007\.txt, line 1 has 3 words"),
        (line("Car", (1, 1, 1), (0, 0, np.nan), 0), None, r"label_2/000007\.txt, line 1 has nan, expected a finite"),
        ("Car " + "x " * 14, None, r"label_2/000007\.txt, line 1 has 'x', expected a number"),
        (
            line("Car", (1, 1, 1), (0, 0, 0), 0),
            "R0_rect: 1 0\nTr_velo_to_cam: 1\n",
            r"calib/000007\.txt, line 1 has 2 numbers for R0_rect",
        ),
        (
            line("Car", (1, 1, 1), (0, 0, 0), 0),
            f"R0_rect:{' 0' * 9}\nTr_velo_to_cam:{' 0' * 12}\n",
            r"calib/000007\.txt, line 1: R0_rect is no rotation",
        ),
    ],
)
def test_what_is_wrong_with_a_kitti_frame_is_named(
    tmp_path: Path, box: str, calibration: str | None, message: str
) -> None:
    dataset = open_dataset(write_kitti(tmp_path, [box], np.zeros((1, 4)), calibration))
    with pytest.raises(DatasetError, match=message):
        dataset[0]


def test_a_missing_kitti_file_is_named(tmp_path: Path) -> None:
    write_kitti(tmp_path, [], np.zeros((1, 4)))
    (tmp_path / "training" / "calib" / "000007.txt").unlink()
    with pytest.raises(DatasetError, match=r"calib/000007\.txt is missing"):
        open_dataset(tmp_path)


def test_real_boxes_hold_points(shared: Path) -> None:
    dataset = open_dataset(shared / "data" / "kitti")
    assert isinstance(dataset, KittiDataset)
    for index in range(len(dataset)):
        scan = dataset[index]
        for number, box in enumerate(dataset.boxes(index), start=1):
            inside = scan.instances == number
            assert inside.sum() > 0, f"{scan.name}: {box.kind} at {box.centre}"
            assert not (inside & ~box.contains(scan.points)).any()


def test_a_scan_is_scaled_alike_whichever_was_read_before(tmp_path: Path) -> None:
    """The first scan is dark, the second shows that the sensor counts to 255."""
    root = write_kitti(tmp_path, [], np.array([[5, 0, 0, 1.0]]))
    training = tmp_path / "training"
    bright = np.array([[5, 0, 0, 255.0]], np.float32)
    bright.tofile(training / "velodyne" / "000008.bin")
    for folder in ("label_2", "calib"):
        (training / folder / "000008.txt").write_bytes((training / folder / "000007.txt").read_bytes())
    dataset = open_dataset(root, intensity="auto")
    first = dataset[0].points[0, 3]
    assert dataset[1].points[0, 3] == 1
    assert first == dataset[0].points[0, 3] == pytest.approx(1 / 255)
