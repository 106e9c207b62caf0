"""Messages of Livox's drivers and of point_cloud_transport's plugins, and bags of them as rosbags writes."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import zstandard
from rosbags.rosbag1 import Writer as Ros1Writer
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from recorded_clouds import COUNT, PERIOD, STAMP, record
from spvnas_ros.recordings.bags import cloud_message
from spvnas_ros.recordings.message_types import COMPRESSED_TYPE

LIVOX = [
    ("offset_time", "<u4"), ("x", "<f4"), ("y", "<f4"), ("z", "<f4"),
    ("reflectivity", "u1"), ("tag", "u1"), ("line", "u1"),
]  # fmt: skip
POINT = "uint32 offset_time\nfloat32 x\nfloat32 y\nfloat32 z\nuint8 reflectivity\nuint8 tag\nuint8 line"
COMPRESSED = """std_msgs/Header header
uint32 height
uint32 width
sensor_msgs/PointField[] fields
bool is_bigendian
uint32 point_step
uint32 row_step
uint8[] compressed_data
bool is_dense
string format"""


def types(store: Stores) -> Typestore:
    """A store with the messages as their packages define them."""
    known = get_typestore(store)
    for package in ("livox_ros_driver", "livox_ros_driver2", "livox_interfaces"):
        message = (
            "std_msgs/Header header\nuint64 timebase\nuint32 point_num\nuint8 lidar_id\nuint8[3] rsvd\n"
            f"{package}/CustomPoint[] points"
        )
        known.register(get_types_from_msg(POINT, f"{package}/msg/CustomPoint"))
        known.register(get_types_from_msg(message, f"{package}/msg/CustomMsg"))
    known.register(get_types_from_msg(COMPRESSED, COMPRESSED_TYPE))
    return known


ROS1, ROS2 = types(Stores.ROS1_NOETIC), types(Stores.ROS2_HUMBLE)


def header(store: Typestore, number: int, frame: str = "lidar") -> Any:
    stamp = STAMP + number * PERIOD
    time = store.types["builtin_interfaces/msg/Time"](stamp // 10**9, stamp % 10**9)
    counted = {"seq": 3} if store is ROS1 else {}
    return store.types["std_msgs/msg/Header"](**counted, stamp=time, frame_id=frame)


def custom(store: Typestore, number: int, package: str, frame: str = "lidar", count: int = 60) -> Any:
    point = store.types[f"{package}/msg/CustomPoint"]
    points = [point(*row) for row in record(number, LIVOX, 60)[:count].tolist()]
    return store.types[f"{package}/msg/CustomMsg"](
        header(store, number, frame), 5, len(points), 1, np.zeros(3, np.uint8), points
    )


def plain(store: Typestore, number: int) -> Any:
    """A PointCloud2."""
    points = record(number)
    message = cloud_message(points, 0, "")
    fields = [store.types["sensor_msgs/msg/PointField"](f.name, f.offset, f.datatype, f.count) for f in message.fields]
    step = points.dtype.itemsize
    return store.types["sensor_msgs/msg/PointCloud2"](
        header(store, number), 1, len(points), fields, False, step, step * len(points), message.data, True
    )


def compressed(store: Typestore, number: int, name: str, pack: Callable[[np.ndarray], bytes]) -> Any:
    points = record(number)
    plain = cloud_message(points, 0, "")
    fields = [store.types["sensor_msgs/msg/PointField"](f.name, f.offset, f.datatype, f.count) for f in plain.fields]
    step = points.dtype.itemsize
    return store.types[COMPRESSED_TYPE](
        header(store, number), 1, len(points), fields, False, step, step * len(points),
        np.frombuffer(pack(points), np.uint8), True, name,
    )  # fmt: skip


def write(path: Path, ros1: bool, kind: str, make: Callable[[Typestore, int], Any]) -> Path:
    bag: Any = Ros1Writer(path) if ros1 else Writer(path, version=8, storage_plugin=StoragePlugin.MCAP)
    store = ROS1 if ros1 else ROS2
    with bag:
        channel = bag.add_connection("/points", kind, typestore=store)
        for number in range(COUNT):
            message = make(store, number)
            raw = store.serialize_ros1(message, kind) if ros1 else store.serialize_cdr(message, kind)
            bag.write(channel, STAMP + number * PERIOD, bytes(raw))
    return path


def draco(points: np.ndarray) -> bytes:
    """As Draco's sequential encoder writes attributes without quantisation, one a field: the layout of its
    specification. DracoPy writes other attributes than point_cloud_transport's plugin does.
    """
    kinds = {"f": 9, "u1": 2, "u2": 4, "u4": 6}
    described, values = b"", b""
    for number, name in enumerate(points.dtype.names or ()):
        kind = points.dtype[name]
        code = kinds.get(kind.kind) or kinds[kind.str[1:]]
        position = 0 if name in "xyz" else 4
        described += bytes([position, code, 1, 0, number])
        values += np.ascontiguousarray(points[name]).tobytes()
    count = len(points.dtype.names or ())
    head = b"DRACO" + bytes([2, 2, 0, 0, 0, 0]) + struct.pack("<i", len(points))
    return head + bytes([1, count]) + described + bytes(count) + values


PACKERS: dict[str, tuple[str, Callable[[np.ndarray], bytes]]] = {
    "zstd": ("zstd", lambda points: zstandard.compress(points.tobytes())),
    "zlib": ("zlib", lambda points: zlib.compress(points.tobytes())),
    "zlib with gzip's header": ("zlib", lambda points: gzip.compress(points.tobytes())),
    "draco": ("draco", draco),
}
