"""The objects that the node publishes: which, where, for whom, and what they cost who does not want them."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("rclpy", reason="ROS 2 is not installed; pip install 'spvnas_ros[ros]' brings it")
pytest.importorskip("vision_msgs.msg", reason="vision_msgs is not there; python -m spvnas_ros.ros.build_messages")
pytest.importorskip("visualization_msgs.msg", reason="pip install ros-visualization-msgs brings what is missing")

from geometry_msgs.msg import Pose
from rclpy.lifecycle import LifecycleNode
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import PointCloud2
from std_msgs.msg import Float64, Header
from vision_msgs.msg import Detection3DArray, LabelInfo
from visualization_msgs.msg import Marker, MarkerArray

from joint_networks import write_joint
from ros_harness import WAIT, Collector, cloud, collect, eventually, exchange, ros, segmenter
from spvnas_ros.boxes.inside import rows_inside
from spvnas_ros.clouds.mount import Mount, Placement
from spvnas_ros.clouds.region import Region
from spvnas_ros.engine.sample_street import street_scan
from spvnas_ros.errors import UserError
from spvnas_ros.frame import Boxes, Points, Segmentation
from spvnas_ros.labels import SEMANTIC_KITTI
from spvnas_ros.perception import Detector, Perception, load
from spvnas_ros.ros.node.network import Network, load_network
from spvnas_ros.ros.node.object_messages import detections_message, marker_message
from spvnas_ros.ros.node.objects import MARK, ObjectRules, objects_of, quaternion
from spvnas_ros.ros.node.outputs import Outputs
from spvnas_ros.ros.node.placing import Pose as CloudPose
from spvnas_ros.ros.node.segmenter_node import SegmenterNode
from spvnas_ros.ros.process.lifetime import spinning
from spvnas_ros.trials.plain import cloud_of
from tiny_detectors import write_detector

__all__ = ["ros"]  # fixture

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
KEEP = QoSProfile(depth=10)
STREET = street_scan(9, 16, 200)[0]
CAR, PERSON, ROAD = (SEMANTIC_KITTI.classes.index(name) for name in ("car", "person", "road"))
NAMES, COLOURS = ("car", "person"), ((1, 2, 3), (4, 5, 6))
FOUND = Boxes(
    np.array([(10, 0, 0, 4, 2, 2, 0.5), (-35, 5, 0, 1, 1, 2, -2), (10, 0.5, 0, 4, 2, 2, 0.4)], np.float32),
    np.array([0.9, 0.3, 0.5], np.float32),
    np.array([0, 1, 0], np.uint8),
)


def stamped(points: Points, seconds: int) -> PointCloud2:
    message = cloud_of(points, "lidar")
    message.header.stamp.sec = seconds
    return message


def names(message: Any) -> list[str]:
    return [each.results[0].hypothesis.class_id for each in message.detections]


def matrix(pose: Pose) -> np.ndarray:
    """The rotation of a pose, `[3, 3]`, from the textbook."""
    x, y, z, w = (getattr(pose.orientation, part) for part in "xyzw")
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def rows_in(detection: Any, points: np.ndarray) -> list[int]:
    """The points inside the box of a message, as who receives it finds them."""
    centre, size = detection.bbox.center.position, detection.bbox.size
    local = (points - (centre.x, centre.y, centre.z)) @ matrix(detection.bbox.center)
    return np.flatnonzero((np.abs(local) <= np.array((size.x, size.y, size.z)) / 2).all(axis=1)).tolist()


# -- from boxes to messages -------------------------------------------------------------------------------------------

angles = st.floats(-180, 180)


@given(angles, angles, angles)
def test_a_rotation_becomes_the_quaternion_that_turns_alike(roll: float, pitch: float, yaw: float) -> None:
    rotation, pose = Mount(None, roll, pitch, yaw).rotation(), Pose()
    found = quaternion(rotation)
    assert math.isclose(np.linalg.norm(found), 1, abs_tol=1e-9)
    for part, value in zip("xyzw", found.tolist(), strict=True):
        setattr(pose.orientation, part, value)
    np.testing.assert_allclose(matrix(pose), rotation, atol=1e-7)


@given(angles, st.floats(-30, 30), st.floats(-30, 30), st.integers(0, 5))
def test_the_same_points_lie_in_a_box_wherever_the_network_sees_the_cloud(
    yaw: float, roll: float, pitch: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    own = rng.uniform((458_000, 5_428_000, 90), (458_040, 5_428_030, 100), (2000, 3))
    placement = Placement((458_020.0, 5_428_015.0, 95.0), Mount(1.0, roll, pitch, yaw))
    where = placement.matrix()
    seen = placement.apply(own)
    size = rng.uniform(3, 9, (4, 3))
    rows = np.column_stack((seen[:4], size, rng.uniform(-3, 3, 4))).astype(np.float32)
    found = Boxes(rows, np.linspace(1, 0.7, 4, dtype=np.float32), np.zeros(4, np.uint8))
    objects = objects_of(found, NAMES, ObjectRules(), Region(), CloudPose(where[:3, :3], where[:3, 3]))
    message = detections_message(sys.modules["vision_msgs.msg"], Header(frame_id="map"), objects)
    for inside, detection in zip(rows_inside(seen, rows), message.detections, strict=True):
        # Float32 boxes in double: a point on the very face may go either way.
        assert len(set(inside.tolist()) ^ set(rows_in(detection, own))) <= 1


def test_markers_have_the_box_its_front_and_its_name_and_replace_those_before() -> None:
    objects = objects_of(FOUND, NAMES, ObjectRules(), Region(), None)
    header = Header(frame_id="lidar")
    made = marker_message(sys.modules["visualization_msgs.msg"], header, objects, {"car": (255, 0, 0)}).markers
    assert made[0].action == Marker.DELETEALL
    assert [each.action for each in made[1:]] == [Marker.ADD] * 9
    assert len({(each.ns, each.id) for each in made[1:]}) == 9
    assert all(each.header == header and each.lifetime.sec == 2 for each in made[1:])
    box, front, name = made[1:4]
    assert (box.type, front.type, name.type) == (Marker.CUBE, Marker.ARROW, Marker.TEXT_VIEW_FACING)
    assert (box.scale.x, box.scale.y, box.scale.z) == (4, 2, 2)
    assert (box.color.r, box.color.g, box.color.b) == (1, 0, 0)
    assert 0 < box.color.a < front.color.a == name.color.a == 1
    np.testing.assert_allclose(matrix(front.pose)[:, 0], [math.cos(0.5), math.sin(0.5), 0], atol=1e-6)
    assert (name.text, name.pose.position.z) == ("car 0.90", pytest.approx(1.4))
    none = objects_of(Boxes.none(), NAMES, ObjectRules(), Region(), None)
    assert [
        each.action for each in marker_message(sys.modules["visualization_msgs.msg"], header, none, {}).markers
    ] == [Marker.DELETEALL]


def test_what_the_points_do_not_support_is_dropped_or_says_so() -> None:
    points = np.array([(10, 0, 0, 0)] * 4 + [(-35, 5, 0, 0)] * 4, np.float32)
    labels = np.array([CAR] * 4 + [ROAD] * 3 + [PERSON], np.uint8)

    def published(**rules: Any) -> Any:
        objects = objects_of(FOUND, NAMES, ObjectRules(**rules), Region(), None, points, labels, SEMANTIC_KITTI.classes)
        return objects, detections_message(sys.modules["vision_msgs.msg"], Header(), objects)

    assert names(published(label_vote=0.5)[1]) == ["car", "car"]
    assert names(published(label_vote=0.25)[1]) == ["car", "car", "person"]
    objects, marked = published(label_vote=0.5, unsupported=MARK)
    assert names(marked) == ["car", "car", "person"]
    said = [[(each.hypothesis.class_id, each.hypothesis.score) for each in one.results] for one in marked.detections]
    assert [len(each) for each in said] == [1, 1, 2]
    assert said[2] == [("person", pytest.approx(0.3)), ("road", 0.75)]
    texts = [each.text for each in marker_message(sys.modules["visualization_msgs.msg"], Header(), objects, {}).markers]
    assert texts[-1] == "person 0.30 (road?)"


def test_boxes_whose_centre_is_outside_the_region_are_left_out() -> None:
    assert len(objects_of(FOUND, NAMES, ObjectRules(), Region(max_range=30), None)) == 2
    assert len(objects_of(FOUND, NAMES, ObjectRules(), Region(high=(0, 50, 5)), None)) == 1


# -- one node, and who listens ----------------------------------------------------------------------------------------


class Recording:
    """A network that answers at once, and writes down what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[bool, bool]] = []

    def __call__(self, points: Points, *, labels: bool, boxes: bool) -> Segmentation:
        self.asked.append((labels, boxes))
        if not labels:
            return Segmentation.unlabelled(len(points), FOUND if boxes else None)
        road = np.full(len(points), ROAD, np.uint8)
        return Segmentation(road, np.ones(len(points), np.float32), boxes=FOUND if boxes else None)


def test_heads_that_nobody_wants_do_not_run_and_parameters_choose_while_the_node_runs(ros: str) -> None:
    network = Recording()
    node = SegmenterNode(Network(network, box_names=NAMES, box_palette=COLOURS, least_score=0.1), namespace=ros)
    driver = Node("driver")
    publisher = driver.create_publisher(PointCloud2, f"{ros}/segmenter/input/points", KEEP)
    stamps = iter(range(1, 1000))

    def listening(topic: str, kind: type[Any]) -> Collector:
        collector = collect(driver, f"{ros}/segmenter/output/{topic}", KEEP, kind)
        assert eventually(lambda: node.count_subscribers(f"~/output/{topic}") > 0)
        # Matched both ways once something comes.
        collector.ask(lambda: publisher.publish(cloud(50, stamp=next(stamps))))
        return collector

    def sent(collector: Collector, **values: Any) -> Any:
        for name, value in values.items():
            assert node.set_parameters([Parameter(f"objects.{name}", value=value)])[0].successful
        stamp = next(stamps)
        publisher.publish(cloud(50, stamp=stamp))
        return collector.newest(stamp)

    with spinning(driver), spinning(node):
        assert eventually(lambda: publisher.get_subscription_count() > 0)
        assert network.asked == [(True, True)]
        del network.asked[:]
        objects = listening("objects", Detection3DArray)
        came = sent(objects)
        assert came.header == cloud(stamp=came.header.stamp.sec).header
        assert names(came) == ["car", "car", "person"]
        assert [each.id for each in came.detections] == [""] * 3
        assert all(each.header == came.header for each in came.detections)
        assert set(network.asked) == {(False, True)}

        assert names(sent(objects, max_overlap=0.3)) == ["car", "person"]
        assert names(sent(objects, max_count=1)) == ["car"]
        assert names(sent(objects, max_count=0, classes=["person"])) == ["person"]
        assert names(sent(objects, classes=["all"], min_score=0.4, max_overlap=1.0)) == ["car", "car"]
        assert names(sent(objects, min_score="0.4,person@30=0.2")) == ["car", "car", "person"]
        assert set(network.asked) == {(False, True)}
        # The network takes all for road.
        assert names(sent(objects, label_vote=0.5)) == []
        assert network.asked[-1] == (True, True)
        assert names(sent(objects, label_vote=0.0)) == ["car", "car", "person"]

        for name, value, complaint in (
            (
                "classes",
                ["car", "lorry"],
                "lorry: the network has no such objects; it finds car, person",
            ),
            ("classes", [""], "must name a class, or all"),
            ("min_score", "truck=0.3", "objects.min_score: truck: the network has no such objects"),
            ("min_score", 2.0, "objects.min_score: a score must be from 0 to 1, found 2.0"),
            ("classes", ["all", "car"], "objects.classes has all beside names"),
            ("max_overlap", 1.5, "objects.max_overlap"),
            ("unsupported", "hide", "objects.unsupported must be drop or mark, found 'hide'"),
        ):
            refused = node.set_parameters([Parameter(f"objects.{name}", value=value)])[0]
            assert not refused.successful
            assert complaint in refused.reason

        markers = listening("object_markers", MarkerArray)
        markers.wait_until(lambda came: len(came[-1].markers) == 10)
        labelled = listening("labeled_points", PointCloud2)
        sent(labelled)
        assert network.asked[-1] == (True, True)
        for each in list(driver.subscriptions):
            if each.topic_name.endswith(("objects", "markers")):
                driver.destroy_subscription(each)
        assert eventually(lambda: node.count_subscribers("~/output/objects") == 0)
        assert eventually(lambda: (sent(labelled), network.asked[-1])[1] == (True, False))
        assert node.statistics.with_objects > 0
        assert node.statistics.without_objects == 1
        assert "objects in" in node.statistics.summary()


def test_labels_are_published_before_boxes_are_looked_for(ros: str) -> None:
    heard = Event()

    def in_two(points: Points, on_labels: Callable[[Segmentation], None]) -> Segmentation:
        road = Segmentation(np.full(len(points), ROAD, np.uint8), np.ones(len(points), np.float32))
        on_labels(road)
        return replace(road, boxes=FOUND if heard.wait(WAIT) else Boxes.none())

    both = Network(Recording(), box_names=NAMES, box_palette=COLOURS, in_two=in_two)
    overrides = [Parameter("range.max", value=30.0)]
    node = SegmenterNode(both, namespace=ros, parameter_overrides=overrides)
    driver = Node("driver")
    publisher = driver.create_publisher(PointCloud2, f"{ros}/segmenter/input/points", KEEP)
    labelled = collect(driver, f"{ros}/segmenter/output/labeled_points", KEEP)
    objects = collect(driver, f"{ros}/segmenter/output/objects", KEEP, Detection3DArray)
    driver.create_subscription(PointCloud2, f"{ros}/segmenter/output/labeled_points", lambda _: heard.set(), KEEP)
    with spinning(driver), spinning(node):
        assert eventually(lambda: publisher.get_subscription_count() > 0)
        for topic in ("labeled_points", "objects"):
            assert eventually(lambda topic=topic: node.count_subscribers(f"~/output/{topic}") > 0)  # type: ignore[misc]
        # Matched both ways once something comes.
        labelled.ask(lambda: publisher.publish(cloud(50, stamp=1)))
        objects.ask(lambda: publisher.publish(cloud(50, stamp=1)))
        heard.clear()
        sent = cloud(50, stamp=7)
        publisher.publish(sent)
        answer, found = labelled.newest(7), objects.newest(7)
        assert answer.header == found.header == sent.header
        # The person is beyond the range.
        assert names(found) == ["car", "car"]
        assert eventually(lambda: node.statistics.times()[-1].stamp == 7 * 10**9)
        times = node.statistics.times()[-1]
        assert times.labels_composing > 0
        assert times.labels_publishing > 0
        parts = times.stages_ms()
        assert math.isclose(sum(parts.values()) - parts["total"], times.work_ms, abs_tol=0.001)


def test_objects_come_also_where_earlier_clouds_are_added(ros: str) -> None:
    pytest.importorskip("tf2_msgs.msg", reason="tf2_msgs is not there; python -m spvnas_ros.ros.build_messages")

    def last_point(points: Points, *, labels: bool, boxes: bool) -> Segmentation:  # noqa: ARG001
        """A car around the last of the points."""
        box = np.array([(*points[-1, :3], 4, 2, 2, 0)] if len(points) else [], np.float32).reshape(-1, 7)
        found = Boxes(box, np.ones(len(box), np.float32), np.zeros(len(box), np.uint8))
        return Segmentation(np.full(len(points), CAR, np.uint8), np.ones(len(points), np.float32), boxes=found)

    given = {"sweeps.count": 1, "sweeps.fixed_frame": "lidar", "sweeps.ego_radius": 0.0, "objects.label_vote": 0.5}
    overrides = [Parameter(name, value=value) for name, value in given.items()]
    node = SegmenterNode(
        Network(last_point, box_names=NAMES, box_palette=COLOURS), namespace=ros, parameter_overrides=overrides
    )
    driver = Node("driver")
    publisher = driver.create_publisher(PointCloud2, f"{ros}/segmenter/input/points", KEEP)
    objects = collect(driver, f"{ros}/segmenter/output/objects", KEEP, Detection3DArray)
    earlier, now = (np.array([(x, 3, 0, 0.5)], np.float32) for x in (8, 8.5))
    with spinning(driver), spinning(node):
        objects.ask(lambda: publisher.publish(stamped(earlier, 4)))
        publisher.publish(stamped(now, 5))
        (found,) = objects.newest(5).detections
    assert found.bbox.center.position.x == 8


@pytest.mark.parametrize("missing", ["vision_msgs", "visualization_msgs"])
def test_without_a_message_package_the_other_topics_are_there(
    ros: str, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, f"{missing}.msg", None)
    node = LifecycleNode("composer", namespace=ros)
    network = Network(Recording(), box_names=NAMES, box_palette=COLOURS)
    outputs = Outputs(node, network)
    topics = {name.rpartition("/")[2] for name, _ in node.get_publisher_names_and_types_by_node("composer", ros)}
    assert ("objects" in topics, "object_markers" in topics) == (missing != "vision_msgs", missing == "vision_msgs")
    assert "labeled_points" in topics
    outputs.destroy()
    node.destroy_node()


def test_objects_alone_without_any_message_for_them_cannot_be_configured(
    ros: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for missing in ("vision_msgs", "visualization_msgs"):
        monkeypatch.setitem(sys.modules, f"{missing}.msg", None)
    node = LifecycleNode("composer", namespace=ros)
    with pytest.raises(UserError, match="finds objects alone, and the messages for them are not installed"):
        Outputs(node, Network(Recording(), classes=(), palette=(), box_names=NAMES, box_palette=COLOURS))
    node.destroy_node()


# -- real networks in real processes ----------------------------------------------------------------------------------


def same(message: Any, expected: Boxes, kinds: tuple[str, ...], placement: Placement) -> None:
    """Whether a message has these boxes, which are in the network's frame, in the cloud's own."""
    assert names(message) == [kinds[index] for index in expected.classes]
    scores = [each.results[0].hypothesis.score for each in message.detections]
    np.testing.assert_allclose(scores, expected.scores, atol=1e-6)
    sizes = [(each.bbox.size.x, each.bbox.size.y, each.bbox.size.z) for each in message.detections]
    np.testing.assert_allclose(sizes, expected.boxes[:, 3:6], rtol=1e-5)
    places = [each.bbox.center.position for each in message.detections]
    there = placement.apply(np.array([(place.x, place.y, place.z) for place in places]))
    np.testing.assert_allclose(there, expected.boxes[:, :3], atol=1e-4)
    turned = placement.mount.rotation()
    fronts = [turned @ matrix(each.bbox.center)[:, 0] for each in message.detections]
    yaws = expected.boxes[:, 6]
    np.testing.assert_allclose(fronts, np.column_stack((np.cos(yaws), np.sin(yaws), 0 * yaws)), atol=1e-5)


def test_labels_and_boxes_of_one_network_through_the_node(ros: str, tmp_path: Path) -> None:
    weights = write_joint(tmp_path / "joint.safetensors", STREET)
    placement = Placement(mount=Mount(1.9, 0, 6, 90))
    own = STREET.copy()
    own[:, :3] = (STREET[:, :3] - placement.apply(np.zeros((1, 3)))) @ placement.mount.rotation()
    sent = stamped(own, 7)
    listener, tables, heads = Node("listener"), [], []  # type: ignore[var-annotated]
    parameters = {"mount.z": 1.9, "mount.pitch": 6.0, "mount.yaw": 90.0, "intensity": "unit", "device": "cpu"}
    parameters["objects.min_score"] = 0.0
    topics = f"{ros}/segmenter"
    objects = collect(listener, f"{topics}/output/objects", KEEP, Detection3DArray)
    listener.create_subscription(LabelInfo, f"{topics}/output/object_info", tables.append, LATCHED)
    listener.create_subscription(Float64, f"{topics}/debug/processing_time/box_head_ms", heads.append, 10)
    with segmenter(ros, weights=weights, **parameters) as process, spinning(listener), exchange(ros) as asking:
        objects.wait_until(lambda came: bool(came) or asking.send(cloud(1, stamp=1)) is not None)
        answer = asking.ask(sent).cloud
        came = objects.newest(7)
        assert eventually(lambda: bool(tables) and bool(heads))
        assert process.stop() == 0
    assert came.header == sent.header == answer.header
    perception = Perception.load(weights, "cpu")
    seen = np.column_stack((placement.apply(own[:, :3].astype(np.float64)), own[:, 3])).astype(np.float32)
    expected = perception(seen)
    assert expected.boxes is not None
    assert len(expected.boxes) > 5
    same(came, expected.boxes, perception.box_names, placement)
    assert {each.class_id: each.class_name for each in tables[0].class_map} == dict(enumerate(perception.box_names))
    assert tables[0].threshold == pytest.approx(0.1)
    assert "boxes of car, person" in process.output
    assert heads[0].data > 0


def test_a_detector_runs_by_the_same_parameter_and_offers_no_labelled_clouds(ros: str, tmp_path: Path) -> None:
    weights = write_detector(tmp_path / "second.safetensors")
    listener = Node("listener")
    publisher = listener.create_publisher(PointCloud2, f"{ros}/segmenter/input/points", KEEP)
    objects = collect(listener, f"{ros}/segmenter/output/objects", KEEP, Detection3DArray)
    given = {"intensity": "unit", "device": "cpu", "objects.min_score": 0.0}
    with segmenter(ros, weights=weights, **given) as process, spinning(listener):
        process.wait_for("finds objects in clouds of")
        objects.ask(lambda: publisher.publish(stamped(STREET, 3)))
        offered = {name for name, _ in listener.get_publisher_names_and_types_by_node("segmenter", ros)}
        assert process.stop() == 0
    detector = load(weights, "cpu")
    assert isinstance(detector, Detector)
    same(objects.clouds[-1], detector(STREET), detector.names, Placement())
    assert not {f"{ros}/segmenter/output/{name}" for name in ("labeled_points", "label_info")} & offered
    assert process.output.count("finds objects and labels no points") == 1


def test_one_door_opens_either_kind_of_weights(tmp_path: Path) -> None:
    joint, second = write_joint(tmp_path / "joint.safetensors", STREET), write_detector(tmp_path / "second.safetensors")
    assert isinstance(load(joint, "cpu"), Perception)
    assert isinstance(load(second, "cpu", "torch"), Detector)
    with pytest.raises(UserError, match=r"engine 'cpu' runs no network that gives boxes alone.*auto, torch"):
        load(second, "cpu", "cpu")
    network = load_network(str(joint), "cpu", "auto")
    assert (network.box_names, network.least_score, len(network.classes)) == (NAMES, 0.1, 19)
    assert load_network(str(second), "cpu", "auto").classes == ()
