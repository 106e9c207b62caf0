"""Counts the objects that the node publishes, and compares them with the true ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spvnas_ros.boxes.choice import SURE
from spvnas_ros.boxes.words import words_for
from spvnas_ros.clouds.intensity import Intensity
from spvnas_ros.clouds.point_cloud2 import decode, to_points
from spvnas_ros.frame import Boxes
from spvnas_ros.nets.box_spec import BoxBranchSpec
from spvnas_ros.offline.evaluation.box_ap import FEW, BoxFrame, average_precisions
from spvnas_ros.recordings.bags import RecordedCloud
from spvnas_ros.recordings.box_bags import RecordedBoxes
from spvnas_ros.recordings.scans import Cloud, Frame
from spvnas_ros.viewer.box_sources import BoxSource
from spvnas_ros.viewer.view_boxes import ViewBoxes


@dataclass(frozen=True)
class ObjectScore:
    """How good the boxes of a class are.

    found:   how many score `SURE` or more
    objects: how many there are in the range of the network; None where nobody knows
    ap:      average precision in percent, the mean over nuScenes' distances of the centres; None without objects
    """

    found: int
    objects: int | None = None
    ap: float | None = None

    @property
    def few(self) -> bool:
        """Whether one object changes the figure by more than two percent."""
        return self.objects is not None and 0 < self.objects < FEW


class ObjectTally:
    """Keeps the boxes of a drive.

    spec: of the network's box branch
    true: gives the true boxes of a cloud; None where nobody knows them
    """

    def __init__(self, spec: BoxBranchSpec, true: BoxSource | None) -> None:
        self.names = spec.head.names
        self._range, self._true = spec.point_range, true
        self._frames: list[BoxFrame] = []
        self._words = {word: index for index, name in enumerate(self.names) for word in words_for(name)}

    def count(self, number: int, recorded: RecordedCloud, found: RecordedBoxes) -> RecordedBoxes | None:
        """Counts the boxes of a cloud, number `number` of its recording. Returns the true ones; None without any.

        Raises what reading the true boxes raises.
        """
        true = self._read(number, recorded)
        places = ViewBoxes(found.names, found.boxes, found.scores)
        there = Boxes.none() if true is None else self._within(self._boxes(true))
        self._frames.append(BoxFrame(f"{number:06d}", there, self._boxes(places)))
        if true is None:
            return None
        return RecordedBoxes(found.stamp, found.frame_id, true.kinds, true.boxes, true.scores)

    def first(self) -> tuple[Boxes, Boxes | None] | None:
        """Returns the boxes of the first cloud, and the true ones of the network's classes, in its range."""
        if not self._frames:
            return None
        return self._frames[0].found, self._frames[0].truth if self._true else None

    def scores(self) -> dict[str, ObjectScore]:
        """Returns how good the boxes are, by the name of the class."""
        every = np.concatenate([
            np.zeros(0, np.uint8), *(each.found.classes[each.found.scores >= SURE] for each in self._frames)
        ])  # fmt: skip
        found = np.bincount(every, minlength=len(self.names)).tolist()
        if self._true is None:
            return {name: ObjectScore(count) for name, count in zip(self.names, found, strict=True)}
        figures = average_precisions(self._frames, self.names)
        scores = {}
        for name, count in zip(self.names, found, strict=True):
            whole = [each for each in figures if each.kind == name and not each.begin and each.end is None]
            known = [each.ap for each in whole if each.ap is not None]
            scores[name] = ObjectScore(count, whole[0].objects, float(np.mean(known)) if known else None)
        return scores

    def _read(self, number: int, recorded: RecordedCloud) -> ViewBoxes | None:
        if self._true is None:
            return None
        message = recorded.decode()
        record = decode(message)
        cloud = Cloud(to_points(record, Intensity("none")), record, message)
        return self._true(number, Frame(f"{number:06d}", lambda: cloud, recorded.stamp), cloud)

    def _boxes(self, boxes: ViewBoxes) -> Boxes:
        """Returns those of the network's classes."""
        classes = np.array([self._words.get(kind.lower(), -1) for kind in boxes.kinds], np.int64)
        kept = classes >= 0
        rows, scores = boxes.boxes[kept].astype(np.float32), boxes.scores[kept].astype(np.float32)
        return Boxes(rows, scores, classes[kept].astype(np.uint8))

    def _within(self, boxes: Boxes) -> Boxes:
        """Returns those whose middle is in the network's range, seen from above."""
        low, high = np.array(self._range[:2]), np.array(self._range[3:5])
        middles = boxes.boxes[:, :2]
        return boxes.among(np.flatnonzero(((middles >= low) & (middles <= high)).all(axis=1)))


def object_lines(scores: dict[str, ObjectScore], *, trained: bool) -> Sequence[str]:
    """Returns the lines of a table of the classes."""
    known = any(each.objects is not None for each in scores.values())
    lines = [f"{'class':<14}{'found':>12}" + (f"{'in the truth':>14}{'AP':>8}" if known else "")]
    for name, each in scores.items():
        line = f"{name:<14}{each.found:>12,}"
        if each.objects is not None:
            line += f"{each.objects or 'absent':>14}" + ("       -" if each.ap is None else f"{each.ap / 100:>8.1%}")
        lines.append(line)
    if few := [name for name, each in scores.items() if each.few]:
        lines.append(f"few objects, each of which changes a figure by more than two percent: {', '.join(few)}")
    if not trained:
        lines.append("The network is not trained: its boxes mean nothing.")
    return lines
