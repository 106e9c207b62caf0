"""The node hears what its topic carries: compressed clouds, Livox's CustomMsg, and PointCloud2 again."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed; pip install 'spvnas_ros[ros]' brings it")
pytest.importorskip("DracoPy", reason="DracoPy is not installed; pip install 'spvnas_ros[draco]' brings it")

from diagnostic_msgs.msg import DiagnosticArray
from hypothesis import given
from hypothesis import strategies as st
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rosbags.typesys.store import Typestore
from sensor_msgs.msg import PointCloud2
from std_msgs.msg import String

from driver_messages import LIVOX, PACKERS, ROS2, compressed, custom, write
from message_builds import need_packages
from recorded_clouds import FIELDS, record, stamps
from ros_harness import cloud, collect, eventually, exchange, playing, ros, segmenter_with
from segmenter_with import counting
from spvnas_ros.clouds.point_cloud2 import PointCloudError, decode
from spvnas_ros.recordings.message_types import COMPRESSED_TYPE
from spvnas_ros.ros.node.cloud_messages import PackedCloud
from spvnas_ros.ros.node.labelling import stamp_ns
from spvnas_ros.ros.node.segmenter_node import SegmenterNode
from spvnas_ros.ros.process.lifetime import spinning

__all__ = ["ros"]  # a fixture


@pytest.fixture(scope="module")
def packages() -> None:
    """The message packages that the plugins and drivers use."""
    need_packages("point_cloud_interfaces", "livox_ros_driver2", "livox_ros_driver")


def every_codec(store: Typestore, number: int) -> Any:
    return compressed(store, number, *list(PACKERS.values())[number])


def driver2(store: Typestore, number: int) -> Any:
    return custom(store, number, "livox_ros_driver2")


@pytest.mark.usefixtures("packages")
def test_the_type_on_the_topic_is_followed_and_every_point_keeps_its_place(ros: str, tmp_path: Path) -> None:
    packed = write(tmp_path / "packed", False, COMPRESSED_TYPE, every_codec)
    livox = write(tmp_path / "livox", False, "livox_ros_driver2/msg/CustomMsg", driver2)
    listener, topic = Node("listener"), f"{ros}/segmenter/input/points"
    answers = collect(listener, f"{ros}/segmenter/output/labeled_points", QoSProfile(depth=50))

    def check(fields: list[tuple[str, str]]) -> None:
        answers.clouds.clear()
        answers.wait_until(lambda came: {stamp_ns(each) for each in came} >= set(stamps()))
        assert {stamp_ns(each) for each in answers.clouds} == set(stamps())
        for came in answers.clouds:
            number = stamps().index(stamp_ns(came))
            found, expected = decode(came), record(number, fields)
            assert (came.header.frame_id, came.height, came.width) == ("lidar", 1, len(expected))
            assert found.dtype.names == (*(name for name, _ in fields), "label", "confidence")
            for name, _ in fields:
                np.testing.assert_array_equal(found[name], expected[name])
            np.testing.assert_array_equal(found["label"], np.arange(len(expected)) % 19)

    with segmenter_with(ros, "counting") as node, spinning(listener):
        node.wait_for("labels clouds of")  # PointCloud2, as nobody publishes yet
        with playing(packed, topic) as player:
            node.wait_for(f"carries {COMPRESSED_TYPE}: labels these")
            check(FIELDS)
            player.stop()
        with playing(livox, topic) as player:
            node.wait_for("carries livox_ros_driver2/msg/CustomMsg: labels these")
            check(LIVOX)
            player.stop()
        assert node.stop() == 0
    assert " 0 bad" in node.output


LIVOX_TYPE = "livox_ros_driver2/msg/CustomMsg"
GOOD = {
    LIVOX_TYPE: [bytes(ROS2.serialize_cdr(driver2(ROS2, 0), LIVOX_TYPE))],
    COMPRESSED_TYPE: [
        bytes(ROS2.serialize_cdr(compressed(ROS2, 0, *each), COMPRESSED_TYPE)) for each in PACKERS.values()
    ],
}


@given(st.sampled_from([(kind, raw) for kind in GOOD for raw in GOOD[kind]]), st.data())
def test_no_bytes_raise_anything_that_is_not_counted(good: tuple[str, bytes], data: st.DataObject) -> None:
    kind, raw = good
    changed = bytearray(raw[: data.draw(st.integers(0, len(raw)))])
    for _ in range(data.draw(st.integers(0, 3)) if changed else 0):
        changed[data.draw(st.integers(0, min(len(changed), 200) - 1))] = data.draw(st.integers(0, 255))
    packed = PackedCloud.of(kind, bytes(changed))
    with suppress(PointCloudError):
        packed.unpacked()
    assert PackedCloud.of(kind, raw).unpacked().header == PackedCloud.of(kind, raw).header


def spoilt(store: Typestore, number: int) -> Any:
    """Draco; a broken zstd, twice; and a good one."""
    if number == 0:
        return compressed(store, number, *PACKERS["draco"])
    name, pack = PACKERS["zstd"]
    return compressed(store, number, name, lambda points: pack(points)[: None if number == 3 else 40])


@pytest.mark.usefixtures("packages")
def test_what_cannot_be_heard_or_read_is_said_once_and_counted_by_kind(
    ros: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bag = write(tmp_path / "spoilt", False, COMPRESSED_TYPE, spoilt)
    livox = write(
        tmp_path / "livox", False, "livox_ros_driver/msg/CustomMsg", lambda *e: custom(*e, "livox_ros_driver")
    )
    # As where neither was installed.
    (hidden := tmp_path / "hidden").mkdir()
    for name in ("DracoPy", "livox_ros_driver"):
        (hidden / f"{name}.py").write_text("raise ImportError('not here')\n")
    listener, topic = Node("listener"), f"{ros}/segmenter/input/points"
    answers = collect(listener, f"{ros}/segmenter/output/labeled_points", QoSProfile(depth=50))
    told: list[str] = []
    listener.create_subscription(DiagnosticArray, "/diagnostics", lambda m: told.extend(map(str, m.status)), 10)
    with monkeypatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join((str(hidden), os.environ.get("PYTHONPATH", ""))))
        node = segmenter_with(ros, "counting")
    elsewhere = listener.create_publisher(PointCloud2, f"{ros}/velodyne", 1)
    with node, spinning(listener):
        node.wait_for(rf"nobody publishes on {topic}; clouds are on {elsewhere.topic} \(sensor_msgs/msg/PointCloud2\)")
        wrong = listener.create_publisher(String, topic, 1)
        node.wait_for(
            rf"{topic} carries std_msgs/msg/String, expected clouds: sensor_msgs/msg/PointCloud2, point_cloud"
        )
        listener.destroy_publisher(wrong)
        with playing(bag, topic) as player:
            answers.wait_until(lambda came: len(came) > 2)
            assert {stamp_ns(each) for each in answers.clouds} == {stamps()[3]}
            kinds = ("bad: missing-library", "bad: unreadable-CompressedPointCloud2")
            assert eventually(lambda: any(all(kind in each for kind in kinds) for each in list(told)))
            player.stop()
        with playing(livox, topic):
            node.wait_for(r"carries livox_ros_driver/msg/CustomMsg, whose message package is not installed: source")
            assert eventually(lambda: any("build_messages livox_ros_driver'" in each for each in list(told)))
        assert node.stop() == 0
    assert node.output.count("need DracoPy, which is missing: pip install 'spvnas_ros[draco]'") == 1
    assert node.output.count("skipped a bad cloud (unreadable-CompressedPointCloud2)") == 1
    assert node.output.count("whose message package is not installed") == node.output.count("nobody publishes on") == 1
    assert "Traceback" not in node.output


@pytest.mark.usefixtures("packages")
def test_clouds_that_come_while_the_process_does_not_run_are_counted(ros: str) -> None:
    """As where something holds the interpreter: with room for one cloud, the earlier ones were lost without a word."""
    listener = Node("listener")
    reports = collect(listener, "/diagnostics", QoSProfile(depth=10), DiagnosticArray)

    def received(came: list[DiagnosticArray]) -> int:
        inputs = [status for array in came for status in array.status if status.name.endswith(": input")]
        return next((int(each.value) for each in inputs[-1].values if each.key == "received"), 0)

    with spinning(listener), segmenter_with(ros, "counting") as process, exchange(ros) as asking:
        asking.ask(cloud(stamp=1))
        so_far = len(reports.clouds)
        reports.wait_until(lambda came: len(came) > so_far + 1)
        before = received(reports.clouds)
        with process.stopped():
            for stamp in (2, 3, 4):
                asking.send(cloud(stamp=stamp))
        asking.ask(cloud(stamp=5))
        reports.wait_until(lambda came: received(came) == before + 4)
        assert process.stop() == 0
    assert "lost on the way" not in process.output


def test_a_type_that_this_process_cannot_listen_to_is_told_and_the_node_lives_on(ros: str, tmp_path: Path) -> None:
    livox = write(tmp_path / "livox", False, LIVOX_TYPE, driver2)
    topic = f"{ros}/segmenter/input/points"
    node, other = SegmenterNode(namespace=ros, perception=counting), Node("other")
    other.create_subscription(PointCloud2, topic, print, 1)
    told: list[str] = []
    other.create_subscription(DiagnosticArray, "/diagnostics", lambda m: told.extend(map(str, m.status)), 10)
    with spinning(node), spinning(other), playing(livox, topic):
        text = f"{topic} carries {LIVOX_TYPE}, which cannot be listened to"
        assert eventually(lambda: any(text in each for each in list(told)))
