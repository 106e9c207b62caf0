"""The steps of a plan on features of 16-bit or 8-bit integers, for machines that multiply these faster than float32."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from spvnas_ros.engine.cpu.steps import Features, pairs_of
from spvnas_ros.engine.cpu.word_packing import (
    Units,
    check_noise,
    exchanges_of,
    pack_words,
    pad_eights,
    pad_fours,
    padded,
    units_of,
)
from spvnas_ros.engine.plan import INPUT, Convolution, Plan, PointFusion, PointMean
from spvnas_ros.kernels.cpu import convolve_words as kernels
from spvnas_ros.kernels.cpu.convolve import aligned
from spvnas_ros.kernels.cpu.convolve_words import SHAPE, After, Coarse, Finish, Mean, Scratch, WordTerm
from spvnas_ros.kernels.cpu.geometry import TILE_ROWS, Geometry
from spvnas_ros.kernels.cpu.team import Team
from spvnas_ros.kernels.cpu.word_vectors import BYTES, HALVES

_NO_ROWS = {kind: np.zeros((0, 0), kind) for kind in (np.dtype(np.uint16), np.dtype(np.uint8))}
_NO_TERM = {kind: WordTerm(rows, 0, np.zeros(0, np.int32)) for kind, rows in _NO_ROWS.items()}
_NO_ENTRY = np.zeros(0, np.float32)
_LINE = 16
MOST_CUT_OFF = 1e-4
"""The share of a frame's bytes that may be cut off at their range. Real scans come to a tenth of that."""
_TAKEN_ROWS = 4096

Array = npt.NDArray[np.float32]


class WordSteps:
    """Runs a plan on integers, as `Steps` says. Input and logits are float32."""

    in_tiles = True

    def __init__(self, plan: Plan, team: Team, in_bytes: bool = False) -> None:
        """Packs the plan. Raises ValueError, as `units_of` and `check_noise`, for one that cannot run on integers.

        in_bytes: features and weights of 8 bits, which `SHAPE.fused` machines multiply
        """
        self._plan, self._team = plan.light(), team
        self._units = units_of(plan, in_bytes)
        if not in_bytes:
            check_noise(plan, self._units)
        self._bytes = 0
        exchanges = exchanges_of(plan, self._units)
        self._exchanges = {each.fusion: each for each in exchanges}
        self._done = {each.mean for each in exchanges}
        products = {each.following: each.units for each in exchanges}
        self._entries = {index: self._entry(index, product) for index, product in products.items()}
        self._packed = [
            pack_words(step, self._units, SHAPE, products.get(index)) for index, step in enumerate(plan.steps)
        ]
        self._finish = [Finish(p.scale, p.bias, p.blocks, p.ratio) for p in self._packed]
        largest = max((TILE_ROWS[slot.level] + SHAPE.rows) * pad_eights(slot.width) for slot in plan.slots)
        sums = aligned(team.threads * -(-largest // _LINE) * _LINE).reshape(team.threads, -1)
        clipped = np.zeros((team.threads, 2 * _LINE), np.int32)
        local = np.arange(max(TILE_ROWS) + SHAPE.rows, dtype=np.int32)
        widest = max(
            (pad_eights(self._plan.slots[plan.steps[index].out].width) for index in self._exchanges), default=0
        )
        points = np.zeros((team.threads, (kernels.CHUNK_ROWS + SHAPE.rows) * widest), np.uint16)
        self._scratch = Scratch(np.zeros(1, np.int64), sums, clipped, local, points)

    def _entry(self, index: int, product: Units) -> Array:
        """Returns what leads from the units of a product to those in which voxels are added to it."""
        step = self._plan.steps[index]
        assert isinstance(step, PointFusion)
        units = self._units[step.voxels if step.level else step.out]
        assert units
        return padded(product.of / units.of, pad_eights(len(product.of)))

    def is_new(self) -> bool:
        """Returns whether this machine has to compile the kernels. One is compiled, or loaded, to find out."""
        misses = sum(kernels.mean_points.stats.cache_misses.values())
        mean = next((step for step in self._plan.steps if isinstance(step, PointMean)), None)
        of = (mean.points, mean.out) if mean else (self._plan.steps[0].out,) * 2
        points, out = (np.zeros((1, 8), _stored(self._units[slot])) for slot in of)
        kernels.mean_points(
            np.full(1, 1 << 40), 1, np.zeros(1, np.int32), points, self._finish[0], 0, self._scratch, out
        )
        return sum(kernels.mean_points.stats.cache_misses.values()) > misses

    def layout(self) -> list[tuple[int, np.dtype[Any]]]:
        """Returns eights of integers for every slot but the input and the logits, which are float32."""
        columns = [pad_eights(slot.width) for slot in self._plan.slots]
        columns[INPUT] = pad_fours(self._plan.slots[INPUT].width)
        for index, exchange in sorted(self._exchanges.items()):
            step, width = self._plan.steps[index], pad_eights(len(exchange.units.of))
            before = columns[step.reads[0]] if index in self._entries else 0
            # A product that is not much narrower than the one that it ends gets rows as long, and so its memory.
            columns[step.out] = before if width < before < 2 * width else width
        return [(width, _stored(units)) for width, units in zip(columns, self._units, strict=True)]

    def begin(self, rows: Array, chosen: npt.NDArray[np.integer], out: Features) -> None:
        """Begins a frame: nothing is clipped yet."""
        self._scratch.clipped[:] = 0
        self._bytes = 0
        self._team.run(kernels.take_rows, _TAKEN_ROWS, rows, chosen, out, shares=-(-len(chosen) // _TAKEN_ROWS))

    def writes(self, index: int) -> tuple[int, ...]:
        """Returns the step's own output, with the mean where both are filled at once."""
        if index in self._done:
            return ()
        exchange = self._exchanges.get(index)
        return tuple(self._plan.steps[each].out for each in ((index, exchange.mean) if exchange else (index,)))

    def replaces(self, index: int) -> tuple[int, ...]:
        """Returns what is read at the output's own rows alone: a tile's sums lie elsewhere until all of it is read."""
        step = self._plan.steps[index]
        if index in self._exchanges:
            return (step.points,) if isinstance(step, PointFusion) and index in self._entries else ()
        if isinstance(step, PointFusion):
            return (step.points,) if step.level else (step.points, step.voxels)
        if not isinstance(step, Convolution) or step.reads == (INPUT,):
            return ()
        own = {*(source.slot for source in step.pointwise), step.residual}
        if step.kind == "pointwise":
            own.update(source.slot for source in step.sources)
        else:
            own.difference_update(source.slot for source in step.sources)
        return tuple(slot for slot in own if slot is not None)

    def clipped(self) -> int:
        """Returns how many values were beyond the range of their slot, or no numbers.

        Bytes that are cut off at their range are among them where these are more than `MOST_CUT_OFF` of all bytes.
        """
        beyond, cut_off = int(self._scratch.clipped[:, :_LINE].sum(dtype=np.int64)), self.cut_off()
        return beyond + cut_off if cut_off > MOST_CUT_OFF * self._bytes else beyond

    def cut_off(self) -> int:
        """Returns how many of this frame's bytes were above their range, and are at its end."""
        return int(self._scratch.clipped[:, _LINE:].sum(dtype=np.int64))

    def floats(self, slot: int, features: Features) -> npt.NDArray[np.float32]:
        """Returns features of a slot as float32."""
        units = self._units[slot]
        assert units
        return features.astype(np.float32) * padded(units.of, features.shape[1])

    def run(self, index: int, geometry: Geometry, slots: list[Features]) -> None:
        """Runs one step."""
        step, packed, finish = self._plan.steps[index], self._packed[index], self._finish[index]
        finest, level, out = geometry.levels[0], geometry.levels[step.level], slots[step.out]
        scratch, run = self._scratch, self._team.run
        scratch.seats[0] = 0
        if out.dtype == np.uint8:
            self._bytes += (finest if isinstance(step, PointFusion) else level).size * self._plan.slots[step.out].width
        if index in self._done:
            return
        terms = [WordTerm(slots[slot], words, panels) for slot, words, panels in packed.sources]
        if index in self._exchanges:
            self._exchange(index, geometry, slots)
        elif isinstance(step, PointFusion) and index in self._entries:
            run(
                kernels.add_voxels, finest.tile_rows, slots[step.points], self._entries[index], slots[step.voxels],
                finish.ratio, scratch, out, shares=finest.tiles,
            )  # fmt: skip
        elif isinstance(step, PointFusion):
            run(
                kernels.fuse_points, finest.tile_rows, terms[0], finest.identity, finish, geometry.cells,
                level.ancestors, level.corners, step.level, slots[step.voxels], scratch, out,
                shares=finest.tiles,
            )  # fmt: skip
        elif not isinstance(step, Convolution):
            run(
                kernels.mean_points, level.tile_rows, level.starts, slots[step.points], finish,
                BYTES.top if out.dtype == np.uint8 else HALVES.top, scratch, out, shares=level.tiles,
            )  # fmt: skip
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
            kind = terms[0].rows.dtype
            skips = [WordTerm(slots[slot], words, panels) for slot, words, panels in packed.pointwise]
            residual = _NO_ROWS[out.dtype] if step.residual is None else slots[step.residual]
            run(
                kernels.convolve, level.size, pairs_of(step, level), level.identity, _pair(terms, kind),
                _pair(skips, kind), finish, residual, scratch, out, shares=level.tiles,
            )  # fmt: skip

    def _exchange(self, index: int, geometry: Geometry, slots: list[Features]) -> None:
        exchange, fusion = self._exchanges[index], self._plan.steps[index]
        mean, following = self._plan.steps[exchange.mean].out, self._packed[exchange.following]
        assert isinstance(fusion, PointFusion)
        finest, level = geometry.levels[0], geometry.levels[fusion.level]
        (term,) = (WordTerm(slots[slot], words, panels) for slot, words, panels in self._packed[index].sources)
        product, entry = slots[fusion.points], self._entries.get(index)
        if entry is None:
            product, entry = _NO_ROWS[product.dtype], _NO_ENTRY
        else:
            term = WordTerm(product, 0, term.panels)
        top = BYTES.top if slots[mean].dtype == np.uint8 else HALVES.top
        _, words, panels = following.sources[0]
        self._team.run(
            kernels.exchange_points, finest.tile_rows, term, product, finest.identity, self._finish[index], entry,
            geometry.cells, Coarse(fusion.level, level.starts, level.ancestors, level.corners), slots[fusion.voxels],
            Mean(slots[mean], self._finish[exchange.mean].ratio, top),
            After(words, panels, self._finish[exchange.following], slots[fusion.out]), self._scratch,
            shares=finest.tiles,
        )  # fmt: skip


def _stored(units: Units | None) -> np.dtype[Any]:
    """Returns the type in which features are stored."""
    return np.dtype(np.float32) if units is None else np.dtype(f"u{units.integers.bits // 8}")


def _pair(terms: list[WordTerm], kind: np.dtype[Any]) -> tuple[WordTerm, WordTerm]:
    """Returns two terms: the kernels take as many always."""
    first, second = (*terms, _NO_TERM[kind], _NO_TERM[kind])[:2]
    return first, second
