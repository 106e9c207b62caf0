"""The plan: a trained network as a list of fused steps, which the frame-time engines execute.

BatchNorm is folded into the convolution before it. ReLU, the residual sum, the 1x1 skip and the concatenation become
parts of the convolution that produces the result, so that no intermediate is written just to be read again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from spvnas_ros.nets.spec import NUM_STAGES, POINT_LEVELS
from spvnas_ros.nets.unet import PointFusion as PointFusionLayer
from spvnas_ros.nets.unet import PointVoxelUNet, ResidualBlock, Stage
from spvnas_ros.sparse.modules import ConvNorm

Array = npt.NDArray[np.float32]
Kind = Literal["neighbours", "halving", "doubling", "pointwise"]

INPUT = 0
"""The slot of the voxels' input features."""


@dataclass(frozen=True, eq=False)
class Folded:
    """Input channels `first` to `last` of a convolution with the BatchNorm behind it, folded when they are asked for.

    The network's own tensor is kept and no copy of it: copies of all kernels are as large as the network.

    conv: `[..., Cin, Cout]`; scale: of each output, `[Cout]`; version: of `conv` when the plan was made
    """

    conv: Tensor
    scale: Tensor
    first: int
    last: int
    version: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """The kernel's shape `[K, Cin, Cout]`."""
        return math.prod(self.conv.shape[:-2]), self.last - self.first, self.conv.shape[-1]

    def kernel(self) -> Array:
        """Returns a new array of the folded kernel. Raises RuntimeError where the network was changed meanwhile."""
        if self.conv._version != self.version:  # torch's own count of changes in place
            raise RuntimeError(
                "the weights of the network were changed after an engine was built for it; build the engine again"
            )
        part = self.conv.reshape(-1, *self.conv.shape[-2:])[:, self.first : self.last]
        return _array(part * self.scale)


@dataclass(frozen=True)
class Source:
    """One input of a convolution: the features in `slot` and their part of the kernel."""

    slot: int
    weights: Array | Folded

    @property
    def kernel(self) -> Array:
        """The kernel `[K, Cin, Cout]`; where it is folded, a new array each time."""
        return self.weights.kernel() if isinstance(self.weights, Folded) else self.weights

    @property
    def shape(self) -> tuple[int, int, int]:
        """The kernel's shape."""
        volume, channels, columns = self.weights.shape
        return volume, channels, columns

    def light(self) -> Source:
        """Returns it with zeros for weights, which take no memory."""
        return Source(self.slot, np.broadcast_to(np.float32(0), self.shape))


@dataclass(frozen=True)
class Convolution:
    """A fused convolution.

    `out = act(bias + residual + sum over sources of kernel * features + sum over pointwise of kernel @ features)`

    kind:      which voxels meet: 3x3x3 neighbours, children (2x2x2, stride 2), the parent (transposed), or only itself
    level:     level of the output
    sources:   the inputs that go through `kind`; two for a concatenation
    pointwise: inputs of a fused 1x1 skip, at the output's own rows
    residual:  slot added to the result, or None
    """

    name: str
    kind: Kind
    level: int
    sources: tuple[Source, ...]
    bias: Array
    relu: bool
    out: int
    pointwise: tuple[Source, ...] = ()
    residual: int | None = None

    @property
    def reads(self) -> tuple[int, ...]:
        """The slots that this step reads."""
        slots = tuple(s.slot for s in (*self.sources, *self.pointwise))
        return slots if self.residual is None else (*slots, self.residual)


@dataclass(frozen=True)
class PointFusion:
    """The fine branch of SPVConv at every finest voxel.

    `out = relu(bias + points @ kernel) + interpolation of voxels`

    points: slot of point features; voxels: slot of voxel features at `level`; kernel `[1, Cin, Cout]`
    """

    name: str
    level: int
    points: int
    voxels: int
    kernel: Array
    bias: Array
    out: int

    @property
    def reads(self) -> tuple[int, ...]:
        """The slots that this step reads."""
        return self.points, self.voxels


@dataclass(frozen=True)
class PointMean:
    """The mean of the point features inside each voxel of `level`."""

    name: str
    level: int
    points: int
    out: int

    @property
    def reads(self) -> tuple[int, ...]:
        """The slots that this step reads."""
        return (self.points,)


Step = Convolution | PointFusion | PointMean


@dataclass(frozen=True)
class Spread:
    """What BatchNorm says of values before a ReLU: mean and standard deviation of each channel, float64 `[width]`."""

    mean: npt.NDArray[np.float64]
    deviation: npt.NDArray[np.float64]

    def beside(self, other: Spread) -> Spread:
        """Returns the spread of the sum of two values that know nothing of each other."""
        return Spread(self.mean + other.mean, np.hypot(self.deviation, other.deviation))


@dataclass(frozen=True)
class Slot:
    """Features `[voxels of level, width]` that one step writes and others read.

    spreads: of the parts whose sum, each behind a ReLU, no feature exceeds where each is in its spread; empty where
             nothing is known, or features may be negative
    """

    level: int
    width: int
    spreads: tuple[Spread, ...] = field(default=(), compare=False)

    def reach(self, deviations: float) -> float:
        """Returns the largest feature where no value before a ReLU is more than so many standard deviations above its
        mean; inf where nothing is known of it."""
        return float(self.reaches(deviations).max()) if self.spreads else math.inf

    def reaches(self, deviations: float) -> npt.NDArray[np.float64]:
        """Returns the same of each channel, float64 `[width]`.

        A mean, an interpolation and a skip keep ranges, and sums add them, so BatchNorm's two parameters are enough.
        """
        if not self.spreads:
            return np.full(self.width, math.inf)
        tops = [np.maximum(spread.mean + deviations * spread.deviation, 0) for spread in self.spreads]
        reaches: npt.NDArray[np.float64] = np.sum(tops, axis=0)
        return reaches


@dataclass(frozen=True)
class Plan:
    """Steps in order, and the slots that they write and read.

    The last step's output holds the logits of the finest voxels. The engine fills the slot `INPUT`.

    taken: slot of the features that the box branch takes, which live to the end; None without one
    """

    steps: tuple[Step, ...]
    slots: tuple[Slot, ...]
    num_classes: int
    taken: int | None = None

    def for_boxes(self) -> tuple[int, ...]:
        """Returns the indices of the steps without which the features of the box branch are not there, in order."""
        wanted, steps = {self.taken}, []
        for index in reversed(range(len(self.steps))):
            if self.steps[index].out in wanted:
                wanted.update(self.steps[index].reads)
                steps.append(index)
        return tuple(reversed(steps))

    def light(self) -> Plan:
        """Returns the plan with zeros for the weights of convolutions, which take no memory: all but the packed ones is
        as it was."""
        steps = [
            replace(
                step,
                sources=tuple(source.light() for source in step.sources),
                pointwise=tuple(source.light() for source in step.pointwise),
            )
            if isinstance(step, Convolution)
            else step
            for step in self.steps
        ]
        return replace(self, steps=tuple(steps))

    def owners(self, forms: Sequence[Any], replaces: Sequence[Sequence[int]]) -> list[int]:
        """Returns for every slot the slot in whose memory it lies: its own, or that of the first of a row of slots,
        each of which ends where the next begins.

        forms: in which features of each slot are stored; rows of equal forms are equally long
        replaces: of each step, the slots over which it may write its output, row by row
        """
        lives, found = self.lifetimes(), list(range(len(self.slots)))
        for index, step in enumerate(self.steps):
            for slot in replaces[index]:
                alike = self.slots[slot].level == self.slots[step.out].level and forms[slot] == forms[step.out]
                if alike and lives[slot][1] == index and slot != self.taken:
                    found[step.out] = found[slot]
                    break
        return found

    def lifetimes(self) -> list[tuple[int, int]]:
        """Returns (index of the step that writes it, index of the last step that reads it) for every slot."""
        first = {INPUT: 0} | {step.out: index for index, step in enumerate(self.steps)}
        last = first | {slot: index for index, step in enumerate(self.steps) for slot in step.reads}
        if self.taken is not None:
            last[self.taken] = len(self.steps) - 1
        return [(first[slot], last[slot]) for slot in range(len(self.slots))]


def build_plan(net: PointVoxelUNet) -> Plan:
    """Folds and fuses a network, with its weights as they are in eval mode (BatchNorm's running statistics).

    The kernels of convolutions are folded when a step's are read, from the network's own tensors.
    """
    with torch.no_grad():
        return _Planner().plan(net)


def place_slots(sizes: Sequence[int], lifetimes: Sequence[tuple[int, int]]) -> tuple[list[int], int]:
    """Places blocks in one arena so that blocks that are alive at the same time do not overlap.

    Returns the offset of each block and the length of the arena. Blocks are placed by size, the largest first, or
    by size and lifetime, whichever takes less. Each goes into the lowest gap between the blocks that are alive with it.

    lifetimes: (first step, last step) of each block, both included
    """
    orders = (lambda b: -sizes[b]), (lambda b: -sizes[b] * (lifetimes[b][1] - lifetimes[b][0] + 1))
    found = [_place_in_order(sorted(range(len(sizes)), key=order), sizes, lifetimes) for order in orders]
    return min(found, key=lambda each: each[1])


def _place_in_order(
    order: Sequence[int], sizes: Sequence[int], lifetimes: Sequence[tuple[int, int]]
) -> tuple[list[int], int]:
    offsets = [0] * len(sizes)
    placed: list[int] = []
    for block in order:
        start, stop = lifetimes[block]
        rivals = sorted(
            (b for b in placed if lifetimes[b][0] <= stop and start <= lifetimes[b][1]), key=offsets.__getitem__
        )
        end = 0
        for rival in rivals:
            if offsets[rival] - end >= sizes[block]:
                break
            end = max(end, offsets[rival] + sizes[rival])
        offsets[block] = end
        placed.append(block)
    return offsets, max((o + s for o, s in zip(offsets, sizes, strict=True)), default=0)


def fold(conv: Tensor, norm: nn.BatchNorm1d | nn.BatchNorm2d, bias: Tensor | None = None) -> tuple[Array, Array]:
    """Folds a BatchNorm into the convolution before it, whose kernel is `[..., Cin, Cout]`.

    Returns the folded kernel `[K, Cin, Cout]` and the folded bias.
    """
    scale, shift = _affine(norm, bias)
    kernel = conv * scale
    return _array(kernel.reshape(-1, *kernel.shape[-2:])), shift


def _affine(norm: nn.BatchNorm1d | nn.BatchNorm2d, bias: Tensor | None = None) -> tuple[Tensor, Array]:
    """Returns what a BatchNorm multiplies by, float32, and what it adds, to the output of a convolution."""
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError("a BatchNorm without running statistics cannot be folded")
    scale = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
    start = 0.0 if bias is None else bias.double()
    shift = norm.bias.double() + (start - norm.running_mean.double()) * scale
    return scale.detach().float(), _array(shift)


def _array(value: Tensor) -> Array:
    return np.ascontiguousarray(value.detach().float().cpu().numpy())


def _spread(norm: nn.BatchNorm1d) -> Spread:
    return Spread(norm.bias.detach().double().cpu().numpy(), norm.weight.detach().double().abs().cpu().numpy())


def _together(ours: tuple[Spread, ...], theirs: tuple[Spread, ...]) -> tuple[Spread, ...]:
    """Returns the spreads of a sum, none where nothing is known of one of its parts."""
    return (*ours, *theirs) if ours and theirs else ()


M = TypeVar("M", bound=nn.Module)


def _children(modules: nn.ModuleList, kind: type[M]) -> list[M]:
    """Returns the members with their own type, which `ModuleList` forgets."""
    return [module for module in modules if isinstance(module, kind)]


@dataclass
class _Planner:
    steps: list[Step] = field(default_factory=list)
    slots: list[Slot] = field(default_factory=list)

    def plan(self, net: PointVoxelUNet) -> Plan:
        spec = net.spec
        self.slots.append(Slot(0, spec.in_channels))
        voxels = INPUT
        for i, layer in enumerate(_children(net.stem, ConvNorm)):
            voxels = self._conv(f"stem.{i}", layer, "neighbours", 0, (voxels,))
        skips = [voxels]
        for i, stage in enumerate(_children(net.encoder, Stage)):
            voxels = self._conv(f"encoder.{i}.transition", stage.transition, "halving", i + 1, (voxels,))
            for j, block in enumerate(_children(stage.blocks, ResidualBlock)):
                voxels = self._block(f"encoder.{i}.blocks.{j}", block, i + 1, (voxels,))
            skips.append(voxels)
        points = skips[0]
        if spec.point_levels[0]:
            points, voxels = self._fuse(net, 0, points, voxels)
        at_levels = {NUM_STAGES: voxels}
        for i, stage in enumerate(_children(net.decoder, Stage)):
            level = NUM_STAGES - 1 - i
            voxels = self._conv(f"decoder.{i}.transition", stage.transition, "doubling", level, (voxels,))
            inputs: tuple[int, ...] = (voxels, skips[level])
            for j, block in enumerate(_children(stage.blocks, ResidualBlock)):
                voxels = self._block(f"decoder.{i}.blocks.{j}", block, level, inputs)
                inputs = (voxels,)
            if level in POINT_LEVELS and spec.point_levels[POINT_LEVELS.index(level)]:
                points, voxels = self._fuse(net, POINT_LEVELS.index(level), points, voxels)
            at_levels[level] = points if level == 0 and spec.classifies_points else voxels
        last = points if spec.classifies_points else voxels
        kernel, bias = _array(net.classifier.weight.T)[None], _array(net.classifier.bias)
        out = self._slot(0, spec.num_classes, ())
        self.steps.append(Convolution("classifier", "pointwise", 0, (Source(last, kernel),), bias, False, out))
        taken = at_levels[spec.boxes.level] if spec.boxes else None
        return Plan(tuple(self.steps), tuple(self.slots), spec.num_classes, taken)

    def _slot(self, level: int, width: int, spreads: tuple[Spread, ...]) -> int:
        self.slots.append(Slot(level, width, spreads))
        return len(self.slots) - 1

    def _split(self, layer: ConvNorm, slots: tuple[int, ...]) -> tuple[tuple[Source, ...], Array]:
        """Splits a kernel over concatenated inputs into one source per input. Returns the folded bias, too."""
        scale, bias = _affine(layer.norm)
        conv = layer.conv.kernel.detach()  # which counts the changes of the parameter, too
        edges = [0, *np.cumsum([self.slots[slot].width for slot in slots]).tolist()]
        parts = zip(slots, edges[:-1], edges[1:], strict=True)
        version = conv._version
        return tuple(Source(slot, Folded(conv, scale, a, b, version)) for slot, a, b in parts), bias

    def _conv(
        self,
        name: str,
        layer: ConvNorm,
        kind: Kind,
        level: int,
        inputs: tuple[int, ...],
        skip: tuple[ConvNorm, tuple[int, ...]] | None = None,
        residual: int | None = None,
    ) -> int:
        sources, bias = self._split(layer, inputs)
        pointwise: tuple[Source, ...] = ()
        spread = _spread(layer.norm)
        if skip is not None:
            pointwise, skip_bias = self._split(skip[0], skip[1])
            bias = bias + skip_bias
            spread = spread.beside(_spread(skip[0].norm))
        relu = layer.relu or skip is not None or residual is not None
        spreads: tuple[Spread, ...] = (spread,) if relu else ()
        if residual is not None:
            spreads = _together(spreads, self.slots[residual].spreads)
        out = self._slot(level, len(bias), spreads)
        self.steps.append(Convolution(name, kind, level, sources, bias, relu, out, pointwise, residual))
        return out

    def _block(self, name: str, block: ResidualBlock, level: int, inputs: tuple[int, ...]) -> int:
        middle = self._conv(f"{name}.first", block.first, "neighbours", level, inputs)
        if block.projection is not None:
            skip = (block.projection, inputs)
            return self._conv(f"{name}.second", block.second, "neighbours", level, (middle,), skip)
        return self._conv(f"{name}.second", block.second, "neighbours", level, (middle,), residual=inputs[0])

    def _fuse(self, net: PointVoxelUNet, index: int, points: int, voxels: int) -> tuple[int, int]:
        """Adds the steps that carry voxels to points and, except for the last time, back to the voxels."""
        fusion, level = net.points[index], POINT_LEVELS[index]
        assert isinstance(fusion, PointFusionLayer)
        kernel, bias = fold(fusion.linear.weight.T, fusion.norm, fusion.linear.bias)
        spreads = _together((_spread(fusion.norm),), self.slots[voxels].spreads)
        out = self._slot(0, kernel.shape[2], spreads)
        self.steps.append(PointFusion(f"points.{index}", level, points, voxels, kernel, bias, out))
        if level == 0:
            return out, voxels
        mean = self._slot(level, kernel.shape[2], spreads)
        self.steps.append(PointMean(f"points.{index}.mean", level, out, mean))
        return out, mean
