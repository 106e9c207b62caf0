"""The plain data types that travel between the stages of a frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

UNLABELLED = 255
"""The label of a point that the network did not see: it is not finite, or it lies outside the network's range."""

Points = npt.NDArray[np.float32]
"""float32 `[N, 4]`: x, y, z in metres (x forward, y left, z up) and intensity in 0..1."""


@dataclass(frozen=True)
class Segmentation:
    """The network's answer for every point of a cloud, in the order of the cloud.

    labels:      uint8 `[N]`, class index, 255 = unlabelled
    confidence:  float32 `[N]`, softmax probability of the label, 0 where unlabelled
    scores:      float32 `[N, C]` softmax probabilities, rows of zeros where unlabelled; None if not asked for
    """

    labels: npt.NDArray[np.uint8]
    confidence: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        labelled = self.labels[self.labels != UNLABELLED]
        share = f", {len(labelled) / len(self):.1%} labelled" if len(self) else ""
        classes = ", ".join(map(str, np.unique(labelled)))
        scores = "no scores" if self.scores is None else f"scores {self.scores.shape}"
        return f"Segmentation({len(self)} points{share}, classes [{classes}], {scores})"
