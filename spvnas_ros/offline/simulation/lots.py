"""Fills the parcels beside a street: houses, gardens, fences, woods, parking lots."""

from __future__ import annotations

import numpy as np

from spvnas_ros.offline.simulation import buildings, furniture, vegetation
from spvnas_ros.offline.simulation.ground import MARGIN, REACH
from spvnas_ros.offline.simulation.paving import BAY, LOT_ROWS, PARKING_ROWS
from spvnas_ros.offline.simulation.people import standing
from spvnas_ros.offline.simulation.planting import HEDGE_PIECE, Nursery
from spvnas_ros.offline.simulation.site import Site
from spvnas_ros.offline.simulation.street_plan import Parcel, Plan
from spvnas_ros.offline.simulation.vehicles import car

_FLOORS = {
    "urban": (3, 6),
    "residential": (1, 4),
    "suburban": (1, 3),
    "highway": (1, 4),
    "rural": (1, 3),
    "parking": (1, 3),
}
# What is as dense as a facade ends below the sensor, so that beams pass above it: near the road, only facades fill the
# whole view upwards. Real fences have a median of 1 m, and one in ten is higher than 1.6 m.
_FENCE_HEIGHT = {
    "low wall": (0.3, 1.0),
    "wall": (0.9, 1.6),
    "panel": (0.9, 1.65),
    "boards": (0.8, 1.5),
    "picket": (0.7, 1.2),
    "rail": (0.8, 0.81),
}


def fill_parcels(site: Site, plan: Plan, nursery: Nursery) -> None:
    """Builds on all parcels, and plants the land behind them."""
    for parcel in plan.parcels:
        _front(site, plan, nursery, parcel)
        if parcel.use in ("house", "row", "works"):
            _house(site, plan, nursery, parcel)
        elif parcel.use == "parking":
            _parking(site, plan, nursery, parcel)
        elif parcel.use == "lot":
            _lot(site, plan, nursery, parcel)
        else:
            _green(site, plan, nursery, parcel)
    for sign in (-1, 1):
        _second_row(site, plan, nursery, sign)
        _slope(site, plan, nursery, sign)
    _ends(site, plan, nursery)


def _slope(site: Site, plan: Plan, nursery: Nursery, sign: int) -> None:
    """Plants a steep bank where nothing is built on it: with shrubs, or with low plants and some shrubs."""
    rng, relief = site.rng, site.ground.relief
    lot = plan.side(sign).lot
    if abs(relief.bank[0 if sign < 0 else 1]) / relief.width < 0.12 or rng.random() < 0.4:
        return
    low = bool(rng.random() < 0.5)
    for parcel in plan.parcels:
        if parcel.side != sign or parcel.use in ("row", "works", "parking"):
            continue
        end = min(relief.width, 7.5, parcel.setback - 1.0 if parcel.use == "house" else 7.5)
        for d in np.arange(1.0, end, 1.7):
            for s in np.arange(parcel.start + 1.0, parcel.end - 1.0, HEDGE_PIECE if low else 1.8):
                if not plan.clear(float(s), sign, 1.0) or rng.random() < 0.15:
                    continue
                if low:
                    last = min(float(s) + HEDGE_PIECE, parcel.end)
                    nursery.cover((float(s), sign * (lot + float(d))), (last, sign * (lot + float(d))), int(d))
                elif d < 2:
                    nursery.bush(float(s), sign * (lot + float(d)))
                else:
                    nursery.far_bush(float(s) + float(rng.normal(0, 0.3)), sign * (lot + float(d)))


def fence(site: Site, kind: str, start: tuple[float, float], end: tuple[float, float], turn: float = 0.0) -> None:
    """Puts a fence or a wall between two points in street coordinates."""
    low, high = _FENCE_HEIGHT.get(kind, (0.9, 1.9))
    ends = np.array([start, end])
    length = float(np.hypot(*(ends[1] - ends[0])))
    count = max(round(length / 2), 1)
    at = ends[0] + (np.arange(count) + 0.5)[:, None] / count * (ends[1] - ends[0])
    yaw = np.arctan2(end[1] - start[1], end[0] - start[0]) + turn
    piece = furniture.fence_piece(site.rng, kind, float(site.rng.uniform(low, high)))
    stretch = np.ones((count, 3)) * [length / count / 2, 1, 1]
    site.put_many(piece, at[:, 0], at[:, 1], np.full(count, yaw), stretch)


def _front(site: Site, plan: Plan, nursery: Nursery, parcel: Parcel) -> None:
    """Puts a fence, a wall or plants between a parcel and the sidewalk."""
    side = plan.side(parcel.side)
    gaps = [parcel.start + 0.15]
    if parcel.driveway:
        gaps += [parcel.driveway[0], parcel.driveway[1]]
    elif parcel.use == "house":
        gate = float(site.rng.uniform(parcel.start + 1, parcel.end - 2))
        gaps += [gate, gate + 1.2]
    gaps.append(parcel.end - 0.15)
    if parcel.front == "none" or (parcel.use == "row" and parcel.setback < 1.5):
        return
    kind = "low wall" if parcel.front == "rail" and plan.kind not in ("highway", "rural") else parcel.front
    d = parcel.side * (side.lot + (0.75 if kind in ("hedge", "rail") else 0.4))
    if kind == "thicket":
        d += parcel.side * 0.9
        for start, end in zip(gaps[::2], gaps[1::2], strict=True):
            nursery.thicket((start, d), (end, d), int(site.rng.integers(1, 3)))
        return
    which = int(site.rng.integers(5))
    if kind == "cover":
        for start, end in zip(gaps[::2], gaps[1::2], strict=True):
            if end - start > 1.0:
                for row in range(int(site.rng.integers(1, 3))):
                    at = parcel.side * (side.lot + 0.75 + 0.9 * row)
                    nursery.cover((start, at), (end, at), which + row)
        return
    both = kind != "hedge" and site.rng.random() < (0.5 if kind in ("mesh", "bars", "boards") else 0.3)
    for start, end in zip(gaps[::2], gaps[1::2], strict=True):
        if end - start < 1.0:
            continue
        if kind == "hedge":
            nursery.hedge((start, d), (end, d), which)
            continue
        fence(site, kind, (start, d), (end, d), 0.0 if parcel.side > 0 else np.pi)
        if both:
            plant = nursery.hedge if which % 2 else nursery.cover
            # Plants grow behind a fence, and through it.
            behind = d + parcel.side * float(site.rng.uniform(0.2, 0.9))
            plant((start, behind), (end, behind), which)


def _house(site: Site, plan: Plan, nursery: Nursery, parcel: Parcel) -> None:
    rng, side = site.rng, plan.side(parcel.side)
    low, high = _FLOORS[plan.kind]
    row, works = parcel.use == "row", parcel.use == "works"
    room = parcel.width - (0.0 if row else 3.0) - (parcel.driveway[1] - parcel.driveway[0] if parcel.driveway else 0)
    width = room if row else min(room, float(rng.uniform(20, 35) if works else rng.uniform(8, 15)))
    depth = float(rng.uniform(10, 14) if row else rng.uniform(14, 24) if works else rng.uniform(8, 12))
    if width < 5:
        return
    look = buildings.style(rng, int(rng.integers(low, high)), 0.35 if plan.kind == "urban" else 0.12)
    if works:
        look = buildings.style(rng, int(rng.integers(1, 3)), 0.9)
    free_start = parcel.start if not parcel.driveway or parcel.driveway[0] > parcel.middle else parcel.driveway[1]
    free_end = parcel.end if not parcel.driveway or parcel.driveway[0] < parcel.middle else parcel.driveway[0]
    s = (free_start + free_end) / 2
    house = buildings.building(rng, width, depth, look)
    if plan.kind == "rural" and rng.random() < 0.35:
        house = buildings.wooden(house)
    d = side.lot + parcel.setback + depth / 2 + (0 if row else 0.6)
    turn = 0.0 if parcel.side > 0 else np.pi
    site.put(house, s, parcel.side * d, turn + (0 if row else float(rng.normal(0, 0.03))))
    if rng.random() < 0.1:
        leaves = vegetation.ivy(rng, min(width, 3.0), float(rng.uniform(2, 5)))
        site.put(leaves, s, parcel.side * (d - depth / 2 - (0 if row else 0.05)), turn)
    _at_wall(site, parcel, s, width, d - depth / 2)
    _garden(site, plan, nursery, parcel, d - depth / 2, d + depth / 2)
    if parcel.driveway and not works:
        _driveway(site, plan, parcel)


def _at_wall(site: Site, parcel: Parcel, s: float, width: float, front: float) -> None:
    """Puts bins, cabinets, planters and the like against the front of a house."""
    rng = site.rng
    while rng.random() < 0.3:
        at, turn = s + float(rng.uniform(-0.4, 0.4)) * width, 0.0 if parcel.side > 0 else np.pi
        site.put(furniture.small_clutter(rng), at, parcel.side * (front - 0.45), turn)


def _garden(site: Site, plan: Plan, nursery: Nursery, parcel: Parcel, front: float, back: float) -> None:
    """Plants the land before and behind a house, and the border to its neighbour; `front` and `back` are those of the
    house.
    """
    rng, side = site.rng, plan.side(parcel.side)
    drive = parcel.driveway or (-1e6, -1e6)
    if front - side.lot > 2.0 and parcel.use != "works":
        for _ in range(int(rng.integers(2, 10))):
            s, d = float(rng.uniform(parcel.start + 1, parcel.end - 1)), float(rng.uniform(side.lot + 1.4, front - 0.6))
            if not drive[0] - 1 < s < drive[1] + 1:
                nursery.bush(s, parcel.side * d)
        s = float(rng.uniform(parcel.start + 1.5, parcel.end - 1.5))
        if rng.random() < 0.45 and front - side.lot > 3.0 and not drive[0] - 2 < s < drive[1] + 2:
            nursery.tree(s, parcel.side * (side.lot + front) / 2)
    behind = REACH - back - 12
    for _ in range(int(rng.integers(2, 6))):
        s, d = float(rng.uniform(parcel.start, parcel.end)), back + float(rng.uniform(3, max(behind * 0.5, 4)))
        nursery.tree(s, parcel.side * d) if rng.random() < 0.6 else nursery.bush(s, parcel.side * d)
    if rng.random() < 0.4:
        site.put(buildings.shed(rng), parcel.middle, parcel.side * (back + 7), float(rng.uniform(0, 6)))
    if parcel.use == "row":
        return
    edge = parcel.end
    start, end = (edge, parcel.side * (side.lot + 0.6)), (edge, parcel.side * (back + 14))
    draw = rng.random()
    if draw < 0.45:
        nursery.hedge(start, end, int(rng.integers(5)))
    elif draw < 0.65:
        fence(site, str(rng.choice(["panel", "mesh", "picket", "wall", "boards"])), start, end)


def _driveway(site: Site, plan: Plan, parcel: Parcel) -> None:
    """Puts a garage at the end of a driveway, and a car in front of it, each by chance."""
    rng, side = site.rng, plan.side(parcel.side)
    assert parcel.driveway is not None
    s = (parcel.driveway[0] + parcel.driveway[1]) / 2
    end = side.lot + max(parcel.setback, 2.0) + 7
    if rng.random() < 0.6 and parcel.driveway[1] - parcel.driveway[0] < 4:
        turn = 0.0 if parcel.side > 0 else np.pi
        site.put(buildings.garage(rng), s, parcel.side * (end + 3.3), turn)
    if rng.random() < 0.55:
        out = parcel.side * (end - float(rng.uniform(3, 4)))
        site.park(site.fleet.draw(car), 10, s, out, float(rng.choice([-1, 1])) * np.pi / 2)


def _parking(site: Site, plan: Plan, nursery: Nursery, parcel: Parcel) -> None:
    """Fills a parking lot with two rows of cars that stand across."""
    rng, lot = site.rng, plan.side(parcel.side).lot
    taken = float(rng.uniform(0.3, 0.95))
    for row in PARKING_ROWS:
        _park_row(site, parcel, lot + row, taken)
    for s in np.arange(parcel.start + 3, parcel.end, 7):
        nursery.tree(float(s), parcel.side * (lot + 21)) if rng.random() < 0.6 else nursery.bush(
            float(s), parcel.side * (lot + 20.5)
        )


def _park_row(site: Site, parcel: Parcel, d: float, taken: float) -> None:
    """Parks cars across in a row."""
    rng = site.rng
    step = BAY / float(site.ground.stretch(parcel.middle, parcel.side * d))
    for s in np.arange(parcel.start + 2, parcel.end - 2, step):
        if rng.random() < taken:
            site.park(site.fleet.draw(car), 10, float(s), parcel.side * d, float(rng.choice([-1, 1])) * np.pi / 2)


def _lot(site: Site, plan: Plan, nursery: Nursery, parcel: Parcel) -> None:
    """Fills a large parking lot: rows of cars, lamps and trees between two of them, trolleys, and who goes to a car."""
    rng, lot = site.rng, plan.side(parcel.side).lot
    taken = float(rng.uniform(0.15, 0.95))
    for row in LOT_ROWS:
        _park_row(site, parcel, lot + row, taken * float(rng.uniform(0.5, 1.0)))
    between = parcel.side * (lot + (LOT_ROWS[1] + LOT_ROWS[2]) / 2)
    lamp, trees = furniture.lamp_post(rng), rng.random() < 0.5
    for number, s in enumerate(np.arange(parcel.start + 0.7, parcel.end, 5 * BAY)):
        if trees and number % 2:
            nursery.tree(float(s), between)
        else:
            site.put(lamp, float(s), between)
    aisle = lot + (LOT_ROWS[0] + LOT_ROWS[1]) / 2
    for _ in range(int(rng.integers(0, 4))):
        s, d = float(rng.uniform(parcel.start + 2, parcel.end - 2)), aisle + float(rng.uniform(-1.8, 1.8))
        site.put(furniture.trolleys(rng, 1), s, parcel.side * d, float(rng.uniform(0, 6)))
    if rng.random() < 0.6:
        # In a place at the end of a row, where no car stands.
        count = int(rng.integers(2, 9))
        site.put(furniture.trolleys(rng, count), parcel.end - 0.6, parcel.side * (lot + LOT_ROWS[2]), np.pi / 2)
    for s in np.arange(parcel.start + 3, parcel.end - 3, 7.0):
        if rng.random() < 0.2:
            turn = float(rng.uniform(0, 2 * np.pi))
            site.park(site.fleet.draw(standing), 30, float(s), parcel.side * (aisle + float(rng.uniform(-1, 1))), turn)


def _green(site: Site, plan: Plan, nursery: Nursery, parcel: Parcel) -> None:
    """Fills gardens, meadows, fields and woods."""
    rng, lot = site.rng, plan.side(parcel.side).lot
    trees, bushes = {"garden": (6, 20), "meadow": (4, 12), "field": (1, 4), "wood": (10, 26)}[parcel.use]
    scale = parcel.width / 20
    for _ in range(round(trees * scale * float(rng.uniform(0.6, 1.3)))):
        s, d = float(rng.uniform(parcel.start + 1, parcel.end - 1)), lot + 2.5 + 30 * float(rng.uniform(0, 1)) ** 1.3
        nursery.tree(s, parcel.side * d) if d < lot + 14 else nursery.far_tree(s, parcel.side * d)
    for _ in range(round(bushes * scale * float(rng.uniform(0.6, 1.6)))):
        s, d = float(rng.uniform(parcel.start + 1, parcel.end - 1)), lot + 1.5 + 22 * float(rng.uniform(0, 1)) ** 1.5
        nursery.bush(s, parcel.side * d)
    if parcel.use in ("meadow", "field", "wood"):
        count = int(18 * parcel.width * float(rng.uniform(0.2, 1.2)))
        along = rng.uniform(parcel.start, parcel.end, count)
        across = parcel.side * (lot + 0.5 + 24 * rng.uniform(0, 1, count) ** 1.6)
        # Grass that hides the ground is vegetation, a meadow's is terrain.
        tall = parcel.use == "wood" or rng.random() < 0.3
        height = float(rng.uniform(0.4, 0.95) if tall else rng.uniform(0.08, 0.25))
        blades = vegetation.grass(site.ground.place(along, across)[0], height, rng, 70 if tall else 72)
        site.parts.append(blades)
    if parcel.use == "field" and rng.random() < 0.4:
        site.park(site.fleet.draw(standing), 30, parcel.start + 2.5, parcel.side * (lot + float(rng.uniform(5, 14))))


def _second_row(site: Site, plan: Plan, nursery: Nursery, sign: int) -> None:
    """Puts houses and trees behind the parcels. They stop the rays that pass between the parcels' objects."""
    rng, lot = site.rng, plan.side(sign).lot
    built = {"urban": 0.85, "residential": 0.65, "suburban": 0.5, "highway": 0.2, "rural": 0.15, "parking": 0.7}[
        plan.kind
    ]
    for s in np.arange(-MARGIN + 8, plan.length + MARGIN - 5, 15):
        if not plan.clear(float(s), sign, 7):
            continue
        d = lot + 38 + float(rng.uniform(0, 8))
        if rng.random() < built:
            look = buildings.style(rng, int(rng.integers(2, 5)), 0.2, detail=False)
            house = buildings.building(rng, float(rng.uniform(9, 14)), float(rng.uniform(9, 12)), look)
            site.put(house, float(s), sign * d, 0.0 if sign > 0 else np.pi)
    for s in np.arange(-MARGIN + 2, plan.length + MARGIN, 2.4):
        at, d = float(s + rng.normal(0, 1.5)), lot + float(rng.uniform(24, 58))
        if plan.clear(at, sign, 3) and d < REACH - 3 and rng.random() < 0.8:
            nursery.far_tree(at, sign * d)


def _ends(site: Site, plan: Plan, nursery: Nursery) -> None:
    """Closes the view with trees where the main street and the side streets leave the scene."""
    rng = site.rng
    for s in (-MARGIN + 1, plan.length + MARGIN - 1):
        for d in np.arange(-REACH + 4, REACH, 5.0):
            if abs(d) > 8 or rng.random() < 0.5:
                nursery.far_tree(float(s), float(d + rng.normal(0, 1)))
    for junction in plan.junctions:
        for sign in junction.sides:
            for offset in (-4.0, 0.0, 4.0):
                nursery.far_tree(junction.at + offset, sign * (REACH - 2))
