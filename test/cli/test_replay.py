"""`spvnas replay`: a bag through the live node, and what the times of its clouds say."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

pytest.importorskip("rclpy", reason="ROS 2 is not installed; pip install 'spvnas_ros[ros]' brings it")

from driver_messages import custom, write
from message_builds import need_packages
from ros_harness import Process, private_domain
from spvnas_ros import Perception
from spvnas_ros.cli import app
from spvnas_ros.cli.replay import counts, lines, table
from spvnas_ros.engine.sample_street import street_scan
from spvnas_ros.nets.spec import NetSpec
from spvnas_ros.recordings.bags import BagReader, BagWriter, PointCloud2, cloud_message, encode
from spvnas_ros.ros.node.statistics import HEAD, STAGES
from spvnas_ros.ros.replay.replay_statistics import NodeCounts, Passage, Replay, age_ms, evaluate, latencies_ms
from spvnas_ros.ros.replay.through_node import restamped, sent_as
from spvnas_ros.zoo.checkpoint import Facts

CLOUDS, PERIOD = 8, 150_000_000
START = 1_700_000_000 * 10**9
MS = 1_000_000


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory, perception: Perception) -> Path:
    """Clouds of different sizes, whose field `truth` is what the network says of them."""
    path = tmp_path_factory.mktemp("bags") / "drive"
    rng = np.random.default_rng(0)
    with BagWriter(path) as writer:
        for number in range(CLOUDS):
            points = rng.uniform((-20, -20, -2, 0), (20, 20, 3, 1), (500 + number, 4)).astype(np.float32)
            record = np.zeros(len(points), [(name, "<f4") for name in ("x", "y", "z", "intensity")] + [("truth", "u1")])
            for column, name in enumerate(("x", "y", "z", "intensity")):
                record[name] = points[:, column]
            record["truth"] = perception(points).labels
            stamp = START + number * PERIOD
            writer.write("/points", encode(cloud_message(record, stamp, "lidar")), stamp)
    return path


def invoke(*arguments: object) -> Result:
    result = CliRunner().invoke(app, ["replay", *map(str, arguments)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_messages_of_livox_are_sent_to_the_node_as_they_were_recorded(weights: Path, tmp_path: Path) -> None:
    need_packages("livox_ros_driver2")
    kind = "livox_ros_driver2/msg/CustomMsg"
    bag = write(tmp_path / "livox", False, kind, lambda *each: custom(*each, "livox_ros_driver2"))
    assert sent_as(kind) == kind
    assert sent_as("velodyne_msgs/msg/VelodyneScan") == "sensor_msgs/msg/PointCloud2"
    with private_domain():
        run = invoke(bag, "-w", weights, "-o", tmp_path / "out", "--device", "cpu", "--rate", "0.5", "--quiet")
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (run.exit_code, report["sent"], report["bad"]) == (0, 4, 0), run.output
    assert report["answered"] >= 1


def spvnas(*arguments: object) -> Process:
    return Process(sys.executable, "-m", "spvnas_ros.cli", *map(str, arguments))


def test_a_bag_plays_through_the_live_node_and_every_cloud_is_accounted_for(
    bag: Path, weights: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with private_domain():
        run = invoke(bag, "-w", weights, "-o", out, "--truth", "truth", "--device", "cpu")
    assert run.exit_code == 0, run.output
    report = json.loads((out / "report.json").read_text())
    assert report["sent"] == CLOUDS
    assert report["answered"] >= 1
    assert report["sent"] == report["answered"] + report["dropped"] + report["lost"] + report["bad"]
    assert report["seconds"] > 0.9 * (CLOUDS - 1) * PERIOD / 1e9
    # The truth is the network's own: an answer that were taken for another cloud's would show.
    assert report["miou"] == 1.0
    latency, node = report["latency_ms"], report["stages_ms"]
    assert 0 < latency["p50"] <= latency["p95"] <= latency["p99"] <= latency["max"]
    assert set(node) == {"decode", "preprocess", "inference", "postprocess", "publish", "total"}
    assert node["total"]["p50"] <= latency["max"]
    assert report["node"]["engine"] == "cpu"
    assert [file.name for file in out.iterdir()] == ["report.json"]
    told = [line.split() for line in run.stdout.splitlines()]
    for name in ("sent", "answered", "dropped", "lost", "bad"):
        assert [name, str(report[name])] in [line[:2] for line in told], run.stdout
    times = {name: f"{report[f'{key}_ms']['p50']:.1f}" for name, key in (("labels", "latency"), ("age", "age"))}
    for name, value in times.items():
        assert [name, value, "ms"] in [line[:3] for line in told], run.stdout
    assert "From sending a cloud until its labels were back." in run.stdout

    again = invoke(bag, "-w", weights, "-o", out)
    assert again.exit_code == 1
    assert "would be replaced; name another folder, or replace with --force" in again.stderr


def test_a_bag_of_another_place_and_field_is_told_of_and_brought_where_the_network_knows_it(
    weights: Path, tmp_path: Path
) -> None:
    perception, at = Perception.load(weights), np.array([500.0, -200.0, 8.0])
    with BagWriter(tmp_path / "map") as writer:
        for number in range(4):
            points = street_scan(number, 32, 300)[0]
            record = np.zeros(len(points), [(name, "<f8") for name in ("x", "y", "z", "echo")] + [("truth", "u1")])
            for column, name in enumerate(("x", "y", "z", "echo")):
                record[name] = points[:, column]
            record["truth"] = perception(points).labels
            for column, name in enumerate("xyz"):
                record[name] += at[column]
            stamp = START + number * PERIOD
            writer.write("/points", encode(cloud_message(record, stamp, "lidar")), stamp)
    options = ["-w", weights, "--truth", "truth", "--device", "cpu", "--force", "-o", tmp_path / "out"]
    with private_domain():
        told = invoke(tmp_path / "map", *options)
        mended = invoke(
            tmp_path / "map", *options, "--origin", "500,-200,8", "--intensity-field", "echo", "--mount", "yaw=0"
        )
    assert "warning: place: the sensor seems to be at 50" in told.stderr
    assert "no field is known to hold it (fields: x, y, z, echo, truth)" in told.stderr
    assert "warning" not in mended.stderr
    # The truth is the network's own labels at home; float64 coordinates come back to within a millimetre.
    assert json.loads((tmp_path / "out/report.json").read_text())["accuracy"] > 0.999


def test_ctrl_c_ends_player_and_node_and_leaves_no_report(bag: Path, weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with (
        private_domain(),
        spvnas("replay", bag, "-w", weights, "-o", out, "--rate", "0.001", "--device", "cpu") as run,
    ):
        run.wait_for("labels clouds of")
        assert run.stop(signal.SIGINT) == 130, run.output
    assert "clouds labelled" in run.output  # the node's last word
    assert not (out / "report.json").exists()


def test_a_node_that_cannot_start_is_told_at_once(bag: Path, weights: Path, tmp_path: Path) -> None:
    with private_domain():
        run = invoke(bag, "-w", weights, "-o", tmp_path / "out", "--device", "cuda:99")
    assert run.exit_code == 1
    assert "spvnas: segmenter_node ended with status 1" in run.stderr


def test_what_is_known_before_is_refused_before(bag: Path, weights: Path, tmp_path: Path) -> None:
    assert invoke(bag, "-w", weights, "-o", tmp_path, "--rate", "0").exit_code == 2
    field = invoke(bag, "-w", weights, "-o", tmp_path, "--truth", "colour")
    assert field.exit_code == 1
    assert "has no field 'colour'" in field.stderr
    nowhere = invoke(bag, "-w", tmp_path / "nowhere.safetensors", "-o", tmp_path)
    assert nowhere.exit_code == 1
    assert "nowhere.safetensors" in nowhere.stderr


@pytest.mark.parametrize("arguments", [["replay", "b", "-w", "x", "-o", "o"], ["doctor", "/some/topic"]])
def test_without_ros_the_error_names_what_to_install(arguments: list[str]) -> None:
    program = "import sys; sys.modules['rclpy'] = None; from spvnas_ros.cli import main; main()"
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "pip install 'spvnas_ros[ros]'" in done.stderr
    assert "Traceback" not in done.stderr


# -- the figures ------------------------------------------------------------------------------------------------------


def test_a_cloud_keeps_everything_but_its_stamp(bag: Path) -> None:
    with BagReader(bag) as reader:
        recorded = next(iter(reader))
    stamp = 1_800_000_000 * 10**9 + 123
    changed, before = (replace(recorded, raw=raw).decode() for raw in (restamped(recorded.raw, stamp), recorded.raw))
    assert (changed.header.stamp.sec, changed.header.stamp.nanosec) == (1_800_000_000, 123)
    assert isinstance(changed, PointCloud2)
    assert changed.header.frame_id == "lidar"
    assert changed.data.tobytes() == before.data.tobytes()
    assert len(restamped(recorded.raw, stamp)) == len(recorded.raw)


def passages(*times: tuple[int, int | None]) -> list[Passage]:
    """From milliseconds of sending and of the answer."""
    return [
        Passage(number, sent * MS, None if answered is None else answered * MS)
        for number, (sent, answered) in enumerate(times)
    ]


def test_the_figures_of_a_short_drive() -> None:
    way = passages((0, 30), (100, None), (200, 240), (300, 320))
    found = evaluate(way, NodeCounts(received=3, labelled=3), 2 * MS, {"total": [10.0, 20.0]}, {"device": "cpu"})
    assert (found.sent, found.answered, found.lost, found.dropped) == (4, 3, 1, 0)
    assert latencies_ms(way) == [30, 40, 20]
    assert found.latency_ms is not None
    assert (found.latency_ms.p50, found.latency_ms.max) == (30, 40)
    assert found.hertz == pytest.approx(10)
    # From 30 to 240 ms the labels of the first cloud are 30 to 240 ms old, then the third's 40 to 120 ms.
    assert found.age_ms is not None
    assert found.age_ms.max == 240
    assert found.age_ms.p50 == pytest.approx(107.5)
    assert found.stages_ms["total"].max == 20


def printed(figures: Replay) -> str:
    console = Console(width=200, file=io.StringIO(), soft_wrap=True)
    for part in (counts(figures), table(figures), *lines(figures, None, Facts(NetSpec.spvcnn(16)))):
        console.print(part)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_every_figure_has_a_unit_and_a_sentence_and_the_counts_add_up() -> None:
    way = passages((0, 30), (100, None), (200, 240), (300, None), (400, 430))
    stages = {name: [10.0, 20.0] for name in (*STAGES, HEAD)}
    figures = evaluate(way, NodeCounts(received=4, labelled=3, unwatched=1), 0, stages, {})
    text = printed(figures)
    rows = {" ".join(line.split()[:2]): line for line in text.splitlines() if "ms" in line}
    assert [row.count(" ms") for row in rows.values()] == [4] * (2 + len(stages)), text
    for name in ("labels", "age", *(f"node {stage}" for stage in stages)):
        assert sum(line.startswith(name) for line in text.splitlines()) == 2, text
    assert "lost            1  They did not reach the node." in text
    assert "unanswered      1  They reached the node, and no labels came back." in text
    # With objects the node's total is longer than the way of the labels, which newcomers take for a fault.
    assert "before objects" not in text
    boxed = replace(figures, boxes_ms=figures.latency_ms)
    assert "Labels are sent before objects are sought, so they may be back sooner." in printed(boxed)
    nothing = printed(evaluate(passages((0, None), (100, None)), NodeCounts(), 0, {}, {}))
    assert "answered      0" in nothing
    assert ["labels", "-", "-", "-", "-"] in [line.split() for line in nothing.splitlines()]


def test_nothing_answered_has_no_figures() -> None:
    found = evaluate(passages((0, None), (100, None)), NodeCounts(), 0, {}, {})
    assert (found.latency_ms, found.age_ms, found.lost) == (None, None, 2)
    assert evaluate([], NodeCounts(), 0, {}, {}).hertz is None


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(1, 500), st.integers(1, 2000)), min_size=3, max_size=30))
def test_the_age_is_that_of_the_newest_answer_at_every_moment(steps: list[tuple[int, int]]) -> None:
    sent = np.cumsum([step for step, _ in steps])
    way = passages(*((int(at), int(at) + latency) for at, (_, latency) in zip(sent, steps, strict=True)))
    answered = np.array([each.answered for each in way], np.int64) // MS
    moments = np.linspace(answered.min(), answered.max(), 1001)[:-1] + (np.ptp(answered) / 2000)
    ages = np.array([moment - sent[answered <= moment].max() for moment in moments])
    found = age_ms(way)
    if np.ptp(answered) == 0:
        assert found is None
        return
    assert found is not None
    step = np.ptp(answered) / 1000
    for value, percent in ((found.p50, 50), (found.p95, 95), (found.p99, 99)):
        assert (ages <= value + step).mean() >= percent / 100 - 5e-3
        assert (ages < value - step).mean() <= percent / 100 + 5e-3


def test_counts_come_from_the_nodes_diagnostics_and_rest_when_they_add_up() -> None:
    values = {
        "received": "9",
        "labelled": "5",
        "dropped": "2",
        "without subscribers": "1",
        "bad": "1",
        "rate (Hz)": "?",
    }
    counts = NodeCounts.of(values)
    assert counts.at_rest
    assert not NodeCounts.of(values | {"received": "10"}).at_rest
    assert counts - NodeCounts(received=1, labelled=1) == NodeCounts(8, 4, 2, 1, 1)
    with pytest.raises(KeyError):
        NodeCounts.of({"received": "9"})
