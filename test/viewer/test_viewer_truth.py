"""What the viewer shows of labels beside their truth, without a browser."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from segment_results import FRAMES, street, write_bag, write_label_files
from spvnas_cli import segmented
from spvnas_ros.engine.sample_street import street_scan
from spvnas_ros.frame import UNLABELLED
from spvnas_ros.labels import SEMANTIC_KITTI
from spvnas_ros.palettes import shown
from spvnas_ros.perception import Perception
from spvnas_ros.recordings.scans import open_source
from spvnas_ros.viewer.colours import Classes, accuracy, choices, colour, counts, visible
from spvnas_ros.viewer.command import results_of_a_run
from spvnas_ros.viewer.frames import FrameError, Frames, Labelling, ViewFrame
from spvnas_ros.viewer.picking import describe, under_pointer
from spvnas_ros.viewer.truth_place import (
    TruthPlace,
    label_map_of_a_run,
    looked_for,
    named_truth,
    open_truth,
    truth_of_a_run,
)
from view_samples import labelled_bag

CLASSES = Classes(SEMANTIC_KITTI.classes, shown(SEMANTIC_KITTI.classes, SEMANTIC_KITTI.palette))
CAR, ROAD, POLE = (SEMANTIC_KITTI.classes.index(name) for name in ("car", "road", "pole"))


def compared(labels: list[int], truth: list[int]) -> ViewFrame:
    count = len(labels)
    points = np.zeros((count, 4), np.float32)
    return ViewFrame("", points, np.array(labels, np.uint8), None, np.array(truth, np.uint8))


def test_errors_only_show_wrong_points_in_colour() -> None:
    frame = compared([CAR, CAR, UNLABELLED, CAR, UNLABELLED], [CAR, ROAD, ROAD, UNLABELLED, UNLABELLED])
    right, wrong, missed, no_truth, neither = colour(frame, "errors", CLASSES).tolist()
    assert tuple(wrong) == CLASSES.palette[CAR]
    assert missed == [255, 255, 255]
    assert max(right) < 80  # dim grey
    assert max(right) - min(right) < 25
    assert max(no_truth) < max(right)
    assert neither == no_truth
    found = counts(frame, "errors", CLASSES)
    assert found is not None
    assert (found[CAR], found[ROAD], found[-1], found.sum()) == (1, 0, 1, 2)
    assert accuracy(frame) == (1, 3)


def test_the_truth_has_class_colours_and_the_legend_speaks_of_what_is_shown() -> None:
    frame = compared([CAR, CAR, ROAD], [POLE, CAR, UNLABELLED])
    assert choices(frame)[:3] == ("class", "truth", "errors")
    assert [tuple(row) for row in colour(frame, "truth", CLASSES)] == [CLASSES.colours[i] for i in (POLE, CAR, -1)]
    for by, expected in (("truth", [False, True, True]), ("class", [True, True, True]), ("errors", [True] * 3)):
        assert visible(frame, frozenset({POLE}), CLASSES, by).tolist() == expected
    found = counts(frame, "truth", CLASSES)
    assert found is not None
    assert (found[POLE], found[CAR], found[-1]) == (1, 1, 1)


def test_without_a_truth_nothing_is_compared() -> None:
    frame = ViewFrame("", np.zeros((1, 4), np.float32), np.array([CAR], np.uint8))
    assert choices(frame) == ("class", "height")
    assert colour(frame, "errors", CLASSES).tolist() == [list(CLASSES.palette[CAR])]
    assert accuracy(frame) is None


def test_the_pointer_meets_the_point_in_front_that_is_shown() -> None:
    points = np.array([[5, 0, 0, 0], [10, 0, 0, 0], [10, 3, 0, 0], [-5, 0, 0, 0]], np.float32)
    everything = np.ones(4, np.bool_)
    assert under_pointer(points, everything, (0, 0, 0), (2, 0, 0)) == 0
    assert under_pointer(points, np.array([False, True, True, True]), (0, 0, 0), (2, 0, 0)) == 1
    assert under_pointer(points, everything, (0, 3, 0), (1, 0.002, 0)) == 2
    assert under_pointer(points, everything, (0, 0, 0), (0, 0, 1)) is None
    assert under_pointer(points[:0], everything[:0], (0, 0, 0), (1, 0, 0)) is None


def test_a_point_is_read_with_everything_that_is_known() -> None:
    points = np.array([[3, 4, 12, 0.25]], np.float32)
    labels, truth, confidence = (np.array([value]) for value in (CAR, POLE, np.float32(0.625)))
    facts = dict(describe(ViewFrame("", points, labels, confidence, truth), 0, CLASSES))
    assert facts == {
        "class": "car", "true class": "pole", "confidence": "0.62", "intensity": "0.25", "range": "13.0 m",
        "x, y, z": "3.00, 4.00, 12.00 m",
    }  # fmt: skip
    assert list(dict(describe(ViewFrame("", points), 0, CLASSES))) == ["intensity", "range", "x, y, z"]
    unknown = ViewFrame("", points, labels, None, np.array([UNLABELLED]))
    assert dict(describe(unknown, 0, CLASSES))["true class"] == "not known"


def frames_of_a_run(out: Path) -> list[ViewFrame]:
    place = truth_of_a_run(out)
    assert place is not None
    path, labels = results_of_a_run(out, None)
    with open_source(path) as source, open_truth(place, source, SEMANTIC_KITTI) as truth:
        frames = Frames(source, Labelling(SEMANTIC_KITTI, None, labels), truth)
        return [frames[number] for number in range(len(frames))]


@pytest.mark.parametrize("kind", ["raw", "class", "files"])
def test_the_folder_of_a_run_over_a_bag_brings_its_truth(
    weights: Path, perception: Perception, tmp_path: Path, kind: str
) -> None:
    out = tmp_path / "out"
    truth = write_label_files(tmp_path / "labels") if kind == "files" else "label"
    drive = write_bag(tmp_path / "drive", "" if kind == "files" else kind)
    assert segmented(drive, "-w", weights, "-o", out, "--device", "cpu", "--truth", truth)[0] == 0
    for number, frame in enumerate(frames_of_a_run(out)):
        points, right = street(number)
        np.testing.assert_array_equal(frame.truth, right)
        np.testing.assert_array_equal(frame.labels, perception(points).labels)
    assert label_map_of_a_run(out) == "semantic-kitti"


def test_clouds_that_could_not_be_labelled_do_not_shift_the_truth(weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    drive = write_bag(tmp_path / "drive", "raw")
    assert segmented(drive, "-w", weights, "-o", out, "--device", "cpu", "--truth", "label")[0] == 0
    short, at = write_bag(tmp_path / "short", "raw"), json.loads((out / "summary.json").read_text())
    place = truth_of_a_run(out)
    assert place is not None
    assert place.numbers == tuple(range(FRAMES))
    (out / "summary.json").write_text(json.dumps(at | {"names": ["000001", "000003"], "source": str(short)}))
    place = truth_of_a_run(out)
    assert place is not None
    with open_source(drive) as source, open_truth(place, source, SEMANTIC_KITTI) as truth:
        for index, number in enumerate((1, 3)):
            found = truth.of(index, "", len(street(number)[0]), None)
            np.testing.assert_array_equal(found, street(number)[1])


def write_scans(folder: Path) -> Path:
    for number in range(2):
        points, truth = street(number)
        for name, file, rows in (("velodyne", "bin", points), ("labels", "label", SEMANTIC_KITTI.decode(truth))):
            (folder / name).mkdir(parents=True, exist_ok=True)
            rows.tofile(folder / name / f"{number:06d}.{file}")
    return folder


def test_the_labels_beside_scans_are_the_truth_of_other_labels_and_not_of_themselves(
    weights: Path, perception: Perception, tmp_path: Path
) -> None:
    scans, out = write_scans(tmp_path / "04"), tmp_path / "out"
    assert segmented(scans, "-w", weights, "-o", out, "--device", "cpu")[0] == 0
    assert truth_of_a_run(out) is None
    looked_for = TruthPlace(asked=False)
    cases = ((out / "labels", None, True), (None, perception, True), (None, None, False))
    for folder, network, has in cases:
        with open_source(scans) as source, open_truth(looked_for, source, SEMANTIC_KITTI) as truth:
            frame = Frames(source, Labelling(SEMANTIC_KITTI, folder=folder, network=network), truth)[1]
        assert (frame.truth is not None) == has
        if frame.truth is not None:
            np.testing.assert_array_equal(frame.truth, street(1)[1])
            np.testing.assert_array_equal(frame.labels, perception(street(1)[0]).labels)


def test_a_truth_that_was_only_looked_for_spoils_no_frame_and_one_that_was_asked_for_is_missed(
    perception: Perception, tmp_path: Path
) -> None:
    scans = write_scans(tmp_path / "04")
    (scans / "labels/000000.label").write_bytes(bytes(8))
    asked = named_truth(str(scans / "labels"))
    assert asked is not None
    assert named_truth("category") == TruthPlace(field="category")
    for place in (TruthPlace(asked=False), asked):
        with open_source(scans) as source, open_truth(place, source, SEMANTIC_KITTI) as truth:
            frames = Frames(source, Labelling(SEMANTIC_KITTI, network=perception), truth)
            if place.asked:
                with pytest.raises(FrameError, match=r"the truth: .*8 bytes, but the scan"):
                    frames[0]
            else:
                assert frames[0].truth is None
            np.testing.assert_array_equal(frames[1].truth, street(1)[1])


def test_a_root_with_predictions_in_it_shows_them_beside_its_own_labels(tmp_path: Path) -> None:
    root = tmp_path / "set"
    scans = write_scans(root / "sequences/08")
    predictions = scans / "predictions"
    shutil.copytree(scans / "labels", predictions)
    np.full(len(street(0)[0]), 10, np.uint32).tofile(predictions / "000000.label")
    with open_source(root) as source, open_truth(TruthPlace(asked=False), source, SEMANTIC_KITTI) as truth:
        frame = Frames(source, Labelling(SEMANTIC_KITTI), truth)[0]
    assert frame.labels is not None
    assert (frame.labels == CAR).all()
    np.testing.assert_array_equal(frame.truth, street(0)[1])


def test_what_a_network_wrote_is_no_truth_unless_asked_for(perception: Perception, tmp_path: Path) -> None:
    labelled_bag(tmp_path / "bag", 1)
    with open_source(tmp_path / "bag") as source:
        assert looked_for(source, None, None, network=True) is None
        with open_truth(TruthPlace(field="label"), source, SEMANTIC_KITTI) as truth:
            frame = Frames(source, Labelling(SEMANTIC_KITTI, network=perception), truth)[0]
    np.testing.assert_array_equal(frame.truth, street_scan(3, 16, 60)[1])


def test_clouds_with_labels_of_their_own_are_the_truth_of_a_networks(perception: Perception, tmp_path: Path) -> None:
    with open_source(write_bag(tmp_path / "drive", "class")) as source:
        place = looked_for(source, None, None, network=True)
        assert place == TruthPlace(field="label", asked=False)
        with open_truth(place, source, SEMANTIC_KITTI) as truth:
            frame = Frames(source, Labelling(SEMANTIC_KITTI, network=perception), truth)[2]
    np.testing.assert_array_equal(frame.truth, street(2)[1])


def test_a_labelled_bag_is_compared_with_the_labels_that_its_clouds_had_before(weights: Path, tmp_path: Path) -> None:
    drive = write_bag(tmp_path / "drive", "class", "|u1")
    assert segmented(drive, "-w", weights, "-o", tmp_path / "once", "--device", "cpu")[0] == 0
    assert segmented(tmp_path / "once/bag", "-w", weights, "-o", tmp_path / "twice", "--device", "cpu")[0] == 0
    for bag, has in ((tmp_path / "once/bag", True), (tmp_path / "twice/bag", True), (drive, False)):
        with open_source(bag) as source:
            place = looked_for(source, None, None, network=False)
            assert (place is not None) == has
            if place is None:
                continue
            with open_truth(place, source, SEMANTIC_KITTI) as truth:
                frame = Frames(source, Labelling(SEMANTIC_KITTI), truth)[1]
            np.testing.assert_array_equal(frame.truth, street(1)[1])
