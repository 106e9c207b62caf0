"""Reads clouds from recordings of any container and kind of message, and writes rosbag2 folders, without ROS."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys.stores.ros2_humble import builtin_interfaces__msg__Time as Time
from rosbags.typesys.stores.ros2_humble import sensor_msgs__msg__PointCloud2 as PointCloud2
from rosbags.typesys.stores.ros2_humble import sensor_msgs__msg__PointField as PointFieldMessage
from rosbags.typesys.stores.ros2_humble import std_msgs__msg__Header as Header

from spvnas_ros.clouds.point_cloud2 import Datatype, with_labels
from spvnas_ros.frame import Segmentation
from spvnas_ros.recordings.containers.container import BagError, Channel, named
from spvnas_ros.recordings.containers.kind_of_file import METADATA
from spvnas_ros.recordings.containers.open_container import open_container
from spvnas_ros.recordings.message_kinds.decoded import DecodedCloud, Decoder
from spvnas_ros.recordings.message_kinds.kinds import CLOUD_TYPE, TYPES, decode_cdr, decoder_of, holds_clouds
from spvnas_ros.recordings.message_types import typestore
from spvnas_ros.recordings.packets.ouster_bags import WithClouds, has_ouster_packets, ouster_clouds

if TYPE_CHECKING:
    from rosbags.interfaces import Connection
    from typing_extensions import Self

__all__ = [
    "CLOUD_TYPE",
    "LABELLED_TOPIC",
    "STORAGES",
    "BagError",
    "BagReader",
    "BagWriter",
    "PointCloud2",
    "RecordedCloud",
    "check_free",
    "cloud_message",
    "encode",
    "labelled_message",
    "named",
]

LABELLED_TOPIC = "/segmenter/output/labeled_points"
STORAGES = {"sqlite3": StoragePlugin.SQLITE3, "mcap": StoragePlugin.MCAP}

_DATATYPES = {
    "|i1": Datatype.INT8,
    "|u1": Datatype.UINT8,
    "<i2": Datatype.INT16,
    "<u2": Datatype.UINT16,
    "<i4": Datatype.INT32,
    "<u4": Datatype.UINT32,
    "<f4": Datatype.FLOAT32,
    "<f8": Datatype.FLOAT64,
}
_BAG_VERSION: Final = 8
"""The version in metadata.yaml: the newest whose QoS profiles ROS 2 Humble can read."""


@dataclass(frozen=True)
class RecordedCloud:
    """A cloud as it was recorded.

    stamp:   time of recording, nanoseconds since 1970
    raw:     the serialised message
    decoder: of its kind of message; PointCloud2 in CDR where nothing else is said
    """

    stamp: int
    raw: bytes
    decoder: Decoder = decode_cdr

    def unpack(self) -> DecodedCloud:
        """Returns the cloud and its pose. Raises BagError where the bytes are not such a message."""
        with named("a recorded message is damaged"):
            return self.decoder(self.raw)

    def decode(self) -> PointCloud2:
        """Returns the cloud as PointCloud2, coordinates as recorded. Raises BagError as `unpack` does."""
        return self.unpack().message

    @property
    def cdr(self) -> bytes:
        """The cloud as a PointCloud2 in CDR, as ROS 2 publishes it: the very bytes where they are one.

        Raises BagError as `unpack` does.
        """
        return self.raw if self.decoder is decode_cdr else encode(self.decode())


def encode(message: PointCloud2) -> bytes:
    """Serialises a cloud (CDR). The bytes are what a bag or a ROS publisher takes."""
    return bytes(typestore().serialize_cdr(message, CLOUD_TYPE))


def cloud_message(points: npt.NDArray[np.void], stamp: int, frame_id: str) -> PointCloud2:
    """Returns a structured array `[N]`, whose fields are single numbers, as a PointCloud2 of one row. No byte changes.

    stamp: the stamp of the header, nanoseconds since 1970

    Raises BagError for a field type that a PointCloud2 cannot hold.
    """
    fields = []
    for name, (kind, offset, *_) in (points.dtype.fields or {}).items():
        if kind.str not in _DATATYPES:
            raise BagError(f"field {name!r} is {kind.str}, expected one of {', '.join(_DATATYPES)}")
        fields.append(PointFieldMessage(name, offset, int(_DATATYPES[kind.str]), 1))
    step = points.dtype.itemsize
    data = np.ascontiguousarray(points).view(np.uint8)
    header = Header(Time(stamp // 10**9, stamp % 10**9), frame_id)
    return PointCloud2(header, 1, len(points), fields, False, step, step * len(points), data, is_dense=True)


def labelled_message(cloud: PointCloud2, segmentation: Segmentation) -> PointCloud2:
    """Returns the labelled cloud as a message: the input's header and fields, followed by `label` and `confidence`.

    Raises PointCloudError for a malformed cloud.
    """
    layout = with_labels(cloud, segmentation)
    return PointCloud2(
        header=cloud.header,
        height=layout.height,
        width=layout.width,
        fields=[PointFieldMessage(f.name, f.offset, int(f.datatype), f.count) for f in layout.fields],
        is_bigendian=layout.is_bigendian,
        point_step=layout.point_step,
        row_step=layout.row_step,
        data=layout.data,
        is_dense=cloud.is_dense,
    )


class BagReader:
    """Reads the clouds of one topic of a bag, in order of recording. It can be iterated several times.

    It is a context manager, which closes the bag. `len` is the number of clouds.

    path:  a rosbag2 folder, a folder of bag files, or one file: .mcap, .db3, .bag, .pcap, .pcapng or .osf
    topic: the topic of the clouds; None where the bag has only one, or only one of PointCloud2

    Attributes:
        topic:   the topic that is read
        storage: "sqlite3" or "mcap": what a bag of the results is stored in
        remarks: what the user should know of the recording, such as where it was cut off, a sentence each

    Raises BagError for a bag that cannot be read, for an unknown topic, and for None where the bag has several topics.
    Raises MissingLibraryError where a library for its kind of message is missing.
    """

    def __init__(self, path: str | Path, topic: str | None = None) -> None:
        self.path = Path(path)
        self._container = open_container(self.path)
        try:
            if has_ouster_packets(self._container) and not _has(self._container.channels, topic):
                self._container = WithClouds(self._container, ouster_clouds(str(self.path), self._container))
            self.topic = _choose_topic(self.path, self._container.channels, topic)
            self._channels = [c for c in self._container.channels if c.topic == self.topic and holds_clouds(c)]
            self._decoders = {each.number: decoder_of(each) for each in self._channels}
        except BaseException:
            self._container.close()
            raise
        self.storage, self.remarks = self._container.storage, self._container.remarks

    def __len__(self) -> int:
        return sum(c.count for c in self._channels)

    def __iter__(self) -> Iterator[RecordedCloud]:
        """Yields all clouds. Raises BagError where the bag is damaged further on."""
        return self.since(None)

    @property
    def span(self) -> tuple[int, int]:
        """The first and the last time of recording, nanoseconds since 1970."""
        return self._container.span

    @property
    def type(self) -> str:
        """The ROS type of the messages where all are of one, in CDR as ROS 2 sends them; else ""."""
        kinds = {(channel.type, channel.encoding) for channel in self._channels}
        return next(iter(kinds))[0] if len(kinds) == 1 and all(encoding == "cdr" for _, encoding in kinds) else ""

    def since(self, stamp: int | None) -> Iterator[RecordedCloud]:
        """Yields the clouds recorded at `stamp` (nanoseconds since 1970) or later, without reading the earlier ones.

        None yields all clouds. Raises BagError where the bag is damaged further on.
        """
        messages = iter(self._container.messages(self._channels, stamp))
        while True:
            with named(f"{self.path} is damaged"):
                message = next(messages, None)
            if message is None:
                return
            channel, time, raw = message
            yield RecordedCloud(time, raw, self._decoders[channel.number])

    def close(self) -> None:
        """Closes the files of the bag."""
        self._container.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class BagWriter:
    """Writes a new bag. The bag appears under its name when it is closed, whole or not at all.

    It is a context manager. The end of the block closes the bag; a block that raises leaves nothing on disk.

    path:    the folder of the new bag
    storage: "sqlite3" or "mcap"
    force:   replaces a bag that has this name

    Raises BagError where `storage` is unknown, or where `path` is taken or cannot be written.
    """

    def __init__(self, path: str | Path, storage: str = "sqlite3", *, force: bool = False) -> None:
        if storage not in STORAGES:
            raise BagError(f"storage is {storage!r}, expected one of {', '.join(STORAGES)}")
        self.path = Path(path).absolute()
        self._force = force
        check_free(self.path, force=force)
        self._connections: dict[str, Connection] = {}
        # The files inside a bag carry the bag's name, so the bag lies inside a temporary folder with its final name.
        self._temporary = self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}.part")
        with named(f"{self.path} cannot be written"), ExitStack() as undo:
            undo.callback(shutil.rmtree, self._temporary, ignore_errors=True)
            self._temporary.mkdir(parents=True)
            self._writer = Writer(
                self._temporary / self.path.name, version=_BAG_VERSION, storage_plugin=STORAGES[storage]
            )
            self._writer.open()
            undo.pop_all()

    def write(self, topic: str, raw: bytes, stamp: int, msgtype: str = CLOUD_TYPE) -> None:
        """Appends a serialised message (CDR), recorded at `stamp` nanoseconds since 1970.

        Raises BagError where the bag cannot be written, or where the type is none of `message_types`.
        """
        with named(f"{self.path} cannot be written"):
            if topic not in self._connections:
                self._connections[topic] = self._writer.add_connection(topic, msgtype, typestore=typestore())
            self._writer.write(self._connections[topic], stamp, raw)

    def close(self) -> None:
        """Finishes the bag and gives it its name. A bag that `force` replaces stays in place until then."""
        with named(f"{self.path} cannot be written"):
            try:
                self._writer.close()
                check_free(self.path, force=self._force)
                self._take_place()
            finally:
                shutil.rmtree(self._temporary, ignore_errors=True)

    def _take_place(self) -> None:
        replaced = self._temporary / "replaced"
        if self.path.exists():
            self.path.rename(replaced)
        try:
            (self._temporary / self.path.name).rename(self.path)
        except OSError:
            if replaced.exists():
                replaced.rename(self.path)
            raise

    def abort(self) -> None:
        """Abandons the bag and deletes its files."""
        self._writer.abort()
        shutil.rmtree(self._temporary, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: object, __: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()


def check_free(path: Path, *, force: bool) -> None:
    """Raises BagError where a bag cannot be written to `path`. Only a bag may be replaced, and only with `force`."""
    if not path.exists():
        return
    if not (path / METADATA).is_file():
        raise BagError(f"{path} exists and is not a bag, so it stays; choose another name")
    if not force:
        raise BagError(f"{path} exists already; choose another name, or replace it with force (--force)")


def _has(channels: Sequence[Channel], topic: str | None) -> bool:
    """Whether a topic has clouds, or any where it is None."""
    found = [channel.topic.lstrip("/") for channel in channels if holds_clouds(channel)]
    return bool(found) if topic is None else topic.lstrip("/") in found


def _choose_topic(path: Path, channels: Sequence[Channel], wanted: str | None) -> str:
    counts: dict[str, int] = {}
    for channel in channels:
        if holds_clouds(channel):
            counts[channel.topic] = counts.get(channel.topic, 0) + channel.count
    if not counts:
        found = ", ".join(sorted({f"{c.topic} ({c.type or 'no type'})" for c in channels})) or "no topics"
        raise BagError(f"{path} has no topic of type {', '.join(TYPES)}; found {found}")
    listed = ", ".join(f"{topic} ({count} clouds)" for topic, count in sorted(counts.items()))
    if wanted is None:
        # A driver's packets or compressed clouds are often recorded beside the clouds themselves.
        plain = {channel.topic for channel in channels if channel.type == CLOUD_TYPE}
        topics = sorted(plain or counts)
        if len(topics) > 1:
            raise BagError(f"{path} has several cloud topics, name one with --topic: {listed}")
        return topics[0]
    topic = next((name for name in (wanted, "/" + wanted.lstrip("/")) if name in counts), None)
    if topic is None:
        raise BagError(f"{path} has no cloud topic /{wanted.lstrip('/')}; found {listed}")
    return topic
