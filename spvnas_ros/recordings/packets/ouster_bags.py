"""Gives a bag with Ouster's packets the clouds that they make, beside its own channels."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Any, Final

from spvnas_ros.recordings.containers.container import BagError, Channel, Container, Recorded, named
from spvnas_ros.recordings.message_types import PACKET_TYPES, ros1_typestore, typestore
from spvnas_ros.recordings.packets import ouster_frames
from spvnas_ros.recordings.packets.stream import PacketStream, Rotation

_TEXT: Final = "std_msgs/msg/String"


def has_ouster_packets(container: Container) -> bool:
    """Whether a recording has packets of points of an Ouster."""
    return any(_is_lidar(channel) for channel in container.channels)


def ouster_clouds(what: str, container: Container) -> PacketStream:
    """Returns the clouds of a bag of Ouster's packets; their topic is that of the packets.

    what: the bag, for errors

    Raises BagError where the sensor's metadata is not in the bag, and as `PacketStream` does.
    """
    lidar = [channel for channel in container.channels if _is_lidar(channel)]
    with named(f"{what}: the metadata of an Ouster is damaged"):
        metadata = {channel.topic: _metadata(what, container, channel) for channel in lidar}

    def rotations() -> Iterator[Rotation]:
        # One sensor after the other would not be in order of time; few bags have two, and a topic is read alone.
        for channel in lidar:
            packets = ((stamp, _decoded(one, raw).buf.tobytes()) for one, stamp, raw in container.messages([channel]))
            yield from ouster_frames.of_packets(metadata[channel.topic], packets, channel.topic)

    return PacketStream(what, rotations)


class WithClouds:
    """A container that is closed with its bag; a `Container`."""

    def __init__(self, bag: Container, clouds: PacketStream) -> None:
        self._bag, self._clouds = bag, clouds
        own = [channel for channel in bag.channels if not _is_lidar(channel)]
        self._made = {each.topic: each for each in clouds.channels}
        numbers = range(1 << 20, (1 << 20) + len(clouds.channels))
        made = [replace(each, number=number) for each, number in zip(clouds.channels, numbers, strict=True)]
        self._numbers = set(numbers)
        self.channels = [*own, *made]
        self.storage, self.span, self.remarks = bag.storage, clouds.span, (*bag.remarks, *clouds.remarks)

    def messages(self, channels: Collection[Channel], since: int | None = None) -> Iterator[Recorded]:
        """Yields messages, as `Container.messages` does; clouds and the bag's own messages not at once."""
        made = {each.topic: each for each in channels if each.number in self._numbers}
        if not made:
            yield from self._bag.messages(channels, since)
            return
        for channel, stamp, raw in self._clouds.messages([self._made[topic] for topic in made], since):
            yield made[channel.topic], stamp, raw

    def close(self) -> None:
        """Closes the bag."""
        self._bag.close()


def _is_lidar(channel: Channel) -> bool:
    return channel.type in PACKET_TYPES and "imu" not in channel.topic.lower()


def _metadata(what: str, container: Container, lidar: Channel) -> str:
    """Returns the JSON that the driver publishes once, on the topic `metadata` of the same namespace."""
    place = lidar.topic.rpartition("/")[0]
    topics = [each for each in container.channels if each.type == _TEXT and each.topic.endswith("metadata")]
    for channel in [each for each in topics if each.topic.startswith(place)] or topics[:1]:
        for one, _, raw in container.messages([channel]):
            return str(_decoded(one, raw).data)
    raise BagError(
        f"{what} has packets of an Ouster on {lidar.topic}, and not the sensor's metadata, which its driver publishes "
        f"on {place}/metadata: record that topic, too, or the clouds"
    )


def _decoded(channel: Channel, raw: bytes) -> Any:
    if channel.encoding == "ros1":
        return ros1_typestore().deserialize_ros1(raw, channel.type)
    return typestore().deserialize_cdr(raw, channel.type)
