"""From what an anchor head says to the boxes that come out, by either library's rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from spvnas_ros.boxes.conversions import wrapped
from spvnas_ros.boxes.overlap import nms
from spvnas_ros.frame import Boxes
from spvnas_ros.nets.box_spec import BoxHeadSpec, Selection
from spvnas_ros.nets.heads import HeadOutput, anchor_boxes, decode_boxes, directed
from spvnas_ros.nets.second import Second


@dataclass(frozen=True)
class Candidates:
    """Decoded boxes of one frame. An anchor may be among them once for each class.

    boxes:   float32 `[N, 7]`; the yaw is from the head's direction offset on and not wrapped
    scores:  float32 `[N]`, 0..1
    classes: int64 `[N]`
    anchors: int64 `[N]`, the number of each one's anchor
    """

    boxes: Tensor
    scores: Tensor
    classes: Tensor
    anchors: Tensor

    def __getitem__(self, rows: Tensor) -> Candidates:
        return Candidates(self.boxes[rows], self.scores[rows], self.classes[rows], self.anchors[rows])

    def __len__(self) -> int:
        return len(self.scores)


def candidates(head: BoxHeadSpec, output: HeadOutput, anchors: Tensor, frame: int = 0) -> Candidates:
    """Returns the boxes of a frame that score enough, in the order of their anchors, before they displace each other.

    Boxes whose code means no finite box are left out.
    """
    scores = torch.sigmoid(output.classes[frame].detach())
    rows = strongest(head.selection, scores.amax(dim=1))
    codes, directions = (each[frame].detach()[rows] for each in (output.boxes, output.directions))
    return decoded(head, rows, scores[rows], codes, directions, anchors[rows])


def strongest(rule: Selection, best: Tensor) -> Tensor:
    """Returns the rows of the anchors that score enough and are among the best, int64, in their order.

    best: float32 `[A]`, each anchor's best score
    """
    # Few of the anchors score enough, and sorting all of them would take longer than the network above.
    rows = torch.nonzero(best >= rule.score).squeeze(1)
    return rows[torch.argsort(best[rows], descending=True, stable=True)[: rule.anchors].sort().values]


def decoded(
    head: BoxHeadSpec, rows: Tensor, scores: Tensor, codes: Tensor, directions: Tensor, anchors: Tensor
) -> Candidates:
    """Returns the boxes of some anchors; those whose code means no finite box are left out.

    rows:       int64 `[N]`, the numbers of the anchors
    scores:     float32 `[N, classes]`, 0..1
    codes:      float32 `[N, 7]`, boxes relative to the anchors
    directions: float32 `[N, 2]`
    anchors:    float32 `[N, 7]`
    """
    boxes = decode_boxes(codes, anchors)
    boxes[:, 6] = directed(boxes[:, 6], directions.argmax(dim=1), head.direction_offset)
    if head.selection.per_class:
        found, classes = torch.nonzero(scores > head.selection.score, as_tuple=True)
    else:
        found, classes = torch.arange(len(rows), device=rows.device), scores.argmax(dim=1)
    boxes = boxes[found]
    finite = torch.isfinite(boxes).all(dim=1)
    return Candidates(boxes, scores[found, classes], classes, rows[found])[finite]


def suppressed(head: BoxHeadSpec, found: Candidates) -> Candidates:
    """Returns the candidates that stay, the best score first; of equal scores the first anchor."""
    rule = head.selection
    boxes, scores, classes = (t.cpu().numpy() for t in (found.boxes, found.scores, found.classes))
    kept = nms(boxes, scores, rule.overlap, classes=classes if rule.per_class else None)[: rule.boxes]
    return found[torch.from_numpy(kept).to(found.scores.device)]


@torch.no_grad()
def detect(net: Second, clouds: Sequence[Tensor]) -> list[Boxes]:
    """Returns the boxes in each cloud of a batch, the best score first.

    clouds: float32 `[N, in_channels]` each, on the network's device: x, y, z in metres and intensity
    """
    output = net(*net.voxels(clouds), len(clouds))
    anchors = anchor_boxes(net.spec.head, net.spec.bev_shape, net.spec.point_range)
    return detections(net.spec.head, output, anchors.to(output.boxes.device))


def detections(head: BoxHeadSpec, output: HeadOutput, anchors: Tensor) -> list[Boxes]:
    """Returns the boxes of every frame of a batch, the best score first, by the head's selection.

    anchors: float32 `[A, 7]`, as `anchor_boxes` gives them
    """
    return [boxes_of(head, candidates(head, output, anchors, frame)) for frame in range(len(output.classes))]


def boxes_of(head: BoxHeadSpec, found: Candidates) -> Boxes:
    """Returns the candidates that stay, as what leaves the network."""
    kept = suppressed(head, found)
    boxes, scores = (t.cpu().numpy().astype(np.float32) for t in (kept.boxes, kept.scores))
    boxes[:, 6] = wrapped(boxes[:, 6])
    return Boxes(boxes, scores, kept.classes.cpu().numpy().astype(np.uint8))
