"""Real nodes in real processes over a real middleware, each test in a ROS domain and a namespace of its own.

The ROS wheels start every Python interpreter of their environment anew with the library path they need, pytest's too,
so tests import rclpy like any other module.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import sys
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Condition, Event, Thread
from time import monotonic
from typing import Any

import numpy as np
import pytest
from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import PointCloud2

from places import HELPERS
from spvnas_ros.ros.process.lifetime import ros_process, spinning
from spvnas_ros.ros.replay.exchange import CloudExchange
from spvnas_ros.trials.plain import cloud_of

WAIT = 60.0
"""Seconds to wait for what happens in milliseconds on a quiet machine."""

_numbers = itertools.count()


def _domain(number: int) -> int:
    """A ROS domain in 1..100 (those above 101 meet the ports that Linux gives to clients).

    Test workers that run side by side draw from parts of their own.
    """
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    share = 100 // workers
    return 1 + worker * share + (os.getpid() + number) % share


@contextmanager
def private_domain() -> Iterator[str]:
    """An environment whose ROS is away from everybody else's; yields a namespace that no other test uses."""
    number = next(_numbers)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROS_DOMAIN_ID", str(_domain(number)))
        patch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
        yield f"/test_{os.getpid()}_{number}"


@contextmanager
def ros_domain() -> Iterator[str]:
    """ROS in this process, in a domain and a namespace of its own."""
    with private_domain() as namespace, ros_process([]):
        yield namespace


@pytest.fixture
def ros() -> Iterator[str]:
    """A domain for one test."""
    with ros_domain() as namespace:
        yield namespace


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a very narrow, untrained network."""
    import torch

    from spvnas_ros.nets.spec import NetSpec
    from spvnas_ros.nets.unet import PointVoxelUNet
    from spvnas_ros.zoo.checkpoint import Facts, save_checkpoint

    torch.manual_seed(0)
    net = PointVoxelUNet(NetSpec.spvcnn(4))
    path = tmp_path_factory.mktemp("weights") / "narrow.safetensors"
    save_checkpoint(path, net, Facts(spec=net.spec, name="narrow", trained=False))
    return path


class Process:
    """A child process whose output can be waited for. As a context manager it is ended where it still runs."""

    def __init__(self, *command: str) -> None:
        self._child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self._lines: list[str] = []
        self._changed = Condition()
        self._ended = False
        self._reader = Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def output(self) -> str:
        with self._changed:
            return "".join(self._lines)

    def wait_for(self, pattern: str, times: int = 1) -> str:
        """Wait until the output holds the pattern so many times; returns the last match."""

        def found() -> bool:
            return self._ended or len(re.findall(pattern, "".join(self._lines))) >= times

        with self._changed:
            self._changed.wait_for(found, WAIT)
        matches = list(re.finditer(pattern, self.output))
        assert len(matches) >= times, f"no {pattern!r} in:\n{self.output}"
        return matches[-1].group()

    def wait(self) -> int:
        """Wait for the end; returns the exit status."""
        status = self._child.wait(WAIT)
        self._reader.join(WAIT)
        return status

    def stop(self, how: int = signal.SIGINT) -> int:
        """Send a signal and wait for the end; returns the exit status."""
        self._child.send_signal(how)
        return self.wait()

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """The process does not run while the block does."""
        self._child.send_signal(signal.SIGSTOP)
        try:
            os.waitid(os.P_PID, self._child.pid, os.WSTOPPED | os.WNOWAIT)
            yield
        finally:
            self._child.send_signal(signal.SIGCONT)

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        # Killed at once it would leave its 64 MB of shared memory behind.
        self._child.terminate()
        try:
            self._child.wait(10)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()

    def _read(self) -> None:
        assert self._child.stdout is not None
        for line in self._child.stdout:
            with self._changed:
                self._lines.append(line)
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()


def segmenter(namespace: str, files: Iterable[Path] = (), **parameters: object) -> Process:
    """The node, as a user starts it, with parameter files and parameters."""
    arguments = _ros_arguments(namespace, parameters, files)
    return Process(sys.executable, "-m", "spvnas_ros.ros.node", *arguments)


def playing(bag: Path, topic: str) -> Process:
    """A process that publishes what a bag has on /points, as it was recorded, on another topic again and again."""
    arguments = (str(bag), "--loop", "--ros-args", "-r", f"/points:={topic}")
    return Process(sys.executable, "-m", "spvnas_ros.ros.replay.bag_player", *arguments)


def segmenter_with(namespace: str, perception: str, files: Iterable[Path] = (), **parameters: object) -> Process:
    """The node with one of the perceptions of `segmenter_with.py` in place of a network."""
    arguments = _ros_arguments(namespace, parameters, files)
    return Process(sys.executable, str(HELPERS / "segmenter_with.py"), perception, *arguments)


def _ros_arguments(namespace: str, parameters: Mapping[str, object], files: Iterable[Path]) -> list[str]:
    given = [part for file in files for part in ("--params-file", str(file))]
    values = {name: json.dumps(value) if isinstance(value, bool) else value for name, value in parameters.items()}
    parts = [part for name, value in values.items() for part in ("-p", f"{name}:={value}")]
    return ["--ros-args", "-r", f"__ns:={namespace}", *given, *parts]


@contextmanager
def exchange(namespace: str) -> Iterator[CloudExchange]:
    """Ask the node in this namespace; ready when the block begins."""
    node = CloudExchange(f"{namespace}/segmenter")
    with spinning(node):
        node.wait_until_ready(WAIT)
        yield node


@dataclass
class Collector:
    """Everything that comes on a topic, in order."""

    node: Node
    clouds: list[Any]
    changed: Condition

    def wait_until(self, enough: Callable[[list[Any]], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: enough(self.clouds), WAIT), f"{len(self.clouds)} messages came"

    def ask(self, publish: Callable[[], None]) -> None:
        """Publishes until the first message has come.

        A writer may know of a reader that does not know of it yet; what it publishes then, at best effort, is lost.
        """
        deadline = monotonic() + WAIT
        with self.changed:
            while not self.clouds:
                assert monotonic() < deadline, "no message came"
                publish()
                self.changed.wait(1)

    def newest(self, stamp: int) -> Any:
        """The message with this stamp, in seconds, once it is the last one that came."""
        self.wait_until(lambda came: bool(came) and came[-1].header.stamp.sec == stamp)
        return self.clouds[-1]


def collect(node: Node, topic: str, qos: QoSProfile, kind: type[Any] = PointCloud2) -> Collector:
    """Subscribe `node` to a topic of clouds, or of messages of another type."""
    collector = Collector(node, [], Condition())

    def keep(cloud: Any) -> None:
        with collector.changed:
            collector.clouds.append(cloud)
            collector.changed.notify_all()

    node.create_subscription(kind, topic, keep, qos)
    return collector


def cloud(points: int = 100, stamp: int = 1, seed: int = 0) -> PointCloud2:
    """A good cloud of x, y, z, intensity."""
    values = np.random.default_rng(seed).uniform((-20, -20, -2, 0), (20, 20, 3, 1), (points, 4)).astype(np.float32)
    message = cloud_of(values, "lidar")
    message.header.stamp.sec = stamp
    return message


def with_data(message: PointCloud2, data: bytes) -> PointCloud2:
    """The message, with other bytes."""
    message.data = array("B", data)
    return message


def eventually(condition: Callable[[], bool]) -> bool:
    """Whether the condition, which nobody announces, comes true."""
    deadline, pause = monotonic() + WAIT, Event()
    while not condition():
        if monotonic() > deadline:
            return False
        pause.wait(0.005)
    return True
