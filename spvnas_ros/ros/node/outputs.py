"""Publishes the node's topics, and only those that somebody subscribes to."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from rclpy.lifecycle import LifecycleNode, LifecyclePublisher
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import PointCloud2
from std_msgs.msg import Float64

from spvnas_ros.clouds.point_cloud2 import with_labels
from spvnas_ros.errors import UserError
from spvnas_ros.frame import UNLABELLED, Points, Segmentation
from spvnas_ros.ros.node.messages import colored_message, filtered_message, labelled_message, packed_palette
from spvnas_ros.ros.node.network import Network
from spvnas_ros.ros.node.object_messages import detections_message, marker_message
from spvnas_ros.ros.node.objects import Objects
from spvnas_ros.ros.node.parameters import UNLABELLED_NAME, Settings
from spvnas_ros.ros.node.remarks import nobody_subscribes
from spvnas_ros.ros.node.statistics import HEAD, OBJECTS, STAGES, FrameTimes

LABELLED_TOPIC = "~/output/labeled_points"
COLORED_TOPIC = "~/output/colored_points"
FILTERED_TOPIC = "~/output/filtered_points"
LABEL_INFO_TOPIC = "~/output/label_info"
OBJECTS_TOPIC = "~/output/objects"
MARKERS_TOPIC = "~/output/object_markers"
OBJECT_INFO_TOPIC = "~/output/object_info"
TIMES_TOPIC = "~/debug/processing_time/{}_ms"

_HOW_TO_INSTALL = (
    "python -m spvnas_ros.ros.build_messages builds vision_msgs, pip install ros-visualization-msgs brings the other"
)

Outgoing = tuple["LifecyclePublisher[Any]", Any]
"""A message and the publisher that publishes it."""


@dataclass(frozen=True)
class Wanted:
    """Which of the topics have subscribers. It is true where any of them has.

    labelled, colored, filtered: the clouds
    objects, markers:            what is published of the objects
    """

    labelled: bool = False
    colored: bool = False
    filtered: bool = False
    objects: bool = False
    markers: bool = False

    def __bool__(self) -> bool:
        return self.labels or self.boxes

    @property
    def labels(self) -> bool:
        """Whether the points have to be labelled for what is wanted."""
        return self.labelled or self.colored or self.filtered

    @property
    def boxes(self) -> bool:
        """Whether objects have to be found for what is wanted."""
        return self.objects or self.markers

    def without_boxes(self) -> Wanted:
        """Returns what is wanted of the labels."""
        return replace(self, objects=False, markers=False)

    def without_labels(self) -> Wanted:
        """Returns what is wanted of the boxes."""
        return replace(self, labelled=False, colored=False, filtered=False)


class Outputs:
    """The publishers of a configured node, of what its network gives. They publish while the node is active."""

    def __init__(self, node: LifecycleNode, network: Network) -> None:
        """Raises rclpy's InvalidQosOverridesError, or a RuntimeError, for QoS overrides that cannot be used.

        Raises ValueError where the network gives objects alone and no message type for them is installed.
        """
        self._node = node
        self._network = network
        self._colors = packed_palette(network.palette)
        self._box_colours = dict(zip(network.box_names, network.box_palette, strict=True))
        self._publishers: list[LifecyclePublisher[Any]] = []
        self._vision_msgs = _message_module("vision_msgs")
        self._visualization_msgs = _message_module("visualization_msgs") if network.box_names else None
        if not network.classes and self._vision_msgs is None and self._visualization_msgs is None:
            raise UserError(
                f"the network finds objects alone, and the messages for them are not installed: {_HOW_TO_INSTALL}"
            )
        self._labelled = self._colored = self._filtered = self._label_info = None
        self._objects = self._markers = self._object_info = None
        if network.classes:
            self._labelled = self._advertise(PointCloud2, LABELLED_TOPIC)
            self._colored = self._advertise(PointCloud2, COLORED_TOPIC)
            self._filtered = self._advertise(PointCloud2, FILTERED_TOPIC)
            if self._vision_msgs is not None:
                self._label_info = self._advertise(self._vision_msgs.LabelInfo, LABEL_INFO_TOPIC, latched=True)
        if network.box_names and self._vision_msgs is not None:
            self._objects = self._advertise(self._vision_msgs.Detection3DArray, OBJECTS_TOPIC)
            self._object_info = self._advertise(self._vision_msgs.LabelInfo, OBJECT_INFO_TOPIC, latched=True)
        if self._visualization_msgs is not None:
            self._markers = self._advertise(self._visualization_msgs.MarkerArray, MARKERS_TOPIC)
        self._times = {stage: self._advertise(Float64, TIMES_TOPIC.format(stage)) for stage in STAGES}
        if network.box_names:
            self._times |= {part: self._advertise(Float64, TIMES_TOPIC.format(part)) for part in (OBJECTS, HEAD)}
        self._tell()

    def destroy(self) -> None:
        """Destroys the publishers."""
        for publisher in self._publishers:
            self._node.destroy_lifecycle_publisher(publisher)
        self._publishers.clear()

    def wanted(self, settings: Settings) -> Wanted:
        """Returns which topics have subscribers at this moment.

        Where the coloured cloud is disabled, it counts as having none.
        """
        return Wanted(
            _heard(self._labelled),
            settings.color and _heard(self._colored),
            _heard(self._filtered),
            _heard(self._objects),
            _heard(self._markers),
        )

    def nobody_subscribes(self) -> str:
        """Returns a text for clouds of which nobody wants anything, with the names of the topics after remapping."""
        topics = (self._labelled, self._colored, self._filtered, self._objects, self._markers)
        # Only where the settings disable it can it have a subscriber now.
        disabled = self._colored.topic_name if self._colored is not None and _heard(self._colored) else None
        return nobody_subscribes(
            [each.topic_name for each in topics if each is not None and each.topic_name != disabled], disabled
        )

    def compose(
        self,
        cloud: PointCloud2,
        points: Points,
        segmentation: Segmentation,
        settings: Settings,
        wanted: Wanted,
        objects: Objects | None = None,
    ) -> list[Outgoing]:
        """Returns the messages that are wanted, each under the cloud's header. Raises PointCloudError.

        points:       all points of the cloud
        segmentation: their labels
        objects:      those in the cloud; None where none were looked for
        """
        messages: list[tuple[LifecyclePublisher[Any] | None, Any]] = []
        if wanted.labelled or wanted.filtered:
            layout = with_labels(cloud, segmentation)
            if wanted.labelled:
                messages.append((self._labelled, labelled_message(cloud.header, layout, cloud.is_dense)))
            if wanted.filtered:
                keep = ~settings.ignored(self._network.classes)[segmentation.labels]
                messages.append((self._filtered, filtered_message(cloud.header, layout, keep, cloud.is_dense)))
        if wanted.colored:
            messages.append((self._colored, colored_message(cloud, points, self._colors[segmentation.labels])))
        if objects is not None and wanted.objects:
            messages.append((self._objects, detections_message(self._vision_msgs, cloud.header, objects)))
        if objects is not None and wanted.markers:
            markers = marker_message(self._visualization_msgs, cloud.header, objects, self._box_colours)
            messages.append((self._markers, markers))
        return [(publisher, message) for publisher, message in messages if publisher is not None]

    def publish_times(self, times: FrameTimes) -> None:
        """Publishes the milliseconds of a frame's stages, each on its own topic."""
        for stage, milliseconds in (times.stages_ms() | times.parts_ms()).items():
            if stage in self._times and self._times[stage].get_subscription_count():
                self._times[stage].publish(Float64(data=milliseconds))

    def publish_class_tables(self, settings: Settings) -> None:
        """Publishes the names of the classes of points and of objects.

        The topics are latched: later subscribers get the messages, too.
        """
        if self._label_info is not None:
            labels = (*enumerate(self._network.classes), (UNLABELLED, UNLABELLED_NAME))
            self._label_info.publish(self._class_table(labels, settings.confidence_threshold))
        if self._object_info is not None:
            least = max(settings.objects.choice.min_scores.others, self._network.least_score)
            self._object_info.publish(self._class_table(enumerate(self._network.box_names), least))

    def _class_table(self, names: Iterable[tuple[int, str]], threshold: float) -> Any:
        assert self._vision_msgs is not None
        info = self._vision_msgs.LabelInfo(threshold=threshold)
        info.header.stamp = self._node.get_clock().now().to_msg()
        info.class_map = [self._vision_msgs.VisionClass(class_id=number, class_name=name) for number, name in names]
        return info

    def _tell(self) -> None:
        """Says once what is not published, and why."""
        say, network = self._node.get_logger().info, self._network
        if network.box_names and not network.classes:
            say("the network finds objects and labels no points: labelled clouds are not offered")
        if self._vision_msgs is None:
            missing = [LABEL_INFO_TOPIC] * bool(network.classes)
            missing += [OBJECTS_TOPIC, OBJECT_INFO_TOPIC] * bool(network.box_names)
            verb = "are" if len(missing) > 1 else "is"
            say(f"vision_msgs is not installed: {' and '.join(missing)} {verb} not published")
        if network.box_names and self._visualization_msgs is None:
            say(f"visualization_msgs is not installed: {MARKERS_TOPIC} is not published")

    def _advertise(self, message_type: type[Any], topic: str, latched: bool = False) -> LifecyclePublisher[Any]:
        qos = QoSProfile(
            history=HistoryPolicy.KEEP_LAST,
            depth=1 if latched else 2,
            # Reliable, because a best-effort publisher cannot serve a reliable subscriber.
            reliability=ReliabilityPolicy.RELIABLE,
            durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
        )
        publisher = self._node.create_lifecycle_publisher(
            message_type, topic, qos, qos_overriding_options=QoSOverridingOptions.with_default_policies()
        )
        self._publishers.append(publisher)
        return publisher


def _heard(publisher: LifecyclePublisher[Any] | None) -> bool:
    return publisher is not None and publisher.get_subscription_count() > 0


def _message_module(package: str) -> Any | None:
    """Returns a package's messages, or None where it is not installed, which only ROS distributions bring along."""
    try:
        return importlib.import_module(f"{package}.msg")
    except ImportError:
        return None
