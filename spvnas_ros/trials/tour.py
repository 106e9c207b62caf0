"""The whole life of a managed segmenter, watched: through its states by its services, with an ear on every topic."""

from __future__ import annotations

import importlib
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import PointCloud2
from std_msgs.msg import Float64

from spvnas_ros.recordings.bags import RecordedCloud
from spvnas_ros.recordings.box_bags import RecordedBoxes, decode_boxes
from spvnas_ros.ros.node.labelling import stamp_ns
from spvnas_ros.ros.node.outputs import (
    COLORED_TOPIC,
    FILTERED_TOPIC,
    LABEL_INFO_TOPIC,
    LABELLED_TOPIC,
    OBJECTS_TOPIC,
    TIMES_TOPIC,
)
from spvnas_ros.ros.node.segmenter_node import NODE_NAME
from spvnas_ros.ros.node.statistics import STAGES
from spvnas_ros.ros.process.lifetime import spinning
from spvnas_ros.ros.process.segmenter_process import segmenter_process
from spvnas_ros.ros.replay.exchange import CloudExchange, ExchangeError

if TYPE_CHECKING:
    from spvnas_ros.ros.replay.through_node import NodeOptions

_CONFIGURE_SECONDS = 900.0
"""The first start on a machine compiles the network's kernels."""

_ANSWER_SECONDS = 60.0
_GLANCE_SECONDS = 0.5
_AGAIN_SECONDS = 5.0
"""Without an answer for so long, the state is asked again: an answer is lost where the node's writer has not met this
reader yet (rmw_fastrtps).
"""
_LAST_SECONDS = 20.0
"""At most, for what comes behind the last labelled cloud; diagnostics come once a second, from a busy machine later."""

_CLOUD_TOPICS = (LABELLED_TOPIC, COLORED_TOPIC, FILTERED_TOPIC)
_TRANSITIONS = {
    "configure": Transition.TRANSITION_CONFIGURE,
    "activate": Transition.TRANSITION_ACTIVATE,
    "deactivate": Transition.TRANSITION_DEACTIVATE,
    "cleanup": Transition.TRANSITION_CLEANUP,
}
_STATES = {"configure": "inactive", "activate": "active", "deactivate": "inactive", "cleanup": "unconfigured"}
"""Of the node after each transition."""

OnAnswer = Callable[[RecordedCloud, RecordedCloud, float, RecordedBoxes | None], None]
"""Called with a recorded cloud, the labelled one (under the same stamps), the milliseconds between, and the objects in
it; None where the node publishes none.
"""


@dataclass(frozen=True)
class Tour:
    """What a segmenter showed of itself.

    states:   of its life cycle, in the order it went through them
    clouds:   how many came, by the topic's name
    kept:     share of the points that the filtered clouds kept
    times_ms: of a cloud by stage, median
    reports:  how many diagnostics came
    health:   the last of them: message by subject
    counts:   of the input, by name, from the last of them
    labels:   names by label, as label_info has them; None where it cannot be listened to
    objects:  for how many clouds objects came; None where none are published or they cannot be listened to
    status:   the process's exit status
    """

    states: tuple[str, ...]
    clouds: Mapping[str, int]
    kept: float
    times_ms: Mapping[str, float]
    reports: int
    health: Mapping[str, str]
    counts: Mapping[str, str]
    labels: Mapping[int, str] | None
    objects: int | None = None
    status: int = 0


def tour(
    clouds: Iterable[RecordedCloud], options: NodeOptions, log: Path, on_answer: OnAnswer, *, boxed: bool = False
) -> Tour:
    """Start a segmenter, take it through its life, and have it label the clouds, each when the one before is answered.

    Clouds are sent as if live, with the stamp of the moment. ROS must run (`ros_process`).

    log:   file that takes what the node prints
    boxed: whether the network finds objects

    Raises ExchangeError where the node ends, refuses a transition or does not answer, and what reading clouds raises.
    """
    namespace = f"/demo_{os.getpid()}"
    guide = _Guide(f"{namespace}/{NODE_NAME}")
    parameters = {**options.parameters(), "autostart": False, "objects.min_score": ""}  # all, as they are scored
    with spinning(guide), log.open("wb") as file:
        with segmenter_process(namespace, parameters, guide.fail, file) as process:
            guide.change("configure")
            guide.change("activate")
            guide.wait_until_heard(boxed=boxed)
            for recorded in clouds:
                guide.label(recorded, on_answer)
            guide.settle()
            guide.change("deactivate")
            guide.change("cleanup")
        return replace(guide.report(), status=process.returncode)


class _Guide(CloudExchange):
    """Client of everything that a segmenter (its full name) offers. The callbacks run in another thread."""

    def __init__(self, segmenter: str) -> None:
        super().__init__(segmenter)
        self._segmenter = segmenter
        self._states: list[str] = []
        self._sizes: dict[str, dict[int, int]] = {topic: {} for topic in _CLOUD_TOPICS}
        self._times: defaultdict[str, list[float]] = defaultdict(list)
        self._reports: list[dict[str, tuple[str, dict[str, str]]]] = []
        self._labels: dict[int, str] | None = None
        self._objects: dict[int, RecordedBoxes] = {}
        self._boxed = False
        self._counting = False
        self._ask_change: Any = self.create_client(ChangeState, f"{segmenter}/change_state")
        self._ask_state: Any = self.create_client(GetState, f"{segmenter}/get_state")
        for topic in _CLOUD_TOPICS:
            self._listen(PointCloud2, topic, partial(self._on_cloud, topic))
        for stage in STAGES:
            self._listen(Float64, TIMES_TOPIC.format(stage), partial(self._on_time, stage))
        self._listen(DiagnosticArray, "/diagnostics", self._on_diagnostics)

    def change(self, transition: str) -> None:
        """Ask for a transition by its name."""
        if not self._states:
            self._states.append(self._state())
        request = ChangeState.Request(transition=Transition(id=_TRANSITIONS[transition]))
        deadline = time.monotonic() + _CONFIGURE_SECONDS
        answer = self._ask(self._ask_change, request)
        while not self._wait(answer.done, _AGAIN_SECONDS):
            if self._state() == _STATES[transition]:
                break
            self._check(self._ask_change, deadline)
        else:
            if not answer.result().success:
                raise ExchangeError(f"the node cannot {transition}: {self._complaint()}")
        self._states.append(self._state())

    def wait_until_heard(self, *, boxed: bool) -> None:
        """Wait until all topics are connected, those of the clouds with empty ones; then begin to count."""
        self._listen_to_messages_of_vision(boxed=boxed)
        deadline = time.monotonic() + _ANSWER_SECONDS
        while silent := [topic for topic, came in self._came().items() if not came]:
            if time.monotonic() > deadline:
                raise ExchangeError(f"nothing came on {', '.join(silent)} in {_ANSWER_SECONDS:.0f} s")
            self.wait_until_ready(_ANSWER_SECONDS)
        with self._changed:
            self._counting = True
            self._times.clear()
            self._objects.clear()
            for sizes in self._sizes.values():
                sizes.clear()

    def label(self, recorded: RecordedCloud, on_answer: OnAnswer) -> None:
        """Send a cloud as if it came from the sensor now, and hand on the answer under its recorded stamp."""
        message = deserialize_message(recorded.cdr, PointCloud2)
        stamp = message.header.stamp
        message.header.stamp = self.get_clock().now().to_msg()
        answer = self.ask(message)
        sent = stamp_ns(answer.cloud)
        answer.cloud.header.stamp = stamp
        objects = None
        if self._boxed and self._wait(lambda: sent in self._objects, _LAST_SECONDS):
            objects = replace(self._objects[sent], stamp=stamp_ns(answer.cloud))
        on_answer(recorded, RecordedCloud(recorded.stamp, serialize_message(answer.cloud)), answer.ms, objects)

    def settle(self) -> None:
        """Wait, not for ever, for what comes behind the last labelled cloud."""
        reports = len(self._reports)

        def complete() -> bool:
            return min(self._came().values()) >= len(self._sizes[LABELLED_TOPIC]) and len(self._reports) > reports

        self._wait(complete, _LAST_SECONDS)

    def report(self) -> Tour:
        """What was seen and heard so far; says nothing of the process's end."""
        with self._changed:
            last = self._reports[-1] if self._reports else {}
            points = {topic: sum(sizes.values()) for topic, sizes in self._sizes.items()}
            return Tour(
                states=tuple(self._states),
                clouds={topic.rpartition("/")[2]: len(sizes) for topic, sizes in self._sizes.items()},
                kept=points[FILTERED_TOPIC] / max(points[LABELLED_TOPIC], 1),
                times_ms={stage: float(np.median(self._times[stage])) for stage in STAGES if self._times[stage]},
                reports=len(self._reports),
                health={subject: message for subject, (message, _) in last.items()},
                counts=last.get("input", ("", {}))[1],
                labels=self._labels,
                objects=len(self._objects) if self._boxed else None,
            )

    def _listen(self, kind: type[Any], topic: str, callback: Callable[[Any], None], *, latched: bool = False) -> None:
        durability = DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE
        qos = QoSProfile(depth=10, durability=durability)
        self.create_subscription(kind, topic.replace("~", self._segmenter), callback, qos)

    def _listen_to_messages_of_vision(self, *, boxed: bool) -> None:
        """To objects, and to what was published before: label_info is latched. The distributions have the package of
        their messages, PyPI does not.
        """
        with suppress(ImportError):
            messages = importlib.import_module("vision_msgs.msg")
            self._listen(messages.LabelInfo, LABEL_INFO_TOPIC, self._on_labels, latched=True)
            if boxed:
                self._boxed = True
                self._listen(messages.Detection3DArray, OBJECTS_TOPIC, self._on_objects)

    def _came(self) -> dict[str, int]:
        """Messages by topic, of those of which each cloud makes one."""
        with self._changed:
            total = len(self._times["total"])
            came = {topic: len(sizes) for topic, sizes in self._sizes.items()}
            return (
                came
                | ({OBJECTS_TOPIC: len(self._objects)} if self._boxed else {})
                | {TIMES_TOPIC.format("total"): total}
            )

    def _state(self) -> str:
        deadline = time.monotonic() + _CONFIGURE_SECONDS
        answer = self._ask(self._ask_state, GetState.Request())
        while not self._wait(answer.done, _AGAIN_SECONDS):
            self._check(self._ask_state, deadline)
            self._ask_state.remove_pending_request(answer)
            answer = self._ask(self._ask_state, GetState.Request())
        return str(answer.result().current_state.label)

    def _complaint(self) -> str:
        """Why the last transition failed, as the diagnostics have it."""
        reports = len(self._reports)
        self._wait(lambda: len(self._reports) > reports, _LAST_SECONDS)
        return self._reports[-1]["node"][0] if self._reports else "it does not say why"

    def _check(self, client: Any, deadline: float) -> None:
        if time.monotonic() > deadline:
            raise ExchangeError(f"{client.srv_name} gave no answer in {_CONFIGURE_SECONDS:.0f} s")

    def _ask(self, client: Any, request: Any) -> Any:
        deadline = time.monotonic() + _ANSWER_SECONDS
        while not client.wait_for_service(_GLANCE_SECONDS):
            self._wait(lambda: False, 0.0)
            if time.monotonic() > deadline:
                raise ExchangeError(f"nobody offers {client.srv_name} after {_ANSWER_SECONDS:.0f} s")
        future = client.call_async(request)
        future.add_done_callback(lambda _: self._notify())
        return future

    def _wait(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Whether the condition came true within so long. Raises ExchangeError where the node ended."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._failure) or condition(), seconds)
            if self._failure:
                raise ExchangeError(self._failure)
            return condition()

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _on_cloud(self, topic: str, cloud: PointCloud2) -> None:
        stamp = stamp_ns(cloud)
        with self._changed:
            # The empty clouds that connect have no stamp. By stamp: a cloud that was sent again counts once.
            if stamp or not self._counting:
                self._sizes[topic][stamp] = cloud.width * cloud.height
                self._changed.notify_all()

    def _on_time(self, stage: str, milliseconds: Float64) -> None:
        with self._changed:
            self._times[stage].append(milliseconds.data)
            self._changed.notify_all()

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        ours = f"{self._segmenter.lstrip('/')}: "
        report = {
            status.name.removeprefix(ours): (status.message, {each.key: each.value for each in status.values})
            for status in message.status
            if status.name.startswith(ours)
        }
        with self._changed:
            if report:
                self._reports.append(report)
                self._changed.notify_all()

    def _on_objects(self, message: Any) -> None:
        objects = decode_boxes(OBJECTS_TOPIC, serialize_message(message))
        with self._changed:
            if objects.stamp or not self._counting:
                self._objects[objects.stamp] = objects
                self._changed.notify_all()

    def _on_labels(self, info: Any) -> None:
        with self._changed:
            self._labels = {int(each.class_id): str(each.class_name) for each in info.class_map}
            self._changed.notify_all()
