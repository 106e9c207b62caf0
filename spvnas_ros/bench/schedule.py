"""What a frame of the CPU engine takes on more threads than this machine has: the tiles of every step, timed on one
thread and dealt out to others on paper. `python -m spvnas_ros.bench.schedule SCAN.bin [--weights default]`
"""

from __future__ import annotations

import argparse
import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import thread_time
from typing import Any, TypeVar, get_args

import numpy as np

from spvnas_ros.engine.cpu.engine import CpuEngine, Precision
from spvnas_ros.frame import Points
from spvnas_ros.kernels.cpu.convolve import Pairs
from spvnas_ros.kernels.cpu.team import Team
from spvnas_ros.nets.unet import PointVoxelUNet
from spvnas_ros.recordings.scans import read_scan
from spvnas_ros.zoo.cache import resolve_weights
from spvnas_ros.zoo.checkpoint import load_checkpoint

THREADS = (1, 2, 4, 8, 16)
T = TypeVar("T")


@dataclass(frozen=True)
class Launch:
    """What one thread took for a kernel, seconds, and the shares of it that its tiles have (their sum is 1)."""

    seconds: float
    shares: tuple[float, ...]


class OnPaper(Team):
    """A team that has one thread, cuts its work as for more, and keeps what each kernel took.

    Attributes:
        launches: one for every kernel that all threads would work on, in order
        aside:    seconds spent on them and on keeping account of them
    """

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        self.launches: list[Launch] = []
        self.aside = 0.0

    def run(self, kernel: Callable[..., Any], *args: Any, shares: int | None = None) -> None:
        """Runs a kernel on the caller's thread alone."""
        start = thread_time()
        kernel(np.zeros(1, np.int64), *args)
        if shares != 1:
            self.launches.append(Launch(thread_time() - start, _shares(args, shares)))
            self.aside += thread_time() - start

    def map(self, function: Callable[..., T], *columns: Sequence[Any]) -> list[T]:
        """Computes the results on the caller's thread alone."""
        results, times = list[T](), list[float]()
        for row in zip(*columns, strict=True):
            start = thread_time()
            results.append(function(*row))
            times.append(thread_time() - start)
        total = sum(times)
        self.launches.append(Launch(total, tuple(each / total for each in times)))
        self.aside += total
        return results


def _shares(args: tuple[Any, ...], tiles: int | None) -> tuple[float, ...]:
    """Returns the shares of a kernel's tiles: by their pairs where it has pairs, else equal ones."""
    for pairs in args:
        if isinstance(pairs, Pairs) and pairs.volume:
            counts = np.diff(pairs.starts[:: pairs.volume])
            return tuple((counts / counts.sum()).tolist())
    if tiles is None:
        raise ValueError("a kernel without pairs was run without the number of its tiles")
    return (1 / tiles,) * tiles


def makespan(times: Sequence[float], threads: int) -> float:
    """Returns when the last of the tiles is done that are taken in order by whichever thread is free first."""
    free = [0.0] * threads
    for time in times:
        heapq.heappush(free, heapq.heappop(free) + time)
    return max(free)


@dataclass(frozen=True)
class Row:
    """A frame on so many threads, milliseconds.

    alone: what one thread does while the others have nothing; starts: of kernels; tiles: when all threads work
    """

    threads: int
    alone: float
    starts: float
    tiles: float

    @property
    def total(self) -> float:
        """The whole frame, milliseconds."""
        return self.alone + self.starts + self.tiles


def row(
    net: PointVoxelUNet, voxel_size: float, points: Points, threads: int, frames: int, start_us: float, precision: str
) -> Row:
    """Measures a frame cut for so many threads, and deals its tiles out.

    start_us: what it takes until the other threads work on a kernel, and until the caller knows that they are done
    """
    team = OnPaper(threads)
    engine = CpuEngine(net, voxel_size, team, precision=precision)
    alone, found = list[float](), list[list[Launch]]()
    for _ in range(frames + 1):
        team.launches.clear()
        start = thread_time() - team.aside
        engine.segment(points, scores=False)
        alone.append(thread_time() - team.aside - start)
        found.append(list(team.launches))
    launches = list(zip(*found[1:], strict=True))  # the first frame takes new memory
    tiles = 0.0
    for each in launches:
        seconds = median(launch.seconds for launch in each)
        tiles += makespan([seconds * share for share in each[0].shares], threads)
    starts = 0.0 if threads == 1 else len(launches) * start_us / 1e3
    return Row(threads, 1e3 * median(alone[1:]), starts, 1e3 * tiles)


def table(rows: Sequence[Row]) -> str:
    """Returns the rows in Markdown."""
    lines = ["| threads | alone | starts | tiles | frame, ms | times faster | efficiency |", "| --- " * 7 + "|"]
    for each in rows:
        gain = rows[0].total / each.total
        lines.append(
            f"| {each.threads} | {each.alone:.1f} | {each.starts:.1f} | {each.tiles:.1f} | {each.total:.0f} "
            f"| {gain:.2f} | {gain / each.threads * rows[0].threads:.0%} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Prints the table for one scan and one network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scan", type=Path, help="a scan that `spvnas segment` can read")
    parser.add_argument("--weights", default="default", help="a checkpoint, or the name of one (default: default)")
    parser.add_argument("--frames", type=int, default=7, help="frames that are counted (default 7)")
    parser.add_argument("--start-us", type=float, default=15.0, help="microseconds to start a kernel (default 15)")
    parser.add_argument("--precision", default="fp32", choices=get_args(Precision), help="default fp32")
    arguments = parser.parse_args()
    net, facts = load_checkpoint(resolve_weights(arguments.weights))
    points = read_scan(arguments.scan, "unit")
    print(f"{arguments.scan.name}: {len(points)} points, {arguments.weights}, {arguments.precision}\n")
    how = arguments.frames, arguments.start_us, arguments.precision
    print(table([row(net, facts.voxel_size, points, threads, *how) for threads in THREADS]))


if __name__ == "__main__":
    main()
