"""Looks up transforms from TF with tf2_ros where it is installed, else with a small buffer of our own on the same
topics.
"""

from __future__ import annotations

import time
from importlib.util import find_spec
from threading import Condition, Event
from typing import Any, Protocol

from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.time import Time

from spvnas_ros.clouds.transforms import HISTORY_NS, Transform, TransformBuffer, TransformError

_LOOK_AGAIN_SECONDS = 0.005


class Transforms(Protocol):
    """The known transforms between frames. The node's callbacks fill it, and another thread asks it."""

    def lookup(
        self, target: str, target_time: int, source: str, source_time: int, fixed_frame: str, deadline: float
    ) -> Transform:
        """Returns what `TransformBuffer.lookup` returns, and waits for it until `deadline` (of `time.monotonic()`).

        Raises TransformError.
        """

    def clear(self) -> None:
        """Forgets all transforms that are not static."""

    def destroy(self) -> None:
        """Stops listening."""


def why_unavailable() -> str:
    """Returns what is missing for listening to TF, or "" where nothing is missing."""
    if find_spec("tf2_ros") is not None or find_spec("tf2_msgs") is not None:
        return ""
    return (
        "TF needs tf2_ros or tf2_msgs, and neither is installed; ROS distributions have both, and without one "
        "python -m spvnas_ros.ros.build_messages builds tf2_msgs"
    )


def listen_to_transforms(node: Node) -> Transforms:
    """Subscribes to /tf and /tf_static with tf2_ros or tf2_msgs. Raises ValueError where neither is installed."""
    if reason := why_unavailable():
        raise ValueError(reason)
    return Tf2Transforms(node) if find_spec("tf2_ros") is not None else TopicTransforms(node)


class TopicTransforms:
    """Listens to TF with tf2_msgs alone."""

    def __init__(self, node: Node) -> None:
        from tf2_msgs.msg import TFMessage

        self._node = node
        self._buffer = TransformBuffer()
        self._changed = Condition()
        self._subscriptions = [
            node.create_subscription(TFMessage, topic, self._adder(static), _qos(static))
            for topic, static in (("/tf", False), ("/tf_static", True))
        ]

    def lookup(
        self, target: str, target_time: int, source: str, source_time: int, fixed_frame: str, deadline: float
    ) -> Transform:
        """See `Transforms`."""
        with self._changed:
            while True:
                try:
                    return self._buffer.lookup(target, target_time, source, source_time, fixed_frame)
                except TransformError as error:
                    if not error.may_come or (left := deadline - time.monotonic()) <= 0:
                        raise
                self._changed.wait(left)

    def clear(self) -> None:
        """See `Transforms`."""
        with self._changed:
            self._buffer.clear()

    def destroy(self) -> None:
        """See `Transforms`."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)

    def _adder(self, static: bool) -> Any:
        def add(message: Any) -> None:
            with self._changed:
                for stamped in message.transforms:
                    self._add(stamped, static)
                self._changed.notify_all()

        return add

    def _add(self, stamped: Any, static: bool) -> None:
        moved, turned, stamp = stamped.transform.translation, stamped.transform.rotation, stamped.header.stamp
        names = (stamped.header.frame_id.lstrip("/"), stamped.child_frame_id.lstrip("/"))
        try:
            pose = Transform.of((moved.x, moved.y, moved.z), (turned.x, turned.y, turned.z, turned.w))
            self._buffer.insert(*names, stamp.sec * 1_000_000_000 + stamp.nanosec, pose, static)
        except ValueError as error:
            self._node.get_logger().warning(f"ignored a transform on TF: {error}", throttle_duration_sec=10.0)


class Tf2Transforms:
    """Listens to TF with tf2_ros."""

    def __init__(self, node: Node) -> None:
        import tf2_ros

        self._buffer = tf2_ros.Buffer(Duration(nanoseconds=HISTORY_NS))
        self._listener = tf2_ros.TransformListener(self._buffer, node)
        self._failure = tf2_ros.TransformException

    def lookup(
        self, target: str, target_time: int, source: str, source_time: int, fixed_frame: str, deadline: float
    ) -> Transform:
        """See `Transforms`."""
        times = (Time(nanoseconds=target_time), Time(nanoseconds=source_time))
        while True:
            try:
                # No timeout here: tf2_ros would wait by a different clock than `deadline`.
                found = self._buffer.lookup_transform_full(target, times[0], source, times[1], fixed_frame)
            except self._failure as error:
                if time.monotonic() >= deadline:
                    raise TransformError(str(error)) from error
                Event().wait(_LOOK_AGAIN_SECONDS)
                continue
            moved, turned = found.transform.translation, found.transform.rotation
            return Transform.of((moved.x, moved.y, moved.z), (turned.x, turned.y, turned.z, turned.w))

    def clear(self) -> None:
        """See `Transforms`."""
        self._buffer.clear()

    def destroy(self) -> None:
        """See `Transforms`."""
        self._listener.unregister()


def _qos(static: bool) -> QoSProfile:
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=100,
        reliability=ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if static else DurabilityPolicy.VOLATILE,
    )
