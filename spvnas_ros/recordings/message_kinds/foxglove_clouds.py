"""Decodes foxglove.PointCloud in the three encodings that Foxglove's tools write: protobuf, JSON and flatbuffers."""

from __future__ import annotations

import base64
import binascii
import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from spvnas_ros.clouds.point_cloud2 import FORMATS, Datatype, PointField
from spvnas_ros.recordings.containers.container import BagError
from spvnas_ros.recordings.message_kinds.decoded import DecodedCloud, Decoder, cloud_of, needed

_TYPES: Final = {
    1: Datatype.UINT8,
    2: Datatype.INT8,
    3: Datatype.UINT16,
    4: Datatype.INT16,
    5: Datatype.UINT32,
    6: Datatype.INT32,
    7: Datatype.FLOAT32,
    8: Datatype.FLOAT64,
}
"""Numbers of PackedElementField.NumericType; they are not those of PointField."""

_LIBRARY: Final = "'spvnas_ros[foxglove]'"
_UNIT_WITHIN: Final = 1e-3
"""How far the length of an orientation may be from 1."""
_MOST_FIELDS: Final = 1000


@dataclass(frozen=True)
class _Cloud:
    """The message, whatever encoded it. Position x, y, z in metres, orientation x, y, z, w; None where it has none."""

    stamp: int
    frame_id: str
    stride: int
    fields: Sequence[tuple[str, int, int]]
    data: npt.NDArray[np.uint8]
    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None


def from_protobuf() -> Decoder:
    """Returns the decoder of protobuf messages. Raises MissingLibraryError."""
    kind = _protobuf_class()

    def decode(raw: bytes) -> DecodedCloud:
        message = kind.FromString(raw)
        pose = message.pose if message.HasField("pose") else None
        return _decoded(
            _Cloud(
                message.timestamp.seconds * 10**9 + message.timestamp.nanos,
                message.frame_id,
                message.point_stride,
                [(each.name, each.offset, each.type) for each in message.fields],
                np.frombuffer(message.data, np.uint8),
                pose and (pose.position.x, pose.position.y, pose.position.z),
                pose and (pose.orientation.x, pose.orientation.y, pose.orientation.z, pose.orientation.w),
            )
        )

    return decode


def from_json() -> Decoder:
    """Returns the decoder of JSON messages."""

    def decode(raw: bytes) -> DecodedCloud:
        message = json.loads(raw)
        stamp, pose = message["timestamp"], message.get("pose") or {}
        try:
            data = np.frombuffer(base64.b64decode(message["data"], validate=True), np.uint8)
        except (binascii.Error, TypeError) as error:
            raise BagError(f"its data is not base64: {error}") from error
        position, orientation = pose.get("position"), pose.get("orientation")
        return _decoded(
            _Cloud(
                int(stamp["sec"]) * 10**9 + int(stamp["nsec"]),
                str(message.get("frame_id", "")),
                int(message["point_stride"]),
                [(str(each["name"]), int(each["offset"]), int(each["type"])) for each in message["fields"]],
                data,
                position and tuple(float(position[axis]) for axis in "xyz"),
                orientation and tuple(float(orientation[axis]) for axis in "xyzw"),
            )
        )

    return decode


def from_flatbuffer() -> Decoder:
    """Returns the decoder of flatbuffers. Raises MissingLibraryError."""
    table = needed("flatbuffers.table", _LIBRARY, "foxglove.PointCloud messages in flatbuffers").Table

    def decode(raw: bytes) -> DecodedCloud:
        root = _Table(table, raw, struct.unpack_from("<I", raw)[0])
        pose = root.table(2)
        position, orientation = (pose.table(0), pose.table(1)) if pose else (None, None)
        fields = [(each.text(0), each.number("<I", 1), each.number("<B", 2)) for each in root.tables(4)]
        return _decoded(
            _Cloud(
                root.time(0),
                root.text(1),
                root.number("<I", 3),
                fields,
                root.bytes(5),
                position.numbers(3) if position else None,
                orientation.numbers(4) if orientation else None,
            )
        )

    return decode


class _Table:
    """A table of a flatbuffer. `flatbuffers` follows offsets unchecked, so that each is checked here.

    Its slots are numbered as the fields of foxglove's schemas are.
    """

    def __init__(self, table: Any, raw: bytes, place: int) -> None:
        self._kind, self._raw, self._table = table, raw, table(raw, place)
        self._within(place, 4)
        start = place - struct.unpack_from("<i", raw, place)[0]
        self._within(start, 4)
        self._within(start, struct.unpack_from("<H", raw, start)[0])

    def _within(self, place: int, size: int) -> None:
        if not 0 <= place <= len(self._raw) - size:
            raise BagError(f"an offset of the flatbuffer leads to byte {place} of {len(self._raw)}")

    def _place(self, slot: int) -> int:
        offset = self._table.Offset(4 + 2 * slot)
        return int(offset and self._table.Pos + offset)

    def numbers(self, count: int) -> tuple[float, ...]:
        """Returns x, y, z, w; an axis that is left out is 0, and w 1, as the schema says."""
        return tuple(float(self.number("<d", slot, float(slot == 3))) for slot in range(count))

    def number(self, form: str, slot: int, default: float = 0) -> Any:
        place = self._place(slot)
        if not place:
            return default
        self._within(place, struct.calcsize(form))
        return struct.unpack_from(form, self._raw, place)[0]

    def time(self, slot: int) -> int:
        place = self._place(slot)
        if not place:
            return 0
        self._within(place, 8)
        seconds, nanoseconds = struct.unpack_from("<II", self._raw, place)
        return int(seconds) * 10**9 + int(nanoseconds)

    def _vector(self, slot: int, size: int) -> tuple[int, int]:
        """Returns where the elements of a vector begin, and their number."""
        place = self._place(slot)
        if not place:
            return 0, 0
        self._within(place, 4)
        place += struct.unpack_from("<I", self._raw, place)[0]
        self._within(place, 4)
        count = struct.unpack_from("<I", self._raw, place)[0]
        self._within(place + 4, size * count)
        return place + 4, count

    def bytes(self, slot: int) -> npt.NDArray[np.uint8]:
        start, count = self._vector(slot, 1)
        return np.frombuffer(self._raw, np.uint8, count, start) if count else np.empty(0, np.uint8)

    def text(self, slot: int) -> str:
        return self.bytes(slot).tobytes().decode()

    def table(self, slot: int) -> _Table | None:
        place = self._place(slot)
        if not place:
            return None
        self._within(place, 4)
        return _Table(self._kind, self._raw, place + struct.unpack_from("<I", self._raw, place)[0])

    def tables(self, slot: int) -> list[_Table]:
        start, count = self._vector(slot, 4)
        if count > _MOST_FIELDS:
            raise BagError(f"it has {count} fields, expected at most {_MOST_FIELDS}")
        places = range(start, start + 4 * count, 4)
        return [_Table(self._kind, self._raw, at + struct.unpack_from("<I", self._raw, at)[0]) for at in places]


def _decoded(cloud: _Cloud) -> DecodedCloud:
    fields = []
    for name, offset, kind in cloud.fields:
        if kind not in _TYPES:
            raise BagError(f"field {name!r} is of type {kind}, expected 1 (UINT8) to 8 (FLOAT64)")
        if not 0 <= offset <= cloud.stride - int(FORMATS[_TYPES[kind]][1:]):
            raise BagError(f"field {name!r} at byte {offset} ends behind a point of {cloud.stride} bytes")
        fields.append(PointField(name, offset, _TYPES[kind]))
    message = cloud_of(cloud.stamp, cloud.frame_id, fields, cloud.stride, cloud.data)
    return DecodedCloud(message, _pose(cloud.position or (0, 0, 0), cloud.orientation or (0, 0, 0, 1)))


def _pose(position: Sequence[float], orientation: Sequence[float]) -> npt.NDArray[np.float64] | None:
    """Returns the pose as a matrix, None where it moves nothing. An orientation of zeros is taken for none."""
    place, turn = np.array(position, np.float64), np.array(orientation, np.float64)
    length = float(np.linalg.norm(turn))
    if length == 0:
        turn, length = np.array([0.0, 0, 0, 1]), 1.0
    if not (np.isfinite(place).all() and abs(length - 1) < _UNIT_WITHIN):
        raise BagError(f"its pose has the position {place.tolist()} and the orientation {turn.tolist()} (x, y, z, w), "
                       "expected finite numbers and a length of 1")  # fmt: skip
    x, y, z, w = turn / length
    if not place.any() and not (x or y or z):
        return None
    matrix = np.eye(4)
    matrix[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    matrix[:3, 3] = place
    return matrix


@cache
def _protobuf_class() -> Any:
    """Returns the class of foxglove.PointCloud, field numbers as in foxglove's schema. It is not taken from the
    recording: a schema there may be cut off, or be written to mislead.
    """
    what = "foxglove.PointCloud messages in protobuf"
    descriptor = needed("google.protobuf.descriptor_pb2", _LIBRARY, what)
    pools = needed("google.protobuf.descriptor_pool", _LIBRARY, what)
    factory = needed("google.protobuf.message_factory", _LIBRARY, what)
    kinds = descriptor.FieldDescriptorProto
    text, number, fixed, double = kinds.TYPE_STRING, kinds.TYPE_INT32, kinds.TYPE_FIXED32, kinds.TYPE_DOUBLE
    layouts: dict[str, list[tuple[str, Any]]] = {
        "Time": [("seconds", kinds.TYPE_INT64), ("nanos", number)],
        "Vector": [(axis, double) for axis in "xyz"],
        "Quaternion": [(axis, double) for axis in "xyzw"],
        "Pose": [("position", "Vector"), ("orientation", "Quaternion")],
        "Field": [("name", text), ("offset", fixed), ("type", number)],
        "Cloud": [("timestamp", "Time"), ("frame_id", text), ("pose", "Pose"), ("point_stride", fixed),
                  ("fields", "Field"), ("data", kinds.TYPE_BYTES)],
    }  # fmt: skip
    file = descriptor.FileDescriptorProto(name="cloud.proto", package="spvnas", syntax="proto3")
    for name, fields in layouts.items():
        message = file.message_type.add(name=name)
        for position, (field, kind) in enumerate(fields, 1):
            label = kinds.LABEL_REPEATED if field == "fields" else kinds.LABEL_OPTIONAL
            entry = message.field.add(name=field, number=position, label=label)
            if isinstance(kind, str):
                entry.type, entry.type_name = kinds.TYPE_MESSAGE, f".spvnas.{kind}"
            else:
                entry.type = kind
    pool = pools.DescriptorPool()
    pool.Add(file)
    return factory.GetMessageClass(pool.FindMessageTypeByName("spvnas.Cloud"))
