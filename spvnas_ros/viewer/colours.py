"""Frames to colours and counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from spvnas_ros.viewer.frames import ViewFrame

CLASS, CONFIDENCE, INTENSITY, HEIGHT = "class", "confidence", "intensity", "height"
UNLABELLED_NAME: Final = "unlabelled"

Colours = npt.NDArray[np.uint8]

_GREY: Final = (96, 104, 118)
_COLD_TO_WARM: Final = ((70, 80, 220), (40, 180, 230), (80, 220, 120), (250, 210, 60), (240, 80, 50))
_BAD_TO_GOOD: Final = ((235, 64, 52), (250, 190, 60), (70, 190, 120))
_HEIGHT_PERCENTILES: Final = (1, 97)
_GROUND_PERCENTILE: Final = 5


@dataclass(frozen=True)
class Classes:
    """The rows of the legend: the classes by index, and the unlabelled points last.

    names, palette: of the classes, without the unlabelled; `(r, g, b)` 0..255
    """

    names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]

    @property
    def rows(self) -> tuple[str, ...]:
        """Names of all rows."""
        return (*self.names, UNLABELLED_NAME)

    @property
    def colours(self) -> tuple[tuple[int, int, int], ...]:
        """Colours of all rows."""
        return (*self.palette, _GREY)

    def row_of(self, labels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Class indices `[N]` to rows uint8 `[N]`; what is no class (255) is unlabelled."""
        rows: npt.NDArray[np.uint8] = np.minimum(labels, len(self.names)).astype(np.uint8)
        return rows

    def counts(self, labels: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
        """Points of each row, int64 `[C + 1]`."""
        return np.bincount(self.row_of(labels), minlength=len(self.rows)).astype(np.int64)


def choices(frame: ViewFrame) -> tuple[str, ...]:
    """What a frame can be coloured by, the most telling first."""
    labelled = () if frame.labels is None else (CLASS,)
    sure = () if frame.confidence is None else (CONFIDENCE,)
    lit = (INTENSITY,) if frame.points[:, 3].any() else ()
    return (*labelled, *sure, HEIGHT, *lit)


def colour(frame: ViewFrame, by: str, classes: Classes) -> Colours:
    """The points' colours, uint8 `[N, 3]`. What a frame cannot be coloured by falls back on the first of `choices`."""
    available = choices(frame)
    by = by if by in available else available[0]
    if by == CLASS and frame.labels is not None:
        return np.array(classes.colours, np.uint8)[classes.row_of(frame.labels)]
    if by == CONFIDENCE and frame.confidence is not None:
        return _ramp(frame.confidence, _BAD_TO_GOOD)
    if by == INTENSITY:
        # Most of a scan returns less than a third of the scale; the root spreads that.
        return _ramp(np.sqrt(np.clip(frame.points[:, 3], 0, 1)), _COLD_TO_WARM)
    return _ramp(_relative_height(frame.points[:, 2]), _COLD_TO_WARM)


def visible(frame: ViewFrame, hidden: frozenset[int], classes: Classes) -> npt.NDArray[np.bool_]:
    """Which points are shown while some rows of the legend are switched off, bool `[N]`."""
    if frame.labels is None or not hidden:
        return np.ones(len(frame.points), np.bool_)
    shown = np.ones(len(classes.rows), np.bool_)
    shown[sorted(hidden)] = False
    return shown[classes.row_of(frame.labels)]


def ground(frame: ViewFrame) -> float:
    """About where the ground is, metres above the sensor (so mostly negative); 0 for a frame without points."""
    z = frame.points[:, 2]
    return float(np.percentile(z, _GROUND_PERCENTILE)) if len(z) else 0.0


def _relative_height(z: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    if not len(z):
        return z
    low, high = np.percentile(z, _HEIGHT_PERCENTILES)
    relative: npt.NDArray[np.float32] = ((z - low) / max(high - low, 1e-3)).astype(np.float32)
    return relative


def _ramp(values: npt.NDArray[np.float32], anchors: tuple[tuple[int, int, int], ...]) -> Colours:
    """0..1 to colours that lead from the first anchor to the last; clipped beyond."""
    at = np.linspace(0, 1, len(anchors))
    channels = [np.interp(values, at, channel) for channel in zip(*anchors, strict=True)]
    return np.stack(channels, axis=1).astype(np.uint8)
