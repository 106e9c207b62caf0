"""A run that is stopped, killed or finished: no frame is labelled twice, nothing is half written."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segment_results import FRAMES, PICTURES, content, document_in, files_in, labels_in, write_bag
from spvnas_cli import SPVNAS, segmented
from spvnas_ros.clouds.intensity import Intensity
from spvnas_ros.clouds.mount import PlaceRule
from spvnas_ros.engine.sample_street import street_scan
from spvnas_ros.perception import Perception
from spvnas_ros.recordings.bags import BagError, BagReader, BagWriter, cloud_message, encode
from spvnas_ros.recordings.scans import open_source
from spvnas_ros.segment.label_frames import Interrupted
from spvnas_ros.segment.output import OutputError
from spvnas_ros.segment.run import segment
from spvnas_ros.segment.run_options import SegmentOptions


def kept(out: Path) -> dict[str, int]:
    """When the labels of an unfinished run were written, by the frame's file."""
    return {file.name: file.stat().st_mtime_ns for file in (out / "unfinished").glob("*.npz")}


def stopped_run(
    path: Path, perception: Perception, out: Path, after: int, options: SegmentOptions | None = None
) -> None:
    """Labels so many frames, and is stopped then."""
    done: list[object] = []
    with open_source(path) as source, pytest.raises(Interrupted, match=f"{after} of {len(source)} frames"):
        segment(source, perception, out, options, on_frame=done.append, stopped=lambda: len(done) == after)


@pytest.mark.parametrize("after", [1, 3])
def test_a_run_that_was_stopped_goes_on_without_labelling_again(
    perception: Perception, tmp_path: Path, after: int
) -> None:
    drive, out = write_bag(tmp_path / "drive"), tmp_path / "out"
    stopped_run(drive, perception, out, after)
    assert os.listdir(out) == ["unfinished"]
    times = kept(out)
    assert len(times) == after
    seen: dict[str, int] = {}
    with open_source(drive) as source:
        summary = segment(source, perception, out, on_written=lambda _: seen.update(kept(out)))
        segment(source, perception, tmp_path / "whole")
    assert seen.items() >= times.items()
    assert (summary.frames, len(summary.ms)) == (FRAMES, FRAMES)
    assert content(out / "bag") == content(tmp_path / "whole/bag")
    assert sorted(os.listdir(out)) == ["bag", *PICTURES, "summary.json"]


def test_scans_and_their_scores_go_on_too(scans: Path, perception: Perception, tmp_path: Path) -> None:
    options = SegmentOptions(scores=True)
    stopped_run(scans, perception, tmp_path / "out", 2, options)
    assert files_in(tmp_path / "out") == [f"unfinished/{name}" for name in ("000000.npz", "000001.npz", "run.json")]
    with open_source(scans) as source:
        segment(source, perception, tmp_path / "out", options)
        segment(source, perception, tmp_path / "whole", options)
    for name in ("labels/000001.label", "scores/000001.npy", "labels/000002.label", "scores/000002.npy"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert files_in(tmp_path / "out") == files_in(tmp_path / "whole")


def bar_moved(terminal: int, count: int) -> None:
    """Waits until the progress bar has counted a frame."""
    seen = b""
    while not re.search(rb"[1-9]\d*/%d" % count, seen):
        seen += os.read(terminal, 4096)


def many(path: Path, kind: str, count: int) -> Path:
    """So many small scans or clouds."""
    points = street_scan(0, 16, 40)[0]
    if kind == "scans":
        path.mkdir()
        for number in range(count):
            points.tofile(path / f"{number:06d}.bin")
    else:
        record = np.ascontiguousarray(points).view([(name, "<f4") for name in ("x", "y", "z", "intensity")]).reshape(-1)
        with BagWriter(path, "mcap") as bag:
            for number in range(count):
                bag.write("/points", encode(cloud_message(record, number, "lidar")), number)
    return path


@pytest.mark.parametrize(("number", "kind"), [(signal.SIGKILL, "scans"), (signal.SIGINT, "bag")])
def test_a_run_that_a_signal_ends_leaves_nothing_half_and_goes_on(
    weights: Path, tmp_path: Path, kind: str, number: signal.Signals
) -> None:
    """While the bar moves: at SIGKILL no handler runs."""
    count, out = 400, tmp_path / "out"
    arguments = [many(tmp_path / "in", kind, count), "-w", weights, "-o", out, "--device", "cpu"]
    terminal, other_end = pty.openpty()
    process = subprocess.Popen(
        [SPVNAS, "segment", *map(str, arguments)], stdout=subprocess.PIPE, stderr=other_end, text=True,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "120"},
    )  # fmt: skip
    os.close(other_end)
    bar_moved(terminal, count)
    process.send_signal(number)
    try:
        while os.read(terminal, 4096):
            pass
    except OSError:
        pass  # the other end is closed: the process has ended
    said, _ = process.communicate()
    os.close(terminal)
    assert os.listdir(out) == ["unfinished"]
    assert 0 < len(kept(out)) < count
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert f"Interrupted: {len(kept(out))} of {count} frames are labelled; the same command goes on there." in said
    (out / "unfinished" / min(kept(out))).write_bytes(b"damaged")
    status, said, _ = segmented(*arguments)
    assert status == 0
    assert f"{count} frame(s)" in said
    if kind == "scans":
        assert len(labels_in(out)) == count
    else:
        with BagReader(out / "bag") as reader:
            assert len(list(reader)) == count
    assert sorted(os.listdir(out)) == [{"scans": "labels", "bag": "bag"}[kind], *PICTURES, "summary.json"]


def test_a_stop_while_results_are_written_keeps_the_labels(perception: Perception, tmp_path: Path) -> None:
    out, written = tmp_path / "out", list[object]()
    with open_source(write_bag(tmp_path / "drive")) as source:
        with pytest.raises(Interrupted):
            segment(source, perception, out, on_written=written.append, stopped=lambda: len(written) == 2)
        assert sorted(os.listdir(out)) == ["picture.png", "unfinished"]
        (out / ".bag.0123.part/bag").mkdir(parents=True)  # what a kill would have left
        assert segment(source, perception, out).frames == FRAMES
    assert sorted(os.listdir(out)) == ["bag", *PICTURES, "summary.json"]


def test_a_finished_run_is_not_done_again_but_replaced_with_force(weights: Path, tmp_path: Path) -> None:
    drive = write_bag(tmp_path / "drive", "class", "|u1")
    arguments = (drive, "-w", weights, "-o", tmp_path / "out", "--device", "cpu")
    status, first, _ = segmented(*arguments)
    assert status == 0
    before = document_in(tmp_path / "out", "summary.json")
    shutil.copytree(tmp_path / "out/bag", tmp_path / "copy")
    status, again, _ = segmented(*arguments)
    assert status == 0
    assert again == f"{tmp_path / 'out'} is finished: nothing to do (--force labels again)\n{first}"
    assert document_in(tmp_path / "out", "summary.json") == before
    status, _, error = segmented(*arguments, "--truth", "label")
    assert status == 1
    assert "and would be replaced; name another folder, or replace with --force" in error
    assert segmented(*arguments, "--truth", "label", "--force")[0] == 0
    assert "miou" in document_in(tmp_path / "out", "report.json")
    status, again, _ = segmented(*arguments, "--truth", "label")
    assert status == 0
    assert "nothing to do" in again
    assert "mIoU" in again


def test_a_run_killed_after_its_summary_is_finished(weights: Path, tmp_path: Path) -> None:
    arguments = (write_bag(tmp_path / "drive"), "-w", weights, "-o", tmp_path / "out", "--device", "cpu")
    assert segmented(*arguments)[0] == 0
    summary = document_in(tmp_path / "out", "summary.json")
    run = {
        key: summary[key]
        for key in ("source", "kind", "topic", "frames_in_source", "files_sha256", "weights_sha256", "engine")
    }
    asked = ("device", "intensity", "intensity_field", "origin", "mount", "scores", "truth", "palette")
    asked += ("precision", "detector_sha256", "min_score", "columns", "format", "classification", "tile")
    run |= {key: summary[key] for key in asked}
    (tmp_path / "out/unfinished").mkdir()
    (tmp_path / "out/unfinished/run.json").write_text(json.dumps(run))
    os.utime(tmp_path / "out/unfinished/run.json", (0, 0))  # it was there before the summary
    assert "nothing to do" in segmented(*arguments)[1]
    assert sorted(os.listdir(tmp_path / "out")) == ["bag", *PICTURES, "summary.json"]


def test_an_unfinished_run_of_something_else_is_not_continued(perception: Perception, tmp_path: Path) -> None:
    drive, out = write_bag(tmp_path / "drive"), tmp_path / "out"
    stopped_run(drive, perception, out, 1)
    others: list[tuple[dict[str, Any], str]] = [
        ({"intensity": "u8"}, "intensity 'auto', now 'u8'"),
        ({"intensity": Intensity(field="x")}, "intensity_field '', now 'x'"),
        ({"place": PlaceRule.parse("auto", None)}, "origin '', now 'auto'"),
        ({"place": PlaceRule.parse(None, "z=1,pitch=8")}, "mount '', now 'z=1,pitch=8'"),
    ]
    for rules, says in others:
        with open_source(drive, **rules) as source, pytest.raises(OutputError, match=f"{says};.*--force"):
            segment(source, perception, out)
    with open_source(drive, intensity="u8") as source:
        assert segment(source, perception, out, SegmentOptions(force=True)).frames == FRAMES
        (tmp_path / "mine/unfinished").mkdir(parents=True)
        (tmp_path / "mine/unfinished/thesis.tex").write_text("precious")
        for force in (False, True):
            with pytest.raises(OutputError, match="not of an unfinished run"):
                segment(source, perception, tmp_path / "mine", SegmentOptions(force=force))
    assert (tmp_path / "mine/unfinished/thesis.tex").read_text() == "precious"


def test_what_cannot_be_written_ends_the_run_and_leaves_no_bag(
    drive: Path, perception: Perception, tmp_path: Path
) -> None:
    """A folder that vanishes stands in for a full disk: it is no bad frame."""
    out = tmp_path / "out"

    def sabotage(_: object) -> None:
        shutil.rmtree(out)

    with open_source(drive) as source, pytest.raises((BagError, OSError)):
        segment(source, perception, out, on_frame=sabotage)
    assert not (out / "bag").exists()


def test_a_file_that_changed_is_not_taken_for_the_one_that_was_labelled(
    scans: Path, weights: Path, perception: Perception, tmp_path: Path
) -> None:
    """At the same name and size: neither by a finished run nor by one that goes on."""
    arguments = (scans, "-w", weights, "-o", tmp_path / "out", "--device", "cpu")
    assert segmented(*arguments)[0] == 0
    stopped_run(scans, perception, tmp_path / "half", 1)
    mirrored = np.fromfile(scans / "000000.bin", np.float32).reshape(-1, 4) * (1, -1, 1, 1)
    mirrored.astype(np.float32).tofile(scans / "000000.bin")
    assert "is of another run" in segmented(*arguments)[2]
    with open_source(scans) as source, pytest.raises(OutputError, match="unfinished run with files_sha256"):
        segment(source, perception, tmp_path / "half")


def test_two_runs_do_not_write_into_one_folder(scans: Path, perception: Perception, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def second(_: object) -> None:
        with open_source(scans) as source, pytest.raises(OutputError, match="another run is writing to"):
            segment(source, perception, out, SegmentOptions(force=True))

    with open_source(scans) as source:
        assert segment(source, perception, out, on_frame=second, on_written=second).frames == 3
        assert segment(source, perception, out, SegmentOptions(force=True)).frames == 3


def test_a_forced_run_that_was_stopped_goes_on_without_force(scans: Path, weights: Path, tmp_path: Path) -> None:
    """Although the results that it was to replace are there, and look finished."""
    out = tmp_path / "out"
    arguments = (scans, "-w", weights, "-o", out, "--device", "cpu")
    assert segmented(*arguments)[0] == 0
    perception = Perception.load(weights, device="cpu")
    options = SegmentOptions(weights=weights.name, force=True)
    before = document_in(out, "summary.json")["ms"]
    stopped_run(scans, perception, out, 2, options)
    status, said, _ = segmented(*arguments)
    assert status == 0
    assert "nothing to do" not in said
    assert document_in(out, "summary.json")["ms"] != before
