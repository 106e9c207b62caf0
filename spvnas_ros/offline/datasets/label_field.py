"""Finds and reads the field of a bag's clouds that holds the labels: its name, who wrote the labels, and what its
numbers mean.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from spvnas_ros.clouds.point_cloud2 import CONFIDENCE_FIELD, LABEL_FIELD, RENAMED_PREFIX
from spvnas_ros.errors import UserError
from spvnas_ros.frame import UNLABELLED
from spvnas_ros.labels import plain_ids
from spvnas_ros.offline.datasets.scan import SEMANTIC_BITS, Labels

IDS: Final = ("auto", "raw", "class")
"""Values that `LabelField.ids` may have."""

Ids = npt.NDArray[np.int64]


class LabelFieldError(UserError):
    """Raised where a field holds no labels or labels that are not the truth. The message says what was found and names
    the cloud, if one cloud is at fault.
    """


@dataclass(frozen=True)
class LabelField:
    """The place of the true labels in a bag's clouds, and how to read them.

    name:    name of the field. It may have any numeric type. Its values are whole numbers, of which the low 16 bits
             count; -1 is no label.
    ids:     "raw": SemanticKITTI's ids, which a label map turns into classes. "class": class indices, 255 = none.
             "auto": decided from the whole bag: class indices where every number is a class index or 255, else raw ids.
             (The raw ids of road, building and vegetation are 40, 50 and 70; for a drive without all of these, set
             `ids`.)
    network: accept labels that a network wrote as the truth

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
        """Returns the ids in the field, int64 `[N]`: the low 16 bits, or negative numbers as they are.

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
        return plain_ids(values)

    def survey(self, frames: Iterable[tuple[str, npt.NDArray[np.void]]]) -> Ids:
        """Returns all numbers that occur in the field of these frames, in order. Raises as `read`."""
        lowest = 1 << SEMANTIC_BITS
        seen = np.zeros(2 * lowest, np.bool_)
        for name, points in frames:
            seen[self.read(name, points) + lowest] = True
        return np.flatnonzero(seen) - lowest

    def settled(self, found: Ids, num_classes: int) -> LabelField:
        """Returns the field with "auto" replaced by "class" or "raw". `found` holds all numbers that occur."""
        if self.ids != "auto":
            return self
        indices = (found < num_classes) | (found == UNLABELLED)  # negative numbers are neither, and decide nothing
        return replace(self, ids="class" if indices.all() else "raw")


def class_indices(num_classes: int, ids: Ids) -> Labels:
    """Returns ids that are class indices already, or 255 or -1 for none, as uint8 `[N]`.

    Raises LabelFieldError for any other id.
    """
    none = (ids == UNLABELLED) | (ids == -1)
    if wrong := sorted({int(i) for i in ids[((ids >= num_classes) | (ids < 0)) & ~none]}):
        raise LabelFieldError(f"class indices must be 0 to {num_classes - 1}, or 255 or -1 for none, found {wrong}")
    return np.where(none, UNLABELLED, ids).astype(np.uint8)


def truth_field(names: Collection[str]) -> str | None:
    """Returns the name of the field with the truth: `label`, or `input_label` where a network wrote `label`. Returns
    None where neither holds the truth.
    """
    usual = (LABEL_FIELD, RENAMED_PREFIX + LABEL_FIELD)
    return next((name for name in usual if name in names and not written_by_network(name, names)), None)


def written_by_network(field: str, names: Collection[str]) -> bool:
    """Tells from the names of a cloud's fields whether a network wrote a field: the node, or a command of this package.

    They write `confidence` beside `label`, and rename older fields of these names (`point_cloud2.with_labels`). So the
    number of renamed confidences is the number of renamed labels that networks wrote. A true label was renamed before
    these.
    """
    if field == LABEL_FIELD:
        return CONFIDENCE_FIELD in names
    labels, confidences = _renamed(LABEL_FIELD, names), _renamed(CONFIDENCE_FIELD, names)
    return field in labels and labels.index(field) >= len(labels) - len(confidences)


def _renamed(field: str, names: Collection[str]) -> list[str]:
    """Returns the names of the fields that once had this name, the oldest first."""
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
