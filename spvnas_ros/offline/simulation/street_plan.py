"""Draws at random the plan of a street before anything is built: widths, junctions and parcels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from spvnas_ros.offline.simulation.ground import MARGIN, Relief, centreline
from spvnas_ros.offline.simulation.mesh import Floats

KINDS = ("urban", "residential", "suburban", "highway", "rural", "parking")
"""The kinds of streets; `parking` is a parking lot with many rows of cars."""
MIX = (0.17, 0.22, 0.22, 0.16, 0.16, 0.07)
"""Shares of the kinds where none is asked for."""


@dataclass(frozen=True)
class Side:
    """Half of a street, from its middle outwards; all in metres.

    kerb:    distance of the road's edge from the middle of the street
    parking: width of the parking strip, 0 without one; beyond 3 m cars stand across
    strip:   width of the green strip between parking and sidewalk
    walk:    width of the sidewalk
    parked:  share of the parking places at the kerb that are taken
    rise:    height of the sidewalk above the road; 0 where only its paving tells it apart
    shoulder: width of the hard shoulder, which belongs to the road
    apron:   width of a paved strip beside the road that is neither road nor sidewalk
    noses:   street coordinates between which the sidewalk, or where `green` a bed, interrupts the parking strip
    """

    kerb: float
    parking: float
    strip: float
    walk: float
    parked: float
    rise: float = 0.12
    noses: tuple[tuple[float, float], ...] = ()
    green: bool = False
    shoulder: float = 0.0
    apron: float = 0.0

    @property
    def inner(self) -> float:
        """Distance from the middle of the street to the sidewalk."""
        return self.kerb + self.apron + self.parking + self.strip

    @property
    def lot(self) -> float:
        """Distance from the middle of the street to the parcels."""
        return self.inner + self.walk

    @property
    def free(self) -> float:
        """Distance from the middle of the street up to which traffic may drive. Without a parking strip, parked cars
        stand on the road.
        """
        return self.kerb - (1.9 if self.parking == 0 and self.parked > 0 else max(self.shoulder, 0.25))

    def interrupted(self, s: float, gap: float) -> bool:
        """Tells whether a nose of the parking strip is within `gap` metres."""
        return any(start - gap < s < end + gap for start, end in self.noses)


@dataclass(frozen=True)
class Junction:
    """A street to one side or to both: its place, half of its width, its sidewalks' width, and its sides (`-1` right,
    `1` left).
    """

    at: float
    half: float
    walk: float
    sides: tuple[int, ...]

    @property
    def reach(self) -> float:
        """Half of the junction's width with its sidewalks, metres."""
        return self.half + self.walk


@dataclass(frozen=True)
class Parcel:
    """A piece of land beside the street.

    use:      `house`, `row`, `parking`, `lot`, `field`, `meadow`, `wood`, `garden` or `works`
    setback:  metres from its front to the house
    driveway: street coordinates between which the driveway lies, or None
    """

    start: float
    end: float
    side: int
    use: str
    setback: float
    driveway: tuple[float, float] | None
    front: str

    @property
    def width(self) -> float:
        return self.end - self.start

    @property
    def middle(self) -> float:
        return (self.start + self.end) / 2


@dataclass(frozen=True)
class Plan:
    """Everything that is decided before the ground is laid."""

    kind: str
    length: float
    right: Side
    left: Side
    median: float
    """Half the width of the strip that divides the road, 0 without one."""
    median_use: str
    lanes: int
    """Number of lanes in each direction."""
    junctions: tuple[Junction, ...]
    parcels: tuple[Parcel, ...]

    def side(self, sign: int) -> Side:
        return self.left if sign > 0 else self.right

    def lane(self, sign: int, number: int = 0) -> float:
        """Returns the `d` of a lane's middle; the outermost lane has number 0."""
        side = self.side(sign)
        return sign * (side.free - self.lane_width(sign) * (number + 0.5))

    def lane_width(self, sign: int) -> float:
        """Returns the width of each lane of that side, metres."""
        return (self.side(sign).free - self.median) / self.lanes

    def clear(self, s: float, sign: int, gap: float) -> bool:
        """Tells whether no junction and no driveway of that side is within `gap` metres."""
        near = any(sign in j.sides and abs(s - j.at) < j.reach + gap for j in self.junctions)
        return not near and not any(
            p.driveway and p.side == sign and p.driveway[0] - gap < s < p.driveway[1] + gap for p in self.parcels
        )


@dataclass(frozen=True)
class _Flavour:
    """Ranges to draw from, metres, and probabilities 0..1."""

    road: tuple[float, float]
    lanes: tuple[int, ...]
    strip: float
    green: float
    walk: tuple[float, float]
    walks: float
    parked: tuple[float, float]
    parcel: tuple[float, float]
    setback: tuple[float, float]
    uses: dict[str, float]
    fronts: dict[str, float]
    median: float
    driveway: float
    bank: float
    across: float = 0.12


_FLAVOURS = {
    "urban": _Flavour(
        (3.1, 3.9), (1, 1, 2), 0.45, 0.2, (1.4, 6.0), 1.0, (0.05, 0.5), (11, 22), (0.0, 1.2),
        {"row": 0.58, "house": 0.12, "parking": 0.05, "garden": 0.19, "works": 0.06},
        {"none": 0.44, "hedge": 0.21, "low wall": 0.14, "bars": 0.1, "wall": 0.04, "cover": 0.07}, 0.45, 0.1, 0.0,
    ),
    "residential": _Flavour(
        (3.1, 4.4), (1,), 0.25, 0.3, (1.2, 5.2), 1.0, (0.0, 0.42), (9, 18), (0.8, 7.0),
        {"row": 0.2, "house": 0.54, "parking": 0.04, "garden": 0.18, "works": 0.04},
        {"hedge": 0.4, "low wall": 0.18, "picket": 0.07, "bars": 0.07, "mesh": 0.05, "panel": 0.04,
         "thicket": 0.05, "cover": 0.12, "none": 0.12},
        0.2, 0.5, 0.4,
    ),
    "suburban": _Flavour(
        (3.2, 4.8), (1,), 0.15, 0.5, (1.3, 5.2), 0.95, (0.0, 0.35), (13, 24), (2.5, 11.0),
        {"house": 0.57, "parking": 0.03, "garden": 0.18, "meadow": 0.07, "wood": 0.11, "works": 0.04},
        {"hedge": 0.38, "picket": 0.1, "panel": 0.06, "mesh": 0.1, "boards": 0.05, "wall": 0.03,
         "thicket": 0.08, "cover": 0.12, "none": 0.16},
        0.2, 0.65, 0.8,
    ),
    "highway": _Flavour(
        (3.4, 3.8), (1, 2, 2, 3), 0.0, 0.4, (2.0, 6.0), 0.5, (0.0, 0.02), (20, 45), (10.0, 25.0),
        {"meadow": 0.35, "wood": 0.39, "works": 0.1, "field": 0.16},
        {"none": 0.22, "rail": 0.12, "hedge": 0.15, "wall": 0.03, "mesh": 0.12, "thicket": 0.19, "cover": 0.12},
        0.6, 0.0, 1.0,
    ),
    "rural": _Flavour(
        (2.8, 3.6), (1,), 0.0, 0.4, (1.5, 4.5), 0.6, (0.0, 0.08), (18, 45), (5.0, 16.0),
        {"field": 0.18, "meadow": 0.32, "wood": 0.24, "house": 0.2, "works": 0.06},
        {"none": 0.2, "boards": 0.1, "hedge": 0.2, "mesh": 0.1, "picket": 0.04, "rail": 0.04,
         "thicket": 0.15, "cover": 0.12}, 0.0, 0.3, 1.0,
    ),
    "parking": _Flavour(
        (2.7, 3.4), (1,), 1.0, 0.2, (1.2, 2.4), 0.3, (0.3, 0.95), (25, 60), (0.5, 1.5),
        {"lot": 0.82, "garden": 0.1, "works": 0.08},
        {"none": 0.66, "cover": 0.1, "hedge": 0.1, "bars": 0.07, "picket": 0.07}, 0.0, 0.0, 0.0, across=1.0,
    ),
}  # fmt: skip
_NARROWEST = 2.5
"""Metres between two side streets below which there is no parcel."""
_MOTORWAY = _Flavour(
    (3.4, 3.8), (2, 2, 3), 0.0, 0.0, (1.0, 2.0), 0.0, (0.0, 0.0), (25, 60), (20.0, 30.0),
    {"meadow": 0.4, "wood": 0.4, "field": 0.2},
    {"none": 0.48, "thicket": 0.2, "cover": 0.12, "wall": 0.04, "mesh": 0.16}, 1.0, 0.0, 1.0,
)  # fmt: skip
"""Half of the highways: little but road, rails, plants and bridges of signs, as in SemanticKITTI's sequence 01."""
_TOWN = _Flavour(
    (2.7, 3.6), (1,), 0.3, 0.05, (1.2, 3.0), 1.0, (0.0, 0.25), (8, 19), (0.0, 0.9),
    {"row": 0.58, "house": 0.1, "parking": 0.03, "garden": 0.24, "works": 0.05},
    {"none": 0.5, "hedge": 0.14, "low wall": 0.14, "bars": 0.1, "wall": 0.04, "cover": 0.08}, 0.05, 0.12, 0.0,
)  # fmt: skip
_TOWNS = {"urban": 0.6, "residential": 0.4}
"""Shares of streets whose fronts stand 3 to 8 m from the vehicle, where a LiDAR sees their lowest 2 m only."""


def draw_plan(kind: str, length: float, rng: np.random.Generator) -> Plan:
    """Draws the plan of a street of that kind."""
    flavour = _FLAVOURS[kind]
    if kind == "highway" and rng.random() < 0.5:
        flavour = _MOTORWAY
    elif rng.random() < _TOWNS.get(kind, 0.0):
        flavour = _TOWN
    lanes = int(rng.choice(flavour.lanes))
    median = float(rng.uniform(0.6, 6.5)) if rng.random() < flavour.median else 0.0
    road = lanes * float(rng.uniform(*flavour.road))
    right, left = (_draw_side(flavour, road, median, rng) for _ in range(2))
    uses = ["terrain", "terrain", "island", "tram"] if 1.5 < median < 4 else ["terrain", "terrain", "island"]
    use = "terrain" if median > 4 else str(rng.choice(uses))
    junctions = () if flavour is _MOTORWAY else _draw_junctions(kind, length, rng)
    plan = Plan(kind, length, right, left, median, use, lanes, junctions, ())
    parcels = tuple(parcel for sign in (-1, 1) for parcel in _draw_parcels(flavour, plan, sign, rng))
    plan = replace(plan, parcels=parcels)
    right, left = (replace(plan.side(sign), noses=_draw_noses(plan, sign, rng)) for sign in (-1, 1))
    return replace(plan, right=right, left=left)


def _draw_noses(plan: Plan, sign: int, rng: np.random.Generator) -> tuple[tuple[float, float], ...]:
    """Draws where the parking strip of a side is interrupted."""
    apart, wide = float(rng.uniform(11, 28)), float(rng.uniform(1.4, 4.5))
    if not plan.side(sign).parking or rng.random() < 0.4:
        return ()
    starts = np.arange(-MARGIN + float(rng.uniform(2, apart)), plan.length + MARGIN - 6, apart)
    return tuple((float(s), float(s) + wide) for s in starts if plan.clear(float(s) + wide / 2, sign, wide / 2 + 0.5))


def _draw_side(flavour: _Flavour, road: float, median: float, rng: np.random.Generator) -> Side:
    parked = float(rng.uniform(*flavour.parked)) * float(rng.random() < 0.85)
    parking = 0.0
    if rng.random() < flavour.strip:
        parking = float(rng.uniform(4.6, 5.2)) if rng.random() < flavour.across else float(rng.uniform(2.0, 2.5))
    walk = float(rng.uniform(*flavour.walk)) if rng.random() < flavour.walks else 0.0
    strip = float(rng.uniform(0.8, 3.5)) if rng.random() < flavour.green else 0.0
    extra = 1.9 if parking == 0 and parked > 0 else 0.0
    # Kerbs are worn, lowered, or not there at all; then paving, gutters and what stands on it tell a sidewalk apart.
    rise = float(rng.choice([0.0, 0.02, 0.05, 0.08, 0.12, 0.15], p=[0.13, 0.12, 0.15, 0.2, 0.2, 0.2]))
    if flavour.across == 1.0 and rng.random() < 0.6:
        rise = 0.0
    green, shoulder, apron = bool(rng.random() < 0.55), 0.0, 0.0
    if flavour is _MOTORWAY:
        shoulder = float(rng.uniform(1.8, 3.4)) if rng.random() < 0.8 else 0.6
        apron = float(rng.uniform(0.8, 3.5)) if rng.random() < 0.35 else 0.0
    kerb = median + road + extra + shoulder
    return Side(kerb, parking, strip, walk, parked, rise, (), green, shoulder, apron)


def _draw_junctions(kind: str, length: float, rng: np.random.Generator) -> tuple[Junction, ...]:
    chance = {"urban": 0.85, "residential": 0.85, "suburban": 0.7, "highway": 0.3, "rural": 0.4, "parking": 0.4}[kind]
    found: list[Junction] = []
    for low, high in ((0.28, 0.5), (0.66, 0.95)):
        if rng.random() < chance:
            sides = ((-1,), (1,), (-1, 1))[int(rng.integers(3))]
            half, walk = float(rng.uniform(2.6, 5.0)), float(rng.choice([0.0, 1.5, 2.2]))
            found.append(Junction(float(rng.uniform(low, high)) * length, half, walk, sides))
    return tuple(found)


def _draw_parcels(flavour: _Flavour, plan: Plan, sign: int, rng: np.random.Generator) -> list[Parcel]:
    """Draws the parcels of one side from end to end, with space for its junctions."""
    stops = [(j.at - j.reach, j.at + j.reach) for j in plan.junctions if sign in j.sides]
    edges = [-MARGIN, *(value for stop in stops for value in stop), plan.length + MARGIN]
    parcels = []
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        if end - start < _NARROWEST:
            continue
        count = max(round((end - start) / float(rng.uniform(*flavour.parcel))), 1)
        weights = rng.uniform(0.75, 1.25, count)
        bounds = start + np.concatenate([[0], np.cumsum(weights / weights.sum())]) * (end - start)
        habit = _choice(flavour.fronts, rng)
        setback = float(rng.uniform(*flavour.setback))
        for first, last in pairwise(bounds):
            front = habit if rng.random() < 0.45 else _choice(flavour.fronts, rng)
            parcels.append(_draw_parcel(flavour, float(first), float(last), sign, setback, front, rng))
    return parcels


def _draw_parcel(
    flavour: _Flavour, start: float, end: float, sign: int, setback: float, front: str, rng: np.random.Generator
) -> Parcel:
    use = _choice(flavour.uses, rng)
    if end - start < 7 and use in ("house", "row", "parking", "works"):
        use = "garden"
    driveway = None
    wants = use == "parking" or (use in ("house", "works") and rng.random() < flavour.driveway)
    if wants and end - start > 10:
        wide = float(rng.uniform(2.8, 3.8)) if use != "parking" else 5.5
        at = start + 0.6 if rng.random() < 0.5 else end - 0.6 - wide
        driveway = (at, at + wide)
    back = setback if rng.random() < 0.7 else float(rng.uniform(*flavour.setback))
    if use == "works":
        back = max(back, float(rng.uniform(6, 16)))
        front = "none" if rng.random() < 0.6 else front
    return Parcel(start, end, sign, use, back, driveway, front)


def _choice(shares: dict[str, float], rng: np.random.Generator) -> str:
    names = list(shares)
    weights = np.array([shares[name] for name in names])
    return names[int(rng.choice(len(names), p=weights / weights.sum()))]


def draw_line(kind: str, length: float, rng: np.random.Generator) -> Floats:
    """Draws the middle line of the street: straight, or with one or two bends."""
    s = np.arange(-MARGIN, length + MARGIN + 1)
    curvature = np.zeros_like(s)
    if rng.random() > 0.4:
        for _ in range(int(rng.integers(1, 3))):
            at, wide = rng.uniform(0, length), rng.uniform(20, 60)
            tightest = 0.009 if kind != "highway" else 0.005
            curvature += rng.uniform(-tightest, tightest) * np.exp(-(((s - at) / wide) ** 2))
    return centreline(np.clip(curvature, -0.0105, 0.0105))


def draw_relief(plan: Plan, rng: np.random.Generator) -> Relief:
    """Draws hills along the street and banks beside it."""
    steep = float(rng.choice([0.0, 0.01, 0.025, 0.06], p=[0.25, 0.35, 0.25, 0.15]))
    number = rng.uniform(0.012, 0.04, 3)
    waves = np.stack([steep * rng.uniform(0.3, 0.6, 3) / number, number, rng.uniform(0, 2 * np.pi, 3)], axis=1)
    chance = _FLAVOURS[plan.kind].bank
    banks = [float(rng.uniform(-3.5, 5.0)) * float(rng.random() < chance) for _ in range(2)]
    if plan.kind in ("residential", "suburban"):
        banks = [bank * 0.5 for bank in banks]
    wide = float(rng.uniform(3.0, 10.0) if rng.random() < 0.35 else rng.uniform(10, 40))
    if wide < 10:
        banks = [bank * 0.6 for bank in banks]
    return Relief(
        waves,
        (banks[0], banks[1]),
        (plan.right.lot, plan.left.lot),
        max(wide, 2.2 * max(abs(bank) for bank in banks)),
        float(rng.choice([0.0, 0.015])),
    )
