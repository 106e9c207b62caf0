"""What the node says of its first clouds, in its log and on /diagnostics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed; pip install 'spvnas_ros[ros]' brings it")

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from sensor_msgs.msg import PointCloud2

from ros_harness import cloud, eventually, exchange, ros, segmenter_with, with_data
from spvnas_ros.clouds.fit import LOOKED_AT
from spvnas_ros.engine.sample_street import street_scan
from spvnas_ros.ros.process.lifetime import spinning

__all__ = ["ros"]  # fixture


def street(number: int, up: float = 0.0, scale: float = 1.0) -> PointCloud2:
    """A cloud of a street, moved up, with intensities of another scale."""
    points = street_scan(number, 32, 500)[0]
    rows = (points + np.array([0, 0, up, 0], np.float32)) * np.array([1, 1, 1, scale], np.float32)
    message = with_data(cloud(len(rows)), rows.astype(np.float32).tobytes())
    message.header.stamp.sec = number + 1
    return message


class Listener(Node):
    """Keeps the newest diagnostics of the clouds."""

    def __init__(self) -> None:
        super().__init__("listener")
        self.message = ""
        self.values: dict[str, str] = {}
        self.create_subscription(DiagnosticArray, "/diagnostics", self._keep, 10)

    def _keep(self, array: DiagnosticArray) -> None:
        for status in array.status:
            if status.name.endswith(": clouds"):
                self.message = status.message
                self.values = {each.key: each.value for each in status.values}


def test_clouds_that_fit_bring_no_word_and_their_ground_is_in_the_diagnostics(ros: str, tmp_path: Path) -> None:  # noqa: ARG001
    listener = Listener()
    with spinning(listener), segmenter_with(ros, "counting") as process, exchange(ros) as asking:
        for number in range(LOOKED_AT):
            asking.ask(street(number))
        assert eventually(lambda: listener.message == "as the network knows them")
        assert abs(float(listener.values["ground height (m)"]) - 1.73) < 0.3
        assert process.stop() == 0
    assert "ground: " not in process.output


def test_a_mount_that_does_not_fit_is_told_once_with_the_parameter_that_mends_it(ros: str) -> None:
    listener = Listener()
    with spinning(listener), segmenter_with(ros, "counting") as process, exchange(ros) as asking:
        for number in range(LOOKED_AT + 3):
            asking.ask(street(number, up=1.2))
        process.wait_for(r"ground: it lies 0\.\d+ m below the origin; .*; set -p mount\.z:=0\.")
        assert eventually(lambda: "ground: it lies" in listener.message)
        assert process.stop() == 0
    assert process.output.count("ground: it lies") == 1


def test_the_scale_is_said_and_one_bright_value_does_not_change_it(ros: str) -> None:
    with segmenter_with(ros, "counting") as process, exchange(ros) as asking:
        for number in range(3):
            asking.ask(street(number, scale=255.0))
        process.wait_for("intensity from field 'intensity', divided by 255")
        odd = street(4, scale=255.0)
        values = np.frombuffer(bytes(odd.data), np.float32).reshape(-1, 4).copy()
        values[7, 3] = 30000
        asking.ask(with_data(odd, values.tobytes()))
        assert process.stop() == 0
    assert process.output.count("intensity from field") == 1


def test_clouds_without_a_point_tell_nothing_and_are_told_when_there_are_no_others(ros: str) -> None:
    listener = Listener()
    with spinning(listener), segmenter_with(ros, "counting") as process, exchange(ros) as asking:
        for number in range(LOOKED_AT + 1):
            asking.ask(cloud(0, stamp=number + 1))
            covered = np.full((300, 4), np.nan, np.float32)
            asking.ask(with_data(cloud(300, stamp=100 + number), covered.tobytes()))
        assert eventually(lambda: listener.message == "not looked at yet")
        for number in range(LOOKED_AT):
            asking.ask(street(number, up=1.2))
        process.wait_for(r"ground: it lies 0\.\d+ m below the origin")
        assert process.stop() == 0


def test_a_covered_sensor_is_told(ros: str) -> None:
    with segmenter_with(ros, "counting") as process, exchange(ros) as asking:
        for number in range(25):
            covered = np.full((300, 4), np.nan, np.float32)
            asking.ask(with_data(cloud(300, stamp=1 + number), covered.tobytes()))
        process.wait_for("points: none was measured")
        assert process.stop() == 0
    assert process.output.count("points: none was measured") == 1
