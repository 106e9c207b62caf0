"""Run the segmenter node with something else in place of the network: `segmenter_with.py PERCEPTION --ros-args ...`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from threading import Event

import numpy as np

from spvnas_ros.frame import Points, Segmentation
from spvnas_ros.ros.node.segmenter_node import SegmenterNode
from spvnas_ros.ros.process.lifetime import run


def counting(points: Points, **_asked: bool) -> Segmentation:
    """The points' numbers as labels."""
    count = len(points)
    return Segmentation((np.arange(count) % 19).astype(np.uint8), np.linspace(0, 1, count, dtype=np.float32))


def slow(points: Points, **_asked: bool) -> Segmentation:
    """A network that takes 200 ms a cloud."""
    if len(points) and len(points) != WARM_UP:
        print("labelling", flush=True)
        Event().wait(0.2)
    return counting(points)


def failing(points: Points, **_asked: bool) -> Segmentation:
    """A network with a bug that 13 points bring out."""
    if len(points) == 13:
        raise RuntimeError("thirteen points")
    return counting(points)


def recording(points: Points, **_asked: bool) -> Segmentation:
    """Leaves what it is given in the folder RECORDED, but for warming up and empty clouds."""
    if len(points) and len(points) != WARM_UP:
        folder = Path(os.environ["RECORDED"])
        np.save(folder / f"{len(list(folder.iterdir()))}.npy", points)
    return counting(points)


def broken(_points: Points, **_asked: bool) -> Segmentation:
    """A network with a bug that every cloud brings out, that of warming up first."""
    raise KeyError("no such thing")


def interrupted(points: Points, **_asked: bool) -> Segmentation:
    """A network whose compiler gets the Ctrl-C, too, that a terminal sends to all processes."""
    subprocess.run([sys.executable, "-c", CTRL_C], check=True)
    return counting(points)


def endless(_points: Points, **_asked: bool) -> Segmentation:
    """A network that is not ready for a long time."""
    print("warming up", flush=True)
    Event().wait(600)
    raise AssertionError("nobody waits so long")


WARM_UP = 2000
CTRL_C = "import os, signal; [os.kill(process, signal.SIGINT) for process in (os.getppid(), os.getpid())]"

if __name__ == "__main__":
    perceptions = (counting, slow, failing, recording, broken, interrupted, endless)
    perception = {each.__name__: each for each in perceptions}[sys.argv[1]]
    sys.exit(run(lambda: SegmenterNode(perception, sys.argv)))
