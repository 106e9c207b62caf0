"""What is counted while labels are compared with the truth, scan by scan: confusion by distance, and calibration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from spvnas_ros.frame import UNLABELLED, Points, Segmentation
from spvnas_ros.offline.evaluation.metrics import Confusion, Labels, Score, confusion_matrix, score

DISTANCES: Final = (0.0, 10.0, 20.0, 30.0, 40.0, 50.0)
"""Where the rings of IoU by distance begin, metres from the sensor along the ground; the last one has no end."""

BINS: Final = 15
"""Of confidence, as in Guo et al., "On Calibration of Modern Neural Networks", ICML 2017."""

SURE: Final = 0.8
"""A point with more confidence than this is one that the network is sure of."""


@dataclass(frozen=True)
class Ring:
    """How good labels are in a ring around the sensor.

    begin, end: metres along the ground; `end` is None for the last one
    miou:       over the classes that occur there, None where no point has a truth, or only boxes do
    points:     with a truth
    recall:     mean recall over the classes that occur there, None where no point has a truth
    """

    begin: float
    end: float | None
    miou: float | None
    iou: dict[str, float | None]
    points: int
    recall: float | None = None


@dataclass(frozen=True)
class Bin:
    """Points of one range of confidence: their mean confidence, and the share of them that is right; None for none."""

    points: int
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True)
class Sureness:
    """What becomes of the points that the network is sure of, in shares of 1; None where there are none.

    over:     the confidence from which on it is sure
    points:   share of all points that have a truth and a label
    wrong:    share of these that are wrong
    mistakes: points that are wrong all the same, as a share of all points: confident mistakes
    """

    over: float
    points: float | None
    wrong: float | None
    mistakes: float | None


class Tally:
    """Counts over any number of scans.

    classes:    class names, in index order
    boxes_only: only points in boxes have a truth, see `score`
    """

    def __init__(self, classes: Sequence[str], *, boxes_only: bool = False) -> None:
        self._classes = tuple(classes)
        self._boxes_only = boxes_only
        self._rings = np.zeros((len(DISTANCES), len(classes), len(classes) + 1), np.int64)
        self._counts = np.zeros((3, BINS))
        self._sure = np.zeros(2, np.int64)

    @classmethod
    def joined(cls, parts: Sequence[Tally]) -> Tally:
        """Returns all counts of several tallies of the same classes. Raises ValueError for none."""
        if not parts:
            raise ValueError("found no tallies, expected one at least")
        whole = cls(parts[0]._classes, boxes_only=parts[0]._boxes_only)
        whole._rings = sum((part._rings for part in parts), whole._rings)
        whole._counts = sum((part._counts for part in parts), whole._counts)
        whole._sure = sum((part._sure for part in parts), whole._sure)
        return whole

    @property
    def confusion(self) -> Confusion:
        """Points by truth and prediction, `[C, C + 1]`, at all distances."""
        total: Confusion = self._rings.sum(axis=0)
        return total

    def score(self) -> Score:
        """The scores of all that was counted."""
        return score(self.confusion, self._classes, boxes_only=self._boxes_only)

    def add(self, points: Points, truth: Labels, predicted: Segmentation) -> None:
        """Count a scan: points float32 `[N, 4]`, truth uint8 `[N]`, 255 = none.

        Raises ValueError where they are not as many, or hold a label that is no class.
        """
        ring = np.searchsorted(DISTANCES, np.hypot(points[:, 0], points[:, 1]), "right") - 1
        for index in range(len(DISTANCES)):
            inside = ring == index
            self._rings[index] += confusion_matrix(truth[inside], predicted.labels[inside], len(self._classes))
        known = (truth != UNLABELLED) & (predicted.labels != UNLABELLED)
        confidence = predicted.confidence[known].astype(np.float64)
        right = (predicted.labels == truth)[known].astype(np.float64)
        # Ranges are open below and closed above, as in the paper.
        where = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
        for row, weights in enumerate((np.ones(len(where)), confidence, right)):
            self._counts[row] += np.bincount(where, weights, BINS)
        sure = predicted.confidence[known] > np.float32(SURE)
        self._sure += (int(sure.sum()), int((sure & (right == 0)).sum()))

    def rings(self) -> tuple[Ring, ...]:
        """IoU by distance, from near to far."""
        ends = (*DISTANCES[1:], None)
        found = (score(confusion, self._classes, boxes_only=self._boxes_only) for confusion in self._rings)
        return tuple(
            Ring(begin, end, ring.miou, ring.iou, int(sum(ring.truth_points.values())), ring.mean_recall)
            for begin, end, ring in zip(DISTANCES, ends, found, strict=True)
        )

    def reliability(self) -> tuple[Bin, ...]:
        """Confidence beside accuracy, from low confidence to high; None where there are no points."""
        return tuple(
            Bin(int(n), float(c / n), float(a / n)) if n else Bin(0, None, None)
            for n, c, a in zip(*self._counts, strict=True)
        )

    def calibration_error(self) -> float | None:
        """Expected calibration error (Guo et al., equation 3), 0..1; None without points."""
        points, confidence, right = self._counts
        if not points.sum():
            return None
        return float(np.abs(confidence - right).sum() / points.sum())

    def sureness(self) -> Sureness:
        """What becomes of the points that the network is sure of."""
        points, (sure, wrong) = float(self._counts[0].sum()), self._sure.tolist()
        return Sureness(
            SURE, sure / points if points else None, wrong / sure if sure else None, wrong / points if points else None
        )


def averaged(parts: Sequence[npt.NDArray[np.float32]]) -> Segmentation:
    """Probabilities float32 `[N, C]` of several views of one scan, averaged; rows of zeros are unlabelled.

    Raises ValueError where there are none.
    """
    if not len(parts):
        raise ValueError("found no probabilities to average, expected those of one view at least")
    mean: npt.NDArray[np.float64] = np.mean(parts, axis=0, dtype=np.float64)
    labels = mean.argmax(axis=1).astype(np.uint8) if mean.size else np.zeros(len(mean), np.uint8)
    confidence = mean.max(axis=1, initial=0).astype(np.float32)
    labels[confidence == 0] = UNLABELLED
    scores: npt.NDArray[np.float32] = mean.astype(np.float32)
    return Segmentation(labels, confidence, scores)
