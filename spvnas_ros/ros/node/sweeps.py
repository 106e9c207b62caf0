"""Earlier clouds, moved to where they are in the current one, so that the network sees more points of the scene."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
from rclpy.clock import JumpThreshold, TimeJump
from rclpy.duration import Duration
from rclpy.node import Node

from spvnas_ros.clouds.region import Region
from spvnas_ros.clouds.transforms import HISTORY_NS, TransformError
from spvnas_ros.frame import Points
from spvnas_ros.ros.node.statistics import FrameStatistics
from spvnas_ros.ros.node.tf import listen_to_transforms, why_unavailable

_WARN_EVERY_SECONDS = 10.0


@dataclass(frozen=True)
class SweepRules:
    """How many earlier clouds are added, and how.

    count:       of earlier clouds; 0 for the current one alone
    fixed_frame: in which what stands still stays where it is over the time of the clouds
    timeout:     seconds that a cloud waits for TF
    ego_radius:  metres; points of earlier clouds nearer to their sensor are of the own vehicle, and left out
    """

    count: int
    fixed_frame: str
    timeout: float
    ego_radius: float

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> SweepRules:
        """From the parameters' values by name. Raises ValueError, which names the parameter."""
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
    """A cloud's points `[N, 4]` in its own frame, at its stamp (nanoseconds)."""

    frame: str
    stamp: int
    points: Points


class Sweeps:
    """The last clouds of an active node. A time that jumps back, of clouds or of the node's clock, forgets them."""

    def __init__(self, node: Node, rules: SweepRules, statistics: FrameStatistics) -> None:
        """Raises ValueError where nothing is installed that listens to TF."""
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
        """Stop listening."""
        self._jumps.unregister()
        self._transforms.destroy()

    def with_earlier(self, current: Sweep, region: Region) -> Points:
        """The current points as they are, and behind them those of earlier clouds in the current frame, `[N + M, 4]`.

        Only the current ones, with a warning, where TF does not know in time where an earlier cloud was.
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
        """Keep a cloud for those that come after it."""
        points = sweep.points[np.isfinite(sweep.points).all(axis=1)]
        squares = np.einsum("ij,ij->i", points[:, :3], points[:, :3])
        points = points[squares >= self._rules.ego_radius**2]
        if len(points):
            with self._lock:
                kept = (Sweep(sweep.frame, sweep.stamp, points), *self._earlier)
                self._earlier = kept[: self._rules.count]

    def forget(self) -> None:
        """Begin anew, with the next cloud alone."""
        with self._lock:
            self._earlier = ()

    def _recent(self, stamp: int) -> tuple[Sweep, ...]:
        """Newest first. Those from before a pause are not worth a warning: no TF reaches back to them."""
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
        return np.column_stack((transform.apply(sweep.points[:, :3]), sweep.points[:, 3]))

    def _on_jump(self, _jump: TimeJump) -> None:
        self._restart()

    def _restart(self) -> None:
        self._logger.info("time jumped back: earlier sweeps and transforms are forgotten")
        self._transforms.clear()
        self.forget()
