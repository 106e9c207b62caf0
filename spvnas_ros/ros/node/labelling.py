"""One cloud's way through the node: from the message that came to the messages that go."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
from rclpy.impl.rcutils_logger import RcutilsLogger
from sensor_msgs.msg import PointCloud2

from spvnas_ros.clouds.intensity import Intensity, IntensityWatch
from spvnas_ros.clouds.point_cloud2 import PointCloudError, decode, to_points
from spvnas_ros.frame import UNLABELLED, Points, Segmentation
from spvnas_ros.ros.node.network import Perceive
from spvnas_ros.ros.node.outputs import Outputs
from spvnas_ros.ros.node.parameters import Settings
from spvnas_ros.ros.node.statistics import FrameStatistics, FrameTimes
from spvnas_ros.ros.node.sweeps import Sweep, Sweeps


@dataclass(frozen=True)
class Received:
    """A cloud and when its callback ran (nanoseconds of the monotonic clock)."""

    cloud: PointCloud2
    at: int


@dataclass(frozen=True)
class Decoded:
    """A cloud and its points; `taken` and `at` are when decoding began and ended, in nanoseconds as above."""

    received: Received
    points: Points
    taken: int
    at: int


@dataclass(frozen=True)
class Labelling:
    """Labels clouds and publishes what comes of it. Whatever goes wrong with a cloud is counted, and concerns it only.

    `decode` and `label` may run in two threads, one cloud each at a time; neither raises.

    settings: what counts at the moment of the call
    sweeps:   earlier clouds to label each with; None for each alone
    """

    perceive: Perceive
    intensity: Intensity
    settings: Callable[[], Settings]
    outputs: Outputs
    statistics: FrameStatistics
    watch: IntensityWatch
    logger: RcutilsLogger
    sweeps: Sweeps | None = None

    def decode(self, received: Received) -> Decoded | None:
        """The points of a cloud; None where they cannot be read, which is counted."""
        decoded = None
        with self._one_cloud():
            taken = time.monotonic_ns()
            points = to_points(decode(received.cloud), self.intensity)
            decoded = Decoded(received, points, taken, time.monotonic_ns())
        return decoded  # noqa: RET504 (None where the cloud could not be read)

    def label(self, decoded: Decoded) -> None:
        """Label a cloud and publish it."""
        with self._one_cloud():
            self._label(decoded)

    @contextmanager
    def _one_cloud(self) -> Iterator[None]:
        try:
            yield
        except PointCloudError as error:
            self._skip(error.kind, error)
        except Exception as error:
            # The earlier clouds may be why, and must not cost the next one too.
            if self.sweeps is not None:
                self.sweeps.forget()
            # By name: importing its module would load torch, in the middle of a frame.
            if type(error).__name__ == "KeyRangeError":
                self._skip("key-range", error)
            elif self.statistics.count_bad(f"error-{type(error).__name__}"):
                self.logger.error(f"a cloud could not be labelled:\n{traceback.format_exc()}")

    def _skip(self, kind: str, error: Exception) -> None:
        if self.statistics.count_bad(kind):
            self.logger.warning(f"skipped a bad cloud ({kind}): {error}. More of this kind are counted, not logged.")

    def _label(self, decoded: Decoded) -> None:
        resumed = time.monotonic_ns()
        settings, cloud, points = self.settings(), decoded.received.cloud, decoded.points
        self.watch.add(points)
        seen = self._seen(cloud, points, settings)
        prepared = time.monotonic_ns()
        segmentation = _first(self.perceive(seen), len(points))
        inferred = time.monotonic_ns()
        # Before the answer goes out: whoever hears it may turn the clock back, and then this cloud is to be forgotten.
        if self.sweeps is not None:
            self.sweeps.remember(_sweep(cloud, points))
        sure = _without_doubtful(segmentation, settings.confidence_threshold)
        messages = self.outputs.compose(cloud, points, sure, settings)
        composed = time.monotonic_ns()
        for publisher, message in messages:
            publisher.publish(message)
        published = time.monotonic_ns()
        begun = (decoded.received.at, decoded.taken, decoded.at, resumed)
        times = FrameTimes(stamp_ns(cloud), *begun, prepared, inferred, composed, published)
        self.statistics.count_published(times)
        self.outputs.publish_times(times)

    def _seen(self, cloud: PointCloud2, points: Points, settings: Settings) -> Points:
        """What the network is given: the cloud's points, and those of earlier clouds behind them."""
        inside = settings.region.clip(points)
        if self.sweeps is None:
            return inside
        return self.sweeps.with_earlier(_sweep(cloud, inside), settings.region)


def stamp_ns(cloud: PointCloud2) -> int:
    """The stamp of a cloud in nanoseconds."""
    return int(cloud.header.stamp.sec) * 1_000_000_000 + int(cloud.header.stamp.nanosec)


def _sweep(cloud: PointCloud2, points: Points) -> Sweep:
    return Sweep(cloud.header.frame_id.lstrip("/"), stamp_ns(cloud), points)


def _first(segmentation: Segmentation, count: int) -> Segmentation:
    """Of the current cloud's points, which come before those of earlier clouds."""
    if len(segmentation) == count:
        return segmentation
    return Segmentation(segmentation.labels[:count], segmentation.confidence[:count])


def _without_doubtful(segmentation: Segmentation, threshold: float) -> Segmentation:
    """Unlabelled where the confidence is below the threshold; the confidence stays, for whoever wants to know."""
    if threshold <= 0:
        return segmentation
    labels = np.where(segmentation.confidence < threshold, np.uint8(UNLABELLED), segmentation.labels)
    return replace(segmentation, labels=labels)
