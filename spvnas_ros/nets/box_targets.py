"""What an anchor head learns: which anchors shall find which box, and the three losses.

Both libraries' rules are here; `BoxHeadSpec` says which hold. References: `axis_aligned_target_assigner.py` and
`anchor_head_template.py` of OpenPCDet; `max_3d_iou_assigner.py` and `anchor3d_head.py` of mmdetection3d.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from spvnas_ros.nets.box_spec import BoxClass, BoxHeadSpec
from spvnas_ros.nets.heads import CODE, HeadOutput, directions_of, encode_boxes

BACKGROUND = -1
IGNORED = -2

_ALPHA, _GAMMA = 0.25, 2.0
_BETA = 1 / 9
"""The error up to which the box loss is a square, in units of the code."""


@dataclass(frozen=True)
class Targets:
    """What the anchors of one frame shall say.

    classes:    int64 `[A]`, the class, or BACKGROUND, or IGNORED
    boxes:      float32 `[A, 7]`, the box relative to the anchor; zeros where there is none
    directions: int64 `[A]`, 0 or 1; 0 where there is no box
    """

    classes: Tensor
    boxes: Tensor
    directions: Tensor

    @property
    def positive(self) -> Tensor:
        """Which anchors have a box, bool `[A]`."""
        return self.classes >= 0


@dataclass(frozen=True)
class Losses:
    """The losses of a batch, each with its weight."""

    classes: Tensor
    boxes: Tensor
    directions: Tensor

    @property
    def total(self) -> Tensor:
        """The sum of the three."""
        return self.classes + self.boxes + self.directions


def nearest_overlap(anchors: Tensor, boxes: Tensor) -> Tensor:
    """Returns the overlaps (intersection over union) `[A, M]` of boxes turned to the nearest axis, seen from above."""
    a, b = _upright(anchors), _upright(boxes)
    low = torch.maximum(a[:, None, :2], b[None, :, :2])
    high = torch.minimum(a[:, None, 2:], b[None, :, 2:])
    both = (high - low).clamp(min=0).prod(dim=2)
    areas = (((c[:, 2] - c[:, 0]) * (c[:, 3] - c[:, 1])) for c in (a, b))
    one, other = areas
    return both / (one[:, None] + other[None, :] - both).clamp(min=1e-6)


def _upright(boxes: Tensor) -> Tensor:
    """Returns x, y minimum and maximum `[N, 4]`."""
    turn = boxes[:, 6] - torch.floor(boxes[:, 6] / math.pi + 0.5) * math.pi
    size = torch.where((turn.abs() < math.pi / 4)[:, None], boxes[:, 3:5], boxes[:, [4, 3]])
    return torch.cat([boxes[:, :2] - size / 2, boxes[:, :2] + size / 2], dim=1)


def assign_targets(head: BoxHeadSpec, anchors: Tensor, boxes: Tensor, classes: Tensor) -> Targets:
    """Returns what the anchors of a frame shall say of its boxes.

    anchors: float32 `[A, 7]`, as `anchor_boxes` gives them
    boxes:   float32 `[M, 7]`
    classes: int64 `[M]`, index into the head's classes
    """
    grid = anchors.reshape(-1, len(head.classes), len(head.rotations), CODE)
    labels = torch.full(grid.shape[:3], BACKGROUND, device=anchors.device)
    codes = torch.zeros_like(grid)
    for index, each in enumerate(head.classes):
        seen = classes == index if head.own_class else torch.ones_like(classes, dtype=torch.bool)
        own, mine, kinds = grid[:, index].reshape(-1, CODE), boxes[seen], classes[seen]
        state, box = _match(head, each, own, mine)
        found = box >= 0
        state[found] = kinds[box[found]]
        labels[:, index] = state.reshape(labels[:, index].shape)
        code = torch.zeros_like(own)
        code[found] = encode_boxes(mine[box[found]], own[found])
        codes[:, index] = code.reshape(codes[:, index].shape)
    labels, codes = labels.reshape(-1), codes.reshape(-1, CODE)
    yaw = codes[:, 6] + anchors[:, 6]
    directions = torch.where(labels >= 0, directions_of(yaw, head.direction_offset), 0)
    return Targets(labels, codes, directions)


def _match(head: BoxHeadSpec, each: BoxClass, anchors: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Returns BACKGROUND or IGNORED of every anchor without a box, and the box of each, -1 where there is none."""
    none = torch.full((len(anchors),), -1, device=anchors.device)
    if not len(boxes):
        return torch.full_like(none, BACKGROUND), none
    overlaps = nearest_overlap(anchors, boxes)
    best, nearest = overlaps.max(dim=1)
    state = torch.where(best < each.negative, BACKGROUND, IGNORED)
    box = torch.where(best >= each.positive, nearest, none)
    best_of_box = overlaps.amax(dim=0)
    if head.forced == "any":
        forced = ((overlaps == best_of_box) & (best_of_box > 0)).any(dim=1)
        return state, torch.where(forced, nearest, box)
    for index in torch.nonzero(best_of_box >= each.negative).squeeze(1).tolist():
        box[overlaps[:, index] == best_of_box[index]] = index
    return state, box


def positives_of(targets: Sequence[Targets]) -> Tensor:
    """Returns how many anchors of each frame have a box, at least 1 each: int64 `[frames]`."""
    return torch.stack([each.positive.sum() for each in targets]).clamp(min=1)


def box_losses(
    head: BoxHeadSpec, output: HeadOutput, targets: Sequence[Targets], divisor: Tensor | None = None
) -> Losses:
    """Returns the losses of a batch, one entry of `targets` a frame.

    divisor: by what a head divides that is normalised over the batch, where others have parts of it; None: the sum of
             `positives_of` these targets

    Classes have a focal loss over all anchors that are not ignored. Boxes have a smooth L1 loss, with the sine of the
    difference for the yaw, and directions a cross-entropy, both over anchors that have a box. A batch without any box
    has zeros for these two.
    """
    classes = torch.stack([t.classes for t in targets])
    positive = classes >= 0
    counts = positives_of(targets)
    if head.normalised == "frame":
        share = 1 / (counts * len(targets))
    else:
        share = 1 / (counts.sum() if divisor is None else divisor).expand(len(targets))
    wanted = functional.one_hot(classes.clamp(min=0), len(head.classes)).to(output.classes) * positive[..., None]
    focal = _focal(output.classes, wanted).sum(dim=2) * (classes != IGNORED)
    codes = torch.stack([t.boxes for t in targets])[positive]
    far = _smooth_l1(_sine_difference(output.boxes[positive], codes)).sum(dim=1)
    directions = torch.stack([t.directions for t in targets])[positive]
    turned = functional.cross_entropy(output.directions[positive], directions, reduction="none")
    shares = share[:, None].expand_as(classes)[positive]
    parts = (focal.sum(dim=1) * share).sum(), (far * shares).sum(), (turned * shares).sum()
    return Losses(*(part * weight for part, weight in zip(parts, head.weights, strict=True)))


def _focal(scores: Tensor, wanted: Tensor) -> Tensor:
    probability = torch.sigmoid(scores)
    wrong = wanted * (1 - probability) + (1 - wanted) * probability
    weight = (wanted * _ALPHA + (1 - wanted) * (1 - _ALPHA)) * wrong**_GAMMA
    return weight * functional.binary_cross_entropy_with_logits(scores, wanted, reduction="none")


def _sine_difference(codes: Tensor, wanted: Tensor) -> Tensor:
    """Returns differences of codes `[N, 7]`, with the sine of the last: a box turned by pi is the same box here."""
    return torch.cat([codes[:, :6] - wanted[:, :6], torch.sin(codes[:, 6:] - wanted[:, 6:])], dim=1)


def _smooth_l1(difference: Tensor) -> Tensor:
    size = difference.abs()
    return torch.where(size < _BETA, 0.5 * size**2 / _BETA, size - 0.5 * _BETA)
