"""The tiles, blocks of channels and precisions of Triton kernels, chosen for the GPU's compute capability."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

Precision = Literal["fp16", "bf16", "fp32"]

DTYPES: dict[Precision, torch.dtype] = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}

UNIT = 16
"""Feature rows are padded to a multiple of this many channels. A row then fills whole memory sectors and the least
depth of the matrix units."""

TILE_ROWS = (64, 64, 64, 64, 64)
"""Output rows per tile at each level."""


def pad(width: int) -> int:
    """Returns the channels of a padded feature row that holds `width` channels."""
    return -(-width // UNIT) * UNIT


@dataclass(frozen=True)
class Blocks:
    """The division of a kernel's work into blocks.

    rows, columns: size of an output tile
    depth:         input channels multiplied at a time
    warps, stages: options of the launch
    """

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int

    @property
    def options(self) -> dict[str, int]:
        """The warps and stages as keyword arguments of a launch."""
        return {"num_warps": self.warps, "num_stages": self.stages}


def choose_blocks(rows: int, widths: list[int], out: int, precision: Precision, capability: int = 80) -> Blocks:
    """Returns the blocks of a product of `rows` at a time, with inputs of `widths` channels and `out` output channels.

    The cost of a block is its size, padding included, plus a fixed cost. Inputs are gathered again for every block of
    columns, and every step of the loop waits for its indices.

    capability: the GPU's compute capability, 75, 80, ...
    """
    # Triton uses the matrix units from capability 8.0 on, but not for float32 that must stay unrounded. All other
    # products are multiplied in registers, and wide blocks would take too many of them.
    matrix_units = precision != "fp32" and capability >= 80
    columns = min((16, 32, 64, 128) if matrix_units else (16, 32, 64), key=lambda b: (-(-out // b) * (b + 64), -b))
    depths = (16, 32, 64) if matrix_units else (16,)
    depth = min(depths, key=lambda b: (sum(-(-pad(w) // b) * (b + 32) for w in widths), -b))
    return Blocks(rows, columns, depth, warps=4 if matrix_units else 8, stages=3 if matrix_units else 2)


def capability_of(device: torch.device) -> int:
    """Returns the GPU's compute capability, 80 for 8.0. On the CPU, Triton's interpreter counts as 80."""
    if device.type != "cuda":
        return 80
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor
