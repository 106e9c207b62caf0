"""The cost of one training step on the CPU: `python -m spvnas_ros.bench.training SCAN.bin [--rounds 3]`.

The same network takes steps through plain torch operations, through compiled loops, and through those with products of
bfloat16, in turn, in one process. One thread is measured in CPU time, two threads in wall time. Figures are medians, in
milliseconds.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from time import perf_counter, process_time

import torch
from torch import Tensor
from torch.nn import functional

from spvnas_ros.kernels.cpu.steady_memory import keep_freed_memory
from spvnas_ros.nets.spec import NUM_STAGES, POINT_LEVELS, NetSpec
from spvnas_ros.nets.unet import PointVoxelUNet
from spvnas_ros.recordings.scans import read_scan
from spvnas_ros.sparse.coords import quantize
from spvnas_ros.sparse.kernel_map import Levels, build_levels
from spvnas_ros.sparse.modules import narrow_products
from spvnas_ros.sparse.on_cpu import build_training_levels, multiplies_bf16

PHASES = ("geometry", "forward", "backward", "optimizer")
_compiled = partial(build_training_levels, depth=NUM_STAGES, point_levels=POINT_LEVELS)
WAYS: dict[str, tuple[Callable[[Tensor], Levels], bool]] = {
    "plain torch": (build_levels, False),
    "compiled, fp32": (_compiled, False),
    "compiled, bf16": (_compiled, True),
}
"""What builds the geometry, and whether products are of bfloat16. A CPU without it has nothing to measure there."""

DEFAULT_WIDTHS = (16, 24, 48, 72, 96, 96, 72, 48, 24)


@dataclass(frozen=True)
class Case:
    """A network and the size of the voxels (metres) it is trained on."""

    name: str
    spec: NetSpec
    voxel_size: float


CASES = (
    Case("spvcnn W16, voxels of 0.05 m", NetSpec.spvcnn(16), 0.05),
    Case("widths of `default`, voxels of 0.1 m", NetSpec.of(DEFAULT_WIDTHS), 0.1),
)


class Stepper:
    """A network under training on one scan, with random labels."""

    def __init__(self, case: Case, points: Tensor) -> None:
        torch.manual_seed(0)
        voxels = quantize(points, case.voxel_size)
        self.coords, self.feats = voxels.coords, points[voxels.first]
        self.labels = torch.randint(0, case.spec.num_classes, (len(self.coords),))
        self.net = PointVoxelUNet(case.spec).train()
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=1e-4)

    def step(self, way: str, clock: Callable[[], float]) -> list[float]:
        """Takes one step. Returns the seconds that geometry, forward, backward and optimizer took."""
        build, narrow = WAYS[way]
        narrow_products(self.net, narrow)
        laps = [clock()]
        levels = build(self.coords)
        laps.append(clock())
        loss = functional.cross_entropy(self.net(self.coords, self.feats, levels), self.labels)
        laps.append(clock())
        loss.backward()  # type: ignore[no-untyped-call]
        laps.append(clock())
        self.optimizer.step()
        self.optimizer.zero_grad()
        laps.append(clock())
        return [after - before for before, after in pairwise(laps)]


def measure(case: Case, points: Tensor, threads: int, rounds: int) -> dict[str, list[float]]:
    """Returns the median milliseconds of every phase, by way. The first step of each way is not counted."""
    torch.set_num_threads(threads)
    clock = process_time if threads == 1 else perf_counter
    stepper = Stepper(case, points)
    ways = [way for way, (_, narrow) in WAYS.items() if not narrow or multiplies_bf16()]
    laps: dict[str, list[list[float]]] = {way: [] for way in ways}
    for _ in range(rounds + 1):
        for way in ways:
            laps[way].append(stepper.step(way, clock))
    return {way: [1e3 * median(phase) for phase in zip(*steps[1:], strict=True)] for way, steps in laps.items()}


def table(cases: tuple[Case, ...], points: Tensor, rounds: int) -> Iterator[str]:
    """Yields the lines of the comparison in Markdown, each as soon as it is measured."""
    columns = ["network", "threads", "way", *PHASES, "step, ms", "x plain"]
    yield "| " + " | ".join(columns) + " |"
    yield "| --- " * len(columns) + "|"
    for case in cases:
        for threads in (1, 2):
            phases = measure(case, points, threads, rounds)
            plain = sum(phases["plain torch"])
            clock = "1, CPU time" if threads == 1 else f"{threads}, wall time"
            for way, found in phases.items():
                cells = [case.name, clock, way, *(f"{ms:.0f}" for ms in found), f"{sum(found):.0f}"]
                yield "| " + " | ".join([*cells, f"{plain / sum(found):.1f}"]) + " |"


def main() -> None:
    """Prints the table for one scan."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scan", type=Path, help="a scan that `spvnas segment` can read")
    parser.add_argument("--rounds", type=int, default=3, help="steps per way that are counted (default 3)")
    arguments = parser.parse_args()
    points = torch.from_numpy(read_scan(arguments.scan, "unit"))
    keep_freed_memory()  # as `spvnas train` does
    print(f"{arguments.scan.name}: {len(points)} points, torch {torch.__version__}\n", flush=True)
    for line in table(CASES, points, arguments.rounds):
        print(line, flush=True)


if __name__ == "__main__":
    main()
