"""Labels of a cloud that is too large for memory: on disk, read a part at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from spvnas_ros.frame import NONE_UNUSABLE, Segmentation, Unusable
from spvnas_ros.recordings.files import replacing
from spvnas_ros.recordings.scans.records import PIECE
from spvnas_ros.segment.spool import read_rows

LABELS, CONFIDENCE, SCORES, RESULT = "labels", "confidence", "scores", "result.json"
PART: Final = PIECE
"""Points whose labels are in memory at a time."""


@dataclass(frozen=True)
class StoredSegmentation:
    """The labels of `count` points in a folder; `part` reads some of them, as `Segmentation.part` gives them.

    classes: number of values of a point's scores; 0 without scores
    tiles:   in how many it was labelled
    words:   how it was seen there, in half a sentence
    """

    folder: Path
    count: int
    classes: int = 0
    unusable: Unusable = NONE_UNUSABLE
    tiles: int = 0
    words: str = ""

    def __len__(self) -> int:
        return self.count

    def part(self, begin: int, end: int) -> Segmentation:
        """Returns the results of the points from `begin` to before `end`. Raises OSError where they are gone."""
        end = min(end, self.count)
        count = max(0, end - begin)
        scores = None
        if self.classes:
            scores = read_rows(self.folder / SCORES, np.float32, begin, count, self.classes)
        labels = read_rows(self.folder / LABELS, np.uint8, begin, count)
        return Segmentation(labels, read_rows(self.folder / CONFIDENCE, np.float32, begin, count), scores)

    def save(self, ms: float) -> None:
        """Writes that the labels are whole, and how long the network took, milliseconds."""
        document = {
            "count": self.count, "classes": self.classes, "unusable": self.unusable.counts(), "ms": ms,
            "tiles": self.tiles, "words": self.words,
        }  # fmt: skip
        with replacing(self.folder / RESULT) as file:
            file.write(json.dumps(document).encode())

    @classmethod
    def load(cls, folder: Path) -> tuple[StoredSegmentation, float] | None:
        """Returns what `save` wrote, and the milliseconds; None where there are no whole labels."""
        try:
            document = json.loads((folder / RESULT).read_text())
            found = cls(
                folder, document["count"], document["classes"], Unusable(**document["unusable"]), document["tiles"],
                document["words"],
            )  # fmt: skip
            sizes = {LABELS: found.count, CONFIDENCE: 4 * found.count, SCORES: 4 * found.count * found.classes}
            if any(size and (folder / name).stat().st_size != size for name, size in sizes.items()):
                return None
            return found, float(document["ms"])
        except (OSError, ValueError, KeyError, TypeError):
            return None


Labelled = Segmentation | StoredSegmentation
"""The labels of a cloud, in memory or on disk."""


def parts_of_result(result: Labelled) -> Iterator[Segmentation]:
    """Yields the labels of all points, some at a time."""
    for begin in range(0, len(result), PART):
        yield result.part(begin, min(begin + PART, len(result)))
