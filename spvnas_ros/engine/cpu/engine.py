"""`CpuEngine`: executes a plan with the compiled kernels."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import numpy.typing as npt

from spvnas_ros.engine.cpu import kernels
from spvnas_ros.engine.cpu.geometry import Geometry, LevelGeometry, build_geometry
from spvnas_ros.engine.cpu.kernels import SHAPE, Pairs, Term, aligned, pack_kernel
from spvnas_ros.engine.cpu.octree import Cloud, voxels_of_coords, voxels_of_points
from spvnas_ros.engine.cpu.team import Team, default_threads
from spvnas_ros.engine.plan import INPUT, Convolution, PointFusion, PointMean, Source, Step, build_plan
from spvnas_ros.frame import Points, Segmentation
from spvnas_ros.nets.unet import PointVoxelUNet

logger = logging.getLogger(__name__)

Array = npt.NDArray[np.float32]

_NO_ROWS = np.zeros((0, 0), np.float32)
_NO_TERM = Term(_NO_ROWS, 0, np.zeros(0, np.float32))
_NO_PAIRS = np.zeros(1, np.int32)
_SPARE_ROWS = 1
"""The row behind the last, which padded pairs read and write."""


@dataclass(frozen=True)
class _Packed:
    """A step's weights in the kernels' layout."""

    sources: tuple[tuple[int, int, Array], ...]
    pointwise: tuple[tuple[int, int, Array], ...]
    bias: Array


class CpuEngine:
    """Runs a network on CPU threads.

    threads: how many; by default `OMP_NUM_THREADS` or all cores the process may use
    """

    name = "cpu"
    device = "cpu"

    def __init__(self, net: PointVoxelUNet, voxel_size: float, threads: int | None = None) -> None:
        self.in_channels = net.spec.in_channels
        self.team = Team(threads or default_threads())
        self._plan = build_plan(net)
        self._packed = [_pack(step) for step in self._plan.steps]
        self._last_reader = self._plan.last_reader()
        self._voxel_size = voxel_size
        self._workspace = _Workspace()
        self._lock = threading.Lock()
        self._warm_up()

    def segment(self, points: Points, scores: bool) -> Segmentation:
        """Label a cloud of finite points, as `Engine.segment` says."""
        return self.segment_timed(points, scores)[0]

    def segment_timed(self, points: Points, scores: bool = False) -> tuple[Segmentation, dict[str, float]]:
        """`segment`, and the seconds each stage took (voxels, geometry, then every step of the plan by name)."""
        if len(points) == 0:
            none = np.zeros((0, self._plan.num_classes), np.float32) if scores else None
            return Segmentation(np.zeros(0, np.uint8), np.zeros(0, np.float32), none), {}
        with self._lock:
            clock = _Clock()
            cloud = voxels_of_points(points, self._voxel_size)
            clock.lap("voxels")
            logits = self._run(cloud, points, clock)
            labels, confidence = np.empty(len(cloud.keys), np.uint8), np.empty(len(cloud.keys), np.float32)
            self.team.run(
                kernels.classify, 4096, len(cloud.keys), self._plan.num_classes, logits, labels, confidence
            )
            probabilities = logits[cloud.inverse, : self._plan.num_classes] if scores else None
            result = Segmentation(labels[cloud.inverse], confidence[cloud.inverse], probabilities)
            self._workspace.give(logits)
            clock.lap("labels")
        return result, clock.laps

    def logits(self, coords: npt.NDArray[np.integer], feats: Array) -> Array:
        """Class scores float32 `[N, num_classes]` of distinct voxels, as `PointVoxelUNet.forward` gives them.

        coords: `[N, 4]` (batch, x, y, z); feats: float32 `[N, in_channels]`
        """
        if len(coords) == 0:
            return np.zeros((0, self._plan.num_classes), np.float32)
        with self._lock:
            cloud = voxels_of_coords(coords)
            logits = self._run(cloud, np.ascontiguousarray(feats, np.float32), _Clock())
            out: Array = logits[cloud.inverse, : self._plan.num_classes]
            self._workspace.give(logits)
        return out

    def _run(self, cloud: Cloud, rows: Array, clock: _Clock) -> Array:
        """Padded logits of a cloud's voxels, in their order. The caller gives the array back to the workspace."""
        geometry = build_geometry(self.team, cloud.keys)
        clock.lap("geometry")
        slots: dict[int, Array] = {INPUT: self._take(len(cloud.keys), self.in_channels)}
        slots[INPUT][: len(cloud.keys), : self.in_channels] = rows[cloud.first]
        for index, (step, packed) in enumerate(zip(self._plan.steps, self._packed, strict=True)):
            level = 0 if isinstance(step, PointFusion) else step.level
            slots[step.out] = self._take(geometry.levels[level].size, self._plan.widths[step.out])
            self._execute(step, packed, geometry, slots)
            for slot in set(step.reads):
                if self._last_reader[slot] == index:
                    self._workspace.give(slots.pop(slot))
            clock.lap(step.name)
        return slots[self._plan.steps[-1].out]

    def _execute(self, step: Step, packed: _Packed, geometry: Geometry, slots: dict[int, Array]) -> None:
        finest, out = geometry.levels[0], slots[step.out]
        if isinstance(step, Convolution):
            level = geometry.levels[step.level]
            residual = _NO_ROWS if step.residual is None else slots[step.residual]
            self.team.run(
                kernels.convolve, level.size, _pairs(step, level), level.identity,
                *_terms(packed.sources, slots), *_terms(packed.pointwise, slots),
                packed.bias, residual, step.relu, out,
            )  # fmt: skip
        elif isinstance(step, PointFusion):
            level = geometry.levels[step.level]
            (points, _) = _terms(packed.sources, slots)
            self.team.run(
                kernels.fuse_points, finest.tile_rows, points, finest.identity, packed.bias, geometry.cells,
                level.ancestors, level.corners, step.level, slots[step.voxels], out,
            )  # fmt: skip
        else:
            level = geometry.levels[step.level]
            self.team.run(kernels.mean_points, level.tile_rows, level.starts, slots[step.points], out)

    def _take(self, rows: int, channels: int) -> Array:
        return self._workspace.take(rows + _SPARE_ROWS, SHAPE.pad(channels))

    def _warm_up(self) -> None:
        """Compile, or load from numba's cache, every kernel, by labelling two points."""
        kernels.mean_points(
            np.full(1, 1 << 40), 1, np.zeros(1, np.int32), np.zeros((1, 1), np.float32), np.zeros((1, 1), np.float32)
        )
        if sum(kernels.mean_points.stats.cache_misses.values()):
            logger.warning("compiling the CPU kernels for this machine (%s), once; takes up to a minute", SHAPE.name)
        self.segment(np.arange(2 * self.in_channels, dtype=np.float32).reshape(2, -1), scores=False)


class _Workspace:
    """Feature arrays that are used again from frame to frame: fresh memory costs a page fault per 4 KiB."""

    def __init__(self) -> None:
        self._free: list[Array] = []
        self._taken: dict[int, Array] = {}

    def take(self, rows: int, columns: int) -> Array:
        """An uninitialised array `[rows, columns]`, from the smallest free block that holds it."""
        need = rows * columns
        fitting = [block for block in self._free if need <= block.size <= 2 * need]
        block = min(fitting, key=lambda b: b.size) if fitting else aligned(need + need // 8)
        self._free = [b for b in self._free if b is not block]
        array = block[:need].reshape(rows, columns)
        self._taken[id(array)] = block
        return array

    def give(self, array: Array) -> None:
        """Return an array obtained from `take`."""
        self._free.append(self._taken.pop(id(array)))


class _Clock:
    """Time between laps, by name."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = perf_counter()

    def lap(self, name: str) -> None:
        now = perf_counter()
        self.laps[name] = now - self._last
        self._last = now


def _pack(step: Step) -> _Packed:
    if isinstance(step, PointMean):
        return _Packed((), (), np.zeros(0, np.float32))
    bias = np.zeros(SHAPE.pad(len(step.bias)), np.float32)
    bias[: len(step.bias)] = step.bias
    if isinstance(step, PointFusion):
        return _Packed((_pack_source(Source(step.points, step.kernel)),), (), bias)
    sources = tuple(_pack_source(s) for s in step.sources)
    pointwise = tuple(_pack_source(s) for s in step.pointwise)
    return _Packed((), sources, bias) if step.kind == "pointwise" else _Packed(sources, pointwise, bias)


def _pack_source(source: Source) -> tuple[int, int, Array]:
    return source.slot, source.kernel.shape[1], pack_kernel(source.kernel)


def _terms(packed: tuple[tuple[int, int, Array], ...], slots: dict[int, Array]) -> tuple[Term, Term]:
    terms = [Term(slots[slot], channels, panels) for slot, channels, panels in packed]
    first, second = (*terms, _NO_TERM, _NO_TERM)[:2]
    return first, second


def _pairs(step: Convolution, level: LevelGeometry) -> Pairs:
    if step.kind == "pointwise":
        return Pairs(_NO_PAIRS, _NO_PAIRS, _NO_PAIRS, 0, level.tile_rows)
    pairs = {"neighbours": level.neighbours, "halving": level.halving, "doubling": level.doubling}[step.kind]
    if pairs is None:
        raise ValueError(f"step {step.name}: no {step.kind} pairs lead to level {step.level}")
    return pairs
