"""Which frames of a run are shown in pictures: the first one, the worst and the median.

With a truth, frames are ordered by their accuracy: the share of the points with a truth whose label is right. (The mIoU
of a frame would hang on classes of a few points.) Without one, by the mean confidence of the points that have a label.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spvnas_ros.frame import UNLABELLED
from spvnas_ros.segment.output import PICTURE, PICTURE_MEDIAN, PICTURE_WORST
from spvnas_ros.segment.stored import Labelled, parts_of_result

FIRST, MEDIAN, WORST = "first", "median", "worst"
ACCURACY, CONFIDENCE = "accuracy", "mean confidence"
FILES = {FIRST: PICTURE, MEDIAN: PICTURE_MEDIAN, WORST: PICTURE_WORST}


@dataclass(frozen=True)
class Pictured:
    """A picture of a run.

    file:   its name in the run's folder
    shows:  which frame that is: "first", "median" or "worst"
    frame:  name of the frame
    number: of the frame among those that were labelled, from 0
    by:     what orders the frames: "accuracy" or "mean confidence"
    value:  the frame's, 0..1; None where it has none
    """

    file: str
    shows: str
    frame: str
    number: int
    by: str
    value: float | None

    def title(self, source: str) -> str:
        """Returns what is written above the picture."""
        which = "" if self.shows == FIRST else f", {self.shows} by {self.by}"
        value = "" if self.value is None else f" ({self.value:.1%})"
        return f"{source}, {self.frame}{which}{value if which else ''}"

    def __str__(self) -> str:
        value = "" if self.value is None else f", {self.by} {self.value:.1%}"
        return f"{self.file}: the {self.shows} frame, {self.frame}{value}"


def mean_confidence(result: Labelled) -> float | None:
    """Returns how sure a frame's labels are, 0..1; None where no point has one."""
    total, count = 0.0, 0
    for part in parts_of_result(result):
        labelled = part.labels != UNLABELLED
        total += float(part.confidence[labelled].sum(dtype=np.float64))
        count += int(np.count_nonzero(labelled))
    return total / count if count else None


def choose(frames: Sequence[tuple[str, float | None]], by: str) -> list[Pictured]:
    """Returns the pictures to make of frames, given by name and value in order.

    One frame alone is neither the worst nor the median. Of two frames the better
    one is the median. Frames without a value are neither.
    """
    if not frames:
        return []
    places = {FIRST: 0}
    valued = [(value, place) for place, (_, value) in enumerate(frames) if value is not None]
    order = [place for _, place in sorted(valued)]
    if len(order) > 1:
        places |= {MEDIAN: order[len(order) // 2], WORST: order[0]}
    return [
        Pictured(FILES[shows], shows, frames[place][0], place, by, frames[place][1]) for shows, place in places.items()
    ]
