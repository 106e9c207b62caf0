"""Boxes around the objects of a frame: which are shown, in which colours, and as which lines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from spvnas_ros.boxes.choice import SURE
from spvnas_ros.boxes.conversions import CORNERS, box_corners, moved
from spvnas_ros.boxes.inside import counts_inside
from spvnas_ros.boxes.words import words_for
from spvnas_ros.frame import Boxes
from spvnas_ros.palettes import Colour

Lines = npt.NDArray[np.float32]
"""Float32 `[N, S, 2, 3]`: begin and end of each of the lines of each box, metres."""

TRUE_COLOUR: Final[Colour] = (0, 255, 160)
"""Of true boxes, whatever their class: no class of points has it."""
FIRST_SCORE: Final = SURE
"""The least score of a box at the start: networks offer many that they hardly believe in."""

_EDGES: Final = [(a, b) for a in range(8) for b in range(a) if np.abs(CORNERS[a] - CORNERS[b]).sum() == 1]
_FRONT_CROSS: Final = ((0, 3), (1, 2))
"""The corners that the diagonals of the front join."""
_TIP, _BARB = 0.75, 0.2
"""Of the arrow on the roof: metres ahead of the front, and the share of the width that its head takes to each side."""
_DASHES: Final = 5


@dataclass(frozen=True)
class ViewBoxes:
    """The objects of a frame.

    kinds:  class of each
    boxes:  float64 `[B, 7]`, as in `spvnas_ros.frame.Boxes`
    scores: float64 `[B]`, 1 for true boxes
    """

    kinds: tuple[str, ...]
    boxes: npt.NDArray[np.float64]
    scores: npt.NDArray[np.float64]

    @classmethod
    def of(cls, boxes: Boxes, names: Sequence[str]) -> ViewBoxes:
        """Returns the boxes of a network whose classes have these names."""
        kinds = tuple(names[index] for index in boxes.classes.tolist())
        return cls(kinds, boxes.boxes.astype(np.float64), boxes.scores.astype(np.float64))

    @classmethod
    def true(cls, kinds: Sequence[str], boxes: npt.NDArray[np.floating[Any]]) -> ViewBoxes:
        """Returns true boxes `[B, 7]`."""
        return cls(tuple(kinds), boxes.astype(np.float64).reshape(-1, 7), np.ones(len(kinds)))

    def __len__(self) -> int:
        return len(self.kinds)

    def among(self, which: npt.NDArray[np.bool_]) -> ViewBoxes:
        """Returns those that a mask, bool `[B]`, selects."""
        kinds = tuple(kind for kind, kept in zip(self.kinds, which.tolist(), strict=True) if kept)
        return ViewBoxes(kinds, self.boxes[which], self.scores[which])

    def within(self, limit: float) -> ViewBoxes:
        """Returns those of which every number is below a limit, metres."""
        return self.among(np.asarray((np.abs(self.boxes) < limit).all(axis=1), np.bool_))

    def moved(self, transform: npt.NDArray[np.float64]) -> ViewBoxes:
        """Returns them in another frame; `transform` is `[4, 4]`, from theirs to it. They stay upright."""
        return ViewBoxes(self.kinds, moved(self.boxes, transform), self.scores)


@dataclass(frozen=True)
class BoxSwitches:
    """Which boxes are shown.

    found, true: whether those that were found, and the true ones, are
    score:       the least score of a box that was found
    hidden:      classes that are not shown, as `row_of` has them
    """

    found: bool = True
    true: bool = True
    score: float = FIRST_SCORE
    hidden: frozenset[str] = field(default_factory=frozenset)


@dataclass(frozen=True)
class BoxCount:
    """How many boxes a class has in a frame: found ones that are sure enough, all found ones, and true ones."""

    shown: int = 0
    found: int = 0
    true: int = 0


def row_of(kind: str) -> str:
    """Returns what a class is counted and switched as: data sets write the same class in several ways."""
    return min(words_for(kind))


def chosen(boxes: ViewBoxes | None, choice: BoxSwitches, *, true: bool = False) -> ViewBoxes | None:
    """Returns the boxes of a frame that are shown; None where none are to be shown at all.

    true: they are the true ones, of which no score is asked
    """
    if boxes is None or not (choice.true if true else choice.found):
        return None
    visible = np.array([row_of(kind) not in choice.hidden for kind in boxes.kinds], np.bool_)
    return boxes.among(visible if true else visible & sure(boxes, choice.score))


def sure(boxes: ViewBoxes, score: float) -> npt.NDArray[np.bool_]:
    """Returns which boxes have at least a score, bool `[B]`. What shows as 0.30 has 0.3."""
    enough: npt.NDArray[np.bool_] = boxes.scores >= score - 1e-6
    return enough


def count_boxes(found: ViewBoxes | None, true: ViewBoxes | None, choice: BoxSwitches) -> dict[str, BoxCount]:
    """Returns the number of boxes of each class that a frame has, by `row_of` it; hidden ones count, too."""
    there, enough = _tally(found), _tally(None if found is None else found.among(sure(found, choice.score)))
    truth = _tally(true)
    rows = dict.fromkeys([*there, *truth])
    return {row: BoxCount(enough.get(row, 0), there.get(row, 0), truth.get(row, 0)) for row in rows}


def first_score(boxes: ViewBoxes | None) -> float:
    """Returns the least score to begin with: one that does not hide all boxes of the first frame."""
    hides_all = boxes is not None and len(boxes) > 0 and not sure(boxes, FIRST_SCORE).any()
    return 0.0 if hides_all else FIRST_SCORE


def outlines(boxes: npt.NDArray[np.floating[Any]]) -> Lines:
    """Returns boxes `[N, 7]` as lines: their edges, a cross on the front, and an arrow on the roof that points ahead.

    The arrow is seen from above, where the cross is but a line.
    """
    corners = box_corners(boxes)
    edges = corners[:, np.array([*_EDGES, *_FRONT_CROSS])]
    return np.concatenate([edges, _arrows(corners)], axis=1).astype(np.float32)


def dashed_outlines(boxes: npt.NDArray[np.floating[Any]]) -> Lines:
    """Returns boxes `[N, 7]` as dashed edges, and the arrow on the roof: they can be told from others by form alone."""
    corners = box_corners(boxes)
    begin, end = (corners[:, np.array(_EDGES)[:, side], None] for side in (0, 1))
    dash = 1 / (2 * _DASHES - 1)
    starts = 2 * dash * np.arange(_DASHES)[:, None]
    dashes = np.stack([begin + (end - begin) * at for at in (starts, starts + dash)], axis=3)
    lines = np.concatenate([dashes.reshape(len(corners), len(_EDGES) * _DASHES, 2, 3), _arrows(corners)], axis=1)
    return lines.astype(np.float32)


def coloured(lines: Lines, colours: Sequence[Colour]) -> npt.NDArray[np.uint8]:
    """Returns the colour of both ends of all lines, uint8 `[N * S, 2, 3]`; a colour for each box.

    The page takes colours of lines for linear light (other than those of points), so that is what they are here: the
    inverse of sRGB's curve, IEC 61966-2-1.
    """
    each = np.array(colours, np.float64).reshape(-1, 1, 1, 3) / 255
    linear = np.where(each <= 0.04045, each / 12.92, ((each + 0.055) / 1.055) ** 2.4)
    return np.broadcast_to(np.rint(linear * 255).astype(np.uint8), lines.shape).reshape(-1, 2, 3)


def describe_boxes(boxes: ViewBoxes | None, point: npt.NDArray[np.float32], name: str) -> list[tuple[str, str]]:
    """Returns the boxes around a point, `[3 or more]`, as names and values."""
    if boxes is None or not len(boxes):
        return []
    around = [index for index in range(len(boxes)) if counts_inside(point[None], boxes.boxes[index : index + 1])[0]]
    texts = []
    for index in around:
        length, width, height = boxes.boxes[index, 3:6]
        score = "" if name != "box" else f" {boxes.scores[index]:.2f}"
        texts.append((name, f"{boxes.kinds[index]}{score}, {length:.1f} x {width:.1f} x {height:.1f} m"))
    return texts


def _tally(boxes: ViewBoxes | None) -> dict[str, int]:
    rows = [] if boxes is None else [row_of(kind) for kind in boxes.kinds]
    return {row: rows.count(row) for row in dict.fromkeys(rows)}


def _arrows(corners: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Returns the three lines of each box's arrow `[N, 3, 2, 3]`: from the roof's middle to ahead of the front."""
    front_left, front_right, rear_left, rear_right = (corners[:, corner] for corner in (0, 2, 4, 6))
    front, rear = (front_left + front_right) / 2, (rear_left + rear_right) / 2
    along, across = front - rear, front_left - front_right
    ahead = along / np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-6)
    tip, middle = front + _TIP * ahead, (front + rear) / 2
    barbs = [tip - _TIP * ahead + side * _BARB * across for side in (1, -1)]
    return np.stack([np.stack([begin, tip], axis=1) for begin in (middle, *barbs)], axis=1)
