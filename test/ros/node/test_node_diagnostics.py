"""What the node says of itself on /diagnostics."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from threading import Condition
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed; pip install 'spvnas_ros[ros]' brings it")

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.node import Node
from rosgraph_msgs.msg import Clock

from ros_control import operating
from ros_harness import (
    WAIT,
    cloud,
    eventually,
    exchange,
    ros,
    segmenter,
    segmenter_with,
    weights,
    with_data,
)
from spvnas_ros.clouds.fit import Known
from spvnas_ros.clouds.intensity import Intensity, IntensityWatch, TrainingIntensity, reference
from spvnas_ros.clouds.sensor_rules import Sensor
from spvnas_ros.frame import Segmentation
from spvnas_ros.ros.node.diagnostics import Condition as State
from spvnas_ros.ros.node.diagnostics import (
    Finding,
    input_finding,
    intensity_finding,
    node_finding,
    objects_finding,
    processing_finding,
)
from spvnas_ros.ros.node.network import Network
from spvnas_ros.ros.node.statistics import FrameTimes, Snapshot
from spvnas_ros.ros.process.lifetime import spinning

__all__ = ["ros", "weights"]  # fixtures


class Diagnosis:
    """What comes on /diagnostics."""

    def __init__(self, node: Node) -> None:
        self._arrays: list[DiagnosticArray] = []
        self._changed = Condition()
        node.create_subscription(DiagnosticArray, "/diagnostics", self._keep, 10)

    def stamps(self) -> list[float]:
        with self._changed:
            return [array.header.stamp.sec + array.header.stamp.nanosec / 1e9 for array in self._arrays]

    def wait_for(self, name: str, message: str) -> tuple[DiagnosticStatus, dict[str, str]]:
        """Wait for a status whose name ends and whose message begins like this."""

        def found() -> DiagnosticStatus | None:
            statuses = [status for array in self._arrays for status in array.status]
            matching = [s for s in statuses if s.name.endswith(name) and s.message.startswith(message)]
            return matching[-1] if matching else None

        with self._changed:
            assert self._changed.wait_for(found, WAIT), [status for array in self._arrays for status in array.status]
            status = found()
        assert status is not None
        return status, {entry.key: entry.value for entry in status.values}

    def _keep(self, array: DiagnosticArray) -> None:
        with self._changed:
            self._arrays.append(array)
            self._changed.notify_all()


def test_the_state_the_weights_the_clouds_and_what_was_bad_are_told(ros: str, weights: Path) -> None:
    from spvnas_ros.zoo.checkpoint import load_checkpoint

    _, facts = load_checkpoint(weights)
    listener = Node("listener")
    diagnosis = Diagnosis(listener)
    with spinning(listener), segmenter(ros, weights=weights), exchange(ros) as asking:
        status, values = diagnosis.wait_for("segmenter: node", "the network is not trained")
        assert status.name == f"{ros[1:]}/segmenter: node"
        assert (status.level, status.hardware_id) == (DiagnosticStatus.WARN, "narrow")
        assert (values["state"], values["weights"], values["weights sha256"]) == (
            "active",
            "narrow",
            facts.weights_sha256,
        )
        assert values["engine"] in ("cpu", "torch")
        assert 10 < float(values["memory (MB)"]) < 10_000

        asking.send(with_data(cloud(stamp=90), b"\0" * 100))
        status, values = diagnosis.wait_for("segmenter: input", "clouds that cannot be labelled: short-data")
        assert (status.level, values["bad: short-data"]) == (DiagnosticStatus.WARN, "1")

        asking.ask(cloud(200, stamp=91))
        _, values = diagnosis.wait_for("segmenter: processing", "")
        assert eventually(
            lambda: "inference (ms)" in diagnosis.wait_for("processing", "")[1] or asking.ask(cloud(50)) is None
        )

        status, _ = diagnosis.wait_for("segmenter: input", "no clouds come")
        assert status.level == DiagnosticStatus.WARN


def test_a_failed_start_is_told_until_it_is_mended(ros: str) -> None:
    listener = Node("listener")
    diagnosis = Diagnosis(listener)
    with spinning(listener), segmenter(ros, weights="nowhere", autostart=False):
        diagnosis.wait_for("segmenter: node", "unconfigured")
        with operating(ros) as operator:
            assert not operator.change("configure")
        status, _ = diagnosis.wait_for("segmenter: node", "there is no")
        assert status.level == DiagnosticStatus.ERROR


def test_under_use_sim_time_the_clock_topic_is_the_clock_and_may_jump_back(ros: str) -> None:
    listener = Node("listener")
    diagnosis = Diagnosis(listener)
    clock = listener.create_publisher(Clock, "/clock", 10)
    now = 1000.0

    def tick(seconds: float) -> None:
        nonlocal now
        now += seconds
        message = Clock()
        message.clock.sec, message.clock.nanosec = int(now), int(now % 1 * 1e9)
        clock.publish(message)

    def ticking(count: int) -> None:
        """Let time pass, half a second at a time, until so many more reports came."""
        goal = len(diagnosis.stamps()) + count
        assert eventually(lambda: len(diagnosis.stamps()) >= goal or tick(0.5) is not None)

    with spinning(listener), segmenter_with(ros, "counting", use_sim_time=True), exchange(ros) as asking:
        assert not any(diagnosis.stamps()), "no time has passed"
        ticking(3)
        stamps = [stamp for stamp in diagnosis.stamps() if stamp]
        assert all(1000 < stamp <= now for stamp in stamps)
        assert np.diff(stamps).min() >= 0.5, "one each second of /clock, give or take a tick"

        asking.ask(cloud(40, stamp=int(now) - 5))
        tick(1.0)
        ticking(1)
        _, values = diagnosis.wait_for("segmenter: input", "clouds are")
        assert 4000 <= float(values["age (ms)"]) <= 7000

        now = 500.0
        ticking(2)
        assert diagnosis.stamps()[-1] < 600


def test_without_a_clock_under_use_sim_time_the_node_says_so_and_reports_all_the_same(ros: str) -> None:
    listener = Node("listener")
    diagnosis = Diagnosis(listener)
    clock = listener.create_publisher(Clock, "/clock", 10)
    with spinning(listener), segmenter_with(ros, "counting", use_sim_time=True) as process, exchange(ros) as asking:
        process.wait_for("use_sim_time is set, but no time comes on /clock: play the bag with --clock, or")
        status, _ = diagnosis.wait_for("segmenter: node", "use_sim_time is set, but no time comes on /clock")
        assert status.level == DiagnosticStatus.WARN
        seen = len(diagnosis.stamps())
        assert eventually(lambda: len(diagnosis.stamps()) > seen + 1)
        assert not any(diagnosis.stamps())
        assert asking.ask(cloud(40, stamp=5)).cloud.width == 40

        def tick() -> None:
            message = Clock()
            message.clock.sec = 1000 + len(diagnosis.stamps())
            clock.publish(message)

        assert eventually(lambda: any(diagnosis.stamps()) or tick() is not None)
        diagnosis.wait_for("segmenter: node", "active")
        assert process.stop() == 0
    assert process.output.count("no time comes on /clock") == 1


# -- what is concluded ------------------------------------------------------------------------------------------------


def frame(at_ms: int, work_ms: int) -> FrameTimes:
    """A frame that was begun at once and took so long, the network all of it."""
    begun, ended = at_ms * 1_000_000, (at_ms + work_ms) * 1_000_000
    return FrameTimes(0, begun, begun, begun, begun, begun, ended, ended, ended, ended)


BEFORE = Snapshot(received=10, published=10)


def test_objects_are_told_by_cloud_with_those_that_have_none_and_the_time_of_the_head() -> None:
    frames = tuple(replace(frame(at, 5), head_ms=float(at)) for at in (1, 2, 3))
    before = Snapshot(objects=2, with_objects=2, without_objects=1)
    now = Snapshot(objects=8, with_objects=4, without_objects=2, frames=frames)
    finding = objects_finding(now, before, 0)
    assert (finding.message, finding.level) == ("2.0 per cloud, none in 1 of 3 clouds", DiagnosticStatus.OK)
    assert finding.values["box head (ms)"] == "2.00"
    assert (finding.values["clouds without any"], finding.values["objects"]) == ("2", "8")
    assert "choosing (ms)" in finding.values
    assert objects_finding(now, now, 0).message.startswith("not looked for: nobody subscribes to them")


@pytest.mark.parametrize(
    ("changes", "active", "message", "level"),
    [
        ({}, True, "no clouds come", DiagnosticStatus.WARN),
        ({}, False, "not active", DiagnosticStatus.OK),
        ({"received": 30, "age_ms": 12.0}, True, "10.00 clouds/s", DiagnosticStatus.OK),
        ({"received": 30, "unwatched": 19}, True, "10.00 clouds/s", DiagnosticStatus.OK),
        (
            {"received": 30, "unwatched": 20},
            True,
            "10.00 clouds/s, which are not labelled: no output has a subscriber",
            DiagnosticStatus.OK,
        ),
        ({"received": 12, "lost": 7}, True, "7 clouds were lost on the way to the node", DiagnosticStatus.WARN),
        ({"received": 110, "lost": 1}, True, "50.00 clouds/s", DiagnosticStatus.OK),
        ({"received": 30, "tf_failed": 4}, True, "4 clouds labelled without earlier sweeps", DiagnosticStatus.WARN),
        ({"received": 30, "age_ms": -400.0}, True, "clouds are -0.4 s old", DiagnosticStatus.WARN),
        ({"received": 30, "age_ms": 3e9}, True, "clouds are 3000000.0 s old", DiagnosticStatus.WARN),
        (
            {"received": 30, "bad": Counter({"no-xyz": 2})},
            True,
            "clouds that cannot be labelled: no-xyz",
            DiagnosticStatus.WARN,
        ),
    ],
)
def test_what_comes_in_is_judged(changes: dict[str, Any], active: bool, message: str, level: bytes) -> None:
    now = Snapshot(**{"received": 10, "published": 10, **changes})
    finding = input_finding(now, BEFORE, 2.0, active)
    assert finding.message.startswith(message)
    assert finding.level == level


def test_a_clock_that_stands_or_jumps_back_gives_no_rate() -> None:
    now = Snapshot(received=20, age_ms=1.0)
    assert [input_finding(now, BEFORE, seconds, True).values["rate (Hz)"] for seconds in (0.0, -3.0, 2.0)] == [
        "unknown",
        "unknown",
        "5.00",
    ]


def test_a_network_that_is_too_slow_for_its_input_is_told_with_the_drops() -> None:
    def finding(work_ms: int, dropped: int) -> Finding:
        frames = (frame(100, 900), frame(3000, work_ms), frame(4000, work_ms))
        now = Snapshot(received=30, published=13, dropped=dropped, period_ms=100.0, frames=frames)
        return processing_finding(now, BEFORE, 2_000_000_000)

    slow, fast = finding(300, 17), finding(30, 0)
    assert (slow.level, slow.message) == (
        DiagnosticStatus.WARN,
        "a cloud takes 300 ms, one comes every 100 ms: 17 were dropped",
    )
    assert slow.values["inference (ms)"] == "300.00"
    assert (fast.level, fast.message) == (DiagnosticStatus.OK, "30.0 ms per cloud")


def test_a_node_that_waits_for_time_is_not_well() -> None:
    found = node_finding(
        State("active", "", Network(lambda points, **_asked: Segmentation(*points)), "auto", no_time=True)
    )
    assert found.message.startswith("use_sim_time is set")
    failed = node_finding(State("unconfigured", "there is no file", None, "auto", no_time=True))
    assert failed.message == "there is no file", "what failed comes first"


def test_intensities_are_judged_only_where_they_are_used() -> None:
    watch, network = IntensityWatch(), Network(lambda points, **_asked: Segmentation(*points))
    watch.add(np.zeros((100, 4), np.float32))

    def finding(rule: str, network: Network | None) -> tuple[str, bytes]:
        found = intensity_finding(watch, State("active", "", network, Sensor(Intensity(rule))))
        return found.message, found.level

    assert finding("auto", network)[0].startswith("all of them are 0")
    assert finding("auto", network)[1] == DiagnosticStatus.WARN
    assert finding("none", network) == ("not used", DiagnosticStatus.OK)
    assert finding("auto", replace(network, known=Known(uses_intensity=False))) == ("not used", DiagnosticStatus.OK)
    watch.clear()
    assert finding("auto", None) == ("no clouds yet", DiagnosticStatus.OK)


@pytest.mark.parametrize(
    ("scale", "complaint"),
    [
        (1.0, ""),
        (255.0, "their 95th percentile is 1"),
        (1 / 255, "their 95th percentile is 0.00"),
        (0.0, "all of them are 0"),
    ],
)
def test_the_scale_of_a_real_scan_is_right_and_others_are_told(
    full_scan: np.ndarray[Any, Any], scale: float, complaint: str
) -> None:
    watch = IntensityWatch()
    assert watch.spread() is None
    points = full_scan.copy()
    points[:, 3] *= scale
    for _ in range(30):
        watch.add(points)
    watch.add(points[:0])
    spread = watch.spread()
    assert spread is not None
    found = spread.complaint(reference(None))
    assert (found[0] if found else "").startswith(complaint)
    assert bool(found) == bool(complaint)


@pytest.mark.parametrize(
    ("trained", "scale", "said"),
    [
        ((0.3, 0.5), 1.0, ""),
        ((0.04, 0.2), 1.0, "that of the network's training data 0.2; the sensor has another scale"),
        ((0.04, 0.2), 0.3, ""),
        ((0.5, 0.9), 2.2, "that of the network's training data 0.9"),
        ((0.0, 0.0), 1.0, "the clouds have intensities, the network's training data had none; set"),
        ((0.0, 0.0), 0.0, ""),
    ],
)
def test_weights_that_say_what_they_were_trained_on_are_taken_at_their_word(
    full_scan: np.ndarray[Any, Any], trained: tuple[float, float], scale: float, said: str
) -> None:
    watch = IntensityWatch()
    watch.add(full_scan * np.array([1, 1, 1, scale], np.float32))
    network = Network(
        lambda points, **_asked: Segmentation(*points), known=Known(reference(TrainingIntensity(*trained)))
    )
    finding = intensity_finding(watch, State("active", "", network, Sensor(Intensity("unit"))))
    assert (finding.level == DiagnosticStatus.WARN) == bool(said)
    assert (said or "like those of the network's training data") in finding.message
    assert finding.values["compared with"] == "the network's training data"
    assert float(finding.values["training p95"]) == trained[1]
    silent = intensity_finding(watch, State("active", "", replace(network, known=Known()), Sensor(Intensity("unit"))))
    assert (silent.values["compared with"], silent.values["training p95"]) == ("SemanticKITTI's scans", "0.5")
