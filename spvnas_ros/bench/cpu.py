"""The CPU benchmark: every contender in turn, several rounds, one table.

Figures are medians over all frames of all rounds. Rounds alternate between the contenders, so that a busy spell of the
machine meets them all. One thread is measured in CPU time, several threads in wall time.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import numpy as np
import torch

from spvnas_ros.bench.cpu_worker import VOXEL_SIZE, Job, Timing, network
from spvnas_ros.kernels.cpu.shape import host_words
from spvnas_ros.nets.cost import count_macs
from spvnas_ros.recordings.scans import read_scan
from spvnas_ros.sparse.coords import quantize
from spvnas_ros.sparse.kernel_map import build_levels
from spvnas_ros.workers import command_of

ONE_THREAD = ("spconv",)
"""Contenders that give wrong results with more than one thread: threads of spconv's CPU wheel share one buffer."""

GEOMETRY_STAGES = ("voxels", "geometry")


@dataclass(frozen=True)
class Row:
    """One contender on one network; times are medians in milliseconds, shares are of 1.

    cpu_ms: one thread, CPU time; wall_ms: `threads` threads, wall time, None where the contender is fit for one only
    cpu_peak, wall_peak: useful operations (2 per multiply-accumulate) against the measured multiply-add rate
    cpu_ratio, wall_ratio: how many times faster than the reference this is
    geometry: share of the frame spent on voxels and kernel maps, None where unknown
    """

    network: str
    contender: str
    cpu_ms: float
    cpu_ratio: float
    cpu_peak: float
    wall_ms: float | None
    wall_ratio: float | None
    wall_peak: float | None
    geometry: float | None
    peak_memory_mb: float
    labels_agree: float


@dataclass(frozen=True)
class Report:
    """A whole run: the machine, the scan and the rows."""

    machine: str
    scan: str
    points: int
    voxels: int
    threads: int
    rows: tuple[Row, ...]

    def markdown(self) -> str:
        """Returns the table for the documentation."""
        head = (
            f"| network | engine | 1 thread, CPU ms | x reference | of FMA peak | {self.threads} threads, wall ms "
            "| x reference | of FMA peak | geometry | peak memory |\n" + "| --- " * 10 + "|"
        )
        lines = [
            f"| {r.network} | {r.contender} | {r.cpu_ms:.0f} | {r.cpu_ratio:.1f} | {r.cpu_peak:.0%} "
            f"| {_number(r.wall_ms, '.0f')} | {_number(r.wall_ratio, '.1f')} | {_number(r.wall_peak, '.0%')} "
            f"| {_number(r.geometry, '.1%')} | {r.peak_memory_mb:.0f} MB |"
            for r in self.rows
        ]
        title = f"{self.machine}; {self.scan}: {self.points} points, {self.voxels} voxels of {VOXEL_SIZE} m"
        return "\n".join([title, "", head, *lines])

    def json(self) -> str:
        """Returns all figures as JSON."""
        return json.dumps(asdict(self), indent=2)


def run(
    scan: Path,
    networks: Sequence[tuple[str, int]] = (("spvcnn", 16), ("spvcnn", 32)),
    rounds: int = 3,
    frames: int = 3,
    threads: int | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Report:
    """Measures every contender that is installed. It takes minutes."""
    threads = threads or min(2, os.cpu_count() or 1)
    points = torch.from_numpy(read_scan(scan, "unit"))
    levels = build_levels(quantize(points, VOXEL_SIZE).coords)
    rows = []
    for family, width in networks:
        timings: dict[tuple[str, int], list[Timing]] = {}
        for number in range(rounds):
            for contender in contenders():
                for count in sorted({1, threads if contender not in ONE_THREAD else 1}):
                    progress(f"{family} W{width}, round {number + 1} of {rounds}: {contender}, {count} thread(s)")
                    job = Job(contender, family, width, str(scan), count, frames)
                    timings.setdefault((contender, count), []).append(_measure(job))
        macs = count_macs(network(family, width).spec, levels)
        rows += _rows(f"{family} W{width}", timings, macs, threads)
    return Report(_machine(), scan.name, len(points), len(levels.levels[0]), threads, tuple(rows))


def contenders() -> list[str]:
    """Returns the engines to measure: ours (in float32, too, where it runs on integers), the reference, and the
    libraries that are installed.
    """
    found = ["torch", "engine"]
    if host_words() is not None:
        found.append("engine-fp32")
    if find_spec("spconv"):
        found.append("spconv")
    if find_spec("torchsparse") and version("torchsparse").startswith("1.4."):
        found.append("torchsparse")
    return found


def _measure(job: Job) -> Timing:
    # Idle OpenMP threads sleep for every contender. Awake, they made torch and torchsparse 3 to 5 times slower here.
    environment = os.environ | {"OMP_NUM_THREADS": str(job.threads), "OMP_WAIT_POLICY": "PASSIVE"}
    command = command_of("spvnas_ros.bench.cpu_worker", json.dumps(asdict(job)))
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"measuring {job.contender} failed with status {done.returncode}:\n{done.stderr}")
    return Timing(**json.loads(done.stdout.splitlines()[-1]))


def _rows(name: str, timings: dict[tuple[str, int], list[Timing]], macs: int, threads: int) -> list[Row]:
    def cpu(contender: str) -> float:
        return median(ms for timing in timings[contender, 1] for ms in timing.cpu_ms)

    def wall(contender: str) -> float:
        return median(ms for timing in timings[contender, threads] for ms in timing.wall_ms)

    def peak_share(contender: str, count: int, ms: float) -> float:
        peak = median(timing.peak_gflops for timing in timings[contender, count])
        return 2 * macs / (ms * 1e-3) / (peak * 1e9)

    rows = []
    expected = np.array(timings["torch", 1][0].labels)
    for contender in dict.fromkeys(contender for contender, _ in timings):
        single = timings[contender, 1]
        several = timings.get((contender, threads))
        stages = single[0].stages_ms
        found = np.array(single[0].labels)
        rows.append(
            Row(
                name,
                contender,
                cpu(contender),
                cpu("torch") / cpu(contender),
                peak_share(contender, 1, cpu(contender)),
                wall(contender) if several else None,
                wall("torch") / wall(contender) if several else None,
                peak_share(contender, threads, wall(contender)) if several else None,
                _geometry(several or single) if stages else None,
                max(timing.peak_memory_mb for timing in (*single, *(several or ()))),
                1 - float(np.abs(found - expected).sum()) / (2 * expected.sum()),
            )
        )
    return rows


def _geometry(timings: Sequence[Timing]) -> float:
    shares = (sum(t.stages_ms[s] for s in GEOMETRY_STAGES) / sum(t.stages_ms.values()) for t in timings)
    return median(shares)


def _machine() -> str:
    libraries = [f"{name} {version(name)}" for name in ("torch", "numba", "spconv", "torchsparse") if find_spec(name)]
    system = f"Python {platform.python_version()}"
    return f"{_processor()}, {os.cpu_count()} cores, {system}, {', '.join(libraries)}"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return names[0].partition(":")[2].strip() if names else platform.processor() or platform.machine()


def _number(value: float | None, style: str) -> str:
    return "-" if value is None else format(value, style)
