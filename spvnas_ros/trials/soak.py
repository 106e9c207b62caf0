"""Hold the node under load and mishaps, and watch its memory and threads from outside.

    python -m spvnas_ros.trials.soak [--seconds 600] [--points 120000]

A driver in a process of its own sends clouds at 10 Hz, garbage between them, and now and then a stamp of an hour ago.
Twice it is killed and comes back. The node is the real one, in a process of its own, with a network that answers at
once: this is about all that is around the network, and must keep the rate on any machine. Linux only (/proc).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from statistics import median
from threading import Event, Thread

import numpy as np
from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import PointCloud2

from spvnas_ros.frame import Points, Segmentation
from spvnas_ros.ros.node.labelling import stamp_ns
from spvnas_ros.ros.node.segmenter_node import INPUT_TOPIC, NODE_NAME, SegmenterNode
from spvnas_ros.ros.process.lifetime import StopRequested, ros_process, run, spinning
from spvnas_ros.ros.replay.exchange import CloudExchange
from spvnas_ros.trials.garbage import garbage_cloud
from spvnas_ros.trials.plain import plain_cloud

MOST_GROWTH = 0.02
"""Of the resident memory, from the end of the warm-up to the end."""

_RATE_HZ = 10
_GARBAGE_PER_CLOUD = 2
_JUMP_EVERY, _JUMP_NS = 25, 3_600_000_000_000
_LIVES = 3
"""Of the driver: it is killed at the end of all but the last."""

_WARM_UP_CLOUDS = 60
_SAMPLE_SECONDS = 0.25
_START_SECONDS = 60.0
_FRAME = "soak"


@dataclass(frozen=True)
class Sample:
    """The node's process at a moment: resident bytes and threads."""

    resident: int
    threads: int

    @classmethod
    def of(cls, pid: int) -> Sample:
        """From /proc. Raises OSError where the process is gone."""
        lines = (line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        values = {name: text.split() for name, text in lines}
        if "VmRSS" not in values:
            raise ProcessLookupError(f"process {pid} has ended")
        return cls(int(values["VmRSS"][0]) * 1024, int(values["Threads"][0]))


@dataclass(frozen=True)
class SoakReport:
    """What came of it.

    sent, garbage: clouds and garbage that the driver published
    answered:      clouds that came back labelled; by life of the driver in `lives`
    dropped, bad:  as the node counted them
    start, end:    the node at the end of the driver's first life and of its last, medians
    p50, p95:      milliseconds from the driver's `publish` to having the labelled cloud
    status:        the node's exit status after SIGINT
    """

    sent: int
    garbage: int
    lives: tuple[int, ...]
    dropped: int
    bad: int
    start: Sample
    end: Sample
    p50: float
    p95: float
    status: int

    @property
    def answered(self) -> int:
        """Clouds that came back labelled."""
        return sum(self.lives)

    @property
    def growth(self) -> float:
        """Of the resident memory; 0.01 is 1 %."""
        return self.end.resident / self.start.resident - 1

    def problems(self) -> list[str]:
        """What did not hold up, a line each."""
        found = []
        if self.growth >= MOST_GROWTH:
            found.append(f"memory grew by {self.growth:.1%}, expected less than {MOST_GROWTH:.0%}")
        if self.end.threads > self.start.threads:
            found.append(f"threads grew from {self.start.threads} to {self.end.threads}")
        for number, answered in enumerate(self.lives, 1):
            if not answered:
                found.append(f"nothing was answered in life {number} of the driver")
        if self.garbage and not self.bad:
            found.append("no garbage was counted as such")
        if self.status:
            found.append(f"the node ended with status {self.status}, expected 0")
        return found

    def __str__(self) -> str:
        megabytes = [sample.resident / 1e6 for sample in (self.start, self.end)]
        rows = [
            ("clouds sent", f"{self.sent}"),
            ("answered", f"{self.answered} ({' + '.join(map(str, self.lives))}; the driver was killed between)"),
            ("dropped for newer ones", f"{self.dropped}"),
            ("garbage sent, counted bad", f"{self.garbage}, {self.bad}"),
            ("memory (RSS), MB", f"{megabytes[0]:.1f} -> {megabytes[1]:.1f} ({self.growth:+.2%})"),
            ("threads", f"{self.start.threads} -> {self.end.threads}"),
            ("publish to labels, ms", f"p50 {self.p50:.1f}, p95 {self.p95:.1f}"),
            ("exit status", f"{self.status}"),
        ]
        return "\n".join(f"{name:<28}{value}" for name, value in rows)


def soak(seconds: float, points: int = 120_000) -> SoakReport:
    """Run driver and node for so long. Raises ExchangeError where the node does not come up, OSError where it dies."""
    namespace = f"/soak_{os.getpid()}"
    segmenter = f"{namespace}/{NODE_NAME}"
    with tempfile.TemporaryDirectory() as folder:
        counts_file = Path(folder) / "counts.json"
        node = _start("--node", str(counts_file), "--ros-args", "-r", f"__ns:={namespace}")
        try:
            with ros_process([]):
                _warm_up(segmenter, points)
                listener = _Listener(f"{segmenter}/output/labeled_points")
                with spinning(listener):
                    watch = _Watch(node.pid, listener, INPUT_TOPIC.replace("~", segmenter), points)
                    for life in range(_LIVES):
                        watch.live(seconds / _LIVES, killed=life < _LIVES - 1)
        finally:
            node.send_signal(signal.SIGINT)
            status = node.wait()
        counts = json.loads(counts_file.read_text())
    p50, p95 = np.percentile(listener.milliseconds or [np.nan], [50, 95])
    start, end = watch.start_and_end()
    return SoakReport(
        watch.sent, watch.garbage, tuple(watch.lives), counts["dropped"], counts["bad"], start, end, p50, p95, status
    )


class _Listener(Node):
    """Times the labelled clouds."""

    def __init__(self, topic: str) -> None:
        super().__init__("listener")
        self.milliseconds: list[float] = []
        self.create_subscription(PointCloud2, topic, self._on_cloud, QoSProfile(depth=10))

    def _on_cloud(self, cloud: PointCloud2) -> None:
        if cloud.header.frame_id == _FRAME:
            # The stamp may have jumped back by an hour.
            self.milliseconds.append((time.monotonic_ns() - stamp_ns(cloud)) % _JUMP_NS / 1e6)


class _Watch:
    """Lets drivers live and samples the node meanwhile."""

    def __init__(self, pid: int, listener: _Listener, topic: str, points: int) -> None:
        self.sent = self.garbage = 0
        self.lives: list[int] = []
        self._pid, self._listener, self._topic, self._points = pid, listener, topic, points
        self._samples: list[list[Sample]] = []

    def live(self, seconds: float, *, killed: bool) -> None:
        """One life of the driver, so long from its first message on; its end is a SIGKILL or a SIGINT."""
        before = len(self._listener.milliseconds)
        seed = len(self.lives)
        driver = _start("--driver", self._topic, "--points", str(self._points), "--seed", str(seed), piped=True)
        begun = Event()
        reader = Thread(target=self._count, args=(driver, begun), name="count")
        reader.start()
        samples = []
        try:
            begun.wait(_START_SECONDS)
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline:
                time.sleep(_SAMPLE_SECONDS)
                samples.append(Sample.of(self._pid))
        finally:
            driver.send_signal(signal.SIGKILL if killed else signal.SIGINT)
            driver.wait()
            reader.join()
        self._samples.append(samples)
        self.lives.append(len(self._listener.milliseconds) - before)

    def start_and_end(self) -> tuple[Sample, Sample]:
        """The last quarter of the first life, which is the warm-up, and that of the last."""
        first, last = (samples[len(samples) * 3 // 4 :] for samples in (self._samples[0], self._samples[-1]))
        return _typical(first), _typical(last)

    def _count(self, driver: subprocess.Popen[bytes], begun: Event) -> None:
        assert driver.stdout is not None
        for line in driver.stdout:
            begun.set()
            if line == b"cloud\n":
                self.sent += 1
            else:
                self.garbage += 1


def _typical(samples: Sequence[Sample]) -> Sample:
    resident, threads = (int(median(values)) for values in zip(*map(astuple, samples), strict=True))
    return Sample(resident, threads)


class _CountingNode(SegmenterNode):
    """The segmenter with a network that takes no time; leaves its counts in a file."""

    def __init__(self, counts_file: Path) -> None:
        self._counts_file = counts_file
        super().__init__(_answer_at_once)

    def destroy_node(self) -> None:
        super().destroy_node()
        counts = self.statistics.snapshot()
        self._counts_file.write_text(json.dumps({"dropped": counts.dropped, "bad": counts.bad.total()}))


def _answer_at_once(points: Points) -> Segmentation:
    return Segmentation(np.zeros(len(points), np.uint8), np.ones(len(points), np.float32))


def _drive(topic: str, points: int, seed: int) -> int:
    """The driver's process: clouds and garbage, each told on stdout before it goes, until a signal."""
    rng = np.random.default_rng(seed)
    cloud = plain_cloud(rng, points, _FRAME)
    period = 1 / _RATE_HZ / (1 + _GARBAGE_PER_CLOUD)
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


def _start(*arguments: str, piped: bool = False) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", __spec__.name, *arguments]
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
    parser.add_argument("--node", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--driver", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    options, ros_args = parser.parse_known_args(args)
    if options.node:
        return run(lambda: _CountingNode(options.node), [sys.argv[0], *ros_args])
    if options.driver:
        return _drive(options.driver, options.points, options.seed)
    report = soak(options.seconds, options.points)
    print(report)
    problems = report.problems()
    for problem in problems:
        print(f"did not hold up: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
