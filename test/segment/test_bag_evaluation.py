"""`spvnas bag`: a bag labelled whole, scored where there is a truth, and never labelled twice."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from spvnas_ros.cli import app
from spvnas_ros.clouds.point_cloud2 import decode
from spvnas_ros.engine.sample_street import street_scan, write_drive_bag
from spvnas_ros.labels import SEMANTIC_KITTI
from spvnas_ros.offline.bag_evaluation import BagRun, Interrupted
from spvnas_ros.perception import Perception
from spvnas_ros.recordings.bags import LABELLED_TOPIC, BagReader, BagWriter, cloud_message, encode
from spvnas_ros.recordings.scans import open_source
from spvnas_ros.segment.run import OutputError

SPVNAS = str(Path(sys.executable).with_name("spvnas"))
FRAMES = 4


def street(number: int) -> tuple[np.ndarray, np.ndarray]:
    points, labels = street_scan(number, 16, 200)
    labels = labels.copy()
    labels[::7] = 255
    return points, labels


def write_bag(path: Path, truth: str = "", kind: str = "<u4", storage: str = "sqlite3") -> Path:
    """A drive whose clouds hold the truth in a field `label`: "raw" ids, "class" indices, or "" for none."""
    fields = [(name, "<f4") for name in ("x", "y", "z", "intensity")] + ([("label", kind)] if truth else [])
    with BagWriter(path, storage) as bag:
        for number in range(FRAMES):
            points, labels = street(number)
            record = np.zeros(len(points), fields)
            for column, name in enumerate(("x", "y", "z", "intensity")):
                record[name] = points[:, column]
            if truth:
                record["label"] = SEMANTIC_KITTI.decode(labels) if truth == "raw" else labels
            bag.write("/points", encode(cloud_message(record, 10**9 + number, "lidar")), 10**9 + number)
    return path


def write_label_files(folder: Path) -> Path:
    folder.mkdir()
    for number in range(FRAMES):
        instance = np.uint32(number << 16)
        (SEMANTIC_KITTI.decode(street(number)[1]) | instance).tofile(folder / f"{number + 8}.label")
    return folder


def invoke(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["bag", *map(str, arguments)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def report_in(out: Path) -> dict[str, object]:
    document: dict[str, object] = json.loads((out / "report.json").read_text())
    return document


def content(bag: Path) -> list[tuple[int, bytes]]:
    with BagReader(bag) as reader:
        return [(cloud.stamp, cloud.raw) for cloud in reader]


def expected_iou(perception: Perception) -> dict[str, float | None]:
    """From sets of points, over the whole drive."""
    both = [(street(n)[1], perception(street(n)[0]).labels) for n in range(FRAMES)]
    truth, predicted = (np.concatenate(part) for part in zip(*both, strict=True))
    truth, predicted = truth[truth != 255], predicted[truth != 255]
    found: dict[str, float | None] = {}
    for index, name in enumerate(SEMANTIC_KITTI.classes):
        right, either = (truth == index) & (predicted == index), (truth == index) | (predicted == index)
        found[name] = right.sum() / either.sum() if (truth == index).any() else None
    return found


@pytest.mark.parametrize("storage", ["sqlite3", "mcap"])
def test_a_real_bag_becomes_a_bag_of_labelled_clouds_and_a_report(
    shared: Path, weights: Path, perception: Perception, tmp_path: Path, storage: str
) -> None:
    path = shared / f"data/bags/vlp16_pointcloud2_{storage}"
    status, text, error = invoke(path, "-w", weights, "-o", tmp_path / "out", "--device", "cpu")
    assert (status, error) == (0, "")
    assert "4 cloud(s), 116,827 points labelled by tiny" in text
    with open_source(path) as source, BagReader(tmp_path / "out/bag") as after:
        assert (after.topic, after.storage, len(after)) == (LABELLED_TOPIC, storage, 4)
        for frame, new in zip(source, after, strict=True):
            cloud = frame.load()
            assert new.stamp == frame.stamp
            np.testing.assert_array_equal(decode(new.decode())["label"], perception(cloud.points).labels)
            assert decode(new.decode())["ring"].tobytes() == decode(cloud.message)["ring"].tobytes()
    report = report_in(tmp_path / "out")
    assert report["weights_sha256"] == perception.facts.weights_sha256
    assert 0 < report["ms_p50"] <= report["ms_p95"]
    assert "miou" not in report
    assert sorted(os.listdir(tmp_path / "out")) == ["bag", "report.json"]


@pytest.mark.parametrize(
    ("truth", "kind"),
    [("raw", "<u4"), ("raw", "<u2"), ("raw", "<f4"), ("class", "|u1"), ("class", "<u4"), ("files", "")],
)
def test_with_a_truth_the_scores_are_those_of_the_whole_drive(
    weights: Path, perception: Perception, tmp_path: Path, truth: str, kind: str
) -> None:
    if truth == "files":
        path, option = write_bag(tmp_path / "drive"), ("--labels", write_label_files(tmp_path / "labels"))
    else:
        path, option = write_bag(tmp_path / "drive", truth, kind), ("--labels-field", "label")
    status, text, _ = invoke(path, "-w", weights, "-o", tmp_path / "out", "--device", "cpu", *option)
    assert status == 0
    report, iou = report_in(tmp_path / "out"), expected_iou(perception)
    assert report["iou"] == pytest.approx(iou)
    assert report["miou"] == pytest.approx(np.mean([value for value in iou.values() if value is not None]))
    assert report["label_map"] == "semantic-kitti"
    assert ("class indices" if truth == "class" else "raw ids") in report["truth"]
    assert re.search(r"^road +\d", text, re.MULTILINE)
    assert re.search(r"^bicycle +-", text, re.MULTILINE)
    assert (tmp_path / "out/confusion.png").read_bytes().startswith(b"\x89PNG")


def test_real_scans_as_a_bag_are_scored_against_their_own_label_files(
    shared: Path, weights: Path, perception: Perception, tmp_path: Path
) -> None:
    sequence = shared / "data/semantickitti/sequences/04"
    truth, predicted = [], []
    with BagWriter(tmp_path / "drive", "mcap") as bag:
        for stamp, file in enumerate(sorted((sequence / "velodyne").iterdir())):
            scan = np.fromfile(file, [(name, "<f4") for name in ("x", "y", "z", "intensity")])
            bag.write("/points", encode(cloud_message(scan, stamp, "lidar")), stamp)
            predicted.append(perception(scan.view(np.float32).reshape(-1, 4)).labels)
            raw = np.fromfile(sequence / "labels" / f"{file.stem}.label", np.uint32)
            truth.append(SEMANTIC_KITTI.encode(raw))
    arguments = (tmp_path / "drive", "-w", weights, "-o", tmp_path / "out", "--device", "cpu", "--labels", sequence)
    assert invoke(*arguments)[0] == 0
    report = report_in(tmp_path / "out")
    known = np.concatenate(truth) != 255
    right = (np.concatenate(truth) == np.concatenate(predicted))[known]
    assert report["accuracy"] == pytest.approx(right.mean())
    assert sum(report["truth_points"].values()) == known.sum() < report["points"]
    assert report["iou"]["motorcyclist"] is None


def test_the_truth_does_not_change_the_labels(weights: Path, tmp_path: Path) -> None:
    """Neither does reading it ahead teach `auto` the scale of clouds that come later."""
    with BagWriter(tmp_path / "drive") as bag:
        for stamp, scale in enumerate((1, 255)):
            points, labels = street(0)
            names = ("x", "y", "z", "intensity", "label")
            record = np.zeros(len(points), [(name, "<f4") for name in names])
            for column, name in enumerate(names[:4]):
                record[name] = points[:, column]
            record["intensity"] *= scale
            record["label"] = labels
            bag.write("/points", encode(cloud_message(record, stamp, "lidar")), stamp)
    for out, option in (("a", ()), ("b", ("--labels-field", "label"))):
        assert invoke(tmp_path / "drive", "-w", weights, "-o", tmp_path / out, *option)[0] == 0
    assert content(tmp_path / "a/bag") == content(tmp_path / "b/bag")


@pytest.mark.parametrize("stop_after", [1, 3])
def test_a_run_that_was_stopped_goes_on_without_labelling_again(
    perception: Perception, tmp_path: Path, stop_after: int
) -> None:
    drive = write_bag(tmp_path / "drive")
    done: list[object] = []
    with open_source(drive) as source:
        first = BagRun(source, perception, tmp_path / "out", "tiny", "auto")
        predictions = first.start()
        with pytest.raises(Interrupted):
            first.label(predictions, done.append, lambda: len(done) == stop_after)
    assert sorted(os.listdir(tmp_path / "out")) == ["unfinished"]
    times = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "out/unfinished").glob("*.npz")}
    assert len(times) == stop_after
    with open_source(drive) as source:
        again = BagRun(source, perception, tmp_path / "out", "tiny", "auto")
        predictions = again.start()
        again.label(predictions)
        now = {file.name: file.stat().st_mtime_ns for file in predictions.folder.glob("*.npz")}
        assert len(now) == FRAMES
        assert now.items() >= times.items()
        report = again.write(predictions, [])
        whole = BagRun(source, perception, tmp_path / "whole", "tiny", "auto")
        predictions = whole.start()
        whole.write(predictions, whole.label(predictions))
    assert report.clouds == FRAMES
    assert content(tmp_path / "out/bag") == content(tmp_path / "whole/bag")
    assert sorted(os.listdir(tmp_path / "out")) == ["bag", "report.json"]


def test_a_run_that_is_killed_shows_no_bag_and_goes_on(weights: Path, tmp_path: Path) -> None:
    """SIGKILL while the bar moves: no handler runs."""
    count, out = 400, tmp_path / "out"
    points = street_scan(0, 16, 40)[0]
    record = np.ascontiguousarray(points).view([(name, "<f4") for name in ("x", "y", "z", "intensity")]).reshape(-1)
    with BagWriter(tmp_path / "in", "mcap") as bag:
        for number in range(count):
            bag.write("/points", encode(cloud_message(record, number, "lidar")), number)
    command = [SPVNAS, "bag", str(tmp_path / "in"), "-w", str(weights), "-o", str(out), "--device", "cpu"]
    terminal, other_end = pty.openpty()
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=other_end, env=os.environ | {"TERM": "xterm", "COLUMNS": "120"}
    )
    os.close(other_end)
    seen = b""
    while not re.search(rb"[1-9]\d*/%d" % count, seen):  # the bar has moved
        seen += os.read(terminal, 4096)
    process.send_signal(signal.SIGKILL)
    process.wait()
    os.close(terminal)
    assert sorted(os.listdir(out)) == ["unfinished"]
    kept = {file.name: file.stat().st_mtime_ns for file in (out / "unfinished").glob("0*.npz")}
    assert 0 < len(kept) < count
    (out / "unfinished" / min(kept)).write_bytes(b"damaged")
    status, text, _ = invoke(*command[2:])
    assert status == 0
    assert f"{count} cloud(s)" in text
    with BagReader(out / "bag") as reader:
        assert len(list(reader)) == count
    assert sorted(os.listdir(out)) == ["bag", "report.json"]


def test_ctrl_c_while_the_bag_is_written_leaves_none_and_keeps_the_labels(
    perception: Perception, tmp_path: Path
) -> None:
    with open_source(write_bag(tmp_path / "drive")) as source:
        run = BagRun(source, perception, tmp_path / "out", "tiny", "auto")
        predictions = run.start()
        skipped = run.label(predictions)
        written: list[object] = []
        with pytest.raises(Interrupted):
            run.write(predictions, skipped, written.append, lambda: len(written) == 2)
        assert sorted(os.listdir(tmp_path / "out")) == ["unfinished"]
        (tmp_path / "out/.bag.0123.part/bag").mkdir(parents=True)  # what a kill would have left
        predictions = run.start()
        assert run.write(predictions, skipped).clouds == FRAMES
    assert sorted(os.listdir(tmp_path / "out")) == ["bag", "report.json"]


def test_a_finished_run_is_not_done_again_but_replaced_with_force(weights: Path, tmp_path: Path) -> None:
    drive = write_bag(tmp_path / "drive", "class", "|u1")
    arguments = (drive, "-w", weights, "-o", tmp_path / "out", "--device", "cpu")
    assert invoke(*arguments)[0] == 0
    before = report_in(tmp_path / "out")
    status, text, _ = invoke(*arguments)
    assert status == 0
    assert "nothing to do" in text
    assert report_in(tmp_path / "out") == before
    status, _, error = invoke(*arguments, "--labels-field", "label")
    assert status == 1
    assert "--force" in error
    assert invoke(*arguments, "--labels-field", "label", "--force")[0] == 0
    assert "miou" in report_in(tmp_path / "out")


def test_an_unfinished_run_of_something_else_is_not_continued(perception: Perception, tmp_path: Path) -> None:
    with open_source(write_bag(tmp_path / "drive")) as source:
        BagRun(source, perception, tmp_path / "out", "tiny", "auto").start()
        with pytest.raises(OutputError, match=r"intensity 'auto', now 'u8'.*--force"):
            BagRun(source, perception, tmp_path / "out", "tiny", "u8").start()
        BagRun(source, perception, tmp_path / "out", "tiny", "u8").start(force=True)
        (tmp_path / "mine/unfinished").mkdir(parents=True)
        (tmp_path / "mine/unfinished/thesis.tex").write_text("precious")
        for force in (False, True):
            with pytest.raises(OutputError, match="not of an unfinished run"):
                BagRun(source, perception, tmp_path / "mine", "tiny", "auto").start(force=force)
    assert (tmp_path / "mine/unfinished/thesis.tex").read_text() == "precious"


def test_a_bad_cloud_is_left_out_told_and_counted(weights: Path, tmp_path: Path) -> None:
    points = np.zeros(50, [("x", "f4"), ("y", "f4"), ("z", "f4"), ("label", "u1")])
    good, bad = (encode(cloud_message(array, 0, "lidar")) for array in (points, points[["x", "y"]].copy()))
    with BagWriter(tmp_path / "in") as bag:
        for stamp, raw in enumerate((good, bad, good)):
            bag.write("/points", raw, stamp)
    status, text, error = invoke(tmp_path / "in", "-w", weights, "-o", tmp_path / "out", "--labels-field", "label")
    assert status == 1
    assert "skipped 000001" in error
    assert "1 cloud(s) could not be labelled: 000001" in text
    assert [stamp for stamp, _ in content(tmp_path / "out/bag")] == [0, 2]
    assert report_in(tmp_path / "out")["truth_points"]["car"] == 100


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("missing",), "missing does not exist"),
        (("scans",), "expected a rosbag2"),
        (("drive", "--labels-field", "truth"), "no field 'truth'"),
        (("drive", "--labels-field", "x"), "not whole"),
        (("drive", "--labels-field", "odd"), r"does not list raw label id\(s\) \[1234\]"),
        (("drive", "--labels-field", "odd", "--label-ids", "class"), r"class indices must be 0 to 18.*\[1234\]"),
        (("drive", "--labels-field", "odd", "--label-ids", "colour"), "label ids are 'colour'"),
        (("drive", "--labels", "missing"), "is no folder"),
        (("drive", "--labels", "scans"), "no .label files"),
        (("drive", "--labels", "few"), "1 .label files, but .* 2 clouds"),
        (("drive", "--labels", "short"), "has 8 bytes, but cloud 000000 of .* has 30 points"),
        (("drive", "--out", "file"), "is a file"),
        (("drive", "--weights", "file"), "file"),
    ],
)
def test_what_the_user_can_mend_is_said_before_anything_is_labelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: Path, arguments: tuple[str, ...], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder, files in (("scans", 0), ("few", 1), ("short", 2)):
        Path(folder).mkdir()
        np.zeros((30, 4), np.float32).tofile(f"{folder}/0.bin")
        for number in range(files):
            np.zeros(2, np.uint32).tofile(f"{folder}/{number}.label")
    Path("file").write_text("hello")
    record = np.full(30, 0.5, [("x", "f4"), ("y", "f4"), ("z", "f4"), ("odd", "u2")])
    record["odd"] = 1234
    with BagWriter("drive") as bag:
        for stamp in range(2):
            bag.write("/points", encode(cloud_message(record, stamp, "lidar")), stamp)
    defaults = [] if "--weights" in arguments else ["--weights", weights]
    defaults += [] if "--out" in arguments else ["--out", "out"]
    status, out, error = invoke(*arguments, *defaults)
    assert (status, out) == (1, "")
    assert re.search(says, error)
    assert error.count("\n") == 1
    assert not Path("out").exists()


def test_a_generated_drive_runs_from_the_command_line(weights: Path, tmp_path: Path) -> None:
    write_drive_bag(tmp_path / "drive", 2, beams=16, columns=100)
    done = subprocess.run(
        [SPVNAS, "bag", tmp_path / "drive", "-w", weights, "-o", tmp_path / "out"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")  # no progress bar where nobody looks
    assert done.stdout.startswith("2 cloud(s)")
