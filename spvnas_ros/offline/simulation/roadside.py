"""Furnishes the space between the kerb and the parcels: lamps, signs, trees, bins, parked cycles, people."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from spvnas_ros.offline.simulation import furniture
from spvnas_ros.offline.simulation.cycles import motorcycle, rack
from spvnas_ros.offline.simulation.cycles import parked as bicycle
from spvnas_ros.offline.simulation.ground import MARGIN
from spvnas_ros.offline.simulation.lots import fence
from spvnas_ros.offline.simulation.people import sitting, standing
from spvnas_ros.offline.simulation.planting import Nursery
from spvnas_ros.offline.simulation.site import Site
from spvnas_ros.offline.simulation.street_plan import Plan

_SPACING = {"urban": 24.0, "residential": 32.0, "suburban": 34.0, "highway": 38.0, "rural": 42.0, "parking": 26.0}


def furnish(site: Site, plan: Plan, nursery: Nursery, wanted: frozenset[str]) -> None:
    """Furnishes both sides; of the movable classes, only those in `wanted`."""
    for sign in (-1, 1):
        _lamps(site, plan, sign)
        _signs(site, plan, sign)
        _trees(site, plan, nursery, sign)
        _beds(site, plan, nursery, sign)
        _spots(site, plan, sign, wanted)
        _bollards(site, plan, sign)
        if plan.kind in ("highway", "rural"):
            _rails(site, plan, sign)
    _median(site, plan, nursery)
    for junction in plan.junctions:
        _corners(site, plan, junction.at, junction.reach, junction.sides)


def _edge(plan: Plan, sign: int) -> float:
    """Returns the `d` of poles without its sign: at the inner edge of the sidewalk."""
    side = plan.side(sign)
    return side.inner + (0.35 if side.walk else 0.9 if plan.kind != "parking" else 0.25)


def _facing(sign: int) -> float:
    """Returns the turn of an object that faces the traffic of its side."""
    return 0.0 if sign < 0 else np.pi


def _lamps(site: Site, plan: Plan, sign: int) -> None:
    rng, spacing = site.rng, _SPACING[plan.kind]
    if rng.random() < (0.2 if plan.kind != "rural" else 0.5):
        return
    lamp = furniture.power_pole(rng) if plan.kind == "rural" or rng.random() < 0.12 else furniture.lamp_post(rng)
    for s in np.arange(-MARGIN + float(rng.uniform(3, spacing)), plan.length + MARGIN - 2, spacing):
        if plan.clear(float(s), sign, 0.8):
            site.put(lamp, float(s), sign * _edge(plan, sign), 0.0 if sign < 0 else np.pi)


def _signs(site: Site, plan: Plan, sign: int) -> None:
    rng = site.rng
    big = {"highway": 0.4, "rural": 0.2}.get(plan.kind, 0.07)
    for s in np.arange(-MARGIN + float(rng.uniform(2, 18)), plan.length + MARGIN - 2, 17.0):
        at = float(s + rng.uniform(0, 10))
        if rng.random() > 0.42 or not plan.clear(at, sign, 0.8):
            continue
        make = furniture.direction_sign if rng.random() < big else furniture.sign
        turn = _facing(sign) + float(rng.choice([0, 0, 0, np.pi])) + float(rng.normal(0, 0.12))
        site.put(make(rng), at, sign * (_edge(plan, sign) + 0.1), turn)
    for _ in range(2 if plan.kind == "highway" and sign > 0 else 0):
        if rng.random() > 0.35:
            continue
        wide = plan.left.kerb + plan.right.kerb + 3.0
        site.put(furniture.gantry(rng, wide), float(rng.uniform(0.3, 1)) * plan.length, -plan.right.kerb - 1.5)


def _trees(site: Site, plan: Plan, nursery: Nursery, sign: int) -> None:
    """Adds a row of trees in the green strip, or in the sidewalk of an avenue."""
    rng, side = site.rng, plan.side(sign)
    avenue = side.strip > 1.0 or (side.walk > 3.0 and rng.random() < 0.5)
    if not avenue or rng.random() < 0.25:
        return
    spacing, which = float(rng.uniform(7, 16)), int(rng.integers(7))
    d = side.kerb + side.parking + side.strip / 2 if side.strip > 1.0 else side.inner + 0.75
    for s in np.arange(-MARGIN + 4, plan.length + MARGIN - 3, spacing):
        if plan.clear(float(s), sign, 1.5) and rng.random() < 0.85:
            nursery.tree(float(s), sign * d, which)
            if side.strip > 1.0 and rng.random() < 0.3:
                nursery.bush(float(s) + 3, sign * d)


def _beds(site: Site, plan: Plan, nursery: Nursery, sign: int) -> None:
    """Plants the noses of a parking strip, and stretches of a green strip that nobody mows."""
    rng, side = site.rng, plan.side(sign)
    which = int(rng.integers(4))
    for start, end in side.noses:
        d = sign * (side.kerb + side.parking / 2)
        if side.green and rng.random() < 0.8:
            for out in (-0.5, 0.5) if side.parking > 1.8 else (0.0,):
                nursery.cover((start + 0.3, d + out), (end - 0.3, d + out), which)
        if rng.random() < 0.35:
            nursery.tree((start + end) / 2, d)
    if side.strip < 1.0 or rng.random() < 0.45:
        return
    s = -MARGIN + 3.0
    while s < plan.length + MARGIN - 14:
        end = s + float(rng.uniform(4, 14))
        steps = np.arange(s, end, 2.0)
        if rng.random() < 0.45 and all(plan.clear(float(at), sign, 1.5) for at in steps):
            d = sign * (side.kerb + side.parking + side.strip / 2)
            nursery.cover((s, d), (end, d), which)
        s = end + float(rng.uniform(1, 8))


def _spots(site: Site, plan: Plan, sign: int, wanted: frozenset[str]) -> None:
    """Puts objects at the outer edge of the sidewalk: at most one at each place, and a place every few metres."""
    rng, side = site.rng, plan.side(sign)
    if side.shoulder or (plan.kind == "parking" and not side.walk):
        return
    outer = side.lot - 0.35 if side.walk else side.inner + 2.6
    shares = {"person": 0.08, "bicycle": 0.16, "motorcycle": 0.05, "clutter": 0.12, "bus stop": 0.012, "bench": 0.012}
    names = [*shares, "nothing"]
    weights = np.array([*shares.values(), 1 - sum(shares.values())])
    for s in np.arange(-MARGIN + 3, plan.length + MARGIN - 3, 5.3):
        what = names[int(rng.choice(len(names), p=weights))]
        at = float(s + rng.uniform(0, 0.8))
        if not plan.clear(at, sign, 2.2) or (what in ("person", "bicycle", "motorcycle") and what not in wanted):
            continue
        if what == "bench":
            _bench(site, at, sign, outer, "person" in wanted)
        if what == "person":
            _people(site, at, sign * outer)
        elif what == "bicycle":
            _bicycles(site, at, sign, outer, 0 < side.walk < 4.9)
        elif what == "motorcycle":
            turn = float(rng.choice([0, np.pi])) + float(rng.normal(0, 0.15))
            site.park(site.fleet.draw(motorcycle), 15, at, sign * outer, turn)
        elif what == "clutter":
            site.put(furniture.clutter(rng), at, sign * outer, _facing(-sign) if rng.random() < 0.8 else np.pi / 2)
        elif what == "bus stop" and side.walk > 2.2:
            site.put(furniture.bus_stop(rng), at, sign * (side.lot - 0.9), 0.0 if sign > 0 else np.pi)


def _bollards(site: Site, plan: Plan, sign: int) -> None:
    """Puts a row of bollards at the edge of a stretch of sidewalk."""
    rng, side = site.rng, plan.side(sign)
    if not side.walk or rng.random() > (0.5 if side.rise < 0.04 else 0.18):
        return
    start, apart = float(rng.uniform(-MARGIN, plan.length * 0.7)), float(rng.uniform(1.2, 3.0))
    at = start + apart * np.arange(int(rng.integers(5, 30)))
    kept = at[[s < plan.length + MARGIN - 2 and plan.clear(float(s), sign, 0.6) for s in at]]
    ones = np.ones(len(kept))
    site.put_many(furniture.bollard(rng), kept, ones * sign * (side.inner + 0.2), 0 * ones, ones)


def _people(site: Site, s: float, d: float) -> None:
    """Adds a person, or two who stand and talk."""
    turn = float(site.rng.uniform(0, 2 * np.pi))
    site.park(site.fleet.draw(standing), 30, s, d, turn)
    if site.rng.random() < 0.45:
        site.park(site.fleet.draw(standing), 30, s + 2.1, d, turn + np.pi)


def _bench(site: Site, s: float, sign: int, outer: float, taken: bool) -> None:
    """Adds a bench that faces the road, and who sits on it."""
    rng, turn = site.rng, -sign * np.pi / 2
    site.put(furniture.bench(), s, sign * outer, turn + np.pi / 2)
    for out in (-0.45, 0.45) if taken else ():
        if rng.random() < 0.6:
            site.park(site.fleet.draw(sitting), 30, s + out, sign * (outer - 0.1), turn + float(rng.normal(0, 0.1)))


def _bicycles(site: Site, s: float, sign: int, outer: float, tight: bool) -> None:
    """Adds a bicycle against a wall, or a few in a rack."""
    rng = site.rng
    if tight or rng.random() < 0.65:
        site.park(
            site.fleet.draw(bicycle),
            11,
            s,
            sign * (outer + 0.05),
            float(rng.choice([0, np.pi])) + float(rng.normal(0, 0.06)),
        )
        return
    count, apart = int(rng.integers(2, 6)), 0.92
    inward = -sign * np.pi / 2
    for number in range(count):
        if rng.random() < 0.85:
            site.park(
                site.fleet.draw(bicycle),
                11,
                s + apart * (number - 1),
                sign * (outer - 0.6),
                inward + float(rng.normal(0, 0.02)),
            )
    site.put(rack(count, apart), s - apart, sign * (outer - 0.6), -np.pi / 2)


def _rails(site: Site, plan: Plan, sign: int) -> None:
    """Puts guard rails and posts at the edge of the road."""
    rng, side = site.rng, plan.side(sign)
    if side.walk == 0 and rng.random() < (0.75 if side.shoulder else 0.45):
        start = float(rng.uniform(-MARGIN, plan.length * 0.4))
        end = float(rng.uniform(plan.length * 0.5, plan.length + MARGIN))
        steps = np.linspace(start, end, max(int((end - start) / 12), 2))
        for first, last in pairwise(steps):
            if plan.clear(float(first), sign, 8) and plan.clear(float(last), sign, 8):
                d = sign * (side.kerb + 0.55)
                fence(site, "rail", (float(first), d), (float(last), d), 0.0 if sign > 0 else np.pi)
    posts = np.arange(-MARGIN + 5, plan.length + MARGIN, 25.0)
    kept = np.array([plan.clear(float(s), sign, 1) for s in posts])
    at = posts[kept]
    post = furniture.bollard(rng)
    site.put_many(post, at, np.full(len(at), sign * (side.kerb + 0.35)), np.zeros(len(at)), np.ones(len(at)))


def _median(site: Site, plan: Plan, nursery: Nursery) -> None:
    if plan.median < 0.5:
        return
    rng = site.rng
    tall = rng.random() < 0.5 and plan.median_use != "tram" and plan.median > 1.0
    lamp = furniture.lamp_post(rng)
    for s in np.arange(-MARGIN + 4, plan.length + MARGIN - 3, 9.0):
        if any(abs(s - j.at) < j.reach + 1.5 for j in plan.junctions):
            continue
        if tall and plan.median > 1.5:
            nursery.tree(float(s), float(rng.normal(0, plan.median * 0.15)), 3)
        elif plan.median_use == "terrain" and rng.random() < 0.3:
            nursery.bush(float(s), 0.0)
        if rng.random() < 0.15:
            site.put(lamp, float(s) + 3, 0.0)
    if plan.kind == "highway" and rng.random() < 0.8 and not plan.junctions:
        fence(site, "rail", (-MARGIN + 2, 0.0), (plan.length + MARGIN - 2, 0.0))


def _corners(site: Site, plan: Plan, at: float, reach: float, sides: tuple[int, ...]) -> None:
    """Puts signs, lights and bollards at a junction."""
    rng = site.rng
    lights = plan.kind == "urban" and rng.random() < 0.6
    for sign in sides:
        for end in (-1, 1):
            s, d = at + end * (reach + 1.2), sign * (plan.side(sign).inner + 0.6)
            make = furniture.traffic_light if lights else furniture.sign
            site.put(make(rng), s, d, float(rng.choice([0, np.pi / 2, np.pi, -np.pi / 2])))
            if rng.random() < 0.35:
                count = int(rng.integers(2, 6))
                places = s + end * (1.2 + 1.3 * np.arange(count))
                ones = np.ones(count)
                site.put_many(furniture.bollard(rng), places, ones * (d - sign * 0.2), 0 * ones, ones)
