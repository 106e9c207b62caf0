"""How Triton kernels cut their work: tiles, blocks of channels, precisions, by what the GPU can do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

Precision = Literal["fp16", "bf16", "fp32"]

DTYPES: dict[Precision, torch.dtype] = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}

UNIT = 16
"""Feature rows are padded to multiples of this many channels: whole memory sectors, the matrix units' least depth."""

TILE_ROWS = (64, 64, 64, 64, 64)
"""Output rows per tile at each level."""


def pad(width: int) -> int:
    """Channels of a feature row that holds `width`."""
    return -(-width // UNIT) * UNIT


@dataclass(frozen=True)
class Blocks:
    """How a kernel cuts its work: output rows and columns of a tile, input channels at a time, warps, stages."""

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int

    @property
    def options(self) -> dict[str, int]:
        """As keyword arguments of a launch."""
        return {"num_warps": self.warps, "num_stages": self.stages}


def choose_blocks(rows: int, widths: list[int], out: int, precision: Precision, capability: int = 80) -> Blocks:
    """Blocks of a product of `rows` at a time, with inputs of `widths` channels and `out` output channels.

    A block costs its size, padding included, and something for being there: inputs are gathered again for every block
    of columns, and every step of the loop waits for its indices. capability: the GPU's, 75, 80, ...
    """
    # Triton knows the matrix units from capability 8.0 on, and has none for float32 that is not rounded: the rest is
    # multiplied in registers, of which wide blocks would take too many.
    matrix_units = precision != "fp32" and capability >= 80
    columns = min((16, 32, 64, 128) if matrix_units else (16, 32, 64), key=lambda b: (-(-out // b) * (b + 64), -b))
    depths = (16, 32, 64) if matrix_units else (16,)
    depth = min(depths, key=lambda b: (sum(-(-pad(w) // b) * (b + 32) for w in widths), -b))
    return Blocks(rows, columns, depth, warps=4 if matrix_units else 8, stages=3 if matrix_units else 2)


def capability_of(device: torch.device) -> int:
    """The GPU's compute capability, 80 for 8.0; on the CPU the interpreter passes for such a one."""
    if device.type != "cuda":
        return 80
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor
