"""The steps of a plan on features of 16-bit integers, for machines that multiply these faster than float32."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from spvnas_ros.engine.cpu.steps import Features, pairs_of
from spvnas_ros.engine.cpu.word_packing import check_noise, pack_words, pad_eights, pad_fours, units_of
from spvnas_ros.engine.plan import INPUT, Convolution, Plan, PointFusion
from spvnas_ros.kernels.cpu import convolve_words as kernels
from spvnas_ros.kernels.cpu.convolve import aligned
from spvnas_ros.kernels.cpu.convolve_words import SHAPE, Finish, Scratch, WordTerm
from spvnas_ros.kernels.cpu.geometry import TILE_ROWS, Geometry
from spvnas_ros.kernels.cpu.team import Team

_NO_ROWS = np.zeros((0, 0), np.uint16)
_NO_TERM = WordTerm(_NO_ROWS, 0, np.zeros(0, np.int32))
_LINE = 16
_TAKEN_ROWS = 4096

Array = npt.NDArray[np.float32]


class WordSteps:
    """Runs a plan on integers, as `Steps` says. Input and logits are float32."""

    in_tiles = True

    def __init__(self, plan: Plan, team: Team) -> None:
        """Packs the plan. Raises ValueError, as `units_of` and `check_noise`, for one that cannot run on integers."""
        self._plan, self._team = plan.light(), team
        self._units = units_of(plan)
        check_noise(plan, self._units)
        self._packed = [pack_words(step, self._units, SHAPE) for step in plan.steps]
        self._finish = [Finish(p.scale, p.bias, p.blocks, np.float32(p.ratio)) for p in self._packed]
        largest = max((TILE_ROWS[slot.level] + SHAPE.rows) * pad_eights(slot.width) for slot in plan.slots)
        sums = aligned(team.threads * -(-largest // _LINE) * _LINE).reshape(team.threads, -1)
        clipped = np.zeros((team.threads, _LINE), np.int32)
        local = np.arange(max(TILE_ROWS) + SHAPE.rows, dtype=np.int32)
        self._scratch = Scratch(np.zeros(1, np.int64), sums, clipped, local)

    def is_new(self) -> bool:
        """Returns whether this machine has to compile the kernels. One is compiled, or loaded, to find out."""
        misses = sum(kernels.mean_points.stats.cache_misses.values())
        rows = np.zeros((1, 8), np.uint16)
        kernels.mean_points(np.full(1, 1 << 40), 1, np.zeros(1, np.int32), rows, rows)
        return sum(kernels.mean_points.stats.cache_misses.values()) > misses

    def layout(self) -> list[tuple[int, np.dtype[Any]]]:
        """Returns eights of uint16 for every slot but the input and the logits, which are float32."""
        last = self._plan.steps[-1].out
        shapes: list[tuple[int, np.dtype[Any]]] = []
        for index, slot in enumerate(self._plan.slots):
            if index == INPUT:
                shapes.append((pad_fours(slot.width), np.dtype(np.float32)))
            elif index == last:
                shapes.append((pad_eights(slot.width), np.dtype(np.float32)))
            else:
                shapes.append((pad_eights(slot.width), np.dtype(np.uint16)))
        return shapes

    def begin(self, rows: Array, chosen: npt.NDArray[np.integer], out: Features) -> None:
        """Begins a frame: nothing is clipped yet."""
        self._scratch.clipped[:] = 0
        self._team.run(kernels.take_rows, _TAKEN_ROWS, rows, chosen, out, shares=-(-len(chosen) // _TAKEN_ROWS))

    def clipped(self) -> int:
        """Returns how many values were beyond the range of their slot, or no numbers."""
        return int(self._scratch.clipped.sum(dtype=np.int64))

    def floats(self, slot: int, features: Features) -> npt.NDArray[np.float32]:
        """Returns features of a slot as float32."""
        return features.astype(np.float32) * np.float32(self._units[slot])

    def run(self, index: int, geometry: Geometry, slots: list[Features]) -> None:
        """Runs one step."""
        step, packed, finish = self._plan.steps[index], self._packed[index], self._finish[index]
        finest, level, out = geometry.levels[0], geometry.levels[step.level], slots[step.out]
        scratch, run = self._scratch, self._team.run
        scratch.seats[0] = 0
        terms = [WordTerm(slots[slot], words, panels) for slot, words, panels in packed.sources]
        if isinstance(step, PointFusion):
            run(
                kernels.fuse_points, finest.tile_rows, terms[0], finest.identity, finish, geometry.cells,
                level.ancestors, level.corners, step.level, slots[step.voxels], scratch, out,
                shares=finest.tiles,
            )  # fmt: skip
        elif not isinstance(step, Convolution):
            run(kernels.mean_points, level.tile_rows, level.starts, slots[step.points], out, shares=level.tiles)
        elif packed.kernel is not None:
            run(
                kernels.convolve_input, finest.tile_rows, geometry.around, slots[INPUT], packed.kernel, finish, scratch,
                out, shares=finest.tiles,
            )  # fmt: skip
        elif step.kind == "pointwise":
            run(
                kernels.classify_words, level.size, level.tile_rows, level.identity, terms[0], finish, scratch, out,
                shares=level.tiles,
            )  # fmt: skip
        else:
            skips = [WordTerm(slots[slot], words, panels) for slot, words, panels in packed.pointwise]
            residual = _NO_ROWS if step.residual is None else slots[step.residual]
            run(
                kernels.convolve, level.size, pairs_of(step, level), level.identity, _pair(terms), _pair(skips), finish,
                residual, scratch, out, shares=level.tiles,
            )  # fmt: skip


def _pair(terms: list[WordTerm]) -> tuple[WordTerm, WordTerm]:
    """Returns two terms: the kernels take as many always."""
    first, second = (*terms, _NO_TERM, _NO_TERM)[:2]
    return first, second
