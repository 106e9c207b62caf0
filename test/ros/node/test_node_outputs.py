"""What the node publishes besides the labelled cloud, and for whom."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed; pip install 'spvnas_ros[ros]' brings it")

from rclpy.lifecycle import LifecycleNode
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import PointCloud2, PointField
from std_msgs.msg import Float64

from ros_control import operating
from ros_harness import cloud, collect, eventually, exchange, ros, segmenter_with, with_data
from spvnas_ros.clouds.intensity import Intensity
from spvnas_ros.clouds.point_cloud2 import decode, to_points
from spvnas_ros.frame import Segmentation
from spvnas_ros.labels import SEMANTIC_KITTI
from spvnas_ros.palettes import UNLABELLED_COLOUR, shown
from spvnas_ros.ros.node.network import Network, load_network
from spvnas_ros.ros.node.outputs import Outputs
from spvnas_ros.ros.node.parameters import PARAMETERS, Settings
from spvnas_ros.ros.node.statistics import STAGES
from spvnas_ros.ros.process.lifetime import spinning

__all__ = ["ros"]  # fixture

HAS_VISION_MSGS = importlib.util.find_spec("vision_msgs") is not None
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
COLOURS = shown(SEMANTIC_KITTI.classes, SEMANTIC_KITTI.palette)
GROUND = np.isin(
    np.arange(19), [SEMANTIC_KITTI.classes.index(name) for name in PARAMETERS["filter.ignored_classes"].default]
)


def colours(points: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """(r, g, b) from the bits of `rgb`."""
    packed = points["rgb"].copy().view(np.uint32)
    return np.stack([packed >> 16 & 255, packed >> 8 & 255, packed & 255], axis=1)


def test_colours_and_filter_follow_labels_and_change_while_the_node_runs(ros: str) -> None:
    listener = Node("listener")
    topics = f"{ros}/segmenter/output"
    colored = collect(listener, f"{topics}/colored_points", QoSProfile(depth=10))
    filtered = collect(listener, f"{topics}/filtered_points", QoSProfile(depth=10))

    def newest(collector: Any, stamp: int) -> PointCloud2:
        collector.wait_until(lambda clouds: bool(clouds) and clouds[-1].header.stamp.sec == stamp)
        return collector.clouds[-1]

    with segmenter_with(ros, "counting"), spinning(listener), exchange(ros) as asking, operating(ros) as operator:
        assert eventually(lambda: operator.count_subscribers(f"{topics}/colored_points") == 1)
        assert eventually(lambda: operator.count_publishers(f"{topics}/filtered_points") == 1)
        # Matched both ways once something comes: empty clouds are answered at any time.
        for collector in (colored, filtered):
            collector.wait_until(lambda clouds: bool(clouds) or asking.send(cloud(1, stamp=1)) is not None)
        sent = cloud(190, stamp=10)
        labelled = decode(asking.ask(sent).cloud)

        came = newest(colored, 10)
        points = decode(came)
        assert came.header == sent.header
        assert (came.height, came.width) == (1, 190)
        assert points.dtype.names == ("x", "y", "z", "rgb")
        np.testing.assert_array_equal(colours(points), np.array(COLOURS)[labelled["label"]])
        for name in ("x", "y", "z"):
            np.testing.assert_array_equal(points[name], labelled[name])

        came = newest(filtered, 10)
        assert came.header == sent.header
        np.testing.assert_array_equal(decode(came), labelled[~GROUND[labelled["label"]]])

        assert operator.set("filter.ignored_classes", ["car", "unlabelled"]).successful
        assert operator.set("confidence_threshold", 0.5).successful
        assert operator.set("color.enabled", False).successful
        labelled = decode(asking.ask(cloud(190, stamp=11)).cloud)
        np.testing.assert_array_equal(
            decode(newest(filtered, 11)), labelled[(labelled["label"] != 0) & (labelled["label"] != 255)]
        )
        assert colored.clouds[-1].header.stamp.sec == 10


def test_a_cloud_is_made_only_for_who_listens(ros: str) -> None:
    node, listener = LifecycleNode("composer", namespace=ros), Node("listener")
    outputs = Outputs(node, Network(lambda points, **_asked: Segmentation(*points)))
    settings = Settings.of({name: entry.default for name, entry in PARAMETERS.items()})
    sent = cloud(57)
    points = to_points(decode(sent), Intensity())
    labels = Segmentation((np.arange(57) % 19).astype(np.uint8), np.ones(57, np.float32))

    def composed() -> list[str]:
        made = outputs.compose(sent, points, labels, settings, outputs.wanted(settings))
        return [publisher.topic_name.split("/")[-1] for publisher, _ in made]

    with spinning(listener), spinning(node):
        assert composed() == []
        assert not outputs.wanted(settings)
        expected = []
        for topic in ("labeled_points", "filtered_points", "colored_points"):
            listener.create_subscription(PointCloud2, f"{ros}/composer/output/{topic}", print, 1)
            expected.append(topic)
            assert eventually(lambda: composed() == expected)
        assert outputs.wanted(settings)


def test_an_organised_big_endian_cloud_is_coloured_in_its_shape_and_filtered_in_its_byte_order(ros: str) -> None:
    values = np.zeros((2, 3), [("x", ">f8"), ("y", ">f8"), ("z", ">f8")])
    values["x"] = [[1, 2, 3], [4, 5, 6]]
    message = cloud(0, stamp=3)
    message.height, message.width, message.is_bigendian, message.point_step, message.row_step = 2, 3, True, 24, 72
    message.fields = [PointField(name=name, offset=8 * i, datatype=8, count=1) for i, name in enumerate("xyz")]
    with_data(message, values.tobytes())
    node, listener = LifecycleNode("composer", namespace=ros), Node("listener")
    outputs = Outputs(node, Network(lambda points, **_asked: Segmentation(*points)))
    settings = Settings.of({name: entry.default for name, entry in PARAMETERS.items()})
    labels = Segmentation(np.array([0, 8, 9, 1, 2, 255], np.uint8), np.ones(6, np.float32))
    with spinning(listener), spinning(node):
        for topic in ("filtered_points", "colored_points"):
            listener.create_subscription(PointCloud2, f"{ros}/composer/output/{topic}", print, 1)
        assert eventually(lambda: outputs.wanted(settings).colored and outputs.wanted(settings).filtered)
        points = to_points(decode(message), Intensity())
        filtered, colored = (
            made for _, made in outputs.compose(message, points, labels, settings, outputs.wanted(settings))
        )
    assert (colored.height, colored.width, colored.row_step) == (2, 3, 48)
    assert colored.is_bigendian == (sys.byteorder == "big")
    assert decode(colored)["x"].tolist() == [1, 2, 3, 4, 5, 6]
    assert colours(decode(colored))[[0, 5]].tolist() == [list(COLOURS[0]), list(UNLABELLED_COLOUR)]
    assert (filtered.height, filtered.width, filtered.is_bigendian) == (1, 4, True)
    assert decode(filtered)["x"].tolist() == [1, 4, 5, 6]
    assert decode(filtered)["label"].tolist() == [0, 1, 2, 255]


def test_every_stage_of_a_frame_is_timed_on_a_topic_of_its_own(ros: str) -> None:
    listener = Node("listener")
    times: dict[str, list[float]] = {stage: [] for stage in STAGES}
    for stage, kept in times.items():
        topic = f"{ros}/segmenter/debug/processing_time/{stage}_ms"
        listener.create_subscription(Float64, topic, lambda message, kept=kept: kept.append(message.data), 50)
    with segmenter_with(ros, "slow"), spinning(listener), exchange(ros) as asking:
        asked = 0

        def all_came() -> bool:
            nonlocal asked
            asked += 1
            asking.ask(cloud(500, stamp=asked))
            return all(len(kept) >= 2 for kept in times.values())

        assert eventually(all_came)
    last = {stage: kept[-1] for stage, kept in times.items()}
    assert last["inference"] >= 200
    assert last["total"] >= sum(milliseconds for stage, milliseconds in last.items() if stage != "total") - 1e-6
    assert all(milliseconds > 0 for milliseconds in last.values())


def test_without_vision_msgs_the_node_says_once_that_there_is_no_class_table(
    ros: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "vision_msgs.py").write_text("raise ImportError('not on this machine')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    with segmenter_with(ros, "counting") as process, exchange(ros):
        assert process.stop() == 0
    assert process.output.count("vision_msgs is not installed") == 1


@pytest.mark.skipif(not HAS_VISION_MSGS, reason="vision_msgs is not installed")
def test_who_comes_late_gets_the_class_table_too_and_hears_of_changes(ros: str) -> None:
    from vision_msgs.msg import LabelInfo

    listener = Node("listener")
    came: list[LabelInfo] = []
    with segmenter_with(ros, "counting"), exchange(ros), operating(ros) as operator, spinning(listener):
        listener.create_subscription(LabelInfo, f"{ros}/segmenter/output/label_info", came.append, LATCHED)
        assert eventually(lambda: len(came) == 1)
        assert operator.set("confidence_threshold", 0.25).successful
        assert eventually(lambda: len(came) == 2)
    names = {entry.class_id: entry.class_name for entry in came[0].class_map}
    assert names == {**dict(enumerate(SEMANTIC_KITTI.classes)), 255: "unlabelled"}
    assert [info.threshold for info in came] == [0.0, 0.25]


def test_the_colours_are_those_of_the_palette_that_is_asked_for(weights: Path) -> None:
    assert load_network(str(weights), "cpu", "auto").palette == COLOURS
    assert load_network(str(weights), "cpu", "auto", "semantic-kitti").palette == SEMANTIC_KITTI.palette
