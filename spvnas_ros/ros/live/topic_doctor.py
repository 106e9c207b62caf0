"""Examines a live topic for `spvnas doctor /topic`.

It records clouds for some seconds, and examines these clouds and how they arrived.
"""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Collection
from pathlib import Path
from threading import Event, Lock
from typing import Any

from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSCompatibility, QoSProfile, ReliabilityPolicy, qos_check_compatible
from rclpy.subscription import MessageInfo
from rclpy.topic_endpoint_info import TopicEndpointInfo
from rclpy.utilities import get_rmw_implementation_identifier

from spvnas_ros.clouds.sensor_rules import Sensor
from spvnas_ros.doctor.command import Looking, TopicError, report
from spvnas_ros.doctor.link import Endpoint, Link, Mismatch, examine_link
from spvnas_ros.doctor.observe import Clouds
from spvnas_ros.recordings.bags import CLOUD_TYPE, BagWriter
from spvnas_ros.ros.node.cloud_messages import best_type, message_class, readable_types, why_unread
from spvnas_ros.ros.process.lifetime import StartError, StopRequested, ros_process, spinning
from spvnas_ros.ros.process.transport import PROFILE, share_file

_DISCOVERY_SECONDS = 5.0
_QUEUE = 10
_INTERRUPTED = 130
_HOST = slice(2, 4)
"""The bytes of an endpoint's identifier in which Fast DDS stores the machine."""

_SEGMENT = re.compile(r"fast(dds|rtps)_[0-9a-f]{16}")

_NODE_QOS = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=_QUEUE, reliability=ReliabilityPolicy.BEST_EFFORT)
"""The QoS that the node asks for, with a longer queue: here no cloud may be left out for a newer one."""


def run(topic: str, looking: Looking, *, seconds: float = 5.0) -> int:
    """Prints the findings about a live topic. Returns 1 where a finding is bad, else 0; 130 after SIGINT or SIGTERM.

    Raises TopicError where nobody publishes clouds on the topic, and what `spvnas_ros.doctor.command.report` raises.
    """
    with tempfile.TemporaryDirectory() as folder:
        older = _shared_memory()
        try:
            with ros_process([]):
                link = _watch(topic, seconds, Path(folder) / "bag", older)
        except StopRequested:
            return _INTERRUPTED
        except StartError as error:
            raise TopicError(str(error)) from error
        clouds = Clouds(Path(topic), "topic", topic, Sensor())
        if link.received:
            clouds = looking.observe(Path(folder) / "bag")
        return report(clouds, looking, examine_link(link))


def _watch(topic: str, seconds: float, bag: Path, older: frozenset[Path]) -> Link:
    """Records the clouds of the topic, and returns how they arrived.

    older: shared memory that existed before this process had any; it belongs to other processes
    """
    node = Node("spvnas_doctor")
    with spinning(node), BagWriter(bag, "mcap") as writer:
        kind = _wait_for_publisher(node, topic)
        overflows = _overflows()
        arrivals = _Arrivals(topic, kind, writer)
        published: Any = message_class(kind)
        node.create_subscription(published, topic, arrivals.add, _NODE_QOS, raw=True)
        Event().wait(seconds)
        arrivals.close()
        publishers = node.get_publishers_info_by_topic(topic)
        everybody = node.get_subscriptions_info_by_topic(topic)
        own = next((each for each in everybody if each.node_name == node.get_name()), None)
        others = [each for each in everybody if each.node_name != node.get_name()]
        return Link(
            topic,
            seconds,
            arrivals.count,
            arrivals.bytes // max(1, arrivals.count),
            arrivals.lost(),
            tuple(_endpoint(each, own) for each in publishers),
            tuple(_endpoint(each, own) for each in others),
            _mismatches(publishers, others),
            _mapped(older),
            _overflows() - overflows,
            _buffer_limit(),
            str(share_file(PROFILE) or ""),
            get_rmw_implementation_identifier(),
        )


class _Arrivals:
    """Writes clouds into a bag as they arrive, and remembers their numbers by publisher."""

    def __init__(self, topic: str, kind: str, writer: BagWriter) -> None:
        self.count = self.bytes = 0
        self._closed = False
        self._lock = Lock()
        self._topic, self._kind, self._writer = topic, kind, writer
        self._numbers: defaultdict[bytes, list[int]] = defaultdict(list)
        self._numbered = True

    def add(self, raw: bytes, info: MessageInfo) -> None:
        """Writes a serialised cloud and counts it."""
        with self._lock:
            if self._closed:
                return
            self._writer.write(self._topic, raw, time.time_ns(), self._kind)
        self.count += 1
        self.bytes += len(raw)
        number, publisher = info["publication_sequence_number"], info["publisher_gid"]
        if number is None or publisher is None:
            self._numbered = False
        else:
            self._numbers[bytes(publisher["data"])].append(number)

    def close(self) -> None:
        """Stops writing, because the bag is about to be closed."""
        with self._lock:
            self._closed = True

    def lost(self) -> int | None:
        """Returns how many clouds are missing between the first and the last; None where they are not numbered."""
        if not self._numbered:
            return None
        return sum(max(numbers) - min(numbers) + 1 - len(set(numbers)) for numbers in self._numbers.values())


def _wait_for_publisher(node: Node, topic: str) -> str:
    """Returns the type that the node would listen to. Raises TopicError where nobody publishes one."""

    def found() -> set[str]:
        return {each.topic_type for each in node.get_publishers_info_by_topic(topic)}

    if _eventually(lambda: best_type(found()) is not None) and (kind := best_type(found())):
        return kind
    known = set(readable_types())
    clouds = sorted(
        name
        for name, types in node.get_topic_names_and_types()
        if known.intersection(types) and node.count_publishers(name) and name != topic
    )
    there = f"clouds are published on {', '.join(clouds)}" if clouds else "no topic of this ROS domain has clouds"
    domain = os.environ.get("ROS_DOMAIN_ID", "0")
    reason = why_unread(topic, found()) or f"nobody publishes on {topic}, expected {CLOUD_TYPE} or another cloud"
    raise TopicError(f"{reason}; {there} (ROS_DOMAIN_ID {domain}); and no file has that name")


def _eventually(condition: Callable[[], bool]) -> bool:
    """Returns whether the condition comes true in time. It asks repeatedly, because rclpy does not report discovery."""
    deadline, pause = time.monotonic() + _DISCOVERY_SECONDS, Event()
    while not (found := condition()) and time.monotonic() < deadline:
        pause.wait(0.05)
    return found


def _endpoint(info: TopicEndpointInfo, own: TopicEndpointInfo | None) -> Endpoint:
    local = None
    if own is not None and "fastrtps" in get_rmw_implementation_identifier():
        local = bytes(info.endpoint_gid)[_HOST] == bytes(own.endpoint_gid)[_HOST]
    qos = info.qos_profile
    words = ", ".join(policy.name.lower().replace("_", " ") for policy in (qos.reliability, qos.durability))
    return Endpoint(_full_name(info), words, local)


def _full_name(info: TopicEndpointInfo) -> str:
    return f"{info.node_namespace.rstrip('/')}/{info.node_name}"


def _mismatches(publishers: list[TopicEndpointInfo], subscribers: list[TopicEndpointInfo]) -> tuple[Mismatch, ...]:
    asking = [("the node", _NODE_QOS), *((_full_name(each), each.qos_profile) for each in subscribers)]
    found = []
    for publisher in publishers:
        for name, qos in asking:
            verdict, reason = qos_check_compatible(publisher.qos_profile, qos)
            if verdict == QoSCompatibility.ERROR:
                found.append(Mismatch(_full_name(publisher), name, reason.strip().rstrip(";")))
    return tuple(found)


def _shared_memory() -> frozenset[Path]:
    """Returns the shared-memory segments of Fast DDS on this machine."""
    return frozenset(file for file in Path("/dev/shm").glob("fast*") if _SEGMENT.fullmatch(file.name))


def _mapped(files: Collection[Path]) -> tuple[int, ...]:
    """Returns the sizes in bytes of those files that this process has mapped. Empty where there is no /proc."""
    try:
        maps = Path("/proc/self/maps").read_text()
        return tuple(file.stat().st_size for file in files if str(file) in maps)
    except OSError:
        return ()


def _overflows() -> int:
    """Returns how many datagrams this process' UDP sockets dropped because their buffers were full (Linux; else 0)."""
    try:
        sockets = {os.readlink(entry) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()}
        lines = [line.split() for line in Path("/proc/self/net/udp").read_text().splitlines()[1:]]
    except OSError:
        return 0
    return sum(int(fields[-1]) for fields in lines if f"socket:[{fields[9]}]" in sockets)


def _buffer_limit() -> int | None:
    try:
        return int(Path("/proc/sys/net/core/rmem_max").read_text())
    except OSError:
        return None
