"""Lists the kinds of messages that hold a cloud, and how each is decoded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from rosbags.typesys.stores.ros2_humble import sensor_msgs__msg__PointCloud2 as PointCloud2

from spvnas_ros.recordings.containers.container import Channel
from spvnas_ros.recordings.message_kinds import compressed_clouds, foxglove_clouds, livox_clouds, velodyne_packets
from spvnas_ros.recordings.message_kinds.decoded import DecodedCloud, Decoder, cloud_like
from spvnas_ros.recordings.message_types import ros1_typestore, typestore

CLOUD_TYPE: Final = "sensor_msgs/msg/PointCloud2"


def decode_cdr(raw: bytes) -> DecodedCloud:
    """Decodes a PointCloud2 as ROS 2 has it. Raises what rosbags raises for other bytes."""
    message = typestore().deserialize_cdr(raw, CLOUD_TYPE)
    assert isinstance(message, PointCloud2)
    return DecodedCloud(message)


def decode_ros1(raw: bytes) -> DecodedCloud:
    """Decodes a PointCloud2 as ROS 1 has it. Raises what rosbags raises for other bytes."""
    old: Any = ros1_typestore().deserialize_ros1(raw, CLOUD_TYPE)
    return DecodedCloud(cloud_like(old, old.row_step, old.data))


def _always(decoder: Decoder) -> Callable[[], Decoder]:
    return lambda: decoder


def _both(types: Sequence[str], cdr: Decoder, ros1: Decoder) -> dict[tuple[str, str], Callable[[], Decoder]]:
    return {(kind, name): _always(each) for kind in types for name, each in (("cdr", cdr), ("ros1", ros1))}


_KINDS: Final[Mapping[tuple[str, str], Callable[[], Decoder]]] = {
    **_both((CLOUD_TYPE,), decode_cdr, decode_ros1),
    **_both(compressed_clouds.TYPES, compressed_clouds.from_cdr, compressed_clouds.from_ros1),
    **_both(livox_clouds.TYPES, livox_clouds.from_cdr, livox_clouds.from_ros1),
    **{(kind, "cdr"): velodyne_packets.from_cdr for kind in velodyne_packets.TYPES},
    **{(kind, "ros1"): velodyne_packets.from_ros1 for kind in velodyne_packets.TYPES},
    ("foxglove.PointCloud", "protobuf"): foxglove_clouds.from_protobuf,
    ("foxglove.PointCloud", "json"): foxglove_clouds.from_json,
    ("foxglove.PointCloud", "flatbuffer"): foxglove_clouds.from_flatbuffer,
}
"""By the type and the encoding of a channel: what returns the decoder, and needs the libraries."""

TYPES: Final = tuple(dict.fromkeys(kind for kind, _ in _KINDS))


CDR_TYPES: Final = tuple(kind for kind, encoding in _KINDS if encoding == "cdr")
"""Those that ROS 2 sends."""


def holds_clouds(channel: Channel) -> bool:
    """Whether the messages of a channel can be decoded."""
    return (channel.type, channel.encoding) in _KINDS


def decoder_of(channel: Channel) -> Decoder:
    """Returns what decodes a channel's messages. Raises MissingLibraryError, and KeyError where nothing does."""
    return _KINDS[channel.type, channel.encoding]()
