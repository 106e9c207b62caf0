"""Recordings of small clouds as the libraries of other tools write them, and what damages them."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from spvnas_ros.recordings.bags import BagReader, cloud_message, encode
from spvnas_ros.recordings.message_types import typestore
from spvnas_ros.recordings.scans import open_source

COUNT = 4
STAMP = 1_700_000_000_000_000_000
PERIOD = 100_000_000
FIELDS = [
    ("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("intensity", "u1"), ("reflectivity", "<u2"), ("ring", "<u2"),
    ("t", "<u4"),
]  # fmt: skip
POSE = ((1.0, -2.0, 0.5), (0.0, 0.0, np.sqrt(0.5), np.sqrt(0.5)))
"""Position, and a quarter turn to the left (x, y, z, w)."""


def record(number: int, fields: list[tuple[str, str]] = FIELDS, count: int = 60) -> np.ndarray:
    """Points of cloud `number`: intensities of 8 and 16 bits, and a NaN as drivers put for a missing return."""
    random = np.random.default_rng(number)
    points = np.zeros(count, fields)
    for name, kind in fields:
        kind = np.dtype(kind)
        if kind.kind == "f":
            points[name] = random.normal(0, 10, count)
        else:
            points[name] = random.integers(0, np.iinfo(kind).max, count, endpoint=True, dtype=kind)
    points["x"][number % count] = np.nan
    return points


def cdr(number: int) -> bytes:
    return encode(cloud_message(record(number), STAMP + number * PERIOD, "lidar"))


def stamps() -> list[int]:
    return [STAMP + number * PERIOD for number in range(COUNT)]


def check(path: Path, topic: str | None = None, fields: list[tuple[str, str]] = FIELDS, count: int = COUNT) -> None:
    """The clouds come out as they were written: stamps, frame, and every byte of every field."""
    with BagReader(path, topic) as reader:
        clouds = [(cloud.stamp, cloud.decode()) for cloud in reader]
        assert len(reader) == len(clouds) == count
    assert [stamp for stamp, _ in clouds] == stamps()[:count]
    with open_source(path, topic=topic) as source:
        for number, frame in enumerate(source):
            header = clouds[number][1].header
            assert (header.frame_id, header.stamp.sec * 10**9 + header.stamp.nanosec) == ("lidar", frame.stamp)
            found, expected = frame.load().record, record(number, fields)
            assert found.dtype.names == expected.dtype.names
            for name in expected.dtype.names or ():
                np.testing.assert_array_equal(found[name], expected[name])


def foxglove_protobuf(path: Path, posed: bool = False, **options: Any) -> Path:
    """As foxglove-sdk writes by itself."""
    import foxglove
    from foxglove.channels import PointCloudChannel
    from foxglove.messages import PackedElementField, PointCloud, Pose, Quaternion, Timestamp, Vector3
    from foxglove.messages import PackedElementFieldNumericType as Numeric

    kinds = {"<f4": Numeric.Float32, "u1": Numeric.Uint8, "<u2": Numeric.Uint16, "<u4": Numeric.Uint32}
    position, orientation = POSE
    pose = Pose(
        position=Vector3(**dict(zip("xyz", position, strict=True))),
        orientation=Quaternion(**dict(zip("xyzw", orientation, strict=True))),
    )
    context = foxglove.Context()
    settings = foxglove.mcap.MCAPWriteOptions(**options)
    with foxglove.open_mcap(path, context=context, writer_options=settings):
        channel = PointCloudChannel("/points", context=context)
        other = foxglove.Channel("/log", message_encoding="json", context=context)
        for number in range(COUNT):
            points, stamp = record(number), STAMP + number * PERIOD
            fields = [
                PackedElementField(name=name, offset=points.dtype.fields[name][1], type=kinds[kind])
                for name, kind in FIELDS
            ]
            message = PointCloud(
                timestamp=Timestamp(stamp // 10**9, stamp % 10**9), frame_id="lidar", pose=pose if posed else None,
                point_stride=points.dtype.itemsize, fields=fields, data=points.tobytes(),
            )  # fmt: skip
            channel.log(message, log_time=stamp)
            other.log({"number": number}, log_time=stamp)
    return path


def foxglove_json(path: Path, posed: bool = False) -> Path:
    """As foxglove-sdk writes a dictionary of foxglove's JSON schema."""
    numeric = {"<f4": 7, "u1": 1, "<u2": 3, "<u4": 5}

    def message(number: int) -> bytes:
        points, stamp = record(number), STAMP + number * PERIOD
        position, orientation = POSE if posed else ((0, 0, 0), (0, 0, 0, 1))
        fields = [
            {"name": name, "offset": points.dtype.fields[name][1], "type": numeric[kind]} for name, kind in FIELDS
        ]
        document = {
            "timestamp": {"sec": stamp // 10**9, "nsec": stamp % 10**9},
            "frame_id": "lidar",
            "pose": {
                "position": dict(zip("xyz", position, strict=True)),
                "orientation": dict(zip("xyzw", orientation, strict=True)),
            },
            "point_stride": points.dtype.itemsize,
            "fields": fields,
            "data": base64.b64encode(points.tobytes()).decode(),
        }
        return json.dumps(document).encode()

    return _foxglove(path, "json", "jsonschema", b'{"title": "foxglove.PointCloud", "type": "object"}', message)


def foxglove_flatbuffer(path: Path, posed: bool = False) -> Path:
    """As foxglove-sdk writes bytes made by foxglove's classes for flatbuffers."""
    import flatbuffers
    from foxglove_schemas_flatbuffer import PackedElementField, PointCloud, Pose, Quaternion, Time, Vector3, get_schema

    numeric = {"<f4": 7, "u1": 1, "<u2": 3, "<u4": 5}

    def message(number: int) -> bytes:
        points, stamp = record(number), STAMP + number * PERIOD
        builder = flatbuffers.Builder(0)
        fields = []
        for name, kind in FIELDS:
            text = builder.CreateString(name)
            PackedElementField.Start(builder)
            PackedElementField.AddName(builder, text)
            PackedElementField.AddOffset(builder, points.dtype.fields[name][1])
            PackedElementField.AddType(builder, numeric[kind])
            fields.append(PackedElementField.End(builder))
        PointCloud.StartFieldsVector(builder, len(fields))
        for field in reversed(fields):
            builder.PrependUOffsetTRelative(field)
        listed = builder.EndVector()
        data = builder.CreateByteVector(points.tobytes())
        frame = builder.CreateString("lidar")
        pose = 0
        if posed:
            (x, y, z), (qx, qy, qz, qw) = POSE
            Vector3.Start(builder)
            for add, value in ((Vector3.AddX, x), (Vector3.AddY, y), (Vector3.AddZ, z)):
                add(builder, value)
            place = Vector3.End(builder)
            Quaternion.Start(builder)
            for add, value in (
                (Quaternion.AddX, qx), (Quaternion.AddY, qy), (Quaternion.AddZ, qz), (Quaternion.AddW, qw),
            ):  # fmt: skip
                add(builder, value)
            turn = Quaternion.End(builder)
            Pose.Start(builder)
            Pose.AddPosition(builder, place)
            Pose.AddOrientation(builder, turn)
            pose = Pose.End(builder)
        PointCloud.Start(builder)
        PointCloud.AddTimestamp(builder, Time.CreateTime(builder, stamp // 10**9, stamp % 10**9))
        PointCloud.AddFrameId(builder, frame)
        if posed:
            PointCloud.AddPose(builder, pose)
        PointCloud.AddPointStride(builder, points.dtype.itemsize)
        PointCloud.AddFields(builder, listed)
        PointCloud.AddData(builder, data)
        builder.Finish(PointCloud.End(builder))
        return bytes(builder.Output())

    return _foxglove(path, "flatbuffer", "flatbuffer", get_schema("PointCloud"), message)


def _foxglove(path: Path, encoding: str, of_schema: str, schema: bytes, message: Callable[[int], bytes]) -> Path:
    import foxglove

    context = foxglove.Context()
    with foxglove.open_mcap(path, context=context):
        described = foxglove.Schema(name="foxglove.PointCloud", encoding=of_schema, data=schema)
        channel = foxglove.Channel("/points", schema=described, message_encoding=encoding, context=context)
        for number in range(COUNT):
            channel.log(message(number), log_time=STAMP + number * PERIOD)
    return path


def with_mcap(
    path: Path,
    messages: Iterator[tuple[str, int, bytes]],
    profile: str = "",
    schema: tuple[str, str] = ("sensor_msgs/msg/PointCloud2", "ros2msg"),
    encoding: str = "cdr",
    **options: Any,
) -> Path:
    """As the library `mcap` writes. messages: topic, stamp and bytes, in the order of the file."""
    from mcap.writer import Writer

    with path.open("wb") as file:
        writer = Writer(file, **options)
        writer.start(profile=profile, library="test")
        channels: dict[str, int] = {}
        number = writer.register_schema(schema[0], schema[1], b"")
        for topic, stamp, raw in messages:
            if topic not in channels:
                channels[topic] = writer.register_channel(topic, encoding, number)
            writer.add_message(channels[topic], stamp, raw, stamp)
        writer.finish()
    return path


def numbered(numbers: Iterator[int] | range, make: Callable[[int], bytes] = cdr) -> Iterator[tuple[str, int, bytes]]:
    """Clouds of one topic, for `with_mcap`."""
    return (("/points", STAMP + number * PERIOD, make(number)) for number in numbers)


def ros1(raw: bytes, kind: str = "sensor_msgs/msg/PointCloud2") -> bytes:
    """The bytes of a message as ROS 1 has them."""
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS1_NOETIC)

    def as_ros1(message: Any) -> Any:
        """The message in the classes of ROS 1, whose headers count."""
        if isinstance(message, list):
            return [as_ros1(each) for each in message]
        if not hasattr(message, "__msgtype__"):
            return message
        values = {name: as_ros1(getattr(message, name)) for name in message.__dataclass_fields__}
        values.pop("__msgtype__")
        values = {name: value for name, value in values.items() if not name.isupper()}
        counted = {"seq": 7} if message.__msgtype__ == "std_msgs/msg/Header" else {}
        return store.types[message.__msgtype__](**counted, **values)

    return bytes(store.serialize_ros1(as_ros1(typestore().deserialize_cdr(raw, kind)), kind))
