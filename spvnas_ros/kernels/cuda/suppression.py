"""Which of many boxes on the device stay, without asking the device how many there are."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from spvnas_ros.kernels.cuda import suppression_kernels as kernels
from spvnas_ros.kernels.cuda.launch import Launch, run

_BITS = 32
_ROWS = 8
"""Boxes that a program of `find_overlaps` compares with 32 others at a time, a pair to each thread of as many warps: in
double precision more would not fit the registers."""


class Suppression:
    """The buffers for up to `number` boxes, of which `most` stay at most, and the launches that fill them.

    Rule and overlap are those of `boxes.overlap.nms`, with rotated boxes.

    overlap:   two boxes that overlap more, seen from above, are one
    per_class: boxes of different classes do not see each other
    kept:      int32 `[most]`, the boxes that stay, the best first; those from the count on mean nothing
    """

    def __init__(
        self, number: int, most: int, overlap: float, per_class: bool, device: torch.device, launch: Launch = run
    ) -> None:
        self._overlap, self._per_class, self._launch = overlap, per_class, launch
        self._number = number
        padded = -(-number // _BITS) * _BITS
        self._boxes = torch.zeros(padded, 7, device=device)
        self._turns = torch.zeros(padded, 2, dtype=torch.float64, device=device)
        self._classes = torch.zeros(padded, dtype=torch.int64, device=device)
        self._valid = torch.zeros(padded, dtype=torch.int32, device=device)
        self._seen = torch.zeros(4, dtype=torch.int32, device=device)[:1]
        self._bits = torch.zeros(padded, padded // _BITS, dtype=torch.int32, device=device)
        self.kept = torch.zeros(most, dtype=torch.int32, device=device)

    def run(self, boxes: Tensor, classes: Tensor, valid: Tensor, seen: Tensor, count: Tensor) -> None:
        """Fills `kept`. It only launches and never waits.

        boxes: float32 `[number, 7]`, the best first; classes int64 and valid bool `[number]`: others never stay
        seen:  integer `[1]`: so many at the front are looked at
        count: int32 `[1]`, written: how many stay
        """
        self._boxes[: self._number] = boxes
        yaw = boxes[:, 6].double()
        self._turns[: self._number] = torch.stack([torch.cos(yaw), torch.sin(yaw)], dim=1)
        self._classes[: self._number] = classes
        self._valid[: self._number] = valid
        self._seen.copy_(seen)
        words = self._bits.shape[1]
        self._launch(
            kernels.find_overlaps, (triton.cdiv(self._number, _ROWS),),
            self._boxes, self._turns, self._classes, self._valid, self._seen, self._bits, words,
            MOST=self._overlap, PER_CLASS=self._per_class, ROWS=_ROWS, num_warps=_ROWS,
        )  # fmt: skip
        self._launch(
            kernels.suppress, (1,),
            self._bits, self._valid, self._seen, self.kept, count, words,
            MOST=len(self.kept), WIDTH=triton.next_power_of_2(words),
        )  # fmt: skip
