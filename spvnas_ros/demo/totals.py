"""Counts labelled clouds as they come, and compares them with the truth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from spvnas_ros.clouds.intensity import Intensity
from spvnas_ros.clouds.point_cloud2 import LABEL_FIELD, PointCloudError, decode, to_points
from spvnas_ros.demo.objects_score import ObjectTally
from spvnas_ros.frame import UNLABELLED, Boxes, Points
from spvnas_ros.offline.evaluation.metrics import Score, confusion_matrix, score
from spvnas_ros.segment.picture import PicturedBoxes, save_picture

if TYPE_CHECKING:
    from spvnas_ros.offline.evaluation.truth import Truth
    from spvnas_ros.recordings.bags import RecordedCloud
    from spvnas_ros.recordings.box_bags import RecordedBoxes
    from spvnas_ros.zoo.checkpoint import Facts

Labels = npt.NDArray[np.uint8]


class Tally:
    """Counts and keeps what the summary and the pictures need.

    facts: the facts of the network that labels
    truth: the truth to compare the labels with; None where there is none
    rule:  the intensity rule, the same as the node's
    objects: counts the boxes; None where the network finds none

    Attributes:
        bad: clouds that cannot be labelled, by kind
        ms:  milliseconds of each cloud, from publishing it to having its labels
    """

    def __init__(self, facts: Facts, truth: Truth | None, rule: str, objects: ObjectTally | None = None) -> None:
        self.objects = objects
        self._numbers: list[int] = []
        self.bad: Counter[str] = Counter()
        self.ms: list[float] = []
        self._facts, self._truth, self._rule = facts, truth, rule
        self._points = np.zeros(256, np.int64)
        self._confusion = np.zeros((facts.num_classes, facts.num_classes + 1), np.int64)
        self._first: tuple[Points, Labels, Labels | None] | None = None

    def readable(self, clouds: Iterable[RecordedCloud]) -> Iterator[RecordedCloud]:
        """Yields the clouds that can be labelled, and counts the others in `bad`.

        Raises BagError where a bag is damaged.
        """
        for number, recorded in enumerate(clouds):
            try:
                to_points(decode(recorded.decode()), Intensity())
            except PointCloudError as error:
                self.bad[error.kind] += 1
                continue
            self._numbers.append(number)
            yield recorded

    def count(self, recorded: RecordedCloud, labelled: RecordedCloud, ms: float) -> None:
        """Counts a cloud, given as it was recorded and as the node labelled it.

        Raises LabelFieldError where the truth of the cloud cannot be read.
        """
        array = decode(labelled.decode())
        labels = array[LABEL_FIELD]
        truth = self._truth.read(f"{len(self.ms):06d}", decode(recorded.decode())) if self._truth else None
        self.ms.append(ms)
        self._points += np.bincount(labels, minlength=256)
        if truth is not None:
            self._confusion += confusion_matrix(truth, labels, self._facts.num_classes)
        if self._first is None:
            self._first = to_points(array, Intensity(self._rule)), labels, truth

    def count_boxes(self, recorded: RecordedCloud, found: RecordedBoxes) -> RecordedBoxes | None:
        """Counts the boxes of the cloud that `readable` yielded last. Returns the true ones; None without any.

        Raises what reading the true boxes raises.
        """
        return self.objects.count(self._numbers[-1], recorded, found) if self.objects else None

    def classes(self) -> dict[str, int]:
        """Returns the number of points by class name, the most frequent class first."""
        names = {**dict(enumerate(self._facts.classes)), UNLABELLED: "unlabelled"}
        order = np.argsort(-self._points, kind="stable").tolist()
        return {names[index]: int(self._points[index]) for index in order if self._points[index]}

    def score(self) -> Score | None:
        """Returns the score against the truth, or None where there is no truth."""
        return score(self._confusion, self._facts.classes) if self._truth else None

    def save_pictures(self, name: str, network: Path, truth: Path) -> list[Path]:
        """Draws the first cloud with the network's labels and, where the truth is known, also with the true labels.

        Returns the files that were written.
        """
        if self._first is None:
            return []
        points, labels, right = self._first
        found, there = (self.objects and self.objects.first()) or (None, None)
        boxes, true_boxes = self._pictured(found), self._pictured(there)
        save_picture(network, points, labels, self._facts, f"{name}: the network", boxes=boxes)
        if right is None:
            return [network]
        save_picture(truth, points, right, self._facts, f"{name}: the truth", boxes=true_boxes)
        return [network, truth]

    def _pictured(self, boxes: Boxes | None) -> PicturedBoxes | None:
        if boxes is None or self.objects is None:
            return None
        return PicturedBoxes(boxes, self.objects.names, self._facts.trained)
