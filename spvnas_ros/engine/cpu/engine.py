"""`CpuEngine`: executes a plan with the compiled kernels of `kernels.cpu`."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np
import numpy.typing as npt

from spvnas_ros.engine.box_finder import BoxFinder
from spvnas_ros.engine.plan import INPUT, Convolution, PointFusion, PointMean, Source, Step, build_plan, place_slots
from spvnas_ros.frame import Boxes, Points, Segmentation
from spvnas_ros.kernels.cpu import convolve as kernels
from spvnas_ros.kernels.cpu.buffers import Buffers
from spvnas_ros.kernels.cpu.convolve import SHAPE, Pairs, Term, pack_kernel
from spvnas_ros.kernels.cpu.geometry import Geometry, LevelGeometry, build_geometry
from spvnas_ros.kernels.cpu.octree import Cloud, first_rows, voxels_of_coords, voxels_of_points
from spvnas_ros.kernels.cpu.softmax import classify, label_points
from spvnas_ros.kernels.cpu.team import Team, default_threads
from spvnas_ros.nets.spec import NUM_STAGES, POINT_LEVELS
from spvnas_ros.nets.unet import PointVoxelUNet

logger = logging.getLogger(__name__)

Array = npt.NDArray[np.float32]

_NO_ROWS = np.zeros((0, 0), np.float32)
_NO_TERM = Term(_NO_ROWS, 0, np.zeros(0, np.float32))
_NO_PAIRS = np.zeros(1, np.int32)
_SPARE_ROWS = 1
"""The row behind the last, which padded pairs read and write."""
_TILE = 4096
"""Voxels or points that one thread takes at a time where each is little work."""


@dataclass(frozen=True)
class _Packed:
    """A step's weights in the kernels' layout."""

    sources: tuple[tuple[int, int, Array], ...]
    pointwise: tuple[tuple[int, int, Array], ...]
    bias: Array


class CpuEngine:
    """An engine that runs a network on CPU threads.

    threads: how many; by default `OMP_NUM_THREADS` or all cores the process may use
    """

    name = "cpu"
    device = "cpu"

    def __init__(self, net: PointVoxelUNet, voxel_size: float, threads: int | None = None) -> None:
        self.in_channels = net.spec.in_channels
        self.finds_boxes = net.spec.boxes is not None
        self.team = Team(default_threads() if threads is None else threads)
        self._plan = build_plan(net)
        self._packed = [_pack(step) for step in self._plan.steps]
        self._lifetimes = self._plan.lifetimes()
        self._voxel_size = voxel_size
        self._memory = Buffers()
        self._lock = threading.Lock()
        self._finder = BoxFinder(net.boxes, self.team) if net.boxes else None
        self._all: Sequence[int] = range(len(self._plan.steps))
        self._for_boxes = self._plan.for_boxes()
        self._warm_up()

    def segment(self, points: Points, scores: bool, boxes: bool = False, labels: bool = True) -> Segmentation:
        """Labels a cloud of finite points, as `Engine.segment` says."""
        return self.segment_timed(points, scores, boxes, labels)[0]

    def segment_timed(
        self,
        points: Points,
        scores: bool = False,
        boxes: bool = False,
        labels: bool = True,
        now: Callable[[], float] = perf_counter,
    ) -> tuple[Segmentation, dict[str, float]]:
        """Labels a cloud as `segment` does, and returns the seconds of each stage by the clock `now`, too.

        The stages are voxels, geometry, every step of the plan by name, and what is asked for of labels and boxes.
        Steps that only the labels need are left out where these are not asked for.
        """
        finder = self._finder if boxes else None
        if not labels and finder is None:
            return Segmentation.unlabelled(len(points)), {}
        if len(points) == 0:
            none = np.zeros((0, self._plan.num_classes), np.float32) if scores else None
            found = Boxes.none() if finder else None
            return Segmentation(np.zeros(0, np.uint8), np.zeros(0, np.float32), none, boxes=found), {}
        with self._lock, self.team.meeting():
            clock = _Clock(now)
            cloud = voxels_of_points(points, self._voxel_size, self._memory)
            clock.lap("voxels")
            geometry, slots = self._run(cloud, points, clock, self._all if labels else self._for_boxes)
            if labels:
                result = self._labels(cloud, slots, scores)
                clock.lap("labels")
            else:
                result = Segmentation.unlabelled(len(points))
            if finder:
                found = self._boxes(finder, cloud, points, geometry, slots)
                clock.lap("boxes")
                result = replace(result, boxes=found, head_ms=1e3 * clock.laps["boxes"])
        return result, clock.laps

    def _labels(self, cloud: Cloud, slots: list[Array], scores: bool) -> Segmentation:
        logits = slots[self._plan.steps[-1].out]
        voxels, points = len(cloud.keys), len(cloud.inverse)
        labels, confidence = (
            self._memory.array("labels", voxels, np.uint8),
            self._memory.array("confidence", voxels, np.float32),
        )
        self.team.run(
            classify, _TILE, self._plan.num_classes, logits, scores, labels, confidence, shares=_tiles(voxels)
        )  # fmt: skip
        probabilities = logits[cloud.inverse, : self._plan.num_classes] if scores else None
        # What the caller gets is not kept memory.
        result = np.empty(points, np.uint8), np.empty(points, np.float32)
        self.team.run(label_points, _TILE, cloud.inverse, labels, confidence, *result, shares=_tiles(points))
        return Segmentation(*result, probabilities)

    def _boxes(self, finder: BoxFinder, cloud: Cloud, points: Points, geometry: Geometry, slots: list[Array]) -> Boxes:
        assert self._plan.taken is not None
        size = geometry.levels[finder.level].size
        cells = geometry.cells[geometry.levels[finder.level].starts[:size]] >> finder.level
        # Rounded as the voxels were, see `quantize`.
        nearest = np.round(points[cloud.first[0], :3].astype(np.float32) / np.float32(self._voxel_size))
        corner = nearest.astype(np.int64) - geometry.cells[0]
        return finder(slots[self._plan.taken][:size], cells, corner)

    def logits(self, coords: npt.NDArray[np.integer], feats: Array) -> Array:
        """Returns the class scores float32 `[N, num_classes]` of distinct voxels, as `PointVoxelUNet.forward` does.

        coords: `[N, 4]` (batch, x, y, z); feats: float32 `[N, in_channels]`

        Raises ValueError for other shapes or repeated voxels, and KeyRangeError for scans that are too large.
        """
        if coords.ndim != 2 or coords.shape[1] != 4 or feats.shape != (len(coords), self.in_channels):
            raise ValueError(
                f"expected coords [N, 4] and feats [N, {self.in_channels}], found {coords.shape} and {feats.shape}"
            )
        if len(coords) == 0:
            return np.zeros((0, self._plan.num_classes), np.float32)
        with self._lock, self.team.meeting():
            cloud = voxels_of_coords(coords, memory=self._memory)
            if len(cloud.keys) != len(coords):
                raise ValueError("coords holds the same voxel more than once; quantize the points first")
            _, slots = self._run(cloud, np.ascontiguousarray(feats, np.float32), _Clock(), self._all)
            logits = slots[self._plan.steps[-1].out]
            out: Array = logits[cloud.inverse, : self._plan.num_classes]
        return out

    def _run(self, cloud: Cloud, rows: Array, clock: _Clock, steps: Sequence[int]) -> tuple[Geometry, list[Array]]:
        """Returns the geometry of a cloud, and the slots after the last of these steps: the padded logits of its
        voxels, in their order, and the features that the box branch takes.

        They live in the arena until the next frame.
        """
        geometry = build_geometry(self.team, cloud.keys, NUM_STAGES, POINT_LEVELS, memory=self._memory)
        clock.lap("geometry")
        slots = self._slots(geometry)
        self.team.run(first_rows, _TILE, cloud.first, rows, slots[INPUT], shares=_tiles(len(cloud.first)))
        for index in steps:
            step = self._plan.steps[index]
            self._execute(step, self._packed[index], geometry, slots)
            clock.lap(step.name)
        return geometry, slots

    def _slots(self, geometry: Geometry) -> list[Array]:
        """Returns the feature array `[n + spare, padded width]` of every slot, sharing memory where lifetimes allow it.

        All lie in one array, the arena.
        """
        shapes = [(geometry.levels[slot.level].size + _SPARE_ROWS, SHAPE.pad(slot.width)) for slot in self._plan.slots]
        sizes = [-(-rows * columns // 16) * 16 for rows, columns in shapes]  # whole cache lines
        offsets, total = place_slots(sizes, self._lifetimes)
        arena = self._memory.array("features", total, np.float32)
        return [
            arena[offset : offset + rows * columns].reshape(rows, columns)
            for offset, (rows, columns) in zip(offsets, shapes, strict=True)
        ]

    def _execute(self, step: Step, packed: _Packed, geometry: Geometry, slots: list[Array]) -> None:
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

    def _warm_up(self) -> None:
        """Compiles every kernel, or loads it from numba's cache, by labelling two points."""
        misses = _cache_misses()
        kernels.mean_points(
            np.full(1, 1 << 40), 1, np.zeros(1, np.int32), np.zeros((1, 1), np.float32), np.zeros((1, 1), np.float32)
        )
        if _cache_misses() > misses:
            logger.warning("compiling the CPU kernels for this machine (%s), once; takes up to a minute", SHAPE.name)
        self.segment(np.arange(2 * self.in_channels, dtype=np.float32).reshape(2, -1), scores=False)


def _cache_misses() -> int:
    return sum(kernels.mean_points.stats.cache_misses.values())


class _Clock:
    """The time between laps, by name."""

    def __init__(self, now: Callable[[], float] = perf_counter) -> None:
        self.laps: dict[str, float] = {}
        self._now = now
        self._last = now()

    def lap(self, name: str) -> None:
        now = self._now()
        self.laps[name] = now - self._last
        self._last = now


def _tiles(rows: int) -> int:
    return -(-rows // _TILE)


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


def _terms(packed: tuple[tuple[int, int, Array], ...], slots: list[Array]) -> tuple[Term, Term]:
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
