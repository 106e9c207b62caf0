"""Builds persons from joints: standing, walking and riding."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spvnas_ros.offline.simulation.mesh import Floats, Mesh, merge, place
from spvnas_ros.offline.simulation.shapes import blob, boxes, loft, polyline, tubes, wheel

CLOTHES = ("clothes, dark", "clothes, light")


@dataclass(frozen=True)
class Joints:
    """Places of a body's joints, metres; of hands and feet the right one comes first."""

    hip: Floats
    neck: Floats
    hands: tuple[Floats, Floats]
    feet: tuple[Floats, Floats]
    elbow_bend: float = 0.05
    knee_bend: float = 0.06


def body(joints: Joints, height: float, rng: np.random.Generator, helmet: bool = False) -> Mesh:
    """Builds a dressed body around its joints; its thickness follows from `height` in metres."""
    h = height
    top, bottom = (str(rng.choice(CLOTHES)) for _ in range(2))
    girth = float(rng.uniform(0.85, 1.25))
    lean = joints.neck - joints.hip
    parts = [_torso(joints, h, girth, top)]
    head = joints.neck + lean / np.linalg.norm(lean) * 0.05 * h + np.array([0.02 * h, 0, 0.05 * h])
    size = (0.068 * h, 0.058 * h, 0.078 * h) if helmet else (0.057 * h, 0.046 * h, 0.068 * h)
    parts.append(blob(size, "plastic" if helmet else "skin", head.tolist(), 5, 8))
    for side, hand, foot in zip((-1, 1), joints.hands, joints.feet, strict=True):
        shoulder = joints.neck + np.array([0, side * 0.105 * h * girth, -0.03 * h])
        elbow = (shoulder + hand) / 2 + np.array([-joints.elbow_bend * h, side * 0.03 * h, -0.02 * h])
        sleeve = np.array([0.037, 0.03, 0.022]) * h * girth
        parts.append(polyline([shoulder, elbow, hand], sleeve, top, sides=5))
        hip = joints.hip + np.array([0, side * 0.05 * h, 0.01 * h])
        knee = (hip + foot) / 2 + np.array([joints.knee_bend * h, side * 0.01 * h, joints.knee_bend * 0.3 * h])
        leg = np.array([0.056, 0.04, 0.028]) * h * girth
        parts.append(polyline([hip, knee, foot], leg, bottom, sides=6))
        parts.append(boxes((0.15 * h, 0.055 * h, 0.05 * h), foot + [0.035 * h, 0, -0.035 * h], "clothes, dark"))
    return merge(parts)


def _torso(joints: Joints, h: float, girth: float, of: str) -> Mesh:
    share = np.array([-0.06, 0.1, 0.35, 0.7, 0.93, 1.02])
    half_width = np.array([0.09, 0.1, 0.088, 0.108, 0.1, 0.035]) * h * girth
    half_depth = np.array([0.066, 0.072, 0.066, 0.072, 0.06, 0.032]) * h * girth
    angle = 2 * np.pi * np.arange(8) / 8
    middle = joints.hip + share[:, None] * (joints.neck - joints.hip)
    ring = np.stack(
        [
            half_depth[:, None] * np.cos(angle),
            half_width[:, None] * np.sin(angle),
            np.zeros((len(share), 8)),
        ],
        axis=-1,
    )
    return loft(middle[:, None] + ring, of)


def walker(rng: np.random.Generator, height: float, stride: float) -> Mesh:
    """Builds a person on foot who faces x; `stride` is the swing of the legs in radians, 0 for a person who stands."""
    h = height
    swing = np.array([-1, 1]) * stride * float(rng.choice([-1, 1]))
    hip = np.array([0, 0, (0.53 - 0.1 * stride**2) * h])
    neck = np.array([0.03 * h, 0, 0.835 * h])
    feet = tuple(
        np.array([0.48 * h * np.sin(a), side * 0.055 * h, 0.04 * h + max(0.0, -a) * 0.12 * h])
        for side, a in zip((-1, 1), swing, strict=True)
    )
    hands = tuple(
        np.array([-0.32 * h * np.sin(a) + 0.04 * h, side * 0.15 * h, 0.47 * h + 0.06 * h * abs(a)])
        for side, a in zip((-1, 1), swing, strict=True)
    )
    if rng.random() < 0.15:
        hands = (np.array([0.12 * h, -0.07 * h, 0.78 * h]), hands[1])
    figure = body(Joints(hip, neck, (hands[0], hands[1]), (feet[0], feet[1])), h, rng)
    parts = [figure, *_carried(rng, h, hands[0])]
    if rng.random() < 0.35:
        parts.append(_coat(rng, hip, h))
    return merge(parts)


def _coat(rng: np.random.Generator, hip: Floats, h: float) -> Mesh:
    """Builds a coat or a skirt from the waist to the knees or the calves."""
    drop = float(rng.uniform(0.15, 0.36)) * h
    angle = 2 * np.pi * np.arange(8) / 8
    ring = np.stack([0.085 * np.cos(angle), 0.105 * np.sin(angle), np.zeros(8)], axis=1) * h
    wide = float(rng.uniform(1.0, 1.5))
    return loft(
        np.stack([hip + ring + [0, 0, 0.06 * h], hip + ring * [wide, wide, 1] - [0, 0, drop]]),
        str(rng.choice(CLOTHES)),
        capped=False,
    )


def sitting(rng: np.random.Generator) -> Mesh:
    """Builds an adult who sits and faces x, without the seat."""
    h = float(np.clip(rng.normal(1.72, 0.09), 1.5, 1.98))
    low = float(rng.uniform(-0.1, 0.35))
    hip = np.array([-0.2, 0, 0.5])
    neck = hip + 0.31 * h * np.array([np.sin(low), 0, np.cos(low)])
    reach = float(rng.uniform(0.2, 0.45))
    feet = tuple(np.array([reach, side * float(rng.uniform(0.06, 0.14)), 0.06]) for side in (-1, 1))
    hands = tuple(np.array([0.12, side * float(rng.uniform(0.05, 0.2)), 0.62]) for side in (-1, 1))
    return body(Joints(hip, neck, (hands[0], hands[1]), (feet[0], feet[1]), 0.05, 0.13), h, rng)


def _carried(rng: np.random.Generator, h: float, hand: npt.NDArray[np.float64]) -> list[Mesh]:
    """Builds bags and other things that a person carries; most persons carry nothing."""
    draw = rng.random()
    if draw < 0.15:
        return [boxes((0.1, 0.3, 0.32), hand + [0, 0, -0.36], "clothes, dark")]
    if draw < 0.32:
        return [boxes((0.17, 0.28, 0.42), [-0.16, 0, 0.58 * h], str(rng.choice(CLOTHES)))]
    if draw < 0.37:
        pole = np.array([0.1, 0.05, 0.62 * h])
        roof = loft(_umbrella(np.array([0.06, 0.05, 1.08 * h])), "clothes, dark", capped=False)
        return [tubes(pole, pole + [0, 0, 0.5 * h], 0.012, "plastic", sides=4), roof]
    return []


def _umbrella(top: Floats) -> Floats:
    angle = 2 * np.pi * np.arange(8) / 8
    ring = np.stack([np.cos(angle), np.sin(angle), np.zeros(8)], axis=1)
    return np.stack([top + ring * radius + [0, 0, rise] for radius, rise in ((0.02, 0.2), (0.32, 0.14), (0.52, 0.0))])


def stroller(rng: np.random.Generator) -> Mesh:
    """Builds a pram that is pushed along x."""
    cloth = str(rng.choice(CLOTHES))
    wheels = [wheel(0.12, 0.05, "tyre", (x, y, 0.12), 8) for x in (-0.3, 0.3) for y in (-0.24, 0.24)]
    tub = boxes((0.75, 0.4, 0.3), [0, 0, 0.45], cloth)
    hood = boxes((0.35, 0.4, 0.3), [0.18, 0, 0.75], cloth)
    bars = tubes(
        [[-0.3, -0.2, 0.12], [-0.3, 0.2, 0.12], [-0.35, -0.2, 0.6], [-0.35, 0.2, 0.6]],
        [[0.3, -0.2, 0.55], [0.3, 0.2, 0.55], [-0.62, -0.2, 1.0], [-0.62, 0.2, 1.0]],
        0.015,
        "bare metal",
        sides=4,
    )
    return merge([*wheels, tub, hood, bars])


def standing(rng: np.random.Generator) -> Mesh:
    """Builds an adult or a child who stays in place."""
    return _figure(rng, float(rng.uniform(0.2, 0.55)) if rng.random() < 0.2 else float(rng.uniform(0.0, 0.12)))[0]


def walking(rng: np.random.Generator) -> Mesh:
    """Builds an adult or a child in full stride; some adults push a pram."""
    figure, child = _figure(rng, float(rng.uniform(0.2, 0.55)))
    if not child and rng.random() < 0.08:
        figure = merge([place(figure, (-0.55, 0, 0)), place(stroller(rng), (0.5, 0, 0))])
    return figure


def _figure(rng: np.random.Generator, stride: float) -> tuple[Mesh, bool]:
    """Builds a person, and tells whether it is a child."""
    child = rng.random() < 0.15
    height = float(rng.uniform(1.0, 1.5) if child else np.clip(rng.normal(1.72, 0.09), 1.5, 1.98))
    return walker(rng, height, stride), child
