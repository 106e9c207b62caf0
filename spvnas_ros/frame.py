"""The plain data types that travel between the stages of a frame."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
import numpy.typing as npt

UNLABELLED = 255
"""The label of a point that the network did not see. `Unusable` lists the reasons."""

Points = npt.NDArray[np.float32]
"""float32 `[N, 4]`: x, y, z in metres (x forward, y left, z up) and intensity in 0..1."""


UNUSABLE_WORDS: Final = {
    "not_finite": "not finite",
    "at_origin": "at the origin",
    "too_far": "too far",
    "no_intensity": "without intensity",
    "outside": "outside the range",
}
"""The reasons of `Unusable` as a sentence has them, behind a number of points."""


@dataclass(frozen=True)
class Unusable:
    """How many points no network sees, by the first reason that applies.

    not_finite:   a coordinate is NaN or infinite
    at_origin:    exactly (0, 0, 0), as drivers put it where nothing came back
    too_far:      farther from the sensor, along an axis, than voxels can be numbered
    no_intensity: the intensity is NaN or infinite
    outside:      outside the range of the network or of the user
    """

    not_finite: int = 0
    at_origin: int = 0
    too_far: int = 0
    no_intensity: int = 0
    outside: int = 0

    @property
    def total(self) -> int:
        """The number of points of all kinds."""
        return sum(self.counts().values())

    def counts(self) -> dict[str, int]:
        """Returns the number of points by the name of the kind."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    def __add__(self, other: Unusable) -> Unusable:
        both = zip(self.counts().values(), other.counts().values(), strict=True)
        return Unusable(*(mine + theirs for mine, theirs in both))

    def __str__(self) -> str:
        """Lists the kinds that occur, such as "12 at the origin, 3 too far"."""
        return ", ".join(f"{count:,} {UNUSABLE_WORDS[kind]}" for kind, count in self.counts().items() if count)


NONE_UNUSABLE = Unusable()


@dataclass(frozen=True)
class Segmentation:
    """The network's answer for every point of a cloud, in the order of the cloud.

    labels:      uint8 `[N]`, class index, 255 = unlabelled
    confidence:  float32 `[N]`, softmax probability of the label, 0 where unlabelled
    scores:      float32 `[N, C]` softmax probabilities, rows of zeros where unlabelled; None if not asked for
    unusable:    the points that the network did not see
    boxes:       the objects in the cloud; None where nothing looked for any
    head_ms:     milliseconds that the box branch took, where the engine measured it; else None
    """

    labels: npt.NDArray[np.uint8]
    confidence: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32] | None = None
    unusable: Unusable = NONE_UNUSABLE
    boxes: Boxes | None = None
    head_ms: float | None = None

    @classmethod
    def unlabelled(cls, count: int, boxes: Boxes | None = None) -> Segmentation:
        """Returns the answer for `count` points of which no label was asked for, and the objects, if those were."""
        return cls(np.full(count, UNLABELLED, np.uint8), np.zeros(count, np.float32), boxes=boxes)

    def __len__(self) -> int:
        return len(self.labels)

    def among(self, where: npt.NDArray[np.bool_], unusable: Unusable) -> Segmentation:
        """Returns the results of a larger cloud, of which `where`, bool `[M]`, selects these points.

        The other points are unlabelled, for the reasons in `unusable`. The boxes stay.
        """
        labels = np.full(len(where), UNLABELLED, np.uint8)
        confidence = np.zeros(len(where), np.float32)
        labels[where] = self.labels
        confidence[where] = self.confidence
        scores = None
        if self.scores is not None:
            scores = np.zeros((len(where), self.scores.shape[1]), np.float32)
            scores[where] = self.scores
        return Segmentation(labels, confidence, scores, self.unusable + unusable, self.boxes, self.head_ms)

    def part(self, begin: int, end: int) -> Segmentation:
        """Returns the results of the points from `begin` to before `end`, without counts and boxes of the cloud."""
        scores = None if self.scores is None else self.scores[begin:end]
        return Segmentation(self.labels[begin:end], self.confidence[begin:end], scores)

    def __repr__(self) -> str:
        labelled = self.labels[self.labels != UNLABELLED]
        share = f", {len(labelled) / len(self):.1%} labelled" if len(self) else ""
        classes = ", ".join(map(str, np.unique(labelled)))
        scores = "no scores" if self.scores is None else f"scores {self.scores.shape}"
        boxes = "" if self.boxes is None else f", {len(self.boxes)} boxes"
        return f"Segmentation({len(self)} points{share}, classes [{classes}], {scores}{boxes})"


@dataclass(frozen=True)
class Boxes:
    """Objects in a cloud, in the cloud's frame (x forward, y left, z up).

    boxes:   float32 `[B, 7]`: x, y, z of the centre, length (along the object's front), width, height, all in metres,
             and yaw, the direction of its front, radians from x towards y, in -pi..pi
    scores:  float32 `[B]`, how sure the network is, 0..1
    classes: uint8 `[B]`, class index

    Raises ValueError where the arrays are of other kinds or not as many.
    """

    boxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    classes: npt.NDArray[np.uint8]

    def __post_init__(self) -> None:
        number = len(self.boxes)
        expected = (
            ("boxes", np.float32, (number, 7)),
            ("scores", np.float32, (number,)),
            ("classes", np.uint8, (number,)),
        )
        for name, kind, shape in expected:
            array = getattr(self, name)
            if array.dtype != kind or array.shape != shape:
                raise ValueError(f"{name} is {array.dtype} {array.shape}, expected {np.dtype(kind)} {shape}")

    @classmethod
    def none(cls) -> Boxes:
        """Returns what a cloud without any object has."""
        return cls(np.zeros((0, 7), np.float32), np.zeros(0, np.float32), np.zeros(0, np.uint8))

    def __len__(self) -> int:
        return len(self.boxes)

    def among(self, which: npt.NDArray[np.bool_] | npt.NDArray[np.integer[Any]]) -> Boxes:
        """Returns some of the objects: those of a mask, bool `[B]`, or of indices, in the order of these."""
        return Boxes(self.boxes[which], self.scores[which], self.classes[which])

    def __repr__(self) -> str:
        classes = ", ".join(map(str, np.unique(self.classes)))
        return f"Boxes({len(self)} objects, classes [{classes}])"
