"""Gives the objects of a cloud the ids that they had in the clouds before, in a frame of TF in which what stands stays
where it is.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt
from rclpy.clock import JumpThreshold, TimeJump
from rclpy.duration import Duration
from rclpy.node import Node

from spvnas_ros.boxes.tracks import NO_ID, TrackError, TrackState, track
from spvnas_ros.clouds.transforms import TransformError
from spvnas_ros.errors import UserError
from spvnas_ros.frame import Boxes
from spvnas_ros.ros.node.objects import Motion, Objects
from spvnas_ros.ros.node.tf import listen_to_transforms, why_unavailable

_PATIENCE_SECONDS = 0.05
"""TF is told of a cloud's moment soon after the cloud: a network takes longer than this, so few clouds wait at all."""
_WARN_EVERY_SECONDS = 10.0
_SLOWEST = 0.5
"""Metres a second from which an object is said to move."""


@dataclass(frozen=True)
class FollowRules:
    """Whether objects are followed from cloud to cloud, and where.

    enabled: whether they are
    frame:   TF frame in which they are followed; "" for the clouds' own
    """

    enabled: bool = False
    frame: str = "odom"

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> FollowRules:
        """Makes the rules from the values of the parameters, by name. Raises UserError, which names the parameter."""
        rules = cls(values["objects.track"], values["objects.track_frame"])
        if rules.frame.startswith("/"):
            raise UserError(
                f"objects.track_frame must be a frame's name without a slash in front, found {rules.frame!r}"
            )
        if rules.enabled and rules.frame and (reason := why_unavailable()):
            raise UserError(f"objects.track_frame must be empty here, found {rules.frame!r}: {reason}")
        return rules


@dataclass(frozen=True)
class Followed:
    """What a node has followed so far.

    frame:    in which; "" for the clouds' own
    objects:  that are followed now, unsure ones too
    given:    ids that were given
    restarts: how often all was forgotten
    unplaced: clouds whose objects got no ids, because TF did not say where they were
    """

    frame: str
    objects: int = 0
    given: int = 0
    restarts: int = 0
    unplaced: int = 0


class Following:
    """Follows the objects of an active node. One thread asks; the clock's jumps and diagnostics come from others."""

    def __init__(self, node: Node, rules: FollowRules, next_id: int = 1) -> None:
        """next_id: that of the next object; a node gives none twice

        Raises ValueError where a frame is named and no package is installed that listens to TF.
        """
        self._frame = rules.frame
        self._logger = node.get_logger()
        self._lock = Lock()
        self._state = TrackState(next_id=next_id)
        self._numbers = Followed(rules.frame)
        self._transforms = listen_to_transforms(node) if rules.frame else None
        backwards = JumpThreshold(min_forward=None, min_backward=Duration(nanoseconds=-1), on_clock_change=False)
        self._jumps = node.get_clock().create_jump_callback(backwards, post_callback=self._on_jump)
        _warm_up()

    def destroy(self) -> None:
        """Stops listening to TF and to the clock."""
        self._jumps.unregister()
        if self._transforms is not None:
            self._transforms.destroy()

    @property
    def next_id(self) -> int:
        """The id of the next object."""
        with self._lock:
            return self._state.next_id

    def numbers(self) -> Followed:
        """Returns what was followed so far."""
        with self._lock:
            return replace(self._numbers, objects=len(self._state))

    def __call__(self, objects: Objects, frame: str, stamp: int) -> Objects:
        """Returns the objects of a cloud as their tracks have them: with ids, smoothed, and with their motion.

        frame, stamp: of the cloud; nanoseconds

        Where TF does not say where the cloud was, it logs a warning and returns the objects as they are.
        """
        with self._lock:
            back = self._state.stamp is not None and stamp < self._state.stamp
        if back:
            self._restart()
        try:
            pose = self._pose(objects, frame.lstrip("/"), stamp)
            with self._lock:
                before = self._state
                self._state, tracked = track(before, objects.found, stamp, pose)
        except (TransformError, TrackError) as error:  # the latter: a place that is none
            with self._lock:
                self._numbers = replace(self._numbers, unplaced=self._numbers.unplaced + 1)
            self._logger.warning(
                f"objects without ids: {error} (objects.track_frame is {self._frame!r}; an empty one follows objects "
                "in the clouds' own frame)",
                throttle_duration_sec=_WARN_EVERY_SECONDS,
            )
            return objects
        with self._lock:
            self._numbers = replace(
                self._numbers,
                given=self._numbers.given + self._state.next_id - before.next_id,
                restarts=self._numbers.restarts + tracked.restarted,
            )
        ids = tuple("" if number == NO_ID else str(number) for number in tracked.ids.tolist())
        speeds = np.linalg.norm(tracked.velocities, axis=1)
        moves = (tracked.ids != NO_ID) & (speeds > np.maximum(_SLOWEST, 2 * tracked.deviations))
        motions: list[Motion | None] = [
            (each[0], each[1], each[2]) if moving else None
            for each, moving in zip(tracked.velocities.tolist(), moves.tolist(), strict=True)
        ]
        return replace(objects, found=tracked.boxes, ids=ids, motions=tuple(motions))

    def _pose(self, objects: Objects, frame: str, stamp: int) -> npt.NDArray[np.float64] | None:
        """Returns the fixed frame from that in which the objects are, `[4, 4]`; None where the latter is taken."""
        if self._transforms is None:
            return None
        deadline = time.monotonic() + _PATIENCE_SECONDS
        found = self._transforms.lookup(self._frame, stamp, frame, stamp, self._frame, deadline)
        cloud = np.eye(4)
        cloud[:3, :3], cloud[:3, 3] = found.matrix(), found.translation
        if objects.pose is None:
            return cloud
        network = np.eye(4)
        network[:3, :3], network[:3, 3] = objects.pose.rotation, objects.pose.shift
        pose: npt.NDArray[np.float64] = cloud @ np.linalg.inv(network)
        return pose

    def _on_jump(self, _jump: TimeJump) -> None:
        self._restart()

    def _restart(self) -> None:
        with self._lock:
            known = self._state.stamp is not None
            self._state = self._state.forgotten()
            self._numbers = replace(self._numbers, restarts=self._numbers.restarts + known)
        # Transforms of a later time would hide those of now.
        if self._transforms is not None:
            self._transforms.clear()
        self._logger.info(
            "time jumped back: objects that were followed are forgotten", throttle_duration_sec=_WARN_EVERY_SECONDS
        )


def _warm_up() -> None:
    """Compiles what overlaps take, so that no cloud waits for a compiler."""
    box = np.array([[0, 0, 0, 9, 9, 1, 0], [4, 0, 0, 9, 9, 1, 0]], np.float32)
    state = TrackState()
    for row in box:
        state, _ = track(state, Boxes(row[None], np.ones(1, np.float32), np.zeros(1, np.uint8)), len(state))
