"""A sensor on a vehicle that drives a curve: `moving_sensor.py` publishes its TF over and over until SIGINT."""

from __future__ import annotations

import math
import sys

from geometry_msgs.msg import TransformStamped
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from tf2_msgs.msg import TFMessage

from spvnas_ros.clouds.transforms import Transform
from spvnas_ros.ros.process.lifetime import run

START, SECONDS = 100.0, 4.0
MOUNT = Transform.of((1.2, 0.1, 1.7), (0, math.sin(0.05), 0, math.cos(0.05)))


def vehicle(seconds: float) -> Transform:
    """Where it is in odom at a stamp."""
    since = seconds - START
    return Transform.of((50 + 8 * since, math.sin(since), 0), (0, 0, math.sin(0.15 * since), math.cos(0.15 * since)))


class MovingSensor(Node):
    """odom -> base_link twenty times per second of the drive, base_link -> lidar always; three rounds a second."""

    def __init__(self) -> None:
        super().__init__("moving_sensor")
        fixed = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._moving = self.create_publisher(TFMessage, "/tf", 100)
        self._static = self.create_publisher(TFMessage, "/tf_static", fixed)
        self._static.publish(TFMessage(transforms=[_message("base_link", "lidar", 0.0, MOUNT)]))
        self.create_timer(0.3, self._publish)

    def _publish(self) -> None:
        stamps = [START + step / 20 for step in range(int(20 * SECONDS) + 1)]
        self._moving.publish(
            TFMessage(transforms=[_message("odom", "base_link", stamp, vehicle(stamp)) for stamp in stamps])
        )


def _message(parent: str, child: str, stamp: float, pose: Transform) -> TransformStamped:
    message = TransformStamped(child_frame_id=child)
    message.header.frame_id = parent
    message.header.stamp.sec, message.header.stamp.nanosec = int(stamp), round(stamp % 1 * 1e9)
    moved, turned = message.transform.translation, message.transform.rotation
    moved.x, moved.y, moved.z = map(float, pose.translation)
    turned.x, turned.y, turned.z, turned.w = map(float, pose.rotation)
    return message


if __name__ == "__main__":
    sys.exit(run(MovingSensor))
