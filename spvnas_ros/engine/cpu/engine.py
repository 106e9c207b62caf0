"""`CpuEngine`: executes a plan with the compiled kernels of `kernels.cpu`."""

from __future__ import annotations

import logging
import os
import subprocess
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from spvnas_ros.engine.box_finder import BoxFinder, bfloat_is_fast
from spvnas_ros.engine.cpu.float_steps import FloatSteps
from spvnas_ros.engine.cpu.retreat import IN_A_ROW, Retreat
from spvnas_ros.engine.cpu.steps import Features, Steps
from spvnas_ros.engine.cpu.word_packing import units_of
from spvnas_ros.engine.plan import INPUT, Plan, build_plan, place_slots
from spvnas_ros.errors import UserError
from spvnas_ros.frame import Boxes, Points, Segmentation
from spvnas_ros.kernels.cpu.buffers import Buffers
from spvnas_ros.kernels.cpu.convolve import SHAPE
from spvnas_ros.kernels.cpu.geometry import Geometry, build_geometry
from spvnas_ros.kernels.cpu.octree import Cloud, voxels_of_coords, voxels_of_points
from spvnas_ros.kernels.cpu.shape import WordShape, host_words
from spvnas_ros.kernels.cpu.softmax import classify, label_points
from spvnas_ros.kernels.cpu.team import Team, default_threads
from spvnas_ros.nets.spec import NUM_STAGES, POINT_LEVELS
from spvnas_ros.nets.unet import PointVoxelUNet
from spvnas_ros.workers import command_of, give_way

logger = logging.getLogger(__name__)

Array = npt.NDArray[np.float32]

Precision = Literal["int16", "int8", "fp32"]

_Blocks = tuple[list[int], dict[int, tuple[int, int]]]

_ARENA = "features"
_BRIEF = 120
"""Bytes a point that voxels and geometry need for a while, before there are features."""
_SPARE_ROWS = 1
"""The row behind the last, which padded pairs read and write."""
_TILE = 4096
"""Voxels or points that one thread takes at a time where each is little work."""

_LINE = 64

_SETTLED = 20
"""After so many frames float32's kernels are compiled beside int16's, in a process of its own. A command that labels a
few scans does not start it, and a robot's first labels do not share the processor with the compiler."""


class CpuEngine:
    """An engine that runs a network on CPU threads.

    threads:   how many, or the team itself; by default `OMP_NUM_THREADS` or all cores the process may use
    precision: of features and weights. "int16" is about twice as fast as "fp32" and gives the same label to all but one
               point in some thousands; a frame with a value beyond the range that the network's training implies is
               labelled again in float32, which is logged once; after some in a row, float32 is tried first for a while
               (`Retreat`). "int8" is about three times as fast as "fp32" and gives another label to one point in some
               hundreds; values up to four times its range are cut off and counted, and a frame is labelled again where
               one is beyond that, or more than `MOST_CUT_OFF` of all are cut off. "auto" is int16 where machine and
               network allow it, and never int8. With integers, the network over the bird's-eye view runs in bfloat16
               where the CPU multiplies it

    trained:   False for random weights: their BatchNorm says nothing of the features, so "auto" is float32
    again:     returns the network once more, with the same weights. Where it is given, an engine on integers does not
               keep float32 weights for frames beyond the range, and calls it when the first comes

    frames_beyond_range: how many frames were labelled again, or in float32 because those before had to be
    values_cut_off: how many values were cut off in all other frames
    precision_reason: why it is this precision

    Raises UserError for another precision, or for "int16" or "int8" where machine or network do not allow it.
    """

    name = "cpu"
    device = "cpu"

    def __init__(
        self,
        net: PointVoxelUNet,
        voxel_size: float,
        threads: int | Team | None = None,
        precision: str = "auto",
        trained: bool = True,
        again: Callable[[], PointVoxelUNet] | None = None,
    ) -> None:
        self.in_channels = net.spec.in_channels
        self.finds_boxes = net.spec.boxes is not None
        self.team = threads if isinstance(threads, Team) else Team(default_threads() if threads is None else threads)
        plan = build_plan(net)
        # The weights are kept in one form where one is enough: packed.
        self._plan = plan.light()
        self._weights: Callable[[], Plan] = lambda: plan
        self._float_steps: FloatSteps | None = None
        self.precision: Precision = "fp32"
        self._steps, self.precision, self.precision_reason = self._choose(precision, trained)
        if again is not None:
            self._weights = lambda: build_plan(again())
        self._retreat, self._has_rested = Retreat(), False
        self.frames_beyond_range, self.values_cut_off = 0, 0
        self._compiles_later, self._frames = False, 0
        self._blocks: dict[Steps, _Blocks] = {}
        self._voxel_size = voxel_size
        self._memory, self._rehearsed = Buffers(later=_ARENA), 0
        self._lock = threading.Lock()
        self._finder = None
        if net.boxes:
            self._finder = BoxFinder(net.boxes, self.team, narrow=self.precision != "fp32" and bfloat_is_fast())
        self._all: Sequence[int] = range(len(self._plan.steps))
        self._for_boxes = self._plan.for_boxes()
        _ENGINES.add(self)
        self._warm_up()

    def begin_forked(self) -> None:
        """Unlocks the engine of a forked process, in which the thread that held the lock does not go on.

        Nor do torch's threads, on which the box branch would wait for ever: there it runs on one.
        """
        self._lock = threading.Lock()
        if self._finder is not None:
            self._finder.begin_forked()

    def range_counts(self) -> dict[str, int]:
        """Returns what was beyond its range so far, by what to call it; nothing where float32 holds everything."""
        if self.precision == "fp32":
            return {}
        counts = {"labelled again in fp32": self.frames_beyond_range}
        return counts | ({"values cut off": self.values_cut_off} if self.precision == "int8" else {})

    def segment(self, points: Points, scores: bool, boxes: bool = False, labels: bool = True) -> Segmentation:
        """Labels a cloud of finite points, as `Engine.segment` says."""
        return self.segment_timed(points, scores, boxes, labels)[0]

    def segment_in_two(self, points: Points, on_labels: Callable[[Segmentation], None]) -> Segmentation:
        """Labels a cloud and finds its boxes, and calls `on_labels` with the labels before it looks for the boxes.

        What `on_labels` raises is raised. It gets the arrays that are returned: it may keep them, and must not change
        them.
        """
        return self.segment_timed(points, boxes=True, on_labels=on_labels)[0]

    def segment_timed(
        self,
        points: Points,
        scores: bool = False,
        boxes: bool = False,
        labels: bool = True,
        now: Callable[[], float] = perf_counter,
        on_labels: Callable[[Segmentation], None] | None = None,
    ) -> tuple[Segmentation, dict[str, float]]:
        """Labels a cloud as `segment` does, and returns the seconds of each stage by the clock `now`, too.

        The stages are voxels, geometry, every step of the plan by name, and what is asked for of labels and boxes.
        Steps that only the labels need are left out where these are not asked for. `on_labels` is called with the
        labels before boxes are looked for.
        """
        finder = self._finder if boxes else None
        if not labels and finder is None:
            return Segmentation.unlabelled(len(points)), {}
        if len(points) == 0:
            none = np.zeros((0, self._plan.num_classes), np.float32) if scores else None
            found = Boxes.none() if finder else None
            nothing = Segmentation(np.zeros(0, np.uint8), np.zeros(0, np.float32), none, boxes=found)
            if on_labels is not None:
                on_labels(nothing)
            return nothing, {}
        with self._lock, self.team.meeting():
            clock = _Clock(now)
            if self._rehearsed > 2 * len(points):
                self._memory = Buffers(later=_ARENA)
            self._rehearsed = 0
            self._memory.begin(_BRIEF * len(points))
            cloud = voxels_of_points(points, self._voxel_size, self._memory)
            clock.lap("voxels")
            geometry, slots, steps = self._run(cloud, points, clock, self._all if labels else self._for_boxes)
            if labels:
                result = self._labels(cloud, slots, scores)
                clock.lap("labels")
            else:
                result = Segmentation.unlabelled(len(points))
            if on_labels is not None:
                on_labels(result)
                clock.lap("handed over")
            if finder:
                found = self._boxes(finder, cloud, points, geometry, slots, steps)
                clock.lap("boxes")
                result = replace(result, boxes=found, head_ms=1e3 * clock.laps["boxes"])
        self._frames += 1
        if self._compiles_later and self._frames == _SETTLED:
            self._compiles_later = False
            logger.info("compiling the CPU kernels of float32, too, beside the frames")
            threading.Thread(target=_compile_floats, name="spvnas-compiler", daemon=True).start()
        return result, clock.laps

    def rehearse(self, points: Points, boxes: bool = False) -> None:
        """Labels a cloud `[N, in_channels]` without an answer: memory is there for the clouds like it that follow.

        Nothing is counted, and what is beyond its range changes nothing. Where the first cloud is less than half as
        large, it begins with new memory.
        """
        with self._lock, self.team.meeting():
            self._memory.begin(_BRIEF * len(points))
            cloud = voxels_of_points(points, self._voxel_size, self._memory)
            geometry, slots = self._run_with(self._steps, cloud, points, _Clock(), self._all)
            self._labels(cloud, slots, scores=False)
            if self._finder is not None and boxes:
                self._boxes(self._finder, cloud, points, geometry, slots, self._steps)
        self._rehearsed = len(points)

    def _labels(self, cloud: Cloud, slots: list[Features], scores: bool) -> Segmentation:
        logits = slots[self._plan.steps[-1].out]
        voxels, points = len(cloud.keys), len(cloud.inverse)
        labels = self._memory.array("labels", voxels, np.uint8)
        confidence = self._memory.array("confidence", voxels, np.float32)
        self.team.run(
            classify, _TILE, self._plan.num_classes, logits, scores, labels, confidence, shares=_tiles(voxels)
        )  # fmt: skip
        probabilities = logits[cloud.inverse, : self._plan.num_classes] if scores else None
        # What the caller gets is not kept memory.
        result = np.empty(points, np.uint8), np.empty(points, np.float32)
        self.team.run(label_points, _TILE, cloud.inverse, labels, confidence, *result, shares=_tiles(points))
        return Segmentation(*result, probabilities)

    def _boxes(
        self,
        finder: BoxFinder,
        cloud: Cloud,
        points: Points,
        geometry: Geometry,
        slots: list[Features],
        steps: Steps,
    ) -> Boxes:
        taken = self._plan.taken
        assert taken is not None
        size = geometry.levels[finder.level].size
        cells = geometry.cells[geometry.levels[finder.level].starts[:size]] >> finder.level
        # Rounded as the voxels were, see `quantize`.
        nearest = np.round(points[cloud.first[0], :3].astype(np.float32) / np.float32(self._voxel_size))
        corner = nearest.astype(np.int64) - geometry.cells[0]
        return finder(steps.floats(taken, slots[taken][:size]), cells, corner)

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
            self._memory.begin(_BRIEF * len(coords))
            cloud = voxels_of_coords(coords, memory=self._memory)
            if len(cloud.keys) != len(coords):
                raise ValueError("coords holds the same voxel more than once; quantize the points first")
            _, slots, _ = self._run(cloud, np.ascontiguousarray(feats, np.float32), _Clock(), self._all)
            logits = slots[self._plan.steps[-1].out]
            out: Array = logits[cloud.inverse, : self._plan.num_classes]
        return out

    def _run(
        self, cloud: Cloud, rows: Array, clock: _Clock, indices: Sequence[int]
    ) -> tuple[Geometry, list[Features], Steps]:
        """Returns the geometry of a cloud, the slots after the last of these steps (the padded logits of its voxels, in
        their order, and the features that the box branch takes), and what ran the steps.

        The slots live in the arena until the next frame.
        """
        if self._steps is self._float_steps or self._retreat.tries():
            geometry, slots = self._run_with(self._steps, cloud, rows, clock, indices)
            clipped = self._steps.clipped()
            rests = self._steps is not self._float_steps and self._retreat.tell(not clipped)
            if not clipped:
                self.values_cut_off += self._steps.cut_off()
                return geometry, slots, self._steps
            self._say(clipped, rests)
        self.frames_beyond_range += 1
        geometry, slots = self._run_with(self._floats(), cloud, rows, clock, indices)
        return geometry, slots, self._floats()

    def _say(self, clipped: int, rests: bool) -> None:
        """Says once that a frame is beyond the range, and once that the next ones are not tried on integers."""
        if self.frames_beyond_range == 0:
            logger.warning(
                "%d value(s) of a cloud are beyond the range that the network's training implies, which precision %r "
                "does not hold; such clouds are labelled again in float32, which takes longer. Intensities "
                "that are not in 0..1 and coordinates that are not metres do that; where the clouds are as meant, "
                "choose precision %s", clipped, self.precision,
                "'int16', which holds more, or 'fp32'" if self.precision == "int8" else "'fp32'",
            )  # fmt: skip
        if rests and not self._has_rested:
            self._has_rested = True
            logger.warning(
                "%d clouds in a row are beyond the range: the next %d are labelled in float32 at once, and longer "
                "each time that integers fail again", IN_A_ROW, self._retreat.resting,
            )  # fmt: skip

    def _run_with(
        self, steps: Steps, cloud: Cloud, rows: Array, clock: _Clock, indices: Sequence[int]
    ) -> tuple[Geometry, list[Features]]:
        self._memory.begin()
        geometry = build_geometry(self.team, cloud.keys, NUM_STAGES, POINT_LEVELS, steps.in_tiles, self._memory)
        clock.lap("geometry")
        slots = self._slots(geometry, steps)
        steps.begin(rows, cloud.first, slots[INPUT])
        for index in indices:
            steps.run(index, geometry, slots)
            clock.lap(self._plan.steps[index].name)
        return geometry, slots

    def _slots(self, geometry: Geometry, steps: Steps) -> list[Features]:
        """Returns the feature array `[n + spare, padded width]` of every slot, sharing memory where lifetimes allow it.

        All lie in one array, the arena.
        """
        shapes = [
            (geometry.levels[slot.level].size + _SPARE_ROWS, columns, kind)
            for slot, (columns, kind) in zip(self._plan.slots, steps.layout(), strict=True)
        ]
        if steps not in self._blocks:
            self._blocks[steps] = _blocks_of(self._plan, steps)
        blocks, lifetimes = self._blocks[steps]
        sizes = {
            block: -(-rows * columns * kind.itemsize // _LINE) * _LINE
            for block, (rows, columns, kind) in zip(blocks, shapes, strict=True)
        }
        offsets, total = place_slots(list(sizes.values()), [lifetimes[block] for block in sizes])
        places = dict(zip(sizes, offsets, strict=True))
        arena = self._memory.array(_ARENA, total, np.uint8)
        return [
            arena[places[block] : places[block] + rows * columns * kind.itemsize].view(kind).reshape(rows, columns)
            for block, (rows, columns, kind) in zip(blocks, shapes, strict=True)
        ]

    def _choose(self, wanted: str, trained: bool) -> tuple[Steps, Precision, str]:
        """Returns what runs the steps, the precision, and why it is this one."""
        if wanted not in ("auto", *get_args(Precision)):
            raise UserError(
                f"the CPU engine has no precision {wanted!r}, expected auto, {', '.join(get_args(Precision))}"
            )
        if wanted == "fp32":
            return self._floats(), "fp32", "asked for"
        if wanted == "auto" and not trained:
            return self._floats(), "fp32", "untrained weights imply no ranges"
        shape = host_words()
        if wanted == "int8":
            return self._byte_steps(shape), "int8", "asked for"
        try:
            if shape is None:
                raise ValueError(f"this machine ({SHAPE.name}) has no fast 16-bit products")
            from spvnas_ros.engine.cpu.word_steps import WordSteps

            steps = WordSteps(self._weights(), self.team)
        except ValueError as error:
            if wanted == "int16":
                raise UserError(f"precision 'int16' is not to be had: {error}; use 'fp32'") from error
            return self._floats(), "fp32", str(error)
        return steps, "int16", shape.name if wanted == "auto" else "asked for"

    def _byte_steps(self, shape: WordShape | None) -> Steps:
        """Returns the steps on bytes, which nobody gets who has not asked for them."""
        try:
            if shape is None or not shape.fused:
                name = SHAPE.name if shape is None else shape.name
                raise ValueError(
                    f"this machine ({name}) has no exact products of 8 bits: AVX512-VNNI or AVX-VNNI is missing"
                )
            from spvnas_ros.engine.cpu.word_steps import WordSteps

            return WordSteps(self._weights(), self.team, in_bytes=True)
        except ValueError as error:
            raise UserError(f"precision 'int8' is not to be had: {error}; use 'auto', 'int16' or 'fp32'") from error

    def _floats(self) -> FloatSteps:
        """Returns the steps in float32, packed when they are first wanted."""
        if self._float_steps is None:
            steps = FloatSteps(self._weights(), self.team)
            self._weights = lambda: self._plan
            if self.precision == "int16" and steps.is_new():
                logger.warning("compiling the CPU kernels of float32 for this machine (%s), once", SHAPE.name)
            self._float_steps = steps
        return self._float_steps

    def _warm_up(self) -> None:
        """Compiles every kernel that frames usually need, or loads it from numba's cache, by labelling two points.

        float32's kernels beside int16's are compiled later: hardly any stream needs them, and the first label should
        not wait for them.
        """
        if self._steps.is_new():
            name = SHAPE.name if self.precision == "fp32" else f"{SHAPE.name}, {self.precision}"
            logger.warning("compiling the CPU kernels for this machine (%s), once; takes up to half a minute", name)
            self._compiles_later = self.precision != "fp32"
        points = np.zeros((2, self.in_channels), np.float32)
        points[1, :3] = 1
        self.rehearse(points)
        logger.info("CPU engine: %s (%s), %d thread(s)", self.precision, self.precision_reason, self.team.threads)


_ENGINES: weakref.WeakSet[CpuEngine] = weakref.WeakSet()
"""Those of this process that are in use, for the one handler below: handlers cannot be taken back."""


def _begin_forked() -> None:
    for engine in tuple(_ENGINES):
        engine.begin_forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_forked)


def precision_of(net: PointVoxelUNet) -> tuple[Precision, str]:
    """Returns the precision that "auto" takes for a network on this machine, and why, without making an engine."""
    shape = host_words()
    if shape is None:
        return "fp32", f"this machine ({SHAPE.name}) has no fast 16-bit products"
    try:
        units_of(build_plan(net))
    except ValueError as error:
        return "fp32", str(error)
    return "int16", shape.name


def _blocks_of(plan: Plan, steps: Steps) -> _Blocks:
    """Returns the block of the arena in which each slot lies, and from which step to which each block is in use."""
    indices = range(len(plan.steps))
    blocks = plan.owners(steps.layout(), [steps.replaces(index) for index in indices])
    written = {slot: index for index in reversed(indices) for slot in steps.writes(index)}
    lifetimes: dict[int, tuple[int, int]] = {}
    for slot, (block, (first, last)) in enumerate(zip(blocks, plan.lifetimes(), strict=True)):
        first = written.get(slot, first)
        before = lifetimes.get(block, (first, last))
        lifetimes[block] = min(before[0], first), max(before[1], last)
    return blocks, lifetimes


def _compile_floats() -> None:
    """Compiles the kernels of float32 in a process, which ends with this one and gives way as this thread does.

    A thread would hold the interpreter, which a frame asks for some hundred times, and leave its memory behind.
    """
    give_way()
    # Waited for by the thread that starts it: Linux ends a worker with that thread.
    try:
        command = command_of("spvnas_ros.engine.cpu.compile_ahead")
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        problem = done.stderr if done.returncode > 0 else ""
    except OSError as error:
        problem = str(error)
    if problem:
        logger.warning("float32's kernels were not compiled ahead of the frames that need them: %s", problem)


class _Clock:
    """The time between laps, by name."""

    def __init__(self, now: Callable[[], float] = perf_counter) -> None:
        self.laps: dict[str, float] = {}
        self._now = now
        self._last = now()

    def lap(self, name: str) -> None:
        now = self._now()
        self.laps[name] = self.laps.get(name, 0.0) + now - self._last
        self._last = now


def _tiles(rows: int) -> int:
    return -(-rows // _TILE)
