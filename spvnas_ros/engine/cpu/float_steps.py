"""The steps of a plan on float32 features."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from spvnas_ros.engine.cpu.steps import Features, pairs_of
from spvnas_ros.engine.plan import INPUT, Convolution, Plan, PointFusion, PointMean, Source, Step
from spvnas_ros.kernels.cpu import convolve as kernels
from spvnas_ros.kernels.cpu.convolve import SHAPE, Term, pack_kernel
from spvnas_ros.kernels.cpu.geometry import Geometry, build_geometry
from spvnas_ros.kernels.cpu.octree import first_rows, voxels_of_points
from spvnas_ros.kernels.cpu.team import Team
from spvnas_ros.nets.spec import NUM_STAGES, POINT_LEVELS

Array = npt.NDArray[np.float32]

_NO_ROWS = np.zeros((0, 0), np.float32)
_TAKEN_ROWS = 4096
_NO_TERM = Term(_NO_ROWS, 0, np.zeros(0, np.float32))


@dataclass(frozen=True)
class _Packed:
    """A step's weights in the kernels' layout."""

    sources: tuple[tuple[int, int, Array], ...]
    pointwise: tuple[tuple[int, int, Array], ...]
    bias: Array


class FloatSteps:
    """Runs a plan in float32, as `Steps` says."""

    in_tiles = False

    def __init__(self, plan: Plan, team: Team) -> None:
        """Packs the plan, and keeps nothing else of its weights."""
        self._plan, self._team = plan.light(), team
        self._packed = [_pack(step) for step in plan.steps]

    def is_new(self) -> bool:
        """Returns whether this machine has to compile the kernels. One is compiled, or loaded, to find out."""
        misses = sum(kernels.mean_points.stats.cache_misses.values())
        rows = np.zeros((1, 1), np.float32)
        kernels.mean_points(np.full(1, 1 << 40), 1, np.zeros(1, np.int32), rows, rows)
        return sum(kernels.mean_points.stats.cache_misses.values()) > misses

    def layout(self) -> list[tuple[int, np.dtype[Any]]]:
        """Returns whole vectors of float32 for every slot."""
        return [(SHAPE.pad(slot.width), np.dtype(np.float32)) for slot in self._plan.slots]

    def begin(self, rows: Array, chosen: npt.NDArray[np.integer], out: Features) -> None:
        """Begins a frame: copies the chosen rows."""
        self._team.run(first_rows, _TAKEN_ROWS, rows, chosen, out, shares=-(-len(chosen) // _TAKEN_ROWS))

    def writes(self, index: int) -> tuple[int, ...]:
        """Returns the step's own output."""
        return (self._plan.steps[index].out,)

    def replaces(self, index: int) -> tuple[int, ...]:
        """Returns the residual: sums begin with it. What else is read lies beside the sums."""
        step = self._plan.steps[index]
        return (step.residual,) if isinstance(step, Convolution) and step.residual is not None else ()

    def clipped(self) -> int:
        """Returns 0: float32 holds every value."""
        return 0

    def cut_off(self) -> int:
        """Returns 0, likewise."""
        return 0

    def floats(self, slot: int, features: Features) -> Array:  # noqa: ARG002
        """Returns the features themselves."""
        return features

    def run(self, index: int, geometry: Geometry, slots: list[Features]) -> None:
        """Runs one step."""
        step, packed = self._plan.steps[index], self._packed[index]
        finest, out = geometry.levels[0], slots[step.out]
        if isinstance(step, Convolution):
            level = geometry.levels[step.level]
            residual = _NO_ROWS if step.residual is None else slots[step.residual]
            self._team.run(
                kernels.convolve, level.size, pairs_of(step, level), level.identity,
                *_terms(packed.sources, slots), *_terms(packed.pointwise, slots),
                packed.bias, residual, step.relu, out, shares=level.tiles,
            )  # fmt: skip
        elif isinstance(step, PointFusion):
            level = geometry.levels[step.level]
            (points, _) = _terms(packed.sources, slots)
            self._team.run(
                kernels.fuse_points, finest.tile_rows, points, finest.identity, packed.bias, geometry.cells,
                level.ancestors, level.corners, step.level, slots[step.voxels], out, shares=finest.tiles,
            )  # fmt: skip
        else:
            level = geometry.levels[step.level]
            self._team.run(
                kernels.mean_points, level.tile_rows, level.starts, slots[step.points], out, shares=level.tiles
            )


def compile_kernels(plan: Plan) -> None:
    """Compiles the kernels of float32, or loads them from the cache, by the first step of each kind on two points."""
    firsts = {type(step): step for step in reversed(plan.steps)}
    chosen = sorted(firsts.values(), key=plan.steps.index)
    team = Team(1)
    steps = FloatSteps(replace(plan, steps=tuple(chosen)), team)
    points = np.zeros((2, plan.slots[INPUT].width), np.float32)
    cloud = voxels_of_points(points, 1.0)
    geometry = build_geometry(team, cloud.keys, NUM_STAGES, POINT_LEVELS)
    slots: list[Features] = [
        np.zeros((geometry.levels[slot.level].size + 1, columns), kind)
        for slot, (columns, kind) in zip(plan.slots, steps.layout(), strict=True)
    ]
    steps.begin(points, cloud.first, slots[INPUT])
    for index in range(len(chosen)):
        steps.run(index, geometry, slots)


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
    return source.slot, source.shape[1], pack_kernel(source.kernel)


def _terms(packed: tuple[tuple[int, int, Array], ...], slots: list[Features]) -> tuple[Term, Term]:
    terms = [Term(slots[slot], channels, panels) for slot, channels, panels in packed]
    first, second = (*terms, _NO_TERM, _NO_TERM)[:2]
    return first, second
