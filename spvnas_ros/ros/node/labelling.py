"""Takes a cloud from its received message to the published messages."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
from rclpy.impl.rcutils_logger import RcutilsLogger
from sensor_msgs.msg import PointCloud2

from spvnas_ros.clouds.cleaning import measured
from spvnas_ros.clouds.intensity import IntensityWatch
from spvnas_ros.clouds.point_cloud2 import PointCloudError, decode, positions, to_points
from spvnas_ros.clouds.sensor_rules import Record, Sensor, has_positions
from spvnas_ros.frame import UNLABELLED, Points, Segmentation, Unusable
from spvnas_ros.ros.node.cloud_messages import PackedCloud, as_cloud
from spvnas_ros.ros.node.fit_watch import FitWatch
from spvnas_ros.ros.node.following import Following
from spvnas_ros.ros.node.network import Network
from spvnas_ros.ros.node.objects import Objects, objects_of
from spvnas_ros.ros.node.outputs import Outputs, Wanted
from spvnas_ros.ros.node.parameters import Settings
from spvnas_ros.ros.node.placing import NoTransformError, Placing, Pose
from spvnas_ros.ros.node.statistics import FrameStatistics, FrameTimes
from spvnas_ros.ros.node.sweeps import Sweep, Sweeps


@dataclass(frozen=True)
class Received:
    """A cloud, or the message that holds it, and the time when its callback ran, nanoseconds of the monotonic clock."""

    cloud: PointCloud2 | PackedCloud
    at: int


@dataclass(frozen=True)
class Decoded:
    """A cloud and its points.

    record: structured `[N]`, every field of the cloud
    points: float32 `[N, 4]`, as the network sees them
    pose:   where the network sees the cloud; None where it stays where it is
    taken: when decoding began, nanoseconds of the monotonic clock
    at:    when decoding ended, in the same unit
    """

    received: Received
    record: Record
    points: Points
    pose: Pose | None
    taken: int
    at: int


@dataclass(frozen=True)
class _Published:
    """What was published of a cloud, and the times at which that began, objects were chosen, messages were ready and
    published, nanoseconds of the monotonic clock.
    """

    segmentation: Segmentation
    objects: Objects | None
    begun: int
    chosen: int
    composed: int
    published: int


@dataclass(frozen=True)
class Labelling:
    """Labels clouds, finds the objects in them, and publishes what somebody wants of it.

    An error concerns only its cloud, which is counted.

    `decode` and `label` may run in two threads, each with one cloud at a time. Neither raises.

    sensor:   what makes the clouds points
    placing:  where the network sees them
    fit:      looks at the first clouds
    settings: returns the settings that apply at the moment of the call
    sweeps:   gives the earlier clouds to label each cloud with; None labels each cloud alone
    following: gives objects their ids; None leaves them without
    """

    network: Network
    sensor: Sensor
    placing: Placing
    fit: FitWatch
    settings: Callable[[], Settings]
    outputs: Outputs
    statistics: FrameStatistics
    watch: IntensityWatch
    logger: RcutilsLogger
    sweeps: Sweeps | None = None
    following: Following | None = None

    def decode(self, received: Received) -> Decoded | None:
        """Returns the cloud with its points. Where they cannot be read, counts the cloud and returns None."""
        decoded = None
        with self._one_cloud():
            taken = time.monotonic_ns()
            cloud = as_cloud(received.cloud)
            received = replace(received, cloud=cloud)
            record = decode(cloud)
            pose = self._pose(cloud, record)
            before = self.sensor.intensity.describe()
            points = to_points(record, self.sensor.intensity, pose)
            if (now := self.sensor.intensity.describe()) != before:
                self.logger.info(now)
            decoded = Decoded(received, record, points, pose, taken, time.monotonic_ns())
        return decoded  # noqa: RET504 (None where the cloud could not be read)

    def label(self, decoded: Decoded) -> None:
        """Labels a cloud and publishes the results: labels before boxes are looked for, where the network has them."""
        with self._one_cloud():
            self._label(decoded)

    @contextmanager
    def _one_cloud(self) -> Iterator[None]:
        try:
            yield
        except PointCloudError as error:
            self._skip(error.kind, error)
        except NoTransformError as error:
            self._skip("no-transform", error)
        except Exception as error:
            # The earlier clouds may be the cause. Without them the next cloud does not fail for the same reason.
            if self.sweeps is not None:
                self.sweeps.forget()
            # Compared by name: an import of its module would load torch in the middle of a frame.
            if type(error).__name__ == "KeyRangeError":
                self._skip("key-range", error)
            elif self.statistics.count_bad(f"error-{type(error).__name__}"):
                self.logger.error(f"a cloud could not be labelled:\n{traceback.format_exc()}")

    def _skip(self, kind: str, error: Exception) -> None:
        if self.statistics.count_bad(kind):
            self.logger.warning(f"skipped a bad cloud ({kind}): {error}. More of this kind are counted, not logged.")

    def _label(self, decoded: Decoded) -> None:
        resumed = time.monotonic_ns()
        settings, points = self.settings(), decoded.points
        # Asked once: who subscribes from here on gets the next cloud, for which more may have to be done.
        wanted = self.outputs.wanted(settings)
        self.watch.add(points)
        self.fit.add(decoded.record, points)
        # The user's region cuts what was measured; the rest is counted by the network's own rules.
        kept = settings.region.contains(points) | ~measured(points) if settings.region.limited else None
        inside = points if kept is None else points.compress(kept, axis=0)
        seen = self._with_earlier(decoded, inside, settings)
        prepared = time.monotonic_ns()

        def own(found: Segmentation) -> Segmentation:
            found = _first(found, len(inside))
            return found if kept is None else found.among(kept, Unusable(outside=len(points) - len(inside)))

        labels = wanted.labels or (wanted.boxes and settings.objects.needs_labels)
        early: list[_Published] = []
        if self.network.in_two is not None and wanted.labels and wanted.boxes:

            def publish_labels(found: Segmentation) -> None:
                self._remember(decoded)
                early.append(self._publish(decoded, own(found), settings, wanted.without_boxes()))

            both = self.network.in_two(seen, publish_labels)
            segmentation = replace(early[0].segmentation, boxes=both.boxes, head_ms=both.head_ms)
            left = wanted.without_labels()
        else:
            segmentation, left = own(self.network.perceive(seen, labels=labels, boxes=wanted.boxes)), wanted
        inferred = time.monotonic_ns()
        if not early:
            self._remember(decoded)
        last = self._publish(decoded, segmentation, settings, left)
        objects = last.objects
        times = FrameTimes(
            stamp_ns(decoded.received.cloud),
            *(decoded.received.at, decoded.taken, decoded.at, resumed),
            prepared,
            inferred,
            *(last.chosen, last.composed, last.published),
            segmentation.head_ms,
            labels_composing=sum(each.composed - each.begun for each in early),
            labels_publishing=sum(each.published - each.composed for each in early),
        )
        self.statistics.count_published(
            times, len(points), segmentation.unusable, None if objects is None else len(objects)
        )
        self.outputs.publish_times(times)

    def _publish(self, decoded: Decoded, segmentation: Segmentation, settings: Settings, wanted: Wanted) -> _Published:
        """Publishes what is wanted of a cloud with these labels and boxes."""
        begun = time.monotonic_ns()
        sure = _without_doubtful(segmentation, settings.confidence_threshold)
        objects = self._objects(decoded, sure, settings, wanted)
        chosen = time.monotonic_ns()
        # Published coordinates are the cloud's own.
        moved = decoded.pose is not None and wanted.colored
        places = positions(decoded.record).astype(np.float32) if moved else decoded.points
        messages = self.outputs.compose(decoded.received.cloud, places, sure, settings, wanted, objects)
        composed = time.monotonic_ns()
        for publisher, message in messages:
            publisher.publish(message)
        return _Published(segmentation, objects, begun, chosen, composed, time.monotonic_ns())

    def _remember(self, decoded: Decoded) -> None:
        """Keeps a cloud for those that follow.

        Before its answer is published: the receiver may turn the clock back, which must forget this cloud, too.
        """
        if self.sweeps is not None:
            self.sweeps.remember(_sweep(decoded, decoded.points))

    def _objects(
        self, decoded: Decoded, segmentation: Segmentation, settings: Settings, wanted: Wanted
    ) -> Objects | None:
        """Returns the objects to publish; None where nobody wants any, or the network finds none."""
        if segmentation.boxes is None or not wanted.boxes:
            return None
        network = self.network
        objects = objects_of(
            segmentation.boxes,
            network.box_names,
            settings.objects,
            settings.region,
            decoded.pose,
            decoded.points,
            segmentation.labels if network.classes else None,
            network.classes,
        )
        if self.following is None:
            return objects
        cloud = decoded.received.cloud
        return self.following(objects, cloud.header.frame_id, stamp_ns(cloud))

    def _pose(self, cloud: PointCloud2, record: Record) -> Pose | None:
        if not self.placing.moves or not len(record) or not has_positions(record):
            return None
        return self.placing.pose(cloud, positions(record))

    def _with_earlier(self, decoded: Decoded, points: Points, settings: Settings) -> Points:
        """Returns what the network gets: these points of the cloud, followed by those of earlier clouds."""
        if self.sweeps is None:
            return points
        return self.sweeps.with_earlier(_sweep(decoded, points), settings.region)


def stamp_ns(cloud: PointCloud2 | PackedCloud) -> int:
    """Returns the stamp of a cloud in nanoseconds."""
    return int(cloud.header.stamp.sec) * 1_000_000_000 + int(cloud.header.stamp.nanosec)


def _sweep(decoded: Decoded, points: Points) -> Sweep:
    cloud = decoded.received.cloud
    return Sweep(cloud.header.frame_id.lstrip("/"), stamp_ns(cloud), points, decoded.pose)


def _first(segmentation: Segmentation, count: int) -> Segmentation:
    """Returns the labels of the first `count` points. These are the current cloud's; those of earlier clouds follow."""
    if len(segmentation) == count:
        return segmentation
    return replace(
        segmentation, labels=segmentation.labels[:count], confidence=segmentation.confidence[:count], scores=None
    )


def _without_doubtful(segmentation: Segmentation, threshold: float) -> Segmentation:
    """Removes the labels whose confidence is below the threshold. The confidence stays as it is."""
    if threshold <= 0:
        return segmentation
    labels = np.where(segmentation.confidence < threshold, np.uint8(UNLABELLED), segmentation.labels)
    return replace(segmentation, labels=labels)
