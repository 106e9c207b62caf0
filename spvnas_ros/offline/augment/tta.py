"""Makes several views of a scan, so that their probabilities can be averaged (test-time augmentation)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spvnas_ros.frame import Points
from spvnas_ros.offline.augment.boxed_scene import moved


@dataclass(frozen=True)
class View:
    """A view of a scan: mirrored, then turned, then scaled. Points keep their order, and so do the results for them.

    mirrored: along x, along y; degrees: about z, counterclockwise from above; factor: of size
    """

    mirrored: tuple[bool, bool] = (False, False)
    degrees: float = 0.0
    factor: float = 1.0

    @property
    def matrix(self) -> npt.NDArray[np.float64]:
        """The matrix `[3, 3]` that the view applies to x, y, z."""
        angle = np.radians(self.degrees)
        c, s = np.cos(angle), np.sin(angle)
        turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
        signs = [-1.0 if flipped else 1.0 for flipped in self.mirrored]
        matrix: npt.NDArray[np.float64] = self.factor * turn @ np.diag([*signs, 1.0])
        return matrix

    def __call__(self, points: Points) -> Points:
        """Returns points float32 `[N, 4]` in this view."""
        return moved(points, self.matrix)


def tta_views(
    degrees: Sequence[float] = (0.0, -45.0, 45.0), factors: Sequence[float] = (1.0, 0.95, 1.05)
) -> tuple[View, ...]:
    """Returns all views, the unchanged scan first: each of the four mirrorings with every angle and factor.

    The defaults give the 36 views of mmdetection3d's SPVCNN.
    """
    mirrored = ((False, False), (True, False), (False, True), (True, True))
    return tuple(View(*choice) for choice in itertools.product(mirrored, degrees, factors))
