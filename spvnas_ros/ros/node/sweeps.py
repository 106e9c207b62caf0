"""Moves earlier clouds to their place in the current frame, so that the network sees more points of the scene."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any

import numpy as np
from rclpy.clock import JumpThreshold, TimeJump
from rclpy.duration import Duration
from rclpy.node import Node

from spvnas_ros.clouds.cleaning import usable
from spvnas_ros.clouds.region import Region
from spvnas_ros.clouds.transforms import HISTORY_NS, TransformError
from spvnas_ros.frame import Points
from spvnas_ros.ros.node.placing import Pose
from spvnas_ros.ros.node.statistics import FrameStatistics
from spvnas_ros.ros.node.tf import listen_to_transforms, why_unavailable

_WARN_EVERY_SECONDS = 10.0


@dataclass(frozen=True)
class SweepRules:
    """How many earlier clouds are added, and how.

    count:       number of earlier clouds; 0 labels each cloud alone
    fixed_frame: TF frame in which objects that stand still keep their place between the clouds
    timeout:     seconds that a cloud waits for TF
    ego_radius:  metres; points of earlier clouds that are nearer to their sensor belong to the own vehicle and are left
                 out
    """

    count: int
    fixed_frame: str
    timeout: float
    ego_radius: float

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> SweepRules:
        """Makes the rules from the values of the parameters, by name. Raises ValueError, which names the parameter."""
        rules = cls(*(values[f"sweeps.{name}"] for name in ("count", "fixed_frame", "timeout", "ego_radius")))
        if not rules.fixed_frame or rules.fixed_frame.startswith("/"):
            raise ValueError(
                f"sweeps.fixed_frame must be a frame's name without a slash in front, found {rules.fixed_frame!r}"
            )
        if rules.count and (reason := why_unavailable()):
            raise ValueError(f"sweeps.count must be 0 here, found {rules.count}: {reason}")
        return rules


@dataclass(frozen=True)
class Sweep:
    """The points of a cloud.

    frame:  the cloud's own
    stamp:  nanoseconds
    points: float32 `[N, 4]`, as the network sees them
    pose:   what brought them there from the cloud's own frame; None where they have stayed
    """

    frame: str
    stamp: int
    points: Points
    pose: Pose | None = None


class Sweeps:
    """Keeps the last clouds of an active node.

    It forgets them where the time jumps back, either the stamps of the clouds or the node's clock.
    """

    def __init__(self, node: Node, rules: SweepRules, statistics: FrameStatistics) -> None:
        """Raises ValueError where no package is installed that listens to TF."""
        self._rules = rules
        self._statistics = statistics
        self._logger = node.get_logger()
        self._lock = Lock()
        self._earlier: tuple[Sweep, ...] = ()
        self._newest = 0
        self._transforms = listen_to_transforms(node)
        backwards = JumpThreshold(min_forward=None, min_backward=Duration(nanoseconds=-1), on_clock_change=False)
        self._jumps = node.get_clock().create_jump_callback(backwards, post_callback=self._on_jump)

    def destroy(self) -> None:
        """Stops listening to TF and to the clock."""
        self._jumps.unregister()
        self._transforms.destroy()

    def with_earlier(self, current: Sweep, region: Region) -> Points:
        """Returns the current points, followed by those of earlier clouds in the current frame, `[N + M, 4]`.

        Where TF does not know in time where an earlier cloud was, it logs a warning and returns only the current
        points.
        """
        deadline = time.monotonic() + self._rules.timeout
        try:
            moved = [self._moved(sweep, current, deadline) for sweep in self._recent(current.stamp)]
        except TransformError as error:
            self._statistics.count_tf_failed()
            self._logger.warning(
                f"labelled without the earlier sweeps: {error}", throttle_duration_sec=_WARN_EVERY_SECONDS
            )
            return current.points
        if not moved:
            return current.points
        earlier = np.concatenate(moved)
        return np.concatenate((current.points, earlier[region.contains(earlier)]))

    def remember(self, sweep: Sweep) -> None:
        """Keeps a cloud for the clouds that follow."""
        points = sweep.points[usable(sweep.points)]
        squares = np.einsum("ij,ij->i", points[:, :3], points[:, :3])
        points = points[squares >= self._rules.ego_radius**2]
        if len(points):
            with self._lock:
                kept = (replace(sweep, points=points), *self._earlier)
                self._earlier = kept[: self._rules.count]

    def forget(self) -> None:
        """Forgets all clouds. The next cloud is labelled alone."""
        with self._lock:
            self._earlier = ()

    def _recent(self, stamp: int) -> tuple[Sweep, ...]:
        """Returns the kept clouds, the newest first.

        Clouds from before a long pause are forgotten without a warning, because TF does not reach back to them.
        """
        if stamp < self._newest:
            self._restart()
        self._newest = stamp
        with self._lock:
            self._earlier = tuple(sweep for sweep in self._earlier if stamp - sweep.stamp < HISTORY_NS)
            return self._earlier

    def _moved(self, sweep: Sweep, current: Sweep, deadline: float) -> Points:
        transform = self._transforms.lookup(
            current.frame, current.stamp, sweep.frame, sweep.stamp, self._rules.fixed_frame, deadline
        )
        if sweep.pose is not None and current.pose is not None:
            places = sweep.pose.undo(sweep.points[:, :3].astype(np.float64))
            moved = current.pose.apply(transform.apply(places)).astype(np.float32)
        else:
            moved = transform.apply(sweep.points[:, :3])
        return np.column_stack((moved, sweep.points[:, 3]))

    def _on_jump(self, _jump: TimeJump) -> None:
        self._restart()

    def _restart(self) -> None:
        self._logger.info("time jumped back: earlier sweeps and transforms are forgotten")
        self._transforms.clear()
        self.forget()
