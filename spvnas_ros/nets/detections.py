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
from spvnas_ros.nets.box_spec import BoxHeadSpec
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
    rule, scores = head.selection, torch.sigmoid(output.classes[frame].detach())
    best = scores.amax(dim=1)
    # Few of the anchors score enough, and sorting all of them would take longer than the network above.
    rows = torch.nonzero(best >= rule.score).squeeze(1)
    rows = rows[torch.argsort(best[rows], descending=True, stable=True)[: rule.anchors].sort().values]
    if rule.per_class:
        found, classes = torch.nonzero(scores[rows] > rule.score, as_tuple=True)
        rows = rows[found]
    else:
        classes = scores[rows].argmax(dim=1)
    boxes = decode_boxes(output.boxes[frame].detach()[rows], anchors[rows])
    turned = output.directions[frame].detach()[rows].argmax(dim=1)
    boxes[:, 6] = directed(boxes[:, 6], turned, head.direction_offset)
    finite = torch.isfinite(boxes).all(dim=1)
    return Candidates(boxes, scores[rows, classes], classes, rows)[finite]


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
    frames = []
    for frame in range(len(output.classes)):
        kept = suppressed(head, candidates(head, output, anchors, frame))
        boxes, scores = (t.cpu().numpy().astype(np.float32) for t in (kept.boxes, kept.scores))
        boxes[:, 6] = wrapped(boxes[:, 6])
        frames.append(Boxes(boxes, scores, kept.classes.cpu().numpy().astype(np.uint8)))
    return frames
