"""A plan's weights as integers of 16 or 8 bits, and the units in which its features are: pure functions, no scans.

A unit is what one step of an integer stands for. Every slot has one, or one a channel, from the range that BatchNorm
gives it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spvnas_ros.engine.plan import INPUT, Convolution, Plan, PointFusion, PointMean, Source, Step
from spvnas_ros.kernels.cpu.convolve import aligned
from spvnas_ros.kernels.cpu.shape import WordShape
from spvnas_ros.kernels.cpu.word_vectors import BYTES, HALVES, Integers

DEVIATIONS = 32.0
"""Standard deviations above its mean up to which a value behind a ReLU is held. On real scans the largest come to two
thirds of that. 15 bits have room for it: steps of a thousandth of a deviation."""

FIRST_LEVEL_OF_BYTES = 1
"""Where bytes are wanted, the finest voxels and the points keep 16 bits all the same: that halves the labels that
change, for 3 % to 6 % of the time."""
BYTE_DEVIATIONS = 10.0
"""Likewise for bytes, whose steps would be too coarse for more; what is above is cut off and counted."""
_LEAST_OF_SLOT = 1e-3
"""The least range of a channel of bytes, as a share of the largest of its slot."""

_SUM_TOP = 2.0**31 - 2.0**16
_NOTHING = 1e-30
"""The unit of what is always zero."""
MOST_NOISE = 0.02
"""What rounding may add to an output, in standard deviations of it. The shipped network's worst has 0.002."""

Array = npt.NDArray[np.float32]
Wide = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PackedWords:
    """A step's weights in the layout of `kernels.cpu.convolve_words`.

    sources, pointwise: (slot, words, panels) of each input; kernel: of the first layer, float32
        `[K, channels, columns]`
    scale, bias: float32 `[columns]`, from sums to units of the output, or of the voxels that are interpolated
    ratio: float32 `[columns]`, of the other input's unit to the output's; blocks: int64, eighths of each column block
    """

    sources: tuple[tuple[int, int, npt.NDArray[np.int32]], ...]
    pointwise: tuple[tuple[int, int, npt.NDArray[np.int32]], ...]
    scale: Array
    bias: Array
    blocks: npt.NDArray[np.int64]
    ratio: Array
    kernel: Array | None = None


def pad_eights(columns: int) -> int:
    """Returns `columns` rounded up to a multiple of 8."""
    return -(-columns // 8) * 8


def pad_fours(channels: int) -> int:
    """Returns the channels of the input rounded up to a multiple of 4."""
    return -(-channels // 4) * 4


@dataclass(frozen=True)
class Units:
    """How a slot is stored. of: what one step of an integer stands for in each channel, float64 `[width]`."""

    integers: Integers
    of: Wide


def units_of(plan: Plan, bytes_wanted: bool = False) -> tuple[Units | None, ...]:
    """Returns the units of every slot; None for the input and the logits, which stay float32.

    bytes_wanted: whether slots are of 8 bits, with a unit a channel; without, of 16 bits, with one unit for all

    Raises ValueError, which says why, where a network cannot run on integers: a range is not known or not finite, or a
    weight is not finite.
    """
    last = plan.steps[-1].out
    units: list[Units | None] = []
    for index, slot in enumerate(plan.slots):
        if index in (INPUT, last):
            units.append(None)
            continue
        if not math.isfinite(slot.reach(DEVIATIONS)):
            raise ValueError(f"the range of the features that {_writer(plan, index)} gives is not known")
        if bytes_wanted and slot.level >= FIRST_LEVEL_OF_BYTES:
            reaches = slot.reaches(BYTE_DEVIATIONS)
            least = max(_LEAST_OF_SLOT * float(reaches.max()), _NOTHING)
            units.append(Units(BYTES, np.maximum(reaches, least) / BYTES.top))
        else:
            unit = max(slot.reach(DEVIATIONS) / HALVES.top, _NOTHING)
            units.append(Units(HALVES, np.full(slot.width, unit)))
    for step in plan.steps:
        arrays = [] if isinstance(step, PointMean) else [step.bias, *(source.kernel for source in inputs_of(step))]
        if not all(np.isfinite(array).all() for array in arrays):
            raise ValueError(f"weights of {step.name} are not finite")
        if INPUT in step.reads and step.reads != (INPUT,):
            raise ValueError(f"{step.name} reads the input beside features")
    return tuple(units)


def check_noise(plan: Plan, units: Sequence[Units | None]) -> None:
    """Raises ValueError, which says why, where rounding would drown an output: one unit a slot, and one step of the
    weights for all inputs, are too coarse for channels of very different size. No value clips there, so nobody would
    see it.

    units: of all slots, from `units_of`
    """
    for step in plan.steps:
        if not isinstance(step, PointMean) and INPUT not in step.reads:
            noise = _noise(step, plan, units)
            if not noise <= MOST_NOISE:
                raise ValueError(
                    f"channels that {step.name} reads differ too much in size: rounding adds {noise:.2g} standard "
                    f"deviations to one of its outputs, at most {MOST_NOISE:g} is expected"
                )


def _noise(step: Convolution | PointFusion, plan: Plan, units: Sequence[Units | None]) -> float:
    """Returns what rounding adds to the worst output of a step, in standard deviations of it.

    A rounded number is off by a twelfth of its step squared. Every input is taken to be there.
    """
    sources = inputs_of(step)
    ofs = [_known(units[source.slot]).of for source in sources]
    scaled = [source.kernel.astype(np.float64) * of[:, None] for source, of in zip(sources, ofs, strict=True)]
    steps = weight_steps(scaled)
    noise, signal = np.zeros(len(steps)), np.zeros(len(steps))
    for source, kernel, of in zip(sources, scaled, ofs, strict=True):
        # Behind a ReLU, of what BatchNorm says of a feature; in units.
        squares = sum(np.maximum(s.mean, 0) ** 2 + s.deviation**2 for s in plan.slots[source.slot].spreads)
        powers = squares / of**2
        noise += (np.einsum("kio,kio->o", kernel, kernel) + len(kernel) * np.sum(powers) * steps**2) / 12
        signal += np.einsum("kio,kio,i->o", kernel, kernel, powers)
    spreads = plan.slots[step.out].spreads
    if spreads:
        signal = spreads[0].deviation ** 2
    alive = signal > _NOTHING**2
    return float(np.sqrt(noise[alive] / signal[alive]).max(initial=0.0))


def inputs_of(step: Convolution | PointFusion) -> tuple[Source, ...]:
    """Returns everything that a step multiplies by a kernel."""
    return (Source(step.points, step.kernel),) if isinstance(step, PointFusion) else (*step.sources, *step.pointwise)


@dataclass(frozen=True)
class Exchange:
    """Steps that one pass over the points takes together: a point fusion, the mean of its output, and the kernel of the
    next fusion, which nobody else reads it for. Between the two fusions the points have the product with that kernel,
    behind its ReLU, in the slot that would have held the output.

    fusion, mean, following: indices of steps; units: of the product
    """

    fusion: int
    mean: int
    following: int
    units: Units


def exchanges_of(plan: Plan, units: Sequence[Units | None]) -> tuple[Exchange, ...]:
    """Returns what can be taken together. units: of all slots, from `units_of`."""
    found: dict[int, Exchange] = {}
    for index, step in reversed(list(enumerate(plan.steps))):
        readers = [number for number, each in enumerate(plan.steps) if step.out in each.reads]
        if not isinstance(step, PointFusion) or step.level == 0 or step.out == plan.taken or len(readers) != 2:
            continue
        mean, following = (plan.steps[number] for number in readers)
        if not isinstance(mean, PointMean) or not isinstance(following, PointFusion) or mean.level != step.level:
            continue
        if following.points != step.out or following.voxels == step.out:
            continue
        if following.level > 0 and readers[1] not in found:
            continue
        # Where the sum with voxels fits, its part fits.
        found[index] = Exchange(index, readers[0], readers[1], _known(units[following.out]))
    return tuple(found.values())


def pack_words(
    step: Step, units: Sequence[Units | None], shape: WordShape, product: Units | None = None
) -> PackedWords:
    """Packs a step's weights.

    units: of all slots, from `units_of`; product: of a point fusion, whose scale and bias lead to the units of the
    product then
    """
    out = units[step.out]
    if isinstance(step, PointMean):
        nothing = np.zeros(0, np.float32)
        points = units[step.points]
        assert out
        assert points
        ratio = padded(points.of / out.of, pad_eights(len(out.of)))
        return PackedWords((), (), nothing, nothing, np.zeros(0, np.int64), ratio)
    width = len(step.bias)
    columns = pad_eights(width)
    blocks = np.array(shape.blocks(columns), np.int64)
    unit = np.ones(width) if out is None else out.of
    if step.reads == (INPUT,):
        (source,) = inputs_of(step)
        volume, channels, _ = source.kernel.shape
        kernel = np.zeros((volume, pad_fours(channels), columns), np.float32)
        kernel[:, :channels, :width] = source.kernel
        nothing = np.zeros(columns, np.float32)
        return PackedWords(
            (), (), padded(1 / unit, columns), padded(step.bias / unit, columns), blocks, nothing, kernel
        )
    # In the inputs' units first, so that inputs of different units share the step of the weights.
    inputs = [(source, _known(units[source.slot])) for source in inputs_of(step)]
    integers = inputs[0][1].integers
    if any(each.integers != integers for _, each in inputs):
        raise ValueError(f"{step.name} reads features of different sizes")
    scaled = [source.kernel.astype(np.float64) * each.of[:, None] for source, each in inputs]
    steps = weight_steps(scaled, integers)
    terms = [
        (source.slot, *panels(np.rint(kernel / steps), integers, shape))
        for (source, _), kernel in zip(inputs, scaled, strict=True)
    ]
    count = len(step.sources) if isinstance(step, Convolution) else 1
    other = step.voxels if isinstance(step, PointFusion) else step.residual
    ratio = np.zeros(columns, np.float32) if other is None else padded(_known(units[other]).of / unit, columns)
    if isinstance(step, PointFusion) and step.level > 0:
        # Sums of points and interpolated voxels are in the voxels' unit, which the ratio ends.
        unit = _known(units[step.voxels]).of
    if product is not None:
        unit = product.of
    return PackedWords(
        tuple(terms[:count]), tuple(terms[count:]), padded(steps / unit, columns), padded(step.bias / unit, columns),
        blocks, ratio,
    )  # fmt: skip


def _known(units: Units | None) -> Units:
    if units is None:
        raise ValueError("the input and the logits are float32")
    return units


def weight_steps(kernels: Sequence[Wide], integers: Integers = HALVES) -> Wide:
    """Returns the finest step of the weights of each output, float64 `[Cout]`, with which no int32 sum overflows.

    The sum over one kernel row of `round(weight / step) * feature` stays below 2**31 with all features at the top and
    all rounding to the worse side: `top * (sum |weight| / step + Cin / 2) <= 2**31 - 2**16`. Of bytes it could not come
    near that with fewer than 66 000 channels: `255 * 127 * Cin`.

    kernels: `[K, Cin, Cout]` each, of all inputs, which share the steps
    """
    finest = np.max([np.abs(kernel).max(axis=(0, 1)) for kernel in kernels], axis=0) / integers.weight_top
    safe = [
        np.abs(kernel).sum(axis=1).max(axis=0) * integers.top / (_SUM_TOP - 0.5 * integers.top * kernel.shape[1])
        for kernel in kernels
    ]
    steps: Wide = np.maximum(finest, np.max(safe, axis=0))
    return np.maximum(steps, _NOTHING**2)


def panels(kernel: Wide, integers: Integers, shape: WordShape) -> tuple[int, npt.NDArray[np.int32]]:
    """Returns the words of a row of a kernel `[K, Cin, Cout]` of whole numbers, and its panels.

    Channels are filled up with zeros to whole words, and columns to eights.
    """
    volume, channels, width = kernel.shape
    each = integers.per_word
    words, columns = -(-channels // each), pad_eights(width)
    wide = np.zeros((volume, each * words, columns), f"i{4 // each}")
    wide[:, :channels, :width] = kernel
    together = np.ascontiguousarray(wide.reshape(volume, words, each, columns).swapaxes(2, 3)).view(np.int32)[..., 0]
    packed = aligned(together.size).view(np.int32).reshape(volume, -1)
    column = 0
    for eighths in shape.blocks(columns):
        block = together[:, :, column : column + 8 * eighths].reshape(volume, -1)
        packed[:, words * column : words * (column + 8 * eighths)] = block
        column += 8 * eighths
    return words, packed.reshape(-1)


def padded(values: npt.NDArray[np.floating], columns: int) -> Array:
    """Returns values as float32, and zeros behind them."""
    wide = np.zeros(columns, np.float32)
    wide[: len(values)] = values
    return wide


def _writer(plan: Plan, slot: int) -> str:
    return next((step.name for step in plan.steps if step.out == slot), "nobody")
