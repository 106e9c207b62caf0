"""Labelled clouds, counted and compared with the truth as they come."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from spvnas_ros.clouds.point_cloud2 import LABEL_FIELD, Intensity, PointCloudError, decode, to_points
from spvnas_ros.frame import UNLABELLED, Points
from spvnas_ros.offline.evaluation.metrics import Score, confusion_matrix, score
from spvnas_ros.segment.picture import save_picture

if TYPE_CHECKING:
    from spvnas_ros.offline.evaluation.truth import Truth
    from spvnas_ros.recordings.bags import RecordedCloud
    from spvnas_ros.zoo.checkpoint import Facts

Labels = npt.NDArray[np.uint8]


class Tally:
    """Counts and keeps what the summary and the pictures need.

    facts: of the network that labels
    truth: what its labels are compared with, if anything
    rule:  of the intensities, as the node has it

    Attributes:
        bad: clouds that cannot be labelled, by kind
        ms:  from publishing each cloud to having its labels
    """

    def __init__(self, facts: Facts, truth: Truth | None, rule: str) -> None:
        self.bad: Counter[str] = Counter()
        self.ms: list[float] = []
        self._facts, self._truth, self._rule = facts, truth, rule
        self._points = np.zeros(256, np.int64)
        self._confusion = np.zeros((facts.num_classes, facts.num_classes + 1), np.int64)
        self._first: tuple[Points, Labels, Labels | None] | None = None

    def readable(self, clouds: Iterable[RecordedCloud]) -> Iterator[RecordedCloud]:
        """Those that can be labelled; the others are counted. Raises BagError where a bag is damaged."""
        for recorded in clouds:
            try:
                to_points(decode(recorded.decode()), Intensity())
            except PointCloudError as error:
                self.bad[error.kind] += 1
                continue
            yield recorded

    def count(self, recorded: RecordedCloud, labelled: RecordedCloud, ms: float) -> None:
        """A cloud as it was recorded, and as it came back. Raises LabelFieldError where its truth cannot be read."""
        array = decode(labelled.decode())
        labels = array[LABEL_FIELD]
        truth = self._truth.read(len(self.ms), recorded.decode()) if self._truth else None
        self.ms.append(ms)
        self._points += np.bincount(labels, minlength=256)
        if truth is not None:
            self._confusion += confusion_matrix(truth, labels, self._facts.num_classes)
        if self._first is None:
            self._first = to_points(array, Intensity(self._rule)), labels, truth

    def classes(self) -> dict[str, int]:
        """Points by the name of their class, the most frequent first."""
        names = {**dict(enumerate(self._facts.classes)), UNLABELLED: "unlabelled"}
        order = np.argsort(-self._points, kind="stable").tolist()
        return {names[index]: int(self._points[index]) for index in order if self._points[index]}

    def score(self) -> Score | None:
        """Against the truth, if there is one."""
        return score(self._confusion, self._facts.classes) if self._truth else None

    def save_pictures(self, name: str, network: Path, truth: Path) -> list[Path]:
        """Draw the first cloud as the network labelled it and, where that is known, as it should be."""
        if self._first is None:
            return []
        points, labels, right = self._first
        save_picture(network, points, labels, self._facts, f"{name}: the network")
        if right is None:
            return [network]
        save_picture(truth, points, right, self._facts, f"{name}: the truth")
        return [network, truth]
