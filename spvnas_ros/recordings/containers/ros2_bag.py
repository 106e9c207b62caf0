"""Reads rosbag2 folders and sqlite3 files by rosbags; the files of a split bag are merged by time."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterator, Sequence
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from rosbags.rosbag2 import Reader

from spvnas_ros.recordings.containers.container import Channel, Recorded, ros_type
from spvnas_ros.recordings.containers.unpacked import plain

if TYPE_CHECKING:
    from rosbags.interfaces import Connection, ConnectionExtRosbag2


class Ros2Bag:
    """A rosbag2 folder with its metadata.yaml, or a .db3 file, that is open; a `Container`.

    A file out of a bag that was compressed by message holds zstd frames, which are decompressed.
    """

    remarks: tuple[str, ...] = ()

    def __init__(self, path: Path) -> None:
        self._reader = Reader(path)
        self._reader.open()
        self._connections = dict(enumerate(self._reader.connections))
        self.channels = [_channel(number, each) for number, each in self._connections.items()]
        files = path.iterdir() if path.is_dir() else (path,)
        # The files of a compressed bag end in .mcap.zstd.
        self.storage = "mcap" if any(".mcap" in file.suffixes for file in files) else "sqlite3"
        # The files know better than metadata.yaml, which a recorder writes before its last file ends.
        parts = [each.metadata for each in self._parts() or (self._reader.storage,)]
        times = [(each.start_time, each.end_time - 1) for each in parts if each.message_count]
        self.span = (min(first for first, _ in times), max(last for _, last in times)) if times else (0, 0)

    def messages(self, channels: Collection[Channel], since: int | None = None) -> Iterator[Recorded]:
        """Yields messages, as `Container.messages` does."""
        known = {id(self._connections[each.number]): each for each in channels}
        wanted = [self._connections[each.number] for each in channels]
        for connection, stamp, raw in heapq.merge(*self._files(wanted, since), key=lambda message: message[1]):
            yield known[id(connection)], stamp, plain(bytes(raw))

    def _parts(self) -> Sequence[Any]:
        """Returns rosbags' readers of the files of a folder; none for a file by itself."""
        return getattr(self._reader.storage, "storages", ())

    def _files(self, wanted: list[Connection], since: int | None) -> list[Iterator[tuple[Connection, int, bytes]]]:
        """Returns the messages of each file: within one they come by time, but rosbags chains the files."""
        storage, parts = self._reader.storage, self._parts()
        if len(parts) < 2:
            return [self._reader.messages(wanted, start=since)]
        alone: list[Iterator[tuple[Connection, int, bytes]]] = []
        for part in parts:
            one = copy(storage)
            one.storages = [part]  # type: ignore[attr-defined]  # of its DirectoryReader
            alone.append(one.messages(wanted, since, None))
        return alone

    def close(self) -> None:
        """Closes the files."""
        self._reader.close()


def _channel(number: int, connection: Connection) -> Channel:
    encoding = cast("ConnectionExtRosbag2", connection.ext).serialization_format or "cdr"
    return Channel(connection.topic, ros_type(connection.msgtype), encoding, connection.msgcount, number)
