"""Casts rays at triangles: at still and moving objects, and through glass at what lies behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from spvnas_ros.errors import UserError
from spvnas_ros.offline.simulation.returns import TRANSMISSION
from spvnas_ros.offline.simulation.scene import Actor, Mesh

if TYPE_CHECKING:
    from embreex.rtcore_scene import EmbreeScene

_THROUGH = 3
"""Number of surfaces that a ray can pass and still hit another."""
_PAST = np.float32(0.01)
"""Distance behind a surface, metres, at which a ray that passed it goes on."""
_NOTHING = np.float32(np.inf)

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]


class SimulationError(UserError):
    """Raised where a simulation cannot be run. The message says what was found, what was expected and what to do."""


class Target:
    """Triangles to cast rays at. Raises SimulationError where Embree is not installed."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self._embree = _commit(mesh) if len(mesh.faces) else None

    def cast(self, origin: Floats, direction: Floats) -> tuple[Floats, npt.NDArray[np.int32], Floats]:
        """Finds the nearest triangle along each ray `[N, 3]`, with directions of unit length.

        Returns distance (inf: none), index (-1: none) and cosine of incidence, `[N]` each.
        """
        count = len(origin)
        if self._embree is None or not count:
            return np.full(count, np.inf, np.float32), np.full(count, -1, np.int32), np.zeros(count, np.float32)
        found = self._embree.run(origin, direction, query="INTERSECT", output=True)
        face, normal = found["primID"], found["Ng"]
        length = np.sqrt(np.einsum("ij,ij->i", normal, normal))
        along = np.abs(np.einsum("ij,ij->i", normal, direction))
        cosine = np.divide(along, length, out=np.zeros(count, np.float32), where=length > 0)
        return np.where(face >= 0, found["tfar"], _NOTHING), face, np.minimum(cosine, 1)


def check_embree() -> None:
    """Raises SimulationError where Embree is not installed."""
    try:
        import embreex.mesh_construction
        import embreex.rtcore_scene  # noqa: F401
    except ImportError as error:
        raise SimulationError(
            f"the simulator casts rays with embreex, which cannot be imported ({error}); "
            "install it with: pip install 'spvnas_ros[simulate]'"
        ) from error


def _commit(mesh: Mesh) -> EmbreeScene:
    check_embree()
    from embreex.mesh_construction import TriangleMesh
    from embreex.rtcore_scene import EmbreeScene

    scene: Any = EmbreeScene()
    TriangleMesh(scene, np.ascontiguousarray(mesh.vertices, np.float32), np.ascontiguousarray(mesh.faces, np.int32))
    return scene


def as_labelled(actor: Actor) -> Mesh:
    """Returns the actor's triangles in its own frame, with its label and instance number."""
    count = len(actor.mesh.faces)
    return replace(
        actor.mesh,
        raw_label=np.full(count, actor.raw_label, np.uint16),
        instance=np.full(count, actor.instance, np.uint16),
    )


def turn_of(yaw: float) -> npt.NDArray[np.float64]:
    """Returns the rotation about z by `yaw` radians, `[3, 3]`."""
    cos, sin = np.cos(yaw), np.sin(yaw)
    return np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])


@dataclass(frozen=True)
class Mover:
    """A moving actor, its pose when the beams reach it, and the rays that may hit it.

    target: in the frame of the actor; at: x, y, z, yaw; rays: int64, numbers of rays
    """

    target: Target
    at: tuple[float, float, float, float]
    rays: Rows

    def cast(self, origin: Floats, direction: Floats) -> tuple[Floats, npt.NDArray[np.int32], Floats]:
        """Casts rays given in the world; returns the same as `Target.cast`."""
        turn = turn_of(self.at[3]).astype(np.float32)
        local = (origin - np.array(self.at[:3], np.float32)) @ turn
        return self.target.cast(local, np.ascontiguousarray(direction @ turn))


@dataclass(frozen=True)
class Found:
    """The hits of rays `[N]`: metres (inf: no hit), cosine of incidence, material, raw label and instance."""

    distance: Floats
    cosine: Floats
    material: npt.NDArray[np.uint8]
    label: npt.NDArray[np.uint16]
    instance: npt.NDArray[np.uint16]

    @classmethod
    def nothing(cls, count: int) -> Found:
        """Returns arrays without any hit."""
        return cls(
            np.full(count, np.inf, np.float32),
            np.zeros(count, np.float32),
            np.zeros(count, np.uint8),
            np.zeros(count, np.uint16),
            np.zeros(count, np.uint16),
        )

    def put(self, rows: Rows, met: tuple[Floats, npt.NDArray[np.int32], Floats], mesh: Mesh) -> None:
        """Stores the hits of rays `rows` in a mesh where they are nearer than the hits so far."""
        distance, face, cosine = met
        nearer = np.flatnonzero(distance < self.distance[rows])
        rows, face = rows[nearer], face[nearer]
        self.distance[rows], self.cosine[rows] = distance[nearer], cosine[nearer]
        self.material[rows], self.label[rows] = mesh.material[face], mesh.raw_label[face]
        self.instance[rows] = mesh.instance[face]


def cast(still: Target, movers: Sequence[Mover], origin: Floats, direction: Floats, rng: np.random.Generator) -> Found:
    """Returns the hits of rays `[N, 3]` in the world. Rays pass glass by chance and go on behind it.

    `origin` is changed: the rays that passed a surface start behind it afterwards.
    """
    found = Found.nothing(len(origin))
    passed = np.zeros(len(origin), np.float32)
    rays, under_way = np.arange(len(origin)), np.ones(len(origin), np.bool_)
    for _ in range(_THROUGH + 1):
        found.put(rays, still.cast(origin[rays], direction[rays]), still.mesh)
        for mover in movers:
            near = mover.rays[under_way[mover.rays]]
            found.put(near, mover.cast(origin[near], direction[near]), mover.target.mesh)
        going_on = rng.random(len(rays), np.float32) < TRANSMISSION[found.material[rays]]
        rays = rays[going_on & np.isfinite(found.distance[rays])]
        if not len(rays):
            break
        under_way[:] = False
        under_way[rays] = True
        step = found.distance[rays] + _PAST
        origin[rays] += direction[rays] * step[:, None]
        passed[rays] += step
        found.distance[rays] = np.inf
    np.add(found.distance, passed, out=found.distance)
    return found
