"""A plan's weights on a device, padded to the blocks that the kernels work in."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from spvnas_ros.engine.plan import INPUT, Array, Convolution, Plan, PointFusion, Source, Step
from spvnas_ros.errors import UserError
from spvnas_ros.kernels.cuda.blocks import DTYPES, TILE_ROWS, UNIT, Blocks, Precision, choose_blocks, pad

PROGRAMS = 4
"""Programs of a convolution that every multiprocessor should have: about as many as it holds at a time."""
MOST_PARTS = 4


class HalfRangeError(UserError):
    """The error for weights or features that half precision cannot hold. It names the layers."""


def half_range_error(names: list[str]) -> HalfRangeError:
    """Returns the error for values beyond half precision in the layers `names`."""
    limit = torch.finfo(torch.float16).max
    return HalfRangeError(
        f"values beyond {limit:.0f} in {', '.join(names)}: float16 cannot hold them; "
        "run this network with precision 'bf16' or 'fp32'"
    )


def multiprocessors_of(device: torch.device) -> int:
    """Returns the GPU's multiprocessors. The number is 0 on the CPU, where more programs only take longer."""
    return int(torch.cuda.get_device_properties(device).multi_processor_count) if device.type == "cuda" else 0


def split(programs: int, multiprocessors: int) -> int:
    """Returns the number of parts into which each of `programs` programs divides its sum, so that they fill a GPU.

    The coarsest voxels are few and their channels many: 149 tiles on a scan of 123 000 points.
    """
    return max(1, min(MOST_PARTS, round(PROGRAMS * multiprocessors / programs)))


@dataclass(frozen=True)
class Packed:
    """A step's weights in one precision.

    kernel `[K, padded Cin, padded Cout]` (K is 0 for none); skip `[padded Cin, padded Cout]`
    bias float32 `[padded Cout]`
    width, skip_width: columns of the feature rows read; out: padded Cout; out_width: columns of the rows written
    """

    kernel: Tensor
    skip: Tensor
    bias: Tensor
    width: int
    skip_width: int
    out: int
    out_width: int
    blocks: Blocks


def split_input(precision: Precision) -> bool:
    """Returns whether the input's features get further channels, which hold the part that half precision drops.

    Without these channels, coordinates at 100 m would be rounded to centimetres.
    """
    return precision != "fp32"


def input_width(plan: Plan, precision: Precision) -> int:
    """Returns the channels of the input's rows: a power of two, as one block of a kernel holds them all."""
    channels = plan.slots[INPUT].width * (2 if split_input(precision) else 1)
    return max(UNIT, 1 << (channels - 1).bit_length())


def pack_step(
    plan: Plan,
    step: Step,
    precision: Precision,
    device: torch.device,
    tile_rows: tuple[int, ...] = TILE_ROWS,
    capability: int = 80,
) -> Packed | None:
    """Returns the weights of a step, None for a step without weights.

    Raises HalfRangeError for weights beyond the precision.
    """
    none: tuple[Source, ...] = ()
    sources: tuple[Source, ...]
    if isinstance(step, PointFusion):
        sources, skips, level = (Source(step.points, step.kernel),), none, 0
    elif isinstance(step, Convolution):
        sources, skips = (step.sources, step.pointwise) if step.kind != "pointwise" else (none, step.sources)
        level = step.level
    else:
        return None
    kernels = [_concatenated(plan, group, precision) for group in (sources, skips)]
    widths = [kernel.shape[1] for kernel in kernels if kernel.size]
    blocks = choose_blocks(tile_rows[level], widths, len(step.bias), precision, capability)
    if isinstance(step, PointFusion):
        # Interpolation needs registers too, and narrow tiles cost it nothing.
        blocks = replace(blocks, columns=min(blocks.columns, 64))
    if step.out == plan.steps[-1].out:
        blocks = replace(blocks, columns=max(16, 1 << (len(step.bias) - 1).bit_length()), stages=2)
    out = -(-len(step.bias) // blocks.columns) * blocks.columns
    kernel, skip = (_padded(k, blocks.depth, out) for k in kernels)
    limit = torch.finfo(DTYPES[precision]).max
    if max(np.abs(kernel).max(initial=0), np.abs(skip).max(initial=0)) > limit:
        raise half_range_error([f"the weights of {step.name}"])
    bias = np.zeros(out, np.float32)
    bias[: len(step.bias)] = step.bias

    def move(array: Array) -> Tensor:
        return torch.from_numpy(array).to(device, DTYPES[precision])

    return Packed(
        move(kernel),
        move(skip[0] if len(skip) else np.zeros((0, out), np.float32)),
        torch.from_numpy(bias).to(device),
        kernels[0].shape[1],
        kernels[1].shape[1],
        out,
        pad(len(step.bias)),
        blocks,
    )


def _concatenated(plan: Plan, sources: tuple[Source, ...], precision: Precision) -> Array:
    """Returns one kernel `[K, channels of the feature rows, Cout]` over the sources.

    The sources lie side by side in one row.
    """
    if not sources:
        return np.zeros((0, 0, 0), np.float32)
    parts = []
    for source in sources:
        kernel = source.kernel
        width = pad(kernel.shape[1])
        if source.slot == INPUT:
            width = input_width(plan, precision)
            kernel = np.concatenate([kernel, kernel], axis=1) if split_input(precision) else kernel
        parts.append(np.pad(kernel, ((0, 0), (0, width - kernel.shape[1]), (0, 0))))
    return np.concatenate(parts, axis=1)


def _padded(kernel: Array, depth: int, out: int) -> Array:
    rows = -(-kernel.shape[1] // depth) * depth
    return np.pad(kernel, ((0, 0), (0, rows - kernel.shape[1]), (0, out - kernel.shape[2])))
