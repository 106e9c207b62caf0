"""Places parked vehicles and everyone who moves: cars and riders in the lanes, people on the sidewalks, and the vehicle
with the sensor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spvnas_ros.offline.simulation.cycles import bicyclist, motorcycle, motorcyclist
from spvnas_ros.offline.simulation.ground import MARGIN, Ground
from spvnas_ros.offline.simulation.heavy import other_vehicle, truck
from spvnas_ros.offline.simulation.mesh import Mesh
from spvnas_ros.offline.simulation.paving import BAY
from spvnas_ros.offline.simulation.people import walking
from spvnas_ros.offline.simulation.site import Site
from spvnas_ros.offline.simulation.street_plan import Plan
from spvnas_ros.offline.simulation.vehicles import car

RARE = ("bicycle", "motorcycle", "truck", "other-vehicle", "person", "bicyclist", "motorcyclist")
_SPEED = {"urban": 8.0, "residential": 6.5, "suburban": 9.0, "highway": 17.0, "rural": 12.0, "parking": 3.5}
_CAR_APART = 3.0
"""Metres between the middles of two cars that stand side by side."""
_ROBOT = 1.5
"""Speed of a robot on a sidewalk, m/s."""
_WALKS = ((1.7, 2.7, None), (3.2, 3.9, 2.05), (3.9, 99.0, 2.95))
"""Widths of sidewalks, from and to, and how far from their inner edge a robot drives; None for about their middle. The
files of walkers are left to themselves.
"""
_MOVING_OTHER = {13: 257, 20: 259}


@dataclass(frozen=True)
class Journey:
    """The drive of the vehicle with the sensor: along its lane, until it stops at the end.

    start, end: street coordinates; speed in m/s; lane: its `d`
    """

    start: float
    end: float
    speed: float
    lane: float

    def at(self, t: float) -> float:
        """Returns the vehicle's position along the street after `t` seconds."""
        return min(self.start + self.speed * max(t, 0.0), self.end)

    def pose(self, ground: Ground, t: float) -> npt.NDArray[np.float64]:
        """Returns the vehicle's pose, `[4, 4]`: on the ground, tilted like the road."""
        s = self.at(t)
        ends = ground.place(np.array([s - 1.3, s + 1.3]), np.array([self.lane, self.lane]))[0]
        sides = ground.place(np.array([s, s]), np.array([self.lane - 0.4, self.lane + 0.4]))[0]
        forward = ends[1] - ends[0]
        forward /= np.linalg.norm(forward)
        up = np.cross(forward, sides[1] - sides[0])
        up /= np.linalg.norm(up)
        matrix = np.eye(4)
        matrix[:3, 0], matrix[:3, 1], matrix[:3, 2] = forward, np.cross(up, forward), up
        matrix[:3, 3] = ground.place(s, self.lane)[0]
        return matrix


def draw_journey(plan: Plan, rng: np.random.Generator) -> Journey:
    """Draws a drive on the right side, which starts at a random place of the street."""
    speed = _SPEED[plan.kind] * float(rng.uniform(0.7, 1.2))
    lane = plan.lane(-1, int(rng.integers(plan.lanes)))
    return Journey(plan.length * float(rng.uniform(0.2, 0.45)), plan.length * 0.8, speed, lane)


def find_walk(plan: Plan, journey: Journey) -> Journey | None:
    """Returns the drive of a small robot past the same place on a sidewalk, between those who walk and what stands at
    its outer edge; None where no sidewalk is wide enough.
    """
    for sign in (-1, 1):
        side = plan.side(sign)
        for least, most, place in _WALKS:
            if least <= side.walk < most:
                lane = sign * (side.inner + (place or 0.55 * side.walk))
                return Journey(journey.start, journey.end, _ROBOT, lane)
    return None


def park_vehicles(site: Site, plan: Plan, wanted: frozenset[str]) -> None:
    """Parks vehicles in the parking strips, at the kerbs, in the side streets and on parcels; trucks, other vehicles
    and motorcycles only where `wanted` has them.
    """
    for sign in (-1, 1):
        side = plan.side(sign)
        if side.parking > 3:
            _park_across(site, plan, sign)
        elif side.parked > 0:
            _park_along(site, plan, sign, wanted)
    for junction in plan.junctions:
        for sign in junction.sides:
            _park_in_side_street(site, plan, junction.at, junction.half, sign)
    _park_rare(site, plan, wanted)


def _park_along(site: Site, plan: Plan, sign: int, wanted: frozenset[str]) -> None:
    rng, side = site.rng, plan.side(sign)
    s = -MARGIN + 4.0
    while s < plan.length + MARGIN - 6:
        part, label, wide = _parked(site, wanted)
        long = float(np.ptp(part.vertices[:, 0]))
        taken = rng.random() < side.parked and wide < 2.2
        free = all(plan.clear(s + share * long, sign, 1.0) for share in (0, 0.5, 1))
        if taken and free and not any(side.interrupted(s + share * long, 0.3) for share in (0, 0.25, 0.5, 0.75, 1)):
            turn = 0.0 if (sign < 0) != (rng.random() < 0.15) else np.pi
            d = sign * (side.kerb + (max(side.parking, wide + 0.3) / 2 if side.parking else -0.85))
            site.park(part, label, s + long / 2, d + float(rng.normal(0, 0.05)), turn + float(rng.normal(0, 0.015)))
        s += 1.06 * long + float(rng.uniform(0.8, 2.0))


def _parked(site: Site, wanted: frozenset[str]) -> tuple[Mesh, int, float]:
    rng, draw = site.rng, site.rng.random()
    part, label = site.fleet.draw(car), 10
    if draw < 0.04 and "truck" in wanted:
        part, label = truck(rng), 18
    elif draw < 0.08 and "other-vehicle" in wanted:
        part, label = other_vehicle(rng)
    elif draw < 0.11 and "motorcycle" in wanted:
        part, label = site.fleet.draw(motorcycle), 15
    return part, label, float(np.ptp(part.vertices[:, 1]))


def _park_across(site: Site, plan: Plan, sign: int) -> None:
    rng, side = site.rng, plan.side(sign)
    for s in np.arange(-MARGIN + 3, plan.length + MARGIN - 3, BAY):
        if (
            rng.random() < max(side.parked, 0.3)
            and plan.clear(float(s), sign, 1.6)
            and not side.interrupted(float(s), 1.3)
        ):
            turn = float(rng.choice([-1, 1])) * np.pi / 2
            site.park(site.fleet.draw(car), 10, float(s), sign * (side.kerb + side.parking / 2 + 0.1), turn)


def _park_in_side_street(site: Site, plan: Plan, at: float, half: float, sign: int) -> None:
    rng, lot = site.rng, plan.side(sign).lot
    if half < 3.4:
        return
    taken = float(rng.uniform(0, 0.8))
    apart = 2 * (half - 1.0)
    for edge in (-1, 1):
        for d in np.arange(lot + 9, 70, 6.4):
            # On the inner side of a bend, a side street gets narrower with the distance from the main street.
            if rng.random() < taken and apart * float(site.ground.stretch(at, sign * d)) > _CAR_APART:
                turn = np.pi / 2 * float(rng.choice([-1, 1]))
                site.park(site.fleet.draw(car), 10, at + edge * (half - 1.0), sign * float(d), turn)
    if rng.random() < 0.35:
        site.park(site.fleet.draw(car), 10, at + 0.05, sign * (lot + 3.0), -sign * np.pi / 2)


def _park_rare(site: Site, plan: Plan, wanted: frozenset[str]) -> None:
    """Parks trucks and other vehicles on parcels, behind their front, because the kerb has no room for them."""
    rng = site.rng
    makers: list[Callable[[], tuple[Mesh, int]]] = []
    if "truck" in wanted:
        makers.append(lambda: (truck(rng), 18))
    if "other-vehicle" in wanted:
        makers.append(lambda: other_vehicle(rng))
    open_land = [p for p in plan.parcels if p.use in ("meadow", "field", "works", "garden", "parking", "house")]
    for parcel in open_land if makers else []:
        depth = 5.6 if parcel.use != "house" else 2.2
        room = parcel.setback if parcel.use == "house" else 8.0
        if (
            rng.random() > 0.22
            or parcel.width < 12
            or room < 4.6
            or parcel.driveway
            or (plan.side(parcel.side).walk == 0 and parcel.use == "house")
        ):
            continue
        part, label = makers[int(rng.integers(len(makers)))]()
        if np.ptp(part.vertices[:, 0]) < parcel.width - 2:
            turn = float(rng.choice([0, np.pi])) + float(rng.normal(0, 0.04))
            site.park(part, label, parcel.middle, parcel.side * (plan.side(parcel.side).lot + depth), turn)


def start_traffic(site: Site, plan: Plan, journey: Journey, wanted: frozenset[str]) -> None:
    """Fills all lanes and sidewalks. Road users in one lane move at the same speed, so they never collide."""
    for sign in (-1, 1):
        for number in range(plan.lanes):
            _fill_lane(site, plan, journey, sign, number, wanted)
        if "person" in wanted:
            _fill_sidewalk(site, plan, sign)


def _fill_lane(site: Site, plan: Plan, journey: Journey, sign: int, number: int, wanted: frozenset[str]) -> None:
    rng, d = site.rng, plan.lane(sign, number)
    if plan.side(sign).shoulder:
        wanted -= {"bicyclist"}
    own = sign < 0 and abs(d - journey.lane) < 0.1
    start, span = -MARGIN + 4.0, plan.length + 2 * MARGIN - 8.0
    speed = -sign * _SPEED[plan.kind] * float(rng.uniform(0.6, 1.3))
    s = start + float(rng.uniform(2, 45))
    while s < start + span - 8:
        if own and abs(s - journey.start) < 12:
            s = journey.start + float(rng.uniform(12, 22))
        # Riders are rare, so more of them are placed near the sensor, where they are seen well enough to learn from.
        close = own and abs(s - journey.start) < 32
        part, label = _road_user(site, wanted, riders=0.6 if close else 0.3)
        if np.ptp(part.vertices[:, 1]) > plan.lane_width(sign) - 0.2:
            part, label = site.fleet.draw(car), 252
        long = float(np.ptp(part.vertices[:, 0]))
        middle = s + long / 2
        if middle + long / 2 > start + span or (own and abs(middle - journey.start) < 5 + long):
            s += long
            continue
        if own:
            track = _follow(journey, middle - start, start, span, d)
        else:
            track = _wrap(middle - start, speed, start, span, d)
        site.drive(part, label, track, 0.0 if sign < 0 else np.pi)
        s += long + float(rng.uniform(3, 18) if label in (253, 255) else rng.uniform(12, 110))


def _follow(
    journey: Journey, first: float, start: float, span: float, d: float
) -> Callable[[float], tuple[float, float]]:
    return lambda t: (start + (first + journey.at(t) - journey.start) % span, d)


def _wrap(first: float, speed: float, start: float, span: float, d: float) -> Callable[[float], tuple[float, float]]:
    return lambda t: (start + (first + speed * t) % span, d)


def _road_user(site: Site, wanted: frozenset[str], riders: float = 0.45) -> tuple[Mesh, int]:
    """Returns a road user of a lane and its moving label; `riders` is the probability that it rides a cycle."""
    rng, draw = site.rng, site.rng.random()
    bicycles = 0.55 * riders
    if draw < bicycles and "bicyclist" in wanted:
        return site.fleet.draw(bicyclist), 253
    if bicycles < draw < riders and "motorcyclist" in wanted:
        return site.fleet.draw(motorcyclist), 255
    if riders < draw < riders + 0.08 and "truck" in wanted:
        return truck(rng), 258
    if riders + 0.08 < draw < riders + 0.16 and "other-vehicle" in wanted:
        part, label = other_vehicle(rng, moving=True)
        return part, _MOVING_OTHER[label]
    return site.fleet.draw(car), 252


def _fill_sidewalk(site: Site, plan: Plan, sign: int) -> None:
    """Adds up to two files of walkers, one in each direction; all walkers of a file have the same speed."""
    rng, side = site.rng, plan.side(sign)
    if side.walk < 2.7:
        return
    files = [side.inner + 1.15] if side.walk < 3.9 else [side.inner + 1.15, side.inner + 2.05]
    start, span = -MARGIN + 4.0, plan.length + 2 * MARGIN - 8.0
    for d, way in zip(files, rng.permutation([-1, 1]), strict=False):
        pace = float(way * rng.uniform(0.8, 1.6))
        s = start + float(rng.uniform(0, 25))
        while s < start + span - 3:
            turn = 0.0 if way > 0 else np.pi
            site.drive(site.fleet.draw(walking), 254, _wrap(s - start, pace, start, span, sign * d), turn)
            s += float(rng.uniform(2.6, 5) if rng.random() < 0.25 else rng.uniform(12, 90))
