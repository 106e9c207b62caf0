"""What the node says, once, about the clouds that come."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed; pip install 'spvnas_ros[ros]' brings it")

from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile
from sensor_msgs.msg import PointCloud2

from ros_control import operating
from ros_harness import cloud, eventually, exchange, ros, segmenter_with
from spvnas_ros.frame import Points, Segmentation
from spvnas_ros.ros.node.remarks import Remarks, frame_complaint, nobody_subscribes
from spvnas_ros.ros.node.segmenter_node import SegmenterNode
from spvnas_ros.ros.process.lifetime import spinning

__all__ = ["ros"]  # fixtures

CLOUDS = 10


def never(_name: str) -> bool:
    return False


def zeros(points: Points, **_asked: bool) -> Segmentation:
    """A network that knows one class."""
    return Segmentation(np.zeros(len(points), np.uint8), np.ones(len(points), np.float32))


@contextmanager
def driving(namespace: str) -> Iterator[Publisher[PointCloud2]]:
    """A driver that the node hears."""
    driver = Node("driver", namespace=namespace)
    publisher = driver.create_publisher(PointCloud2, f"{namespace}/segmenter/input/points", QoSProfile(depth=50))
    with spinning(driver):
        assert eventually(lambda: publisher.get_subscription_count() > 0)
        yield publisher


# -- what is concluded ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "frame", ["map", "odom", "/earth", "utm", "world", "car/odom", "/robot1/map", "Map", "camera_init"]
)
def test_a_frame_that_stands_still_is_no_sensors(frame: str) -> None:
    complaint = frame_complaint(frame, never)
    assert complaint.startswith(f"clouds come in the frame {frame}, which stands still")
    assert "target_frame" in complaint
    for parameter in ("target_frame", "origin"):
        assert frame_complaint(frame, parameter.__eq__) == ""
    assert frame_complaint(frame, "mount.z".__eq__) == complaint, "a height does not bring it to the sensor"


@pytest.mark.parametrize("frame", ["base_link", "base_footprint", "/base_link", "car/base_link", "ego_vehicle"])
def test_the_vehicles_frame_is_no_sensors(frame: str) -> None:
    complaint = frame_complaint(frame, never)
    assert complaint.startswith(f"clouds come in the frame {frame}, the vehicle's")
    assert "target_frame" in complaint
    assert "mount.z" in complaint
    for parameter in ("target_frame", "mount.z"):
        assert frame_complaint(frame, parameter.__eq__) == ""


@pytest.mark.parametrize(
    "frame", ["lidar", "velodyne_base_link", "os_sensor", "map_lidar", "base_link/lidar", "rslidar"]
)
def test_a_sensors_frame_is_none_to_complain_of(frame: str) -> None:
    assert frame_complaint(frame, never) == ""


@pytest.mark.parametrize("frame", ["", "/"])
def test_clouds_without_a_frame_are_told_where_tf_is_asked(frame: str) -> None:
    assert frame_complaint(frame, never) == ""
    for parameter in ("sweeps.count", "target_frame"):
        assert f"{parameter} needs one to ask TF" in frame_complaint(frame, parameter.__eq__)


def test_a_frame_is_told_once_and_other_frames_too() -> None:
    remarks = Remarks()
    said = [bool(remarks.on_frame(frame, never)) for frame in ("map", "lidar", "map", "base_link", "base_link")]
    assert said == [True, False, False, True, False]


def test_that_nobody_subscribes_is_told_once_and_after_several_clouds_in_a_row() -> None:
    remarks = Remarks()
    text = "nobody".__str__
    assert [remarks.on_unwatched(text) for _ in range(CLOUDS - 1)] == [""] * (CLOUDS - 1)
    remarks.on_watched()
    assert [remarks.on_unwatched(text) for _ in range(CLOUDS)] == [""] * (CLOUDS - 1) + ["nobody"]
    remarks.on_watched()
    assert "".join(remarks.on_unwatched(text) for _ in range(3 * CLOUDS)) == ""
    remarks.begin()
    assert "".join(remarks.on_unwatched(text) for _ in range(3 * CLOUDS)) == "nobody"


def test_the_topics_are_named() -> None:
    assert nobody_subscribes(["/a", "/b", "/c"], None).endswith("not labelled: subscribe to /a, /b or /c")
    assert nobody_subscribes(["/a", "/c"], "/b").endswith("/a or /c; /b has a subscriber, but color.enabled is false")


# -- in a running node ------------------------------------------------------------------------------------------------


def test_a_process_says_once_which_topics_to_subscribe_to_and_that_a_frame_is_no_sensors(ros: str) -> None:
    outputs = [f"{ros}/segmenter/output/{name}_points" for name in ("labeled", "colored", "filtered")]
    nobody = f"clouds come, but they are not labelled: subscribe to {outputs[0]}, {outputs[1]} or {outputs[2]}"
    vehicle, fixed = "clouds come in the frame base_link, the vehicle's", "clouds come in the frame map, which stands"
    with segmenter_with(ros, "counting") as process, driving(ros) as publisher:

        def drive(frame: str, line: str) -> None:
            """Clouds come until the line does; a first one may get lost."""
            message = cloud(10)
            message.header.frame_id = frame
            assert eventually(lambda: line in process.output or publisher.publish(message) is not None)

        drive("lidar", nobody)
        assert "clouds come in the frame" not in process.output
        drive("base_link", vehicle)
        drive("map", fixed)
        with exchange(ros) as asking:
            assert asking.ask(cloud(20, stamp=99)).cloud.width == 20
        assert process.stop() == 0
    assert [process.output.count(line) for line in (nobody, vehicle, fixed)] == [1, 1, 1]


def test_a_node_whose_parameters_provide_for_the_frame_has_nothing_to_say(
    ros: str, capfd: pytest.CaptureFixture[str]
) -> None:
    given = {"origin": "", "mount.z": 1.7, "target_frame": ""}
    overrides = [Parameter(name, value=value) for name, value in given.items()]
    node = SegmenterNode(zeros, namespace=ros, parameter_overrides=overrides)
    for name, value in given.items():
        if not node.has_parameter(name):
            node.declare_parameter(name, value)
    with driving(ros) as publisher, spinning(node):
        for frame in ("base_link", "map"):
            message = cloud(10)
            message.header.frame_id = frame
            before = node.statistics.received
            assert eventually(lambda: node.statistics.received > before or publisher.publish(message) is not None)  # noqa: B023
    said = capfd.readouterr().err
    assert "frame base_link" not in said
    assert "frame map, which stands still" in said


def test_a_node_that_becomes_active_again_says_again_that_nobody_subscribes(
    ros: str, capfd: pytest.CaptureFixture[str]
) -> None:
    node = SegmenterNode(zeros, namespace=ros, parameter_overrides=[Parameter("color.enabled", value=False)])
    with driving(ros) as publisher, spinning(node), operating(ros) as operator:
        watcher = Node("watcher")
        watcher.create_subscription(PointCloud2, f"{ros}/segmenter/output/colored_points", print, 1)
        assert eventually(lambda: node.count_subscribers("~/output/colored_points") > 0)
        for activation in range(2):
            enough = node.statistics.received + 2 * CLOUDS
            assert eventually(lambda: node.statistics.received >= enough or publisher.publish(cloud(10)) is not None)  # noqa: B023
            if activation == 0:
                assert operator.change("deactivate")
                assert eventually(lambda: publisher.get_subscription_count() == 0)
                assert operator.change("activate")
                assert eventually(lambda: publisher.get_subscription_count() > 0)
        watcher.destroy_node()
    said = capfd.readouterr().err
    assert said.count("clouds come, but they are not labelled: subscribe to ") == 2
    assert said.count(f"{ros}/segmenter/output/colored_points has a subscriber, but color.enabled is false") == 2
    assert node.statistics.unwatched == node.statistics.received
