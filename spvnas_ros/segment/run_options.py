"""How a recording is labelled, and what its labels are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from spvnas_ros.frame import Segmentation
from spvnas_ros.palettes import SPVNAS
from spvnas_ros.recordings.scans import Cloud, Frame
from spvnas_ros.segment.label_forms import LabelForm
from spvnas_ros.segment.summary import Summary
from spvnas_ros.segment.tile_rule import TileRule

if TYPE_CHECKING:
    from spvnas_ros.perception import Detector


class Judge(Protocol):
    """Compares labels with a truth. `offline.evaluation` has the one that scores them.

    truth: where the truth comes from, in words
    files: that it is read from, where it is not in the frames themselves
    """

    @property
    def truth(self) -> str: ...

    @property
    def files(self) -> Sequence[Path]: ...

    def add(self, frame: Frame, cloud: Cloud, result: Segmentation) -> float | None:
        """Counts a frame, and returns its accuracy; None where it has no truth.

        Raises ValueError where its truth does not fit.
        """
        ...

    def save(self, summary: Summary, out: Path) -> None:
        """Writes the scores beside the other results."""
        ...


@dataclass(frozen=True)
class SegmentOptions:
    """How a recording is labelled.

    weights:   name of the weights, for the summary
    scores:    whether the probabilities of all classes are kept, too
    force:     start again, and replace the results of an earlier run
    judge:     what the labels are compared with; None for nothing
    concerns:  what was said about the recording, for the summary
    palette:   name of the colours in pictures
    detector:  what finds objects beside the labels; None where nothing does, or the network itself
    boxes:     name of its weights, for the summary
    form:      in which form the labels of scans are written
    tiles:     which scans are cut into tiles
    """

    weights: str = ""
    scores: bool = False
    force: bool = False
    judge: Judge | None = None
    concerns: tuple[str, ...] = ()
    palette: str = SPVNAS
    detector: Detector | None = None
    boxes: str = ""
    form: LabelForm = field(default_factory=LabelForm)
    tiles: TileRule = field(default_factory=TileRule)
