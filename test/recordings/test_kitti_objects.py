"""Files of KITTI's object benchmark: what is read, what is written, and what is told of files that are none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spvnas_ros.boxes.conversions import wrapped
from spvnas_ros.frame import Boxes
from spvnas_ros.recordings.kitti_objects import (
    KittiCalibration,
    KittiFileError,
    lidar_boxes,
    read_calibration,
    read_objects,
    results,
    write_results,
)

CAR = "Car 0.00 1 -1.57 100.0 150.0 200.0 250.0 1.5 1.6 3.9 2.0 1.6 20.0 -1.57"
AXES = np.array([[0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1.0]])
PROJECTION = np.array([[700, 0, 620, 0], [0, 700, 180, 0], [0, 0, 1.0, 0]])


def test_real_files_are_read(shared: Path) -> None:
    root = shared / "data" / "kitti" / "training"
    objects = read_objects(root / "label_2" / "004139.txt", scored=False)
    calibration = read_calibration(root / "calib" / "004139.txt")
    there = np.array([kind != "DontCare" for kind in objects.kinds])
    np.testing.assert_array_equal(objects.has_box, there)
    with np.load(shared / "golden" / "detection" / "openpcdet_second_w4_004139.npz", allow_pickle=True) as recorded:
        assert [kind for kind in objects.kinds if kind != "DontCare"] == recorded["gt_names"].tolist()
        expected = recorded["gt_lidar"]
    found = lidar_boxes(objects, calibration)[there]
    np.testing.assert_allclose(found[:, :6], expected[:, :6], atol=2e-5)
    np.testing.assert_allclose(wrapped(found[:, 6] - expected[:, 6]), 0, atol=2e-5)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    boxes = np.c_[rng.uniform((5, -4, -1), (60, 4, 1), (20, 3)), rng.uniform(0.5, 4, (20, 3)), rng.uniform(-3, 3, 20)]
    given = Boxes(boxes.astype(np.float32), rng.random(20, np.float32), rng.integers(0, 2, 20).astype(np.uint8))
    calibration = KittiCalibration(AXES, PROJECTION)
    objects = results(given, ("Car", "Cyclist"), calibration, (1242, 375))
    assert len(objects) == 20
    write_results(tmp_path / "000001.txt", objects)
    again = read_objects(tmp_path / "000001.txt", scored=True)
    np.testing.assert_allclose(lidar_boxes(again, calibration), given.boxes, atol=2e-4)
    np.testing.assert_allclose(again.scores, given.scores, atol=1e-6)
    assert again.kinds == tuple(("Car", "Cyclist")[index] for index in given.classes)
    np.testing.assert_allclose(again.rectangles, objects.rectangles, atol=1e-4)


def test_what_the_picture_does_not_show_is_left_out() -> None:
    boxes = np.array([[20, 0, 0, 4, 2, 1.5, 0], [-20, 0, 0, 4, 2, 1.5, 0], [5, 40, 0, 4, 2, 1.5, 0]], np.float32)
    given = Boxes(boxes, np.array([0.1, 0.2, 0.3], np.float32), np.zeros(3, np.uint8))
    found = results(given, ("Car",), KittiCalibration(AXES, PROJECTION), (1242, 375))
    assert found.scores.tolist() == [pytest.approx(0.1)]
    with pytest.raises(KittiFileError, match="no P2"):
        results(given, ("Car",), KittiCalibration(AXES, None), (1242, 375))


def test_a_result_in_the_picture_alone_has_no_box(tmp_path: Path) -> None:
    path = tmp_path / "0.txt"
    path.write_text("Car -1 -1 -10 1 2 3 4 -1 -1 -1 -1000 -1000 -1000 -10 0.5\n" + CAR + " 0.25\n")
    found = read_objects(path, scored=True)
    assert found.has_box.tolist() == [False, True]
    assert found.scores.tolist() == [0.5, 0.25]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("Car", "Bus", "has the class 'Bus', expected one of Car, Van"),
        ("3.9", "-3.9", "has the length -3.9, expected a size of 0 or more"),
        ("20.0", "nan", "has nan, expected a finite number"),
        ("1.6 20.0", "1.6 1e999", "has 1e999, expected a finite number"),
        ("-1.57 100", "left 100", "has 'left', expected a number"),
        ("200.0", "50.0", "has left 100 and right 50, expected left to be the smaller one"),
        (" 20.0 -1.57", " 2", "has 14 words, expected 15"),
        ("1.57 100", "1.57\n100", "has 4 words, expected 15"),
    ],
)
def test_what_is_wrong_is_told_with_file_and_line(tmp_path: Path, old: str, new: str, said: str) -> None:
    path = tmp_path / "000003.txt"
    path.write_text(f"{CAR}\n\n{CAR.replace(old, new, 1)}")
    with pytest.raises(KittiFileError) as found:
        read_objects(path, scored=False)
    assert str(found.value).startswith(f"{path}, line 3 {said}")
    assert "\n" not in str(found.value)


def test_a_result_needs_a_score_and_a_label_is_no_binary_file(tmp_path: Path) -> None:
    path = tmp_path / "000003.txt"
    path.write_text(CAR)
    with pytest.raises(KittiFileError, match=r"line 1 has 15 words, expected 16; results need a score, the 16th word"):
        read_objects(path, scored=True)
    path.write_bytes(bytes(range(256)))
    with pytest.raises(KittiFileError, match=r"000003\.txt: cannot be read as text"):
        read_objects(path, scored=True)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", r"0\.txt has no line 'R0_rect'; expected a calibration"),
        ("R0_rect: 1 0 0 0 1 0 0 0 1\n", "has no line 'Tr_velo_to_cam'"),
        ("P0: 1\nR0_rect: 1 0 0 0 1\n", "line 2 has 5 numbers for R0_rect, expected 9"),
        ("R0_rect: 1 0 0 0 1 0 0 0 x\n", "line 1 has 'x', expected a number"),
        ("R0_rect: 1 0 0 0 1 0 0 0 inf\n", "line 1 has inf, expected a finite number"),
        ("R0_rect: 1 0 0 0 1 0 0 0 -1\nTr_velo_to_cam: 1 0 0 0 0 1 0 0 0 0 1 0", "line 1: R0_rect is no rotation"),
        (
            "R0_rect: 1 0 0 0 1 0 0 0 1\nTr_velo_to_cam:" + " 2 0 0 0 0 2 0 0 0 0 2 0",
            "line 2: Tr_velo_to_cam is no rot",
        ),
    ],
)
def test_a_calibration_that_is_none_is_told(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "0.txt"
    path.write_text(text)
    with pytest.raises(KittiFileError, match=said):
        read_calibration(path)
