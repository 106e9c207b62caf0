"""Defines triangles with their material and labels, and joins, moves and copies them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from spvnas_ros.offline.simulation.materials import material

Floats = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Mesh:
    """Triangles; the order of a triangle's corners has no meaning.

    vertices:  float32 `[V, 3]`, metres, x forward, y left, z up
    faces:     int32 `[F, 3]`, indices of vertices
    material:  uint8 `[F]`, indices of `MATERIALS`
    raw_label: uint16 `[F]`, labels as in SemanticKITTI's files
    instance:  uint16 `[F]`, instance number, 0 = none
    """

    vertices: npt.NDArray[np.float32]
    faces: npt.NDArray[np.int32]
    material: npt.NDArray[np.uint8]
    raw_label: npt.NDArray[np.uint16]
    instance: npt.NDArray[np.uint16]

    def __len__(self) -> int:
        """Returns the number of triangles."""
        return len(self.faces)


def mesh(vertices: npt.ArrayLike, faces: npt.ArrayLike, of: str | npt.NDArray[np.uint8], label: int = 0) -> Mesh:
    """Builds a mesh of one label. `of` is the name of its material, or the index of a material for each face."""
    triangles = np.asarray(faces, np.int32).reshape(-1, 3)
    count = len(triangles)
    return Mesh(
        np.asarray(vertices, np.float32).reshape(-1, 3),
        triangles,
        np.full(count, material(of), np.uint8) if isinstance(of, str) else of,
        np.full(count, label, np.uint16),
        np.zeros(count, np.uint16),
    )


EMPTY = mesh([], [], "asphalt")


def merge(meshes: Iterable[Mesh]) -> Mesh:
    """Joins all triangles in one mesh, in the given order."""
    parts = [part for part in meshes if len(part.faces)]
    if not parts:
        return EMPTY
    offsets = np.cumsum([0, *(len(part.vertices) for part in parts[:-1])])
    return Mesh(
        np.concatenate([part.vertices for part in parts]),
        np.concatenate([part.faces + np.int32(offset) for part, offset in zip(parts, offsets, strict=True)]),
        np.concatenate([part.material for part in parts]),
        np.concatenate([part.raw_label for part in parts]),
        np.concatenate([part.instance for part in parts]),
    )


def labelled(part: Mesh, label: int, instance: int = 0) -> Mesh:
    """Returns the same triangles, all with this label and instance."""
    count = len(part.faces)
    return replace(part, raw_label=np.full(count, label, np.uint16), instance=np.full(count, instance, np.uint16))


def rotation(yaw: float) -> npt.NDArray[np.float64]:
    """Returns the rotation about z by `yaw` radians, `[3, 3]`."""
    c, s = np.cos(yaw), np.sin(yaw)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def place(part: Mesh, position: npt.ArrayLike, yaw: float = 0.0, scale: npt.ArrayLike = 1.0) -> Mesh:
    """Returns the mesh scaled along its own axes, turned about z and moved, in that order."""
    vertices = part.vertices * np.asarray(scale) @ rotation(yaw).T + np.asarray(position)
    return replace(part, vertices=vertices.astype(np.float32))


def transform(part: Mesh, matrix: Floats) -> Mesh:
    """Returns the mesh transformed by a rigid or affine `[4, 4]` matrix."""
    return replace(part, vertices=(part.vertices @ matrix[:3, :3].T + matrix[:3, 3]).astype(np.float32))


def scatter(part: Mesh, positions: Floats, yaws: Floats, scales: Floats) -> Mesh:
    """Returns copies of one mesh, as one mesh.

    positions: `[K, 3]`, metres
    yaws:      `[K]`, radians
    scales:    `[K, 3]`, along the mesh's own axes
    """
    count, size = len(positions), len(part.vertices)
    if not count:
        return EMPTY
    c, s = np.cos(yaws)[:, None], np.sin(yaws)[:, None]
    local = part.vertices[None] * np.asarray(scales, np.float64)[:, None, :]
    x = c * local[..., 0] - s * local[..., 1]
    y = s * local[..., 0] + c * local[..., 1]
    vertices = np.stack([x, y, local[..., 2]], axis=-1) + positions[:, None, :]
    faces = part.faces[None] + (np.arange(count, dtype=np.int32) * size)[:, None, None]
    return Mesh(
        vertices.reshape(-1, 3).astype(np.float32),
        faces.reshape(-1, 3),
        np.tile(part.material, count),
        np.tile(part.raw_label, count),
        np.tile(part.instance, count),
    )
