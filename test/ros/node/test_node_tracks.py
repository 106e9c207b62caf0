"""Objects that the node follows: their ids over a real middleware, in the frame that TF tells, whatever time does."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from places import HELPERS

pytest.importorskip("rclpy", reason="ROS 2 is not installed; pip install 'spvnas_ros[ros]' brings it")
pytest.importorskip("tf2_msgs", reason="tf2_msgs is not there; python -m spvnas_ros.ros.build_messages builds it")
pytest.importorskip("vision_msgs.msg", reason="vision_msgs is not there; python -m spvnas_ros.ros.build_messages")
pytest.importorskip("visualization_msgs.msg", reason="pip install ros-visualization-msgs brings what is missing")

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import PointCloud2
from std_msgs.msg import Header
from vision_msgs.msg import Detection3DArray
from visualization_msgs.msg import Marker

from joint_networks import write_joint
from moving_sensor import MOUNT, vehicle
from ros_harness import Collector, Process, collect, eventually, ros, segmenter
from spvnas_ros.clouds.mount import Mount, Placement
from spvnas_ros.engine.sample_street import street_scan
from spvnas_ros.errors import UserError
from spvnas_ros.frame import Boxes, Points
from spvnas_ros.ros.node.diagnostics import tracks_finding
from spvnas_ros.ros.node.following import Followed, Following, FollowRules
from spvnas_ros.ros.node.object_messages import detections_message, marker_message
from spvnas_ros.ros.node.objects import Objects
from spvnas_ros.ros.node.parameters import PARAMETERS
from spvnas_ros.ros.node.placing import Pose
from spvnas_ros.ros.process.lifetime import spinning
from spvnas_ros.trials.plain import cloud_of

__all__ = ["ros"]  # fixture

KEEP = QoSProfile(depth=10)
STREET = street_scan(9, 16, 200)[0]
VALUES = {name: entry.default for name, entry in PARAMETERS.items()}


def at(points: Points, seconds: float) -> PointCloud2:
    message = cloud_of(points, "lidar")
    message.header.stamp.sec, message.header.stamp.nanosec = int(seconds), round(seconds % 1 * 1e9)
    return message


def ids(message: Any) -> list[str]:
    return [each.id for each in message.detections]


def answer(collector: Collector, publisher: Any, sent: PointCloud2) -> Any:
    """The objects of a cloud, once they have come."""
    publisher.publish(sent)
    collector.wait_until(lambda came: bool(came) and came[-1].header.stamp == sent.header.stamp)
    return collector.clouds[-1]


def test_a_standing_scene_keeps_its_ids_until_time_jumps_back_and_the_diagnostics_say_so(
    ros: str, tmp_path: Path
) -> None:
    weights = write_joint(tmp_path / "joint.safetensors", STREET)
    listener, told = Node("listener"), list[DiagnosticStatus]()
    listener.create_subscription(DiagnosticArray, "/diagnostics", lambda message: told.extend(message.status), 10)
    publisher = listener.create_publisher(PointCloud2, f"{ros}/segmenter/input/points", KEEP)
    objects = collect(listener, f"{ros}/segmenter/output/objects", KEEP, Detection3DArray)
    parameters = {"objects.track": True, "objects.track_frame": '""', "intensity": "unit", "device": "cpu"}
    with segmenter(ros, weights=weights, **parameters) as process, spinning(listener):
        process.wait_for("labels clouds of")
        objects.ask(lambda: publisher.publish(at(STREET, 1)))
        first = objects.clouds[0]
        assert set(ids(first)) == {""}
        assert len(first.detections) > 5
        came = [answer(objects, publisher, at(STREET, 2 + number / 10)) for number in range(5)]
        standing = ids(came[-1])
        assert "" not in standing
        assert len(set(standing)) == len(standing) == len(first.detections)
        assert [ids(each) for each in came[1:-1]] == [standing] * 3
        for before, now in zip(first.detections, came[-1].detections, strict=True):
            for axis in "xyz":
                assert math.isclose(
                    getattr(before.bbox.center.position, axis), getattr(now.bbox.center.position, axis), abs_tol=1e-3
                )
            assert not any(now.results[0].pose.covariance)

        assert set(ids(answer(objects, publisher, at(STREET, 1.5)))) == {""}
        process.wait_for("time jumped back: objects that were followed are forgotten")
        again = ids(answer(objects, publisher, at(STREET, 1.6)))
        assert min(map(int, again)) > max(map(int, standing)), "no id comes twice"

        def tracks() -> list[dict[str, str]]:
            mine = [status for status in told if status.name.endswith(": tracks")]
            return [{value.key: value.value for value in status.values} for status in mine]

        assert eventually(lambda: bool(tracks()) and tracks()[-1]["ids given"] == str(2 * len(standing)))
        # Before the scene was asked for in tenths of a second, a second had passed.
        assert tracks()[-1]["followed"] == str(len(standing))
        assert tracks()[-1]["restarts"] == "1"
        assert tracks()[-1]["frame"] == "the clouds' own"
        assert process.stop() == 0


def found(rows: np.ndarray, pose: Pose | None = None) -> Objects:
    boxes = Boxes(rows.astype(np.float32), np.full(len(rows), 0.9, np.float32), np.zeros(len(rows), np.uint8))
    return Objects(boxes, ("car",) * len(rows), pose, (None,) * len(rows), ("",) * len(rows))


def seen(seconds: float, placement: Placement | None = None) -> Objects:
    """Three cars in odom that stand, and one that drives ten metres a second, from the sensor of `moving_sensor.py`."""
    x, y = np.array([70.0, 75, 80, 60 + 10 * (seconds - 100)]), np.array([10.0, -8, 12, 3])
    middles = (vehicle(seconds) @ MOUNT).inverse().apply(np.column_stack((x, y, np.zeros(4))))
    yaw = np.full(4, -2 * 0.15 * (seconds - 100))
    if placement is not None:
        middles, yaw = placement.apply(middles), yaw + math.radians(placement.mount.yaw)
    where = placement.matrix() if placement is not None else None
    pose = None if where is None else Pose(where[:3, :3], where[:3, 3])
    return found(np.column_stack((middles, np.tile((4.3, 1.8, 1.5), (4, 1)), yaw)), pose)


def test_in_the_frame_of_tf_what_stands_stands_from_a_sensor_that_moves(ros: str) -> None:
    node = Node("follower", namespace=ros)
    following = Following(node, FollowRules(True, "odom"), next_id=7)
    moments = [100 + number / 10 for number in range(25)]
    turned = Placement(mount=Mount(1.9, 0, 0, 90))
    try:
        with Process(sys.executable, str(HELPERS / "moving_sensor.py")), spinning(node):
            for placement in (None, turned):
                # TF comes three times a second, and begins anew where time does.
                first = seen(moments[0], placement)
                assert eventually(lambda first=first: bool(following(first, "lidar", 100 * 10**9).motions))
                came = [following(seen(each, placement), "/lidar", round(each * 1e9)) for each in moments]
                last = came[-1]
                assert all(each.ids == last.ids for each in came[1:])
                assert [each is not None for each in last.motions] == [False, False, False, True]
                # The way of a second, in the cloud's own frame, and so a car's length further than that in odom.
                ends = (vehicle(moments[-1]) @ MOUNT).apply(last.ends())
                centres = (vehicle(moments[-1]) @ MOUNT).apply(last.centres())
                np.testing.assert_allclose((ends - centres)[3], (10, 0, 0), atol=0.4)
                np.testing.assert_allclose((ends - centres)[:3], 0, atol=1e-9)
                np.testing.assert_allclose(last.centres(), seen(moments[-1], placement).centres(), atol=0.1)
        numbers = following.numbers()
        assert (numbers.objects, numbers.given, numbers.restarts, following.next_id) == (4, 8, 1, 15)
        markers = marker_message(sys.modules["visualization_msgs.msg"], Header(), last, {}).markers
        (motion,) = [each for each in markers if each.ns == "motions"]
        assert (motion.type, motion.id) == (Marker.ARROW, 3)
        begin, end = motion.points
        assert math.dist((begin.x, begin.y, begin.z), (end.x, end.y, end.z)) == pytest.approx(10, abs=0.4)
        message = detections_message(sys.modules["vision_msgs.msg"], Header(), last)
        assert [each.id for each in message.detections] == list(last.ids)
    finally:
        following.destroy()
        node.destroy_node()


def test_without_tf_objects_have_no_ids_and_stay_as_they_are(ros: str) -> None:
    node = Node("follower", namespace=ros)
    following = Following(node, FollowRules(True, "odom"))
    try:
        objects = seen(100.0)
        assert following(objects, "lidar", 10**9) == objects
        assert following.numbers() == Followed("odom", unplaced=1)
        finding = tracks_finding(following.numbers(), Followed("odom"))
        assert (finding.level, "TF does not say" in finding.message) == (DiagnosticStatus.WARN, True)
    finally:
        following.destroy()
        node.destroy_node()


def test_frames_are_named_as_tf_names_them() -> None:
    assert not FollowRules.of(VALUES).enabled
    assert FollowRules.of(VALUES | {"objects.track": True}) == FollowRules(True, "odom")
    with pytest.raises(UserError, match=r"objects\.track_frame must be a frame's name without a slash"):
        FollowRules.of(VALUES | {"objects.track_frame": "/odom"})
