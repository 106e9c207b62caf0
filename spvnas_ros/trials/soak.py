"""Hold the node under load and mishaps, and watch its memory and threads from outside.

    python -m spvnas_ros.trials.soak [--seconds 600] [--points 120000] [--rate 10] [--least 100] [--leak 0]

A driver in a process of its own sends clouds, garbage between them, and now and then a stamp of an hour ago.
Twice it is killed and comes back. The node is the real one, in a process of its own, with a network that answers at
once, with labels and boxes: this is about all that is around the network, and must keep the rate on any machine. Linux
only (/proc).
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from threading import Event, Thread

import numpy as np
from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import PointCloud2

from spvnas_ros.frame import Boxes, Points, Segmentation
from spvnas_ros.ros.node.labelling import stamp_ns
from spvnas_ros.ros.node.network import Network
from spvnas_ros.ros.node.segmenter_node import INPUT_TOPIC, NODE_NAME, SegmenterNode
from spvnas_ros.ros.process.lifetime import StopRequested, ros_process, run, spinning
from spvnas_ros.ros.replay.exchange import CloudExchange, ExchangeError
from spvnas_ros.trials.garbage import garbage_cloud
from spvnas_ros.trials.leak import Trend, trend
from spvnas_ros.trials.plain import plain_cloud

_GARBAGE_PER_CLOUD = 2
_JUMP_EVERY, _JUMP_NS = 25, 3_600_000_000_000
_LIVES = 3
"""Of the driver: it is killed at the end of all but the last."""

_WARM_UP_CLOUDS = 60
_SAMPLE_SECONDS = 0.1
_START_SECONDS = 60.0
_PATIENCE_SECONDS = 240.0
"""How much longer a life may last until enough clouds are answered: a machine may be busy."""
_FRAME = "soak"
_NAMES, _COLOURS = ("car", "person"), ((98, 165, 255), (255, 117, 98))
_BOXES = 40
_OBJECT_TOPICS = {
    "objects": ("vision_msgs", "Detection3DArray"),
    "object_markers": ("visualization_msgs", "MarkerArray"),
}
"""What the node publishes of objects, by the package and the type that it needs."""


@dataclass(frozen=True)
class Load:
    """What the node has to hold up under.

    seconds: how long, at least
    points:  of a cloud
    rate:    clouds a second; twice as much garbage comes between
    least:   clouds answered in each life of the driver, however long that takes: a busy machine gets the time it needs
    leak:    bytes that the node is to leak with each cloud, to see that it is found
    """

    seconds: float
    points: int
    rate: float
    least: int
    leak: int


@dataclass(frozen=True)
class Sample:
    """The node's process at a moment.

    answered: clouds that have come back labelled
    memory:   resident bytes of its own (anonymous). What it shares with drivers comes and goes with them.
    threads:  how many it has
    """

    answered: int
    memory: int
    threads: int

    @classmethod
    def of(cls, pid: int, answered: int) -> Sample:
        """From /proc. Raises OSError where the process is gone."""
        lines = (line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        values = {name: text.split() for name, text in lines}
        if "RssAnon" not in values:
            raise ProcessLookupError(f"process {pid} has ended")
        return cls(answered, int(values["RssAnon"][0]) * 1024, int(values["Threads"][0]))


@dataclass(frozen=True)
class SoakReport:
    """What came of it.

    sent, garbage: clouds and garbage that the driver published
    lives:         clouds that came back labelled, by life of the driver
    objects:       messages of objects that came, by topic; none of types that are not installed
    dropped, bad:  as the node counted them
    samples:       of the node's process, over all lives
    p50, p95:      milliseconds from the driver's `publish` to having the labelled cloud
    status:        the node's exit status after SIGINT
    """

    sent: int
    garbage: int
    lives: tuple[int, ...]
    objects: Mapping[str, int]
    dropped: int
    bad: int
    samples: tuple[Sample, ...]
    p50: float
    p95: float
    status: int

    @property
    def memory(self) -> Trend:
        """What clouds leave in memory."""
        return trend([each.answered for each in self.samples], [each.memory for each in self.samples])

    def problems(self) -> list[str]:
        """What did not hold up, a line each."""
        found = []
        if self.memory.leaks:
            found.append(f"memory leaks: {self.memory}")
        start, end = self._ends()
        if end.threads > start.threads:
            found.append(f"threads grew from {start.threads} to {end.threads}")
        if self.garbage and not self.bad:
            found.append("no garbage was counted as such")
        found += [f"nothing came on {topic}" for topic, count in self.objects.items() if not count]
        if self.status:
            found.append(f"the node ended with status {self.status}, expected 0")
        return found

    def __str__(self) -> str:
        start, end = self._ends()
        lives = " + ".join(map(str, self.lives))
        rows = [
            ("clouds sent", f"{self.sent}"),
            ("answered", f"{sum(self.lives)} ({lives}; the driver was killed between)"),
            *((f"messages of {topic}", f"{count}") for topic, count in self.objects.items()),
            ("dropped for newer ones", f"{self.dropped}"),
            ("garbage sent, counted bad", f"{self.garbage}, {self.bad}"),
            ("memory of its own, MB", f"{start.memory / 1e6:.1f} -> {end.memory / 1e6:.1f}"),
            ("memory, trend", f"{self.memory}"),
            ("threads", f"{start.threads} -> {end.threads}"),
            ("publish to labels, ms", f"p50 {self.p50:.1f}, p95 {self.p95:.1f}"),
            ("exit status", f"{self.status}"),
        ]
        return "\n".join(f"{name:<28}{value}" for name, value in rows)

    def _ends(self) -> tuple[Sample, Sample]:
        """The node when it had warmed up, and at the end; medians of a tenth of the samples."""
        tenth = max(1, len(self.samples) // 10)
        return _typical(self.samples[2 * tenth : 3 * tenth]), _typical(self.samples[-tenth:])


def soak(load: Load) -> SoakReport:
    """Runs driver and node. Raises ExchangeError where the node does not answer, OSError where it dies."""
    namespace = f"/soak_{os.getpid()}"
    segmenter = f"{namespace}/{NODE_NAME}"
    with tempfile.TemporaryDirectory() as folder:
        counts_file = Path(folder) / "counts.json"
        follow = ("-p", "objects.track:=true", "-p", 'objects.track_frame:=""')  # nothing sends a pose
        node = _start("--node", counts_file, "--leak", load.leak, "--ros-args", "-r", f"__ns:={namespace}", *follow)
        try:
            with ros_process([]):
                _warm_up(segmenter, load.points)
                listener = _Listener(f"{segmenter}/output")
                with spinning(listener):
                    watch = _Watch(node.pid, listener, INPUT_TOPIC.replace("~", segmenter), load)
                    for life in range(_LIVES):
                        watch.live(killed=life < _LIVES - 1)
        finally:
            node.send_signal(signal.SIGINT)
            status = node.wait()
        counts = json.loads(counts_file.read_text())
    p50, p95 = np.percentile(listener.milliseconds, [50, 95])
    return SoakReport(
        watch.sent, watch.garbage, tuple(watch.lives), listener.objects, counts["dropped"], counts["bad"],
        tuple(watch.samples), p50, p95, status,
    )  # fmt: skip


class _Listener(Node):
    """Counts the labelled clouds and the messages of objects, and times the clouds that were no garbage."""

    def __init__(self, output: str) -> None:
        super().__init__("listener")
        self.answered = 0
        self.milliseconds: list[float] = []
        self.objects: dict[str, int] = {}
        self.create_subscription(PointCloud2, f"{output}/labeled_points", self._on_cloud, QoSProfile(depth=10))
        for topic, (package, kind) in _OBJECT_TOPICS.items():
            with suppress(ImportError):
                message = getattr(importlib.import_module(f"{package}.msg"), kind)
                self.objects[topic] = 0
                self.create_subscription(message, f"{output}/{topic}", partial(self._on_objects, topic), 10)

    def _on_objects(self, topic: str, _message: object) -> None:
        self.objects[topic] += 1

    def _on_cloud(self, cloud: PointCloud2) -> None:
        self.answered += 1
        if cloud.header.frame_id == _FRAME:
            # The stamp may have jumped back by an hour.
            self.milliseconds.append((time.monotonic_ns() - stamp_ns(cloud)) % _JUMP_NS / 1e6)


class _Watch:
    """Lets drivers live and samples the node meanwhile."""

    def __init__(self, pid: int, listener: _Listener, topic: str, load: Load) -> None:
        self.sent = self.garbage = 0
        self.lives: list[int] = []
        self.samples: list[Sample] = []
        self._pid, self._listener, self._topic, self._load = pid, listener, topic, load

    def live(self, *, killed: bool) -> None:
        """One life of the driver, from its first message on; its end is a SIGKILL or a SIGINT.

        Raises ExchangeError where too few clouds are answered.
        """
        before = len(self._listener.milliseconds)
        driver = self._driver()
        begun = Event()
        reader = Thread(target=self._count, args=(driver, begun), name="count")
        reader.start()
        try:
            begun.wait(_START_SECONDS)
            start = time.monotonic()
            while not self._lived(time.monotonic() - start, len(self._listener.milliseconds) - before):
                time.sleep(_SAMPLE_SECONDS)
                self.samples.append(Sample.of(self._pid, self._listener.answered))
        finally:
            driver.send_signal(signal.SIGKILL if killed else signal.SIGINT)
            driver.wait()
            reader.join()
        self.lives.append(len(self._listener.milliseconds) - before)

    def _driver(self) -> subprocess.Popen[bytes]:
        load, seed = self._load, len(self.lives)
        return _start(
            "--driver", self._topic, "--points", load.points, "--rate", load.rate, "--seed", seed, piped=True
        )  # fmt: skip

    def _lived(self, seconds: float, answered: int) -> bool:
        if seconds > self._load.seconds / _LIVES + _PATIENCE_SECONDS:
            raise ExchangeError(f"{answered} clouds were answered in {seconds:.0f} s, expected {self._load.least}")
        return seconds > self._load.seconds / _LIVES and answered >= self._load.least

    def _count(self, driver: subprocess.Popen[bytes], begun: Event) -> None:
        assert driver.stdout is not None
        for line in driver.stdout:
            begun.set()
            if line == b"cloud\n":
                self.sent += 1
            else:
                self.garbage += 1


def _typical(samples: Sequence[Sample]) -> Sample:
    return Sample(*(int(median(values)) for values in zip(*map(astuple, samples), strict=True)))


class _CountingNode(SegmenterNode):
    """The segmenter with a network that takes no time; leaves its counts in a file."""

    def __init__(self, counts_file: Path, leak: int) -> None:
        self._counts_file = counts_file
        super().__init__(_network(leak))

    def destroy_node(self) -> None:
        super().destroy_node()
        counts = self.statistics.snapshot()
        self._counts_file.write_text(json.dumps({"dropped": counts.dropped, "bad": counts.bad.total()}))


def _network(leak: int) -> Network:
    """Answers at once, and keeps so many bytes of every cloud."""
    kept: list[bytes] = []
    rng = np.random.default_rng(0)
    places = rng.uniform((-40, -40, -1, 1, 1, 1, -3), (40, 40, 1, 5, 3, 3, 3), (_BOXES, 7)).astype(np.float32)
    found = Boxes(places, np.linspace(0, 1, _BOXES, dtype=np.float32), np.arange(_BOXES).astype(np.uint8) % 2)

    def answer(points: Points, /, *, labels: bool, boxes: bool) -> Segmentation:  # noqa: ARG001 (all at once)
        if leak:
            kept.append(b"\1" * leak)
        sure = np.ones(len(points), np.float32)
        return Segmentation(np.zeros(len(points), np.uint8), sure, boxes=found if boxes else None)

    return Network(answer, box_names=_NAMES, box_palette=_COLOURS)


def _drive(topic: str, points: int, rate: float, seed: int) -> int:
    """The driver's process: clouds and garbage, each told on stdout before it goes, until a signal."""
    rng = np.random.default_rng(seed)
    cloud = plain_cloud(rng, points, _FRAME)
    period = 1 / rate / (1 + _GARBAGE_PER_CLOUD)
    try:
        with ros_process([]):
            publisher = Node("driver").create_publisher(PointCloud2, topic, QoSProfile(depth=1))
            while not publisher.get_subscription_count():
                time.sleep(0.01)
            due = time.monotonic()
            for number in range(sys.maxsize):
                is_cloud = number % (1 + _GARBAGE_PER_CLOUD) == 0
                message = cloud if is_cloud else garbage_cloud(rng)
                due += period
                time.sleep(max(0.0, due - time.monotonic()))
                os.write(sys.stdout.fileno(), b"cloud\n" if is_cloud else b"garbage\n")
                if is_cloud:
                    jumped = number // (1 + _GARBAGE_PER_CLOUD) % _JUMP_EVERY == _JUMP_EVERY - 1
                    _stamp(cloud, time.monotonic_ns() - jumped * _JUMP_NS)
                publisher.publish(message)
    except StopRequested:
        pass
    return 0


def _stamp(cloud: PointCloud2, nanoseconds: int) -> None:
    cloud.header.stamp.sec, cloud.header.stamp.nanosec = divmod(nanoseconds, 1_000_000_000)


def _start(*arguments: object, piped: bool = False) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", __spec__.name, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE if piped else None)


def _warm_up(segmenter: str, points: int) -> None:
    """So many clouds that the shared memory they go through has been all around once."""
    exchange, cloud = CloudExchange(segmenter), plain_cloud(np.random.default_rng(0), points, "warm-up")
    with spinning(exchange):
        exchange.wait_until_ready(_START_SECONDS)
        for number in range(_WARM_UP_CLOUDS):
            _stamp(cloud, number)
            exchange.ask(cloud)


def main(args: list[str] | None = None) -> int:
    """Command line; returns the exit status: 1 where something did not hold up."""
    parser = argparse.ArgumentParser(prog="soak", description="Hold the node under load and mishaps.")
    parser.add_argument("--seconds", type=float, default=600.0, help="how long (default 600)")
    parser.add_argument("--points", type=int, default=120_000, help="points of a cloud (default 120000)")
    parser.add_argument("--rate", type=float, default=10.0, help="clouds a second (default 10)")
    parser.add_argument("--least", type=int, default=100, help="clouds answered a driver's life (default 100)")
    parser.add_argument("--leak", type=int, default=0, help="bytes the node is to leak with each cloud (default 0)")
    parser.add_argument("--node", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--driver", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    options, ros_args = parser.parse_known_args(args)
    if options.node:
        return run(lambda: _CountingNode(options.node, options.leak), [sys.argv[0], *ros_args])
    if options.driver:
        return _drive(options.driver, options.points, options.rate, options.seed)
    report = soak(Load(options.seconds, options.points, options.rate, options.least, options.leak))
    print(report)
    problems = report.problems()
    for problem in problems:
        print(f"did not hold up: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
