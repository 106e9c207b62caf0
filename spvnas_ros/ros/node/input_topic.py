"""Listens to the node's input topic, in whichever type its publishers have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.event_handler import SubscriptionEventCallbacks, UnsupportedEventTypeError
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription
from sensor_msgs.msg import PointCloud2

from spvnas_ros.ros.node.cloud_messages import (
    CLOUD_TYPE,
    PackedCloud,
    best_type,
    message_class,
    readable_types,
    why_unread,
)

_LOOK_SECONDS: Final = 0.5
_WAITING: Final = 5
"""Clouds that wait for their callback. Where this was one, a cloud that another replaced there was lost uncounted."""
_PATIENCE: Final = 6
"""Looks in a row after which it is said that nobody publishes; a driver may start after the node."""


class InputTopic:
    """The subscription of an active node to its input topic.

    It begins with the type that is published there, with PointCloud2 where nobody publishes yet, and changes where only
    another type is left that can be read. Where several are published, PointCloud2 comes first.

    topic:    its name before remapping
    on_cloud: called with each message
    on_lost:  called with the number of messages that the middleware has lost since the last call, where it tells

    Attributes:
        name: of the topic, after remapping
        type: of the messages that are listened to
        lack: why no clouds can come, a sentence; "" where they can
    """

    def __init__(
        self,
        node: Node,
        topic: str,
        on_cloud: Callable[[PointCloud2 | PackedCloud], None],
        on_lost: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Raises rclpy's InvalidQosOverridesError, or a RuntimeError, for QoS overrides that cannot be used."""
        self._node, self._topic, self._on_cloud, self._on_lost = node, topic, on_cloud, on_lost
        self._alone = 0
        self._said: set[str] = set()
        self.lack = ""
        self.type = CLOUD_TYPE
        self._published: tuple[str, ...] = ()
        self._subscription: Subscription[Any] | None = None
        self._subscribe(best_type(self._look()) or CLOUD_TYPE)
        self._timer = node.create_timer(_LOOK_SECONDS, self._follow, clock=Clock(clock_type=ClockType.STEADY_TIME))

    @property
    def name(self) -> str:
        """The topic after remapping."""
        assert self._subscription is not None
        return str(self._subscription.topic_name)

    def __str__(self) -> str:
        return self.name if self.type == CLOUD_TYPE else f"{self.name} ({self.type})"

    def destroy(self) -> None:
        """Stops listening."""
        self._node.destroy_timer(self._timer)
        self._unsubscribe()

    def _look(self) -> tuple[str, ...]:
        """Returns the types that are published on the topic, sorted."""
        return tuple(sorted({each.topic_type for each in self._node.get_publishers_info_by_topic(self._topic)}))

    def _follow(self) -> None:
        types = self._look()
        self._alone = 0 if types else self._alone + 1
        if types != self._published:
            self._published = types
            self.lack = why_unread(self.name, types)
            if (best := best_type(types) or self.type) != self.type:
                self._change(best)
            if self.lack:
                self._warn_once(self.lack, self.lack)
            elif len(types) > 1:
                text = f"{self.name} carries {', '.join(types)}: only {self.type} is listened to"
                self._warn_once(text, text)
        elif self._alone and self._alone % _PATIENCE == 0:
            self.lack = nobody_publishes(self._node, self.name)
            self._warn_once("nobody", self.lack)

    def _change(self, kind: str) -> None:
        before = self.type
        # Before the next: a process cannot have one topic with two types.
        self._unsubscribe()
        try:
            self._subscribe(kind)
        except RuntimeError as error:  # as where another node of this process has the topic with the old type
            self._subscribe(before)
            self.lack = f"{self.name} carries {kind}, which cannot be listened to: {error}"
        else:
            self._node.get_logger().info(f"{self.name} carries {kind}: labels these")

    def _warn_once(self, what: str, text: str) -> None:
        if what not in self._said:
            self._said.add(what)
            self._node.get_logger().warning(text)

    def _subscribe(self, kind: str) -> None:
        plain = kind == CLOUD_TYPE
        found: Any = PointCloud2 if plain else message_class(kind)

        def subscribe(events: SubscriptionEventCallbacks | None) -> Subscription[Any]:
            return self._node.create_subscription(
                found,
                self._topic,
                # Not deserialised here: rclpy would make an object of every point of a CustomMsg.
                self._on_cloud if plain else lambda raw: self._on_cloud(PackedCloud.of(kind, raw)),
                _qos(),
                event_callbacks=events,
                qos_overriding_options=QoSOverridingOptions.with_default_policies(),
                raw=not plain,
            )

        try:
            told = SubscriptionEventCallbacks(message_lost=lambda event: self._on_lost(event.total_count_change))
            self._subscription = subscribe(told)
        except UnsupportedEventTypeError:
            self._subscription = subscribe(None)
        self.type = kind

    def _unsubscribe(self) -> None:
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
            self._subscription = None


def nobody_publishes(node: Node, topic: str) -> str:
    """Returns the sentence for a topic without a publisher, with the topics that others publish clouds on."""
    own = (node.get_name(), node.get_namespace())
    known = set(readable_types())
    clouds = [
        f"{name} ({', '.join(sorted(known.intersection(types)))})"
        for name, types in node.get_topic_names_and_types()
        if known.intersection(types)
        and any((each.node_name, each.node_namespace) != own for each in node.get_publishers_info_by_topic(name))
    ]
    there = f"clouds are on {', '.join(sorted(clouds))}" if clouds else "nor are there clouds on other topics"
    return f"nobody publishes on {topic}; {there}"


def _qos() -> QoSProfile:
    """Returns the QoS of the input: best effort.

    Only the newest cloud waits to be labelled. Clouds that came while the process did not run wait here to be counted.
    """
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=_WAITING,
        reliability=ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.VOLATILE,
    )
