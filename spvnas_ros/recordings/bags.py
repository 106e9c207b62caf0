"""rosbag2 recordings (sqlite3 and mcap) without ROS: clouds out of a bag, messages into a new one."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt
from rosbags.rosbag2 import Reader, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from rosbags.typesys.stores.ros2_humble import builtin_interfaces__msg__Time as Time
from rosbags.typesys.stores.ros2_humble import sensor_msgs__msg__PointCloud2 as PointCloud2
from rosbags.typesys.stores.ros2_humble import sensor_msgs__msg__PointField as PointFieldMessage
from rosbags.typesys.stores.ros2_humble import std_msgs__msg__Header as Header

from spvnas_ros.clouds.point_cloud2 import Datatype, with_labels
from spvnas_ros.frame import Segmentation

if TYPE_CHECKING:
    from rosbags.interfaces import Connection
    from rosbags.typesys.store import Typestore
    from typing_extensions import Self

CLOUD_TYPE = "sensor_msgs/msg/PointCloud2"
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
_METADATA = "metadata.yaml"
_BAG_VERSION: Final = 8
"""Of metadata.yaml: the newest that writes QoS profiles the way ROS 2 Humble reads them."""


class BagError(ValueError):
    """A bag that cannot be read or written. Says what was found, what was expected and what to do."""


@dataclass(frozen=True)
class RecordedCloud:
    """A PointCloud2 as recorded.

    stamp: when it was recorded, nanoseconds since 1970
    raw:   the serialised message (CDR)
    """

    stamp: int
    raw: bytes

    def decode(self) -> PointCloud2:
        """The message. Raises BagError where the bytes are not one."""
        with _named("a recorded message is damaged"):
            message = _typestore().deserialize_cdr(self.raw, CLOUD_TYPE)
        assert isinstance(message, PointCloud2)
        return message


def encode(message: PointCloud2) -> bytes:
    """Serialise a cloud (CDR), as a bag or a ROS publisher takes it."""
    return bytes(_typestore().serialize_cdr(message, CLOUD_TYPE))


def cloud_message(points: npt.NDArray[np.void], stamp: int, frame_id: str) -> PointCloud2:
    """A structured array `[N]` of single numbers as a PointCloud2 of one row, byte for byte.

    stamp: of the header, nanoseconds since 1970

    Raises BagError for a field that a PointCloud2 cannot hold.
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
    """The labelled cloud as a message: the input's header and fields, `label` and `confidence` behind them.

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
    """The clouds of one topic of a bag, in order of recording. A context manager; iterate as often as you like.

    path:  a rosbag2 folder (with its metadata.yaml), or an .mcap or .db3 file by itself
    topic: which PointCloud2 topic; None where there is only one

    Attributes: `topic`, and `storage` ("sqlite3" or "mcap"). `len` is the number of clouds.
    Raises BagError for a bag that cannot be read, and where the topic must be named or is not there.
    """

    def __init__(self, path: str | Path, topic: str | None = None) -> None:
        self.path = Path(path)
        with _named(f"{self.path} cannot be read as a rosbag2"):
            self._reader = Reader(self.path)
            self._reader.open()
        try:
            self.topic = _choose_topic(self.path, self._reader.connections, topic)
            self._connections = [c for c in self._reader.connections if c.topic == self.topic]
        except BaseException:
            self._reader.close()
            raise
        files = self.path.iterdir() if self.path.is_dir() else (self.path,)
        # A compressed bag's files end in .mcap.zstd.
        self.storage = "mcap" if any(".mcap" in file.suffixes for file in files) else "sqlite3"

    def __len__(self) -> int:
        return sum(c.msgcount for c in self._connections)

    def __iter__(self) -> Iterator[RecordedCloud]:
        """Raises BagError where the bag turns out to be damaged on the way."""
        return self.since(None)

    def since(self, stamp: int | None) -> Iterator[RecordedCloud]:
        """The clouds recorded at `stamp` (nanoseconds since 1970) or later, without reading earlier ones; None = all.

        Raises BagError where the bag turns out to be damaged on the way.
        """
        messages = self._reader.messages(self._connections, start=stamp)
        while True:
            with _named(f"{self.path} is damaged"):
                message = next(messages, None)
            if message is None:
                return
            yield RecordedCloud(message[1], bytes(message[2]))

    def close(self) -> None:
        """Close the bag's files."""
        self._reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class BagWriter:
    """A new bag, which appears under its name when it is closed: whole, or not at all.

    path:    the new bag's folder
    storage: "sqlite3" or "mcap"
    force:   replace a bag of that name

    As a context manager it is closed at the end of the block, and abandoned without a trace where the block raises.
    Raises BagError where `path` is taken, or cannot be written.
    """

    def __init__(self, path: str | Path, storage: str = "sqlite3", *, force: bool = False) -> None:
        if storage not in STORAGES:
            raise BagError(f"storage is {storage!r}, expected one of {', '.join(STORAGES)}")
        self.path = Path(path).absolute()
        self._force = force
        check_free(self.path, force=force)
        self._connections: dict[str, Connection] = {}
        # The files inside a bag have its name, so the temporary folder is around it.
        self._temporary = self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}.part")
        with _named(f"{self.path} cannot be written"), ExitStack() as undo:
            undo.callback(shutil.rmtree, self._temporary, ignore_errors=True)
            self._temporary.mkdir(parents=True)
            self._writer = Writer(
                self._temporary / self.path.name, version=_BAG_VERSION, storage_plugin=STORAGES[storage]
            )
            self._writer.open()
            undo.pop_all()

    def write(self, topic: str, raw: bytes, stamp: int, msgtype: str = CLOUD_TYPE) -> None:
        """Append a serialised message (CDR), recorded at `stamp` nanoseconds since 1970.

        Raises BagError where it cannot be written, or where the type is not one of ROS 2's own.
        """
        with _named(f"{self.path} cannot be written"):
            if topic not in self._connections:
                self._connections[topic] = self._writer.add_connection(topic, msgtype, typestore=_typestore())
            self._writer.write(self._connections[topic], stamp, raw)

    def close(self) -> None:
        """Finish the bag and give it its name. What `force` replaces lives until then."""
        with _named(f"{self.path} cannot be written"):
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
        """Give up: nothing stays on disk."""
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
    """Raises BagError where a bag cannot get the name `path`. Only a bag is ever replaced, and only with `force`."""
    if not path.exists():
        return
    if not (path / _METADATA).is_file():
        raise BagError(f"{path} exists and is not a bag, so it stays; choose another name")
    if not force:
        raise BagError(f"{path} exists already; choose another name, or replace it with force (--force)")


def _choose_topic(path: Path, connections: list[Connection], wanted: str | None) -> str:
    counts: dict[str, int] = {}
    for connection in connections:
        if connection.msgtype == CLOUD_TYPE:
            counts[connection.topic] = counts.get(connection.topic, 0) + connection.msgcount
    if not counts:
        found = ", ".join(sorted(f"{c.topic} ({c.msgtype})" for c in connections)) or "no topics"
        raise BagError(f"{path} has no topic of type {CLOUD_TYPE}; found {found}")
    listed = ", ".join(f"{topic} ({count} clouds)" for topic, count in sorted(counts.items()))
    if wanted is None:
        if len(counts) > 1:
            raise BagError(f"{path} has several cloud topics, name one with --topic: {listed}")
        return next(iter(counts))
    topic = "/" + wanted.lstrip("/")
    if topic not in counts:
        raise BagError(f"{path} has no cloud topic {topic}; found {listed}")
    return topic


@cache
def _typestore() -> Typestore:
    # PointCloud2 and the other common types are the same in every distribution since.
    return get_typestore(Stores.ROS2_HUMBLE)


@contextmanager
def _named(what: str) -> Iterator[None]:
    """Turn whatever rosbags and the storage below it raise on bad bytes (a dozen types) into a BagError."""
    try:
        yield
    except BagError:
        raise
    except Exception as error:
        raise BagError(f"{what}: {str(error) or type(error).__name__}") from error
