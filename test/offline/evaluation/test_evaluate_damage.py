"""`spvnas evaluate` on data that cannot be scored, in part or at all; and Ctrl-C."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import spvnas_ros
from drives import write_drive
from labelled_files import write_kitti
from spvnas_cli import spvnas
from spvnas_ros.offline.datasets import DatasetError, open_dataset
from spvnas_ros.offline.evaluation.dataset_evaluation import evaluate
from spvnas_ros.offline.evaluation.report import Report
from spvnas_ros.segment.label_frames import Interrupted

SCANS = 5


@pytest.fixture
def drive(tmp_path: Path) -> Path:
    folder = tmp_path / "drive"
    folder.mkdir()
    write_drive(folder, SCANS)
    return folder


def damage(drive: Path) -> None:
    """Leaves scans 2 and 4 whole: 0 is empty, 1 holds no number, and 3 lacks a label."""
    scan, label = drive / "velodyne", drive / "labels"
    (scan / "000000.bin").write_bytes(b"")
    (label / "000000.label").write_bytes(b"")
    points = np.fromfile(scan / "000001.bin", np.float32)
    np.full_like(points, np.nan).tofile(scan / "000001.bin")
    (label / "000003.label").write_bytes((label / "000003.label").read_bytes()[:-4])


def test_a_scan_that_cannot_be_scored_does_not_spoil_the_rest(drive: Path, weights: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    whole.mkdir()
    for part in ("velodyne", "labels"):
        shutil.copytree(drive / part, whole / part, ignore=lambda _, names: [n for n in names if n[5] not in "24"])
    damage(drive)
    found = spvnas("evaluate", drive, "-w", weights, "-o", tmp_path / "out", "--device", "cpu")
    assert found.exit_code == 1
    assert "skipped drive/000000: " in found.stderr
    assert "3 scan(s) could not be scored, the first is drive/000000: it has no point" in found.stdout
    report = Report.load(tmp_path / "out")
    assert [entry.name for entry in report.skipped] == ["drive/000000", "drive/000001", "drive/000003"]
    assert "000003.label has" in report.skipped[2].reason
    alone = spvnas("evaluate", whole, "-w", weights, "--json", "--device", "cpu")
    assert alone.exit_code == 0
    assert (report.score.miou, report.frames) == (json.loads(alone.stdout)["miou"], 2)


def test_where_no_scan_can_be_scored_the_first_reason_is_the_error(drive: Path, weights: Path) -> None:
    for path in (drive / "velodyne").iterdir():
        path.write_bytes(b"")
    for path in (drive / "labels").iterdir():
        path.write_bytes(b"")
    found = spvnas("evaluate", drive, "-w", weights, "--device", "cpu")
    assert (found.exit_code, found.stdout) == (1, "")
    assert "nothing was scored: 5 scan(s) could not be scored, the first is drive/000000" in found.stderr


def test_without_any_label_no_figure_is_made_up(drive: Path, weights: Path, tmp_path: Path) -> None:
    for path in (drive / "labels").iterdir():
        path.write_bytes(bytes(path.stat().st_size))
    out = tmp_path / "out"
    found = spvnas("evaluate", drive, "-w", weights, "-o", out, "--device", "cpu")
    assert found.exit_code == 1
    assert "no point of" in found.stderr
    assert "mIoU - over 0 of 19 classes (all classes, absent ones as 0: -), accuracy -, calibration error -" in (
        found.stdout
    )
    assert "%" not in found.stdout
    document = json.loads((out / "report.json").read_text())
    for key in ("miou", "miou_official", "accuracy", "ece", "mean_recall"):
        assert document[key] is None, key
    assert all(ring["miou"] is None for ring in document["by_distance"])
    assert all((entry["confidence"], entry["accuracy"]) == (None, None) for entry in document["reliability"])
    with Image.open(out / "confusion.png") as picture:
        assert picture.width == 1600


def test_in_boxes_the_figure_is_called_recall(weights: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform((8, -3, -1.5, 0), (14, 3, 1, 1), (4000, 4))
    car = "Car 0 0 0 0 0 9 9 2.5 3.0 3.0 0.0 1.5 10.0 0.0"
    folder = write_kitti(tmp_path / "kitti", [car], points)
    assert len(np.unique(open_dataset(folder)[0].labels)) == 2, "a car, and points without a label"
    found = spvnas("evaluate", folder, "-w", weights, "-o", tmp_path / "out", "--device", "cpu")
    assert found.exit_code == 0, found.stderr
    assert "mean recall in boxes" in found.stdout
    assert "mIoU " not in found.stdout.replace("this is no mIoU", "")
    report = Report.load(tmp_path / "out")
    assert (report.score.miou, set(report.score.iou.values())) == (None, {None})
    row = np.array(report.score.confusion)[0]
    assert report.score.recall["car"] == report.score.mean_recall == row[0] / row.sum()


def test_an_unlabelled_sequence_beside_labelled_ones_is_named_with_the_option(
    drive: Path, weights: Path, tmp_path: Path
) -> None:
    root = tmp_path / "set"
    for number in ("00", "01"):
        shutil.copytree(drive, root / "sequences" / number)
    shutil.copytree(drive / "velodyne", root / "sequences" / "11" / "velodyne")
    found = spvnas("evaluate", root, "-w", weights, "--device", "cpu")
    assert found.exit_code == 1
    for words in ("11/labels/000000.label is missing", "Sequence 11 cannot be used", "--sequences 00,01", "--split"):
        assert words in found.stderr
    assert spvnas("evaluate", root, "-w", weights, "--device", "cpu", "--sequences", "00,01").exit_code == 0


def test_an_evaluation_that_is_stopped_knows_where_it_was(perception: spvnas_ros.Perception, drive: Path) -> None:
    answers = iter([False, False, True])
    with pytest.raises(Interrupted) as caught:
        evaluate(perception, open_dataset(drive), stopped=lambda: next(answers))
    assert (caught.value.done, caught.value.total) == (2, SCANS)


INTERRUPTED = """
import os, signal, sys
from spvnas_ros.cli import app
from spvnas_ros.offline.evaluation import dataset_evaluation

class Tallies(dataset_evaluation.Tallies):
    def add(self, *others):
        super().add(*others)
        os.kill(os.getpid(), signal.SIGINT)

dataset_evaluation.Tallies = Tallies
app(["evaluate", *sys.argv[1:]])
"""
"""Gets a Ctrl-C while the first scan is counted."""


def test_ctrl_c_says_what_it_was_at(drive: Path, weights: Path, tmp_path: Path) -> None:
    arguments = (str(drive), "-w", str(weights), "-o", str(tmp_path / "out"), "--device", "cpu")
    command = [sys.executable, "-c", INTERRUPTED, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 128 + signal.SIGINT, done.stderr
    assert f"interrupted after 1 of {SCANS} scans of {drive}" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_recording_with_a_damaged_scan_can_be_opened_with_any_intensity_rule(drive: Path, tmp_path: Path) -> None:
    for part in ("velodyne", "labels"):
        for file in (drive / part).iterdir():
            shutil.copy(file, tmp_path)
    (tmp_path / "000000.bin").write_bytes(b"abc")
    dataset = open_dataset(tmp_path, intensity="auto")
    with pytest.raises(DatasetError, match=r"000000\.bin"):
        dataset[0]
    assert len(dataset[1])
