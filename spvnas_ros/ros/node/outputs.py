"""Publishes the node's topics, and only those that somebody subscribes to."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from rclpy.lifecycle import LifecycleNode, LifecyclePublisher
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import PointCloud2
from std_msgs.msg import Float64

from spvnas_ros.clouds.point_cloud2 import with_labels
from spvnas_ros.frame import UNLABELLED, Points, Segmentation
from spvnas_ros.ros.node.messages import colored_message, filtered_message, labelled_message, packed_palette
from spvnas_ros.ros.node.network import Network
from spvnas_ros.ros.node.parameters import UNLABELLED_NAME, Settings
from spvnas_ros.ros.node.remarks import nobody_subscribes
from spvnas_ros.ros.node.statistics import STAGES, FrameTimes

LABELLED_TOPIC = "~/output/labeled_points"
COLORED_TOPIC = "~/output/colored_points"
FILTERED_TOPIC = "~/output/filtered_points"
LABEL_INFO_TOPIC = "~/output/label_info"
TIMES_TOPIC = "~/debug/processing_time/{}_ms"

Outgoing = tuple["LifecyclePublisher[PointCloud2]", PointCloud2]
"""A message and the publisher that publishes it."""


@dataclass(frozen=True)
class Wanted:
    """Which of the clouds have subscribers. It is true where any of them has."""

    labelled: bool
    colored: bool
    filtered: bool

    def __bool__(self) -> bool:
        return self.labelled or self.colored or self.filtered


class Outputs:
    """The publishers of a configured node. They publish while the node is active."""

    def __init__(self, node: LifecycleNode, network: Network) -> None:
        """Raises rclpy's InvalidQosOverridesError, or a RuntimeError, for QoS overrides that cannot be used."""
        self._node = node
        self._classes = network.classes
        self._colors = packed_palette(network.palette)
        self._publishers: list[LifecyclePublisher[Any]] = []
        self._labelled = self._advertise(PointCloud2, LABELLED_TOPIC)
        self._colored = self._advertise(PointCloud2, COLORED_TOPIC)
        self._filtered = self._advertise(PointCloud2, FILTERED_TOPIC)
        self._times = {stage: self._advertise(Float64, TIMES_TOPIC.format(stage)) for stage in STAGES}
        self._vision_msgs = _vision_msgs()
        if self._vision_msgs is None:
            node.get_logger().info("vision_msgs is not installed: ~/output/label_info is not published")
        else:
            self._label_info = self._advertise(self._vision_msgs.LabelInfo, LABEL_INFO_TOPIC, latched=True)

    def destroy(self) -> None:
        """Destroys the publishers."""
        for publisher in self._publishers:
            self._node.destroy_lifecycle_publisher(publisher)
        self._publishers.clear()

    def wanted(self, settings: Settings) -> Wanted:
        """Returns which clouds have subscribers at this moment.

        Where the coloured cloud is disabled, it counts as having none.
        """
        return Wanted(
            self._labelled.get_subscription_count() > 0,
            settings.color and self._colored.get_subscription_count() > 0,
            self._filtered.get_subscription_count() > 0,
        )

    def nobody_subscribes(self) -> str:
        """Returns a text for clouds that nobody wants, with the names of the topics after remapping."""
        clouds = [self._labelled.topic_name, self._colored.topic_name, self._filtered.topic_name]
        # Only where the settings disable it can it have a subscriber now.
        disabled = self._colored.topic_name if self._colored.get_subscription_count() > 0 else None
        return nobody_subscribes([name for name in clouds if name != disabled], disabled)

    def compose(
        self, cloud: PointCloud2, points: Points, segmentation: Segmentation, settings: Settings
    ) -> list[Outgoing]:
        """Returns the messages that have subscribers, each under the cloud's header. Raises PointCloudError.

        points:       all points of the cloud
        segmentation: their labels
        """
        wanted = self.wanted(settings)
        messages: list[Outgoing] = []
        if wanted.labelled or wanted.filtered:
            layout = with_labels(cloud, segmentation)
            if wanted.labelled:
                messages.append((self._labelled, labelled_message(cloud.header, layout, cloud.is_dense)))
            if wanted.filtered:
                keep = ~settings.ignored(self._classes)[segmentation.labels]
                messages.append((self._filtered, filtered_message(cloud.header, layout, keep, cloud.is_dense)))
        if wanted.colored:
            messages.append((self._colored, colored_message(cloud, points, self._colors[segmentation.labels])))
        return messages

    def publish_times(self, times: FrameTimes) -> None:
        """Publishes the milliseconds of a frame's stages, each on its own topic."""
        for stage, milliseconds in times.stages_ms().items():
            if self._times[stage].get_subscription_count():
                self._times[stage].publish(Float64(data=milliseconds))

    def publish_label_info(self, settings: Settings) -> None:
        """Publishes the names of the classes. The topic is latched: later subscribers get the message, too."""
        if self._vision_msgs is None:
            return
        info = self._vision_msgs.LabelInfo(threshold=settings.confidence_threshold)
        info.header.stamp = self._node.get_clock().now().to_msg()
        info.class_map = [
            self._vision_msgs.VisionClass(class_id=label, class_name=name)
            for label, name in (*enumerate(self._classes), (UNLABELLED, UNLABELLED_NAME))
        ]
        self._label_info.publish(info)

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


def _vision_msgs() -> Any | None:
    """Returns `vision_msgs.msg`, or None where it is not installed. The ROS distributions have it, PyPI does not."""
    try:
        return importlib.import_module("vision_msgs.msg")
    except ImportError:
        return None
