"""`segmenter`: the node that labels a LiDAR's clouds.

Subscribes to `~/input/points` (best effort, newest only) and publishes `~/output/labeled_points` (reliable): every
field of the input in its order, `label` (uint8, 255 = unlabelled) and `confidence` (float32) appended, under the
input's header.
"""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription
from sensor_msgs.msg import PointCloud2

from spvnas_ros.frame import Points, Segmentation
from spvnas_ros.pointcloud import Intensity, PointCloudError, decode, to_points, with_labels
from spvnas_ros.ros.messages import labelled_message
from spvnas_ros.ros.process import StartError, run
from spvnas_ros.ros.statistics import FrameStatistics, FrameTimes
from spvnas_ros.ros.worker import LatestWorker

NODE_NAME = "segmenter"
INPUT_TOPIC = "~/input/points"
OUTPUT_TOPIC = "~/output/labeled_points"

INPUT_QOS = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=1,
    reliability=ReliabilityPolicy.BEST_EFFORT,
    durability=DurabilityPolicy.VOLATILE,
)
"""Sensor data: what came too late is not asked for again, and of what waits only the newest counts."""

OUTPUT_QOS = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=2,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.VOLATILE,
)
"""Reliable, for a best-effort publisher could not serve a reliable subscriber."""

Perceive = Callable[[Points], Segmentation]
"""What labels points: a `Perception`, or anything that is called like one."""

PARAMETERS: Mapping[str, tuple[str, str]] = {
    "weights": ("", "Path of a checkpoint (.safetensors), or the name of a published model that was fetched"),
    "device": ("auto", "Where the network runs: auto, cpu, cuda or cuda:N"),
    "engine": ("auto", "What runs the network: auto, cpu (fused) or torch (reference)"),
    "intensity": ("auto", "The sensor's intensity scale: auto, unit, u8, u16, none or the value that stands for 1"),
}
"""Name, default and description; `config/segmenter.param.yaml` lists the same."""


@dataclass(frozen=True)
class _Received:
    """A cloud and when its callback ran (nanoseconds of the monotonic clock)."""

    cloud: PointCloud2
    at: int


class SegmenterNode(Node):
    """Labels the newest cloud, always; a cloud that cannot be labelled is counted and skipped.

    `configure` loads and warms up, `activate` starts listening, `deactivate` and `cleanup` undo them. The constructor
    does the first two. `statistics` counts what happened.
    """

    def __init__(self, perception: Perceive | None = None, **node_options: Any) -> None:
        """Raises StartError where a parameter is unusable or the weights cannot be loaded.

        perception: what labels the points, instead of the network that the parameters name
        """
        super().__init__(NODE_NAME, **node_options)
        self.statistics = FrameStatistics()
        self._perceive: Perceive | None = None
        self._intensity = Intensity()
        self._subscription: Subscription[PointCloud2] | None = None
        self._publisher: Publisher[PointCloud2] | None = None
        self._worker: LatestWorker[_Received] | None = None
        for name, (default, description) in PARAMETERS.items():
            # A number is a fine intensity rule, and YAML makes it one.
            descriptor = ParameterDescriptor(
                description=description, read_only=True, dynamic_typing=name == "intensity"
            )
            self.declare_parameter(name, default, descriptor)
        self.configure(perception)
        self.activate()

    def configure(self, perception: Perceive | None = None) -> None:
        """Load the network and label one cloud of noise, so that the first real one waits for no compiler."""
        try:
            self._intensity = Intensity(str(self._value("intensity")))
            self._perceive = perception or self._load()
        except (ValueError, OSError, RuntimeError) as error:
            raise StartError(str(error)) from error
        started = time.monotonic()
        self._perceive(_noise())
        self.get_logger().info(f"warmed up in {time.monotonic() - started:.1f} s")

    def activate(self) -> None:
        """Start to listen and to publish."""
        self._publisher = self.create_publisher(
            PointCloud2,
            OUTPUT_TOPIC,
            OUTPUT_QOS,
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        )
        self._worker = LatestWorker(self._label, "labelling")
        self._subscription = self.create_subscription(
            PointCloud2,
            INPUT_TOPIC,
            self._on_cloud,
            INPUT_QOS,
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        )
        self.get_logger().info(
            f"labels clouds of {self._subscription.topic_name}, publishes {self._publisher.topic_name}"
        )

    def deactivate(self) -> None:
        """Stop listening, let the cloud in work go out, stop publishing."""
        if self._subscription is not None:
            self.destroy_subscription(self._subscription)
            self._subscription = None
        if self._worker is not None:
            if self._worker.stop():
                self.statistics.count_dropped()
            self._worker = None
        if self._publisher is not None:
            self.destroy_publisher(self._publisher)
            self._publisher = None

    def cleanup(self) -> None:
        """Let go of the network."""
        self._perceive = None

    def destroy_node(self) -> None:
        """Deactivate, clean up, say what was done, and be gone."""
        if self._worker is not None:
            self.deactivate()
            self.get_logger().info(self.statistics.summary())
        self.cleanup()
        super().destroy_node()

    def _value(self, parameter: str) -> Any:
        return self.get_parameter(parameter).value

    def _load(self) -> Perceive:
        if not self._value("weights"):
            raise ValueError(
                "parameter 'weights' is not set; give a checkpoint, --ros-args -p weights:=FILE.safetensors, or the "
                "name of a fetched model (spvnas zoo list)"
            )
        from spvnas_ros.zoo.cache import resolve_weights

        weights = resolve_weights(self._value("weights"))
        from spvnas_ros.perception import Perception  # takes seconds, so it comes behind what may fail at once

        perception = Perception.load(weights, self._value("device"), self._value("engine"))
        facts, engine = perception.facts, perception.engine
        self.get_logger().info(
            f"weights {weights} ({facts.name or facts.spec.family}, {facts.num_classes} classes, "
            f"{facts.voxel_size * 100:g} cm voxels), engine {engine.name} on {engine.device}"
        )
        if not facts.trained:
            self.get_logger().warning("the network is not trained: its labels mean nothing")
        return perception

    def _on_cloud(self, cloud: PointCloud2) -> None:
        assert self._publisher is not None
        assert self._worker is not None
        received = _Received(cloud, time.monotonic_ns())
        if not self._publisher.get_subscription_count():
            self.statistics.count_unwatched()
        elif self._worker.put(received):
            self.statistics.count_dropped()
        self.statistics.count_received()

    def _label(self, received: _Received) -> None:
        """One frame, in the worker's thread. Whatever goes wrong concerns this cloud only."""
        try:
            self.statistics.count_published(self._frame(received))
        except PointCloudError as error:
            self._skip(error.kind, error)
        except Exception as error:
            # By name: importing its module would load torch, in the middle of a frame.
            if type(error).__name__ == "KeyRangeError":
                self._skip("key-range", error)
            elif self.statistics.count_bad(f"error-{type(error).__name__}"):
                self.get_logger().error(f"a cloud could not be labelled:\n{traceback.format_exc()}")

    def _skip(self, kind: str, error: Exception) -> None:
        if self.statistics.count_bad(kind):
            self.get_logger().warning(
                f"skipped a bad cloud ({kind}): {error}. More of this kind are counted, not logged."
            )

    def _frame(self, received: _Received) -> FrameTimes:
        assert self._perceive is not None
        assert self._publisher is not None
        cloud, taken = received.cloud, time.monotonic_ns()
        points = to_points(decode(cloud), self._intensity)
        decoded = time.monotonic_ns()
        segmentation = self._perceive(points)
        inferred = time.monotonic_ns()
        self._publisher.publish(labelled_message(cloud.header, with_labels(cloud, segmentation), cloud.is_dense))
        stamp = cloud.header.stamp.sec * 1_000_000_000 + cloud.header.stamp.nanosec
        return FrameTimes(stamp, received.at, taken, decoded, inferred, time.monotonic_ns())


def _noise() -> Points:
    """Points around a sensor, for warming up."""
    return np.random.default_rng(0).uniform((-20, -20, -2, 0), (20, 20, 3, 1), (2000, 4)).astype(np.float32)


def _usage() -> str:
    parameters = "\n".join(f"  {name:<10} {text} (default {value!r})" for name, (value, text) in PARAMETERS.items())
    return f"{__doc__}\nusage: segmenter_node --ros-args -p weights:=FILE.safetensors\n\nparameters:\n{parameters}"


def main(args: list[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM. Returns the exit status: 1 where it could not start."""
    if {"-h", "--help"} & set(sys.argv if args is None else args):
        print(_usage())
        return 0
    return run(SegmenterNode, args)


if __name__ == "__main__":
    raise SystemExit(main())
