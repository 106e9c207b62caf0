"""KITTI's average precision of boxes, from the rules in README.md."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spvnas_ros.boxes.overlap import bev_overlap, overlap_3d
from spvnas_ros.offline.evaluation.kitti.curves import Curve, Figure, KittiFrame
from spvnas_ros.offline.evaluation.kitti.kitti_config import OFFICIAL, ClassRule, Difficulty, KittiConfig
from spvnas_ros.offline.evaluation.kitti.matching import ABSENT, COUNTS, IGNORED, right_and_wrong, scores_of_found
from spvnas_ros.recordings.kitti_objects import DONT_CARE, NO_ANGLE, KittiObjects

_Doubles = npt.NDArray[np.float64]
_States = npt.NDArray[np.int64]


@dataclass(frozen=True)
class _Side:
    """The objects, or the detections, of all frames in one row. kinds are lower case; starts: int64 `[F + 1]`."""

    starts: npt.NDArray[np.int64]
    kinds: npt.NDArray[np.str_]
    heights: _Doubles
    occlusion: npt.NDArray[np.int64]
    truncation: _Doubles
    scores: _Doubles

    @classmethod
    def of(cls, frames: Sequence[KittiObjects]) -> _Side:
        rectangles = np.concatenate([np.zeros((0, 4)), *(each.rectangles for each in frames)])
        return cls(
            np.cumsum([0, *map(len, frames)]),
            np.array([kind.lower() for each in frames for kind in each.kinds], np.str_),
            rectangles[:, 3] - rectangles[:, 1],
            np.concatenate([np.zeros(0, np.int64), *(each.occlusion for each in frames)]),
            np.concatenate([np.zeros(0), *(each.truncation for each in frames)]),
            np.concatenate([np.zeros(0), *(each.scores for each in frames)]),
        )


@dataclass(frozen=True)
class _Overlaps:
    """The overlaps of one metric, as `matching` has them; by_region: the largest share of each detection that lies in a
    region without labels.
    """

    values: _Doubles
    by_region: _Doubles


def evaluate_kitti(frames: Sequence[KittiFrame], config: KittiConfig = OFFICIAL) -> tuple[Figure, ...]:
    """Returns a figure for each class, metric of `METRICS` and difficulty, in this order.

    A class without any detection has no curve, nor has `aos` where the alpha of any detection is not known, or a metric
    in space where no detection of the class has a box.
    """
    return tuple(_figures(frames, config))


def _figures(frames: Sequence[KittiFrame], config: KittiConfig) -> Iterator[Figure]:
    truth, found = _Side.of([frame.truth for frame in frames]), _Side.of([frame.found for frame in frames])
    starts = np.cumsum([0, *(len(frame.truth) * len(frame.found) for frame in frames)])
    overlaps = {metric: _overlaps(frames, metric) for metric in ("bbox", "bev", "3d")}
    turned = _flat([_turned(frame) for frame in frames])
    has_box = np.concatenate([np.zeros(0, np.bool_), *(frame.found.has_box for frame in frames)])
    angles_known = all((frame.found.alpha != NO_ANGLE).all() for frame in frames)
    for rule in config.classes:
        of_class = found.kinds == rule.name.lower()
        curves = {}
        for metric in overlaps:
            for difficulty in config.difficulties:
                states = _objects(truth, rule, difficulty), _detections(found, rule, difficulty)
                curves[metric, difficulty] = _curves(
                    truth, found, starts, states, overlaps[metric], turned, rule.overlap, config.positions
                )
        for metric in ("bbox", "aos", "bev", "3d"):
            reason = ""
            if not of_class.any():
                reason = f"no detection of the class {rule.name}"
            elif metric == "aos" and not angles_known:
                reason = "a detection without alpha (-10)"
            elif metric in ("bev", "3d") and not has_box[of_class].any():
                reason = f"no detection of the class {rule.name} has a box in space"
            for difficulty in config.difficulties:
                precision, similarity = curves["bbox" if metric == "aos" else metric, difficulty]
                curve = similarity if metric == "aos" else precision
                yield Figure(rule.name, metric, difficulty.name, None if reason else curve, reason)


def _objects(truth: _Side, rule: ClassRule, difficulty: Difficulty) -> _States:
    """Returns the states of the objects: another class is absent, a neighbour or one too hard is ignored."""
    hard = (
        (truth.occlusion > difficulty.max_occlusion)
        | (truth.truncation > difficulty.max_truncation)
        | (truth.heights <= difficulty.min_height)
    )
    states = np.full(len(truth.kinds), ABSENT, np.int64)
    if rule.neighbour is not None:
        states[truth.kinds == rule.neighbour.lower()] = IGNORED
    same = truth.kinds == rule.name.lower()
    states[same] = np.where(hard[same], IGNORED, COUNTS)
    return states


def _detections(found: _Side, rule: ClassRule, difficulty: Difficulty) -> _States:
    """Returns the states of the detections: a low one is ignored before its class is looked at."""
    states = np.where(found.kinds == rule.name.lower(), COUNTS, ABSENT).astype(np.int64)
    states[np.trunc(found.heights) < difficulty.min_height] = IGNORED
    return states


def _curves(
    truth: _Side,
    found: _Side,
    starts: npt.NDArray[np.int64],
    states: tuple[_States, _States],
    overlaps: _Overlaps,
    turned: _Doubles,
    least: float,
    positions: int,
) -> tuple[Curve, Curve]:
    """Returns the curves of precision and of orientation similarity."""
    objects, detections = states
    given = (truth.starts, found.starts, starts, objects, detections, found.scores, overlaps.values, least)
    scores = np.empty(len(objects))
    scores = scores[: scores_of_found(*given, scores)]
    count = int((objects == COUNTS).sum())
    chosen = thresholds(scores, count, positions)
    right, wrong, similarity = (np.zeros(len(chosen), kind) for kind in (np.int64, np.int64, np.float64))
    right_and_wrong(*given, turned, overlaps.by_region > least, chosen, right, wrong, similarity)
    curves = []
    for value in (right, similarity):
        precision = np.zeros(positions)
        precision[: len(chosen)] = value / np.maximum(right + wrong, 1)
        # The best that can be had at this recall or a higher one.
        best = np.maximum.accumulate(precision[::-1])[::-1]
        perfect = thresholds(np.zeros(count), count, positions)
        counted = int((detections == COUNTS).sum())
        curves.append(Curve(tuple(best.tolist()), tuple(chosen.tolist()), count, counted, len(perfect)))
    return curves[0], curves[1]


def thresholds(scores: _Doubles, objects: int, positions: int = 41) -> _Doubles:
    """Returns the scores at which the precision is taken, from high to low, at most `positions`.

    scores:  float64 `[found]`, of the detections that find one of the `objects` each

    The recalls 0, 1/40, .. are gone through; each gets the score where the recall is nearest to it, from above or from
    below. So with few objects each score serves one position only, and the last positions get none.
    """
    ordered = np.sort(scores)[::-1]
    chosen, wanted = [], 0.0
    for index, score in enumerate(ordered):
        last = index == len(ordered) - 1
        here, there = (index + 1) / objects, (index + (1 if last else 2)) / objects
        if there - wanted < wanted - here and not last:
            continue
        chosen.append(score)
        wanted += 1 / (positions - 1)
    return np.array(chosen[:positions], np.float64)


def share_unlabelled(frame: KittiFrame) -> _Doubles:
    """Returns how much of each detection's rectangle lies in a `DontCare` region, 0..1, float64 `[N]`."""
    unlabelled = np.array([kind.lower() == DONT_CARE.lower() for kind in frame.truth.kinds], np.bool_)
    inside = _rectangle_overlap(frame.found.rectangles, frame.truth.rectangles[unlabelled], over_first=True)
    share: _Doubles = inside.max(1, initial=0)
    return share


def _overlaps(frames: Sequence[KittiFrame], metric: str) -> _Overlaps:
    values, regions = [], [np.zeros(0)]
    for frame in frames:
        truth, found = frame.truth, frame.found
        if metric == "bbox":
            values.append(_rectangle_overlap(truth.rectangles, found.rectangles))
            regions.append(share_unlabelled(frame))
        else:
            overlap = bev_overlap if metric == "bev" else overlap_3d
            values.append(overlap(_level(truth), _level(found)))
            regions.append(np.zeros(len(found)))
    return _Overlaps(_flat(values), np.concatenate(regions))


def _level(objects: KittiObjects) -> _Doubles:
    """Returns boxes as ours are, in a frame with x to the camera's right, y ahead and z up."""
    x, y, z, length, height, width, turn = objects.camera.T
    return np.column_stack((x, z, height / 2 - y, length, width, height, -turn))


def _rectangle_overlap(a: _Doubles, b: _Doubles, *, over_first: bool = False) -> _Doubles:
    """Returns the intersection over union, or over the first's area, of rectangles `[N, 4]` and `[M, 4]`."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.prod(np.maximum(high - low, 0), axis=2)
    first, second = (np.prod(each[:, 2:] - each[:, :2], axis=1) for each in (a, b))
    whole = np.broadcast_to(first[:, None], shared.shape) if over_first else first[:, None] + second[None] - shared
    ratio: _Doubles = np.divide(shared, whole, out=np.zeros_like(shared), where=whole > 0)
    return ratio


def _turned(frame: KittiFrame) -> _Doubles:
    difference = frame.truth.alpha[:, None] - frame.found.alpha[None]
    similarity: _Doubles = (1 + np.cos(difference)) / 2
    return similarity


def _flat(parts: Sequence[_Doubles]) -> _Doubles:
    return np.concatenate([np.zeros(0), *(part.ravel() for part in parts)])
