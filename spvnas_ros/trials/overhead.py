"""What ROS costs around the network: clouds through the real node in a process of its own, with a network that
answers at once.

    python -m spvnas_ros.trials.overhead [--points 120000] [--clouds 60]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from sensor_msgs.msg import PointCloud2

from spvnas_ros.frame import Points, Segmentation
from spvnas_ros.ros.node.segmenter_node import NODE_NAME, SegmenterNode
from spvnas_ros.ros.node.statistics import FrameTimes
from spvnas_ros.ros.process.lifetime import ros_process, run, spinning
from spvnas_ros.ros.replay.exchange import Answer, CloudExchange
from spvnas_ros.trials.plain import plain_cloud

_WARM_UP_CLOUDS = 5
_START_SECONDS = 30.0


@dataclass(frozen=True)
class Spread:
    """Of milliseconds: median, 95th percentile, largest."""

    p50: float
    p95: float
    max: float

    @classmethod
    def of(cls, milliseconds: list[float]) -> Spread:
        """Of at least one value."""
        p50, p95, largest = np.percentile(milliseconds, [50, 95, 100])
        return cls(float(p50), float(p95), float(largest))

    def __str__(self) -> str:
        return f"{self.p50:6.2f} {self.p95:6.2f} {self.max:6.2f}"


@dataclass(frozen=True)
class Overhead:
    """Milliseconds per cloud, without the network.

    arriving: `publish` is called in the driver's process, to the callback in the node's
    within:   callback to the end of the node's `publish`, without waiting for the worker
    sum:      both
    answered: `publish` to having the labelled cloud back
    """

    points: int
    clouds: int
    arriving: Spread
    within: Spread
    sum: Spread
    answered: Spread

    def __str__(self) -> str:
        return "\n".join(
            [
                f"middleware overhead, {self.points} points, {self.clouds} clouds, ms:      p50    p95    max",
                f"  publish -> callback, between processes            {self.arriving}",
                f"  callback -> publish done, without the network     {self.within}",
                f"  sum                                               {self.sum}",
                f"  publish -> labelled cloud back                    {self.answered}",
            ]
        )


def measure(points: int, clouds: int) -> Overhead:
    """Send clouds through a node in a new process. Raises ExchangeError where it does not answer."""
    with tempfile.TemporaryDirectory() as folder:
        times_file = Path(folder) / "times.json"
        # A namespace of its own: nobody's clouds but ours.
        namespace = f"/overhead_{os.getpid()}"
        command = [
            sys.executable,
            "-m",
            __spec__.name,
            "--node",
            str(times_file),
            "--ros-args",
            "-r",
            f"__ns:={namespace}",
        ]
        node = subprocess.Popen(command)
        try:
            answers = _ask(f"{namespace}/{NODE_NAME}", points, clouds)
        finally:
            node.send_signal(signal.SIGINT)
            node.wait()
        times = {entry["stamp"]: FrameTimes(**entry) for entry in json.loads(times_file.read_text())}
    frames = [(answer, times[_stamp(answer.cloud)]) for answer in answers[_WARM_UP_CLOUDS:]]
    arriving = [(frame.received - answer.sent) / 1e6 for answer, frame in frames]
    within = [frame.overhead_ms for _, frame in frames]
    return Overhead(
        points,
        len(frames),
        Spread.of(arriving),
        Spread.of(within),
        Spread.of([a + b for a, b in zip(arriving, within, strict=True)]),
        Spread.of([answer.ms for answer, _ in frames]),
    )


def _ask(segmenter: str, points: int, clouds: int) -> list[Answer]:
    answers = []
    cloud = plain_cloud(np.random.default_rng(0), points, "lidar")
    with ros_process([]):
        exchange = CloudExchange(segmenter)
        with spinning(exchange):
            exchange.wait_until_ready(_START_SECONDS)
            for number in range(clouds + _WARM_UP_CLOUDS):
                cloud.header.stamp.sec = number + 1
                answers.append(exchange.ask(cloud))
    return answers


def _stamp(cloud: PointCloud2) -> int:
    return int(cloud.header.stamp.sec) * 1_000_000_000 + int(cloud.header.stamp.nanosec)


def _answer_at_once(points: Points, /, *, labels: bool, boxes: bool) -> Segmentation:  # noqa: ARG001 (takes no time)
    return Segmentation(np.zeros(len(points), np.uint8), np.ones(len(points), np.float32))


class _TimedNode(SegmenterNode):
    """The segmenter with a network that takes no time; leaves its frames' times in a file."""

    def __init__(self, times_file: Path) -> None:
        self._times_file = times_file
        super().__init__(_answer_at_once)

    def destroy_node(self) -> None:
        super().destroy_node()
        self._times_file.write_text(json.dumps([asdict(times) for times in self.statistics.times()]))


def main(args: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="overhead", description="Measure what ROS costs around the network.")
    parser.add_argument("--points", type=int, default=120_000, help="points of a cloud (default 120000)")
    parser.add_argument("--clouds", type=int, default=60, help="clouds to send (default 60)")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--node", type=Path, help=argparse.SUPPRESS)
    options, ros_args = parser.parse_known_args(args)
    if options.node:
        return run(lambda: _TimedNode(options.node), [sys.argv[0], *ros_args])
    overhead = measure(options.points, options.clouds)
    print(overhead)
    if options.json:
        options.json.write_text(json.dumps(asdict(overhead), indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
