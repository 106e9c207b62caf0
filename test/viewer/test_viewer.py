"""What the viewer shows and when, without a browser: frames, labels, colours, the clock. And RViz's configuration."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from places import REPOSITORY
from spvnas_ros.cli import app
from spvnas_ros.engine.sample_street import street_scan, write_drive_bag
from spvnas_ros.frame import UNLABELLED
from spvnas_ros.labels import SEMANTIC_KITTI
from spvnas_ros.perception import Perception
from spvnas_ros.recordings.scans import ScanError, open_source
from spvnas_ros.segment.run import segment
from spvnas_ros.viewer.colours import Classes, choices, colour, visible
from spvnas_ros.viewer.command import results_of_a_run
from spvnas_ros.viewer.frames import FrameError, Frames, Labelling, ViewFrame
from spvnas_ros.viewer.playback import Playback
from view_samples import labelled_bag

CLASSES = Classes(SEMANTIC_KITTI.classes, SEMANTIC_KITTI.palette)
ROAD = SEMANTIC_KITTI.classes.index("road")


def frames_of(path: Path, **options: object) -> Frames:
    return Frames(open_source(path), Labelling(SEMANTIC_KITTI, **options))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def bags(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], tuple[Path, list[np.ndarray]]]:
    """Bags of both storages, with clouds recorded one after the other and all at once, and their points."""
    folder = tmp_path_factory.mktemp("bags")
    made = {}
    for storage in ("sqlite3", "mcap"):
        for apart in (10**8, 0):
            path = folder / f"{storage}_{apart}"
            made[storage, apart] = (path, labelled_bag(path, 20, columns=2, storage=storage, stamps=apart))
    return made


@pytest.mark.parametrize("storage", ["sqlite3", "mcap"])
@pytest.mark.parametrize("apart", [10**8, 0])
def test_a_bag_gives_every_frame_in_any_order(bags, storage: str, apart: int) -> None:
    path, clouds = bags[storage, apart]

    @settings(max_examples=25)
    @given(st.lists(st.integers(0, len(clouds) - 1), min_size=1, max_size=30))
    def check(order: list[int]) -> None:
        frames = frames_of(path)
        for index in order:
            np.testing.assert_array_equal(frames[index].points, clouds[index])
            assert frames[index].name == f"{index:06d}"

    check()


def test_a_frame_that_is_not_there_is_an_index_error(bags) -> None:
    frames = frames_of(bags["mcap", 0][0])
    for index in (-1, len(frames)):
        with pytest.raises(IndexError):
            frames[index]


@pytest.mark.parametrize("raw", [False, True])
def test_a_bags_labels_may_be_classes_or_raw_ids(tmp_path: Path, raw: bool) -> None:
    labelled_bag(tmp_path / "bag", 2, raw=raw)
    truth = street_scan(3, 16, 60)[1]
    frame = frames_of(tmp_path / "bag")[1]
    np.testing.assert_array_equal(frame.labels, truth)
    assert frame.confidence is not None
    assert (frame.confidence == 1).all()


def test_clouds_without_labels_are_shown_and_a_field_asked_for_is_missed(tmp_path: Path) -> None:
    write_drive_bag(tmp_path / "bag", 1, beams=16, columns=60)
    frame = frames_of(tmp_path / "bag")[0]
    assert (frame.labels, choices(frame)) == (None, ("height", "intensity"))
    with pytest.raises(FrameError, match=r"no field 'truth'.*intensity, ring"):
        frames_of(tmp_path / "bag", field="truth")[0]


def write_sequence(folder: Path, labels: str = "labels", count: int = 3) -> None:
    (folder / "velodyne").mkdir(parents=True)
    (folder / labels).mkdir(exist_ok=True)
    for number in range(count):
        points, truth = street_scan(3, 16, 60, position=float(number))
        points.tofile(folder / "velodyne" / f"{number:06d}.bin")
        SEMANTIC_KITTI.decode(truth).tofile(folder / labels / f"{number:06d}.label")


@pytest.mark.parametrize("labels", ["labels", "velodyne"])
@pytest.mark.parametrize("given", [".", "velodyne", "velodyne/000001.bin"])
def test_labels_are_found_beside_the_scans(tmp_path: Path, labels: str, given: str) -> None:
    write_sequence(tmp_path, labels)
    frames = frames_of(tmp_path / given)
    index = next(i for i in range(len(frames)) if frames[i].name == "000001")
    np.testing.assert_array_equal(frames[index].labels, street_scan(3, 16, 60, position=1.0)[1])


def test_a_broken_frame_does_not_take_the_others_with_it(tmp_path: Path) -> None:
    write_sequence(tmp_path, count=4)
    (tmp_path / "velodyne" / "000001.bin").write_bytes(bytes(1001))
    (tmp_path / "labels" / "000002.label").write_bytes(bytes(8))
    frames = frames_of(tmp_path)
    for index, problem in ((1, "1001 bytes"), (2, "8 bytes, but the scan")):
        with pytest.raises(FrameError, match=problem):
            frames[index]
    assert frames[0].labels is not None
    assert frames[3].labels is not None


def test_a_bag_damaged_on_the_way_shows_what_is_whole(tmp_path: Path) -> None:
    clouds = labelled_bag(tmp_path / "bag", 40, columns=200, storage="mcap")
    storage = next((tmp_path / "bag").glob("*.mcap"))
    content = bytearray(storage.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 30_000] = bytes([255]) * 30_000
    storage.write_bytes(content)
    frames = frames_of(tmp_path / "bag")
    whole = []
    for index in range(40):
        with suppress(FrameError):
            if np.array_equal(frames[index].points, clouds[index]):
                whole.append(index)
    assert 10 < len(whole) < 40
    assert whole[:10] == list(range(10))
    # Nothing is spoilt for the frames before.
    np.testing.assert_array_equal(frames[0].labels, street_scan(3, 16, 200)[1])


def test_points_without_a_place_are_left_out_with_their_labels(tmp_path: Path) -> None:
    points, truth = street_scan(3, 16, 60)
    points[::3, 1] = np.nan
    points[1, 2] = np.inf
    points.tofile(tmp_path / "a.bin")
    SEMANTIC_KITTI.decode(truth).tofile(tmp_path / "a.label")
    frame = frames_of(tmp_path)[0]
    kept = np.isfinite(points).all(axis=1)
    np.testing.assert_array_equal(frame.points, points[kept])
    np.testing.assert_array_equal(frame.labels, truth[kept])


def test_a_network_labels_what_is_shown(tmp_path: Path, perception: Perception) -> None:
    write_sequence(tmp_path, count=1)
    frame = frames_of(tmp_path, network=perception)[0]
    result = perception(street_scan(3, 16, 60)[0])
    np.testing.assert_array_equal(frame.labels, result.labels)
    np.testing.assert_array_equal(frame.confidence, result.confidence)


def test_the_folder_of_a_run_stands_for_its_scans_and_labels(tmp_path: Path) -> None:
    scans, out = tmp_path / "scans", tmp_path / "out"
    write_sequence(scans)
    (out / "labels").mkdir(parents=True)
    assert results_of_a_run(scans, None) == (scans, None)
    (out / "summary.json").write_text(json.dumps({"source": str(scans)}))
    assert results_of_a_run(out, None) == (scans, out / "labels")
    (out / "bag").mkdir()
    assert results_of_a_run(out, None) == (out / "bag", None)
    (out / "bag").rmdir()
    (out / "summary.json").write_text(json.dumps({"source": str(tmp_path / "gone")}))
    with pytest.raises(ScanError, match="gone, which is not there; give the scans"):
        results_of_a_run(out, None)


def test_a_run_over_a_data_sets_root_is_shown_with_its_predictions(perception: Perception, tmp_path: Path) -> None:
    root, out = tmp_path / "set", tmp_path / "out"
    write_sequence(root / "sequences" / "08")
    with open_source(root) as source:
        segment(source, perception, out)
    found, labels = results_of_a_run(out, None)
    assert (found, labels) == (root, out)
    with open_source(found) as source:
        frame = Frames(source, Labelling(SEMANTIC_KITTI, folder=labels))[0]
        own = Frames(source, Labelling(SEMANTIC_KITTI))[0]
    np.testing.assert_array_equal(frame.labels, perception(frame.points).labels)
    assert own.labels is not None
    assert (own.labels != frame.labels).any()


labels_of_points = st.lists(st.sampled_from([*range(19), UNLABELLED]), min_size=1, max_size=50)


@given(labels_of_points, st.frozensets(st.integers(0, 19)))
def test_the_legend_counts_what_is_there_and_hides_what_is_switched_off(ids: list[int], hidden: frozenset[int]) -> None:
    labels = np.array(ids, np.uint8)
    frame = ViewFrame("", np.zeros((len(ids), 4), np.float32), labels)
    counts = CLASSES.counts(labels)
    assert counts.sum() == len(ids)
    assert counts[ROAD] == ids.count(ROAD)
    assert counts[-1] == ids.count(UNLABELLED)
    shown = visible(frame, hidden, CLASSES)
    assert shown.sum() == sum(count for row, count in enumerate(counts) if row not in hidden)
    colours = colour(frame, "class", CLASSES)
    assert [tuple(row) for row in colours] == [CLASSES.colours[min(label, 19)] for label in ids]


@given(
    st.lists(st.floats(-1e4, 1e4, width=32), max_size=40), st.sampled_from(["confidence", "height", "intensity", "no"])
)
def test_any_frame_can_be_coloured_by_anything(values: list[float], by: str) -> None:
    points = np.array([[0, 0, value, value] for value in values], np.float32).reshape(-1, 4)
    frame = ViewFrame("", points, None, np.abs(points[:, 3]))
    colours = colour(frame, by, CLASSES)
    assert (colours.shape, colours.dtype) == ((len(values), 3), np.uint8)


def test_confidence_runs_from_red_to_green() -> None:
    frame = ViewFrame("", np.zeros((2, 4), np.float32), None, np.array([0, 1], np.float32))
    (red, _, _), (_, green, _) = colour(frame, "confidence", CLASSES).tolist()
    assert red > 200
    assert green > 150


def test_playback_shows_every_frame_and_is_late_rather_than_in_a_burst() -> None:
    playback = Playback(count=3, rate=10)
    assert playback.wait(0.0) is None
    playback.toggle(now=0.0)
    assert not playback.advance(now=0.05)
    assert playback.wait(now=0.05) == pytest.approx(0.05)
    seen = []
    for now in (0.11, 0.21, 0.32):
        assert playback.advance(now)
        seen.append(playback.index)
    assert seen == [1, 2, 0]
    assert playback.advance(now=5.0)
    # One frame at once for the one that was late, and then in time again.
    assert playback.advance(now=5.0)
    assert not playback.advance(now=5.0)


def test_half_the_speed_is_twice_the_wait_and_a_step_pauses() -> None:
    playback = Playback(count=5)
    playback.toggle(now=0.0)
    playback.set_speed(0.5, now=0.0)
    assert playback.wait(now=0.0) == pytest.approx(0.2)
    playback.step(-1)
    assert (playback.index, playback.playing) == (4, False)
    playback.seek(99)
    assert playback.index == 4
    playback.seek(-5)
    assert playback.index == 0


@pytest.mark.parametrize("address", [[], ["--host", "192.0.2.1"]])
def test_a_page_that_cannot_be_served_is_one_readable_line(tmp_path: Path, address: list[str]) -> None:
    pytest.importorskip("viser", reason="viser is not installed: pip install 'spvnas_ros[view]'")
    write_sequence(tmp_path, count=1)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = CliRunner().invoke(app, ["view", str(tmp_path), "--port", port, *address])
    assert result.exit_code == 1
    assert "cannot be served at" in result.output
    assert "choose another --port" in result.output


def test_without_viser_the_command_names_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "viser", None)
    result = CliRunner().invoke(app, ["view", str(tmp_path)])
    assert result.exit_code == 1
    assert "pip install 'spvnas_ros[view]'" in result.output


def test_rviz_looks_at_the_nodes_topics() -> None:
    pytest.importorskip("rclpy", reason="ROS 2 is not installed; pip install 'spvnas_ros[ros]' brings it")
    from spvnas_ros.ros.node.outputs import COLORED_TOPIC, FILTERED_TOPIC, LABELLED_TOPIC, MARKERS_TOPIC
    from spvnas_ros.ros.node.segmenter_node import NODE_NAME

    config = yaml.safe_load((REPOSITORY / "rviz" / "segment.rviz").read_text())["Visualization Manager"]
    displays = {display["Name"]: display for display in config["Displays"]}
    topics = {name: display["Topic"]["Value"] for name, display in displays.items() if "Topic" in display}
    launched = (REPOSITORY / "launch" / "segment.launch.py").read_text()
    assert topics.pop("Input points") in launched
    shown = (COLORED_TOPIC, MARKERS_TOPIC, LABELLED_TOPIC, FILTERED_TOPIC)
    assert list(topics.values()) == [topic.replace("~", f"/{NODE_NAME}") for topic in shown]
    assert displays["Coloured points"]["Color Transformer"] == "RGB8"
    assert [name for name, display in displays.items() if display["Enabled"]] == [
        "Grid", "Coloured points", "Objects", "TF",
    ]  # fmt: skip


def test_clouds_that_the_network_does_not_know_are_told_of_before_the_page_opens(tmp_path: Path, weights: Path) -> None:
    pytest.importorskip("viser", reason="viser is not installed: pip install 'spvnas_ros[view]'")
    points = street_scan(0, 32, 400)[0]
    points[:, 2] += 1.2
    (tmp_path / "scans").mkdir()
    points.tofile(tmp_path / "scans/0.bin")

    def said(*options: str) -> str:
        command = [sys.executable, "-m", "spvnas_ros.cli", "view", str(tmp_path / "scans"), "-w", str(weights)]
        served = subprocess.Popen(
            [*command, "--port", "0", *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert served.stdout is not None
        lines: list[str] = []
        while not lines or "(Ctrl-C ends)" not in lines[-1]:
            line = served.stdout.readline()
            assert line, lines
            lines.append(line)
        served.send_signal(signal.SIGINT)
        assert served.wait(60) == 0
        return "".join(lines)

    assert "warning: ground: it lies 0." in said()
    assert "warning" not in said("--quiet")
    assert "warning" not in said("--mount", "auto")
