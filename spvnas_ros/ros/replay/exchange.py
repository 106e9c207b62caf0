"""Sends clouds to a segmenter and returns its answers, one at a time. Nothing is dropped, even on a slow machine."""

from __future__ import annotations

import time
from dataclasses import dataclass
from threading import Condition
from typing import Any

from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import PointCloud2

_PROBE_EVERY = 0.25
"""Seconds between empty clouds while the segmenter is not yet ready."""

_SEND_AGAIN_AFTER = 15.0
"""Seconds. The segmenter's input is best effort: a cloud may be lost on the way, though rarely on one machine."""


class ExchangeError(Exception):
    """No answer came. The message gives the reason."""


@dataclass(frozen=True)
class Answer:
    """A labelled cloud and two times, nanoseconds of the monotonic clock.

    sent:    when its input was sent, the last time where it was sent again
    arrived: when the labelled cloud arrived
    """

    cloud: PointCloud2
    sent: int
    arrived: int

    @property
    def ms(self) -> float:
        """Milliseconds from publishing the cloud to having its labels."""
        return (self.arrived - self.sent) / 1e6


class CloudExchange(Node):
    """Asks the node `segmenter` (its full name) for labels. The callbacks must run in another thread (`spinning`)."""

    def __init__(self, segmenter: str = "/segmenter", **node_options: Any) -> None:
        super().__init__("cloud_exchange", **node_options)
        self._changed = Condition()
        self._answers: dict[tuple[int, int, str], Answer] = {}
        self._sent = 0
        self._failure = ""
        self._to_segmenter = self.create_publisher(PointCloud2, f"{segmenter}/input/points", QoSProfile(depth=1))
        self.create_subscription(
            PointCloud2, f"{segmenter}/output/labeled_points", self._on_answer, QoSProfile(depth=10)
        )

    def wait_until_ready(self, timeout: float) -> None:
        """Sends empty clouds until one is answered. Then both directions are connected.

        Raises ExchangeError where no answer comes in `timeout` seconds, or where `fail` is called.
        """
        probe = PointCloud2()
        probe.header.frame_id = "probe"
        self._await(probe, probe, timeout, _PROBE_EVERY)

    def ask(self, cloud: PointCloud2 | bytes, timeout: float = 120.0) -> Answer:
        """Sends a cloud, as a message or serialised, and returns the answer that has the same header.

        Raises ExchangeError where no answer comes in `timeout` seconds, or where `fail` is called.
        """
        message = deserialize_message(cloud, PointCloud2) if isinstance(cloud, bytes) else cloud
        return self._await(message, cloud, timeout, _SEND_AGAIN_AFTER)

    def send(self, cloud: PointCloud2) -> None:
        """Sends a cloud and does not wait for an answer."""
        self._to_segmenter.publish(cloud)

    def fail(self, reason: str) -> None:
        """Ends all waiting with an ExchangeError, for example because the segmenter has ended."""
        with self._changed:
            self._failure = reason
            self._changed.notify_all()

    def _await(self, cloud: PointCloud2, message: PointCloud2 | bytes, timeout: float, patience: float) -> Answer:
        key = _key(cloud)
        deadline = time.monotonic() + timeout
        with self._changed:
            self._answers.clear()
            while True:
                self._sent = time.monotonic_ns()
                self._to_segmenter.publish(message)
                left = deadline - time.monotonic()
                if self._changed.wait_for(lambda: key in self._answers or self._failure, min(patience, left)):
                    break
                if left <= patience:
                    raise ExchangeError(f"no answer in {timeout:.0f} s")
            if key not in self._answers:
                raise ExchangeError(self._failure)
            return self._answers[key]

    def _on_answer(self, cloud: PointCloud2) -> None:
        arrived = time.monotonic_ns()
        with self._changed:
            self._answers[_key(cloud)] = Answer(cloud, self._sent, arrived)
            self._changed.notify_all()


def _key(cloud: PointCloud2) -> tuple[int, int, str]:
    return cloud.header.stamp.sec, cloud.header.stamp.nanosec, cloud.header.frame_id
