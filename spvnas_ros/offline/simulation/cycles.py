"""Builds bicycles and motorcycles of thin tubes, and their riders."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from spvnas_ros.offline.simulation.mesh import Mesh, merge, place, scatter
from spvnas_ros.offline.simulation.people import CLOTHES, Joints, body
from spvnas_ros.offline.simulation.shapes import blob, boxes, polyline, tubes, wheel


def rim(radius: float, thickness: float, x: float, spokes: int, of: str = "tyre") -> Mesh:
    """Builds an open wheel in the x-z plane that stands on the ground at `x`."""
    angle = 2 * np.pi * np.arange(19) / 18
    ring = np.stack([x + radius * np.cos(angle), np.zeros(19), radius + thickness + radius * np.sin(angle)], axis=1)
    around = 2 * np.pi * np.arange(spokes) / spokes
    hub = np.array([x, 0, radius + thickness])
    ends = hub + np.stack([np.cos(around), np.zeros(spokes), np.sin(around)], axis=1) * radius
    return merge(
        [
            polyline(ring, thickness, of, sides=4),
            tubes(np.repeat(hub[None], spokes, axis=0), ends, 0.006, "bare metal", sides=3),
            tubes(hub - [0, 0.05, 0], hub + [0, 0.05, 0], 0.03, "bare metal", sides=5),
        ]
    )


def bicycle(rng: np.random.Generator) -> Mesh:
    """Builds a bicycle at the origin that faces x; it is about 1.75 m long."""
    k = float(rng.uniform(0.9, 1.06))
    front, rear, seat, head, crank = _frame_points(bool(rng.random() < 0.35))
    bars = [
        [rear, crank], [rear, seat], [crank, seat], [seat, head], [crank, head], [head, front],
        [seat, [-0.27, 0, 0.95]], [head, [0.34, 0, 1.0]],
    ]  # fmt: skip
    frame = np.array(bars, np.float64)
    tyre = str(rng.choice(["tyre", "reflective tyre", "reflective tyre"]))
    paint = str(rng.choice(["coach paint", "bare metal", "painted metal", "car paint, light"]))
    parts = [
        rim(0.33, 0.02, 0.53, 10, tyre),
        rim(0.33, 0.02, -0.53, 10, tyre),
        tubes(frame[:, 0], frame[:, 1], float(rng.uniform(0.016, 0.03)), paint, sides=5),
        polyline([[0.26, -0.29, 1.02], [0.37, -0.12, 1.03], [0.37, 0.12, 1.03], [0.26, 0.29, 1.02]], 0.015, "plastic"),
        boxes((0.26, 0.15, 0.07), [-0.29, 0, 0.95], "plastic"),
        tubes([[0.0, -0.1, 0.29], [0.0, 0.1, 0.29]], [[0.1, -0.1, 0.18], [-0.1, 0.1, 0.4]], 0.012, "bare metal"),
        boxes((0.1, 0.09, 0.025), [[0.1, -0.15, 0.16], [-0.1, 0.15, 0.39]], "plastic"),
    ]
    if rng.random() < 0.5:
        parts.append(boxes((0.38, 0.13, 0.02), [-0.55, 0, 0.74], "bare metal"))
        parts.append(tubes([[-0.53, -0.06, 0.35]], [[-0.6, -0.06, 0.74]], 0.008, "bare metal", sides=3))
    if rng.random() < 0.25:
        parts.append(boxes((0.3, 0.38, 0.25), [0.55, 0, 0.86], str(rng.choice(["plastic", "bare metal"]))))
    draw = rng.random()
    if draw < 0.15:
        parts.append(boxes((0.28, 0.3, 0.38), [-0.55, 0, 0.74], "plastic"))
    elif draw < 0.3:
        parts.append(boxes((0.32, 0.12, 0.3), [[-0.55, -0.14, 0.42], [-0.55, 0.14, 0.42]], str(rng.choice(CLOTHES))))
    if rng.random() < 0.5:
        for x, sweep in ((0.53, 1.0), (-0.53, -1.0)):
            angle = np.linspace(0.1, 2.2, 6)
            guard = np.stack([x - sweep * 0.37 * np.cos(angle), 0 * angle, 0.35 + 0.37 * np.sin(angle)], axis=1)
            parts.append(polyline(guard, 0.025, paint, sides=4))
    return place(merge(parts), (0, 0, 0), 0, k)


def parked(rng: np.random.Generator) -> Mesh:
    """Builds a bicycle that leans on its stand or against something."""
    upright = bicycle(rng)
    vertices = upright.vertices.copy()
    vertices[:, 1] += vertices[:, 2] * np.float32(np.tan(rng.uniform(0.02, 0.21)) * rng.choice([-1, 1]))
    return replace(upright, vertices=vertices)


def _frame_points(low: bool) -> tuple[list[float], list[float], list[float], list[float], list[float]]:
    """Returns front hub, rear hub, seat joint, head tube and crank. A `low` frame is easy to mount."""
    seat = [-0.22, 0.0, 0.55 if low else 0.78]
    head = [0.38, 0.0, 0.72 if low else 0.8]
    return [0.53, 0.0, 0.35], [-0.53, 0.0, 0.35], seat, head, [-0.02, 0.0, 0.29]


def bicyclist(rng: np.random.Generator) -> Mesh:
    """Builds a bicycle and its rider."""
    k = float(np.clip(rng.normal(1.0, 0.06), 0.8, 1.12))
    low = float(rng.uniform(0.1, 0.55))
    hip = np.array([-0.25, 0, 0.99])
    neck = hip + 0.52 * np.array([np.sin(low), 0, np.cos(low)])
    turn = float(rng.uniform(0, 2 * np.pi))
    feet = tuple(
        np.array([0.15 * side * np.cos(turn), 0.12 * side, 0.33 + 0.15 * side * np.sin(turn)]) for side in (-1, 1)
    )
    hands = (np.array([0.28, -0.27, 1.06]), np.array([0.28, 0.27, 1.06]))
    rider = body(Joints(hip, neck, hands, (feet[0], feet[1]), 0.02, 0.16), 1.74, rng, bool(rng.random() < 0.4))
    return place(merge([bicycle(rng), rider]), (0, 0, 0), 0, k)


def motorcycle(rng: np.random.Generator) -> Mesh:
    """Builds a motorcycle or a scooter at the origin that faces x; it is 1.7 to 2.3 m long."""
    return _scooter(rng) if rng.random() < 0.4 else _motorcycle(rng)


def _motorcycle(rng: np.random.Generator) -> Mesh:
    k = float(rng.uniform(0.92, 1.1))
    paint = str(rng.choice(["car paint, dark", "car paint, light"]))
    parts = [
        wheel(0.31, 0.13, "tyre", (0.72, 0, 0.31), 14),
        wheel(0.31, 0.18, "tyre", (-0.7, 0, 0.31), 14),
        tubes([[0.72, -0.1, 0.31], [0.72, 0.1, 0.31]], [[0.45, -0.1, 0.95], [0.45, 0.1, 0.95]], 0.03, "chrome"),
        boxes((0.62, 0.42, 0.42), [0.02, 0, 0.22], "bare metal"),
        blob((0.32, 0.17, 0.16), paint, (0.15, 0, 0.82), 5, 8),
        blob((0.42, 0.15, 0.08), "plastic", (-0.42, 0, 0.78), 4, 8),
        boxes((0.3, 0.16, 0.12), [-0.85, 0, 0.72], paint),
        tubes([[0.1, -0.2, 0.3]], [[-0.9, -0.24, 0.42]], 0.06, "chrome"),
        tubes([[-0.1, 0.1, 0.4], [-0.1, -0.1, 0.4]], [[-0.7, 0.1, 0.31], [-0.7, -0.1, 0.31]], 0.03, "bare metal"),
        polyline([[0.28, -0.38, 1.03], [0.44, -0.1, 1.04], [0.44, 0.1, 1.04], [0.28, 0.38, 1.03]], 0.02, "plastic"),
        boxes((0.16, 0.2, 0.2), [0.55, 0, 0.84], "plastic"),
        boxes((0.4, 0.14, 0.03), [0.74, 0, 0.63], paint),
        boxes((0.05, 0.1, 0.08), [[0.4, -0.4, 1.1], [0.4, 0.4, 1.1]], "plastic"),
    ]
    if rng.random() < 0.5:
        parts.append(boxes((0.05, 0.42, 0.4), [0.55, 0, 0.95], "car glass"))
    if rng.random() < 0.4:
        parts.append(boxes((0.4, 0.2, 0.3), [[-0.62, -0.28, 0.5], [-0.62, 0.28, 0.5]], "plastic"))
    return place(merge(parts), (0, 0, 0), 0, k)


def _scooter(rng: np.random.Generator) -> Mesh:
    paint = str(rng.choice(["car paint, dark", "car paint, light"]))
    parts = [
        wheel(0.24, 0.11, "tyre", (0.62, 0, 0.24), 12),
        wheel(0.24, 0.12, "tyre", (-0.6, 0, 0.24), 12),
        boxes((0.55, 0.32, 0.08), [0.12, 0, 0.26], "plastic"),
        blob((0.48, 0.2, 0.24), paint, (-0.48, 0, 0.55), 5, 8),
        blob((0.38, 0.16, 0.07), "plastic", (-0.4, 0, 0.8), 4, 8),
        boxes((0.1, 0.4, 0.62), [0.45, 0, 0.3], paint),
        tubes([[0.62, 0, 0.24]], [[0.45, 0, 1.0]], 0.05, "plastic"),
        boxes((0.14, 0.26, 0.18), [0.45, 0, 0.92], paint),
        polyline([[0.32, -0.33, 1.05], [0.42, 0, 1.05], [0.32, 0.33, 1.05]], 0.02, "plastic"),
        boxes((0.03, 0.1, 0.08), [[0.36, -0.33, 1.15], [0.36, 0.33, 1.15]], "plastic"),
    ]
    if rng.random() < 0.5:
        parts.append(boxes((0.4, 0.4, 0.36), [-0.78, 0, 0.84], "plastic"))
    if rng.random() < 0.4:
        parts.append(boxes((0.03, 0.45, 0.4), [0.5, 0, 1.1], "car glass"))
    return merge(parts)


def motorcyclist(rng: np.random.Generator) -> Mesh:
    """Builds a motorcycle and its rider."""
    low = float(rng.uniform(0.1, 0.45))
    hip = np.array([-0.28, 0, 0.9])
    neck = hip + 0.53 * np.array([np.sin(low), 0, np.cos(low)])
    feet = (np.array([0.0, -0.24, 0.34]), np.array([0.0, 0.24, 0.34]))
    hands = (np.array([0.3, -0.33, 1.04]), np.array([0.3, 0.33, 1.04]))
    rider = body(Joints(hip, neck, hands, feet, 0.03, 0.2), float(rng.uniform(1.68, 1.9)), rng, helmet=True)
    return merge([motorcycle(rng), rider])


def rack(count: int, apart: float) -> Mesh:
    """Builds the hoops of a bicycle rack along y, `apart` metres from each other."""
    hoop = polyline(np.array([[0, 0, 0], [0, 0, 0.75], [0.6, 0, 0.75], [0.6, 0, 0]]), 0.025, "bare metal", 99)
    at = np.stack([np.full(count, -0.3), apart * (np.arange(count) + 0.5), np.zeros(count)], axis=1)
    return scatter(hoop, at, np.zeros(count), np.ones((count, 3)))
