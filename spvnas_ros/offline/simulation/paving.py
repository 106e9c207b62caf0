"""Turns a plan into patches of ground: road, markings, parking, sidewalks, islands, driveways, side streets."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from spvnas_ros.offline.simulation.ground import MARGIN, REACH, Patch, Surface
from spvnas_ros.offline.simulation.street_plan import Junction, Parcel, Plan

ROAD = 40
"""SemanticKITTI's raw label of roads."""
MARKING = Surface(60, "lane paint", 0.0, 0.004)
BAY = 2.6
"""Width of a place where cars park across, metres."""
PARKING_ROWS = (10.0, 16.4)
"""Places of the two rows of cars of a small parking lot, metres behind its front."""
LOT_ROWS = (3.2, 14.2, 19.4, 30.4)
"""The same of a large one, between whose rows there are aisles for driving."""
_ROW = 2.6
"""Half of the depth of a row, metres."""
_BAY_LINE = 0.12
_CORNER = 5


def pave(plan: Plan, rng: np.random.Generator) -> list[Patch]:
    """Returns all patches; a patch that covers another comes later."""
    start, end = -MARGIN, plan.length + MARGIN
    road = _road(rng)
    walks = {sign: _walk(plan, sign, road, rng) for sign in (-1, 1)}
    parking = _parking(float(rng.choice([0.0, 0.03, 0.05])), rng)
    if plan.kind == "parking":
        # What cars park on mostly goes on behind the strip, and is the road's.
        parking = Surface(44, road.material if rng.random() < 0.5 else parking.material, 0.0, 0.004)
    patches = [_band(start, end, sign, 0, REACH, _land(walks[sign].level, rng)) for sign in (-1, 1)]
    patches.append(Patch(start, end, -plan.right.kerb, plan.left.kerb, road))
    for sign in (-1, 1):
        side, walk = plan.side(sign), walks[sign]
        verge = _land(walk.level, rng)
        for inner, width, surface in (
            (side.kerb, side.parking, parking),
            (side.kerb + side.parking, side.strip, verge),
            (side.inner, side.walk, walk),
        ):
            if width:
                patches.append(_band(start, end, sign, inner, inner + width, surface))
        if side.parking and _painted(parking, rng):
            patches += _strip_lines(plan, sign, start, end, _paint(parking))
        if side.apron:
            apron = Surface(49, str(rng.choice(["paving", "gravel", "concrete", "worn asphalt"])), 0.0, 0.006)
            patches.append(_band(start, end, sign, side.kerb, side.kerb + side.apron, apron))
        patches += _edges(plan, sign, road, walk, rng)
        surface = verge if side.green else walk
        patches += [_band(*nose, sign, side.kerb, side.kerb + side.parking, surface) for nose in side.noses]
    patches += _median(plan)
    for parcel in plan.parcels:
        if parcel.use == "lot":
            patches += _lot(plan, parcel, road, parking)
        patches += _yard(plan, parcel, walks[parcel.side], rng)
    for junction in plan.junctions:
        for sign in junction.sides:
            patches += _side_street(plan, junction, sign, walks[sign], _road(rng) if rng.random() < 0.3 else road)
    return [*patches, *_markings(plan, rng)]


def _road(rng: np.random.Generator) -> Surface:
    """Returns the surface of a road: asphalt of any age, seldom stones or concrete. Most of it is worn: beside real
    roads, sidewalks are only 4 to 17 % brighter.
    """
    kinds = ["asphalt", "fresh asphalt", "worn asphalt", "paving", "concrete"]
    return Surface(ROAD, str(rng.choice(kinds, p=[0.36, 0.08, 0.42, 0.08, 0.06])), 0.0, 0.004)


def _walk(plan: Plan, sign: int, road: Surface, rng: np.random.Generator) -> Surface:
    """Returns the surface of a sidewalk. One that lies as low as the road is paved with something else."""
    kinds = ["paving", "concrete", "asphalt", "worn asphalt", "gravel"]
    shares = np.array([0.52, 0.2, 0.1, 0.1, 0.08 if plan.kind != "urban" else 0.02])
    rise = plan.side(sign).rise
    if rise < 0.04:
        shares *= [name not in (road.material, "asphalt", "worn asphalt") for name in kinds]
    of = str(rng.choice(kinds, p=shares / shares.sum()))
    return Surface(48, of, rise, 0.012 if of == "gravel" else float(rng.choice([0.003, 0.005, 0.009])))


def _land(level: float, rng: np.random.Generator) -> Surface:
    """Returns the surface of open land beside a sidewalk of that level: lawns as even as paving, grass, bare soil."""
    kinds = ["mown lawn", "lawn", "grass", "tall grass", "dry soil"]
    of = str(rng.choice(kinds, p=[0.27, 0.25, 0.26, 0.13, 0.09]))
    bumps = float(rng.choice([0.006, 0.015, 0.03, 0.055])) if of != "tall grass" else 0.055
    return Surface(72, of, level + float(rng.choice([-0.03, 0.0, 0.04, 0.09], p=[0.15, 0.4, 0.25, 0.2])), bumps)


def _edges(plan: Plan, sign: int, road: Surface, walk: Surface, rng: np.random.Generator) -> Iterator[Patch]:
    """Yields kerb stones, a gutter of stones in the road, and stretches where the kerb is lowered, each by chance."""
    side = plan.side(sign)
    start, end = -MARGIN, plan.length + MARGIN
    if rng.random() < 0.35:
        yield _band(start, end, sign, side.kerb - 0.3, side.kerb, Surface(ROAD, "paving", road.level, 0.005))
    if not side.walk:
        return
    if rng.random() < 0.6:
        stone = float(rng.uniform(0.12, 0.3))
        yield _band(start, end, sign, side.inner, side.inner + stone, Surface(48, "concrete", walk.level, 0.003))
    if walk.level > 0.03:
        low = Surface(48, walk.material, float(rng.choice([0.0, 0.02, 0.03])), walk.roughness)
        for _ in range(int(rng.integers(0, 6))):
            at, wide = float(rng.uniform(start, end - 12)), float(rng.uniform(1.5, 11))
            deep = float(rng.uniform(0.4, 1.0)) if rng.random() < 0.6 else side.walk
            yield _band(at, at + wide, sign, side.kerb + side.parking, side.inner + min(deep, side.walk), low)


def _parking(level: float, rng: np.random.Generator) -> Surface:
    """Returns the surface of parking places. They are mostly paved with stones, unlike the road."""
    return Surface(44, str(rng.choice(["paving", "asphalt"], p=[0.75, 0.25])), level, 0.004)


def _painted(places: Surface, rng: np.random.Generator) -> bool:
    """Tells whether places have lines. On asphalt only the lines tell them from the road; stones are painted in half of
    the cases.
    """
    return "asphalt" in places.material or rng.random() < 0.5


def _paint(places: Surface) -> Surface:
    """Returns the surface of lines on places. SemanticKITTI labels these lines like the ground under them, except on
    roads.
    """
    return Surface(places.label, "lane paint", places.level, places.roughness)


def _strip_lines(plan: Plan, sign: int, start: float, end: float, paint: Surface) -> Iterator[Patch]:
    """Yields the lines of a parking strip: along the road where cars park along it, else between the cars."""
    side = plan.side(sign)
    if side.parking > 3:
        yield from _bays(start + 3.0, end, sign, side.kerb, side.kerb + side.parking, paint)
    else:
        yield _band(start, end, sign, side.kerb, side.kerb + _BAY_LINE, paint)


def _bays(first: float, end: float, sign: int, inner: float, outer: float, paint: Surface) -> Iterator[Patch]:
    """Yields the lines between places where cars park across; `first` is the middle of the first place."""
    for s in np.arange(first - BAY / 2, end - _BAY_LINE, BAY):
        yield _band(float(s) - _BAY_LINE / 2, float(s) + _BAY_LINE / 2, sign, inner, outer, paint)


def _band(start: float, end: float, sign: int, inner: float, outer: float, surface: Surface) -> Patch:
    right, left = sorted((sign * inner, sign * outer))
    return Patch(start, end, right, left, surface)


def _median(plan: Plan) -> list[Patch]:
    if not plan.median:
        return []
    surface = {
        "terrain": Surface(72, "grass", max(plan.right.rise, 0.05), 0.04),
        "island": Surface(49, "paving", max(plan.right.rise, 0.05), 0.004),
        "tram": Surface(49, "gravel", 0.02, 0.015),
    }[plan.median_use]
    edges = [-MARGIN, *(v for j in plan.junctions for v in (j.at - j.reach, j.at + j.reach)), plan.length + MARGIN]
    return [
        Patch(first, last, -plan.median, plan.median, surface)
        for first, last in zip(edges[::2], edges[1::2], strict=True)
    ]


def _yard(plan: Plan, parcel: Parcel, walk: Surface, rng: np.random.Generator) -> Iterator[Patch]:
    """Yields the paved or tilled parts of a parcel. Driveways are sidewalk, because SemanticKITTI labels them so."""
    lot = plan.side(parcel.side).lot
    paved = Surface(48, str(rng.choice(["paving", "concrete", "asphalt"], p=[0.7, 0.15, 0.15])), walk.level, 0.006)
    # Vehicles drive on yards, and real yards are flat and smooth.
    yard = Surface(49, str(rng.choice(["gravel", "concrete", "asphalt"], p=[0.2, 0.4, 0.4])), 0.03, 0.006)
    places = _parking(0.03, rng)
    if parcel.use == "row":
        yield _band(parcel.start, parcel.end, parcel.side, lot, lot + 30, walk if rng.random() < 0.7 else paved)
    elif parcel.use == "parking":
        yield _band(parcel.start + 0.5, parcel.end - 0.5, parcel.side, lot + 1, lot + 19, places)
        if _painted(places, rng):
            for row in PARKING_ROWS:
                yield from _bays(
                    parcel.start + 2.0, parcel.end, parcel.side, lot + row - 2.4, lot + row + 2.4, _paint(places)
                )
    elif parcel.use == "works":
        yield _band(parcel.start, parcel.end, parcel.side, lot + 2, lot + 30, yard)
    elif parcel.use == "field":
        yield _band(parcel.start, parcel.end, parcel.side, lot + 3, REACH, Surface(72, "soil", walk.level, 0.08))
    elif parcel.use == "meadow":
        yield _band(parcel.start, parcel.end, parcel.side, lot, REACH, _land(walk.level, rng))
    elif parcel.use == "house" and rng.random() < 0.2:
        yield _band(parcel.start, parcel.end, parcel.side, lot, lot + max(parcel.setback, 1), paved)
    if parcel.driveway:
        inner = plan.side(parcel.side).inner
        depth = max(parcel.setback, 2.0) + 7 if parcel.use == "house" else 6
        ways = {"parking": places, "works": yard}
        yield _band(*parcel.driveway, parcel.side, lot, lot + depth, ways.get(parcel.use, paved))
        lowered = Surface(walk.label, walk.material, min(walk.level, 0.03), walk.roughness)
        yield _band(*parcel.driveway, parcel.side, plan.side(parcel.side).kerb, inner + 0.5, lowered)


def _lot(plan: Plan, parcel: Parcel, road: Surface, places: Surface) -> Iterator[Patch]:
    """Yields rows of places with their lines, and the aisles between them."""
    lot = plan.side(parcel.side).lot
    yield _band(parcel.start, parcel.end, parcel.side, lot + LOT_ROWS[0] - _ROW, lot + LOT_ROWS[-1] + _ROW, road)
    for row in LOT_ROWS:
        inner, outer = lot + row - _ROW, lot + row + _ROW
        yield _band(parcel.start + 0.7, parcel.end - 0.7, parcel.side, inner, outer, places)
        yield from _bays(parcel.start + 2.0, parcel.end, parcel.side, inner, outer, _paint(places))


def _side_street(plan: Plan, junction: Junction, sign: int, walk: Surface, road: Surface) -> Iterator[Patch]:
    side = plan.side(sign)
    if junction.walk:
        yield _band(junction.at - junction.reach, junction.at + junction.reach, sign, side.lot, REACH, walk)
    yield _band(junction.at - junction.half, junction.at + junction.half, sign, side.kerb, REACH, road)
    radius = min(max(side.lot - side.kerb, 1.5), 8.0)
    for step in range(_CORNER):
        near, far = radius * step / _CORNER, radius * (step + 1) / _CORNER
        middle = (near + far) / 2
        out = radius - np.sqrt(radius**2 - (radius - middle) ** 2)
        wide = junction.half + float(out)
        yield _band(junction.at - wide, junction.at + wide, sign, side.kerb + near, side.kerb + far, road)


def _markings(plan: Plan, rng: np.random.Generator) -> Iterator[Patch]:
    """Yields dashes between lanes, lines at the road's edges, and crossings for pedestrians."""
    marked = rng.random() < {"urban": 0.7, "residential": 0.25, "suburban": 0.4, "highway": 1.0, "rural": 0.5}.get(
        plan.kind, 0.0
    )
    dashes = np.arange(-MARGIN, plan.length + MARGIN - 4, 9.0)
    if marked:
        for d in _lane_edges(plan):
            for s in dashes:
                yield Patch(s, s + 3, d - 0.07, d + 0.07, MARKING)
    if marked and plan.kind in ("highway", "rural"):
        for sign in (-1, 1):
            edge = plan.side(sign).kerb - max(plan.side(sign).shoulder, 0.25)
            yield _band(-MARGIN, plan.length + MARGIN, sign, edge - 0.12, edge, MARKING)
    for junction in plan.junctions:
        if plan.kind in ("urban", "residential") and rng.random() < 0.4:
            yield from _zebra(plan, junction)


def _lane_edges(plan: Plan) -> list[float]:
    edges = [] if plan.median else [0.0]
    for sign in (-1, 1):
        wide = plan.lane_width(sign)
        edges += [sign * (plan.side(sign).free - wide * number) for number in range(1, plan.lanes)]
    return edges


def _zebra(plan: Plan, junction: Junction) -> Iterator[Patch]:
    start = junction.at + junction.reach + 3.0
    stripes = np.arange(-plan.right.kerb + 0.4, plan.left.kerb - 0.9, 1.0)
    for d in stripes[np.abs(stripes + 0.25) > plan.median + 0.5]:
        yield Patch(start, start + 3.0, float(d), float(d) + 0.5, MARKING)
