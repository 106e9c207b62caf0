"""What `spvnas segment` leaves in its folder, what it takes away, and what it never touches."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from segment_results import PICTURES, files_in
from spvnas_cli import segmented
from spvnas_ros.engine.sample_street import street_scan, write_drive_bag
from spvnas_ros.perception import Perception
from spvnas_ros.recordings.bags import BagError, BagReader, BagWriter, cloud_message, encode
from spvnas_ros.recordings.scans import open_source
from spvnas_ros.segment.label_frames import Interrupted
from spvnas_ros.segment.output import OutputError
from spvnas_ros.segment.run import segment
from spvnas_ros.segment.run_options import SegmentOptions


def test_results_never_replace_what_is_no_result(drive: Path, perception: Perception, tmp_path: Path) -> None:
    (tmp_path / "out/bag").mkdir(parents=True)
    with open_source(drive) as source:
        with pytest.raises(BagError, match="is not a bag"):
            segment(source, perception, tmp_path / "out", SegmentOptions(force=True))
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(OutputError, match="is a file"):
            segment(source, perception, tmp_path / "file")


def test_force_leaves_nothing_of_the_earlier_run_and_everything_else(
    scans: Path, perception: Perception, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with open_source(scans) as source:
        segment(source, perception, out, SegmentOptions(scores=True))
    write_drive_bag(tmp_path / "drive", 2, beams=16, columns=50)
    with open_source(tmp_path / "drive") as source, pytest.raises(OutputError, match="would be replaced"):
        segment(source, perception, out)
    (out / "notes.txt").write_text("mine")
    (out / "labels/notes.txt").write_text("mine")
    with open_source(tmp_path / "drive") as source:
        segment(source, perception, out, SegmentOptions(force=True))
    assert [f for f in files_in(out) if f[:4] != "bag/"] == [
        "labels/notes.txt",
        "notes.txt",
        *PICTURES,
        "summary.json",
    ]
    with open_source(scans) as source:
        segment(source, perception, out, SegmentOptions(force=True))
    labels = [f"labels/{number:06d}.label" for number in range(3)]
    assert files_in(out) == [*labels, "labels/notes.txt", "notes.txt", *PICTURES, "summary.json"]


@pytest.mark.parametrize("wrong", [("-w", "missing.safetensors"), ("--engine", "steam"), ("--device", "cuda:99")])
def test_force_removes_nothing_before_the_run_can_begin(
    scans: Path, weights: Path, tmp_path: Path, wrong: tuple[str, str]
) -> None:
    arguments = (scans, "-o", tmp_path / "out", "-w", weights)
    assert segmented(*arguments, "--device", "cpu")[0] == 0
    before = files_in(tmp_path / "out")
    assert segmented(*arguments, *wrong, "--force")[0] == 1
    for scan in scans.iterdir():
        scan.write_bytes(b"no scan")
    assert segmented(*arguments, "--device", "cpu", "--force")[0] == 1
    assert files_in(tmp_path / "out") == before


def test_force_spares_the_input_a_foreign_bag_and_the_truth_of_a_dataset(
    scans: Path, perception: Perception, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    write_drive_bag(out / "bag", 2, beams=16, columns=50)
    with open_source(out / "bag") as source, pytest.raises(OutputError, match="is the input"):
        segment(source, perception, out, SegmentOptions(force=True))
    with open_source(scans) as source:
        segment(source, perception, out, SegmentOptions(force=True))
    with BagReader(out / "bag") as bag:
        assert len(bag) == 2
    sequence = tmp_path / "00"
    shutil.copytree(scans, sequence / "velodyne")
    (sequence / "labels").mkdir()
    (sequence / "labels/7.label").write_bytes(b"the truth")
    with open_source(sequence) as source, pytest.raises(OutputError, match="SemanticKITTI"):
        segment(source, perception, sequence, SegmentOptions(force=True))
    assert (sequence / "labels/7.label").read_bytes() == b"the truth"


def test_force_spares_predictions_that_no_run_of_ours_has_made(
    scans: Path, perception: Perception, tmp_path: Path
) -> None:
    root = tmp_path / "set"
    shutil.copytree(scans, root / "sequences/08/velodyne")
    (root / "sequences/08/predictions").mkdir()
    (root / "sequences/08/predictions/000000.label").write_bytes(b"somebody's")
    with open_source(root) as source, pytest.raises(OutputError, match="SemanticKITTI root whose predictions/"):
        segment(source, perception, root, SegmentOptions(force=True))
    assert (root / "sequences/08/predictions/000000.label").read_bytes() == b"somebody's"


@pytest.mark.parametrize("kind", ["scans", "bag"])
def test_a_run_that_labels_nothing_leaves_nothing_and_can_be_repeated(kind: str, weights: Path, tmp_path: Path) -> None:
    path, out = tmp_path / ("bad.bin" if kind == "scans" else "bad"), tmp_path / "new/out"
    arguments = (path, "-w", weights, "-o", out, "--device", "cpu")
    if kind == "scans":
        path.write_bytes(b"no scan")
    else:
        with BagWriter(path) as bag:
            bag.write("/points", encode(cloud_message(np.zeros(5, [("x", "f4"), ("y", "f4")]), 0, "lidar")), 1)
    status, said, error = segmented(*arguments)
    assert status == 1
    assert error.startswith("skipped ")
    assert said == f"None of 1 frame(s) could be labelled, see above: nothing was written to {out}.\n"
    assert not out.parent.exists()
    if kind == "scans":
        street_scan(0, 16, 50)[0].tofile(path)
        assert segmented(*arguments)[0] == 0


def test_a_forced_run_that_is_stopped_leaves_the_earlier_results(
    scans: Path, perception: Perception, tmp_path: Path
) -> None:
    done: list[object] = []
    with open_source(scans) as source:
        segment(source, perception, tmp_path / "out")
        before = {name: (tmp_path / "out" / name).read_bytes() for name in files_in(tmp_path / "out")}
        with pytest.raises(Interrupted):
            segment(
                source, perception, tmp_path / "out", SegmentOptions(force=True), on_frame=done.append,
                stopped=lambda: bool(done),
            )  # fmt: skip
    assert {name: (tmp_path / "out" / name).read_bytes() for name in before} == before


def test_what_no_run_has_left_is_not_replaced_with_force(scans: Path, perception: Perception, tmp_path: Path) -> None:
    """Not in a folder without a summary, and not beside the results of a run."""
    out = tmp_path / "out"
    mine = {"labels/000000.label": b"by hand", "confusion.png": b"a picture", "scores/x.npy": b"numbers"}
    for name, text in mine.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(text)
    with open_source(scans) as source:
        with pytest.raises(OutputError, match=r"confusion\.png and 1 more would be replaced, but no run has left them"):
            segment(source, perception, out, SegmentOptions(force=True))
        assert {name: (out / name).read_bytes() for name in mine} == mine
        for name in ("labels/000000.label", "confusion.png"):
            (out / name).unlink()
        segment(source, perception, out)
        (out / "labels/other.label").write_bytes(b"by hand")
        segment(source, perception, out, SegmentOptions(force=True))
    assert (out / "labels/other.label").read_bytes() == b"by hand"
    assert (out / "scores/x.npy").read_bytes() == b"numbers"
