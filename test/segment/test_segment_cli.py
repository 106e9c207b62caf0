"""`spvnas segment`: every kind of input becomes labels or a bag, and whatever goes wrong is said in one line."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
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
from spvnas_ros.nets.spec import NetSpec
from spvnas_ros.nets.unet import PointVoxelUNet
from spvnas_ros.perception import Perception
from spvnas_ros.recordings.bags import LABELLED_TOPIC, BagError, BagReader, BagWriter, cloud_message, encode
from spvnas_ros.recordings.scans import open_source, read_scan
from spvnas_ros.segment.command import describe
from spvnas_ros.segment.run import OutputError, segment
from spvnas_ros.zoo.checkpoint import Facts

SPVNAS = str(Path(sys.executable).with_name("spvnas"))


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    folder = tmp_path / "scans"
    folder.mkdir()
    for number in range(3):
        street_scan(number, 16, 360)[0].tofile(folder / f"{number:06d}.bin")
    return folder


@pytest.fixture
def drive(tmp_path: Path) -> Path:
    write_drive_bag(tmp_path / "drive", 4, beams=16, columns=200)
    return tmp_path / "drive"


def invoke(*arguments: object) -> tuple[int, str, str]:
    """Status, stdout and stderr of the command, run in this process."""
    result = CliRunner().invoke(app, ["segment", *map(str, arguments)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def labels_in(folder: Path) -> dict[str, np.ndarray]:
    return {file.stem: np.fromfile(file, np.uint32) for file in sorted((folder / "labels").glob("*.label"))}


def test_a_folder_of_scans_becomes_label_files_a_picture_and_a_summary(
    scans: Path, weights: Path, perception: Perception, tmp_path: Path
) -> None:
    out = tmp_path / "new" / "out"
    done = subprocess.run(
        [SPVNAS, "segment", scans, "--weights", weights, "--out", out, "--device", "cpu"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")  # no progress bar where nobody looks
    assert re.search(r"3 frame\(s\), [\d,]+ points labelled by tiny \(engine cpu, device cpu\): [\d.]+ ms", done.stdout)
    assert "(p50)" in done.stdout
    assert "(p95)" in done.stdout
    assert "untrained" in done.stdout
    labels = labels_in(out)
    assert list(labels) == ["000000", "000001", "000002"]
    for name, raw in labels.items():
        expected = perception(read_scan(scans / f"{name}.bin")).labels
        np.testing.assert_array_equal(raw, SEMANTIC_KITTI.decode(expected))
        np.testing.assert_array_equal(SEMANTIC_KITTI.encode(raw), expected)
    assert (out / "picture.png").read_bytes().startswith(b"\x89PNG")
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["frames"], summary["trained"], summary["skipped"]) == (3, False, [])
    assert summary["points"] == sum(summary["classes"].values()) == sum(map(len, labels.values()))
    assert sorted(os.listdir(out)) == ["labels", "picture.png", "summary.json"]


def test_a_sequence_of_semantickitti_keeps_its_names_and_its_own_labels(
    shared: Path, weights: Path, tmp_path: Path
) -> None:
    sequence = shared / "data/semantickitti/sequences/04"
    status, _, error = invoke(sequence, "-w", weights, "-o", tmp_path / "out", "--engine", "cpu")
    assert (status, error) == (0, "")
    for name, raw in labels_in(tmp_path / "out").items():
        assert len(raw) == len(np.fromfile(sequence / "labels" / f"{name}.label", np.uint32))
    status, _, error = invoke(sequence, "-w", weights, "-o", sequence)
    assert status == 1
    assert "000000.label and 1 more would be replaced" in error


def test_one_scan_of_another_format_is_labelled(weights: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "cloud.npy", street_scan(0, 16, 200)[0][:, :3])
    status, out, _ = invoke(tmp_path / "cloud.npy", "-w", weights, "-o", tmp_path / "out", "--device", "cpu")
    assert status == 0
    assert out.startswith("1 frame(s)")
    assert list(labels_in(tmp_path / "out")) == ["cloud"]


@pytest.mark.parametrize("storage", ["sqlite3", "mcap"])
def test_a_real_bag_becomes_a_bag_of_labelled_clouds(
    shared: Path, perception: Perception, tmp_path: Path, storage: str
) -> None:
    path = shared / f"data/bags/vlp16_pointcloud2_{storage}"
    with open_source(path) as source:
        summary = segment(source, perception, tmp_path)
        expected = [perception(frame.load().points) for frame in source]
    assert (summary.frames, summary.points, summary.complete) == (4, 116827, True)
    with BagReader(path) as before, BagReader(tmp_path / "bag") as after:
        assert (after.topic, after.storage, len(after)) == (LABELLED_TOPIC, storage, 4)
        for old, new, result in zip(before, after, expected, strict=True):
            assert new.stamp == old.stamp
            points, labelled = decode(old.decode()), decode(new.decode())
            for name in points.dtype.names or ():
                assert points[name].tobytes() == labelled[name].tobytes()
            np.testing.assert_array_equal(labelled["label"], result.labels)
            np.testing.assert_array_equal(labelled["confidence"], result.confidence)
    assert sorted(os.listdir(tmp_path)) == ["bag", "picture.png", "summary.json"]


def test_a_bad_scan_is_skipped_told_and_counted(scans: Path, weights: Path, tmp_path: Path) -> None:
    (scans / "000000.bin").write_bytes(b"not a scan")
    far = np.zeros((2, 4), np.float32)
    far[1, 0] = 1e6
    far.tofile(scans / "000003.bin")
    status, out, error = invoke(scans, "-w", weights, "-o", tmp_path / "out", "--device", "cpu")
    assert status == 1
    assert re.search(r"skipped 000000: .*000000\.bin: 10 bytes are no multiple of 16", error)
    assert re.search(r"skipped 000003: .*voxels", error)
    assert out.startswith("2 frame(s)")
    assert "2 frame(s) could not be labelled" in out
    assert list(labels_in(tmp_path / "out")) == ["000001", "000002"]
    assert (tmp_path / "out" / "picture.png").exists()
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert [skipped["name"] for skipped in summary["skipped"]] == ["000000", "000003"]


def test_a_bad_cloud_is_left_out_of_the_new_bag(perception: Perception, tmp_path: Path) -> None:
    points = np.zeros(5, [("x", "f4"), ("y", "f4"), ("z", "f4")])
    good, bad = (encode(cloud_message(array, 0, "lidar")) for array in (points, points[["x", "y"]].copy()))
    with BagWriter(tmp_path / "in") as bag:
        for stamp, raw in enumerate((good, bad, good)):
            bag.write("/points", raw, stamp)
    told = []
    with open_source(tmp_path / "in") as source:
        summary = segment(source, perception, tmp_path / "out", on_frame=told.append)
    assert [skipped and skipped.name for skipped in told] == [None, "000001", None]
    assert not summary.complete
    with BagReader(tmp_path / "out/bag") as after:
        assert [cloud.stamp for cloud in after] == [0, 2]


@pytest.mark.parametrize("storage", ["sqlite3", "mcap"])
def test_a_bag_that_is_damaged_on_the_way_is_labelled_up_to_there(
    perception: Perception, tmp_path: Path, storage: str
) -> None:
    write_drive_bag(tmp_path / "drive", 6, columns=400, storage=storage)
    file = next(p for p in (tmp_path / "drive").iterdir() if p.suffix != ".yaml")
    content = bytearray(file.read_bytes())
    middle = len(content) // 2 // 4096 * 4096
    content[middle : middle + 8192] = bytes(8192)
    file.write_bytes(content)
    with open_source(tmp_path / "drive") as source:
        summary = segment(source, perception, tmp_path / "out")
    assert 1 <= summary.frames < 6
    assert summary.skipped[-1].name == "the rest"
    assert "is damaged" in summary.skipped[-1].reason
    with BagReader(tmp_path / "out/bag") as after:
        assert len(list(after)) == summary.frames


def test_results_are_replaced_with_force_only(scans: Path, drive: Path, weights: Path, tmp_path: Path) -> None:
    for path, result in ((scans, "000000.label"), (drive, "bag")):
        out = tmp_path / f"out_{path.name}"
        arguments = (path, "-w", weights, "-o", out, "--device", "cpu")
        assert invoke(*arguments)[0] == 0
        before = (out / "summary.json").read_text()
        status, _, error = invoke(*arguments)
        assert status == 1
        assert "--force" in error
        assert (out / "summary.json").read_text() == before
        assert invoke(*arguments, "--force")[0] == 0
        assert (out / "summary.json").read_text() != before  # the times differ
        assert any(result in str(p) for p in out.rglob("*"))


def test_results_never_replace_what_is_no_result(drive: Path, perception: Perception, tmp_path: Path) -> None:
    (tmp_path / "out/bag").mkdir(parents=True)
    with open_source(drive) as source:
        with pytest.raises(BagError, match="is not a bag"):
            segment(source, perception, tmp_path / "out", force=True)
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(OutputError, match="is a file"):
            segment(source, perception, tmp_path / "file")


def test_scores_are_saved_where_they_are_asked_for(drive: Path, weights: Path, tmp_path: Path) -> None:
    assert invoke(drive, "-w", weights, "-o", tmp_path / "out", "--scores", "--device", "cpu")[0] == 0
    files = sorted((tmp_path / "out/scores").iterdir())
    assert [file.name for file in files] == [f"{number:06d}.npy" for number in range(4)]
    with BagReader(tmp_path / "out/bag") as bag:
        for file, cloud in zip(files, bag, strict=True):
            scores, points = np.load(file), decode(cloud.decode())
            assert (scores.dtype, scores.shape) == (np.float32, (len(points), 19))
            np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-4)
            np.testing.assert_array_equal(scores.argmax(axis=1), points["label"])


def test_what_is_unlabelled_is_raw_id_0_and_in_no_class(perception: Perception, tmp_path: Path) -> None:
    points = street_scan(0, 16, 100)[0]
    points[::2, 1] = np.nan
    points.tofile(tmp_path / "half.bin")
    with open_source(tmp_path / "half.bin") as source:
        summary = segment(source, perception, tmp_path / "out")
    raw = labels_in(tmp_path / "out")["half"]
    assert (raw[::2] == 0).all()
    assert (raw[1::2] > 0).all()
    assert sum(summary.classes.values()) == len(points[1::2])
    assert list(summary.classes.values()) == sorted(summary.classes.values(), reverse=True)


def test_the_intensity_rule_reaches_the_network(perception: Perception, tmp_path: Path) -> None:
    points = street_scan(0, 16, 100)[0]
    points[:, 3] *= 255
    points.tofile(tmp_path / "s.bin")
    found = {}
    for rule in ("u8", "unit"):
        with open_source(tmp_path / "s.bin", intensity=rule) as source:
            segment(source, perception, tmp_path / rule, scores=True)
        found[rule] = np.load(tmp_path / rule / "scores/s.npy")
    points[:, 3] /= 255
    np.testing.assert_allclose(found["u8"], perception(points, scores=True).scores, atol=1e-4)
    assert np.abs(found["u8"] - found["unit"]).max() > 0.01


def test_weights_whose_label_map_is_unknown_can_label_bags_but_not_scans(
    scans: Path, drive: Path, tmp_path: Path
) -> None:
    spec = NetSpec.spvcnn(4)
    other = Perception.from_net(PointVoxelUNet(spec).eval(), Facts(spec=spec, label_map="my-farm"), device="cpu")
    with open_source(scans) as source, pytest.raises(OutputError, match="label map 'my-farm'"):
        segment(source, other, tmp_path / "a")
    with open_source(drive) as source:
        assert segment(source, other, tmp_path / "b").frames == 4


def test_a_run_that_is_stopped_keeps_what_is_done(drive: Path, perception: Perception, tmp_path: Path) -> None:
    done: list[object] = []
    with open_source(drive) as source:
        summary = segment(source, perception, tmp_path / "out", on_frame=done.append, stopped=lambda: len(done) == 2)
    assert summary.interrupted
    assert "Interrupted" in describe(summary, tmp_path / "out", "bag")
    with BagReader(tmp_path / "out/bag") as bag:
        assert len(bag) == len(list(bag)) == 2


@pytest.mark.parametrize("kind", ["scans", "bag"])
def test_ctrl_c_leaves_whole_results_behind_a_progress_bar(kind: str, weights: Path, tmp_path: Path) -> None:
    count = 2000
    points = street_scan(0, 16, 40)[0]
    if kind == "scans":
        (tmp_path / "in").mkdir()
        for number in range(count):
            points.tofile(tmp_path / "in" / f"{number}.bin")
    else:
        record = np.zeros(len(points), [(name, "<f4") for name in ("x", "y", "z", "intensity")])
        raw = encode(cloud_message(record, 0, "lidar"))
        with BagWriter(tmp_path / "in", "mcap") as bag:
            for number in range(count):
                bag.write("/points", raw, number)
    out = tmp_path / "out"
    terminal, other_end = pty.openpty()
    process = subprocess.Popen(
        [SPVNAS, "segment", tmp_path / "in", "-w", weights, "-o", out, "--device", "cpu"],
        stdout=subprocess.PIPE, stderr=other_end, text=True, env=os.environ | {"TERM": "xterm", "COLUMNS": "120"},
    )  # fmt: skip
    os.close(other_end)
    seen = b""
    while not re.search(rb"[1-9]\d*/%d" % count, seen):  # the bar has moved
        seen += os.read(terminal, 4096)
    process.send_signal(signal.SIGINT)
    try:
        while os.read(terminal, 4096):
            pass
    except OSError:
        pass  # the other end is closed: the process has ended
    stdout, _ = process.communicate()
    os.close(terminal)
    assert process.returncode == 130
    assert "Interrupted" in stdout
    frames = json.loads((out / "summary.json").read_text())["frames"]
    assert 0 < frames < count
    if kind == "scans":
        labels = labels_in(out)
        assert len(labels) == frames
        assert {len(raw) for raw in labels.values()} == {len(points)}
        assert sorted(p.name for p in (out / "labels").iterdir() if p.suffix != ".label") == []
    else:
        with BagReader(out / "bag") as bag:
            assert len(list(bag)) == frames
        assert sorted(os.listdir(out)) == ["bag", "picture.png", "summary.json"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("missing.bin",), "missing.bin does not exist"),
        (("notes.txt",), "no known format"),
        (("empty",), "holds no scans"),
        (("scan.bin", "--intensity", "loud"), "intensity rule"),
        (("scan.bin", "--topic", "/points"), "is no bag"),
        (("scan.bin", "--device", "tpu"), "device"),
        (("scan.bin", "--engine", "steam"), "engine"),
        (("scan.bin", "--out", "notes.txt"), "is a file"),
        (("scan.bin", "--weights", "notes.txt"), "notes.txt"),
        (("scan.bin", "--weights", "missing.safetensors"), "missing.safetensors"),
        (("bag", "--topic", "/other"), "no cloud topic /other; found /points"),
    ],
)
def test_what_the_user_can_mend_is_one_line_and_status_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: Path, arguments: tuple[str, ...], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("hello")
    np.zeros((3, 4), np.float32).tofile(tmp_path / "scan.bin")
    write_drive_bag(tmp_path / "bag", 1, beams=16, columns=10)
    defaults = [] if "--weights" in arguments else ["--weights", weights]
    defaults += [] if "--out" in arguments else ["--out", "out"]
    status, out, error = invoke(*arguments, *defaults)
    assert (status, out) == (1, "")
    assert error.startswith("spvnas: ")
    assert says in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_full_disk_leaves_no_bag(drive: Path, perception: Perception, tmp_path: Path) -> None:
    """A folder that vanishes stands in for the disk: what cannot be written ends the run, it is no bad frame."""
    out = tmp_path / "out"

    def sabotage(_: object) -> None:
        shutil.rmtree(out)

    with open_source(drive) as source, pytest.raises((BagError, OSError)):
        segment(source, perception, out, on_frame=sabotage)
    assert not (out / "bag").exists()
