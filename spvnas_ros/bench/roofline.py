"""The two sides of a roofline: the least work of a network on a scan, and the rates of a device.

Williams, Waterman, Patterson: "Roofline: an insightful visual performance model", CACM 2009.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

import torch

from spvnas_ros.engine.laps import Laps
from spvnas_ros.engine.plan import Convolution, Plan, PointFusion, Source, Step
from spvnas_ros.nets.heads import CODE, DIRECTIONS
from spvnas_ros.nets.spec import NetSpec
from spvnas_ros.sparse.kernel_map import Levels

_INDEX_BYTES = 4
_CORNERS = 8


@dataclass(frozen=True)
class Work:
    """Operations (2 per multiply-accumulate), and bytes if everything is read and written once."""

    flop: int
    bytes: int

    def __add__(self, other: Work) -> Work:
        return Work(self.flop + other.flop, self.bytes + other.bytes)

    def floor_ms(self, rates: Rates) -> float:
        """Returns the least time, in milliseconds, that a device of these rates needs."""
        return 1e3 * max(self.flop / rates.flops, self.bytes / rates.bytes_per_second)


@dataclass(frozen=True)
class Rates:
    """The rates of a device.

    flops:            operations a second in a large matrix product
    bytes_per_second: read and written in a large copy
    """

    flops: float
    bytes_per_second: float


def plan_work(plan: Plan, levels: Levels, itemsize: int) -> list[Work]:
    """Returns the work of every step on a scan, with features and weights of `itemsize` bytes.

    The geometry is not counted.
    """
    rows = [len(level) for level in levels.levels]
    pairs = [len(kernel_map) for kernel_map in levels.neighbours]
    return [_step_work(plan, step, rows, pairs, itemsize) for step in plan.steps]


def branch_work(spec: NetSpec, levels: Levels, itemsize: int) -> list[Work]:
    """Returns the work of every layer of a network's box branch on a scan, nothing where there is no branch.

    Where the voxels' columns are, and which boxes stay, is not counted.
    """
    branch = spec.boxes
    if branch is None:
        return []
    cells, width = branch.columns[0] * branch.columns[1], branch.width
    finest, taken = branch.head_cells[0] * branch.head_cells[1], spec.level_width(branch.level)
    rows = len(levels.levels[branch.level])
    # (products of channels, values read, values written, values of the kernel); each voxel is in one column
    layers = [(rows * taken * width, rows * taken, cells * width, branch.volume * taken * width)]
    for block in branch.bev:
        for i in range(1 + block.layers):
            before = cells * width
            cells //= block.stride**2 if i == 0 else 1
            kernel = 9 * width * block.width
            layers.append((cells * kernel, before, cells * block.width, kernel))
            width = block.width
        upsampled = width * block.up
        layers.append((finest * upsampled, cells * width, finest * block.up, finest // cells * upsampled))
    up = sum(block.up for block in branch.bev)
    outputs = branch.head.anchors_per_cell * (len(branch.head.classes) + CODE + DIRECTIONS)
    layers.append((finest * up * outputs, finest * up, finest * outputs, up * outputs))
    return [Work(2 * macs, itemsize * (read + written + kernel)) for macs, read, written, kernel in layers]


def floor_ms(work: Iterable[Work], rates: Rates) -> float:
    """Returns the least time, in milliseconds, for steps that run one after the other."""
    return sum(step.floor_ms(rates) for step in work)


def _step_work(plan: Plan, step: Step, rows: list[int], pairs: list[int], itemsize: int) -> Work:
    level = step.level
    if isinstance(step, Convolution):
        met = {
            "neighbours": pairs[level],
            "halving": rows[level - 1],
            "doubling": rows[level],
            "pointwise": rows[level],
        }[step.kind]
        width = len(step.bias)
        written = rows[level] * width * (1 if step.residual is None else 2)
        parts = [_product(plan, source, met, rows) for source in step.sources]
        parts += [_product(plan, source, rows[level], rows) for source in step.pointwise]
        indices = 0 if step.kind == "pointwise" else met * _INDEX_BYTES
        values = written + sum(values for _, values in parts)
        return Work(sum(flop for flop, _ in parts), values * itemsize + indices)
    width = plan.slots[step.out].width
    if isinstance(step, PointFusion):
        flop, values = _product(plan, Source(step.points, step.kernel), rows[0], rows)
        values += (rows[0] + rows[level]) * width
        return Work(flop + 2 * _CORNERS * rows[0] * width, values * itemsize + rows[0] * _CORNERS * _INDEX_BYTES)
    return Work(rows[0] * width, (rows[0] + rows[level]) * width * itemsize + rows[0] * _INDEX_BYTES)


def _product(plan: Plan, source: Source, pairs: int, rows: list[int]) -> tuple[int, int]:
    """Returns the operations, and the values read, of one source of a convolution."""
    slot, (volume, channels, columns) = plan.slots[source.slot], source.shape
    return 2 * pairs * channels * columns, rows[slot.level] * slot.width + volume * channels * columns


def measure_rates(device: torch.device, dtype: torch.dtype) -> Rates:
    """Measures both rates: the median of several large copies, and of several square matrix products."""
    large = device.type == "cuda"
    side = (8192 if dtype.itemsize == 2 else 4096) if large else 256
    left = torch.randn(side, side, device=device).to(dtype)
    right = torch.randn(side, side, device=device).to(dtype)
    product = torch.empty_like(left)
    block = torch.zeros(1 << (28 if large else 20), dtype=torch.uint8, device=device)
    copy = torch.empty_like(block)

    def seconds(run: str) -> float:
        laps = Laps(device)
        torch.mm(left, right, out=product) if run == "mm" else copy.copy_(block)
        laps.lap(run)
        return laps.seconds()[run]

    times = {run: median([seconds(run) for _ in range(13)][3:]) for run in ("mm", "copy")}
    return Rates(2 * side**3 / times["mm"], 2 * len(block) / times["copy"])
