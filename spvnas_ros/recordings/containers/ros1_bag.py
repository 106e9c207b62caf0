"""Reads ROS 1 bags by rosbags."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import cast

from rosbags.rosbag1 import Reader, ReaderError

from spvnas_ros.recordings.containers.bounded import BoundedPath
from spvnas_ros.recordings.containers.container import BagError, Channel, Recorded, ros_type


class Ros1Bag:
    """A ROS 1 bag (version 2.0; chunks plain, bz2 or lz4) that is open; a `Container`.

    Raises BagError for one without an index, and whatever rosbags raises for a damaged one.
    """

    storage = "sqlite3"
    remarks: tuple[str, ...] = ()

    def __init__(self, path: Path) -> None:
        self._reader = Reader(cast(Path, BoundedPath(path)))
        try:
            self._reader.open()
        except ReaderError as error:
            if "not indexed" in str(error):
                raise BagError(
                    f"{path} is a ROS 1 bag without an index: its recording was not ended. Restore it by ROS 1's "
                    f"command: rosbag reindex {path}"
                ) from error
            raise
        self._connections = {each.id: each for each in self._reader.connections}
        self.channels = [
            Channel(each.topic, ros_type(each.msgtype), "ros1", each.msgcount, each.id)
            for each in self._reader.connections
        ]
        filled = any(each.count for each in self.channels)
        self.span = (self._reader.start_time, self._reader.end_time - 1) if filled else (0, 0)

    def messages(self, channels: Collection[Channel], since: int | None = None) -> Iterator[Recorded]:
        """Yields messages, as `Container.messages` does."""
        known = {each.number: each for each in channels}
        wanted = [self._connections[number] for number in known]
        for connection, stamp, raw in self._reader.messages(wanted, start=since):
            yield known[connection.id], stamp, bytes(raw)

    def close(self) -> None:
        """Closes the file."""
        self._reader.close()
