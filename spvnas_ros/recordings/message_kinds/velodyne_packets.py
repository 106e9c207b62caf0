"""Decodes Velodyne's packets by velodyne-decoder: of VelodyneScan messages, and of captures of the network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from spvnas_ros.clouds.point_cloud2 import Datatype, PointField
from spvnas_ros.recordings.containers.container import BagError
from spvnas_ros.recordings.message_kinds.decoded import DecodedCloud, Decoder, cloud_of, needed
from spvnas_ros.recordings.message_types import SCAN_TYPE, ros1_typestore, typestore

TYPES: Final = (SCAN_TYPE,)
PACKET_SIZE: Final = 1206
"""Bytes of every packet of points that Velodyne's sensors send."""

_BLOCKS: Final = range(0, 1200, 100)
_FLAGS: Final = (b"\xff\xee", b"\xff\xdd", b"\xff\xcc", b"\xff\xbb")
"""What a block of a packet begins with."""
_MOST_PACKETS: Final = 10_000
_FIELDS: Final = (
    ("x", Datatype.FLOAT32),
    ("y", Datatype.FLOAT32),
    ("z", Datatype.FLOAT32),
    ("intensity", Datatype.FLOAT32),
    ("time", Datatype.FLOAT32),
    ("column", Datatype.UINT16),
    ("ring", Datatype.UINT8),
    ("return_type", Datatype.UINT8),
)
"""What velodyne-decoder gives for a point."""


def from_cdr() -> Decoder:
    """Returns the decoder of the message of ROS 2. Raises MissingLibraryError."""
    return _scans(_library(), lambda raw: typestore().deserialize_cdr(raw, SCAN_TYPE))


def from_ros1() -> Decoder:
    """Returns the decoder of the message of ROS 1. Raises MissingLibraryError."""
    return _scans(_library(), lambda raw: ros1_typestore().deserialize_ros1(raw, SCAN_TYPE))


def _scans(library: Any, unpack: Any) -> Decoder:
    def decode(raw: bytes) -> DecodedCloud:
        message: Any = unpack(raw)
        packets = [bytes(each.data) for each in message.packets]
        check_packets(packets)
        scan = library.PacketVector()
        for packet, each in zip(packets, message.packets, strict=True):
            scan.append(library.VelodynePacket(each.stamp.sec + each.stamp.nanosec * 1e-9, packet))
        points = library.ScanDecoder(library.Config()).decode(scan, True)[1]
        stamp = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
        return DecodedCloud(as_cloud(points, stamp, message.header.frame_id))

    return decode


def rotations(packets: Iterator[tuple[float, bytes]]) -> Iterator[tuple[int, npt.NDArray[np.void]]]:
    """Yields the rotations in a stream of packets with their times (seconds since 1970): when each was complete,
    nanoseconds since 1970, and its points. Raises MissingLibraryError, BagError, and RuntimeError for unknown models.
    """
    library = _library()
    decoder = library.StreamDecoder(library.Config())
    begun = False
    for time, packet in packets:
        check_packets([packet])
        begun = True
        if found := decoder.decode(time, packet, True):
            yield round(found[0].host * 1e9), found[1]
    if begun and (found := decoder.finish(True)):
        yield round(found[0].host * 1e9), found[1]


def as_cloud(points: npt.NDArray[np.void], stamp: int, frame_id: str) -> Any:
    """Returns velodyne-decoder's points as a PointCloud2. stamp: nanoseconds since 1970."""
    kinds: Any = points.dtype.fields or {}
    fields = [PointField(name, kinds[name][1], code) for name, code in _FIELDS if name in kinds]
    data = np.ascontiguousarray(points).view(np.uint8).reshape(-1)
    return cloud_of(stamp, frame_id, fields, points.dtype.itemsize, data, dense=True)


def check_packets(packets: Sequence[bytes]) -> None:
    """Raises BagError where packets are not Velodyne's: the library takes their bytes unchecked."""
    if not packets:
        raise BagError("it has no packets")
    if len(packets) > _MOST_PACKETS:
        raise BagError(f"it has {len(packets)} packets, expected those of one rotation")
    for packet in packets:
        if len(packet) != PACKET_SIZE:
            raise BagError(f"a packet has {len(packet)} bytes, expected Velodyne's {PACKET_SIZE}")
        if not all(packet[at : at + 2] in _FLAGS for at in _BLOCKS):
            raise BagError("a packet's blocks do not begin as Velodyne's do")


def _library() -> Any:
    return needed("velodyne_decoder", "'spvnas_ros[velodyne]'", "packets of a Velodyne")
