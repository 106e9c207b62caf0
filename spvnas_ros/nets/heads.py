"""The anchor head: its layers, its anchors, the code of a box relative to an anchor, and the boxes that come out.

Boxes are (x, y, z of the centre, length, width, height, yaw), metres and radians; x forward, y left, z up, yaw
anticlockwise from x.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from spvnas_ros.nets.box_spec import BoxHeadSpec

CODE = 7
DIRECTIONS = 2
_PRIOR = 0.01
"""The score that a class has of every anchor before training, so that the many empty ones do not drown the few."""


@dataclass(frozen=True)
class HeadOutput:
    """What the head says of every anchor of a batch.

    classes:    float32 `[B, A, classes]`, scores before the sigmoid
    boxes:      float32 `[B, A, 7]`, boxes relative to their anchors
    directions: float32 `[B, A, 2]`, scores before the softmax
    """

    classes: Tensor
    boxes: Tensor
    directions: Tensor


class BoxHead(nn.Module):
    """Three 1x1 convolutions over a map of features. The anchors of a cell are by class, then by rotation."""

    def __init__(self, spec: BoxHeadSpec, in_channels: int) -> None:
        super().__init__()
        self.spec = spec
        anchors = spec.anchors_per_cell
        self.classes = nn.Conv2d(in_channels, anchors * len(spec.classes), 1)
        self.boxes = nn.Conv2d(in_channels, anchors * CODE, 1)
        self.directions = nn.Conv2d(in_channels, anchors * DIRECTIONS, 1)
        if self.boxes.weight.is_meta:
            return  # normal_ of a tensor without memory makes torch import its compiler, 130 MB
        nn.init.constant_(self.classes.bias, -math.log((1 - _PRIOR) / _PRIOR))  # type: ignore[arg-type]
        nn.init.normal_(self.boxes.weight, std=spec.box_deviation)
        if spec.class_deviation is not None:
            nn.init.normal_(self.classes.weight, std=spec.class_deviation)

    def forward(self, feats: Tensor) -> HeadOutput:
        """Returns what is said of every anchor over a map of features `[B, C, Y, X]`."""
        parts = (self.classes, len(self.spec.classes)), (self.boxes, CODE), (self.directions, DIRECTIONS)
        return HeadOutput(*(layer(feats).permute(0, 2, 3, 1).reshape(len(feats), -1, n) for layer, n in parts))


def anchor_boxes(head: BoxHeadSpec, cells: tuple[int, int], point_range: Sequence[float]) -> Tensor:
    """Returns the anchors of a map of features, float32 `[A, 7]`, in the order (y, x, class, rotation).

    Their centres are spread over the whole range with its ends, as in both libraries, and are not those of the cells.

    cells:       of the map, along x and y
    point_range: x, y, z minimum, then maximum, metres
    """
    # In float32, as mmdetection3d has them: which of an object's best anchors are equally good hangs on the last bit.
    xs, ys = (
        torch.linspace(low, high, n) for low, high, n in zip(point_range[:2], point_range[3:5], cells, strict=True)
    )
    kinds = [
        [0.0, 0.0, each.bottom + each.size[2] / 2, *each.size, rotation]
        for each in head.classes
        for rotation in head.rotations
    ]
    anchors = torch.tensor(kinds).repeat(len(ys), len(xs), 1, 1)
    anchors[..., 0] = xs[None, :, None]
    anchors[..., 1] = ys[:, None, None]
    return anchors.reshape(-1, CODE)


def encode_boxes(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Returns boxes `[N, 7]` relative to anchors `[N, 7]`: `decode_boxes` gives them back.

    x and y are in diagonals of the anchor and z in its height, sizes are logarithms of ratios, and yaw is a difference.
    """
    diagonal = torch.linalg.vector_norm(anchors[:, 3:5], dim=1, keepdim=True)
    return torch.cat(
        [
            (boxes[:, :2] - anchors[:, :2]) / diagonal,
            (boxes[:, 2:3] - anchors[:, 2:3]) / anchors[:, 5:6],
            torch.log(boxes[:, 3:6] / anchors[:, 3:6]),
            boxes[:, 6:] - anchors[:, 6:],
        ],
        dim=1,
    )


def decode_boxes(codes: Tensor, anchors: Tensor) -> Tensor:
    """Returns the boxes `[N, 7]` that codes `[N, 7]` relative to anchors `[N, 7]` mean."""
    diagonal = torch.linalg.vector_norm(anchors[:, 3:5], dim=1, keepdim=True)
    return torch.cat(
        [
            codes[:, :2] * diagonal + anchors[:, :2],
            codes[:, 2:3] * anchors[:, 5:6] + anchors[:, 2:3],
            torch.exp(codes[:, 3:6]) * anchors[:, 3:6],
            codes[:, 6:] + anchors[:, 6:],
        ],
        dim=1,
    )


def directions_of(yaw: Tensor, offset: float) -> Tensor:
    """Returns which of the two half circles from `offset` on a yaw lies in, int64."""
    return torch.floor(_modulo(yaw - offset, 2 * math.pi) / math.pi).long().clamp(0, 1)


def directed(yaw: Tensor, directions: Tensor, offset: float) -> Tensor:
    """Returns the yaw that differs by a multiple of pi and lies in the given half circle from `offset` on."""
    return _modulo(yaw - offset, math.pi) + offset + math.pi * directions.to(yaw.dtype)


def _modulo(angle: Tensor, period: float) -> Tensor:
    return angle - torch.floor(angle / period) * period
