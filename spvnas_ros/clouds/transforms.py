"""Where frames were at which time: rigid transforms, and a buffer of them as TF sends them. Pure numpy, without ROS."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]

Coordinates = TypeVar("Coordinates", np.float32, np.float64)

HISTORY_NS = 10_000_000_000
"""How far a buffer remembers, like tf2's by default."""


class TransformError(LookupError):
    """A transform is not known, for the reason given.

    may_come: whether it may arrive yet; False where it is too old to
    """

    def __init__(self, reason: str, may_come: bool = True) -> None:
        super().__init__(reason)
        self.may_come = may_come


@dataclass(frozen=True, eq=False)
class Transform:
    """A rotation, then a translation: takes coordinates in one frame to those in another.

    translation: float64 `[3]`, metres
    rotation:    float64 `[4]`, unit quaternion x, y, z, w
    """

    translation: Vector
    rotation: Vector

    @classmethod
    def of(cls, translation: Sequence[float], rotation: Sequence[float]) -> Transform:
        """From x, y, z and the quaternion x, y, z, w of any length.

        Raises ValueError where a number is not finite or the quaternion is zero.
        """
        moved, turned = np.array(translation, np.float64), np.array(rotation, np.float64)
        length = float(np.linalg.norm(turned))
        if not (np.isfinite(moved).all() and math.isfinite(length) and length > 1e-6):
            raise ValueError(
                f"a transform must have finite numbers and a quaternion of length 1, found {translation} and {rotation}"
            )
        return cls(moved, turned / length)

    @classmethod
    def identity(cls) -> Transform:
        """Leaves everything where it is."""
        return cls(np.zeros(3), np.array([0.0, 0.0, 0.0, 1.0]))

    def matrix(self) -> Vector:
        """The rotation as a matrix `[3, 3]`."""
        x, y, z, w = self.rotation
        return np.array(
            [
                [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
                [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
                [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
            ]
        )

    def __matmul__(self, first: Transform) -> Transform:
        """`first`, then this."""
        product = _product(self.rotation, first.rotation)
        return Transform(self.translation + self.matrix() @ first.translation, product / float(np.linalg.norm(product)))

    def inverse(self) -> Transform:
        """The way back."""
        back = self.rotation * np.array([-1.0, -1.0, -1.0, 1.0])
        return Transform(-(self.matrix().T @ self.translation), back)

    def apply(self, points: npt.NDArray[Coordinates]) -> npt.NDArray[Coordinates]:
        """Points `[N, 3]`, moved; of the type they had."""
        moved = points @ self.matrix().T.astype(points.dtype) + self.translation.astype(points.dtype)
        return moved.astype(points.dtype, copy=False)

    def towards(self, other: Transform, fraction: float) -> Transform:
        """Between this (fraction 0) and `other` (1): straight on, and at a constant rate the shorter way around."""
        moved = self.translation + fraction * (other.translation - self.translation)
        return Transform(moved, _slerp(self.rotation, other.rotation, fraction))


@dataclass
class _Edge:
    """A frame's poses in its parent, oldest first; one without a time where it is static."""

    parent: str
    static: bool
    stamps: list[int] = field(default_factory=list)
    poses: list[Transform] = field(default_factory=list)

    def insert(self, stamp: int, pose: Transform, history_ns: int) -> None:
        if self.static:
            self.stamps, self.poses = [stamp], [pose]
            return
        if self.stamps and stamp < self.stamps[-1] - history_ns:
            return
        place = bisect_left(self.stamps, stamp)
        if place < len(self.stamps) and self.stamps[place] == stamp:
            self.poses[place] = pose
            return
        self.stamps.insert(place, stamp)
        self.poses.insert(place, pose)
        old = bisect_left(self.stamps, self.stamps[-1] - history_ns)
        del self.stamps[:old], self.poses[:old]

    def at(self, child: str, stamp: int) -> Transform:
        if self.static:
            return self.poses[0]
        place = bisect_left(self.stamps, stamp)
        if place == len(self.stamps):
            late = (stamp - self.stamps[-1]) / 1e9
            raise TransformError(f"the newest transform from {child} to {self.parent} is {late:.3f} s too old")
        if self.stamps[place] == stamp:
            return self.poses[place]
        if place == 0:
            early = (self.stamps[0] - stamp) / 1e9
            reason = f"the oldest transform from {child} to {self.parent} is {early:.3f} s too new"
            raise TransformError(reason, may_come=False)
        before, after = self.stamps[place - 1], self.stamps[place]
        return self.poses[place - 1].towards(self.poses[place], (stamp - before) / (after - before))


class TransformBuffer:
    """A tree of frames, and where each was in its parent over the last seconds. For one thread at a time."""

    def __init__(self, history_ns: int = HISTORY_NS) -> None:
        self._history_ns = history_ns
        self._edges: dict[str, _Edge] = {}

    def insert(self, parent: str, child: str, stamp: int, pose: Transform, static: bool = False) -> None:
        """Where `child` is in `parent` at a time (nanoseconds), or always.

        A child with another parent than before begins anew. What is older than the history is not kept.
        Raises ValueError where a name is empty or both are the same.
        """
        if not parent or not child or parent == child:
            raise ValueError(f"a transform needs two frames, found {child!r} in {parent!r}")
        edge = self._edges.get(child)
        if edge is None or (edge.parent, edge.static) != (parent, static):
            edge = self._edges[child] = _Edge(parent, static)
        edge.insert(stamp, pose, self._history_ns)

    def clear(self) -> None:
        """Forget everything but what is static, as after a jump in time."""
        self._edges = {child: edge for child, edge in self._edges.items() if edge.static}

    def lookup(self, target: str, target_time: int, source: str, source_time: int, fixed_frame: str) -> Transform:
        """From coordinates in `source` at one time to those in `target` at another (nanoseconds).

        In between they are in `fixed_frame`, of which both are taken to be the same place at both times.
        Raises TransformError where a frame or a time is not known.
        """
        away = self._between(fixed_frame, target, target_time)
        return away.inverse() @ self._between(fixed_frame, source, source_time)

    def _between(self, target: str, source: str, stamp: int) -> Transform:
        up, down = self._ancestors(source), self._ancestors(target)
        common = next((frame for frame in up if frame in down), None)
        if common is None:
            raise TransformError(f"no transform connects {source} with {target}")
        return self._to(common, down, stamp).inverse() @ self._to(common, up, stamp)

    def _to(self, ancestor: str, path: Sequence[str], stamp: int) -> Transform:
        pose = Transform.identity()
        for frame in path[: path.index(ancestor)]:
            pose = self._edges[frame].at(frame, stamp) @ pose
        return pose

    def _ancestors(self, frame: str) -> list[str]:
        """The frame, its parent, the parent's, to the root."""
        path = [frame]
        while (edge := self._edges.get(path[-1])) is not None:
            if edge.parent in path:
                raise TransformError(f"the frames go in a circle: {', '.join(path)}")
            path.append(edge.parent)
        return path


def _product(a: Vector, b: Vector) -> Vector:
    ax, ay, az, aw = a
    bx, by, bz, bw = b
    return np.array(
        [
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
            aw * bw - ax * bx - ay * by - az * bz,
        ]
    )


def _slerp(a: Vector, b: Vector, fraction: float) -> Vector:
    cosine = float(a @ b)
    # Both signs of a quaternion are the same rotation; the nearer one is the shorter way.
    if cosine < 0:
        b, cosine = -b, -cosine
    # The sines of so small an angle lose their digits, and the chord is as good as the arc.
    if cosine > 1 - 1e-9:
        mixed = a + fraction * (b - a)
    else:
        angle = math.acos(cosine)
        mixed = (math.sin((1 - fraction) * angle) * a + math.sin(fraction * angle) * b) / math.sin(angle)
    return np.asarray(mixed / np.linalg.norm(mixed))
