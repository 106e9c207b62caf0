"""What `spvnas segment` leaves in its folder and what it takes away, what it says of a run, and how soon it says no."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_segment_cli import invoke
from typer.testing import CliRunner

from spvnas_ros.cli import app
from spvnas_ros.engine import ENGINES as REAL_ENGINES
from spvnas_ros.engine.sample_street import street_scan, write_drive_bag
from spvnas_ros.frame import Segmentation
from spvnas_ros.perception import Perception
from spvnas_ros.recordings.bags import BagReader, BagWriter, cloud_message, encode
from spvnas_ros.recordings.scans import open_source
from spvnas_ros.segment.command import ENGINES, ReportedIntensity, describe
from spvnas_ros.segment.run import OutputError, segment
from spvnas_ros.zoo.show import download_bar


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    (tmp_path / "scans").mkdir()
    for number in range(3):
        street_scan(number, 16, 200)[0].tofile(tmp_path / "scans" / f"{number}.bin")
    return tmp_path / "scans"


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_force_leaves_nothing_of_the_earlier_run_and_everything_else(
    scans: Path, perception: Perception, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with open_source(scans) as source:
        segment(source, perception, out, scores=True)
    write_drive_bag(tmp_path / "drive", 2, beams=16, columns=50)
    with open_source(tmp_path / "drive") as source, pytest.raises(OutputError, match="would be replaced"):
        segment(source, perception, out)
    (out / "notes.txt").write_text("mine")
    (out / "labels/notes.txt").write_text("mine")
    with open_source(tmp_path / "drive") as source:
        segment(source, perception, out, force=True)
    assert [f for f in files_in(out) if f[:4] != "bag/"] == [
        "labels/notes.txt",
        "notes.txt",
        "picture.png",
        "summary.json",
    ]
    with open_source(scans) as source:
        segment(source, perception, out, force=True)
    labels = [f"labels/{number}.label" for number in range(3)]
    assert files_in(out) == [*labels, "labels/notes.txt", "notes.txt", "picture.png", "summary.json"]


def test_a_forced_run_that_is_stopped_leaves_its_own_labels_only(
    scans: Path, perception: Perception, tmp_path: Path
) -> None:
    done: list[object] = []
    with open_source(scans) as source:
        segment(source, perception, tmp_path / "out")
        segment(source, perception, tmp_path / "out", force=True, on_frame=done.append, stopped=lambda: bool(done))
    assert files_in(tmp_path / "out") == ["labels/0.label", "picture.png", "summary.json"]


@pytest.mark.parametrize("wrong", [("-w", "missing.safetensors"), ("--engine", "steam"), ("--device", "cuda:99")])
def test_force_removes_nothing_before_the_run_can_begin(
    scans: Path, weights: Path, tmp_path: Path, wrong: tuple[str, str]
) -> None:
    arguments = (scans, "-o", tmp_path / "out", "-w", weights)
    assert invoke(*arguments, "--device", "cpu")[0] == 0
    before = files_in(tmp_path / "out")
    assert invoke(*arguments, *wrong, "--force")[0] == 1
    for scan in scans.iterdir():
        scan.write_bytes(b"no scan")
    assert invoke(*arguments, "--device", "cpu", "--force")[0] == 1
    assert files_in(tmp_path / "out") == before


def test_force_spares_the_input_a_foreign_bag_and_the_truth_of_a_dataset(
    scans: Path, perception: Perception, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    write_drive_bag(out / "bag", 2, beams=16, columns=50)
    with open_source(out / "bag") as source, pytest.raises(OutputError, match="is the input"):
        segment(source, perception, out, force=True)
    with open_source(scans) as source:
        segment(source, perception, out, force=True)
    with BagReader(out / "bag") as bag:
        assert len(bag) == 2
    sequence = tmp_path / "00"
    shutil.copytree(scans, sequence / "velodyne")
    (sequence / "labels").mkdir()
    (sequence / "labels/7.label").write_bytes(b"the truth")
    with open_source(sequence) as source, pytest.raises(OutputError, match="SemanticKITTI"):
        segment(source, perception, sequence, force=True)
    assert (sequence / "labels/7.label").read_bytes() == b"the truth"


@pytest.mark.parametrize("kind", ["scans", "bag"])
def test_a_run_that_labels_nothing_leaves_nothing_and_can_be_repeated(kind: str, weights: Path, tmp_path: Path) -> None:
    path, out = tmp_path / ("bad.bin" if kind == "scans" else "bad"), tmp_path / "new/out"
    arguments = (path, "-w", weights, "-o", out, "--device", "cpu")
    if kind == "scans":
        path.write_bytes(b"no scan")
    else:
        with BagWriter(path) as bag:
            bag.write("/points", encode(cloud_message(np.zeros(5, [("x", "f4"), ("y", "f4")]), 0, "lidar")), 1)
    status, said, error = invoke(*arguments)
    assert status == 1
    assert error.startswith("skipped ")
    assert said == f"None of 1 frame(s) could be labelled, see above: nothing was written to {out}.\n"
    assert not out.parent.exists()
    if kind == "scans":
        street_scan(0, 16, 50)[0].tofile(path)
        assert invoke(*arguments)[0] == 0


def test_a_bag_without_clouds_and_a_run_stopped_at_once_say_so(perception: Perception, tmp_path: Path) -> None:
    cloud = np.zeros(5, [("x", "f4"), ("y", "f4"), ("z", "f4")])
    with BagWriter(tmp_path / "in") as bag:
        bag.write("/points", encode(cloud_message(cloud, 0, "lidar")), 1)
    with open_source(tmp_path / "in") as source:
        summary = segment(source, perception, tmp_path / "out", stopped=lambda: True)
    assert "Interrupted before" in describe(summary, tmp_path / "out", "bag")
    summary.interrupted = False
    assert "holds no frames" in describe(summary, tmp_path / "out", "bag")
    assert not (tmp_path / "out").exists()


def test_mistakes_are_told_in_the_order_of_the_question_and_before_torch_is_loaded(tmp_path: Path, scans: Path) -> None:
    """Each round mends what the one before complained of."""
    (tmp_path / "out").write_text("a file")
    code = (
        "import sys; from typer.testing import CliRunner; from spvnas_ros.cli import app\n"
        "result = CliRunner().invoke(app, sys.argv[1:])\n"
        "print(result.exit_code, 'torch' in sys.modules, result.stderr)"
    )
    (tmp_path / "w").write_text("no weights")
    wrong = {"input": "nope.bin", "-w": "x", "--engine": "steam", "--device": "tpu", "-o": "out"}
    right = {"input": str(scans), "-w": "w", "--engine": "auto", "--device": "cpu", "-o": "out"}
    says = ("nope.bin does not exist", "there is no file x", "unknown engine", "unknown device", "out is a file")
    for name, message in zip(wrong, says, strict=True):
        options = [part for key in list(wrong)[1:] for part in (key, wrong[key])]
        done = subprocess.run(
            [sys.executable, "-c", code, "segment", wrong["input"], *options],
            capture_output=True, text=True, check=True, cwd=tmp_path,
        )  # fmt: skip
        assert done.stdout.startswith("1 False spvnas: ")
        assert message in done.stdout
        wrong[name] = right[name]


def test_the_names_known_without_torch_are_those_of_the_engines() -> None:
    assert ENGINES == REAL_ENGINES


class Counting:
    """A network that notes how many points it is asked for."""

    def __init__(self, perception: Perception) -> None:
        self._perception, self.facts, self.engine = perception, perception.facts, perception.engine
        self.calls: list[int] = []

    def __call__(self, points: np.ndarray, scores: bool = False) -> Segmentation:
        self.calls.append(len(points))
        return self._perception(points, scores)


def test_the_first_call_is_a_warm_up_and_not_measured(scans: Path, perception: Perception, tmp_path: Path) -> None:
    counting = Counting(perception)
    with open_source(scans) as source:
        sizes = [len(frame.load().points) for frame in source]
        summary = segment(source, counting, tmp_path / "out")
    assert counting.calls == [sizes[0], *sizes]
    assert len(summary.ms) == summary.frames == 3


@pytest.mark.parametrize(
    ("rule", "kind", "values", "divisors", "says"),
    [
        ("auto", "f4", (0.5, 200), [1, 255], "intensity divided by 1, later by 255 (auto)"),
        ("auto", "u1", (1, 200), [255], "intensity divided by 255 (auto)"),
        ("auto", "u2", (1, 2), [65535], "intensity divided by 65535 (auto)"),
        ("auto", "f4", (0.5, 1), [1], "intensity taken as it is (auto)"),
        ("100", "f4", (5, 100), [100], "intensity divided by 100 (100)"),
        ("none", "f4", (5, 100), [], "intensity not used"),
        ("auto", None, (0, 0), [], "no intensity found"),
    ],
)
def test_the_intensity_scale_is_reported(
    perception: Perception, tmp_path: Path, rule: str, kind: str | None, values: tuple[float, float],
    divisors: list[float], says: str,
) -> None:  # fmt: skip
    fields = [("x", "f4"), ("y", "f4"), ("z", "f4"), *([("intensity", kind)] if kind else [])]
    with BagWriter(tmp_path / "in") as bag:
        for stamp, value in enumerate(values):
            cloud = np.zeros(5, fields)
            if kind:
                cloud["intensity"] = value
            bag.write("/points", encode(cloud_message(cloud, 0, "lidar")), stamp)
    intensity = ReportedIntensity(rule)
    with open_source(tmp_path / "in", intensity=intensity) as source:
        summary = segment(source, perception, tmp_path / "out", intensity=intensity)
    assert says in describe(summary, tmp_path / "out", "bag").splitlines()[0]
    document = json.loads((tmp_path / "out/summary.json").read_text())
    assert (document["intensity"], document["intensity_divisors"]) == (rule, divisors)


def test_the_command_reports_the_intensity_scale(scans: Path, weights: Path, tmp_path: Path) -> None:
    status, said, _ = invoke(scans, "-w", weights, "-o", tmp_path / "out", "--device", "cpu")
    assert status == 0
    assert said.splitlines()[0].endswith("intensity taken as it is (auto)")


def test_a_result_is_shown_on_one_line() -> None:
    labels = np.array([0, 3, 3, 255], np.uint8)
    confidence = np.zeros(4, np.float32)
    assert repr(Segmentation(labels, confidence)) == "Segmentation(4 points, 75.0% labelled, classes [0, 3], no scores)"
    scores = np.zeros((4, 19), np.float32)
    assert repr(Segmentation(labels, confidence, scores)).endswith("scores (4, 19))")
    assert repr(Segmentation(labels[:0], confidence[:0])) == "Segmentation(0 points, classes [], no scores)"


def test_a_download_that_never_begins_shows_no_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    result = CliRunner().invoke(
        app, ["zoo", "fetch", "spvcnn-30g", "--url", "http://127.0.0.1:1/init", "--cache", os.fspath(tmp_path)]
    )
    assert result.exit_code == 1
    assert result.stderr.startswith("spvnas: spvcnn-30g cannot be fetched")
    assert "bytes" not in result.stderr


def test_the_download_bar_appears_with_the_first_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    with download_bar("model") as report:
        report(0, 10_000)
    assert capsys.readouterr().err == ""
    with download_bar("model") as report:
        report(0, 10_000)
        report(5_000, 10_000)
    assert "5.0/10.0 kB" in capsys.readouterr().err
