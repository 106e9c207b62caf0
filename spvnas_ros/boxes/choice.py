"""Which of the boxes that came out of a network are wanted: by score, class, distance, overlap and number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from spvnas_ros.boxes.overlap import nms
from spvnas_ros.errors import UserError
from spvnas_ros.frame import Boxes

ALL: Final = "all"
"""Instead of the names of all classes."""
SURE: Final = 0.3
"""The score from which boxes are shown and published where nobody says otherwise; docs/default_weights.md has how often
those of the shipped network are right from which score on."""
_EXAMPLE: Final = "0.2,car=0.3,person@30=0.4 (persons from 30 m on)"


@dataclass(frozen=True)
class LeastScore:
    """The least score of the boxes of one class from a distance on.

    name:     of the class
    distance: metres from the sensor, seen from above
    score:    0..1
    """

    name: str
    distance: float
    score: float


@dataclass(frozen=True)
class LeastScores:
    """Least scores by class and distance: of a class those of the farthest entry that is not beyond the box.

    others: of boxes that no entry is for, 0..1
    """

    others: float = 0.0
    entries: tuple[LeastScore, ...] = ()

    @classmethod
    def parse(cls, text: str | float) -> LeastScores:
        """Reads one score, `0.3`, and scores of classes, `0.2,car=0.3,person@30=0.4`; "" is none.

        Raises UserError, which says what was found and gives an example.
        """
        others: float | None = None
        entries: dict[tuple[str, float], float] = {}
        for part in str(text).split(",") if str(text).strip() else []:
            left, equals, right = (word.strip() for word in part.rpartition("="))
            score = _number(right, text)
            if not 0 <= score <= 1:
                raise UserError(f"a score must be from 0 to 1, found {right} in {text!r}")
            if not equals:
                if others is not None:
                    raise UserError(f"expected one score for all classes, found {others:g} and {score:g} in {text!r}")
                others = score
                continue
            name, at, metres = (word.strip() for word in left.partition("@"))
            distance = _number(metres, text) if at else 0.0
            if not name or not 0 <= distance < math.inf:
                raise UserError(f"expected scores such as {_EXAMPLE}, found {part.strip()!r} in {text!r}")
            if (name, distance) in entries:
                raise UserError(f"two scores are for {left} in {text!r}, expected one")
            entries[name, distance] = score
        return cls(others or 0.0, tuple(LeastScore(*key, score) for key, score in sorted(entries.items())))

    @property
    def names(self) -> tuple[str, ...]:
        """The classes that have scores of their own."""
        return tuple(dict.fromkeys(each.name for each in self.entries))

    @property
    def lowest(self) -> float:
        """The lowest of all scores that were given, 0 where none was."""
        given = [each.score for each in self.entries] + [self.others] * (self.others > 0)
        return min(given, default=0.0)

    def of(self, found: Boxes, names: Sequence[str]) -> npt.NDArray[np.float64]:
        """Returns the least score for each box, float64 `[B]`. names: of the classes, in index order."""
        scores = np.full(len(found), self.others)
        if not self.entries:
            return scores
        distances = np.hypot(found.boxes[:, 0], found.boxes[:, 1])
        # Sorted by class and distance: what is farther comes later and stays.
        for each in self.entries:
            if each.name in names:
                scores[(found.classes == names.index(each.name)) & (distances >= each.distance)] = each.score
        return scores


@dataclass(frozen=True)
class BoxChoice:
    """What a user wants of the boxes of a frame.

    min_scores:  a box with less is left out
    classes:     names of those that are wanted; None for all
    max_overlap: of two boxes of any class that overlap more (intersection over union, seen from above, 0..1) the one
                 with the lower score is left out; 1 leaves both
    max_count:   the boxes with the highest scores, so many at most; 0 for all

    Raises UserError where no class is wanted.
    """

    min_scores: LeastScores = LeastScores()
    classes: tuple[str, ...] | None = None
    max_overlap: float = 1.0
    max_count: int = 0

    def __post_init__(self) -> None:
        if self.classes == ():
            raise UserError(f"expected names of classes, or {ALL}, found none")

    def __call__(self, found: Boxes, names: Sequence[str], where: npt.NDArray[np.bool_] | None = None) -> Boxes:
        """Returns the boxes that are wanted, the best score first.

        found: in the frame of a sensor at the origin
        names: of the classes, in index order
        where: bool `[B]`, which boxes lie where they are wanted; None for all
        """
        kept = found.scores >= self.min_scores.of(found, names)
        if where is not None:
            kept &= where
        if self.classes is not None:
            kept &= np.isin(found.classes, [index for index, name in enumerate(names) if name in self.classes])
        rows: npt.NDArray[np.integer[Any]] = np.flatnonzero(kept)
        rows = rows[np.argsort(-found.scores[rows], kind="stable")]
        if self.max_overlap < 1 and len(rows) > 1:
            rows = rows[nms(found.boxes[rows], found.scores[rows], self.max_overlap)]
        return found.among(rows[: self.max_count] if self.max_count else rows)


def _number(text: str, whole: str | float) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if math.isnan(number):
        raise UserError(f"expected a score, or scores such as {_EXAMPLE}, found {text!r} in {whole!r}")
    return number
