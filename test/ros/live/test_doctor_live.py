"""`spvnas doctor /topic`: live topics, with real publishers and subscribers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed; pip install 'spvnas_ros[ros]' brings it")

import sys

from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import PointCloud2

from driver_messages import custom, write
from message_builds import need_packages
from ros_harness import Process, cloud, playing, ros
from spvnas_ros.doctor.finding import Finding
from spvnas_ros.doctor.link import Endpoint, Link, Mismatch, examine_link
from spvnas_ros.ros.process.lifetime import spinning

__all__ = ["ros"]  # fixture

HERE, AWAY = Endpoint("/driver", "reliable, volatile", local=True), Endpoint("/driver", "best effort", local=False)
GOOD = Link("/points", 5.0, 50, 2_000_000, 0, (HERE,), segments=(70_000_000,), profile="/share/profile.xml")


@contextmanager
def publishing(node: Node, topic: str, reliability: ReliabilityPolicy) -> Iterator[None]:
    """Clouds at 20 Hz, stamped by this machine's clock, while the block runs."""
    publisher = node.create_publisher(PointCloud2, topic, QoSProfile(depth=5, reliability=reliability))
    message, stop = cloud(points=500), Event()

    def publish() -> None:
        while not stop.wait(0.05):
            message.header.stamp = node.get_clock().now().to_msg()
            publisher.publish(message)

    thread = Thread(target=publish)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def doctor(topic: str) -> tuple[int, str]:
    with Process(sys.executable, "-m", "spvnas_ros.cli", "doctor", topic, "--seconds", "1") as process:
        return process.wait(), process.output


def levels(output: str) -> dict[str, str]:
    return {line.split()[1]: line.split()[0] for line in output.splitlines() if line[:1].strip()}


def test_a_live_topic_is_looked_at_like_a_bag_and_its_way_too(ros: str) -> None:
    node = Node("driver", namespace=ros)
    with spinning(node), publishing(node, f"{ros}/points", ReliabilityPolicy.RELIABLE):
        _, output = doctor(f"{ros}/points")
        status, missing = doctor(f"{ros}/nothing")
    found = levels(output)
    assert found["publishers"] == found["qos"] == found["fields"] == found["frame_id"] == "ok", output
    assert {"arrival", "transport", "listeners", "clouds", "rate"} <= set(found)
    assert f"{ros}/driver (reliable, volatile)" in output
    assert "Traceback" not in output
    assert status == 1
    assert f"nobody publishes on {ros}/nothing" in missing
    assert f"clouds are published on {ros}/points" in missing


def test_a_topic_of_livox_messages_is_looked_at_too(ros: str, tmp_path: Path) -> None:
    need_packages("livox_ros_driver2")
    kind = "livox_ros_driver2/msg/CustomMsg"
    bag = write(tmp_path / "livox", False, kind, lambda *each: custom(*each, "livox_ros_driver2"))
    with playing(bag, f"{ros}/livox/lidar"):
        _, output = doctor(f"{ros}/livox/lidar")
    assert levels(output)["fields"] == levels(output)["publishers"] == "ok", output
    assert "reflectivity" in output


def test_whoever_a_publisher_cannot_serve_is_named(ros: str) -> None:
    node = Node("driver", namespace=ros)
    node.create_subscription(PointCloud2, f"{ros}/points", lambda _: None, QoSProfile(depth=5))
    with spinning(node), publishing(node, f"{ros}/points", ReliabilityPolicy.BEST_EFFORT):
        status, output = doctor(f"{ros}/points")
    assert status == 1
    assert levels(output)["qos"] == "bad", output
    assert f"{ros}/driver cannot serve {ros}/driver" in output
    assert levels(output)["fields"] == "ok"


# -- what is made of it -----------------------------------------------------------------------------------------------


def said(link: Link, about: str) -> Finding:
    (finding,) = (finding for finding in examine_link(link) if finding.about == about)
    return finding


def test_a_good_link_needs_no_advice() -> None:
    assert [(finding.level, finding.advice) for finding in examine_link(GOOD)] == [("ok", "")] * 5
    assert said(GOOD, "transport").found == "shared memory of 70.0 MB, a cloud is 2.0 MB"


@pytest.mark.parametrize(
    ("link", "about", "level", "advice"),
    [
        (replace(GOOD, publishers=(HERE, AWAY)), "publishers", "warn", "a topic of its own"),
        (replace(GOOD, mismatches=(Mismatch("/d", "/rviz", "reliability"),)), "qos", "bad", "have /rviz ask for best"),
        (replace(GOOD, received=0), "arrival", "bad", "/share/profile.xml"),
        (replace(GOOD, received=0, mismatches=(Mismatch("/d", "the node", "r"),)), "arrival", "bad", "mend the QoS"),
        (replace(GOOD, lost=4, overflows=7), "arrival", "warn", "net.core.rmem_max=33554432"),
        (replace(GOOD, lost=4, segments=(500_000,)), "arrival", "warn", "/share/profile.xml"),
        (replace(GOOD, lost=4), "arrival", "warn", "too busy"),
        (replace(GOOD, lost=None, middleware="rmw_other"), "arrival", "ok", "the rate tells"),
        (replace(GOOD, segments=(500_000,)), "transport", "warn", "/share/profile.xml"),
        (replace(GOOD, segments=()), "transport", "warn", "segment.launch.py"),
        (replace(GOOD, publishers=(AWAY,), buffer_limit=212_992), "transport", "warn", "rmem_max"),
        (replace(GOOD, publishers=(AWAY,), buffer_limit=1 << 25), "transport", "ok", ""),
        (replace(GOOD, subscribers=(HERE,)), "listeners", "ok", ""),
    ],
)
def test_what_is_wrong_comes_with_advice(link: Link, about: str, level: str, advice: str) -> None:
    finding = said(link, about)
    assert finding.level == level
    assert advice in finding.advice


def test_another_middlewares_transport_is_not_guessed() -> None:
    findings = examine_link(replace(GOOD, middleware="rmw_cyclonedds_cpp"))
    assert "transport" not in {finding.about for finding in findings}
