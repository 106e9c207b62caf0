"""The messages that hold a cloud and are no PointCloud2, as the node gets them: compressed, Livox's, packets. They are
decoded by the code that reads them from recordings.
"""

from __future__ import annotations

import importlib
import struct
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from rclpy.type_support import check_for_type_support
from sensor_msgs.msg import PointCloud2, PointField
from std_msgs.msg import Header

from spvnas_ros.clouds.point_cloud2 import PointCloudError
from spvnas_ros.errors import UserError
from spvnas_ros.ros.build_messages.packages import PACKAGES
from spvnas_ros.ros.node.messages import message_bytes

if TYPE_CHECKING:
    from spvnas_ros.recordings.message_kinds.decoded import Decoder

CLOUD_TYPE: Final = "sensor_msgs/msg/PointCloud2"


@dataclass(frozen=True)
class PackedCloud:
    """A serialised message that holds a cloud.

    type:   its ROS type, such as "livox_ros_driver2/msg/CustomMsg"
    raw:    the message in CDR
    header: its header; an empty one where `raw` has none
    """

    type: str
    raw: bytes
    header: Header

    @classmethod
    def of(cls, kind: str, raw: bytes) -> PackedCloud:
        """Reads the header, and nothing else of the message."""
        return cls(kind, raw, _header(raw))

    def unpacked(self) -> PointCloud2:
        """Returns the cloud. Coordinates, fields and order of the points are those of the recorded kinds.

        Raises PointCloudError with the kind `missing-library` where the codec's library is not installed, and with
        `unreadable-` and the name of the type where the message is broken or has lost the order of its points.
        """
        from spvnas_ros.recordings.containers.container import named
        from spvnas_ros.recordings.message_kinds.decoded import MissingLibraryError

        name = self.type.rpartition("/")[2]
        try:
            with named(f"a {name} that cannot be read"):
                message = _decoder(self.type)(self.raw).placed()
        except PointCloudError:
            raise
        except MissingLibraryError as error:
            raise PointCloudError("missing-library", str(error)) from error
        except UserError as error:
            raise PointCloudError(f"unreadable-{name}", str(error)) from error
        return PointCloud2(
            header=self.header,
            height=message.height,
            width=message.width,
            fields=[
                PointField(name=f.name, offset=f.offset, datatype=f.datatype, count=f.count) for f in message.fields
            ],
            is_bigendian=message.is_bigendian,
            point_step=message.point_step,
            row_step=message.row_step,
            data=message_bytes(message.data),
            is_dense=message.is_dense,
        )


def as_cloud(received: PointCloud2 | PackedCloud) -> Any:
    """Returns the PointCloud2, whatever message it came in. Raises PointCloudError as `PackedCloud.unpacked` does."""
    return received.unpacked() if isinstance(received, PackedCloud) else received


def readable_types() -> tuple[str, ...]:
    """Returns the types whose messages can be decoded, PointCloud2 first."""
    from spvnas_ros.recordings.message_kinds.kinds import CDR_TYPES

    return (CLOUD_TYPE, *(kind for kind in CDR_TYPES if kind != CLOUD_TYPE))


def best_type(types: Collection[str]) -> str | None:
    """Returns which of the types of a topic to listen to: PointCloud2, or the first that can be read; None for none."""
    if CLOUD_TYPE in types:
        return CLOUD_TYPE
    return next((kind for kind in readable_types() if kind in types and message_class(kind) is not None), None)


def message_class(name: str) -> Any | None:
    """Returns the class of a message type, None where its package is not installed, or only in part."""
    try:
        package, kind, message = name.split("/")
        found = getattr(importlib.import_module(f"{package}.{kind}"), message)
        check_for_type_support(found)
    except Exception:  # half an installation raises a dozen types
        return None
    return found


def how_to_get(kind: str) -> str:
    """Returns what gives the message package of a type."""
    package = kind.partition("/")[0]
    build = f", or build it: python -m spvnas_ros.ros.build_messages {package}" if package in PACKAGES else ""
    return f"source the workspace that has it{build}"


def why_unread(topic: str, types: Collection[str]) -> str:
    """Returns why a topic that carries these types cannot be read, and what to do; "" where it can, or has none."""
    if not types or best_type(types) is not None:
        return ""
    known = [kind for kind in types if kind in readable_types()]
    listed = ", ".join(sorted(types))
    if known:
        return f"{topic} carries {listed}, whose message package is not installed: {how_to_get(known[0])}"
    return f"{topic} carries {listed}, expected clouds: {', '.join(readable_types())}"


@cache
def _decoder(kind: str) -> Decoder:
    from spvnas_ros.recordings.containers.container import Channel
    from spvnas_ros.recordings.message_kinds.kinds import decoder_of

    return decoder_of(Channel("", kind, "cdr", 0, 0))


def _header(raw: bytes) -> Header:
    try:
        order = "<" if raw[1] & 1 else ">"
        seconds, nanoseconds, length = struct.unpack_from(f"{order}iII", raw, 4)
        frame = raw[16 : 16 + length].removesuffix(b"\0").decode()
    except (IndexError, ValueError, struct.error):
        return Header()
    header = Header(frame_id=frame)
    header.stamp.sec, header.stamp.nanosec = seconds, nanoseconds
    return header
