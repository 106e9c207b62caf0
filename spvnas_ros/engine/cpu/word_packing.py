"""A plan's weights as 16-bit integers, and the units in which its features are: pure functions, no scans.

A unit is what one step of an integer stands for. Every slot has one, from the range that BatchNorm gives it.
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
from spvnas_ros.kernels.cpu.word_vectors import TOP

DEVIATIONS = 32.0
"""Standard deviations above its mean up to which a value behind a ReLU is held. On real scans the largest come to two
thirds of that. 15 bits have room for it: steps of a thousandth of a deviation."""

_WEIGHT_TOP = 32767
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
    scale, bias: float32 `[columns]`, from sums to units of the output; ratio: of the other input's unit to the output's
    blocks: int64, eighths of each column block
    """

    sources: tuple[tuple[int, int, npt.NDArray[np.int32]], ...]
    pointwise: tuple[tuple[int, int, npt.NDArray[np.int32]], ...]
    scale: Array
    bias: Array
    blocks: npt.NDArray[np.int64]
    ratio: float = 1.0
    kernel: Array | None = None


def pad_eights(columns: int) -> int:
    """Returns `columns` rounded up to a multiple of 8."""
    return -(-columns // 8) * 8


def pad_fours(channels: int) -> int:
    """Returns the channels of the input rounded up to a multiple of 4."""
    return -(-channels // 4) * 4


def units_of(plan: Plan) -> tuple[float, ...]:
    """Returns the unit of every slot; nan of the input and the logits, which stay float32.

    Raises ValueError, which says why, where a network cannot run on integers: a range is not known or not finite, or a
    weight is not finite.
    """
    last = plan.steps[-1].out
    units = []
    for index, slot in enumerate(plan.slots):
        reach = slot.reach(DEVIATIONS)
        if index in (INPUT, last):
            units.append(math.nan)
        elif math.isfinite(reach):
            units.append(max(reach / TOP, _NOTHING))
        else:
            raise ValueError(f"the range of the features that {_writer(plan, index)} gives is not known")
    for step in plan.steps:
        arrays = [] if isinstance(step, PointMean) else [step.bias, *(source.kernel for source in inputs_of(step))]
        if not all(np.isfinite(array).all() for array in arrays):
            raise ValueError(f"weights of {step.name} are not finite")
        if INPUT in step.reads and step.reads != (INPUT,):
            raise ValueError(f"{step.name} reads the input beside features")
    return tuple(units)


def check_noise(plan: Plan, units: Sequence[float]) -> None:
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


def _noise(step: Convolution | PointFusion, plan: Plan, units: Sequence[float]) -> float:
    """Returns what rounding adds to the worst output of a step, in standard deviations of it.

    A rounded number is off by a twelfth of its step squared. Every input is taken to be there.
    """
    sources = inputs_of(step)
    scaled = [source.kernel.astype(np.float64) * units[source.slot] for source in sources]
    steps = weight_steps(scaled)
    noise, signal = np.zeros(len(steps)), np.zeros(len(steps))
    for source, kernel in zip(sources, scaled, strict=True):
        # Behind a ReLU, of what BatchNorm says of a feature; in units.
        squares = sum(np.maximum(s.mean, 0) ** 2 + s.deviation**2 for s in plan.slots[source.slot].spreads)
        powers = squares / units[source.slot] ** 2
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


def pack_words(step: Step, units: Sequence[float], shape: WordShape) -> PackedWords:
    """Packs a step's weights. units: of all slots, from `units_of`."""
    if isinstance(step, PointMean):
        nothing = np.zeros(0, np.float32)
        return PackedWords((), (), nothing, nothing, np.zeros(0, np.int64))
    width = len(step.bias)
    columns = pad_eights(width)
    blocks = np.array(shape.blocks(columns), np.int64)
    unit = 1.0 if math.isnan(units[step.out]) else units[step.out]
    bias = _padded(step.bias / unit, columns)
    if step.reads == (INPUT,):
        (source,) = inputs_of(step)
        volume, channels, _ = source.kernel.shape
        kernel = np.zeros((volume, pad_fours(channels), columns), np.float32)
        kernel[:, :channels, :width] = source.kernel
        return PackedWords((), (), _padded(np.full(width, 1 / unit), columns), bias, blocks, kernel=kernel)
    # In the inputs' units first, so that inputs of different units share the step of the weights.
    scaled = [source.kernel.astype(np.float64) * units[source.slot] for source in inputs_of(step)]
    steps = weight_steps(scaled)
    terms = [
        (source.slot, *_panels(np.rint(kernel / steps).astype(np.int16), shape))
        for source, kernel in zip(inputs_of(step), scaled, strict=True)
    ]
    count = len(step.sources) if isinstance(step, Convolution) else 1
    other = step.voxels if isinstance(step, PointFusion) else step.residual
    ratio = 1.0 if other is None else units[other] / unit
    return PackedWords(tuple(terms[:count]), tuple(terms[count:]), _padded(steps / unit, columns), bias, blocks, ratio)


def weight_steps(kernels: Sequence[Wide]) -> Wide:
    """Returns the finest step of the weights of each output, float64 `[Cout]`, with which no int32 sum overflows.

    The sum over one kernel row of `round(weight / step) * feature` stays below 2**31 with all features at `TOP` and all
    rounding to the worse side: `TOP * (sum |weight| / step + Cin / 2) <= 2**31 - 2**16`.

    kernels: `[K, Cin, Cout]` each, of all inputs, which share the steps
    """
    finest = np.max([np.abs(kernel).max(axis=(0, 1)) for kernel in kernels], axis=0) / _WEIGHT_TOP
    safe = [
        np.abs(kernel).sum(axis=1).max(axis=0) * TOP / (_SUM_TOP - 0.5 * TOP * kernel.shape[1]) for kernel in kernels
    ]
    steps: Wide = np.maximum(finest, np.max(safe, axis=0))
    return np.maximum(steps, _NOTHING**2)


def _panels(kernel: npt.NDArray[np.int16], shape: WordShape) -> tuple[int, npt.NDArray[np.int32]]:
    """Returns the words of a row of an integer kernel `[K, Cin, Cout]`, and its panels.

    Channels are filled up with zeros to whole words, and columns to eights.
    """
    volume, channels, width = kernel.shape
    words, columns = -(-channels // 2), pad_eights(width)
    wide = np.zeros((volume, 2 * words, columns), np.int16)
    wide[:, :channels, :width] = kernel
    pairs = np.ascontiguousarray(wide.reshape(volume, words, 2, columns).swapaxes(2, 3)).view(np.int32)[..., 0]
    packed = aligned(pairs.size).view(np.int32).reshape(volume, -1)
    column = 0
    for eighths in shape.blocks(columns):
        block = pairs[:, :, column : column + 8 * eighths].reshape(volume, -1)
        packed[:, words * column : words * (column + 8 * eighths)] = block
        column += 8 * eighths
    return words, packed.reshape(-1)


def _padded(values: npt.NDArray[np.floating], columns: int) -> Array:
    padded = np.zeros(columns, np.float32)
    padded[: len(values)] = values
    return padded


def _writer(plan: Plan, slot: int) -> str:
    return next((step.name for step in plan.steps if step.out == slot), "nobody")
