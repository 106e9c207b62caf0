"""Lays the ground of a street, in street coordinates: `s` metres along its middle, `d` metres to the left of it.

A street bends and climbs. All other objects are laid out as if it were straight; `Ground` converts their coordinates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spvnas_ros.offline.simulation.materials import material
from spvnas_ros.offline.simulation.mesh import Floats, Mesh, merge
from spvnas_ros.offline.simulation.shapes import quads

MARGIN = 45.0
"""Metres of street before its start and behind its end."""
REACH = 78.0
"""Metres of ground on each side."""
_STEP = 1.0


@dataclass(frozen=True)
class Surface:
    """A kind of ground: raw label, material, height above the road and roughness in metres."""

    label: int
    material: str
    level: float = 0.0
    roughness: float = 0.0


@dataclass(frozen=True)
class Patch:
    """A rectangle of one surface in street coordinates; later patches cover earlier ones."""

    start: float
    end: float
    right: float
    left: float
    surface: Surface


@dataclass(frozen=True)
class Relief:
    """The rise and fall of the land.

    waves: amplitude, wave number and phase of hills along the street, `[K, 3]`
    bank:  height that the land gains beyond `foot` to the right and to the left, over `width` metres
    """

    waves: npt.NDArray[np.float64]
    bank: tuple[float, float]
    foot: tuple[float, float]
    width: float
    crown: float

    def height(self, s: npt.ArrayLike, d: npt.ArrayLike) -> Floats:
        along, across = np.asarray(s, np.float64), np.asarray(d, np.float64)
        hills = np.zeros(np.broadcast(along, across).shape)
        for amplitude, number, phase in self.waves:
            hills = hills + amplitude * np.sin(number * along + phase + 0.006 * across)
        for side, bank, foot in zip((-1, 1), self.bank, self.foot, strict=True):
            ratio = np.clip((side * across - foot) / self.width, 0, 1)
            swell = 0.75 + 0.25 * np.sin(0.05 * along + 2.0 * side)
            hills = hills + bank * swell * ratio * ratio * (3 - 2 * ratio)
        return hills - self.crown * np.minimum(np.abs(across), min(self.foot))


@dataclass(frozen=True)
class Ground:
    """The ground that all objects stand on."""

    line: Floats
    """x, y and heading of the middle of the street, one row per metre of `s` from `-MARGIN`."""
    relief: Relief
    s_lines: npt.NDArray[np.float64]
    d_lines: npt.NDArray[np.float64]
    cells: npt.NDArray[np.int64]
    surfaces: tuple[Surface, ...]

    def plan(self, s: npt.ArrayLike, d: npt.ArrayLike) -> tuple[Floats, Floats, Floats]:
        """Returns x and y in the world, and the heading of the street, at street coordinates."""
        at = (np.asarray(s, np.float64) + MARGIN) / _STEP
        rows = np.arange(len(self.line))
        x, y, heading = (np.asarray(np.interp(at, rows, self.line[:, column])) for column in range(3))
        return x - np.sin(heading) * d, y + np.cos(heading) * d, heading

    def place(self, s: npt.ArrayLike, d: npt.ArrayLike) -> tuple[Floats, Floats]:
        """Returns positions `[..., 3]` on the ground in the world, and the headings of the street there."""
        x, y, heading = self.plan(s, d)
        return np.stack([x, y, self.height(s, d)], axis=-1), heading

    def stretch(self, s: npt.ArrayLike, d: npt.ArrayLike) -> Floats:
        """Returns the metres in the world for one metre along the street at `d`: less than one inside a bend."""
        at = np.asarray(s, np.float64)
        turn = self.plan(at + 1.0, 0.0)[2] - self.plan(at - 1.0, 0.0)[2]
        stretch: Floats = 1.0 - np.asarray(d, np.float64) * turn / 2.0
        return stretch

    def height(self, s: npt.ArrayLike, d: npt.ArrayLike) -> Floats:
        """Returns the height of the ground, with kerbs and without roughness."""
        column = np.clip(np.searchsorted(self.s_lines, s, "right") - 1, 0, len(self.s_lines) - 2)
        row = np.clip(np.searchsorted(self.d_lines, d, "right") - 1, 0, len(self.d_lines) - 2)
        levels = np.array([surface.level for surface in self.surfaces])
        height: Floats = self.relief.height(s, d) + levels[self.cells[column, row]]
        return height


def centreline(curvature: Floats) -> npt.NDArray[np.float64]:
    """Returns x, y and heading along a street from its curvature in 1/m, one value per metre. `s` 0 is the origin."""
    heading = np.concatenate([[0.0], np.cumsum(curvature[:-1] * _STEP)])
    start = round(MARGIN / _STEP)
    heading -= heading[start]
    x = np.concatenate([[0.0], np.cumsum(np.cos(heading[:-1]) * _STEP)])
    y = np.concatenate([[0.0], np.cumsum(np.sin(heading[:-1]) * _STEP)])
    return np.stack([x - x[start], y - y[start], heading], axis=1)


def lay_ground(
    line: Floats, relief: Relief, patches: Sequence[Patch], length: float, rng: np.random.Generator
) -> tuple[Ground, Mesh]:
    """Lays the ground of all patches, with kerbs where they meet at different heights."""
    s_lines = _lines(
        [value for patch in patches for value in (patch.start, patch.end)],
        np.arange(-MARGIN, length + MARGIN + 0.5, 1.5),
    )
    outward = np.concatenate([np.arange(0, 24, 1.2), np.arange(24, 48, 2.5), np.arange(48, REACH + 1, 5.0)])
    d_lines = _lines(
        [value for patch in patches for value in (patch.right, patch.left)], np.concatenate([-outward[:0:-1], outward])
    )
    surfaces = tuple(dict.fromkeys(patch.surface for patch in patches))
    cells = np.zeros((len(s_lines) - 1, len(d_lines) - 1), np.int64)
    for patch in patches:
        first, last = np.searchsorted(s_lines, (patch.start - 1e-6, patch.end - 1e-6))
        low, high = np.searchsorted(d_lines, (patch.right - 1e-6, patch.left - 1e-6))
        cells[first:last, low:high] = surfaces.index(patch.surface)
    ground = Ground(line, relief, s_lines, d_lines, cells, surfaces)
    return ground, _ground_mesh(ground, rng)


def _lines(edges: Sequence[float], regular: Floats) -> npt.NDArray[np.float64]:
    """Returns grid lines: every edge of a patch, and regular lines that are not close to an edge."""
    inside = np.unique(np.round(np.clip(edges, regular[0], regular[-1]), 4))
    gap = np.abs(regular[:, None] - inside[None]).min(axis=1)
    return np.unique(np.concatenate([inside, regular[gap > 0.3], regular[[0, -1]]]))


def _ground_mesh(ground: Ground, rng: np.random.Generator) -> Mesh:
    s, d = np.meshgrid(ground.s_lines, ground.d_lines, indexing="ij")
    x, y, _ = ground.plan(s, d)
    base = ground.relief.height(s, d) + _roughness(ground, rng)
    level = np.array([surface.level for surface in ground.surfaces])[ground.cells]
    label = np.array([surface.label for surface in ground.surfaces], np.uint16)
    of = np.array([material(surface.material) for surface in ground.surfaces], np.uint8)
    corner = [(slice(None, -1), slice(None, -1)), (slice(1, None), slice(None, -1)),
              (slice(1, None), slice(1, None)), (slice(None, -1), slice(1, None))]  # fmt: skip
    points = np.stack([np.stack([x[at], y[at], base[at] + level], axis=-1) for at in corner], axis=2)
    kind = ground.cells.reshape(-1)
    parts = [_painted(points.reshape(-1, 4, 3), of[kind], label[kind])]
    for axis, edge in ((0, ((1, 2), (0, 3))), (1, ((3, 2), (0, 1)))):
        parts.append(_kerbs(ground.cells, points, level, axis, edge, of, label))
    return merge(parts)


def _kerbs(
    cells: npt.NDArray[np.int64],
    points: Floats,
    level: Floats,
    axis: int,
    edge: tuple[tuple[int, int], tuple[int, int]],
    of: npt.NDArray[np.uint8],
    label: npt.NDArray[np.uint16],
) -> Mesh:
    """Builds the steps between neighbouring cells along an axis; a step belongs to the higher cell."""
    near = tuple(slice(None, -1) if a == axis else slice(None) for a in range(2))
    far = tuple(slice(1, None) if a == axis else slice(None) for a in range(2))
    step = np.abs(level[near] - level[far]) > 0.005
    low, high = points[near][step], points[far][step]
    corners = np.stack([low[:, edge[0][0]], low[:, edge[0][1]], high[:, edge[1][1]], high[:, edge[1][0]]], axis=1)
    kind = np.where(level[near] > level[far], cells[near], cells[far])[step]
    return _painted(corners, of[kind], label[kind])


def _painted(corners: Floats, of: npt.NDArray[np.uint8], label: npt.NDArray[np.uint16]) -> Mesh:
    plain = quads(corners, of)
    return Mesh(plain.vertices, plain.faces, plain.material, np.repeat(label, 2), plain.instance)


def _roughness(ground: Ground, rng: np.random.Generator) -> Floats:
    """Returns bumps at the grid corners. The smoothest surface around a corner sets their size."""
    rough = np.array([surface.roughness for surface in ground.surfaces])[ground.cells]
    padded = np.pad(rough, 1, mode="edge")
    least = np.minimum.reduce([padded[:-1, :-1], padded[1:, :-1], padded[:-1, 1:], padded[1:, 1:]])
    bumps: Floats = least * rng.normal(0, 1, least.shape)
    return bumps
