"""The field of a bag's clouds that holds their labels: which one, whose labels they are, and what its numbers mean."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from spvnas_ros.clouds.point_cloud2 import CONFIDENCE_FIELD, LABEL_FIELD, RENAMED_PREFIX
from spvnas_ros.frame import UNLABELLED
from spvnas_ros.offline.datasets.scan import SEMANTIC_BITS, Labels

IDS: Final = ("auto", "raw", "class")
"""What the numbers of a label field may be."""

Ids = npt.NDArray[np.int64]


class LabelFieldError(ValueError):
    """A field that holds no labels, or not the truth. Names the cloud and says what to do."""


@dataclass(frozen=True)
class LabelField:
    """Where the true labels of a bag's clouds are.

    name:    of the field: any numeric type, whole numbers, the low 16 bits of each
    ids:     "raw" for SemanticKITTI's ids, which a label map turns into classes; "class" for class indices, 255 = none;
             "auto" looks at the whole bag: where every number is a class index or 255 they are class indices, else raw
             ids. (Raw road, building and vegetation are 40, 50 and 70; a drive without all of them must say.)
    network: take labels that a network wrote for the truth all the same

    Raises LabelFieldError for other ids.
    """

    name: str = LABEL_FIELD
    ids: str = "auto"
    network: bool = False

    def __post_init__(self) -> None:
        if self.ids not in IDS:
            raise LabelFieldError(f"label ids are {self.ids!r}, expected one of {', '.join(IDS)}")

    def __str__(self) -> str:
        return f"field {self.name!r}" + (", taken for the truth whoever wrote it" if self.network else "")

    def read(self, name: str, points: npt.NDArray[np.void]) -> Ids:
        """Returns the low 16 bits of the field, int64 `[N]`.

        name:   of the frame, for messages
        points: structured `[N]`, every field of the frame

        Raises LabelFieldError where the frame has no such field, it holds no labels, or a network wrote it.
        """
        names = points.dtype.names or ()
        if not len(points):
            return np.empty(0, np.int64)
        if self.name not in names or points.dtype[self.name].shape:
            found = ", ".join(names) or "none"
            raise LabelFieldError(
                f"frame {name} has no field {self.name!r} with one number a point; found fields {found}"
            )
        if not self.network and written_by_network(self.name, names):
            raise LabelFieldError(f"frame {name}: {_no_truth(self.name, names)}")
        values = points[self.name]
        if values.dtype.kind == "f" and not (np.isfinite(values) & (values == np.floor(values))).all():
            raise LabelFieldError(
                f"field {self.name!r} of frame {name} holds numbers that are not whole; is it a label?"
            )
        return values.astype(np.int64) & ((1 << SEMANTIC_BITS) - 1)

    def survey(self, frames: Iterable[tuple[str, npt.NDArray[np.void]]]) -> Ids:
        """Returns all numbers that occur in the field of these frames, in order. Raises as `read`."""
        seen = np.zeros(1 << SEMANTIC_BITS, np.bool_)
        for name, points in frames:
            seen[self.read(name, points)] = True
        return np.flatnonzero(seen)

    def settled(self, found: Ids, num_classes: int) -> LabelField:
        """With "auto" decided by all numbers that occur."""
        if self.ids != "auto":
            return self
        indices = (found < num_classes) | (found == UNLABELLED)
        return replace(self, ids="class" if indices.all() else "raw")


def class_indices(num_classes: int, ids: Ids) -> Labels:
    """Ids that are class indices already, or 255, as uint8 `[N]`. Raises LabelFieldError where they are not."""
    if wrong := sorted({int(i) for i in ids[(ids >= num_classes) & (ids != UNLABELLED)]}):
        raise LabelFieldError(f"class indices must be 0 to {num_classes - 1}, or 255 for none, found {wrong}")
    return ids.astype(np.uint8)


def truth_field(names: Collection[str]) -> str | None:
    """The field with the truth, by its name: `label`, or `input_label` where a network wrote the former."""
    usual = (LABEL_FIELD, RENAMED_PREFIX + LABEL_FIELD)
    return next((name for name in usual if name in names and not written_by_network(name, names)), None)


def written_by_network(field: str, names: Collection[str]) -> bool:
    """Whether a field holds what the node or a command of ours said of the points, told from the cloud's field names.

    They put `confidence` beside their `label` and rename what was called so before (`pointcloud.with_labels`). So of
    the labels that were renamed as many are a network's as there are renamed confidences, and a truth came first.
    """
    if field == LABEL_FIELD:
        return CONFIDENCE_FIELD in names
    labels, confidences = _renamed(LABEL_FIELD, names), _renamed(CONFIDENCE_FIELD, names)
    return field in labels and labels.index(field) >= len(labels) - len(confidences)


def _renamed(field: str, names: Collection[str]) -> list[str]:
    """What was called like a field once, the oldest first."""
    found = []
    while (field := RENAMED_PREFIX + field) in names:
        found.append(field)
    return found


def _no_truth(field: str, names: Collection[str]) -> str:
    better = truth_field(names)
    advice = (
        f"the truth is in the field {better!r} (--truth {better}; in a recipe data.labels_field={better})"
        if better
        else f"name the field with the truth, if there is one (found {', '.join(names)}), or insist (--network-labels; "
        "in a recipe data.network_labels=true)"
    )
    return (
        f"field {field!r} holds what a network said of the points, as the confidence beside it shows: a score against "
        f"it would say how alike two networks are, not how good; {advice}"
    )
