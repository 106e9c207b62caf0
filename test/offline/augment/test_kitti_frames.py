"""Augmented frames are written as KITTI's, and read back as they were."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spvnas_ros.frame import Boxes
from spvnas_ros.offline.augment.boxed_objects import build_database
from spvnas_ros.offline.augment.compose import BoxedAugmentation
from spvnas_ros.offline.augment.kitti_frames import write_frames
from spvnas_ros.offline.augment.option_checks import AugmentationError
from spvnas_ros.offline.datasets.boxed import in_picture, open_boxed
from spvnas_ros.offline.evaluation.kitti import KittiFrame, evaluate_kitti
from spvnas_ros.recordings.kitti_objects import read_calibration, read_objects, results

MANY = {"sample_objects": {"counts": {"Pedestrian": 40, "Car": 10, "Cyclist": 4}, "min_points": 20}}


@pytest.fixture(scope="module")
def kitti(shared: Path) -> Path:
    return shared / "data" / "kitti"


@pytest.mark.parametrize("augmentation", [{}, MANY, {"rotate": {"degrees": [5, 5]}}])
def test_what_is_written_is_what_augmentation_makes(
    kitti: Path, tmp_path: Path, augmentation: dict[str, object]
) -> None:
    written = write_frames(kitti, tmp_path / "out", augmentation, seed=1)
    before, after = open_boxed(kitti), open_boxed(tmp_path / "out")
    calibrations = tmp_path / "out" / "calib"
    assert [after.name(i) for i in range(len(after))] == [before.name(i) for i in range(len(before))]
    assert written == sum(len(after[i].objects) for i in range(len(after)))
    scans = [before[i] for i in range(len(before))]
    augment, database = BoxedAugmentation.from_config(augmentation), build_database(scans, 20)
    for index, scan in enumerate(scans):
        expected = augment(scan, np.random.default_rng((1, index)), database)
        found = after[index]
        shown = in_picture(expected.points, read_calibration(calibrations / f"{scan.name}.txt"))
        np.testing.assert_array_equal(found.points, expected.points[shown])
        if "rotate" in augmentation:  # some objects have left the picture
            assert 0 < len(found.objects) <= len(expected.objects)
            continue
        assert found.objects.kinds == expected.objects.kinds
        np.testing.assert_allclose(found.objects.boxes, expected.objects.boxes, atol=2e-3)
        np.testing.assert_array_equal(found.objects.occlusion, expected.objects.occlusion)


def test_a_perfect_detector_scores_100_where_enough_objects_count(kitti: Path, tmp_path: Path) -> None:
    def pedestrians(folder: Path) -> list[tuple[int, float]]:
        """Objects that count and AP at 40 recall positions, moderate and hard, of boxes that are the truth."""
        frames, dataset = [], open_boxed(folder)
        label_folder = next(folder.rglob("label_2"))
        for index in range(len(dataset)):
            scan = dataset[index]
            kinds = sorted(set(scan.objects.kinds))
            classes = np.array([kinds.index(kind) for kind in scan.objects.kinds], np.uint8)
            boxes = Boxes(scan.objects.boxes, np.ones(len(classes), np.float32), classes)
            calibration = read_calibration(label_folder.parent / "calib" / f"{scan.name}.txt")
            truth = read_objects(label_folder / f"{scan.name}.txt", scored=False)
            frames.append(KittiFrame(scan.name, truth, results(boxes, kinds, calibration, (1242, 375))))
        figures = [f for f in evaluate_kitti(frames) if (f.kind, f.metric) == ("pedestrian", "3d")]
        return [(f.curve.objects, f.curve.r40) for f in figures if f.curve and f.difficulty in ("moderate", "hard")]

    write_frames(kitti, tmp_path / "out", MANY, seed=1)
    for (few, low), (many, high) in zip(pedestrians(kitti), pedestrians(tmp_path / "out"), strict=True):
        assert few < 41 <= many
        assert low == pytest.approx(100 * (few - 1) / 40)
        assert high == pytest.approx(100)


def test_what_cannot_be_written_is_said(kitti: Path, tmp_path: Path) -> None:
    with pytest.raises(AugmentationError, match="augmentation 'swirl' is not known"):
        write_frames(kitti, tmp_path / "out", {"swirl": None})
    assert not (tmp_path / "out").exists()
    (tmp_path / "there" / "velodyne").mkdir(parents=True)
    with pytest.raises(FileExistsError):
        write_frames(kitti, tmp_path / "there", {})
