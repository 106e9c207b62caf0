"""What runs the steps of a plan on the CPU: a protocol, for features in float32 and in integers."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from spvnas_ros.engine.plan import Convolution
from spvnas_ros.kernels.cpu.convolve import Pairs
from spvnas_ros.kernels.cpu.geometry import Geometry, LevelGeometry

Features = npt.NDArray[Any]

_NO_PAIRS = np.zeros(1, np.int32)


class Steps(Protocol):
    """Runs the steps of one plan. One frame at a time may be in it.

    in_tiles: whether the geometry's pairs count output rows inside their tile
    """

    in_tiles: bool

    def is_new(self) -> bool:
        """Returns whether this machine has to compile the kernels."""
        ...

    def layout(self) -> list[tuple[int, np.dtype[Any]]]:
        """Returns the columns and the type of each slot's features."""
        ...

    def begin(self, rows: npt.NDArray[np.float32], chosen: npt.NDArray[np.integer], out: Features) -> None:
        """Begins a frame: copies the chosen rows, one a voxel, into the slot of the input."""
        ...

    def run(self, index: int, geometry: Geometry, slots: list[Features]) -> None:
        """Runs step `index` of the plan on features `[n + 1, columns]` of each slot."""
        ...

    def writes(self, index: int) -> tuple[int, ...]:
        """Returns the slots that step `index` fills: mostly its own."""
        ...

    def replaces(self, index: int) -> tuple[int, ...]:
        """Returns the slots in whose memory step `index` may write its output, each row over the same row: it reads a
        row of them before it writes this row, and no other row afterwards."""
        ...

    def clipped(self) -> int:
        """Returns how many values of this frame no feature could hold. Where there are any, the frame is wrong."""
        ...

    def cut_off(self) -> int:
        """Returns how many values of this frame were cut off at the end of their range, as their precision allows."""
        ...

    def floats(self, slot: int, features: Features) -> npt.NDArray[np.float32]:
        """Returns features of a slot as float32."""
        ...


def pairs_of(step: Convolution, level: LevelGeometry) -> Pairs:
    """Returns the pairs through which a convolution goes."""
    if step.kind == "pointwise":
        return Pairs(_NO_PAIRS, _NO_PAIRS, _NO_PAIRS, 0, level.tile_rows)
    pairs = {"neighbours": level.neighbours, "halving": level.halving, "doubling": level.doubling}[step.kind]
    if pairs is None:
        raise ValueError(f"step {step.name}: no {step.kind} pairs lead to level {step.level}")
    return pairs
