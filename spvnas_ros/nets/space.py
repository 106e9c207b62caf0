"""`Space`: the networks among which an architecture search chooses, as a value, and how they are drawn and changed.

Reference: Tang et al., "Searching Efficient 3D Architectures with Sparse Point-Voxel Convolution", ECCV 2020, section 4
(3D-NAS); bounds, rounding and distributions are those of `core/models/semantic_kitti/spvnas.py` in mit-han-lab/spvnas.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from fractions import Fraction
from functools import cached_property
from itertools import accumulate
from typing import Any

import numpy as np

from spvnas_ros.nets.box_spec import BoxBranchSpec
from spvnas_ros.nets.spec import (
    BASE_WIDTHS,
    NUM_STAGES,
    POINT_LEVELS,
    BlockSpec,
    NetSpec,
    StageSpec,
    net_config_voxel_size,
)
from spvnas_ros.nets.spec_error import SpecError

PAPER_HIGHEST = (32, 48, 96, 192, 384, 384, 192, 128, 128)
PAPER_LOWEST = (32, 16, 32, 64, 128, 128, 64, 48, 48)

_STAGES = tuple(f"{side}.{i}" for side in ("encoder", "decoder") for i in range(NUM_STAGES))
_RATIO = (0.125, 1.0)
_FAMILY = "spvnas"
_POINTS = tuple(f"points.{level}" for level in POINT_LEVELS)

Gene = int | float | bool
Genes = Mapping[str, Gene]


@dataclass(frozen=True)
class Candidate:
    """A network of a space, and the voxels that it is for.

    voxel_size: edge of a voxel, metres
    """

    spec: NetSpec
    voxel_size: float

    def to_dict(self) -> dict[str, Any]:
        """Returns the candidate as values that JSON can hold."""
        return {"spec": self.spec.to_dict(), "voxel_size": self.voxel_size}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Candidate:
        """Returns the candidate that `to_dict` wrote. Raises SpecError where the data does not describe one."""
        try:
            spec, size = data["spec"], data["voxel_size"]
        except (KeyError, TypeError) as error:
            raise SpecError(f"not a candidate of a search: expected spec and voxel_size, found {data!r:.80}") from error
        if isinstance(size, bool) or not isinstance(size, int | float) or not (math.isfinite(size) and size > 0):
            raise SpecError(f"a candidate's voxel_size must be a positive number of metres, found {size!r}")
        return cls(NetSpec.from_dict(spec), float(size))

    def to_net_config(self) -> dict[str, Any]:
        """Returns the published form, `net.config`. Raises SpecError where that cannot say it."""
        return self.spec.to_net_config(self.voxel_size)

    @classmethod
    def from_net_config(cls, config: Mapping[str, Any]) -> Candidate:
        """Returns the candidate that a published `net.config` (parsed JSON) describes. Raises SpecError."""
        return cls(NetSpec.from_net_config(config), net_config_voxel_size(config))


@dataclass(frozen=True)
class Choices:
    """The values that one gene may take, in ascending order, and how often the paper's sampling draws each.

    weights: sum up to 1; a value with weight 0 (the very end of a range of ratios) lies in the space and is never drawn
    """

    values: tuple[Gene, ...]
    weights: tuple[float, ...]

    @classmethod
    def even(cls, values: Sequence[Gene]) -> Choices:
        """Returns choices that are equally likely."""
        return cls(tuple(sorted(values)), (1 / len(values),) * len(values))

    def draw(self, rng: np.random.Generator) -> Gene:
        """Returns a value by the weights."""
        return self.values[bisect_right(self._ends, rng.random())]

    @cached_property
    def _ends(self) -> list[float]:
        """Where each value's share of 0..1 ends, up to the last that is drawn at all."""
        last = max(index for index, weight in enumerate(self.weights) if weight)
        return list(accumulate(self.weights))[:last]

    def any(self, rng: np.random.Generator) -> Gene:
        """Returns any value, each equally likely."""
        return self.values[int(rng.integers(len(self.values)))]


@dataclass(frozen=True)
class Space:
    """The design space of a search.

    lowest, highest: widths of the stem, the four encoder stages and the four decoder stages; the highest are those of
                     the supernet. Widths are drawn uniformly between, as whole numbers, and rounded
    ratio:           transition and middle widths are this share of the width that they have in the supernet, uniform,
                     rounded
    depths:          least and most residual blocks of a stage, uniform
    divisor, least:  a width x is rounded to `max(least, x // divisor * divisor)`: 4 when the published networks were
                     found, 16 upstream since June 2023
    voxel_sizes:     edges of voxels to choose from, metres (beyond the paper)
    point_branches:  whether the point branch may be there as a whole, and may be absent (beyond the paper)
    optional_points: those of `POINT_LEVELS` (4, 2, 0) at which the points may meet the voxels or not, each by itself
                     (beyond the paper); at the others they do. It goes with `point_branches` (True,) alone
    boxes:           the box branch that every network has; None where they label points only
    box_widths:      widths of the box branch's columns to choose from (beyond the paper); none = that of `boxes`

    A width whose bounds are equal is fixed and not rounded, as the stem is. Raises SpecError where no network lies in
    the space.
    """

    lowest: tuple[int, ...] = PAPER_LOWEST
    highest: tuple[int, ...] = PAPER_HIGHEST
    ratio: tuple[float, float] = _RATIO
    depths: tuple[int, int] = (1, 2)
    divisor: int = 4
    least: int = 4
    num_classes: int = 19
    in_channels: int = 4
    voxel_sizes: tuple[float, ...] = (0.05,)
    point_branches: tuple[bool, ...] = (True,)
    boxes: BoxBranchSpec | None = None
    box_widths: tuple[int, ...] = ()
    optional_points: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name, widths in (("lowest", self.lowest), ("highest", self.highest)):
            if len(widths) != len(BASE_WIDTHS) or not all(_is_count(width) for width in widths):
                raise SpecError(f"a space's {name} lists {len(BASE_WIDTHS)} widths, found {list(widths)}")
        if not (_is_count(self.divisor) and _is_count(self.least)) or self.least % self.divisor:
            raise SpecError(
                f"divisor must be a positive whole number and least a multiple of it, found {self.divisor} and "
                f"{self.least}"
            )
        for name, low, high in zip(("stem", *_STAGES), self.lowest, self.highest, strict=True):
            if low > high or (low < high and (self.rounded(low), self.rounded(high)) != (low, high)):
                raise SpecError(
                    f"widths of {name} from {low} to {high}: the lowest must not be above the highest, and both must "
                    f"be multiples of {self.divisor}, {self.least} at least"
                )
        if self.lowest[0] != self.highest[0]:
            raise SpecError(f"the stem's width is fixed, found {self.lowest[0]} to {self.highest[0]}")
        if not 0 < self.ratio[0] <= self.ratio[1] <= 1:
            raise SpecError(f"ratio must be 0 < lowest <= highest <= 1, found {list(self.ratio)}")
        if not all(_is_count(depth) for depth in self.depths) or self.depths[0] > self.depths[1]:
            raise SpecError(f"depths are the least and the most blocks of a stage, found {list(self.depths)}")
        for name, values in (("voxel_sizes", self.voxel_sizes), ("point_branches", self.point_branches)):
            if not values or len(set(values)) < len(values):
                raise SpecError(f"{name} must list at least one value, each once, found {list(values)}")
        if not all(math.isfinite(size) and size > 0 for size in self.voxel_sizes):
            raise SpecError(f"voxel_sizes must be positive numbers of metres, found {list(self.voxel_sizes)}")
        if not all(isinstance(there, bool) for there in self.point_branches):
            raise SpecError(f"point_branches must list true, false or both, found {list(self.point_branches)}")
        optional = self.optional_points
        if len(set(optional)) < len(optional) or not all(_is_level(level) for level in optional):
            raise SpecError(
                f"optional_points must list some of the levels {POINT_LEVELS}, each once, found {list(optional)}"
            )
        if optional and self.point_branches != (True,):
            raise SpecError(
                f"optional_points say of each level whether points meet the voxels, so point_branches must be [true], "
                f"found {list(self.point_branches)}"
            )
        if self.box_widths and self.boxes is None:
            raise SpecError("box_widths are of a space whose networks have a box branch, and boxes is not set")
        if not all(_is_count(width) for width in self.box_widths) or len(set(self.box_widths)) < len(self.box_widths):
            raise SpecError(f"box_widths must be positive whole numbers, each once, found {list(self.box_widths)}")
        for size in self.voxel_sizes:
            self._boxes(size, 1)  # a range may be no multiple of these voxels
        self.largest()

    @classmethod
    def around(
        cls, widths: Sequence[int], low: float = 0.5, high: float = 1.5, *, divisor: int = 4, **others: Any
    ) -> Space:
        """Returns the space around a network, as the paper's lies around W32 SPVCNN: stage widths from half to one and
        a half times its own, the stem fixed.

        widths:    of the stem and the eight stages
        low, high: share of these widths; they are rounded
        others:    fields of a `Space`
        """
        least = others.pop("least", divisor)

        def scaled(share: float) -> tuple[int, ...]:
            return (widths[0], *(max(least, round(share * width) // divisor * divisor) for width in widths[1:]))

        return cls(scaled(low), scaled(high), divisor=divisor, least=least, **others)

    def rounded(self, width: int) -> int:
        """Returns the width that upstream's `make_divisible` makes of one."""
        return max(self.least, width // self.divisor * self.divisor)

    @cached_property
    def choices(self) -> dict[str, Choices]:
        """The genes by name and their values, in an order of their own.

        `encoder.0.width`, `.transition`, `.depth`, `.middle.0` and on for every stage, then `point_branch`, or
        `points.4`, `points.2` and `points.0` where levels are optional, `voxel_size`, and `box_width` where there is a
        box branch. The middle widths of blocks that a network lacks are no genes of it.
        """
        found: dict[str, Choices] = {}
        for index, stage in enumerate(_STAGES):
            low, high = self.lowest[index + 1], self.highest[index + 1]
            transition = self.highest[index] if index < NUM_STAGES else high
            found[f"{stage}.width"] = self._widths(low, high)
            found[f"{stage}.transition"] = self._shares(transition)
            found[f"{stage}.depth"] = Choices.even(range(self.depths[0], self.depths[1] + 1))
            for block in range(self.depths[1]):
                found[f"{stage}.middle.{block}"] = self._shares(high)
        if self.optional_points:
            for level in POINT_LEVELS:
                found[f"points.{level}"] = Choices.even((False, True) if level in self.optional_points else (True,))
        else:
            found["point_branch"] = Choices.even(self.point_branches)
        found["voxel_size"] = Choices.even(self.voxel_sizes)
        if self.boxes:
            found["box_width"] = Choices.even(self.box_widths or (self.boxes.width,))
        return found

    def _widths(self, low: int, high: int) -> Choices:
        if low == high:
            return Choices.even((low,))
        shares: dict[int, Fraction] = {}
        for width in range(low, high + 1):
            value = self.rounded(width)
            shares[value] = shares.get(value, Fraction(0)) + Fraction(1, high - low + 1)
        return _choices(shares)

    def _shares(self, full: int) -> Choices:
        """Returns the widths `rounded(int(ratio * full))`, ratio uniform between the bounds.

        No width is above that of the supernet, which its own rounding may not reach.
        """
        low, high = (Fraction(bound) * full for bound in self.ratio)
        shares: dict[int, Fraction] = {}
        for width in range(int(low), int(high) + 1):
            value = min(self.rounded(width), full)
            span = min(Fraction(width + 1), high) - max(Fraction(width), low)
            shares[value] = shares.get(value, Fraction(0)) + (span / (high - low) if high > low else 1)
        if self.ratio[1] == 1:
            shares.setdefault(full, Fraction(0))
        return _choices(shares)

    @property
    def size(self) -> int:
        """How many different candidates lie in the space."""
        count, choices = 1, self.choices
        for stage in _STAGES:
            deep, middles = 0, 1
            for block in range(self.depths[1]):
                middles *= len(choices[f"{stage}.middle.{block}"].values)
                deep += middles if block + 1 >= self.depths[0] else 0
            count *= len(choices[f"{stage}.width"].values) * len(choices[f"{stage}.transition"].values) * deep
        for name in (*_POINTS, "point_branch", "voxel_size", "box_width"):
            count *= len(choices[name].values) if name in choices else 1
        return count

    def sample(self, rng: np.random.Generator) -> Candidate:
        """Returns a candidate as the paper's training of the supernet draws one: every gene by itself."""
        return self.candidate({name: choices.draw(rng) for name, choices in self.choices.items()})

    def mutate(self, candidate: Candidate, rng: np.random.Generator, rate: float) -> Candidate:
        """Returns a candidate of which each gene is, with probability `rate`, any of its values (each equally likely).

        Raises SpecError where the candidate is not of this space.
        """
        genes = dict(self.genes(candidate))
        for name, choices in self.choices.items():
            drawn = choices.any(rng)  # always, so that a gene's fate does not hang on the others'
            if rng.random() < rate or name not in genes:
                genes[name] = drawn
        return self.candidate(genes)

    def cross(self, one: Candidate, other: Candidate, rng: np.random.Generator) -> Candidate:
        """Returns a candidate each of whose genes is from one of two parents, equally likely.

        The middle width of a block that one parent lacks is the other's. Raises SpecError where a parent is not of this
        space.
        """
        first, second = self.genes(one), self.genes(other)
        genes: dict[str, Gene] = {}
        for name in self.choices:
            giver, else_ = (first, second) if rng.random() < 0.5 else (second, first)
            if name in giver or name in else_:
                genes[name] = giver.get(name, else_.get(name, 0))
        return self.candidate(genes)

    def candidate(self, genes: Genes) -> Candidate:
        """Returns the candidate with these genes; those of blocks beyond a stage's depth are not looked at."""
        widths = [int(genes[f"{stage}.width"]) for stage in _STAGES]
        stages = []
        for stage, width in zip(_STAGES, widths, strict=True):
            middles = [int(genes[f"{stage}.middle.{block}"]) for block in range(int(genes[f"{stage}.depth"]))]
            # Whatever the widths, as upstream: in the supernet's widths block 0 changes the width, and no other does.
            blocks = tuple(BlockSpec(middle, width, projection=not block) for block, middle in enumerate(middles))
            stages.append(StageSpec(int(genes[f"{stage}.transition"]), blocks))
        stem, size = self.highest[0], float(genes["voxel_size"])
        spec = NetSpec(
            _FAMILY,
            (stem, stem),
            tuple(stages[:NUM_STAGES]),
            tuple(stages[NUM_STAGES:]),
            self._point_levels(genes),
            self.num_classes,
            self.in_channels,
            self._boxes(size, int(genes.get("box_width", 1))),
        )
        return Candidate(spec, size)

    def _point_levels(self, genes: Genes) -> tuple[bool, bool, bool]:
        first, second, third = _POINTS if self.optional_points else ("point_branch",) * 3
        return bool(genes[first]), bool(genes[second]), bool(genes[third])

    def point_inputs(self) -> tuple[int, int, int]:
        """Returns how wide the points are before each fusion, in the network of the space where they are the widest.

        Where a fusion may be absent, the next one meets wider points than in the largest network, if those of a coarser
        level are wider.
        """
        spec = self.largest().spec
        reach, found = [spec.point_widths[0]], []
        for level, width in zip(POINT_LEVELS, spec.point_widths[1:], strict=True):
            found.append(max(reach))
            reach = [*(reach if level in self.optional_points else ()), width]
        first, second, third = found
        return first, second, third

    def _boxes(self, voxel_size: float, width: int) -> BoxBranchSpec | None:
        return self.boxes and replace(self.boxes, voxel_size=voxel_size, width=width)

    def genes(self, candidate: Candidate) -> dict[str, Gene]:
        """Returns a candidate's genes by name. Raises SpecError that says what of it is not of this space."""
        spec = candidate.spec
        genes: dict[str, Gene] = {}
        for name, stage in zip(_STAGES, (*spec.encoder, *spec.decoder), strict=True):
            genes |= {
                f"{name}.width": stage.out,
                f"{name}.transition": stage.transition,
                f"{name}.depth": len(stage.blocks),
            }
            genes |= {f"{name}.middle.{block}": each.middle for block, each in enumerate(stage.blocks)}
        if self.optional_points:
            genes |= dict(zip(_POINTS, spec.point_levels, strict=True))
        else:
            genes["point_branch"] = spec.point_branch
        genes["voxel_size"] = candidate.voxel_size
        if spec.boxes:
            genes["box_width"] = spec.boxes.width
        for name, value in genes.items():
            if name not in self.choices or value not in self.choices[name].values:
                allowed = self.choices[name].values if name in self.choices else ()
                ends = f"{allowed[0]} to {allowed[-1]} in {len(allowed)} steps" if allowed else "nothing of the kind"
                raise SpecError(f"{name} is {value}, and the space has {ends}")
        if missing := [name for name in ("box_width",) if name in self.choices and name not in genes]:
            raise SpecError(f"the network has no {missing[0]}: every network of the space has a box branch")
        if self.candidate(genes) != replace(candidate, spec=replace(spec, family=_FAMILY)):
            raise SpecError(
                "the network's stem, skips, classes, input channels, point branch or box branch are not those of the "
                f"space (stem {self.highest[0]}, a 1x1 skip in block 0 of every stage and in no other, "
                f"{self.num_classes} classes, {self.in_channels} input channels)"
            )
        return genes

    def contains(self, candidate: Candidate) -> bool:
        """Tells whether a candidate lies in the space."""
        try:
            self.genes(candidate)
        except SpecError:
            return False
        return True

    def largest(self) -> Candidate:
        """Returns the candidate with every width and depth at its highest: the supernet as a whole. It has the finest
        voxels and, where that is a choice, the point branch.
        """
        best = {name: choices.values[-1] for name, choices in self.choices.items()}
        return self.candidate(best | {"voxel_size": min(self.voxel_sizes)})

    def smallest(self) -> Candidate:
        """Returns the candidate with every width and depth at its lowest, the coarsest voxels and, where that is a
        choice, without the point branch.
        """
        least = {name: choices.values[0] for name, choices in self.choices.items()}
        return self.candidate(least | {"voxel_size": max(self.voxel_sizes)})

    def narrowed(self, share: float) -> Candidate:
        """Returns the uniformly narrowed network: what a search has to beat at equal cost.

        share: of the supernet's widths, 0 to 1; all widths are rounded, and none falls below the space's bounds

        All stages have their full depth, and middle and transition widths are as wide as what they lead to or come
        from, as in SPVCNN. Raises SpecError for a share outside 0 to 1.
        """
        if not 0 <= share <= 1:
            raise SpecError(f"a network is narrowed to a share from 0 to 1 of the widths, found {share}")
        genes: dict[str, Gene] = {}
        before = self.highest[0]
        for index, stage in enumerate(_STAGES):
            full = self.highest[index + 1]
            width = _nearest(self.choices[f"{stage}.width"], share * full)
            transition = before if index < NUM_STAGES else width
            genes[f"{stage}.width"] = width
            genes[f"{stage}.transition"] = _nearest(self.choices[f"{stage}.transition"], transition)
            genes[f"{stage}.depth"] = self.depths[1]
            for block in range(self.depths[1]):
                genes[f"{stage}.middle.{block}"] = _nearest(self.choices[f"{stage}.middle.{block}"], width)
            before = int(width)
        whole = self.genes(self.largest())
        return self.candidate(whole | genes)

    def to_dict(self) -> dict[str, Any]:
        """Returns the space as values that JSON can hold."""
        document = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        if not self.optional_points:
            del document["optional_points"]  # programs that know none read the rest
        return document

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Space:
        """Returns the space that `to_dict` wrote; fields that are not there have their defaults. Raises SpecError."""
        if not isinstance(data, Mapping) or (unknown := [key for key in data if key not in _FIELDS]):
            what = f"it has no {unknown[0]!r}" if isinstance(data, Mapping) else f"found {data!r:.80}"
            raise SpecError(f"not a design space: {what}; expected some of {', '.join(sorted(_FIELDS))}")
        boxes = data.get("boxes")
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in data.items()
        }
        try:
            return cls(**values | {"boxes": None if boxes is None else BoxBranchSpec.from_dict(boxes)})
        except (TypeError, ValueError, IndexError) as error:
            raise SpecError(f"not a design space: {error}") from error


_FIELDS = {field.name for field in fields(Space)}


def _is_level(value: Any) -> bool:
    return type(value) is int and value in POINT_LEVELS


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _choices(shares: Mapping[int, Fraction]) -> Choices:
    values = tuple(sorted(shares))
    return Choices(values, tuple(float(shares[value]) for value in values))


def _nearest(choices: Choices, width: float) -> Gene:
    """Returns the value nearest to a width, the smaller of two."""
    return min(choices.values, key=lambda value: (abs(value - width), value))
