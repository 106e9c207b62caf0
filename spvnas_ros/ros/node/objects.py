"""From the boxes that the network has found in a cloud to the objects that are published, in the cloud's own frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from spvnas_ros.boxes.choice import BoxChoice
from spvnas_ros.boxes.conversions import to_nuscenes
from spvnas_ros.boxes.support import Support, support
from spvnas_ros.clouds.region import Region
from spvnas_ros.frame import UNLABELLED, Boxes, Points
from spvnas_ros.ros.node.placing import Pose

Motion = tuple[float, float, float]
"""Metres a second along x, y and z."""

DROP, MARK = "drop", "mark"
"""What is done with boxes that the labels of their points do not support."""


@dataclass(frozen=True)
class ObjectRules:
    """Which boxes are published.

    choice:      which of those that the network has found
    label_vote:  the least share of a box's labelled points that have to be of its class, 0..1; 0 asks no points
    unsupported: what is done with boxes of which fewer are: DROP or MARK
    """

    choice: BoxChoice = field(default_factory=BoxChoice)
    label_vote: float = 0.0
    unsupported: str = DROP

    @property
    def needs_labels(self) -> bool:
        """Whether the points have to be labelled for the boxes."""
        return self.label_vote > 0


@dataclass(frozen=True)
class Objects:
    """The objects of a cloud as they are published, the best score first.

    found: the boxes, in the frame in which the network saw the cloud
    names: the class of each
    pose:  what took the cloud's coordinates there; None where it stays where it is
    doubt: for each the class that most of its points have and their share, 0..1, where they do not support the box and
           unsupported ones are marked; else None
    ids:   for each what tells it from the other objects of the clouds before, "" where nothing does
    motions: for each that surely moves its velocity over ground, in the frame of `found`, else None; () where nobody
             follows them
    """

    found: Boxes
    names: tuple[str, ...]
    pose: Pose | None
    doubt: tuple[tuple[str, float] | None, ...]
    ids: tuple[str, ...]
    motions: tuple[Motion | None, ...] = ()

    def __len__(self) -> int:
        return len(self.found)

    def centres(self) -> npt.NDArray[np.float64]:
        """Returns the centres in the cloud's own frame, float64 `[B, 3]`, metres."""
        centres = self.found.boxes[:, :3].astype(np.float64)
        return centres if self.pose is None else self.pose.undo(centres)

    def ends(self) -> npt.NDArray[np.float64]:
        """Returns where each will be after a second if it goes on like this, in the cloud's own frame, float64
        `[B, 3]`; where it is, if it does not surely move.
        """
        ends = self.found.boxes[:, :3].astype(np.float64)
        if self.motions:
            ends += np.array([motion or (0.0, 0.0, 0.0) for motion in self.motions]).reshape(-1, 3)
        return ends if self.pose is None else self.pose.undo(ends)

    def turns(self) -> npt.NDArray[np.float64]:
        """Returns what turns each box in the cloud's own frame, unit quaternions x, y, z, w, float64 `[B, 4]`.

        The box's x axis points to its front. Where the cloud's own frame leans, boxes lean in it: they stand upright.
        """
        level = to_nuscenes(self.found.boxes)[2][:, [1, 2, 3, 0]]
        return level if self.pose is None else _product(quaternion(self.pose.rotation.T), level)


def objects_of(
    found: Boxes,
    names: Sequence[str],
    rules: ObjectRules,
    region: Region,
    pose: Pose | None,
    points: Points | None = None,
    labels: npt.NDArray[np.uint8] | None = None,
    classes: Sequence[str] = (),
) -> Objects:
    """Returns the objects that are published of the boxes of a cloud.

    found, region:   in the frame in which the network saw the cloud, as are the points
    names, classes:  of the boxes and of the points, in index order
    pose:            what took the cloud there
    points, labels:  `[N, 4]` and uint8 `[N]`, of the cloud; None asks no points
    """
    where = region.contains(found.boxes) if region.limited else None
    chosen = rules.choice(found, names, where)
    doubt: tuple[tuple[str, float] | None, ...] = (None,) * len(chosen)
    if rules.needs_labels and points is not None and labels is not None:
        said = support(points, labels, chosen, names, classes)
        lacking = said.below(rules.label_vote)
        if rules.unsupported == DROP:
            chosen = chosen.among(~lacking)
            doubt = (None,) * len(chosen)
        else:
            doubt = tuple(_said(said, box, classes) if lacking[box] else None for box in range(len(chosen)))
    kinds = tuple(names[index] for index in chosen.classes.tolist())
    return Objects(chosen, kinds, pose, doubt, ("",) * len(chosen))


def quaternion(rotation: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Returns a rotation matrix `[3, 3]` as a unit quaternion x, y, z, w, float64 `[4]`.

    From its eigenvector, as Bar-Itzhack has it ("New method for extracting the quaternion from a rotation matrix", J.
    Guidance 23 (6), 2000): every rotation comes out equally well.
    """
    (a, b, c), (d, e, f), (g, h, i) = rotation
    matrix = np.array(
        [
            [a - e - i, 0, 0, 0],
            [b + d, e - a - i, 0, 0],
            [c + g, f + h, i - a - e, 0],
            [h - f, c - g, d - b, a + e + i],
        ]
    )
    _, vectors = np.linalg.eigh(matrix)
    found: npt.NDArray[np.float64] = vectors[:, -1]
    return found if found[3] >= 0 else -found


def _product(first: npt.NDArray[np.float64], others: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Returns a quaternion `[4]` times others `[N, 4]`, all x, y, z, w: what turns by the others, then by the first."""
    x, y, z, w = first
    matrix = np.array([[w, -z, y, x], [z, w, -x, y], [-y, x, w, z], [-x, -y, -z, w]])
    turned: npt.NDArray[np.float64] = others @ matrix.T
    return turned


def _said(said: Support, box: int, classes: Sequence[str]) -> tuple[str, float]:
    label = int(said.labels[box])
    return ("unlabelled", 0.0) if label == UNLABELLED else (classes[label], float(said.label_share[box]))
