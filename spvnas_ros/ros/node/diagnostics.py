"""Publishes the health of the node on /diagnostics, once a second."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock, ROSClock
from rclpy.clock_type import ClockType
from rclpy.node import Node

from spvnas_ros.clouds.fit import Known
from spvnas_ros.clouds.intensity import IntensityWatch
from spvnas_ros.clouds.sensor_rules import Sensor
from spvnas_ros.ros.node.fit_watch import Fit
from spvnas_ros.ros.node.following import Followed
from spvnas_ros.ros.node.network import Network
from spvnas_ros.ros.node.statistics import OBJECTS, STAGES, FrameStatistics, Snapshot
from spvnas_ros.ros.process.memory import resident_bytes

PERIOD_SECONDS = 1.0

NO_TIME = "use_sim_time is set, but no time comes on /clock"
_NO_TIME_SECONDS = 3.0
"""Real time for which a clock may wait for /clock before it is told."""

_FEW_LOST = 0.02
"""Share of the clouds that may be lost on the way without a word."""
_OLD_MS, _AHEAD_MS = 1000.0, -50.0
"""Milliseconds: limits of the age of a cloud on arrival. A cloud outside them was stamped by another clock."""


@dataclass(frozen=True)
class Condition:
    """The condition of the node itself.

    state:   its life-cycle state
    failure: why the last transition failed; "" where it succeeded
    network: the network that labels; None where the node is not configured
    sensor:  the rules for its clouds
    fit:     what the first clouds showed; None before
    no_time: whether the node's clock waits for /clock
    followed: the objects that are followed; None where none are
    lack:    why no clouds can come; "" where they can
    """

    state: str
    failure: str
    network: Network | None
    sensor: Sensor
    fit: Fit | None = None
    no_time: bool = False
    followed: Followed | None = None
    lack: str = ""


@dataclass(frozen=True)
class Finding:
    """One line of a diagnostics viewer, with the values behind it."""

    name: str
    message: str
    values: Mapping[str, str]
    level: bytes = DiagnosticStatus.OK


class Diagnostics:
    """Publishes the findings about statistics, intensities and condition, from a timer of the node's clock.

    With `use_sim_time` the period of one second is measured by /clock, as the stamps are. Where /clock never comes, the
    findings are published once a second of real time, without a stamp, and say so; the log says it once.
    """

    def __init__(
        self, node: Node, statistics: FrameStatistics, watch: IntensityWatch, condition: Callable[[], Condition]
    ) -> None:
        self._node = node
        self._statistics = statistics
        self._watch = watch
        self._condition = condition
        self._before = Snapshot()
        self._followed: Followed | None = None
        self._reported_ns = time.monotonic_ns()
        self._clock_ns = node.get_clock().now().nanoseconds
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._waits_since_ns: int | None = None
        node.create_timer(PERIOD_SECONDS, self._report)
        node.create_timer(PERIOD_SECONDS, self._look_for_time, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _report(self) -> None:
        now, snapshot = self._node.get_clock().now(), self._statistics.snapshot()
        condition = replace(self._condition(), no_time=self._no_time())
        # With use_sim_time the clock stays at 0 until the first message of /clock, and then jumps.
        seconds = (now.nanoseconds - self._clock_ns) / 1e9 if self._clock_ns else 0.0
        findings = [
            node_finding(condition),
            input_finding(snapshot, self._before, seconds, condition.state == "active", condition.lack),
            processing_finding(snapshot, self._before, self._reported_ns),
            intensity_finding(self._watch, condition),
            clouds_finding(condition, snapshot, self._before),
        ]
        if condition.network is not None and condition.network.box_names:
            findings.append(objects_finding(snapshot, self._before, self._reported_ns))
        if condition.followed is not None:
            findings.append(tracks_finding(condition.followed, self._followed or condition.followed))
        self._followed = condition.followed
        self._before, self._clock_ns, self._reported_ns = snapshot, now.nanoseconds, time.monotonic_ns()
        name = self._node.get_fully_qualified_name().lstrip("/")
        hardware = condition.network.name if condition.network else ""
        message = DiagnosticArray(status=[_status(name, hardware, finding) for finding in findings])
        message.header.stamp = now.to_msg()
        self._publisher.publish(message)

    def _look_for_time(self) -> None:
        """Reports without the node's clock where that has waited for /clock for seconds. Logs it the first time."""
        if not self._no_time():
            self._waits_since_ns = None
            return
        now = time.monotonic_ns()
        if self._waits_since_ns is None:
            self._waits_since_ns = now
        if now - self._waits_since_ns < _NO_TIME_SECONDS * 1e9:
            return
        self._node.get_logger().warning(
            f"{NO_TIME}: play the bag with --clock, or set use_sim_time to false. Clouds are labelled all the same, "
            "but their age and rate are not known, and the diagnostics have no stamps",
            once=True,
        )
        self._report()

    def _no_time(self) -> bool:
        clock = self._node.get_clock()
        return isinstance(clock, ROSClock) and clock.ros_time_is_active and clock.now().nanoseconds == 0


def node_finding(condition: Condition) -> Finding:
    """Returns the finding about state, weights and memory."""
    values = {"state": condition.state}
    if (memory := resident_bytes()) is not None:
        values["memory (MB)"] = f"{memory / 1e6:.0f}"
    if (network := condition.network) is not None:
        values |= {
            "weights": network.name,
            "weights sha256": network.sha256,
            "engine": network.engine,
            "precision": network.precision,
            "device": network.device,
            "classes": str(len(network.classes)),
            "classes of objects": ", ".join(network.box_names) or "none",
        }
        values |= {name: str(count) for name, count in network.range_counts().items()}
    if condition.failure:
        return Finding("node", condition.failure, values, DiagnosticStatus.ERROR)
    if condition.no_time:
        return Finding("node", NO_TIME, values, DiagnosticStatus.WARN)
    if network is not None and not network.trained:
        return Finding("node", "the network is not trained: what it says means nothing", values, DiagnosticStatus.WARN)
    return Finding("node", condition.state, values)


def input_finding(now: Snapshot, before: Snapshot, seconds: float, active: bool, lack: str = "") -> Finding:
    """Returns the finding about the clouds that arrive and what is done with them.

    now, before: the counters at this report and at the last one
    seconds:     time between them by the node's clock, which may stand still or jump back
    active:      whether the node is active
    lack:        why no clouds can come; "" where they can
    """
    new = now.received - before.received
    rate = f"{new / seconds:.2f}" if seconds > 0 else "unknown"
    values = {
        "rate (Hz)": rate,
        "age (ms)": "unknown" if now.age_ms is None else f"{now.age_ms:.1f}",
        "received": str(now.received),
        "labelled": str(now.published),
        "dropped": str(now.dropped),
        "lost on the way": str(now.lost),
        "without subscribers": str(now.unwatched),
        "without earlier sweeps": str(now.tf_failed),
        "bad": str(now.bad.total()),
        **{f"bad: {kind}": str(count) for kind, count in sorted(now.bad.items())},
    }
    if not active:
        return Finding("input", "not active: clouds are not listened to", values)
    lost = now.lost - before.lost
    if lost > _FEW_LOST * (new + lost):
        text = f"{lost} clouds were lost on the way to the node: has the driver the transport of docs/node.md?"
        return Finding("input", text, values, DiagnosticStatus.WARN)
    if not new:
        return Finding("input", lack or "no clouds come", values, DiagnosticStatus.WARN)
    if kinds := sorted((now.bad - before.bad).keys()):
        return Finding("input", f"clouds that cannot be labelled: {', '.join(kinds)}", values, DiagnosticStatus.WARN)
    if alone := now.tf_failed - before.tf_failed:
        text = f"{alone} clouds labelled without earlier sweeps: TF does not say where those were"
        return Finding("input", text, values, DiagnosticStatus.WARN)
    if now.age_ms is not None and not _AHEAD_MS <= now.age_ms <= _OLD_MS:
        text = (
            f"clouds are {now.age_ms / 1000:.1f} s old when they come: their stamps are of another clock, or "
            "use_sim_time is not set as it has to be"
        )
        return Finding("input", text, values, DiagnosticStatus.WARN)
    if now.unwatched - before.unwatched >= new:
        return Finding("input", f"{rate} clouds/s, which are not labelled: no output has a subscriber", values)
    return Finding("input", f"{rate} clouds/s", values)


def processing_finding(now: Snapshot, before: Snapshot, since_ns: int) -> Finding:
    """Returns the finding about the time that a cloud takes, compared with the time until the next one arrives.

    since_ns: time of the monotonic clock; frames published later count
    """
    frames = [frame for frame in now.frames if frame.published > since_ns]
    values = {"period of the input (ms)": "unknown" if now.period_ms is None else f"{now.period_ms:.1f}"}
    if not frames:
        return Finding("processing", "nothing was labelled", values)
    work = float(np.median([frame.work_ms for frame in frames]))
    stages = [frame.stages_ms() for frame in frames]
    values |= {f"{stage} (ms)": f"{np.median([each[stage] for each in stages]):.2f}" for stage in STAGES}
    dropped = now.dropped - before.dropped
    if dropped and now.period_ms is not None and work > now.period_ms:
        text = f"a cloud takes {work:.0f} ms, one comes every {now.period_ms:.0f} ms: {dropped} were dropped"
        return Finding("processing", text, values, DiagnosticStatus.WARN)
    return Finding("processing", f"{work:.1f} ms per cloud", values)


def objects_finding(now: Snapshot, before: Snapshot, since_ns: int) -> Finding:
    """Returns the finding about the objects that are published, and the time that they take.

    now, before: the counters at this report and at the last one
    since_ns:    time of the monotonic clock; frames published later count
    """
    some, none = now.with_objects - before.with_objects, now.without_objects - before.without_objects
    values = {
        "objects": str(now.objects),
        "clouds with objects": str(now.with_objects),
        "clouds without any": str(now.without_objects),
    }
    if not some + none:
        return Finding("objects", "not looked for: nobody subscribes to them, or no clouds come", values)
    frames = [frame for frame in now.frames if frame.published > since_ns]
    heads = [frame.head_ms for frame in frames if frame.head_ms is not None]
    if heads:
        values["box head (ms)"] = f"{np.median(heads):.2f}"
    if frames:
        values["choosing (ms)"] = f"{np.median([frame.parts_ms()[OBJECTS] for frame in frames]):.2f}"
    each = (now.objects - before.objects) / (some + none)
    values["objects per cloud"] = f"{each:.1f}"
    return Finding("objects", f"{each:.1f} per cloud, none in {none} of {some + none} clouds", values)


def intensity_finding(watch: IntensityWatch, condition: Condition) -> Finding:
    """Returns the finding about the intensities that the network gets, compared with those of its training."""
    spread = watch.spread()
    network = condition.network
    known = network.known if network else Known()
    against = known.reference
    values = {
        "rule": condition.sensor.intensity.rule,
        "scale": condition.sensor.intensity.describe(),
        "compared with": against.whose,
        "training median": f"{against.intensity.median:.4g}",
        "training p95": f"{against.intensity.p95:.4g}",
    }
    if condition.sensor.intensity.rule == "none" or not known.uses_intensity:
        return Finding("intensity", "not used", values)
    if spread is None:
        return Finding("intensity", "no clouds yet", values)
    values |= {
        "median": f"{spread.median:.4g}",
        "p95": f"{spread.p95:.4g}",
        "largest": f"{spread.largest:.4g}",
    }
    scale = condition.sensor.intensity.scale
    if complaint := spread.complaint(against, scale.divisor if scale else 1.0):
        return Finding("intensity", "; ".join(complaint), values, DiagnosticStatus.WARN)
    return Finding("intensity", f"like those of {against.whose}", values)


def clouds_finding(condition: Condition, now: Snapshot, before: Snapshot) -> Finding:
    """Returns the finding about the clouds themselves: where the sensor stands, and which points cannot be labelled.

    now, before: the counters at this report and at the last one
    """
    fit, points = condition.fit, now.points - before.points
    values = {"place": condition.sensor.place.describe() or "as the clouds have it"}
    if fit is not None:
        values["ground height (m)"] = "not seen" if fit.ground_height is None else f"{fit.ground_height:.2f}"
        values["ground tilt (degrees)"] = "not seen" if fit.tilt is None else f"{fit.tilt:.1f}"
    earlier = before.unusable.counts()
    for kind, count in now.unusable.counts().items():
        share = (count - earlier[kind]) / points if points else 0.0
        values[f"points without a label: {kind.replace('_', ' ')} (%)"] = f"{100 * share:.2f}"
    if fit is not None and fit.concerns:
        return Finding("clouds", "; ".join(map(str, fit.concerns)), values, DiagnosticStatus.WARN)
    return Finding("clouds", "as the network knows them" if fit else "not looked at yet", values)


def tracks_finding(now: Followed, before: Followed) -> Finding:
    """Returns the finding about the objects that are followed from cloud to cloud, now and at the last report."""
    values = {
        "frame": now.frame or "the clouds' own",
        "followed": str(now.objects),
        "ids given": str(now.given),
        "restarts": str(now.restarts),
        "clouds without a place": str(now.unplaced),
    }
    if lost := now.unplaced - before.unplaced:
        text = f"the objects of {lost} clouds have no ids: TF does not say where those were in {now.frame}"
        return Finding("tracks", text, values, DiagnosticStatus.WARN)
    if new := now.restarts - before.restarts:
        return Finding("tracks", f"all objects were forgotten {new} times: time jumped, or clouds stopped", values)
    return Finding("tracks", f"{now.objects} objects are followed", values)


def _status(node: str, hardware: str, finding: Finding) -> DiagnosticStatus:
    return DiagnosticStatus(
        level=finding.level,
        name=f"{node}: {finding.name}",
        message=finding.message,
        hardware_id=hardware,
        values=[KeyValue(key=key, value=value) for key, value in finding.values.items()],
    )
