"""Builds trucks, buses, trailers, tractors and caravans."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from spvnas_ros.offline.simulation.mesh import Mesh, merge, place
from spvnas_ros.offline.simulation.shapes import blob, boxes, disc, loft, tubes, wheel
from spvnas_ros.offline.simulation.vehicles import COACH_PAINTS, LIGHT_SHARES, panel_van


def truck(rng: np.random.Generator) -> Mesh:
    """Builds a delivery van, or a lorry with box, tank, tipper or open bed; centred on the origin, facing x."""
    if rng.random() < 0.5:
        return panel_van(rng)
    width = float(rng.uniform(2.2, 2.55))
    bed = float(rng.uniform(3.8, 8.5))
    cab = float(rng.uniform(1.7, 2.3))
    height = float(rng.uniform(2.5, 3.0))
    body = LOADS[int(rng.integers(len(LOADS)))](rng, bed, width)
    parts = [
        place(_cab(rng, cab, width, height), (bed / 2 + cab / 2 + 0.15, 0, 0)),
        boxes((bed + cab, 0.9, 0.28), [cab / 2, 0, 0.62], "painted metal"),
        body,
        *_axles([bed / 2 + cab * 0.55, *np.linspace(-bed * 0.2, -bed * 0.33, 1 if bed < 5 else 2)], width, 0.48),
        boxes((bed * 0.4, 0.05, 0.35), [[0, side * (width / 2 - 0.1), 0.5] for side in (-1, 1)], "bare metal"),
        boxes((0.05, width * 0.9, 0.12), [-bed / 2 + 0.05, 0, 0.5], "painted metal"),
    ]
    return place(merge(parts), (-cab / 2, 0, 0))


def _axles(places: list[float], width: float, radius: float) -> list[Mesh]:
    return [wheel(radius, 0.3, "tyre", (x, side * (width / 2 - 0.18), radius), 14) for x in places for side in (-1, 1)]


def _cab(rng: np.random.Generator, length: float, width: float, height: float) -> Mesh:
    """Builds a lorry's cab with a sloping front."""
    paint = str(rng.choice(COACH_PAINTS, p=LIGHT_SHARES))
    low, high = 0.45, height
    slope = float(rng.uniform(0.05, 0.35))
    edge = np.array([[0.5, low], [0.5, 0.52 * high], [0.5 - slope / length, high], [-0.5, high], [-0.5, low]])
    outline = np.stack([edge[:, 0] * length, np.zeros(5), edge[:, 1]], axis=1)
    ring = np.stack([outline + [0, side * width / 2, 0] for side in (-1, 1)])
    front = length / 2 + 0.01
    screen = loft(
        [
            [[front, -width * 0.44, 0.56 * high], [front, width * 0.44, 0.56 * high]],
            [[front - slope * 0.9, -width * 0.42, 0.93 * high], [front - slope * 0.9, width * 0.42, 0.93 * high]],
        ],
        "car glass",
        closed=False,
        capped=False,
    )
    return merge(
        [
            loft(ring, paint),
            screen,
            boxes(
                (length * 0.5, 0.02, 0.3 * high),
                [[length * 0.1, s * (width / 2 + 0.005), 0.58 * high] for s in (-1, 1)],
                "car glass",
            ),
            boxes((0.15, 0.18, 0.5), [[front - 0.1, s * (width / 2 + 0.06), 0.62 * high] for s in (-1, 1)], "plastic"),
            boxes((0.12, width * 0.96, 0.3), [front - 0.02, 0, 0.38], "plastic"),
        ]
    )


def _box(rng: np.random.Generator, length: float, width: float) -> Mesh:
    return boxes(
        (length, width, float(rng.uniform(1.9, 2.7))),
        [0, 0, 0.95],
        str(rng.choice(["tarpaulin", "painted metal", *COACH_PAINTS])),
    )


def _tank(rng: np.random.Generator, length: float, width: float) -> Mesh:
    radius = width * 0.46
    ends = np.array([[-length / 2, 0, 0.95 + radius], [length / 2, 0, 0.95 + radius]])
    caps = [disc(radius, "bare metal", end, 12, "x") for end in ends]
    ladder = boxes((0.05, 0.4, 1.6), [-length / 2 - 0.05, 0, 0.9], "bare metal")
    rail = boxes((length * float(rng.uniform(0.3, 0.7)), 0.4, 0.15), [0, 0, 0.95 + 2 * radius], "bare metal")
    return merge([tubes(ends[:1], ends[1:], radius, "bare metal", sides=12), *caps, ladder, rail])


def _flatbed(rng: np.random.Generator, length: float, width: float) -> Mesh:
    side = float(rng.uniform(0.25, 0.6))
    parts = [
        boxes((length, width, 0.12), [0, 0, 0.95], "wood"),
        boxes((length, 0.04, side), [[0, s * width / 2, 1.05] for s in (-1, 1)], "painted metal"),
        boxes((0.06, width, side + 0.6), [length / 2, 0, 1.05], "painted metal"),
    ]
    for _ in range(int(rng.integers(0, 5))):
        size = rng.uniform((0.6, 0.6, 0.4), (1.8, 1.3, 1.4))
        at = [float(rng.uniform(-0.5, 0.5)) * (length - size[0]), float(rng.uniform(-0.2, 0.2)) * width, 1.07]
        parts.append(boxes(size, at, str(rng.choice(["wood", "plastic", "concrete", "tarpaulin"]))))
    return merge(parts)


def _tipper(rng: np.random.Generator, length: float, width: float) -> Mesh:
    high = float(rng.uniform(0.9, 1.5))
    floor = np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]]) * [length / 2, width / 2 - 0.25, 0]
    brim = np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]]) * [length / 2, width / 2, 0]
    tub = loft([floor + [0, 0, 0.95], brim + [0, 0, 0.95 + high]], "painted metal", capped=False)
    heap = blob((length * 0.42, width * 0.36, high * 0.6), "gravel", (0, 0, 0.95 + high * 0.5))
    return merge([tub, heap])


LOADS: tuple[Callable[[np.random.Generator, float, float], Mesh], ...] = (_box, _box, _flatbed, _tank, _tipper)


def bus(rng: np.random.Generator) -> Mesh:
    """Builds a city bus."""
    length, width, height = (float(rng.uniform(*b)) for b in ((8.5, 12.5), (2.45, 2.55), (2.9, 3.3)))
    paint = str(rng.choice(COACH_PAINTS, p=LIGHT_SHARES))
    panes = int(length / 1.5)
    x = (np.arange(panes) + 0.5) * (length - 0.6) / panes - length / 2 + 0.3
    windows = [[at, side * (width / 2 + 0.005), 1.25] for at in x for side in (-1, 1)]
    pillars = [[at, side * width / 2, 1.2] for at in (*(x - 0.5 * (length - 0.6) / panes), length / 2 - 0.3)
               for side in (-1, 1)]  # fmt: skip
    seats = [[at, side * width * 0.27, 0.8] for at in x for side in (-1, 1)]
    return merge(
        [
            boxes((length, width, 0.9), [0, 0, 0.32], paint),
            boxes((length, width, height - 2.25), [0, 0, 2.25], paint),
            boxes((0.1, 0.06, 1.1), pillars, paint),
            boxes(((length - 0.6) / panes - 0.1, 0.01, 1.0), windows, "car glass"),
            boxes((0.01, width * 0.92, 1.3), [[length / 2, 0, 1.0], [-length / 2, 0, 1.2]], "car glass"),
            boxes((0.12, 0.85, 0.9), seats, "clothes, dark"),
            *_axles([length * 0.31, -length * 0.24], width, 0.48),
            boxes(
                (0.2, 0.12, 0.4), [[length / 2 + 0.15, side * (width / 2 + 0.05), 2.0] for side in (-1, 1)], "plastic"
            ),
        ]
    )


def caravan(rng: np.random.Generator) -> Mesh:
    """Builds a caravan with its drawbar in front."""
    length, width, height = (float(rng.uniform(*b)) for b in ((3.8, 6.5), (2.0, 2.4), (2.4, 2.7)))
    edge = np.array([[0.5, 0.5], [0.47, 0.62], [0.42, 1.0], [-0.46, 1.0], [-0.5, 0.55], [-0.47, 0.16], [0.46, 0.16]])
    outline = np.stack([edge[:, 0] * length, np.zeros(len(edge)), edge[:, 1] * height], axis=1)
    skin = loft(np.stack([outline + [0, s * width / 2, 0] for s in (-1, 1)]), "coach paint")
    panes = [[x * length, s * (width / 2 + 0.01), 0.5 * height] for x in (-0.25, 0.22) for s in (-1, 1)]
    return merge(
        [
            skin,
            boxes((length * 0.28, 0.02, 0.55), panes, "car glass"),
            *_axles([-0.1 * length], width, 0.32),
            boxes((1.3, 0.1, 0.1), [length / 2 + 0.6, 0, 0.42], "painted metal"),
            boxes((0.4, 0.7, 0.45), [length / 2 + 0.3, 0, 0.5], "plastic"),
        ]
    )


def trailer(rng: np.random.Generator) -> Mesh:
    """Builds a small trailer, open or covered with a tarpaulin."""
    length, width = float(rng.uniform(2.0, 4.5)), float(rng.uniform(1.3, 2.2))
    parts = [
        boxes((length, width, 0.08), [0, 0, 0.5], "wood"),
        boxes((length, 0.04, 0.4), [[0, s * width / 2, 0.55] for s in (-1, 1)], "painted metal"),
        boxes((0.04, width, 0.4), [[s * length / 2, 0, 0.55] for s in (-1, 1)], "painted metal"),
        *_axles([0.0] if length < 3 else [-0.4, 0.35], width + 0.4, 0.3),
        tubes([[length / 2, -width * 0.3, 0.5], [length / 2, width * 0.3, 0.5]], [length / 2 + 1.2, 0, 0.45], 0.05,
              "painted metal"),
    ]  # fmt: skip
    if rng.random() < 0.6:
        parts.append(boxes((length, width, float(rng.uniform(0.5, 1.5))), [0, 0, 0.95], "tarpaulin"))
    return merge(parts)


def tractor(rng: np.random.Generator) -> Mesh:
    """Builds a farm tractor: large wheels at the rear, small ones at the front, a cab of glass."""
    k = float(rng.uniform(0.85, 1.15))
    posts = [[x, y, 1.5] for x in (-1.2, 0.1) for y in (-0.65, 0.65)]
    parts = [
        *(wheel(0.78, 0.5, "tyre", (-0.85, s * 0.8, 0.78), 16) for s in (-1, 1)),
        *(wheel(0.48, 0.35, "tyre", (1.25, s * 0.75, 0.48), 14) for s in (-1, 1)),
        boxes((1.75, 0.75, 0.75), [1.0, 0, 0.8], "car paint, dark"),
        boxes((1.6, 0.7, 0.6), [-0.6, 0, 0.7], "painted metal"),
        boxes((1.0, 0.35, 0.06), [[-0.85, s * 0.8, 1.58] for s in (-1, 1)], "painted metal"),
        boxes((0.07, 0.07, 1.1), posts, "painted metal"),
        boxes((1.5, 1.45, 0.12), [-0.55, 0, 2.58], "car paint, dark"),
        boxes((1.3, 0.01, 1.0), [[-0.55, s * 0.66, 1.55] for s in (-1, 1)], "car glass"),
        boxes((0.5, 0.5, 0.9), [-0.7, 0, 1.2], "clothes, dark"),
        tubes([[1.0, 0.25, 1.5]], [[1.0, 0.25, 2.5]], 0.05, "bare metal"),
    ]
    return place(merge(parts), (0, 0, 0), 0, k)


OTHERS: tuple[tuple[Callable[[np.random.Generator], Mesh], int, float], ...] = (
    (bus, 13, 0.2),
    (caravan, 20, 0.22),
    (trailer, 20, 0.33),
    (tractor, 20, 0.25),
)
"""Maker, raw label and share of the vehicles that SemanticKITTI counts as other vehicles."""


def other_vehicle(rng: np.random.Generator, moving: bool = False) -> tuple[Mesh, int]:
    """Builds one of `OTHERS` and returns it with its raw label. With `moving`, it is one with an engine."""
    shares = np.array([share * (not moving or maker in (bus, tractor)) for maker, _, share in OTHERS])
    maker, label, _ = OTHERS[int(rng.choice(len(OTHERS), p=shares / shares.sum()))]
    return maker(rng), label
