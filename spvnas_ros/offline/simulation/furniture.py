"""Builds the objects along a street: poles, signs, fences, walls, bins and benches."""

from __future__ import annotations

import numpy as np

from spvnas_ros.offline.simulation.mesh import Floats, Mesh, labelled, merge, mesh, scatter
from spvnas_ros.offline.simulation.shapes import blob, boxes, disc, loft, polyline, quads, tubes

FENCE, POLE, SIGN, OTHER, OTHER_STRUCTURE = 51, 80, 81, 99, 52


def lamp_post(rng: np.random.Generator) -> Mesh:
    """Builds a street lamp; its arm, if it has one, points to y."""
    height = float(rng.uniform(4.0, 9.5))
    thick = (0.045 + 0.006 * height) * float(rng.uniform(0.7, 1.5))
    reach = float(rng.choice([0.0, 0.6, 1.2, 2.0])) if height > 5 else 0.0
    stem = polyline(
        [[0, 0, -0.2], [0, 0, 1.0], [0, 0, height]], [thick * 1.3, thick, thick * 0.6], "bare metal", POLE, 8
    )
    if reach == 0:
        head = labelled(blob((0.25, 0.25, 0.2), "plastic", (0, 0, height + 0.1), 4, 8), POLE)
        return merge([stem, head])
    arm = tubes([[0, 0, height]], [[0, reach, height + 0.2]], 0.04, "bare metal", POLE)
    return merge([stem, arm, boxes((0.3, 0.7, 0.12), [0, reach, height + 0.14], "plastic", POLE)])


def power_pole(rng: np.random.Generator) -> Mesh:
    """Builds a wooden pole with a cross bar."""
    height = float(rng.uniform(6.5, 9.5))
    return merge(
        [
            tubes([[0, 0, -0.3]], [[0, 0, height]], 0.14, "wood", POLE, 8, 0.1),
            boxes((0.1, 1.6, 0.12), [0, 0, height - 0.5], "wood", POLE),
        ]
    )


def traffic_light(rng: np.random.Generator) -> Mesh:
    """Builds a traffic light that faces -x, in half of the cases with an arm to y."""
    parts = [tubes([[0, 0, -0.1]], [[0, 0, 3.4]], 0.075, "painted metal", POLE, 8)]
    heads = [[-0.12, 0.0, 2.3]]
    if rng.random() < 0.5:
        reach = float(rng.uniform(2.0, 4.5))
        parts.append(polyline([[0, 0, 3.3], [0, 0, 5.6], [0, reach, 5.8]], 0.07, "painted metal", POLE))
        heads.append([-0.12, reach, 5.1])
    # SemanticKITTI labels the lamps as pole, not as traffic sign.
    parts.append(boxes((0.22, 0.32, 0.95), heads, "plastic", POLE))
    return merge(parts)


def bollard(rng: np.random.Generator) -> Mesh:
    """Builds a short post: a thin one, a thick one of stone, or one with a cap or a ring that reflects."""
    height = float(rng.uniform(0.4, 1.2))
    thick = float(rng.uniform(0.025, 0.06) if rng.random() < 0.5 else rng.uniform(0.06, 0.18))
    post = tubes([[0, 0, 0]], [[0, 0, height]], thick, str(rng.choice(["painted metal", "concrete", "wood"])), POLE, 8)
    if rng.random() < 0.6:
        return merge([post, labelled(disc(thick, "painted metal", (0, 0, height), 8, "z"), POLE)])
    ring = tubes([[0, 0, height - 0.16]], [[0, 0, height - 0.06]], thick + 0.005, "retroreflector", POLE, 8)
    return merge([post, ring])


def sign(rng: np.random.Generator) -> Mesh:
    """Builds a traffic sign that faces -x: a disc, a triangle, a diamond or a rectangle, sometimes two, on a pole."""
    low = float(rng.uniform(1.1, 2.4))
    size = float(rng.uniform(0.55, 0.75))
    parts = [_plate(rng, str(rng.choice(["disc", "triangle", "rectangle", "diamond"])), size, low + size / 2)]
    top = low + size
    if rng.random() < 0.35:
        parts.append(_plate(rng, str(rng.choice(["disc", "rectangle"])), size * 0.75, top + size * 0.4))
        top += size * 0.8
    if rng.random() < 0.3:
        parts.append(boxes((0.02, 0.5, 0.25), [-0.05, 0, low - 0.3], "retroreflector", SIGN))
    return merge([tubes([[0, 0, -0.1]], [[0, 0, top]], 0.035, "bare metal", POLE), *parts])


def _plate(rng: np.random.Generator, shape: str, size: float, height: float) -> Mesh:
    if shape == "disc":
        front, back = (
            disc(size / 2, of, (x, 0, height), 14, "x") for of, x in ((_face(rng), -0.06), ("bare metal", -0.045))
        )
        return labelled(merge([front, back]), SIGN)
    if shape == "rectangle":
        wide = size * float(rng.uniform(0.6, 1.3))
        return _board(rng, wide, size, height - size / 2)
    triangle, diamond = [(-1.0, -0.9), (1.0, -0.9), (0.0, 0.9)], [(-1.0, 0.0), (0.0, -1.0), (1.0, 0.0), (0.0, 1.0)]
    corners = triangle if shape == "triangle" else diamond
    flat = np.array([[-0.05, y * size * 0.58, height + z * size * 0.58] for y, z in corners])
    faces = [[0, 1, 2]] if len(flat) == 3 else [[0, 1, 2], [0, 2, 3]]
    back = mesh(flat + [0.01, 0, 0], faces, "bare metal", SIGN)
    return merge([mesh(flat, faces, _face(rng), SIGN), back])


def _face(rng: np.random.Generator) -> str:
    """Draws what the front of a sign is made of; old ones hardly reflect."""
    return "retroreflector" if rng.random() < 0.6 else "worn sign"


def _board(rng: np.random.Generator, wide: float, high: float, low: float) -> Mesh:
    """Builds a plate whose front faces -x, with a back of bare metal."""
    front = boxes((0.01, wide, high), [-0.06, 0, low], _face(rng), SIGN)
    return merge([front, boxes((0.01, wide, high), [-0.045, 0, low], "bare metal", SIGN)])


def direction_sign(rng: np.random.Generator) -> Mesh:
    """Builds a large board on two posts that faces -x."""
    wide, high, low = float(rng.uniform(1.5, 3.8)), float(rng.uniform(0.9, 2.4)), float(rng.uniform(0.9, 2.2))
    posts = np.array([[0, -wide * 0.3, -0.2], [0, wide * 0.3, -0.2]])
    return merge(
        [
            tubes(posts, posts * [1, 1, 0] + [0, 0, low + high], 0.06, "bare metal", POLE),
            _board(rng, wide, high, low),
        ]
    )


def gantry(rng: np.random.Generator, width: float) -> Mesh:
    """Builds a bridge of signs over a wide road, from y = 0 to `width`."""
    height = float(rng.uniform(5.2, 6.2))
    posts = np.array([[0, 0, -0.2], [0, width, -0.2]])
    beams = np.array([[0, 0, height], [0, 0, height + 0.7]])
    boards = [[-0.2, width * k, height - 0.2] for k in (0.3, 0.7)]
    return merge(
        [
            tubes(posts, posts * [1, 1, 0] + [0, 0, height + 0.7], 0.18, "bare metal", POLE, 8),
            tubes(beams, beams + [0, width, 0], 0.1, "bare metal", POLE),
            boxes((0.06, width * 0.25, 2.2), boards, "retroreflector", SIGN),
        ]
    )


def fence_piece(rng: np.random.Generator, kind: str, height: float) -> Mesh:
    """Builds two metres of fence along x around the origin.

    kind: `picket`, `panel`, `boards`, `mesh`, `bars`, `wall`, `low wall` or `rail`
    """
    posts = boxes((0.09, 0.09, height + 0.3), [-1.0, 0, -0.3], "wood", FENCE)
    if kind == "picket":
        x = np.arange(-0.93, 1.0, 0.17)
        bars = boxes((0.09, 0.02, height - 0.05), _spread(x, 0.05), "wood", FENCE)
        return merge([posts, bars, boxes((2, 0.04, 0.08), [[0, 0.03, 0.25], [0, 0.03, height - 0.3]], "wood", FENCE)])
    if kind == "panel":
        x = np.arange(-0.9, 1.0, 0.15)
        at = _spread(x, 0.08) + np.array([0, 1, 0]) * (0.05 * (np.arange(len(x)) % 2))[:, None]
        return merge([posts, boxes((0.155, 0.03, height - 0.1), at, "wood", FENCE)])
    if kind == "boards":
        z = np.arange(0.15, height - 0.1, 0.32)
        at = np.stack([np.zeros_like(z), np.zeros_like(z), z], axis=1)
        return merge([posts, boxes((2.0, 0.03, 0.14), at, "wood", FENCE)])
    if kind == "mesh":
        return merge([tubes([[-1, 0, -0.2]], [[-1, 0, height]], 0.03, "bare metal", FENCE), _wires(height)])
    if kind == "bars":
        x = np.arange(-0.95, 1.0, 0.13)
        bars = tubes(_spread(x, 0.1), _spread(x, height), 0.012, "painted metal", FENCE, 4)
        rails = boxes((2.0, 0.04, 0.04), [[0, 0, 0.15], [0, 0, height - 0.12]], "painted metal", FENCE)
        return merge([boxes((2.0, 0.2, 0.35), [0, 0, -0.2], "concrete", FENCE), bars, rails])
    if kind == "rail":
        return _guard_rail()
    deep = float(rng.uniform(0.2, 0.4))
    of = str(rng.choice(["concrete", "brick", "plaster", "rough stone", "rough stone"]))
    parts = [boxes((2.02, deep, height + 0.4), [0, 0, -0.4], of, FENCE)]
    if rng.random() < 0.5:
        parts.append(boxes((0.4, deep + 0.14, height + 0.5), [-0.8, 0, -0.4], of, FENCE))
    if rng.random() < 0.5:
        parts.append(boxes((2.02, deep + 0.12, 0.06), [0, 0, height], "concrete", FENCE))
    return merge(parts)


def _spread(x: Floats, z: float) -> Floats:
    return np.stack([x, np.zeros_like(x), np.full_like(x, z)], axis=1)


def _wires(height: float) -> Mesh:
    """Builds thin vertical and horizontal strips with wide gaps that let most rays through."""
    x = np.arange(-0.95, 1.0, 0.1)
    upright = np.stack([[x - 0.005, x * 0, x * 0 + 0.03], [x + 0.005, x * 0, x * 0 + 0.03],
                        [x + 0.005, x * 0, x * 0 + height], [x - 0.005, x * 0, x * 0 + height]])  # fmt: skip
    z = np.arange(0.05, height + 0.01, 0.2)
    level = np.stack([[z * 0 - 1, z * 0, z - 0.005], [z * 0 + 1, z * 0, z - 0.005],
                      [z * 0 + 1, z * 0, z + 0.005], [z * 0 - 1, z * 0, z + 0.005]])  # fmt: skip
    return quads(np.concatenate([np.moveaxis(strips, 2, 0) for strips in (upright, level)]), "bare metal", FENCE)


def _guard_rail() -> Mesh:
    wave = np.array([[0.0, 0.48], [-0.07, 0.55], [-0.07, 0.6], [0.0, 0.65], [-0.07, 0.7], [-0.07, 0.76], [0.0, 0.8]])
    ends = np.stack([np.column_stack([np.full(7, x), wave]) for x in (-1.01, 1.01)])
    post = boxes((0.08, 0.12, 1.0), [0, 0.08, -0.3], "bare metal", FENCE)
    return merge([labelled(loft(ends, "bare metal", closed=False, capped=False), FENCE), post])


def small_clutter(rng: np.random.Generator) -> Mesh:
    """Builds something small that stands against a wall: a bin, a cabinet, a box, a pot with or without its plant."""
    wide, deep, high = rng.uniform((0.25, 0.2, 0.3), (0.9, 0.6, 1.3))
    if rng.random() < 0.4:
        pot = boxes((wide, deep, 0.35), [0, 0, 0], "concrete", OTHER)
        return merge([pot, labelled(blob((wide * 0.6, deep * 0.6, high * 0.5), "leaves", (0, 0, 0.6), 4, 6), 70)])
    return boxes((wide, deep, high), [0, 0, 0], str(rng.choice(["painted metal", "plastic", "wood"])), OTHER)


def trolleys(rng: np.random.Generator, count: int) -> Mesh:
    """Builds shopping trolleys along x, pushed into each other where there are several."""
    low = np.array([[-0.25, -0.2, 0.45], [0.4, -0.15, 0.5], [0.4, 0.15, 0.5], [-0.25, 0.2, 0.45]])
    high = low * [1.1, 1.25, 1] + [-0.05, 0, 0.42]
    loops = [
        corner for ring in (low, high, (low + high) / 2) for corner in zip(ring, np.roll(ring, 1, axis=0), strict=True)
    ]
    uprights = [
        (a, b)
        for share in np.linspace(0, 1, 5)
        for a, b in (
            (low[0] + share * (low[1] - low[0]), high[0] + share * (high[1] - high[0])),
            (low[3] + share * (low[2] - low[3]), high[3] + share * (high[2] - high[3])),
            (low[1] + share * (low[2] - low[1]), high[1] + share * (high[2] - high[1])),
        )
    ]
    legs = [(corner, np.array([corner[0], corner[1] * 1.3, 0.05])) for corner in low]
    bars = np.array([*loops, *uprights, *legs])
    handle = tubes([[-0.42, -0.27, 1.0]], [[-0.42, 0.27, 1.0]], 0.02, "plastic")
    one = merge([tubes(bars[:, 0], bars[:, 1], 0.008, "chrome", sides=4), handle])
    at = np.stack([0.22 * np.arange(count), np.zeros(count), np.zeros(count)], axis=1)
    size = np.full((count, 3), float(rng.uniform(0.9, 1.1)))
    return labelled(scatter(one, at, np.zeros(count), size), OTHER)


def bench() -> Mesh:
    """Builds a bench that faces -y."""
    seat = boxes((1.7, 0.45, 0.06), [0, 0, 0.43], "wood", OTHER)
    back = boxes((1.7, 0.05, 0.4), [0, 0.22, 0.5], "wood", OTHER)
    return merge([seat, back, boxes((0.08, 0.42, 0.43), [[-0.7, 0, 0], [0.7, 0, 0]], "concrete", OTHER)])


def clutter(rng: np.random.Generator) -> Mesh:
    """Builds an object without a class of its own: bins, cabinet, bench, container, mailbox, planter or advertising
    column.
    """
    kind = int(rng.integers(7))
    if kind == 0:
        count = int(rng.integers(1, 4))
        at = np.stack([0.75 * np.arange(count), np.zeros(count), np.zeros(count)], axis=1)
        return boxes((0.6, 0.7, float(rng.uniform(0.95, 1.2))), at, "plastic", OTHER)
    if kind == 1:
        size = rng.uniform((0.6, 0.3, 0.9), (1.4, 0.5, 1.6))
        return boxes(size, [0, 0, 0], "painted metal", OTHER)
    if kind == 2:
        return bench()
    if kind == 3:
        return boxes(
            (float(rng.uniform(2.0, 4.0)), 1.8, float(rng.uniform(1.2, 1.8))), [0, 0, 0.1], "painted metal", OTHER
        )
    if kind == 4:
        post = boxes((0.08, 0.08, 0.9), [0, 0, 0], "bare metal", OTHER)
        return merge([post, boxes((0.4, 0.3, 0.5), [0, 0, 0.85], "painted metal", OTHER)])
    if kind == 5:
        tub = boxes((0.9, 0.9, 0.5), [0, 0, 0], "concrete", OTHER)
        return merge([tub, labelled(blob((0.5, 0.5, 0.4), "leaves", (0, 0, 0.75), 4, 7), 70)])
    column = tubes([[0, 0, 0]], [[0, 0, 2.8]], 0.6, "plaster", OTHER, 12)
    return merge([column, labelled(disc(0.65, "plaster", (0, 0, 2.8), 12, "z"), OTHER)])


def bus_stop(rng: np.random.Generator) -> Mesh:
    """Builds a glass shelter that is open to -y."""
    wide = float(rng.uniform(2.5, 4.5))
    posts = [[s * wide / 2, y, 0] for s in (-1, 1) for y in (-0.6, 0.6)]
    shelter = [
        boxes((wide + 0.4, 1.6, 0.12), [0, 0, 2.4], "painted metal", OTHER_STRUCTURE),
        boxes((0.08, 0.08, 2.4), posts, "painted metal", OTHER_STRUCTURE),
        boxes((wide, 0.02, 1.9), [0, 0.6, 0.3], "glass", OTHER_STRUCTURE),
        boxes((wide * 0.7, 0.4, 0.06), [0, 0.35, 0.45], "wood", OTHER_STRUCTURE),
    ]
    return merge(shelter)
