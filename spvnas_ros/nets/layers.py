"""The layers of a network one by one, with the names that an engine's plan has, and what they cost on a scan.

Made for a search, which asks for the cost of many networks: nothing is built. `cost.py` counts by stages.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from spvnas_ros.nets.spec import NUM_STAGES, POINT_LEVELS, NetSpec, StageSpec
from spvnas_ros.sparse.kernel_map import Levels

Kind = Literal["neighbours", "halving", "doubling", "fusion", "mean", "pointwise"]
_OFFSETS = {"neighbours": 27, "halving": 8, "doubling": 8, "fusion": 1, "mean": 0, "pointwise": 1}


@dataclass(frozen=True)
class Layer:
    """A step of a network as engines run it.

    name:  that of the engines' plan (`engine.plan`)
    kind:  a convolution of 3x3x3 neighbours, of children or of the parent; the fine branch ("fusion") and its way back
           to the voxels ("mean"); the classifier ("pointwise")
    level: of a convolution, that of its output; of the fine branch, that of the voxels
    into:  width of the input; of concatenated inputs, their sum
    skip:  width of the input of the 1x1 skip that is done along; 0 = none
    out:   width of the output
    """

    name: str
    kind: Kind
    level: int
    into: int
    out: int
    skip: int = 0

    @property
    def parameters(self) -> int:
        """The number of trainable parameters, those of the BatchNorm included."""
        if self.kind == "mean":
            return 0
        if self.kind == "pointwise":
            return (self.into + 1) * self.out
        biased = self.out if self.kind == "fusion" else 0
        skip = (self.skip + 2) * self.out if self.skip else 0
        return _OFFSETS[self.kind] * self.into * self.out + 2 * self.out + biased + skip


@dataclass(frozen=True)
class Sizes:
    """The sizes of a scan's geometry, by level, or the means of several scans'.

    rows:  voxels of each of the five levels
    pairs: that a 3x3x3 convolution has at each level
    """

    rows: tuple[float, ...]
    pairs: tuple[float, ...]

    @classmethod
    def of(cls, levels: Levels, scans: int = 1) -> Sizes:
        """Returns the sizes of a batch's geometry, divided by the number of its scans."""
        return cls(
            tuple(len(level) / scans for level in levels.levels),
            tuple(len(pairs) / scans for pairs in levels.neighbours),
        )

    def terms(self, layer: Layer) -> tuple[float, float]:
        """Returns the pairs of a layer's kernel and the rows that it writes."""
        if layer.kind == "neighbours":
            return self.pairs[layer.level], self.rows[layer.level]
        if layer.kind == "halving":  # each child has one parent
            return self.rows[layer.level - 1], self.rows[layer.level]
        rows = self.rows[layer.level if layer.kind == "doubling" else 0]
        return (0.0 if layer.kind == "mean" else rows), rows

    def macs(self, layers: Iterable[Layer]) -> float:
        """Returns the multiply-accumulates of layers, counted as in `cost.py`."""
        total = 0.0
        for layer in layers:
            pairs, rows = self.terms(layer)
            total += (pairs * layer.into + rows * layer.skip) * layer.out
        return total


@lru_cache(maxsize=4096)
def layers_of(spec: NetSpec) -> tuple[Layer, ...]:
    """Returns the layers of a network, without those of a box branch, in the order in which they run."""
    found = [
        Layer("stem.0", "neighbours", 0, spec.in_channels, spec.stem[0]),
        Layer("stem.1", "neighbours", 0, spec.stem[0], spec.stem[1]),
    ]
    width = spec.stem[1]
    for i, stage in enumerate(spec.encoder):
        found.append(Layer(f"encoder.{i}.transition", "halving", i + 1, width, stage.transition))
        found += _blocks(f"encoder.{i}", stage, i + 1, stage.transition)
        width = stage.out
    found += _fusion(spec, 0)
    for i, stage in enumerate(spec.decoder):
        level = NUM_STAGES - 1 - i
        found.append(Layer(f"decoder.{i}.transition", "doubling", level, width, stage.transition))
        found += _blocks(f"decoder.{i}", stage, level, stage.transition + spec.skip_width(i))
        width = stage.out
        if level in POINT_LEVELS:
            found += _fusion(spec, POINT_LEVELS.index(level))
    found.append(Layer("classifier", "pointwise", 0, width, spec.num_classes))
    return tuple(found)


def _blocks(name: str, stage: StageSpec, level: int, width: int) -> list[Layer]:
    found = []
    for j, block in enumerate(stage.blocks):
        skip = width if block.projection else 0
        found.append(Layer(f"{name}.blocks.{j}.first", "neighbours", level, width, block.middle))
        found.append(Layer(f"{name}.blocks.{j}.second", "neighbours", level, block.middle, block.out, skip))
        width = block.out
    return found


def _fusion(spec: NetSpec, index: int) -> list[Layer]:
    if index not in spec.fusions:
        return []
    level, (into, width) = POINT_LEVELS[index], spec.fusions[index]
    fusion = Layer(f"points.{index}", "fusion", level, into, width)
    return [fusion] if level == 0 else [fusion, Layer(f"points.{index}.mean", "mean", level, width, width)]
