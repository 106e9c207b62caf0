"""Turns frames into colours and counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from spvnas_ros.frame import UNLABELLED
from spvnas_ros.palettes import SPVNAS, UNLABELLED_COLOUR, Colour, box_colours
from spvnas_ros.viewer.frames import ViewFrame

CLASS, TRUTH, ERRORS = "class", "truth", "errors"
CONFIDENCE, INTENSITY, HEIGHT = "confidence", "intensity", "height"
UNLABELLED_NAME: Final = "unlabelled"

Colours = npt.NDArray[np.uint8]

_COLD_TO_WARM: Final = ((70, 80, 220), (40, 180, 230), (80, 220, 120), (250, 210, 60), (240, 80, 50))
_BAD_TO_GOOD: Final = ((235, 64, 52), (250, 190, 60), (70, 190, 120))
_RIGHT: Final = (54, 60, 72)
"""Of a point whose label is right, where errors are shown: dim, and brighter than the background."""
_NO_TRUTH: Final = (30, 35, 44)
_MISSED: Final = (255, 255, 255)
"""Of a point without a label that has a true class."""
_HEIGHT_PERCENTILES: Final = (1, 97)
_GROUND_PERCENTILE: Final = 5


@dataclass(frozen=True)
class Classes:
    """The rows of the legend: the classes in the order of their index, then the unlabelled points.

    names, palette: name and colour of each class, `(r, g, b)` 0..255; the unlabelled points are not in them
    choice:         name of the palette, for boxes of other classes
    """

    names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    choice: str = SPVNAS

    @property
    def rows(self) -> tuple[str, ...]:
        """Names of all rows."""
        return (*self.names, UNLABELLED_NAME)

    @property
    def colours(self) -> tuple[tuple[int, int, int], ...]:
        """Colours of all rows."""
        return (*self.palette, UNLABELLED_COLOUR)

    def of_boxes(self, kinds: Sequence[str]) -> tuple[Colour, ...]:
        """Returns the colours of boxes of some classes: those of the points of the same objects."""
        return box_colours(kinds, self.names, self.palette, self.choice)

    def row_of(self, labels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Turns class indices `[N]` into rows, uint8 `[N]`. An index that is no class (such as 255) is unlabelled."""
        rows: npt.NDArray[np.uint8] = np.minimum(labels, len(self.names)).astype(np.uint8)
        return rows

    def counts(self, labels: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
        """Returns the number of points of each row, int64 `[C + 1]`."""
        return np.bincount(self.row_of(labels), minlength=len(self.rows)).astype(np.int64)


def choices(frame: ViewFrame) -> tuple[str, ...]:
    """Returns what a frame can be coloured by, the most informative first."""
    labelled = () if frame.labels is None else (CLASS,)
    compared = (TRUTH, ERRORS) if labelled and frame.truth is not None else ()
    sure = () if frame.confidence is None else (CONFIDENCE,)
    lit = (INTENSITY,) if frame.points[:, 3].any() else ()
    return (*labelled, *compared, *sure, HEIGHT, *lit)


def colour(frame: ViewFrame, by: str, classes: Classes) -> Colours:
    """Returns the colours of the points, uint8 `[N, 3]`.

    Where the frame cannot be coloured by `by`, the first of `choices` is used.
    """
    available = choices(frame)
    by = by if by in available else available[0]
    if by == ERRORS and frame.labels is not None and frame.truth is not None:
        return _errors(frame.labels, frame.truth, classes)
    if by in (CLASS, TRUTH) and (labels := labels_of(frame, by)) is not None:
        return np.array(classes.colours, np.uint8)[classes.row_of(labels)]
    if by == CONFIDENCE and frame.confidence is not None:
        return _ramp(frame.confidence, _BAD_TO_GOOD)
    if by == INTENSITY:
        # Most intensities are below a third of the scale; the square root spreads them.
        return _ramp(np.sqrt(np.clip(frame.points[:, 3], 0, 1)), _COLD_TO_WARM)
    return _ramp(_relative_height(frame.points[:, 2]), _COLD_TO_WARM)


def labels_of(frame: ViewFrame, by: str) -> npt.NDArray[np.uint8] | None:
    """Returns the labels that the legend speaks of: the true ones where these are shown, else those of the frame."""
    return frame.truth if by == TRUTH and frame.truth is not None else frame.labels


def counts(frame: ViewFrame, by: str, classes: Classes) -> npt.NDArray[np.int64] | None:
    """Returns the number of points of each row of the legend, int64 `[C + 1]`; None where the frame has no labels.

    Where errors are shown, only the points count whose label is wrong.
    """
    labels = labels_of(frame, by)
    if labels is None or by != ERRORS or frame.truth is None:
        return None if labels is None else classes.counts(labels)
    return classes.counts(labels[_wrong(labels, frame.truth)])


def accuracy(frame: ViewFrame) -> tuple[int, int] | None:
    """Returns how many points have the right label, and how many a truth; None where nothing can be compared."""
    if frame.labels is None or frame.truth is None:
        return None
    known = frame.truth != UNLABELLED
    return int((frame.labels == frame.truth)[known].sum()), int(known.sum())


def visible(frame: ViewFrame, hidden: frozenset[int], classes: Classes, by: str = CLASS) -> npt.NDArray[np.bool_]:
    """Returns which points are shown when the legend's rows `hidden` are switched off, bool `[N]`."""
    labels = labels_of(frame, by)
    if labels is None or not hidden:
        return np.ones(len(frame.points), np.bool_)
    shown = np.ones(len(classes.rows), np.bool_)
    shown[sorted(hidden)] = False
    return shown[classes.row_of(labels)]


def ground(frame: ViewFrame) -> float:
    """Returns the approximate height of the ground, metres above the sensor (so mostly negative); 0 without points."""
    z = frame.points[:, 2]
    return float(np.percentile(z, _GROUND_PERCENTILE)) if len(z) else 0.0


def _wrong(labels: npt.NDArray[np.uint8], truth: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    wrong: npt.NDArray[np.bool_] = (labels != truth) & (truth != UNLABELLED)
    return wrong


def _errors(labels: npt.NDArray[np.uint8], truth: npt.NDArray[np.uint8], classes: Classes) -> Colours:
    """Gives wrong points the colour of the class that they were given; the others stay in the dark."""
    table = np.array((*classes.palette, _MISSED), np.uint8)
    colours = np.where((truth == UNLABELLED)[:, None], np.array(_NO_TRUTH, np.uint8), np.array(_RIGHT, np.uint8))
    wrong = _wrong(labels, truth)
    colours[wrong] = table[classes.row_of(labels[wrong])]
    return colours


def _relative_height(z: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    if not len(z):
        return z
    low, high = np.percentile(z, _HEIGHT_PERCENTILES)
    relative: npt.NDArray[np.float32] = ((z - low) / max(high - low, 1e-3)).astype(np.float32)
    return relative


def _ramp(values: npt.NDArray[np.float32], anchors: tuple[tuple[int, int, int], ...]) -> Colours:
    """Turns values 0..1 into colours that run from the first anchor to the last. Values outside 0..1 are clipped."""
    at = np.linspace(0, 1, len(anchors))
    channels = [np.interp(values, at, channel) for channel in zip(*anchors, strict=True)]
    return np.stack(channels, axis=1).astype(np.uint8)
