"""Average precision of boxes all around a vehicle: by distance of the centres, as nuScenes has it, or by overlap; over
all distances and in rings around the sensor.

The facts, from the benchmark's own tool (nuscenes-devkit, eval/detection/algo.py):

* Detections of all frames, the surest first, each take the nearest free object of their class in their frame, where the
  centres, seen from above, are less than 0.5, 1, 2 or 4 m apart. Size and heading do not matter.
* Precision is interpolated at the recalls 0, 0.01, .., 1; 0 above the highest that is reached.
* AP is the mean over the recalls above 0.1 of what the precision exceeds 0.1 by, over 0.9.

The tool takes the last of equal scores first; here it is the first. It leaves out what is far away before it matches,
so at the border a detection is wrong whose object lies beyond. Here all is matched first: an object belongs to the ring
in which it lies and so does the detection that finds it; a wrong detection belongs to the ring in which it is itself.

Here one object reaches every recall, so a figure over few objects looks like any other: `Ap.objects` says how many.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from spvnas_ros.boxes.overlap import bev_overlap, overlap_3d
from spvnas_ros.frame import Boxes

_Doubles = npt.NDArray[np.float64]
_Mask = npt.NDArray[np.bool_]

FEW: Final = 41
"""Fewer objects make a figure that one of them changes by more than two percent."""


@dataclass(frozen=True)
class Criterion:
    """When a detection finds an object.

    kind:  `distance` of the centres seen from above, less than `limit` metres; or intersection over union, more than
           `limit`: `bev` seen from above, `3d` in space
    """

    kind: Literal["distance", "bev", "3d"]
    limit: float

    def __str__(self) -> str:
        return f"{self.limit:g} m" if self.kind == "distance" else f"{self.kind} {self.limit:g}"


@dataclass(frozen=True)
class ApConfig:
    """What is evaluated.

    criteria:      each gives a figure
    rings:         edges in metres from the sensor, seen from above; the last ring is open. All distances come first
    min_recall, min_precision: AP is what lies above both
    """

    criteria: tuple[Criterion, ...]
    rings: tuple[float, ...] = (0.0, 20.0, 40.0)
    min_recall: float = 0.1
    min_precision: float = 0.1


NUSCENES: Final = ApConfig(tuple(Criterion("distance", limit) for limit in (0.5, 1.0, 2.0, 4.0)))
"""nuScenes' four distances."""


@dataclass(frozen=True)
class BoxFrame:
    """A frame: what is there and what was found, in one frame with the sensor at its origin and z up.

    truth:   the objects; their scores do not matter
    found:   the detections
    ignored: bool `[N]`, objects whose finding is neither right nor wrong; none where None
    excused: bool `[M]`, detections that are not wrong where they find nothing; none where None
    """

    name: str
    truth: Boxes
    found: Boxes
    ignored: _Mask | None = None
    excused: _Mask | None = None


@dataclass(frozen=True)
class Ap:
    """A figure.

    kind:       of the objects
    criterion:  such as `2 m`
    begin, end: of the ring, metres; end None where it is open
    ap:         in percent; None where there is no object
    objects:    in the ring; of fewer than `FEW` one changes much
    detections: right and wrong ones in the ring
    recall:     share of the objects that are found, 0..1; None where there is no object
    precision:  at the recalls 0, 0.01, .., 1
    """

    kind: str
    criterion: str
    begin: float
    end: float | None
    ap: float | None
    objects: int
    detections: int
    recall: float | None
    precision: tuple[float, ...]


@dataclass(frozen=True)
class _Found:
    """Detections of a class in all frames: score, whether it is right, and the distance that says in which ring."""

    scores: _Doubles
    right: _Mask
    distances: _Doubles


def average_precisions(
    frames: Sequence[BoxFrame], classes: Sequence[str], config: ApConfig = NUSCENES
) -> tuple[Ap, ...]:
    """Returns a figure for each class, criterion and ring, all distances before the rings.

    classes: the name of each class index. Raises ValueError where a frame has another one.
    """
    for frame in frames:
        for boxes in (frame.truth, frame.found):
            if (boxes.classes >= len(classes)).any():
                raise ValueError(
                    f"frame {frame.name} has the class {boxes.classes.max()}, expected 0..{len(classes) - 1}"
                )
    return tuple(_figures(frames, classes, config))


def _figures(frames: Sequence[BoxFrame], classes: Sequence[str], config: ApConfig) -> Iterator[Ap]:
    edges = [*config.rings, None]
    rings = [(0.0, None), *pairwise(edges)] if len(config.rings) > 1 else [(0.0, None)]
    for index, kind in enumerate(classes):
        there = [_counted(frame, index) for frame in frames]
        objects = np.concatenate(
            [np.zeros(0), *(_distances(f.truth.boxes[c]) for f, c in zip(frames, there, strict=True))]
        )
        for criterion in config.criteria:
            parts = [_match(frame, index, criterion) for frame in frames]
            found = _Found(
                np.concatenate([np.zeros(0), *(part.scores for part in parts)]),
                np.concatenate([np.zeros(0, np.bool_), *(part.right for part in parts)]),
                np.concatenate([np.zeros(0), *(part.distances for part in parts)]),
            )
            for begin, end in rings:
                within = _within(found.distances, begin, end)
                count = int(_within(objects, begin, end).sum())
                yield _figure(
                    kind, criterion, begin or 0.0, end, found.scores[within], found.right[within], count, config
                )


def _figure(
    kind: str,
    criterion: Criterion,
    begin: float,
    end: float | None,
    scores: _Doubles,
    right: _Mask,
    objects: int,
    config: ApConfig,
) -> Ap:
    positions = np.linspace(0, 1, 101)
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(right[order])
    precision = np.zeros(len(positions))
    if objects and len(hits) and hits[-1]:
        precision = np.interp(positions, hits / objects, hits / np.arange(1, len(hits) + 1), right=0)
    above = precision[round(100 * config.min_recall) + 1 :] - config.min_precision
    ap = 100 * float(np.maximum(above, 0).mean() / (1 - config.min_precision))
    recall = float(right.sum() / objects) if objects else None
    return Ap(
        kind,
        str(criterion),
        begin,
        end,
        ap if objects else None,
        objects,
        len(scores),
        recall,
        tuple(precision.tolist()),
    )


def _match(frame: BoxFrame, index: int, criterion: Criterion) -> _Found:
    """Returns what the detections of one class in one frame are, without those that are neither right nor wrong."""
    mine = np.flatnonzero(frame.found.classes == index)
    mine = mine[np.argsort(-frame.found.scores[mine].astype(np.float64), kind="stable")]
    counted = _counted(frame, index)
    ignored = (frame.truth.classes == index) & ~counted
    found = frame.found.boxes[mine].astype(np.float64)
    objects = frame.truth.boxes[counted].astype(np.float64)
    misses, limit = _misses(found, objects, criterion)
    near_ignored = (
        _misses(found, frame.truth.boxes[ignored].astype(np.float64), criterion)[0].min(1, initial=np.inf) < limit
    )
    free = np.ones(len(objects), np.bool_)
    keep, right = np.ones(len(mine), np.bool_), np.zeros(len(mine), np.bool_)
    distances, object_distances = _distances(found), _distances(objects)
    for row in range(len(mine)):
        candidates = np.where(free, misses[row], np.inf)
        best = int(candidates.argmin()) if len(candidates) else -1
        if best >= 0 and candidates[best] < limit:
            free[best], right[row], distances[row] = False, True, object_distances[best]
        elif near_ignored[row] or (frame.excused is not None and frame.excused[mine[row]]):
            keep[row] = False
    return _Found(frame.found.scores[mine].astype(np.float64)[keep], right[keep], distances[keep])


def _misses(found: _Doubles, objects: _Doubles, criterion: Criterion) -> tuple[_Doubles, float]:
    """Returns how far each detection misses each object, `[M, N]`, and below which number it does not."""
    if criterion.kind == "distance":
        return np.linalg.norm(found[:, None, :2] - objects[None, :, :2], axis=2), criterion.limit
    return -(bev_overlap if criterion.kind == "bev" else overlap_3d)(found, objects), -criterion.limit


def _counted(frame: BoxFrame, index: int) -> _Mask:
    of_class: _Mask = frame.truth.classes == index
    return of_class if frame.ignored is None else of_class & ~frame.ignored


def _distances(boxes: npt.NDArray[np.floating[Any]]) -> _Doubles:
    return np.hypot(boxes[:, 0].astype(np.float64), boxes[:, 1].astype(np.float64))


def _within(distances: _Doubles, begin: float | None, end: float | None) -> _Mask:
    inside: _Mask = (distances >= (begin or 0.0)) & (distances < (np.inf if end is None else end))
    return inside
