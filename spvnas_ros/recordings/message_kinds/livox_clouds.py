"""Decodes Livox's CustomMsg, as its drivers for ROS 1 and ROS 2 publish it. The points are read as an array."""

from __future__ import annotations

import struct
from typing import Final

import numpy as np

from spvnas_ros.clouds.point_cloud2 import Datatype, PointField
from spvnas_ros.recordings.containers.container import BagError
from spvnas_ros.recordings.message_kinds.decoded import DecodedCloud, cloud_of
from spvnas_ros.recordings.message_types import LIVOX_TYPES

TYPES: Final = LIVOX_TYPES

_FIELDS: Final = (
    PointField("offset_time", 0, Datatype.UINT32),
    PointField("x", 4, Datatype.FLOAT32),
    PointField("y", 8, Datatype.FLOAT32),
    PointField("z", 12, Datatype.FLOAT32),
    PointField("reflectivity", 16, Datatype.UINT8),
    PointField("tag", 17, Datatype.UINT8),
    PointField("line", 18, Datatype.UINT8),
)
_STEP: Final = 19
"""Bytes of a point without padding, as ROS 1 has it."""
_PADDED: Final = 20
"""Bytes from point to point in CDR; the last one has no padding."""
_HEAD: Final = 8 + 4 + 1 + 3 + 4
"""Bytes of timebase, point_num, lidar_id, rsvd and the length of the list."""


def from_cdr(raw: bytes) -> DecodedCloud:
    """Decodes the message of ROS 2. Raises BagError for other bytes."""
    if len(raw) < 4 or raw[0] or raw[1] > 1:
        raise BagError("it does not begin as a message in CDR does")
    order = "<" if raw[1] else ">"
    body = memoryview(raw)[4:]  # alignment counts from here
    seconds, nanoseconds, length = _unpack(f"{order}iII", body, 0)
    frame = _text(body, 12, length)
    at = -(-(12 + length) // 8) * 8  # timebase has 8 bytes
    return _decoded(body, at, order, seconds * 10**9 + nanoseconds, frame.removesuffix("\0"), _PADDED)


def from_ros1(raw: bytes) -> DecodedCloud:
    """Decodes the message of ROS 1. Raises BagError for other bytes."""
    body = memoryview(raw)
    _, seconds, nanoseconds, length = _unpack("<IIII", body, 0)
    frame = _text(body, 16, length)
    return _decoded(body, 16 + length, "<", seconds * 10**9 + nanoseconds, frame, _STEP)


def _decoded(body: memoryview, at: int, order: str, stamp: int, frame_id: str, padded: int) -> DecodedCloud:
    (count,) = _unpack(f"{order}I", body, at + _HEAD - 4)
    start = at + _HEAD
    needed = count * padded - (padded - _STEP) if count else 0
    if start + needed > len(body):
        raise BagError(f"it announces {count} points and has {max(len(body) - start, 0)} bytes for them, not {needed}")
    data = np.zeros(count * padded, np.uint8)
    data[:needed] = np.frombuffer(body, np.uint8, needed, start)
    points = data.reshape(count, padded)[:, :_STEP]
    if order == ">":
        for column in range(0, 16, 4):
            points[:, column : column + 4] = points[:, column : column + 4][:, ::-1].copy()
    return DecodedCloud(cloud_of(stamp, frame_id, _FIELDS, _STEP, np.ascontiguousarray(points).reshape(-1)))


def _unpack(form: str, body: memoryview, at: int) -> tuple[int, ...]:
    if at + struct.calcsize(form) > len(body):
        raise BagError(f"it has only {len(body)} bytes")
    return struct.unpack_from(form, body, at)


def _text(body: memoryview, at: int, length: int) -> str:
    if at + length > len(body):
        raise BagError(f"its frame id announces {length} bytes, and {len(body) - at} are left")
    return bytes(body[at : at + length]).decode("utf-8", "replace")
