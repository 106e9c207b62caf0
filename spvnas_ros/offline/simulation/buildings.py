"""Builds garages, and houses with windows, doors, balconies and roofs. An inner box stops rays that pass the glass."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from spvnas_ros.offline.simulation.materials import material
from spvnas_ros.offline.simulation.mesh import Floats, Mesh, labelled, merge, mesh, place
from spvnas_ros.offline.simulation.shapes import boxes, quads

BUILDING = 50
_WALLS = ("plaster", "dark plaster", "brick", "concrete", "rough stone")

Grid = tuple[Floats, Floats]
"""x and z of the lower or of the upper corners of a wall's panels."""


@dataclass(frozen=True)
class Style:
    """The look of a building.

    roof: `gable`, `cross` (gable towards the street), `hip` or `flat`
    """

    wall: str
    roof: str
    floors: int
    floor: float
    pitch: float
    window: tuple[float, float]
    recess: float
    plinth: float
    steepness: float
    balconies: bool
    detail: bool = True


def style(rng: np.random.Generator, floors: int, flat: float, detail: bool = True) -> Style:
    """Draws a random style; `flat` is the probability of a flat roof."""
    roof = "flat" if rng.random() < flat else str(rng.choice(["gable", "gable", "cross", "hip"]))
    return Style(
        wall=str(rng.choice([*_WALLS, "plaster", "dark plaster"])),
        roof=roof,
        floors=floors,
        floor=float(rng.uniform(2.6, 3.3)),
        pitch=float(rng.uniform(1.9, 3.4)),
        window=(float(rng.uniform(0.9, 1.6)), float(rng.uniform(1.1, 1.7))),
        recess=float(rng.uniform(0.06, 0.25)),
        plinth=float(rng.uniform(0.1, 0.9)),
        steepness=float(rng.uniform(0.45, 1.1)),
        balconies=bool(rng.random() < 0.35),
        detail=detail,
    )


def building(rng: np.random.Generator, width: float, depth: float, look: Style) -> Mesh:
    """Builds a building at the origin, `width` along x; its front faces -y and lies at y = -depth / 2."""
    height = look.plinth + look.floors * look.floor
    walls = [
        (facade(rng, width, height, look, door=True), (-width / 2, -depth / 2), 0.0),
        (facade(rng, depth, height, look), (width / 2, -depth / 2), np.pi / 2),
        (facade(rng, width, height, look), (width / 2, depth / 2), np.pi),
        (facade(rng, depth, height, look), (-width / 2, depth / 2), -np.pi / 2),
    ]
    parts = [place(wall, (*corner, 0), yaw) for wall, corner, yaw in walls]
    if look.detail and min(width, depth) > 5:
        parts.append(boxes((width - 3.5, depth - 3.5, height - 0.3), [0, 0, 0], "plaster"))
    parts.append(boxes((width - 0.02, depth - 0.02, 1.5), [0, 0, -1.5], "concrete"))
    parts.append(place(_roof(rng, width, depth, look), (0, 0, height)))
    if look.balconies and look.detail:
        parts.append(_balconies(rng, width, depth, look))
    if look.detail:
        parts.append(_front(rng, width, depth, height))
        parts.append(_relief(rng, width, depth, look))
    return labelled(merge(parts), BUILDING)


def facade(rng: np.random.Generator, width: float, height: float, look: Style, door: bool = False) -> Mesh:
    """Builds a wall in the x-z plane from the origin along x, with windows set back along y."""
    columns = max(int((width - 0.6) / look.pitch), 0)
    if not look.detail or columns == 0:
        return quads(np.array([[0, 0, 0], [width, 0, 0], [width, 0, height], [0, 0, height]]), look.wall)
    half = min(look.window[0], look.pitch - 0.5) / 2
    middle = (np.arange(columns) + 0.5) * width / columns
    x = np.concatenate([[0], np.stack([middle - half, middle + half], axis=1).ravel(), [width]])
    sill = look.plinth + np.arange(look.floors) * look.floor + 0.85
    tops = np.minimum(sill + look.window[1], sill + look.floor - 1.0)
    z = np.concatenate([[0], np.stack([sill, tops], axis=1).ravel(), [height]])
    hole = np.zeros((len(x) - 1, len(z) - 1), bool)
    hole[1::2, 1::2] = rng.random((columns, look.floors)) > 0.07
    closed = np.zeros_like(hole)
    if door:
        at = 2 * int(rng.integers(columns)) + 1
        hole[at, :2] = closed[at, :2] = True
    closed[1::2, 1::2] |= rng.random((columns, look.floors)) < 0.14
    low, high = _grid(x[:-1], z[:-1]), _grid(x[1:], z[1:])
    wall = _panels(low, high, ~hole, 0.0, look.wall)
    glass = _panels(low, high, hole & ~closed, look.recess, "glass")
    shut = _panels(low, high, hole & closed, look.recess * 0.7, "door")
    return merge([wall, glass, shut, _reveals(low, high, hole, look)])


def _grid(x: Floats, z: Floats) -> Grid:
    across, up = np.meshgrid(x, z, indexing="ij")
    return across, up


def _panels(low: Grid, high: Grid, chosen: npt.NDArray[np.bool_], y: float, of: str) -> Mesh:
    x0, z0, x1, z1 = low[0][chosen], low[1][chosen], high[0][chosen], high[1][chosen]
    deep = np.full_like(x0, y)
    corners = [[x0, deep, z0], [x1, deep, z0], [x1, deep, z1], [x0, deep, z1]]
    return quads(np.moveaxis(np.array(corners), (0, 1, 2), (1, 2, 0)), of)


def _reveals(low: Grid, high: Grid, hole: npt.NDArray[np.bool_], look: Style) -> Mesh:
    """Builds the sides of the holes, from the wall to the pane."""
    x0, z0, x1, z1 = low[0][hole], low[1][hole], high[0][hole], high[1][hole]
    front, back = np.zeros_like(x0), np.full_like(x0, look.recess)
    edges = [((x0, z0), (x1, z0)), ((x0, z1), (x1, z1)), ((x0, z0), (x0, z1)), ((x1, z0), (x1, z1))]
    corners = [[[a, front, b], [c, front, d], [c, back, d], [a, back, b]] for (a, b), (c, d) in edges]
    return quads(np.moveaxis(np.array(corners), (0, 1, 2, 3), (1, 2, 3, 0)), look.wall)


def _roof(rng: np.random.Generator, width: float, depth: float, look: Style) -> Mesh:
    """Builds a roof on walls whose tops are at z = 0."""
    if look.roof == "flat":
        rim = float(rng.uniform(0.2, 0.9))
        edge = [[0, s * (depth / 2 - 0.1), 0] for s in (-1, 1)]
        ends = [[s * (width / 2 - 0.1), 0, 0] for s in (-1, 1)]
        return merge(
            [
                boxes((width, depth, 0.05), [0, 0, -0.05], "concrete"),
                boxes((width, 0.2, rim), edge, look.wall),
                boxes((0.2, depth, rim), ends, look.wall),
            ]
        )
    turned = look.roof == "cross"
    along, across = (depth, width) if turned else (width, depth)
    roof = _pitched(along, across, look)
    if turned:
        roof = place(roof, (0, 0, 0), np.pi / 2)
    rise = across / 2 * look.steepness
    chimney = boxes((0.6, 0.5, 1.4), [float(rng.uniform(-0.3, 0.3)) * width, 0, rise - 0.5], "brick")
    if look.detail and look.roof == "gable" and rng.random() < 0.5:
        count = int(rng.integers(1, 4))
        x = (np.arange(count) + 0.5) * width / count - width / 2
        spots = np.stack([x, np.full(count, -depth * 0.27), np.full(count, rise * 0.3)], axis=1)
        return merge([roof, chimney, boxes((1.4, depth * 0.25, rise * 0.38), spots, "roof tiles")])
    return merge([roof, chimney])


def _pitched(along: float, across: float, look: Style) -> Mesh:
    """Builds a gable or hip roof with its ridge along x."""
    eave, verge = 0.5, 0.0 if look.roof == "hip" else 0.35
    rise = across / 2 * look.steepness
    drop = -eave * look.steepness
    hip = min(across / 2, along / 2 - 0.3) if look.roof == "hip" else -verge
    a, b = along / 2 + (eave if look.roof == "hip" else verge), across / 2 + eave
    ridge = along / 2 - hip
    points = [[-a, -b, drop], [a, -b, drop], [a, b, drop], [-a, b, drop], [-ridge, 0, rise], [ridge, 0, rise]]
    faces = [[0, 1, 5], [0, 5, 4], [2, 3, 4], [2, 4, 5]]
    if look.roof == "hip":
        return mesh(points, [*faces, [1, 2, 5], [3, 0, 4]], "roof tiles")
    gables = [
        [[s * along / 2, -across / 2, 0], [s * along / 2, across / 2, 0], [s * along / 2, 0, rise]] for s in (-1, 1)
    ]
    return merge([mesh(points, faces, "roof tiles"), mesh(gables, [[0, 1, 2], [3, 4, 5]], look.wall)])


def _balconies(rng: np.random.Generator, width: float, depth: float, look: Style) -> Mesh:
    columns = max(int((width - 0.6) / look.pitch), 1)
    x = ((np.arange(columns) + 0.5) / columns - 0.5) * width
    chosen = x[rng.random(columns) < 0.4]
    levels = look.plinth + look.floor * np.arange(1, look.floors)
    at = np.array([[place, -depth / 2 - 0.6, level] for place in chosen for level in levels]).reshape(-1, 3)
    slabs = boxes((2.0, 1.2, 0.18), at - [0, 0, 0.1], "concrete")
    rails = boxes((2.0, 0.04, 0.95), at + [0, -0.58, 0.08], "painted metal" if rng.random() < 0.5 else "wood")
    cheeks = boxes((0.04, 1.2, 0.95), np.concatenate([at + [-0.98, 0, 0.08], at + [0.98, 0, 0.08]]), "painted metal")
    return merge([slabs, rails, cheeks])


def _front(rng: np.random.Generator, width: float, depth: float, height: float) -> Mesh:
    """Builds the parts that stand out in front: steps, a canopy, a bay, pipes."""
    parts = [boxes((0.1, 0.1, height), [[s * (width / 2 - 0.2), -depth / 2 - 0.06, 0] for s in (-1, 1)], "bare metal")]
    if rng.random() < 0.35:
        bay = [float(rng.uniform(-0.3, 0.3)) * width, -depth / 2 - 0.4, 0]
        parts.append(boxes((float(rng.uniform(1.8, 3.2)), 0.9, height * float(rng.uniform(0.5, 1.0))), bay, "plaster"))
    if rng.random() < 0.5:
        at = float(rng.uniform(-0.35, 0.35)) * width
        parts.append(boxes((1.8, 1.1, 0.12), [at, -depth / 2 - 0.55, 2.35], "concrete"))
        parts.append(boxes((1.4, 0.9, 0.35), [at, -depth / 2 - 0.45, -0.05], "concrete"))
    return merge(parts)


def _relief(rng: np.random.Generator, width: float, depth: float, look: Style) -> Mesh:
    """Builds what stands out of a front everywhere: sills or shutters, ledges between floors, pillars, an awning,
    cellar stairs behind a parapet; each by chance.
    """
    front, height = -depth / 2, look.plinth + look.floors * look.floor
    columns = max(int((width - 0.6) / look.pitch), 1)
    x = ((np.arange(columns) + 0.5) / columns - 0.5) * width
    sill = look.plinth + np.arange(look.floors) * look.floor + 0.78
    spots = np.stack([a.ravel() for a in np.meshgrid(x, [front], sill, indexing="ij")], axis=1)
    parts = []
    out = float(rng.uniform(0.06, 0.2))
    if rng.random() < 0.5:
        parts.append(boxes((look.window[0] + 0.2, 2 * out, 0.08), spots, "concrete"))
    elif rng.random() < 0.4:
        side = np.array([look.window[0] * 0.5 + 0.25, 0, 0.05])
        parts.append(boxes((0.5, 0.1, look.window[1]), np.concatenate([spots - side, spots + side]), "wood"))
    if rng.random() < 0.3:
        ledges = [[0, front, look.plinth + look.floor * floor - 0.12] for floor in range(1, look.floors + 1)]
        parts.append(boxes((width, 2 * out, 0.2), ledges, look.wall))
    if rng.random() < 0.2:
        between = (np.arange(columns + 1) / columns - 0.5) * (width - 0.4)
        parts.append(
            boxes((0.4, 2 * out, height), np.stack([between, 0 * between + front, 0 * between], axis=1), look.wall)
        )
    if rng.random() < 0.2:
        wide, deep = width * float(rng.uniform(0.3, 0.9)), float(rng.uniform(0.7, 1.4))
        left = float(rng.uniform(-0.5, 0.5)) * (width - wide)
        low, high = 2.2, 2.9
        cloth = [[left - wide / 2, front, high], [left + wide / 2, front, high],
                 [left + wide / 2, front - deep, low], [left - wide / 2, front - deep, low]]  # fmt: skip
        parts.append(quads(np.array(cloth), "tarpaulin"))
    if rng.random() < 0.2:
        at, deep = float(rng.uniform(-0.35, 0.35)) * width, float(rng.uniform(0.9, 1.3))
        parts.append(boxes((3.0, 0.15, 0.9), [at, front - deep, 0], look.wall))
        parts.append(boxes((0.15, deep, 0.9), [at - 1.5, front - deep / 2, 0], look.wall))
    return merge(parts)


def garage(rng: np.random.Generator) -> Mesh:
    """Builds a garage whose door faces -y."""
    width, depth, height = (float(rng.uniform(*b)) for b in ((2.8, 6.0), (5.5, 6.5), (2.4, 2.9)))
    look = replace(style(rng, 1, 0.8, detail=False), floor=height, plinth=0.0, steepness=0.4)
    door = boxes((width - 0.6, 0.06, 2.1), [0, -depth / 2 + 0.02, 0], "door")
    return merge([building(rng, width, depth, look), labelled(door, BUILDING)])


def shed(rng: np.random.Generator) -> Mesh:
    """Builds a wooden garden hut."""
    look = replace(style(rng, 1, 0.2, detail=False), floor=float(rng.uniform(2.0, 2.4)), plinth=0.0, wall="wood")
    return building(rng, float(rng.uniform(2, 4)), float(rng.uniform(2, 3.5)), look)


def wooden(part: Mesh) -> Mesh:
    """Returns the building with wooden walls, like a barn."""
    plain = np.isin(part.material, [material(name) for name in _WALLS])
    return replace(part, material=np.where(plain, np.uint8(material("wood")), part.material).astype(np.uint8))
