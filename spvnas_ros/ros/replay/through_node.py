"""Plays a bag through the live node at the bag's rate and measures it, for `spvnas replay`.

Both ends of the measurement are in this process and read one monotonic clock. The node is a process of its own and is
reached over the middleware, as on a vehicle. Each cloud gets the time at which it is due as its stamp, which also tells
the answers apart. Nothing else in it is changed: compressed clouds and Livox's messages are sent as they were recorded
where their message package is installed, and other kinds as PointCloud2.
"""

from __future__ import annotations

import importlib
import os
import struct
import sys
import time
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from threading import Condition
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from sensor_msgs.msg import PointCloud2
from std_msgs.msg import Float64

from spvnas_ros.clouds.point_cloud2 import decode
from spvnas_ros.errors import UserError
from spvnas_ros.ros.node.cloud_messages import CLOUD_TYPE, message_class
from spvnas_ros.ros.node.labelling import stamp_ns
from spvnas_ros.ros.node.outputs import LABELLED_TOPIC, OBJECTS_TOPIC, TIMES_TOPIC
from spvnas_ros.ros.node.segmenter_node import INPUT_TOPIC, NODE_NAME
from spvnas_ros.ros.node.statistics import HEAD, STAGES
from spvnas_ros.ros.process.lifetime import ros_process, spinning
from spvnas_ros.ros.process.memory import hand_to_collector, spare_from_collector
from spvnas_ros.ros.process.segmenter_process import segmenter_process
from spvnas_ros.ros.replay.replay_statistics import NodeCounts, Passage, Replay, evaluate

if TYPE_CHECKING:
    from spvnas_ros.recordings.bags import RecordedCloud

_START_SECONDS = 900.0
"""Limit for the start of the node. The first start on a machine compiles the network's kernels."""

_QUEUE = 10
_LEAD_NS = 100_000_000
"""Time between reading the first cloud and sending it, to get ready."""

_PROBE_EVERY = 0.25
_COUNTS_SECONDS = 5.0
"""Limit for the next counts. The node publishes its counts every second."""

_LAST_ANSWER_SECONDS = 10.0
"""After so many seconds without an answer, the missing answers are given up."""

_EMPTY: Final[Mapping[str, Mapping[str, Any]]] = {
    CLOUD_TYPE: {},
    "point_cloud_interfaces/msg/CompressedPointCloud2": {"format": "zlib", "compressed_data": zlib.compress(b"")},
    **{f"{package}/msg/CustomMsg": {} for package in ("livox_ros_driver", "livox_ros_driver2", "livox_interfaces")},
}
"""By type, the fields of a message without points, which the node answers: what can be sent as it was recorded."""

OnLabels = Callable[[int, npt.NDArray[np.uint8]], None]
"""Called with the number of a cloud and its labels, uint8 `[N]`, when they arrive."""


class ReplayError(UserError):
    """The node did not start, did not answer, or ended, or its labels could not be kept."""


@dataclass(frozen=True)
class NodeOptions:
    """Values of the node's parameters of the same names. `weights` is a file, `place` has values by name."""

    weights: str
    device: str = "auto"
    engine: str = "auto"
    intensity: str = "auto"
    intensity_field: str = ""
    precision: str = "auto"
    place: Mapping[str, str | float] = field(default_factory=dict)

    def parameters(self) -> dict[str, str | float]:
        """Returns all values by the name of their parameter."""
        return {name: value for name, value in vars(self).items() if name != "place"} | dict(self.place)


def replay(
    clouds: Iterable[RecordedCloud],
    options: NodeOptions,
    *,
    kind: str = CLOUD_TYPE,
    rate: float = 1.0,
    on_sent: Callable[[], None] = lambda: None,
    on_labels: OnLabels | None = None,
    boxes: bool = False,
) -> Replay:
    """Starts the node, sends the clouds at the pace of their recording, `rate` times as fast, and ends the node.

    kind:      what their messages are, as `BagReader.type` has it
    on_sent:   called after each cloud that was sent
    on_labels: called with the labels of each cloud
    boxes:     listen to the objects, too, so that the node looks for them; needs vision_msgs (`can_hear_objects`)

    Raises ReplayError, and what reading the clouds raises. Raises StopRequested where SIGINT or SIGTERM came.
    """
    # Clouds stay on this machine and off the local network, unless the user asks for more.
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    namespace = f"/replay_{os.getpid()}"
    with ros_process([]):
        driver = _Driver(f"{namespace}/{NODE_NAME}", sent_as(kind), on_labels, boxes=boxes)
        with spinning(driver), segmenter_process(namespace, options.parameters(), driver.fail):
            driver.wait_until_ready()
            spare_from_collector()  # a collection of this process would delay clouds and answers
            try:
                driver.play(clouds, rate, on_sent)
                return driver.finish()
            finally:
                hand_to_collector()


def can_hear_objects() -> bool:
    """Returns whether the messages of objects are installed, which only ROS distributions bring along."""
    return find_spec("vision_msgs") is not None


class _Driver(Node):
    """Sends clouds and measures times. Its callbacks run in another thread."""

    def __init__(self, segmenter: str, kind: str, on_labels: OnLabels | None, *, boxes: bool) -> None:
        super().__init__("replay")
        self._changed = Condition()
        self._failure = ""
        self._on_labels = on_labels
        self._ready, self._boxes_ready = False, not boxes
        self._boxes = boxes
        self._passages: dict[int, Passage] = {}
        self._stages: defaultdict[str, list[float]] = defaultdict(list)
        self._diagnostics: dict[str, dict[str, str]] = {}
        self._before = NodeCounts()
        self._late = 0
        self._name = segmenter.lstrip("/")
        sent: Any = message_class(kind)
        self._as_recorded = kind != CLOUD_TYPE
        self._probe = sent(**_EMPTY[kind])
        self._to_segmenter = self.create_publisher(sent, INPUT_TOPIC.replace("~", segmenter), _QUEUE)
        self.create_subscription(PointCloud2, LABELLED_TOPIC.replace("~", segmenter), self._on_answer, _QUEUE)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, _QUEUE)
        if boxes:
            found = importlib.import_module("vision_msgs.msg").Detection3DArray
            self.create_subscription(found, OBJECTS_TOPIC.replace("~", segmenter), self._on_objects, _QUEUE)
        for stage in (*STAGES, *((HEAD,) if boxes else ())):
            topic = TIMES_TOPIC.format(stage).replace("~", segmenter)
            self.create_subscription(Float64, topic, lambda time, stage=stage: self._on_time(stage, time.data), _QUEUE)

    def fail(self, reason: str) -> None:
        """Ends all waiting with a ReplayError, for example because the node has ended."""
        with self._changed:
            self._failure = reason
            self._changed.notify_all()

    def wait_until_ready(self) -> None:
        """Sends empty clouds until one is answered. Then both directions are connected.

        Raises ReplayError where no answer comes in time.
        """
        deadline = time.monotonic() + _START_SECONDS
        while not self._wait(lambda: self._ready and self._boxes_ready, _PROBE_EVERY):
            if time.monotonic() > deadline:
                raise ReplayError(f"the node did not answer in {_START_SECONDS:.0f} s")
            self._to_segmenter.publish(self._probe)
        self._before = self._counts()
        self._stages.clear()

    def play(self, clouds: Iterable[RecordedCloud], rate: float, on_sent: Callable[[], None]) -> None:
        """Sends each cloud when it is due."""
        first, began, wall, stamp = None, 0, 0, 0
        for number, recorded in enumerate(clouds):
            if first is None:
                first, began, wall = recorded.stamp, time.monotonic_ns() + _LEAD_NS, time.time_ns() + _LEAD_NS
            offset = round((recorded.stamp - first) / rate)
            stamp = max(stamp + 1, wall + offset)
            try:
                cloud = restamped(recorded.raw if self._as_recorded else recorded.cdr, stamp)
            except UserError as error:  # of another kind than PointCloud2, and damaged
                print(f"warning: cloud {number:06d} is not sent: {error}", file=sys.stderr)
                on_sent()
                continue
            self._wait(lambda: False, (began + offset - time.monotonic_ns()) / 1e9)
            sent = time.monotonic_ns()
            self._late = max(self._late, sent - began - offset)
            with self._changed:
                self._passages[stamp] = Passage(number, sent)
            self._to_segmenter.publish(cloud)
            on_sent()

    def finish(self) -> Replay:
        """Waits for the clouds that are still in work, and returns the figures."""
        answered = -1
        while not self._answered_last() and answered < (answered := self._answers()):
            self._wait_for_more_than(answered)
        counts = self._counts() - self._before
        with self._changed:
            node = {**self._diagnostics.get("node", {})}
            return evaluate(tuple(self._passages.values()), counts, self._late, self._stages, node)

    def _wait(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Returns whether the condition came true within `seconds`. Raises ReplayError where the node ended."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._failure) or condition(), max(0.0, seconds))
            if self._failure:
                raise ReplayError(self._failure)
            return condition()

    def _wait_for_more_than(self, answered: int) -> None:
        self._wait(lambda: self._answers() > answered, _LAST_ANSWER_SECONDS)

    def _answers(self) -> int:
        return sum((each.answered is not None) + (each.boxed is not None) for each in self._passages.values())

    def _answered_last(self) -> bool:
        with self._changed:
            last = next(reversed(self._passages.values()), None)
            return last is None or (last.answered is not None and (last.boxed is not None or not self._boxes))

    def _counts(self) -> NodeCounts:
        """Returns new counts of the node, taken when no cloud waits or is in work.

        Where the node does not come to rest in time, returns its last counts. Raises ReplayError where it publishes
        none.
        """
        with self._changed:
            self._diagnostics.pop("input", None)
        counts = NodeCounts()

        def at_rest() -> bool:
            nonlocal counts
            if "input" in self._diagnostics:
                counts = NodeCounts.of(self._diagnostics["input"])
            return counts.at_rest and counts.received > 0

        if not self._wait(at_rest, _COUNTS_SECONDS) and not counts.received:
            raise ReplayError(f"the node published no diagnostics in {_COUNTS_SECONDS:.0f} s")
        return counts

    def _on_answer(self, cloud: PointCloud2) -> None:
        at, stamp = time.monotonic_ns(), stamp_ns(cloud)
        with self._changed:
            passage = self._passages.get(stamp)
            if passage is not None:
                self._passages[stamp] = replace(passage, answered=at)
            self._ready = True
            self._changed.notify_all()
        if passage is not None and self._on_labels is not None:
            try:
                self._on_labels(passage.number, decode(cloud)["label"])
            except (ValueError, OSError) as error:  # for example a full disk
                self.fail(f"the labels of cloud {passage.number} could not be kept: {error}")

    def _on_objects(self, message: Any) -> None:
        at, stamp = time.monotonic_ns(), stamp_ns(message)
        with self._changed:
            if (passage := self._passages.get(stamp)) is not None:
                self._passages[stamp] = replace(passage, boxed=at)
            self._boxes_ready = True
            self._changed.notify_all()

    def _on_time(self, stage: str, milliseconds: float) -> None:
        self._stages[stage].append(milliseconds)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        with self._changed:
            for status in message.status:
                if status.name.startswith(f"{self._name}: "):
                    values = {each.key: each.value for each in status.values}
                    self._diagnostics[status.name.removeprefix(f"{self._name}: ")] = values
            self._changed.notify_all()


def sent_as(kind: str) -> str:
    """Returns the type in which clouds that were recorded in type `kind` are sent to the node."""
    return kind if kind in _EMPTY and message_class(kind) is not None else CLOUD_TYPE


def restamped(raw: bytes, stamp: int) -> bytes:
    """Returns a serialised message (CDR) with another stamp (nanoseconds). The message must begin with a header."""
    order = "<" if raw[1] & 1 else ">"
    return raw[:4] + struct.pack(f"{order}iI", *divmod(stamp, 10**9)) + raw[12:]
