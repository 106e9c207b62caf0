"""Builds cars and vans: a skin over cross sections, given by the curve of the roof and the width seen from above."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spvnas_ros.offline.simulation.materials import material
from spvnas_ros.offline.simulation.mesh import Floats, Mesh, merge
from spvnas_ros.offline.simulation.shapes import boxes, loft, wheel

PAINTS = ("car paint, dark", "car paint, light")
COACH_PAINTS = ("car paint, dark", "coach paint")
"""Paints of vans, lorries and buses."""
LIGHT_SHARES = (0.2, 0.8)
"""Probabilities of dark and light paint: most of these vehicles are light."""


@dataclass(frozen=True)
class Body:
    """The shape of a kind of car.

    length, width, height: lower and upper bound, metres
    roof:  the upper edge seen from the side: share of the length from the front, share of the height
    belt:  share of the height at which the windows begin
    glass: shares of the length between which there are side windows
    roofed: shares of the length between which the top is roof; outside of them, above the belt, it is a screen
    narrow: width of the roof relative to that of the body
    clearance: metres under the body
    """

    length: tuple[float, float]
    width: tuple[float, float]
    height: tuple[float, float]
    roof: tuple[tuple[float, float], ...]
    belt: float
    glass: tuple[float, float]
    roofed: tuple[float, float]
    narrow: float = 0.76
    clearance: float = 0.18
    axles: tuple[float, float] = (0.195, 0.81)
    wheel: float = 0.31


SEDAN = Body(
    (4.3, 5.0), (1.72, 1.9), (1.38, 1.5),
    ((0, 0.46), (0.02, 0.52), (0.1, 0.6), (0.27, 0.67), (0.42, 0.97), (0.52, 1.0), (0.68, 0.97),
     (0.84, 0.71), (0.97, 0.68), (1, 0.5)),
    0.63, (0.3, 0.82), (0.42, 0.68),
)  # fmt: skip
HATCHBACK = Body(
    (3.6, 4.3), (1.62, 1.82), (1.4, 1.58),
    ((0, 0.42), (0.03, 0.52), (0.1, 0.6), (0.23, 0.66), (0.4, 0.96), (0.52, 1.0), (0.8, 0.96),
     (0.86, 0.93), (0.97, 0.62), (1, 0.42)),
    0.61, (0.27, 0.9), (0.4, 0.85),
)  # fmt: skip
WAGON = Body(
    (4.4, 5.0), (1.74, 1.9), (1.42, 1.55),
    ((0, 0.45), (0.02, 0.52), (0.1, 0.6), (0.26, 0.67), (0.4, 0.96), (0.52, 1.0), (0.82, 0.98),
     (0.9, 0.95), (0.98, 0.62), (1, 0.44)),
    0.62, (0.29, 0.93), (0.4, 0.9),
)  # fmt: skip
SUV = Body(
    (4.2, 5.0), (1.78, 2.0), (1.6, 1.85),
    ((0, 0.42), (0.02, 0.54), (0.09, 0.61), (0.25, 0.65), (0.37, 0.96), (0.5, 1.0), (0.82, 0.98),
     (0.9, 0.94), (0.98, 0.62), (1, 0.42)),
    0.61, (0.27, 0.93), (0.37, 0.9), 0.8, 0.24, (0.195, 0.8), 0.36,
)  # fmt: skip
COMPACT_VAN = Body(
    (4.0, 4.7), (1.72, 1.88), (1.6, 1.9),
    ((0, 0.4), (0.03, 0.5), (0.1, 0.57), (0.19, 0.63), (0.36, 0.95), (0.48, 1.0), (0.86, 0.99),
     (0.93, 0.97), (0.985, 0.6), (1, 0.4)),
    0.58, (0.22, 0.94), (0.36, 0.92), 0.84, 0.2, (0.19, 0.8), 0.31,
)  # fmt: skip
COUPE = Body(
    (3.8, 4.6), (1.7, 1.9), (1.24, 1.38),
    ((0, 0.46), (0.03, 0.54), (0.12, 0.62), (0.34, 0.7), (0.48, 0.98), (0.56, 1.0), (0.68, 0.94),
     (0.88, 0.74), (0.98, 0.7), (1, 0.5)),
    0.67, (0.36, 0.82), (0.48, 0.7), 0.74, 0.14,
)  # fmt: skip
PANEL_VAN = Body(
    (5.0, 6.9), (1.92, 2.1), (2.0, 2.8),
    ((0, 0.3), (0.015, 0.4), (0.06, 0.46), (0.13, 0.51), (0.24, 0.93), (0.3, 0.98), (0.5, 1.0),
     (0.97, 1.0), (0.99, 0.97), (1, 0.3)),
    0.5, (0.15, 0.34), (0.24, 1.0), 0.9, 0.25, (0.16, 0.78), 0.35,
)  # fmt: skip
CARS = (HATCHBACK, WAGON, SEDAN, SUV, COMPACT_VAN, COUPE)
CAR_SHARES = (0.34, 0.22, 0.18, 0.13, 0.1, 0.03)


def car(rng: np.random.Generator) -> Mesh:
    """Builds a car at the origin that faces x."""
    return _vehicle(CARS[int(rng.choice(len(CARS), p=CAR_SHARES))], rng, str(rng.choice(PAINTS)))


def panel_van(rng: np.random.Generator) -> Mesh:
    """Builds a delivery van, which SemanticKITTI counts as a truck."""
    return _vehicle(PANEL_VAN, rng, str(rng.choice(COACH_PAINTS, p=LIGHT_SHARES)))


def _vehicle(shape: Body, rng: np.random.Generator, paint: str) -> Mesh:
    length, width, height = (float(rng.uniform(*bounds)) for bounds in (shape.length, shape.width, shape.height))
    wheels = shape.wheel * float(rng.uniform(0.95, 1.08))
    share = _stations(shape, wheels / length)
    top = np.interp(share, *np.array(shape.roof).T)
    sections, of = _sections(shape, share, top, (length, width, height), wheels, paint)
    skin = loft(sections, of)
    axles = [length * (0.5 - place) for place in shape.axles]
    rolling = [
        wheel(wheels, 0.21, "tyre", (x, side * (width / 2 - 0.13), wheels), 14) for x in axles for side in (-1, 1)
    ]
    hubs = boxes(
        (wheels, 0.02, wheels),
        [[x, side * (width / 2 - 0.015), wheels * 0.5] for x in axles for side in (-1, 1)],
        "bare metal",
    )
    return merge([skin, *rolling, hubs, _mirrors(shape, length, width, height), *_cabin(shape, length, width, height)])


def _stations(shape: Body, wheel_share: float) -> Floats:
    """Returns the places of the cross sections, as shares of the length."""
    arches = [place + wheel_share * k for place in shape.axles for k in (-1.22, -1.15, -0.8, 0.0, 0.8, 1.15, 1.22)]
    return np.unique(np.round(np.clip([*[x for x, _ in shape.roof], *arches, 0.006, 0.06, 0.34, 0.6, 0.994], 0, 1), 4))


def _sections(
    shape: Body, share: Floats, top: Floats, size: tuple[float, float, float], wheels: float, paint: str
) -> tuple[Floats, npt.NDArray[np.uint8]]:
    """Returns closed rings from nose to tail `[N, 14, 3]`, and the material of every quadrilateral between them."""
    length, width, height = size
    x = length * (0.5 - share)
    corner = np.minimum(share, 1 - share) * length
    half = width / 2 * (1 - 0.2 * np.clip(1 - corner / 0.5, 0, 1) ** 2.2)
    belt = np.minimum(shape.belt, top)
    lean = (top - belt) / max(1 - shape.belt, 1e-6)
    crown = half * (0.9 - (0.9 - shape.narrow) * lean)
    away = np.abs(x[:, None] - [length * (0.5 - place) for place in shape.axles]).min(axis=1) / wheels
    arch = np.where(away < 1.19, wheels + wheels * 1.17 * np.sqrt(np.clip(1 - (away / 1.19) ** 2, 0, 1)), 0)
    floor = np.full_like(x, shape.clearance) + np.clip(0.35 - corner, 0, 1) * 0.35
    sill = np.maximum(floor + 0.04, np.minimum(arch, top * height * 0.93))
    waist = np.maximum(sill, 0.45 * height * np.ones_like(x))
    waist = np.minimum(np.maximum(waist, sill + 0.01), np.maximum(belt * height - 0.02, sill + 0.01))
    profile = [
        (np.zeros_like(x), floor),
        (half * 0.78, floor),
        (half * np.where(arch > 0, 0.79, 0.95), np.maximum(floor, np.where(arch > 0, sill, floor))),
        (half, sill),
        (half, waist),
        (half * 0.965, np.maximum(belt * height, waist)),
        (crown, np.maximum(top * height - 0.02 - 0.02 * lean, waist)),
        (np.zeros_like(x), np.maximum(top * height, waist) + 0.0 * x),
    ]
    right = [np.stack([x, -y, z], axis=1) for y, z in profile]
    left = [np.stack([x, y, z], axis=1) for y, z in profile[-2:0:-1]]
    rings = np.stack([*right, *left], axis=1)
    return rings, _materials(shape, share, top, rings.shape[1], paint)


def _materials(shape: Body, share: Floats, top: Floats, around: int, paint: str) -> npt.NDArray[np.uint8]:
    """Returns paint, except for glass at the windows and dark plastic at the underside."""
    middle = (share[:-1] + share[1:]) / 2
    high = np.minimum(top[:-1], top[1:]) + 0.5 * np.abs(np.diff(top)) > shape.belt + 0.04
    of = np.full((len(middle), around), material(paint), np.uint8)
    of[:, [0, 1, around - 2, around - 1]] = material("plastic")
    window = (middle > shape.glass[0]) & (middle < shape.glass[1]) & high
    of[np.ix_(np.flatnonzero(window), np.array([5, around - 6]))] = material("car glass")
    screen = high & ((middle < shape.roofed[0]) | (middle > shape.roofed[1])) & (np.abs(np.diff(top)) > 0.02)
    of[np.ix_(np.flatnonzero(screen), np.array([6, around - 7]))] = material("car glass")
    return of.reshape(-1)


def _mirrors(shape: Body, length: float, width: float, height: float) -> Mesh:
    x = length * (0.5 - shape.glass[0] - 0.04)
    z = height * (shape.belt + 0.03)
    return boxes((0.12, 0.2, 0.13), [[x, side * (width / 2 + 0.06), z] for side in (-1, 1)], "plastic")


def _cabin(shape: Body, length: float, width: float, height: float) -> list[Mesh]:
    """Builds the seats, and a floor that stops rays through the windows."""
    inside = shape.glass[0] + np.array([0.14, 0.38]) * (shape.glass[1] - shape.glass[0]) / 0.55
    places = [x for x in inside if x < shape.roofed[1]]
    at = [[length * (0.5 - x) - 0.25, side * width * 0.2, 0.35] for x in places for side in (-1, 1)]
    backs = boxes((0.16, 0.48, height * (shape.belt + 0.02) - 0.35), at, "clothes, dark")
    rests = boxes((0.1, 0.24, 0.18), [[x, y, height * (shape.belt + 0.06)] for x, y, _ in at], "clothes, dark")
    front, end = (length * (0.5 - x) for x in (shape.glass[0] - 0.02, min(shape.glass[1], 0.93)))
    shelf = boxes((front - end, width * 0.8, 0.04), [(front + end) / 2, 0, 0.42 * height], "plastic")
    return [backs, rests, shelf]
