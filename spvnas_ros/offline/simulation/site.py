"""Places objects on the ground while a scene is built."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from spvnas_ros.offline.simulation.ground import Ground
from spvnas_ros.offline.simulation.mesh import Floats, Mesh, labelled, merge, place, scatter

_MODELS = 14
"""Number of models of each kind, at most, that are made for a scene."""

Pose = Callable[[float], tuple[float, float, float, float]]


@dataclass(frozen=True)
class Actor:
    """An object with an instance number, standing or moving.

    mesh:      in its own frame: origin on the ground under its centre, x forward
    raw_label: as in SemanticKITTI's files; a moving object has the label of its moving class
    instance:  its number in the scene, from 1
    size:      length, width, height in metres
    pose:      function from seconds to x, y, z, yaw in the world
    moving:    whether the pose ever changes
    """

    mesh: Mesh
    raw_label: int
    instance: int
    size: tuple[float, float, float]
    pose: Pose
    moving: bool


@dataclass
class Fleet:
    """The models of movable objects. The first objects of a kind are new models; later ones reuse these."""

    rng: np.random.Generator
    models: dict[Callable[[np.random.Generator], Mesh], list[Mesh]] = field(default_factory=dict)

    def draw(self, make: Callable[[np.random.Generator], Mesh]) -> Mesh:
        """Returns a model that `make` built: a new one, or one of those made before when there are enough."""
        known = self.models.setdefault(make, [])
        if len(known) < _MODELS:
            known.append(make(self.rng))
            return known[-1]
        return known[int(self.rng.integers(len(known)))]


@dataclass
class Site:
    """A scene under construction: what stands on the ground, and the actors."""

    ground: Ground
    rng: np.random.Generator
    fleet: Fleet
    parts: list[Mesh] = field(default_factory=list)
    actors: list[Actor] = field(default_factory=list)

    def put(self, part: Mesh, s: float, d: float, yaw: float = 0.0, scale: float = 1.0, sink: float = 0.0) -> None:
        """Places an object, turned by `yaw` from the direction of the street, `sink` metres into the ground."""
        position, heading = self.ground.place(s, d)
        self.parts.append(place(part, position - [0, 0, sink], float(heading) + yaw, scale))

    def put_many(self, part: Mesh, s: Floats, d: Floats, yaws: Floats, scales: Floats) -> None:
        """Places copies: street coordinates, turns from the direction of the street, and scales `[K]` or `[K, 3]`."""
        positions, heading = self.ground.place(s, d)
        factors = np.repeat(scales[:, None], 3, axis=1) if scales.ndim == 1 else scales
        self.parts.append(scatter(part, positions, heading + yaws, factors))

    def park(self, part: Mesh, label: int, s: float, d: float, yaw: float = 0.0) -> None:
        """Adds an actor that stands still, tilted like the ground."""
        position, heading = self.ground.place(s, d)
        turned = float(heading) + yaw
        x, y, z = (float(value) for value in position)
        tilted = self._tilted(_centred(part), s, d, yaw)
        self._add(tilted, _size(part), label, lambda _: (x, y, z, turned), moving=False)

    def drive(self, part: Mesh, label: int, track: Callable[[float], tuple[float, float]], yaw: float) -> None:
        """Adds an actor that follows `track`, a function from seconds to street coordinates."""
        ground = self.ground

        def pose(t: float) -> tuple[float, float, float, float]:
            position, heading = ground.place(*track(t))
            return float(position[0]), float(position[1]), float(position[2]), float(heading) + yaw

        self._add(_centred(part), _size(part), label, pose, moving=True)

    def _add(self, part: Mesh, size: tuple[float, float, float], label: int, pose: Pose, moving: bool) -> None:
        number = len(self.actors) + 1
        self.actors.append(Actor(labelled(part, label, number), label, number, size, pose, moving))

    def _tilted(self, part: Mesh, s: float, d: float, yaw: float) -> Mesh:
        """Returns the mesh sheared along z, so that all wheels touch a slope."""
        relief = self.ground.relief
        along, across = (
            float(relief.height(s + ds, d + dd) - relief.height(s - ds, d - dd)) for ds, dd in ((0.5, 0), (0, 0.5))
        )
        c, sn = np.cos(yaw), np.sin(yaw)
        slope = np.array([along * c + across * sn, across * c - along * sn, 1.0])
        vertices = part.vertices.copy()
        vertices[:, 2] = (part.vertices @ slope).astype(np.float32)
        return replace(part, vertices=vertices)

    def static(self, ground: Mesh) -> Mesh:
        """Returns everything that is no actor, in one mesh."""
        return merge([ground, *self.parts])


def _size(part: Mesh) -> tuple[float, float, float]:
    low, high = part.vertices.min(axis=0), part.vertices.max(axis=0)
    return float(high[0] - low[0]), float(high[1] - low[1]), float(high[2])


def _centred(part: Mesh) -> Mesh:
    middle = (part.vertices.min(axis=0) + part.vertices.max(axis=0)) / 2
    return place(part, (-middle[0], -middle[1], 0.0))
