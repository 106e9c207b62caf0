"""Where the node's network sees the clouds: their place by the parameters, and by TF where a frame is named."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from rclpy.node import Node
from sensor_msgs.msg import PointCloud2

from spvnas_ros.clouds.mount import PlaceRule
from spvnas_ros.clouds.transforms import Transform, TransformError
from spvnas_ros.ros.node.tf import listen_to_transforms, why_unavailable

_PATIENCE_SECONDS = 0.2
_LONG_AGO_NS = 1
"""Nobody has sent a moving transform for this time; static ones hold at any time."""


class NoTransformError(Exception):
    """TF does not say where a cloud's frame is."""


@dataclass(frozen=True)
class Pose:
    """What takes coordinates of a cloud's frame to the network's: a rotation `[3, 3]`, then a shift in metres."""

    rotation: npt.NDArray[np.float64]
    shift: npt.NDArray[np.float64]

    def apply(self, positions: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Moves positions, float64 `[N, 3]`."""
        moved: npt.NDArray[np.float64] = positions @ self.rotation.T + self.shift
        return moved

    def undo(self, positions: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Moves positions back, float64 `[N, 3]`."""
        back: npt.NDArray[np.float64] = (positions - self.shift) @ self.rotation
        return back


class Placing:
    """Finds the pose of each cloud. With a target frame it listens to TF, and asks only once where TF is static."""

    def __init__(self, node: Node, rule: PlaceRule, target_frame: str) -> None:
        """target_frame: the frame that `rule` speaks of; "" for the clouds' own

        Raises ValueError where a frame is named and no package is installed that listens to TF.
        """
        self.rule = rule
        self._target = target_frame.lstrip("/")
        if self._target and (reason := why_unavailable()):
            raise ValueError(f"target_frame must be empty here, found {target_frame!r}: {reason}")
        self._transforms = listen_to_transforms(node) if self._target else None
        self._static: dict[str, Transform] = {}

    @property
    def moves(self) -> bool:
        """Whether clouds do not stay where they are."""
        return bool(self._target) or self.rule.moves

    def destroy(self) -> None:
        """Stops listening to TF."""
        if self._transforms is not None:
            self._transforms.destroy()
            self._transforms = None

    def pose(self, cloud: PointCloud2, positions: npt.NDArray[np.float64]) -> Pose:
        """Returns the pose of a cloud with these positions, `[N, 3]`.

        Raises NoTransformError where TF does not know it within 0.2 s.
        """
        frame = cloud.header.frame_id.lstrip("/")
        stamp = int(cloud.header.stamp.sec) * 1_000_000_000 + int(cloud.header.stamp.nanosec)
        first = self._to_target(frame, stamp)
        placement = self.rule.of(first.apply(positions) if self._target else positions)
        rotation = placement.mount.rotation()
        shift = rotation @ (first.translation - np.array(placement.origin))
        if placement.mount.z is not None:
            shift[2] += placement.mount.z - placement.sensor_height
        return Pose(rotation @ first.matrix(), shift)

    def _to_target(self, frame: str, stamp: int) -> Transform:
        if self._transforms is None or frame == self._target:
            return Transform.identity()
        if frame in self._static:
            return self._static[frame]
        try:
            found = self._lookup(frame, stamp, time.monotonic() + _PATIENCE_SECONDS)
        except TransformError as error:
            raise NoTransformError(f"no transform from {frame!r} to target_frame {self._target!r}: {error}") from error
        with suppress(TransformError):  # it moves
            self._static[frame] = self._lookup(frame, _LONG_AGO_NS, 0.0)
        return found

    def _lookup(self, frame: str, stamp: int, deadline: float) -> Transform:
        assert self._transforms is not None
        return self._transforms.lookup(self._target, stamp, frame, stamp, self._target, deadline)
