"""The places of a plan's features in the memory of the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from spvnas_ros.engine.cuda.packed_weights import input_width
from spvnas_ros.engine.plan import INPUT, Convolution, Plan, place_slots
from spvnas_ros.kernels.cuda.blocks import DTYPES, Precision, pad

_ALIGNMENT = 128
"""Bytes of a cache line. Every array begins at a multiple of this."""


@dataclass(frozen=True)
class _Group:
    """Slots whose columns lie side by side in one array, because some convolution reads them concatenated."""

    slots: tuple[int, ...]
    widths: tuple[int, ...]
    level: int
    lifetime: tuple[int, int]


@dataclass(frozen=True)
class Place:
    """Columns `start..start + width` of rows that are `stride` long, in elements; `offset` bytes into the arena."""

    offset: int
    level: int
    start: int
    width: int
    stride: int


@dataclass(frozen=True)
class Layout:
    """The places of all slots, and the bytes of the arena that holds them.

    The logits' slot has no place, because it is not stored.
    """

    places: tuple[Place, ...]
    total: int

    def views(self, arena: Tensor, voxels: Sequence[int], precision: Precision) -> list[Tensor]:
        """Returns the features `[capacity of the level, width]` of every slot, as views of the arena."""
        dtype = DTYPES[precision]
        views = []
        for place in self.places:
            rows = arena[place.offset : place.offset + voxels[place.level] * place.stride * dtype.itemsize].view(dtype)
            rows = rows.view(voxels[place.level], place.stride)
            views.append(rows[:, place.start : place.start + place.width])
        return views


def build_layout(plan: Plan, voxels: Sequence[int], precision: Precision) -> Layout:
    """Returns places for features of at most `voxels[level]` voxels.

    Arrays that are not alive together share memory.
    """
    groups = _groups(plan, precision)
    size = DTYPES[precision].itemsize
    bytes_of = [-(-voxels[g.level] * sum(g.widths) * size // _ALIGNMENT) * _ALIGNMENT for g in groups]
    offsets, total = place_slots(bytes_of, [g.lifetime for g in groups])
    places: dict[int, Place] = {}
    for group, offset in zip(groups, offsets, strict=True):
        start = 0
        for slot, width in zip(group.slots, group.widths, strict=True):
            places[slot] = Place(offset, group.level, start, width, sum(group.widths))
            start += width
    return Layout(tuple(places[slot] for slot in sorted(places)), total)


def _groups(plan: Plan, precision: Precision) -> list[_Group]:
    widths = [pad(slot.width) for slot in plan.slots]
    widths[INPUT] = input_width(plan, precision)
    logits = plan.steps[-1].out
    lifetimes = plan.lifetimes()
    pairs = dict.fromkeys(
        tuple(source.slot for source in sources)
        for step in plan.steps
        if isinstance(step, Convolution)
        for sources in (step.sources, step.pointwise)
        if len(sources) > 1
    )
    joined = [slot for pair in pairs for slot in pair]
    if len(joined) != len(set(joined)):
        raise ValueError(f"a feature array can lie beside one other only, found the concatenations {list(pairs)}")
    alone = [(slot,) for slot in range(len(plan.slots)) if slot not in joined and slot != logits]
    return [
        _Group(
            slots,
            tuple(widths[slot] for slot in slots),
            plan.slots[slots[0]].level,
            (min(lifetimes[s][0] for s in slots), max(lifetimes[s][1] for s in slots)),
        )
        for slots in (*pairs, *alone)
    ]
