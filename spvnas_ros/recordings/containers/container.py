"""What every container of a recording gives: channels, and their messages in order of recording."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from spvnas_ros.errors import UserError


class BagError(UserError):
    """A bag cannot be read or written. The message says what was found, what was expected and what to do."""


@dataclass(frozen=True)
class Channel:
    """Messages of one type on one topic, as one writer wrote them. A topic may have several channels.

    type:     ROS types with three parts ("sensor_msgs/msg/PointCloud2"), whatever the container calls them; others as
              they are ("foxglove.PointCloud")
    encoding: "cdr", "ros1", "protobuf", "json", "flatbuffer", ...
    count:    how many messages
    number:   the container's own number of it
    """

    topic: str
    type: str
    encoding: str
    count: int
    number: int


Recorded = tuple[Channel, int, bytes]
"""A message: its channel, when it was recorded (nanoseconds since 1970), its bytes."""


class Container(Protocol):
    """A recording that is open.

    storage:  "sqlite3" or "mcap": what a bag with its results is stored in
    channels: all of them
    span:     the first and the last time of recording, nanoseconds since 1970; (0, 0) without messages
    remarks:  what the user should know of the recording, a sentence each, such as where it was cut off
    """

    @property
    def storage(self) -> str: ...
    @property
    def channels(self) -> Sequence[Channel]: ...
    @property
    def span(self) -> tuple[int, int]: ...
    @property
    def remarks(self) -> tuple[str, ...]: ...

    def messages(self, channels: Collection[Channel], since: int | None = None) -> Iterator[Recorded]:
        """Yields the messages of `channels`, by time of recording, from `since` (nanoseconds since 1970) on.

        Raises any error where the container is damaged further on; `named` makes a BagError of it.
        """
        ...

    def close(self) -> None:
        """Closes the files."""
        ...


@contextmanager
def named(what: str) -> Iterator[None]:
    """Turns every exception of rosbags, mcap and their storages (a dozen types, for bad bytes) into a BagError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise BagError(f"{what}: {str(error) or type(error).__name__}") from error


def ros_type(name: str) -> str:
    """Returns the name of a ROS type with three parts, for "sensor_msgs/PointCloud2" and for the names that DDS has."""
    plain = name.replace("::", "/").replace("/dds_/", "/").removesuffix("_") if "::" in name else name
    parts = plain.split("/")
    return f"{parts[0]}/msg/{parts[1]}" if len(parts) == 2 else plain
