"""Builds plants as clouds of small triangles, so that rays enter them and stop at different depths."""

from __future__ import annotations

import numpy as np

from spvnas_ros.offline.simulation.mesh import Floats, Mesh, labelled, merge, mesh
from spvnas_ros.offline.simulation.shapes import blob, boxes, polyline, tubes

VEGETATION, TRUNK, TERRAIN, OTHER = 70, 71, 72, 99


def leaves(centres: Floats, size: float, rng: np.random.Generator, of: str = "leaves", label: int = VEGETATION) -> Mesh:
    """Builds a triangle of about `size` metres around each centre `[N, 3]`, turned at random."""
    count = len(centres)
    corners = rng.normal(0, 0.55 * size, (count, 3, 3)) + centres[:, None]
    return mesh(corners, np.arange(3 * count), of, label)


def _clumped(shape: Floats, count: int, clumps: int, spread: float, rng: np.random.Generator) -> Floats:
    """Returns points in clumps, because trees have twigs with air between them."""
    picked = shape[rng.integers(0, len(shape), clumps)]
    return picked[rng.integers(0, clumps, count)] + rng.normal(0, spread, (count, 3))


def _in_ball(count: int, rng: np.random.Generator) -> Floats:
    direction = rng.normal(0, 1, (count, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    return direction * rng.uniform(0.15, 1, (count, 1)) ** 0.5


def crown(shape: str, width: float, height: float, count: int, rng: np.random.Generator) -> Floats:
    """Returns the places of a crown's leaves, `[count, 3]`, above the origin: `round`, `cone`, `column` or `flat`."""
    ball = _in_ball(400, rng)
    if shape == "cone":
        up = rng.uniform(0, 1, 400)
        radius = (1 - up) * 0.95 + 0.05
        layers = 0.8 + 0.2 * np.sin(up * 40)
        ball[:, :2] /= np.maximum(np.linalg.norm(ball[:, :2], axis=1, keepdims=True), 0.3)
        ball = np.stack([ball[:, 0] * radius * layers, ball[:, 1] * radius * layers, 2 * up - 1], axis=1)
    elif shape == "column":
        ball[:, 2] = rng.uniform(-1, 1, 400)
    elif shape == "flat":
        ball[:, 2] = np.abs(ball[:, 2]) * 2 - 1
    # A LiDAR on a car sees crowns from below, so more leaves are placed low.
    ball[:, 2] = 2 * ((ball[:, 2] + 1) / 2).clip(0) ** 1.5 - 1
    box = np.array([width / 2, width / 2, height / 2])
    spread = 0.09 * float(np.cbrt(width * width * height))
    return _clumped(ball * box, count, max(count // 11, 14), spread, rng) + [0, 0, height / 2]


def tree(rng: np.random.Generator, kind: str, height: float, detail: int = 900) -> Mesh:
    """Builds a tree at the origin: `broad`, `slim`, `conifer` or `young`; `detail` is the number of its leaves."""
    if kind == "conifer":
        return _conifer(rng, height, detail)
    thick = (0.014 * height + float(rng.uniform(0.02, 0.1))) * float(rng.choice([0.7, 1.0, 1.0, 1.5]))
    bare = min(float(rng.uniform(0.1, 0.32)) * height, float(rng.uniform(1.0, 3.0)))
    wide = {"broad": 0.66, "slim": 0.3, "young": 0.4}[kind] * height * float(rng.uniform(0.75, 1.2))
    shape = {"broad": ("round", "flat")[int(rng.integers(2))], "slim": "column", "young": "round"}[kind]
    lean = rng.normal(0, 0.02, 2) * height
    bend = rng.normal(0, 0.35 * thick, (2, 2))
    stem = np.array(
        [
            [0, 0, -0.4],
            [0, 0, 0.25],
            [*(lean * 0.15 + bend[0]), 0.25 + 0.35 * (bare - 0.25)],
            [*(lean * 0.3 + bend[1]), 0.25 + 0.7 * (bare - 0.25)],
            [*lean * 0.4, bare],
            [*lean, bare + 0.35 * (height - bare)],
        ]
    )
    flare = float(rng.uniform(1.15, 1.7))
    radii = np.array([thick * flare, thick * 1.05, thick, thick * 0.93, thick * 0.85, thick * 0.45])
    stems = _stem(rng, stem, radii, 8)
    if rng.random() < 0.12:
        apart = np.array([*rng.normal(0, 2.2 * thick, 2), 0.0])
        stems += _stem(rng, stem * [1.6, 1.6, 1.0] + apart, radii * 0.7, 6)
    cloud = crown(shape, wide, height - bare * 0.85, detail, rng) + [*lean * 0.6, bare * 0.85]
    size = 0.19 + 0.012 * wide
    roots = np.repeat([[*lean * 0.5, bare * 1.02]], 5, axis=0) + rng.uniform(0, 0.12, (5, 1)) * [[0, 0, height]]
    tips = cloud[rng.integers(0, len(cloud), 5)]
    return merge(
        [
            *stems,
            *_around_foot(rng, kind, thick),
            tubes(roots, tips, thick * 0.4, "bark", VEGETATION, sides=4, end_radii=thick * 0.1),
            leaves(cloud, size, rng),
        ]
    )


def _stem(rng: np.random.Generator, line: Floats, radii: Floats, sides: int) -> list[Mesh]:
    """Builds a trunk along a line `[N, 3]`, of one bark or of pale and dark pieces, as where it peels."""
    barks = ["bark", "pale bark", "dark bark"]
    if rng.random() < 0.5:
        return [polyline(line, radii, str(rng.choice(barks)), TRUNK, sides)]
    steps = np.linspace(0, 1, 4 * (len(line) - 1) + 1)
    at = np.linspace(0, 1, len(line))
    fine = np.stack([np.interp(steps, at, column) for column in line.T], axis=1)
    thick = np.interp(steps, at, radii)
    names = rng.choice(barks, len(fine) - 1, p=[0.5, 0.25, 0.25])
    return [
        tubes(fine[:-1][names == bark], fine[1:][names == bark], thick[:-1][names == bark], bark, TRUNK, sides,
              thick[1:][names == bark])
        for bark in barks
        if (names == bark).any()
    ]  # fmt: skip


def _around_foot(rng: np.random.Generator, kind: str, thick: float) -> list[Mesh]:
    """Builds what stands around a trunk: a young tree's stakes, or shoots and ivy; around most trunks nothing."""
    draw = rng.random()
    if kind == "young" and draw < 0.6:
        count = int(rng.integers(2, 4))
        angle = 2 * np.pi * np.arange(count) / count
        foot = np.stack([np.cos(angle), np.sin(angle), np.zeros(count)], axis=1) * float(rng.uniform(0.3, 0.6))
        top = foot * [0.9, 0.9, 1] + [0, 0, float(rng.uniform(1.3, 2.3))]
        # SemanticKITTI calls stakes other objects.
        return [tubes(foot, top, 0.04, "wood", OTHER), tubes(top[:1], top[1:2], 0.025, "wood", OTHER, 4)]
    if draw < 0.2:
        count = int(rng.integers(25, 70))
        tall = float(rng.uniform(0.4, 2.2))
        around = rng.normal(0, 1, (count, 3)) * [thick + 0.12, thick + 0.12, 0]
        return [leaves(around + rng.uniform(0, tall, (count, 1)) * [0, 0, 1], 0.13, rng)]
    return []


def _conifer(rng: np.random.Generator, height: float, detail: int) -> Mesh:
    wide = height * float(rng.uniform(0.34, 0.55))
    bare = float(rng.uniform(0.01, 0.12)) * height
    stem = np.array([[0, 0, -0.4], [0, 0, bare + 0.3], [0, 0, height * 0.95]])
    thick = 0.014 * height + 0.06
    return merge(
        [
            polyline(stem[:2], thick, "bark", TRUNK, sides=7),
            polyline(stem[1:], [thick * 0.9, 0.02], "bark", VEGETATION, sides=5),
            leaves(crown("cone", wide, height - bare, detail, rng) + [0, 0, bare], 0.3, rng, "needles"),
        ]
    )


def dead_tree(rng: np.random.Generator, height: float) -> Mesh:
    """Builds a trunk and branches without leaves, like a tree in winter and spring."""
    thick = 0.02 * height
    split = float(rng.uniform(0.25, 0.4)) * height
    stem = polyline([[0, 0, -0.3], [0, 0, split]], [thick * 1.2, thick * 0.8], "bark", TRUNK, sides=8)
    count = 14
    roots = np.stack([np.zeros(count), np.zeros(count), split * rng.uniform(0.8, 1.0, count)], axis=1)
    angle = rng.uniform(0, 2 * np.pi, count)
    out = np.stack([np.cos(angle), np.sin(angle), rng.uniform(0.8, 2.2, count)], axis=1)
    tips = roots + out * (height - split) * 0.36 * rng.uniform(0.6, 1.1, (count, 1))
    twig_roots = np.repeat(roots + 0.55 * (tips - roots), 4, axis=0)
    twigs = np.repeat(tips, 4, axis=0) + rng.normal(0, 0.1 * height, (4 * count, 3))
    return merge(
        [
            stem,
            tubes(roots, tips, thick * 0.45, "bark", VEGETATION, 5, thick * 0.15),
            tubes(twig_roots, twigs, thick * 0.14, "bark", VEGETATION, 3, 0.012),
        ]
    )


def hedge(rng: np.random.Generator, length: float, depth: float, height: float) -> Mesh:
    """Builds a hedge along x around the origin: a dense core with leaves on it, evenly cut or wavy. A clipped one is
    nearly as even as a wall, but low: beams pass above it.
    """
    clipped = bool(rng.random() < 0.4)
    height = min(height, 1.6) if clipped else height
    loose = 0.35 if clipped else 1.0
    pieces = max(round(length / 0.9), 1)
    step = length / pieces
    x = (np.arange(pieces) + 0.5) * step - length / 2
    wild = 0.02 if clipped else float(rng.choice([0.03, 0.05, 0.16]))
    tall = height * (1 + rng.normal(0, wild, pieces)) - 0.25 * loose
    # The core of an unclipped one is thin, so that most beams end in its leaves: real hedges are rougher than walls.
    deep = (depth - 0.16 * loose) * (1 + rng.normal(0, wild, pieces)) * (1.0 if clipped else 0.6) - 0.2 * loose
    wide = step * (1.0 if clipped else 0.8)
    core = boxes(
        np.stack([np.full(pieces, wide), np.maximum(deep, 0.12), np.maximum(tall, 0.2)], axis=1),
        np.stack([x, rng.normal(0, wild * 0.3, pieces), np.full(pieces, -0.05)], axis=1),
        "clipped leaves" if clipped else "leaves",
        VEGETATION,
    )
    count = int(55 * length * (2 * height + depth) * 0.5)
    points = rng.uniform(-0.5, 0.5, (count, 3)) * [length, depth, height] + [0, 0, height / 2]
    face = rng.uniform(0, 1, count)
    side = (face < 0.8) * np.sign(points[:, 1])
    deeper = rng.uniform(-0.3 * loose, 0.06 * loose, count)
    points[:, 1] = np.where(
        side != 0, side * np.maximum(depth / 2 * rng.normal(1, wild, count) + deeper, 0.05), points[:, 1]
    )
    points[:, 2] = np.where(side == 0, height * rng.normal(1, wild, count) + deeper, points[:, 2])
    return merge([core, leaves(points, 0.13 if not clipped else 0.08, rng)])


def cover(rng: np.random.Generator, length: float, depth: float, height: float) -> Mesh:
    """Builds low plants that cover the ground along x around the origin: a bed, a verge that nobody mows."""
    cells = (max(round(length / 0.8), 1), max(round(depth / 0.7), 1))
    x, y = np.meshgrid(*((np.arange(count) + 0.5) / count - 0.5 for count in cells), indexing="ij")
    at = np.stack([x.ravel() * length, y.ravel() * depth, np.full(x.size, -0.1)], axis=1)
    swell = rng.uniform(0.35, 0.85, x.size)
    size = np.stack(
        [np.full(x.size, length / cells[0]), np.full(x.size, depth / cells[1]), swell * height + 0.1], axis=1
    )
    core = boxes(size * rng.uniform(0.6, 1.0, (x.size, 1)) ** [1, 1, 0], at, "leaves", VEGETATION)
    count = int(36 * length * depth)
    points = rng.uniform(-0.5, 0.5, (count, 3)) * [length, depth, 0]
    points[:, :2] += rng.normal(0, 0.06, (count, 2))
    points[:, 2] = height * rng.uniform(0.25, 1.1, count)
    return merge([core, leaves(points, 0.13, rng)])


def bush(rng: np.random.Generator, width: float, height: float, detail: int = 260) -> Mesh:
    """Builds a round shrub with a dense middle."""
    shape = ("round", "flat", "cone")[int(rng.integers(3))]
    cloud = crown(shape, width, height, detail, rng)
    cloud[:, 2] = np.maximum(cloud[:, 2], 0.05)
    middle = blob((width * 0.2, width * 0.2, height * 0.26), "leaves", (0, 0, height * 0.4), 4, 6)
    return merge([labelled(middle, VEGETATION), leaves(cloud, 0.13 + 0.045 * width, rng)])


def ivy(rng: np.random.Generator, width: float, height: float) -> Mesh:
    """Builds leaves on a wall that stands in the x-z plane at y = 0."""
    count = int(width * height * 30)
    points = rng.uniform(0, 1, (count, 3)) * [width, 0.2, height]
    points[:, 0] -= width / 2
    points[:, 1] -= 0.2
    return leaves(points[points[:, 2] < height * (0.8 + 0.2 * np.sin(points[:, 0] * 2))], 0.14, rng)


def grass(centres: Floats, height: float, rng: np.random.Generator, label: int = TERRAIN) -> Mesh:
    """Builds blades that stand on the centres `[N, 3]`."""
    count = len(centres)
    foot = rng.normal(0, 0.05, (count, 2, 3)) * [1, 1, 0]
    tip = rng.normal(0, 0.5 * height, (count, 1, 3)) * [1, 1, 0]
    tip[..., 2] = height * rng.uniform(0.4, 1.2, (count, 1))
    corners = np.concatenate([foot, tip], axis=1) + centres[:, None]
    return mesh(corners, np.arange(3 * count), "grass", label)
