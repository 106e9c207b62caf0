"""The segmenter node as a process: clouds go in, labelled clouds come out, whatever comes between."""

from __future__ import annotations

import re
import signal
import sys
from pathlib import Path
from threading import Semaphore

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed; pip install 'spvnas_ros[ros]' brings it")

from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import PointCloud2, PointField
from std_msgs.msg import Float64

from ros_harness import (
    Process,
    cloud,
    collect,
    eventually,
    exchange,
    ros,
    segmenter,
    segmenter_with,
    weights,
    with_data,
)
from spvnas_ros.clouds.point_cloud2 import decode
from spvnas_ros.frame import Points, Segmentation
from spvnas_ros.ros.node.segmenter_node import SegmenterNode
from spvnas_ros.ros.process.lifetime import spinning

__all__ = ["ros", "weights"]  # fixtures


def test_an_organised_big_endian_cloud_with_padding_keeps_its_shape_and_bytes(ros: str) -> None:
    dtype = np.dtype(
        {"names": ["x", "y", "z", "label"], "formats": [">f8", ">f8", ">f8", ">u2"], "offsets": [1, 9, 17, 26]}
    )
    values = np.zeros((3, 5), dtype)
    values["x"] = np.arange(15).reshape(3, 5)
    values["label"] = 40 + np.arange(15).reshape(3, 5)
    message = cloud(0, stamp=7)
    message.height, message.width, message.is_bigendian = 3, 5, True
    message.point_step, message.row_step = 28, 28 * 5 + 6
    message.fields = [
        PointField(name=name, offset=offset, datatype=8 if kind == ">f8" else 4, count=1)
        for name, offset, kind in (("x", 1, ">f8"), ("y", 9, ">f8"), ("z", 17, ">f8"), ("label", 26, ">u2"))
    ]
    with_data(message, b"".join(row.tobytes() + b"\xee" * 6 for row in values))
    with segmenter_with(ros, "counting"), exchange(ros) as segmenter_node:
        came = segmenter_node.ask(message).cloud
    assert (came.height, came.width, came.is_bigendian, came.point_step % 4) == (3, 5, True, 0)
    points = decode(came)
    assert points.dtype.names == ("x", "y", "z", "input_label", "label", "confidence")
    np.testing.assert_array_equal(points["x"], np.arange(15))
    np.testing.assert_array_equal(points["input_label"], 40 + np.arange(15))
    np.testing.assert_array_equal(points["label"], np.arange(15))


def test_an_unforeseen_error_costs_one_cloud_and_is_reported_with_its_traceback(ros: str) -> None:
    with segmenter_with(ros, "failing") as node, exchange(ros) as segmenter_node:
        segmenter_node.send(cloud(13, stamp=10))
        node.wait_for("RuntimeError: thirteen points")
        assert segmenter_node.ask(cloud(14, stamp=11)).cloud.width == 14
        segmenter_node.send(cloud(13, stamp=12))
        assert segmenter_node.ask(cloud(14, stamp=13)).cloud.width == 14
        assert node.stop() == 0
    assert node.output.count("RuntimeError: thirteen points") == 1
    assert re.search(r" ([12]) bad \(error-RuntimeError \1\)", node.output)


def test_a_slow_network_always_takes_the_newest_cloud_and_the_drops_are_counted(ros: str) -> None:
    with segmenter_with(ros, "slow") as process, exchange(ros) as probe:
        node = Node("impatient_driver")
        answers = collect(node, f"{ros}/segmenter/output/labeled_points", QoSProfile(depth=50))
        publisher = node.create_publisher(PointCloud2, f"{ros}/segmenter/input/points", QoSProfile(depth=50))
        with spinning(node):
            answers.wait_until(lambda came: bool(came) or probe.send(cloud(1)) is not None)
            answers.clouds.clear()
            sent = 0
            # Clouds keep coming while the network is at work, however late a busy machine lets the node take them.
            while len(answers.clouds) < 8 and sent < 10_000:
                publisher.publish(cloud(500, stamp=1000 + sent))
                sent += 1
                with answers.changed:
                    answers.changed.wait(0.01)
            answers.wait_until(lambda came: bool(came) and came[-1].header.stamp.sec == 999 + sent)
            stamps = [came.header.stamp.sec for came in answers.clouds]
        assert process.stop() == 0
    assert stamps == sorted(set(stamps)), "never an older cloud after a newer one"
    assert len(stamps) < sent / 2, "nobody waits for a slow network"
    dropped = int(re.search(r"(\d+) dropped for newer ones", process.output).group(1))  # type: ignore[union-attr]
    assert dropped > 0


class Gate:
    """A network that labels nothing before it is let."""

    def __init__(self) -> None:
        self.entered, self.opened = Semaphore(0), Semaphore(0)
        self.seen: list[int] = []

    def __call__(self, points: Points, **_asked: bool) -> Segmentation:
        if len(points) < 1000:
            self.seen.append(len(points))
            self.entered.release()
            assert self.opened.acquire(timeout=60)
        return Segmentation(np.zeros(len(points), np.uint8), np.ones(len(points), np.float32))


def test_of_the_clouds_that_wait_only_the_newest_is_labelled(ros: str) -> None:
    gate = Gate()
    node = SegmenterNode(gate, namespace=ros)
    driver = Node("driver")
    answers = collect(driver, f"{ros}/segmenter/output/labeled_points", QoSProfile(depth=10))
    publisher = driver.create_publisher(PointCloud2, f"{ros}/segmenter/input/points", QoSProfile(depth=10))
    with spinning(driver), spinning(node):
        assert eventually(lambda: publisher.get_subscription_count() > 0)
        assert eventually(lambda: node.count_subscribers("~/output/labeled_points") > 0)
        for points in (10, 20, 30, 40):
            publisher.publish(cloud(points, stamp=points))
            assert eventually(lambda: node.statistics.received == points // 10)  # noqa: B023
            if points == 10:
                assert gate.entered.acquire(timeout=60)
        assert eventually(lambda: node.statistics.dropped == 2)
        gate.opened.release(2)
        answers.wait_until(lambda came: len(came) == 2)
    assert gate.seen == [10, 40]
    assert [came.width for came in answers.clouds] == [10, 40]
    assert (node.statistics.published, node.statistics.dropped) == (2, 2)


def test_nothing_is_labelled_while_nobody_listens(ros: str) -> None:
    seen: list[int] = []

    def perception(points: Points, **_asked: bool) -> Segmentation:
        seen.append(len(points))
        return Segmentation(np.zeros(len(points), np.uint8), np.ones(len(points), np.float32))

    node, driver = SegmenterNode(perception, namespace=ros), Node("driver")
    publisher = driver.create_publisher(PointCloud2, f"{ros}/segmenter/input/points", QoSProfile(depth=10))
    with spinning(driver), spinning(node):
        seen.clear()
        driver.create_subscription(Float64, f"{ros}/segmenter/debug/processing_time/total_ms", print, 1)
        assert eventually(lambda: publisher.get_subscription_count() > 0)
        assert eventually(lambda: node.count_subscribers("~/debug/processing_time/total_ms") > 0)
        publisher.publish(cloud(10))
        assert eventually(lambda: node.statistics.received == 1)
        assert node.statistics.unwatched == 1
        with exchange(ros) as asking:
            assert asking.ask(cloud(20, stamp=2)).cloud.width == 20
    assert 10 not in seen
    assert seen[-1] == 20


def test_parameters_come_from_a_file_and_an_intensity_may_be_a_number(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("/**:\n  ros__parameters:\n    weights: nowhere.safetensors\n    intensity: 100\n")
    with Process(sys.executable, "-m", "spvnas_ros.ros.node", "--ros-args", "--params-file", str(file)) as node:
        assert node.wait() == 1
    assert "nowhere.safetensors" in node.output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_node_cleanly_even_in_the_middle_of_a_cloud(ros: str, number: int) -> None:
    with segmenter_with(ros, "slow") as node, exchange(ros) as segmenter_node:
        segmenter_node.send(cloud(500, stamp=5))
        node.wait_for("labelling")
        assert node.stop(number) == 0
    assert "Traceback" not in node.output
    assert re.search(r"segmenter\]: \d+ clouds labelled", node.output)


def test_weights_or_parameters_that_cannot_be_used_end_the_node_with_one_line(
    weights: Path, tmp_path: Path, ros: str
) -> None:
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(weights.read_bytes()[:-1000])
    cases: dict[str, tuple[dict[str, object], str]] = {
        "missing": ({"weights": tmp_path / "missing.safetensors"}, "missing.safetensors"),
        "cut short": ({"weights": cut}, "cut.safetensors"),
        "a number": ({"weights": 5}, "parameter weights must be text, found the number 5"),
        "bad engine": ({"weights": weights, "engine": "steam"}, "steam"),
        "bad intensity": ({"weights": weights, "intensity": "bright"}, "intensity rule must be"),
    }
    started: dict[str, Process] = {name: segmenter(ros, **given) for name, (given, _) in cases.items()}
    for name, process in started.items():
        with process:
            assert process.wait() == 1, name
        reason = [line for line in process.output.splitlines() if line.startswith("cannot start: ")]
        assert len(reason) == 1, process.output
        assert cases[name][1] in reason[0]
        assert "Traceback" not in process.output
