"""The main job, end to end: a bag plays into the real node, the labelled clouds come back into a new bag.

python -m spvnas_ros.ros.demo [BAG] [--weights FILE] [--out runs/demo]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from rclpy.serialization import serialize_message
from sensor_msgs.msg import PointCloud2

from spvnas_ros.bags import LABELLED_TOPIC, BagError, BagReader, BagWriter
from spvnas_ros.frame import UNLABELLED
from spvnas_ros.pointcloud import Intensity, PointCloudError, decode, to_points
from spvnas_ros.ros.exchange import CloudExchange, ExchangeError
from spvnas_ros.ros.process import StartError, StopRequested, ros_process, spinning

if TYPE_CHECKING:
    from spvnas_ros.zoo.checkpoint import Facts

_START_SECONDS = 900.0
"""The first start on a machine compiles the network's kernels."""

_STOP_SECONDS = 30.0

_STREET_CLOUDS = 10

_INTERRUPTED = 130
"""Exit status after SIGINT, as shells have it."""


@dataclass(frozen=True)
class Options:
    """What to play into which node. `intensity`, `device` and `engine` are the node's parameters."""

    bag: Path
    weights: Path
    out: Path
    topic: str | None = None
    device: str = "auto"
    engine: str = "auto"
    intensity: str = "auto"


@dataclass(frozen=True)
class Summary:
    """What came back.

    bad:      clouds that could not be labelled, by kind
    ms_*:     from publishing a cloud to having its labels, milliseconds
    classes:  number of points by class name, the most frequent first
    """

    bag: str
    weights: str
    trained: bool
    clouds: int
    points: int
    bad: dict[str, int]
    ms_p50: float
    ms_p95: float
    classes: dict[str, int]
    labelled_bag: str
    picture: str

    def __str__(self) -> str:
        lines = [
            f"{self.clouds} clouds, {self.points} points of {self.bag} labelled by a node in a process of its own",
            "(the node counts one more: an empty cloud, sent first to see that it answers)",
            f"{self.ms_p50:.1f} ms per cloud (p50), {self.ms_p95:.1f} ms (p95), from publishing to having the labels",
            *(f"skipped: {count} bad clouds ({kind})" for kind, count in self.bad.items()),
            "",
            *(f"  {name:<16}{count:>10}  {count / max(self.points, 1):6.1%}" for name, count in self.classes.items()),
            "",
            f"labelled bag  {self.labelled_bag}",
            f"picture       {self.picture}",
        ]
        if not self.trained:
            lines.append("The network is not trained: its labels mean nothing.")
        return "\n".join(lines)


def run_demo(options: Options) -> Summary:
    """Play the bag cloud by cloud, each when the one before is answered, so that a slow machine drops none.

    Leaves `labelled/` (a bag of the same storage), `picture.png` and `summary.json` in `options.out`. ROS must run
    (`ros_process`). Raises BagError, CheckpointError, ExchangeError or OSError; then no labelled bag is left behind.
    """
    from spvnas_ros.picture import save_picture
    from spvnas_ros.zoo.checkpoint import load_checkpoint

    _, facts = load_checkpoint(options.weights)
    options.out.mkdir(parents=True, exist_ok=True)
    labelled, picture = options.out / "labelled", options.out / "picture.png"
    tally = _Tally(facts)
    with (
        BagReader(options.bag, options.topic) as reader,
        BagWriter(labelled, reader.storage, force=True) as writer,
        _segmenter(options) as exchange,
    ):
        exchange.wait_until_ready(_START_SECONDS)
        for recorded in reader:
            try:
                to_points(decode(recorded.decode()), Intensity())
            except PointCloudError as error:
                tally.count_bad(error.kind)
                continue
            answer = exchange.ask(recorded.raw)
            writer.write(LABELLED_TOPIC, serialize_message(answer.cloud), recorded.stamp)
            tally.count(answer.cloud, answer.ms)
    if tally.first is None:
        raise BagError(f"{options.bag} has no cloud that can be labelled; skipped: {tally.bad or 'none'}")
    points, labels = _points_and_labels(tally.first, options.intensity)
    save_picture(picture, points, labels, facts, f"{options.bag.name}, first cloud")
    summary = tally.summary(options, labelled, picture)
    (options.out / "summary.json").write_text(json.dumps(asdict(summary), indent=2) + "\n")
    return summary


class _Tally:
    """Counts answers as they come."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._ms: list[float] = []
        self._labels = np.zeros(256, np.int64)
        self.bad: dict[str, int] = {}
        self.first: PointCloud2 | None = None

    def count(self, cloud: PointCloud2, ms: float) -> None:
        self.first = self.first or cloud
        self._ms.append(ms)
        self._labels += np.bincount(decode(cloud)["label"], minlength=256)

    def count_bad(self, kind: str) -> None:
        self.bad[kind] = self.bad.get(kind, 0) + 1

    def summary(self, options: Options, labelled: Path, picture: Path) -> Summary:
        names = {**dict(enumerate(self._facts.classes)), UNLABELLED: "unlabelled"}
        by_count = np.argsort(-self._labels, kind="stable")
        p50, p95 = np.percentile(self._ms, [50, 95])
        return Summary(
            bag=str(options.bag),
            weights=str(options.weights),
            trained=self._facts.trained,
            clouds=len(self._ms),
            points=int(self._labels.sum()),
            bad=self.bad,
            ms_p50=round(float(p50), 2),
            ms_p95=round(float(p95), 2),
            classes={names[int(i)]: int(self._labels[i]) for i in by_count if self._labels[i]},
            labelled_bag=str(labelled),
            picture=str(picture),
        )


def _points_and_labels(cloud: PointCloud2, intensity: str) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    array = decode(cloud)
    return to_points(array, Intensity(intensity)), array["label"]


@contextmanager
def _segmenter(options: Options) -> Iterator[CloudExchange]:
    """The node in a process of its own, and a way to ask it. Whoever waits for it hears when it dies."""
    namespace = f"/demo_{os.getpid()}"
    parameters = {
        "weights": str(options.weights.absolute()),
        "device": options.device,
        "engine": options.engine,
        "intensity": options.intensity,
    }
    command = [sys.executable, "-m", "spvnas_ros.ros.segmenter_node", "--ros-args", "-r", f"__ns:={namespace}"]
    for name, value in parameters.items():
        # Values are YAML, and a JSON string is a YAML string whatever is in it.
        command += ["-p", f"{name}:={json.dumps(value)}"]
    exchange = CloudExchange(f"{namespace}/segmenter")
    with spinning(exchange):
        node = subprocess.Popen(command)
        watch = Thread(
            target=lambda: exchange.fail(f"segmenter_node ended with status {node.wait()}"), name="watch", daemon=True
        )
        watch.start()
        try:
            yield exchange
        finally:
            _stop(node)
            watch.join()


def _stop(node: subprocess.Popen[bytes]) -> None:
    node.send_signal(signal.SIGINT)
    try:
        node.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        node.kill()
        node.wait()


def _resolve(weights: str) -> Path:
    from spvnas_ros.zoo.cache import resolve_weights

    return resolve_weights(weights)


def _draw_street(out: Path) -> Path:
    from spvnas_ros.synthetic import write_drive_bag

    bag = out / "street"
    write_drive_bag(bag, _STREET_CLOUDS, force=True)
    return bag


def _make_untrained(out: Path) -> Path:
    import torch

    from spvnas_ros.nets.spec import NetSpec
    from spvnas_ros.nets.unet import PointVoxelUNet
    from spvnas_ros.zoo.checkpoint import Facts, save_checkpoint

    torch.manual_seed(0)
    net = PointVoxelUNet(NetSpec.spvcnn(16))
    weights = out / "untrained.safetensors"
    save_checkpoint(weights, net, Facts(spec=net.spec, name="untrained", trained=False))
    return weights


def main(args: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="demo", description="Play a bag into the node and keep the labelled clouds.")
    parser.add_argument("bag", type=Path, nargs="?", help="rosbag2 folder, .mcap or .db3 file; default: a drawn street")
    parser.add_argument("--weights", help="checkpoint, or the name of a fetched model; default: an untrained network")
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder for what comes out")
    parser.add_argument("--topic", help="which clouds, where the bag has several topics of them")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--intensity", default="auto", help="the sensor's intensity scale, see the node's parameter")
    given = parser.parse_args(args)
    # Clouds are not sent through the building's network unless the user wants it.
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    try:
        with ros_process([]):
            given.bag = given.bag or _draw_street(given.out)
            given.weights = _resolve(given.weights) if given.weights else _make_untrained(given.out)
            print(run_demo(Options(**vars(given))))
    except StopRequested:
        return _INTERRUPTED
    except (ValueError, OSError, ExchangeError, StartError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
