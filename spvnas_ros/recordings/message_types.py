"""The message types that bags are read and written with: the common ones, vision_msgs' 3D detections, and those of
sensors' drivers that hold clouds.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Final

from rosbags.typesys import Stores, get_types_from_msg, get_typestore

if TYPE_CHECKING:
    from rosbags.typesys.store import Typestore

DETECTIONS_TYPE: Final = "vision_msgs/msg/Detection3DArray"

_VISION: Final = {
    "ObjectHypothesis": "string class_id\nfloat64 score",
    "ObjectHypothesisWithPose": "vision_msgs/ObjectHypothesis hypothesis\ngeometry_msgs/PoseWithCovariance pose",
    "BoundingBox3D": "geometry_msgs/Pose center\ngeometry_msgs/Vector3 size",
    "Detection3D": (
        "std_msgs/Header header\nvision_msgs/ObjectHypothesisWithPose[] results\nvision_msgs/BoundingBox3D bbox\n"
        "string id"
    ),
    "Detection3DArray": "std_msgs/Header header\nvision_msgs/Detection3D[] detections",
}
"""vision_msgs 4, as every distribution since Humble has it; rosbags knows ROS 2's own packages alone."""


COMPRESSED_TYPE: Final = "point_cloud_interfaces/msg/CompressedPointCloud2"

_COMPRESSED: Final = (
    "std_msgs/Header header\nuint32 height\nuint32 width\nsensor_msgs/PointField[] fields\nbool is_bigendian\n"
    "uint32 point_step\nuint32 row_step\nuint8[] compressed_data\nbool is_dense\nstring format"
)
"""point_cloud_interfaces, as the plugins of point_cloud_transport publish it."""


LIVOX_TYPES: Final = tuple(
    f"{package}/msg/CustomMsg" for package in ("livox_ros_driver", "livox_ros_driver2", "livox_interfaces")
)

_LIVOX_POINT: Final = "uint32 offset_time\nfloat32 x\nfloat32 y\nfloat32 z\nuint8 reflectivity\nuint8 tag\nuint8 line"
_LIVOX: Final = (
    "std_msgs/Header header\nuint64 timebase\nuint32 point_num\nuint8 lidar_id\nuint8[3] rsvd\n"
    "{package}/CustomPoint[] points"
)
"""Livox's drivers, all with the same fields."""


SCAN_TYPE: Final = "velodyne_msgs/msg/VelodyneScan"
PACKET_TYPES: Final = ("ouster_ros/msg/PacketMsg", "ouster_msgs/msg/PacketMsg", "ouster_sensor_msgs/msg/PacketMsg")

_PACKETS: Final = {
    "velodyne_msgs/msg/VelodynePacket": "builtin_interfaces/Time stamp\nuint8[1206] data",
    SCAN_TYPE: "std_msgs/Header header\nvelodyne_msgs/VelodynePacket[] packets",
    **dict.fromkeys(PACKET_TYPES, "uint8[] buf"),
}
"""Packets as the drivers of Velodyne and Ouster publish them."""


@cache
def typestore() -> Typestore:
    """Returns the types. PointCloud2 and the other common ones have not changed in any distribution after Humble."""
    store = get_typestore(Stores.ROS2_HUMBLE)
    for name, definition in _VISION.items():
        store.register(get_types_from_msg(definition, f"vision_msgs/msg/{name}"))
    store.register(get_types_from_msg(_COMPRESSED, COMPRESSED_TYPE))
    for name in LIVOX_TYPES:
        package = name.partition("/")[0]
        store.register(get_types_from_msg(_LIVOX_POINT, f"{package}/msg/CustomPoint"))
        store.register(get_types_from_msg(_LIVOX.format(package=package), name))
    for name, definition in _PACKETS.items():
        store.register(get_types_from_msg(definition, name))
    return store


@cache
def ros1_typestore() -> Typestore:
    """Returns the types of ROS 1."""
    store = get_typestore(Stores.ROS1_NOETIC)
    store.register(get_types_from_msg(_COMPRESSED, COMPRESSED_TYPE))
    for name, definition in _PACKETS.items():
        store.register(get_types_from_msg(definition, name))
    return store
