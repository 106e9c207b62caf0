"""A stream of rotations as a container: one channel of PointCloud2 for each sensor, one message a rotation."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Final

from rosbags.typesys.stores.ros2_humble import sensor_msgs__msg__PointCloud2 as PointCloud2

from spvnas_ros.recordings.containers.container import BagError, Channel, Recorded, named
from spvnas_ros.recordings.message_kinds.decoded import MissingLibraryError
from spvnas_ros.recordings.message_types import typestore

_CLOUD_TYPE: Final = "sensor_msgs/msg/PointCloud2"

Rotation = tuple[str, int, PointCloud2]
"""Topic, time of recording (nanoseconds since 1970), and the points of one sensor."""


class PacketStream:
    """Rotations as they come out of a decoder; a `Container`.

    A stream has no index: it is decoded once to count the rotations, and again up to the time that is asked for.

    what:      the file, for errors
    rotations: begins the stream anew; raises any error where the packets are damaged

    Raises BagError where not one rotation can be decoded, and MissingLibraryError.
    """

    storage = "mcap"

    def __init__(self, what: str, rotations: Callable[[], Iterator[Rotation]]) -> None:
        self._rotations = rotations
        self.remarks: tuple[str, ...] = ()
        counts, stamps = dict[str, int](), list[int]()
        try:
            for topic, stamp, _ in rotations():
                counts[topic] = counts.get(topic, 0) + 1
                stamps.append(stamp)
        except MissingLibraryError:
            raise
        except Exception as error:
            reason = " ".join((str(error) or type(error).__name__).split())[:300]
            if not stamps:
                raise BagError(f"{what}: no rotation can be read: {reason}") from error
            self.remarks = (f"{what} is damaged after {len(stamps)} rotations, which are read: {reason}",)
        if not stamps:
            raise BagError(f"{what} has no rotation of a Velodyne or Ouster")
        self.channels = [
            Channel(topic, _CLOUD_TYPE, "cdr", count, number) for number, (topic, count) in enumerate(counts.items())
        ]
        self.span = (min(stamps), max(stamps))

    def messages(self, channels: Collection[Channel], since: int | None = None) -> Iterator[Recorded]:
        """Yields rotations, as `Container.messages` does; up to the damage that a remark names."""
        wanted = {each.topic: each for each in channels}
        left = sum(each.count for each in self.channels)
        with named("the packets are damaged"):
            for topic, stamp, cloud in self._rotations():
                if topic in wanted and (since is None or stamp >= since):
                    yield wanted[topic], stamp, bytes(typestore().serialize_cdr(cloud, _CLOUD_TYPE))
                left -= 1
                if not left:
                    return

    def close(self) -> None:
        """Nothing stays open between rotations."""
