"""`spvnas evaluate --boxes`: the development kit's figures from the command line, the picture, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kitti_sets import frames_of, unpacked
from spvnas_cli import spvnas
from spvnas_ros.offline.evaluation.box_evaluation import box_frame

CAR = "Car 0.00 0 -1.57 100.0 150.0 200.0 250.0 1.5 1.6 3.9 {x} 1.6 20.0 -1.57"


def write(folder: Path, frames: dict[str, tuple[list[str], list[str]]]) -> Path:
    """Labels in `label_2`, results in `det`."""
    for part in ("label_2", "det"):
        (folder / part).mkdir(parents=True)
    for name, lines in frames.items():
        for part, own in zip(("label_2", "det"), lines, strict=True):
            (folder / part / f"{name}.txt").write_text("".join(f"{line}\n" for line in own))
    return folder


@pytest.fixture
def drive(tmp_path: Path) -> Path:
    cars = [CAR.format(x=x) for x in (-4.0, 4.0)]
    return write(tmp_path / "kitti", {f"{i:06d}": (cars, [f"{car} 0.{i}5" for car in cars]) for i in range(3)})


@pytest.mark.parametrize("name", ["mixed", "empty_and_missing"])
def test_the_command_gives_the_figures_of_the_development_kit(shared: Path, tmp_path: Path, name: str) -> None:
    recorded = json.loads((shared / "golden" / "detection" / "kitti_eval" / "expected.json").read_text())[name]
    folder = unpacked(shared, name, tmp_path / "set")
    found = spvnas("evaluate", folder, "--boxes", folder / "det", "--json", "--out", tmp_path / "out")
    assert found.exit_code == 0
    report = json.loads(found.stdout)
    assert report == json.loads((tmp_path / "out" / "report.json").read_text())
    assert (report["kind"], report["frames"]) == ("boxes", recorded["frames"])
    for index, entry in enumerate(report["kitti"]):
        expected = recorded[entry["class"]][entry["metric"]]["cpp_r40"]
        if expected is None:
            assert (entry["r40"], entry["r11"]) == (None, None)
            assert entry["reason"] == f"no detection of the class {entry['class']}"
        else:
            assert entry["r40"] == pytest.approx(expected["R40"][index % 3], abs=1e-4)
            assert entry["r11"] == pytest.approx(expected["R11"][index % 3], abs=1e-4)
            assert len(entry["precision"]) == 41
    with Image.open(tmp_path / "out" / "curves.png") as picture:
        assert picture.width == 1600
        assert len(picture.convert("RGB").getcolors(1 << 24)) > 20


def test_few_objects_are_told(drive: Path) -> None:
    found = spvnas("evaluate", drive, "--boxes", drive / "det")
    assert found.exit_code == 0
    assert (
        "car easy: 6 object(s) reach 6 of 41 recalls; a perfect detector would have R40 12.50, R11 18.18."
        in found.stdout
    )
    assert "No figure for pedestrian bbox, pedestrian aos" in found.stdout
    assert "changes a figure by more than two percent: car 20 to 40 m: 6" in found.stdout
    row = next(line.split() for line in found.stdout.splitlines() if line.startswith("car easy "))
    assert row == ["car", "easy", "6", "12.50", "12.50", "12.50", "12.50"]
    assert f"3 frame(s) of {drive / 'det'} against {drive}" in found.stdout


def test_a_perfect_detector_on_41_objects_has_100(tmp_path: Path) -> None:
    cars = [CAR.format(x=x) for x in range(-82, 82, 4)]
    folder = write(tmp_path / "kitti", {"000000": (cars, [f"{car} 0.5" for car in cars])})
    report = json.loads(spvnas("evaluate", folder, "--boxes", folder / "det", "--json").stdout)
    cars_only = [entry for entry in report["kitti"] if entry["class"] == "car"]
    # The rectangles in the picture all coincide: each object is found there, whichever detection does.
    assert {entry["objects"] for entry in cars_only} == {41}
    assert {round(entry["r40"], 9) for entry in cars_only} == {100}
    assert {round(entry["reachable_r40"], 9) for entry in cars_only} == {100}


def test_labels_are_found_in_kittis_folder_and_frames_without_results_are_counted(drive: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(drive / "label_2", root / "training" / "label_2")
    (drive / "det" / "000002.txt").unlink()
    reports = [
        json.loads(spvnas("evaluate", source, "--boxes", drive / "det", "--json").stdout)
        for source in (root, root / "training", root / "training" / "label_2")
    ]
    assert [(report["frames"], report["without_results"]) for report in reports] == [(2, 1)] * 3
    assert reports[0]["kitti"] == reports[1]["kitti"] == reports[2]["kitti"]
    said = spvnas("evaluate", root, "--boxes", drive / "det").stdout
    assert "1 frame(s) of the truth have no results" in said


def test_where_no_class_has_detections_the_status_says_so(drive: Path) -> None:
    for path in (drive / "det").iterdir():
        path.write_text("")
    found = spvnas("evaluate", drive, "--boxes", drive / "det")
    assert found.exit_code == 1
    assert "no detection of the class car" in found.stdout


@pytest.mark.parametrize(
    ("part", "old", "new", "said"),
    [
        ("det", "3.9", "-3.9", "det/000001.txt, line 1 has the length -3.9, expected a size of 0 or more"),
        ("det", "0.15", "nan", "det/000001.txt, line 1 has nan, expected a finite number"),
        ("det", "Car", "Bus", "det/000001.txt, line 1 has the class 'Bus', expected one of Car, Van"),
        ("det", " 0.15", "", "det/000001.txt, line 1 has 15 words, expected 16; results need a score"),
        ("label_2", "20.0 -1.57\n", "2", "label_2/000001.txt, line 2 has 14 words, expected 15"),
    ],
)
def test_a_bad_file_is_one_sentence_with_file_and_line(
    drive: Path, tmp_path: Path, part: str, old: str, new: str, said: str
) -> None:
    path = drive / part / "000001.txt"
    text = path.read_text()
    # What cuts a file short is at its end.
    before, after = text.rsplit(old, 1) if part == "label_2" else text.split(old, 1)
    path.write_text(before + new + after)
    found = spvnas("evaluate", drive, "--boxes", drive / "det", "--out", tmp_path / "out")
    assert (found.exit_code, found.stdout) == (1, "")
    assert f"{drive}/{said}" in found.stderr
    assert found.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_folders_that_do_not_fit_are_told(drive: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for source, predictions, said in (
        (tmp_path / "empty", drive / "det", "has no folder label_2"),
        (drive, tmp_path / "none", "is no folder, expected one with a file of KITTI's results"),
        (drive, tmp_path / "empty", "has no .txt files"),
        (drive, drive / "label_2", "holds the truth itself"),
    ):
        found = spvnas("evaluate", source, "--boxes", predictions)
        assert (found.exit_code, found.stdout) == (1, "")
        assert said in found.stderr
        assert found.stderr.count("\n") == 1
    (drive / "label_2" / "000001.txt").unlink()
    found = spvnas("evaluate", drive, "--boxes", drive / "det")
    assert f"000001.txt has no truth: {drive / 'label_2' / '000001.txt'} is missing (1 of 3 files)" in found.stderr


def test_options_about_a_network_do_not_go_with_boxes(drive: Path) -> None:
    for option in (("--tta",), ("-w", "default"), ("--beams", "32")):
        found = spvnas("evaluate", drive, "--boxes", drive / "det", *option)
        assert found.exit_code == 2
        assert "does not go with --boxes" in found.stderr


def test_around_the_camera_every_object_counts_and_neighbours_are_ignored(shared: Path, tmp_path: Path) -> None:
    frames = frames_of(unpacked(shared, "dontcare_neighbours", tmp_path))
    made = [box_frame(frame) for frame in frames]
    kinds = [kind for frame in frames for kind in frame.truth.kinds]
    ignored = np.concatenate([frame.ignored for frame in made])
    assert ignored.sum() == kinds.count("Van") + kinds.count("Person_sitting")
    assert (~ignored).sum() == kinds.count("Car") + kinds.count("Pedestrian") + kinds.count("Cyclist")
    assert np.concatenate([frame.excused for frame in made]).any()
    first = next(frame for frame in frames if frame.truth.kinds and frame.truth.kinds[0] == "Car")
    x, _, z, length = first.truth.camera[0, :4]
    np.testing.assert_allclose(box_frame(first).truth.boxes[0, [0, 1, 3]], (z, -x, length), rtol=1e-5)
