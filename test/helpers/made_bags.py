"""Small bags, and what is in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rosbags.typesys import Stores, get_typestore
from rosbags.typesys.stores.ros2_humble import (
    builtin_interfaces__msg__Time as Time,
)
from rosbags.typesys.stores.ros2_humble import (
    sensor_msgs__msg__PointCloud2 as PointCloud2,
)
from rosbags.typesys.stores.ros2_humble import (
    sensor_msgs__msg__PointField as PointField,
)
from rosbags.typesys.stores.ros2_humble import (
    std_msgs__msg__Header as Header,
)
from rosbags.typesys.stores.ros2_humble import (
    std_msgs__msg__String as String,
)

from spvnas_ros.recordings.bags import BagWriter, encode

STORAGES = ("sqlite3", "mcap")
FILES = {"sqlite3": ".db3", "mcap": ".mcap"}


def cloud(points: np.ndarray, stamp: int = 0) -> PointCloud2:
    fields = [PointField(name, 4 * i, 7, 1) for i, name in enumerate(("x", "y", "z", "intensity"))]
    data = np.frombuffer(points.astype(np.float32).tobytes(), np.uint8)
    header = Header(Time(stamp, 0), "lidar")
    return PointCloud2(header, 1, len(points), fields, False, 16, 16 * len(points), data, True)


CLOUD = encode(cloud(np.arange(40).reshape(10, 4) / 40))


def string(text: str) -> bytes:
    return bytes(get_typestore(Stores.ROS2_HUMBLE).serialize_cdr(String(text), "std_msgs/msg/String"))


def make_bag(path: Path, storage: str = "sqlite3", topics: tuple[str, ...] = ("/points",), count: int = 3) -> Path:
    with BagWriter(path, storage) as bag:
        for number in range(count):
            for topic in topics:
                bag.write(topic, CLOUD, 10**9 + number)
        bag.write("/chatter", string("hello"), 10**9, "std_msgs/msg/String")
    return path
