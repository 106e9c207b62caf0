"""Plays a rosbag2 (sqlite3 or mcap) onto its topics. The recorded bytes are published unchanged.

python -m spvnas_ros.ros.replay.bag_player BAG [--rate 2] [--loop] [--clock] [--topics /points]
    [--ros-args -r /points:=/other]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Condition, Event
from typing import TYPE_CHECKING, Any

from rclpy.duration import Duration
from rclpy.event_handler import PublisherEventCallbacks
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.time import Time
from rclpy.utilities import remove_ros_args
from rosgraph_msgs.msg import Clock

from spvnas_ros.ros.node.cloud_messages import how_to_get, message_class
from spvnas_ros.ros.process.lifetime import StartError, StopRequested, ros_process, spinning

if TYPE_CHECKING:
    from rosbags.highlevel import AnyReader
    from rosbags.interfaces import Connection

_QUEUE = 10


class BagPlayer:
    """Publishes the messages of a bag. The node's callbacks must run in another thread (`spinning`).

    bag:    a rosbag2 folder, or an .mcap or .db3 file by itself
    topics: the topics to play; None for all. A topic whose message type is not installed is left out
    clock:  also publishes the recorded times on /clock, for nodes with use_sim_time

    Attributes:
        topics: the topics that are played
    """

    def __init__(self, node: Node, bag: Path, topics: Collection[str] | None = None, *, clock: bool = False) -> None:
        """Raises StartError where the bag cannot be read or has nothing that can be played."""
        self._bag = bag
        self._matched = Condition()
        self._publishers: dict[str, Publisher[Any]] = {}
        with _opened(bag) as reader:
            for connection in reader.connections:
                if (topics is None or connection.topic in topics) and connection.topic not in self._publishers:
                    self._advertise(node, connection)
            found = ", ".join(sorted({connection.topic for connection in reader.connections})) or "no topics"
        if not self._publishers:
            raise StartError(f"{bag} has nothing to play; found {found}")
        self._clock = node.create_publisher(Clock, "/clock", _QUEUE) if clock else None
        self.topics = tuple(self._publishers)

    def wait_for_subscribers(self, timeout: float | None = None) -> bool:
        """Waits until one of the topics has a subscriber. Returns False where none has one after `timeout` seconds."""
        with self._matched:
            return self._matched.wait_for(
                lambda: any(publisher.get_subscription_count() for publisher in self._publishers.values()), timeout
            )

    def play(self, rate: float = 1.0, loop: bool = False, stop: Event | None = None) -> int:
        """Publishes the messages at the pace of their recording, `rate` times as fast.

        loop: starts again at the end, until `stop` is set
        stop: ends the playback when it is set

        Returns the number of published messages.
        """
        stop = stop or Event()
        count = 0
        while not stop.is_set():
            for connection, stamp, due, raw in self._schedule(rate):
                if stop.wait(max(0.0, due - time.monotonic())):
                    return count
                if self._clock is not None:
                    self._clock.publish(Clock(clock=Time(nanoseconds=stamp).to_msg()))
                self._publishers[connection.topic].publish(bytes(raw))
                count += 1
            if not loop:
                break
        return count

    def flush(self, timeout: float = 5.0) -> None:
        """Waits until reliable subscribers have received all messages, at most `timeout` seconds for each topic."""
        for publisher in self._publishers.values():
            publisher.wait_for_all_acked(Duration(seconds=timeout))

    def _schedule(self, rate: float) -> Iterator[tuple[Connection, int, float, bytes]]:
        """Yields the messages, each with the time of the monotonic clock at which it is due."""
        began = time.monotonic()
        first = None
        with _opened(self._bag) as reader:
            connections = [connection for connection in reader.connections if connection.topic in self._publishers]
            for connection, stamp, raw in reader.messages(connections):
                first = stamp if first is None else first
                yield connection, stamp, began + (stamp - first) / 1e9 / rate, raw

    def _advertise(self, node: Node, connection: Connection) -> None:
        message_type = message_class(connection.msgtype)
        if message_type is None:
            node.get_logger().warning(
                f"{connection.topic} is not played: {connection.msgtype} is not installed; "
                f"{how_to_get(connection.msgtype)}"
            )
            return
        self._publishers[connection.topic] = node.create_publisher(
            message_type,
            connection.topic,
            _qos(connection),
            event_callbacks=PublisherEventCallbacks(matched=self._on_match),
        )

    def _on_match(self, _: object) -> None:
        with self._matched:
            self._matched.notify_all()


@contextmanager
def _opened(bag: Path) -> Iterator[AnyReader]:
    from rosbags.highlevel import AnyReader
    from rosbags.typesys import Stores, get_typestore

    try:
        reader = AnyReader([bag], default_typestore=get_typestore(Stores.LATEST))
        reader.open()
    except Exception as error:  # rosbags, its storages and its YAML parser raise a dozen types
        raise StartError(f"{bag} cannot be read as a rosbag2: {error}") from error
    try:
        if not reader.is2:
            raise StartError(
                f"{bag} is a bag of ROS 1, whose messages ROS 2 does not understand; convert it: "
                f"rosbags-convert --src {bag} --dst {bag.with_suffix('')}"
            )
        yield reader
    finally:
        reader.close()


def _qos(connection: Connection) -> QoSProfile:
    """Returns a reliable QoS, which serves every subscriber.

    It is latched where the recorded publisher was, and for static transforms always: bags do not have to say it, and
    nobody who asks for those would hear them otherwise.
    """
    offered = getattr(connection.ext, "offered_qos_profiles", [])
    latched = connection.topic == "/tf_static" or any(qos.durability.name == "TRANSIENT_LOCAL" for qos in offered)
    return QoSProfile(
        depth=_QUEUE, durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE
    )


def main(args: list[str] | None = None) -> int:
    """Parses the command line and plays the bag. Returns the exit status."""
    args = sys.argv if args is None else args
    parser = argparse.ArgumentParser(prog="bag_player", description="Play a rosbag2 onto its topics.")
    parser.add_argument("bag", type=Path)
    parser.add_argument("--rate", type=float, default=1.0, help="times as fast as recorded (default 1)")
    parser.add_argument("--loop", action="store_true", help="begin again at the end, until stopped")
    parser.add_argument("--clock", action="store_true", help="publish the recorded times on /clock")
    parser.add_argument("--topics", nargs="*", help="only these")
    parser.add_argument("--wait", type=float, default=10.0, help="seconds to wait for a subscriber (default 10)")
    options = parser.parse_args(remove_ros_args(args)[1:])
    try:
        with ros_process(args):
            _play(options)
    except StopRequested:
        return 0
    except StartError as error:
        print(f"cannot start: {error}", file=sys.stderr, flush=True)
        return 1
    return 0


def _play(options: argparse.Namespace) -> None:
    node = Node("bag_player")
    player = BagPlayer(node, options.bag, options.topics, clock=options.clock)
    with spinning(node):
        if not player.wait_for_subscribers(options.wait):
            node.get_logger().warning(f"nobody listens to {', '.join(player.topics)}; playing anyway")
        count = player.play(options.rate, options.loop)
        player.flush()
        node.get_logger().info(f"played {count} messages")


if __name__ == "__main__":
    raise SystemExit(main())
