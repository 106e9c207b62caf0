"""Builds simple solids, from which all other objects are composed. Each is placed by its centre or by its points."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from spvnas_ros.offline.simulation.mesh import Floats, Mesh, merge, mesh

_BOX = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (0.0, 1.0)])
_BOX_FACES = np.array(
    [
        [0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1],
        [2, 3, 7], [2, 7, 6], [0, 2, 6], [0, 6, 4], [1, 5, 7], [1, 7, 3],
    ]
)  # fmt: skip


def box(size: Sequence[float], of: str, centre: Sequence[float] = (0.0, 0.0, 0.0), label: int = 0) -> Mesh:
    """Builds a box of length, width, height in metres; `centre` is that of its floor."""
    return mesh(_BOX * np.asarray(size) + np.asarray(centre), _BOX_FACES, of, label)


def boxes(sizes: npt.ArrayLike, centres: npt.ArrayLike, of: str, label: int = 0) -> Mesh:
    """Builds many boxes of one material: sizes `[K, 3]` and centres of their floors `[K, 3]`."""
    middle = np.asarray(centres, np.float64).reshape(-1, 3)
    extent = np.broadcast_to(np.asarray(sizes, np.float64), middle.shape)
    vertices = _BOX[None] * extent[:, None] + middle[:, None]
    faces = _BOX_FACES[None] + (8 * np.arange(len(middle)))[:, None, None]
    return mesh(vertices, faces, of, label)


def quads(corners: npt.ArrayLike, of: str | npt.NDArray[np.uint8], label: int = 0) -> Mesh:
    """Builds quadrilaterals from their corners in order, `[K, 4, 3]`. `of` is one material or an index for each."""
    points = np.asarray(corners, np.float64).reshape(-1, 4, 3)
    start = 4 * np.arange(len(points))[:, None]
    faces = np.stack([start + [0, 1, 2], start + [0, 2, 3]], axis=1)
    return mesh(points, faces, of if isinstance(of, str) else np.repeat(of, 2), label)


def tubes(
    starts: npt.ArrayLike,
    ends: npt.ArrayLike,
    radii: npt.ArrayLike,
    of: str,
    label: int = 0,
    sides: int = 6,
    end_radii: npt.ArrayLike | None = None,
) -> Mesh:
    """Builds round bars between points, open at their ends.

    starts, ends: `[K, 3]`, metres
    radii:        one or `[K]`, metres; `end_radii` for bars that taper
    """
    first = np.asarray(starts, np.float64).reshape(-1, 3)
    last = np.asarray(ends, np.float64).reshape(-1, 3)
    near = np.broadcast_to(np.asarray(radii, np.float64), len(first))
    far = near if end_radii is None else np.broadcast_to(np.asarray(end_radii, np.float64), len(first))
    across, upward = _frame(last - first)
    angle = 2 * np.pi * np.arange(sides) / sides
    around = across[:, None] * np.cos(angle)[None, :, None] + upward[:, None] * np.sin(angle)[None, :, None]
    rings = np.stack(
        [first[:, None] + around * near[:, None, None], last[:, None] + around * far[:, None, None]], axis=1
    )
    side = np.arange(sides)
    after = (side + 1) % sides
    pattern = np.concatenate(
        [np.stack([side, after, after + sides], axis=1), np.stack([side, after + sides, side + sides], axis=1)]
    )
    faces = pattern[None] + (2 * sides * np.arange(len(first)))[:, None, None]
    return mesh(rings, faces, of, label)


def polyline(points: npt.ArrayLike, radius: npt.ArrayLike, of: str, label: int = 0, sides: int = 6) -> Mesh:
    """Builds a round bar through points `[N, 3]`; `radius` is one or `[N]`."""
    line = np.asarray(points, np.float64)
    thick = np.broadcast_to(np.asarray(radius, np.float64), len(line))
    return tubes(line[:-1], line[1:], thick[:-1], of, label, sides, thick[1:])


def _frame(direction: Floats) -> tuple[Floats, Floats]:
    """Returns two unit vectors that are perpendicular to each direction `[K, 3]`."""
    along = direction / np.maximum(np.linalg.norm(direction, axis=1, keepdims=True), 1e-9)
    helper = np.where(np.abs(along[:, 2:3]) < 0.9, [[0.0, 0.0, 1.0]], [[1.0, 0.0, 0.0]])
    across = _cross(along, helper)
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    return across, _cross(across, along)


def _cross(a: Floats, b: Floats) -> Floats:
    """Does the same as `np.cross`, several times faster for a few rows."""
    return a[:, [1, 2, 0]] * b[:, [2, 0, 1]] - a[:, [2, 0, 1]] * b[:, [1, 2, 0]]


def wheel(radius: float, width: float, of: str, centre: Sequence[float], sides: int = 14) -> Mesh:
    """Builds a closed cylinder as a wheel that rolls along x; `centre` is that of its axle."""
    middle = np.asarray(centre, np.float64)
    half = np.array([0.0, width / 2, 0.0])
    tyre = tubes(middle - half, middle + half, radius, of, sides=sides)
    return merge([tyre, disc(radius, of, middle + half, sides), disc(radius, of, middle - half, sides)])


def disc(radius: float, of: str, centre: npt.ArrayLike, sides: int = 14, normal: str = "y") -> Mesh:
    """Builds a flat disc perpendicular to the axis `normal`."""
    angle = 2 * np.pi * np.arange(sides) / sides
    flat = np.stack([np.cos(angle), np.zeros(sides), np.sin(angle)], axis=1) * radius
    ring = {"y": flat, "x": flat[:, [1, 0, 2]], "z": flat[:, [0, 2, 1]]}[normal]
    corner = np.arange(1, sides - 1)
    faces = np.stack([np.zeros_like(corner), corner, corner + 1], axis=1)
    return mesh(ring + np.asarray(centre, np.float64), faces, of)


def loft(rings: npt.ArrayLike, of: str | npt.NDArray[np.uint8], closed: bool = True, capped: bool = True) -> Mesh:
    """Builds a skin over sections `[N, M, 3]` of M points each; `of` is one material or one index per quadrilateral.

    The quadrilaterals are ordered by section, then along it. Caps get the first material.
    """
    sections = np.asarray(rings, np.float64)
    count, around, _ = sections.shape
    if closed:
        sections = np.concatenate([sections, sections[:, :1]], axis=1)
    corners = np.stack([sections[:-1, :-1], sections[1:, :-1], sections[1:, 1:], sections[:-1, 1:]], axis=2).reshape(
        -1, 4, 3
    )
    skin = quads(corners, of)
    if not capped:
        return skin
    corner = np.arange(1, around - 1)
    fan = np.stack([np.zeros_like(corner), corner, corner + 1], axis=1)
    first = of if isinstance(of, str) else np.full(len(fan), of[0], np.uint8)
    return merge([skin, mesh(sections[0], fan, first), mesh(sections[count - 1], fan, first)])


def blob(radii: Sequence[float], of: str, centre: Sequence[float], rings: int = 5, sides: int = 8) -> Mesh:
    """Builds an ellipsoid around its centre."""
    polar = np.linspace(0.12, np.pi - 0.12, rings)
    angle = 2 * np.pi * np.arange(sides) / sides
    unit = np.stack(
        [
            np.sin(polar)[:, None] * np.cos(angle)[None],
            np.sin(polar)[:, None] * np.sin(angle)[None],
            np.broadcast_to(np.cos(polar)[:, None], (rings, sides)),
        ],
        axis=-1,
    )
    return loft(unit * np.asarray(radii) + np.asarray(centre), of)
