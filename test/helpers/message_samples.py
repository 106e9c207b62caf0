"""Messages with a value of its own in every field; as a script, a process that publishes one of each kind, latched.

message_samples.py NAMESPACE
"""

from __future__ import annotations

import importlib
import sys
from threading import Event
from typing import Any

import numpy as np
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile

from spvnas_ros.ros.process.lifetime import StopRequested, ros_process, spinning

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
PUBLISHED = (
    "vision_msgs/Detection3DArray",
    "vision_msgs/LabelInfo",
    "tf2_msgs/TFMessage",
    "point_cloud_interfaces/CompressedPointCloud2",
    "livox_ros_driver2/CustomMsg",
)


def sample(kind: str, seed: int) -> Any:
    """A message of a type such as `vision_msgs/LabelInfo`: nothing is empty, and the same seed gives the same."""
    return _value(kind, None, np.random.default_rng(seed))


def message_class(kind: str) -> Any:
    """The class of a type such as `vision_msgs/LabelInfo`."""
    package, name = kind.split("/")
    return getattr(importlib.import_module(f"{package}.msg"), name)


def topic(namespace: str, kind: str) -> str:
    """Where the process publishes a type."""
    return f"{namespace}/{kind.rpartition('/')[2]}"


def _value(kind: str, default: Any, rng: np.random.Generator) -> Any:
    if kind.startswith("sequence<"):
        inner = kind.removeprefix("sequence<").removesuffix(">")
        return [_value(inner, None, rng) for _ in range(rng.integers(1, 4))]
    if kind.endswith("]"):
        whole = np.issubdtype(default.dtype, np.integer)
        return rng.integers(1, 100, len(default)).astype(default.dtype) if whole else rng.normal(size=len(default))
    if "/" in kind:
        message = message_class(kind)()
        for name, inner in message.get_fields_and_field_types().items():
            setattr(message, name, _value(inner, getattr(message, name), rng))
        return message
    if kind == "string":
        return f"Lärm {rng.integers(1 << 32)}"
    if kind == "boolean":
        return bool(rng.integers(2))
    if kind in ("float", "double"):
        return float(np.float32(rng.normal()))
    return int(rng.integers(1, np.iinfo(kind).max, endpoint=True, dtype=kind))


def main(namespace: str) -> int:
    """Publish until SIGINT or SIGTERM."""
    try:
        with ros_process([]):
            node = Node("samples")
            with spinning(node):
                publishers = [node.create_publisher(message_class(k), topic(namespace, k), LATCHED) for k in PUBLISHED]
                for publisher, kind in zip(publishers, PUBLISHED, strict=True):
                    publisher.publish(sample(kind, seed=0))
                Event().wait()
    except StopRequested:
        pass
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
