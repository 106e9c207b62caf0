"""Whether the labels of the points in a box say what the box says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from spvnas_ros.boxes.inside import rows_inside
from spvnas_ros.frame import UNLABELLED, Boxes, Points

_RIDERS: Final = ("person", "bicyclist", "bicycle", "motorcyclist", "motorcycle")
_ALSO: Final[Mapping[str, tuple[str, ...]]] = {
    "pedestrian": ("person",),
    "person-sitting": ("person",),
    "cyclist": ("bicyclist", "bicycle", "person"),
    "bicyclist": ("bicycle", "person"),
    "motorcyclist": ("motorcycle", "person"),
    "rider": _RIDERS,
    # With or without somebody on it: data sets box both as one, and label the points as two.
    "bicycle": ("bicyclist", "person"),
    "motorcycle": ("motorcyclist", "person"),
    "van": ("car", "truck", "other-vehicle"),
    "large-vehicle": ("truck", "other-vehicle"),
    "truck": ("other-vehicle",),
    "bus": ("other-vehicle",),
    "tram": ("other-vehicle",),
    "trailer": ("truck", "other-vehicle"),
    "construction-vehicle": ("other-vehicle",),
}
"""The classes of points that an object of a class of boxes may have, besides that of its own name."""


@dataclass(frozen=True)
class Support:
    """What the labels of the points say of each box of a frame.

    share:      float32 `[B]`, of the labelled points in the box, those whose class is the box's, 0..1; 0 where the box
                holds no labelled point, NaN where the points have no class like it
    labels:     uint8 `[B]`, the label that most of the labelled points have, 255 where there is none
    label_share: float32 `[B]`, their share of the labelled points, 0..1
    """

    share: npt.NDArray[np.float32]
    labels: npt.NDArray[np.uint8]
    label_share: npt.NDArray[np.float32]

    def below(self, least: float) -> npt.NDArray[np.bool_]:
        """Returns the boxes that fewer points agree with, bool `[B]`; what cannot be judged is none of them."""
        lacking: npt.NDArray[np.bool_] = self.share < least
        return lacking

    def among(self, which: npt.NDArray[np.bool_]) -> Support:
        """Returns that of some boxes."""
        return Support(self.share[which], self.labels[which], self.label_share[which])


def counterparts(name: str, classes: Sequence[str]) -> tuple[int, ...]:
    """Returns the classes of points, as indices of `classes`, that an object of this class of boxes may have.

    Letters' case, and `_` for `-`, make no difference. None where the points have no class like it.
    """
    plain = [_plain(each) for each in classes]
    wanted = (_plain(name), *_ALSO.get(_plain(name), ()))
    return tuple(index for index, each in enumerate(plain) if each in wanted)


def support(
    points: Points, labels: npt.NDArray[np.uint8], found: Boxes, names: Sequence[str], classes: Sequence[str]
) -> Support:
    """Returns what the labels of points say of boxes.

    points: `[N, 3 or more]`, in the frame of the boxes; labels: uint8 `[N]`, theirs
    names, classes: of the boxes and of the points, in index order
    """
    share, label_share = np.full(len(found), np.nan, np.float32), np.zeros(len(found), np.float32)
    most = np.full(len(found), UNLABELLED, np.uint8)
    agreeing = [counterparts(name, classes) for name in names]
    for box, rows in enumerate(rows_inside(points, found.boxes)):
        counts = np.bincount(labels[rows], minlength=UNLABELLED + 1)[:UNLABELLED]
        labelled, best = int(counts.sum()), int(counts.argmax())
        if labelled:
            most[box], label_share[box] = best, counts[best] / labelled
        if wanted := agreeing[found.classes[box]]:
            share[box] = counts[list(wanted)].sum() / labelled if labelled else 0.0
    return Support(share, most, label_share)


def _plain(name: str) -> str:
    return name.lower().replace("_", "-")
