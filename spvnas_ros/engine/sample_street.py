"""A street of boxes, cylinders and ellipsoids, seen by a spinning LiDAR, for demos and tests.

It is not a simulator: nothing moves but the sensor, nothing is at an angle, and intensities are guesses. It lets the
whole path be shown where no recording is at hand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from spvnas_ros.frame import Points
from spvnas_ros.labels import SEMANTIC_KITTI

BEAMS = {64: (2.0, -24.8), 32: (10.0, -30.0), 16: (15.0, -15.0)}
"""Elevation of the highest and the lowest beam, degrees, by number of beams (HDL-64E, HDL-32E, VLP-16)."""

TOPIC = "/points"
FRAME_ID = "lidar"
RATE = 10
"""Revolutions a second."""

_SENSOR_HEIGHT = 1.73
_MAX_RANGE = 80.0
_RANGE_NOISE = 0.02
_BLOCK = 12.0
"""Length of a block, metres. The street is furnished block by block, each from a seed of its own, so that it has no
end."""
_ROAD, _PARKING, _SIDEWALK, _FACADE = 4.0, 6.2, 8.4, 11.0
"""How far the strips reach to each side of the middle of the street, metres. Terrain follows the sidewalk."""
_CURB = 0.12
_CAR_HALF_WIDTH, _CAR_HEIGHT = 0.86, 1.53
_BOX_SLACK = 0.15
"""Metres by which a box is larger than its object, for ranges have errors."""
_FIELDS = [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("intensity", "<f4"), ("ring", "<u2")]
_START = 1_700_000_000 * 10**9
_POSITIVE = 1 << 32
"""Added to a number that may be negative before it seeds a generator."""

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class _Solid:
    """A body, in coordinates of the street (z = 0 is the road).

    centre, half: of the box around it, metres
    reflectivity: intensity of a near hit
    porous:       share of the rays that pass through, as through leaves
    rough:        how far hits scatter behind the surface, metres
    """

    shape: str
    centre: tuple[float, float, float]
    half: tuple[float, float, float]
    label: int
    reflectivity: float
    porous: float = 0.0
    rough: float = 0.0


@dataclass(frozen=True)
class _Scan:
    """The returns of one revolution, in order of firing."""

    points: Points
    labels: npt.NDArray[np.uint8]
    ring: npt.NDArray[np.uint16]


def street_scan(
    seed: int, beams: int = 64, columns: int = 1800, position: float = 0.0
) -> tuple[Points, npt.NDArray[np.uint8]]:
    """Returns one revolution in the street `seed`, and its true labels.

    beams:    64, 32 or 16
    columns:  firings a revolution
    position: of the sensor along the street, metres

    Returns points float32 `[N, 4]` (x along the street, y left, z up, metres; intensity 0..1) and labels uint8 `[N]`
    (classes of SemanticKITTI). The same arguments give the same scan. Raises ValueError for other beams or no columns.
    """
    scan = _scan(seed, beams, columns, position)
    return scan.points, scan.labels


def street_boxes(seed: int, position: float = 0.0) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    """Returns the boxes of the cars and persons in `street_scan`'s street, float32 `[B, 7]` as in
    `spvnas_ros.frame.Boxes`, and their classes uint8 `[B]`. What hides them does not count.
    """
    boxes, labels = [], []
    for solid in _street(seed, position):
        body = solid.label == _class("car") and solid.half[1] == _CAR_HALF_WIDTH
        if not body and solid.label != _class("person"):
            continue
        x, y, z = solid.centre
        middle, height = (_CAR_HEIGHT / 2, _CAR_HEIGHT) if body else (z, 2 * solid.half[2])
        size = (2 * solid.half[0] + _BOX_SLACK, 2 * solid.half[1] + _BOX_SLACK, height + _BOX_SLACK)
        boxes.append((x - position, y, middle - _SENSOR_HEIGHT, *size, 0.0))
        labels.append(solid.label)
    return np.array(boxes, np.float32).reshape(-1, 7), np.array(labels, np.uint8)


def write_drive_bag(
    path: str | Path,
    frames: int,
    *,
    seed: int = 0,
    beams: int = 64,
    columns: int = 1800,
    speed: float = 10.0,
    storage: str = "sqlite3",
    force: bool = False,
) -> None:
    """Records a drive down the street as a rosbag2: PointCloud2 on `/points`, frame `lidar`, ten a second.

    frames: how many clouds (x, y, z, intensity float32, ring uint16)
    speed:  metres a second

    The other arguments are those of `street_scan` and `BagWriter`. Raises BagError where the bag cannot be written.
    """
    from spvnas_ros.recordings.bags import BagWriter, cloud_message, encode

    with BagWriter(path, storage, force=force) as bag:
        for number in range(frames):
            stamp = _START + number * 10**9 // RATE
            scan = _scan(seed, beams, columns, number * speed / RATE)
            bag.write(TOPIC, encode(cloud_message(_record(scan), stamp, FRAME_ID)), stamp)


def _record(scan: _Scan) -> npt.NDArray[np.void]:
    record = np.empty(len(scan.ring), _FIELDS)
    for column, name in enumerate(("x", "y", "z", "intensity")):
        record[name] = scan.points[:, column]
    record["ring"] = scan.ring
    return record


def _scan(seed: int, beams: int, columns: int, position: float) -> _Scan:
    if beams not in BEAMS or columns < 1:
        raise ValueError(f"found {beams} beams and {columns} columns, expected {sorted(BEAMS)} beams, 1 column or more")
    rng = np.random.default_rng((seed, round(position * 1000) + _POSITIVE))
    rays = _rays(beams, columns)
    solids = list(_street(seed, position))
    distance = np.full((columns, beams), np.inf, np.float32)
    index = np.full((columns, beams), -1)
    for number, solid in enumerate(solids):
        centre = (solid.centre[0] - position, solid.centre[1], solid.centre[2] - _SENSOR_HEIGHT)
        seen = _columns_towards(centre, solid.half, columns)
        hit = _HITS[solid.shape](rays[seen], centre, solid.half)
        if solid.porous:
            hit = np.where(rng.random(hit.shape) < solid.porous, np.inf, hit)
        if solid.rough:
            hit = hit + rng.random(hit.shape, np.float32) * solid.rough
        nearer = hit < distance[seen]
        distance[seen] = np.where(nearer, hit, distance[seen])
        index[seen] = np.where(nearer, number, index[seen])
    return _returns(rng, rays, distance, index, solids, position)


def _returns(
    rng: np.random.Generator,
    rays: Floats,
    distance: Floats,
    index: npt.NDArray[np.int64],
    solids: list[_Solid],
    position: float,
) -> _Scan:
    """Returns the echoes that come back: fewer from far away, each with a small error in range."""
    kept = (distance < _MAX_RANGE) & (rng.random(distance.shape) > 0.3 * distance / _MAX_RANGE)
    near, solid = distance[kept], index[kept]
    points = np.empty((len(near), 4), np.float32)
    points[:, :3] = rays[kept] * (near + rng.normal(0, _RANGE_NOISE, len(near)).astype(np.float32))[:, None]
    labels = np.array([s.label for s in solids], np.uint8)[solid]
    bright = np.array([s.reflectivity for s in solids], np.float32)[solid]
    bright = np.where(_is_marking(points[:, 0] + position, points[:, 1], labels), 0.8, bright)
    fading = 1 - 0.5 * near / _MAX_RANGE
    points[:, 3] = np.clip(bright * fading + rng.normal(0, 0.03, len(near)), 0, 0.99)
    return _Scan(points, labels, np.nonzero(kept)[1].astype(np.uint16))


def _is_marking(x: Floats, y: Floats, labels: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Returns whether a point lies on the paint of the road: a broken line in the middle."""
    painted: npt.NDArray[np.bool_] = (labels == _class("road")) & (np.abs(y) < 0.1) & (x % 9.0 < 3.0)
    return painted


def _rays(beams: int, columns: int) -> Floats:
    """Returns unit vectors `[columns, beams, 3]`, clockwise from ahead as most sensors turn."""
    highest, lowest = BEAMS[beams]
    elevation = np.radians(np.linspace(highest, lowest, beams))
    # Half a step, so that no ray is parallel to a side of a box.
    azimuth = -2 * np.pi * (np.arange(columns)[:, None] + 0.5) / columns
    flat = np.cos(elevation)
    x, y, z = flat * np.cos(azimuth), flat * np.sin(azimuth), np.broadcast_to(np.sin(elevation), (columns, beams))
    return np.stack((x, y, z), axis=-1).astype(np.float32)


def _columns_towards(
    centre: tuple[float, float, float], half: tuple[float, float, float], columns: int
) -> npt.NDArray[np.int64]:
    """Returns the columns that may hit something in the box.

    Most solids are narrow, and the other columns are never tested.
    """
    distance, radius = np.hypot(centre[0], centre[1]), np.hypot(half[0], half[1])
    if radius >= distance:
        return np.arange(columns)
    middle = -np.arctan2(centre[1], centre[0]) / (2 * np.pi) * columns
    reach = np.arcsin(radius / distance) / (2 * np.pi) * columns
    return np.arange(int(np.floor(middle - reach)) - 1, int(np.ceil(middle + reach)) + 1) % columns


def _hit_box(rays: Floats, centre: tuple[float, float, float], half: tuple[float, float, float]) -> Floats:
    """Returns the distance `[columns, beams]` at which each ray from the origin enters a box, inf where it does not."""
    enter, leave = np.float32(-np.inf), np.float32(np.inf)
    for axis in range(3):
        first, second = (centre[axis] - half[axis]) / rays[..., axis], (centre[axis] + half[axis]) / rays[..., axis]
        enter = np.maximum(enter, np.minimum(first, second))
        leave = np.minimum(leave, np.maximum(first, second))
    return np.where((enter <= leave) & (enter > 0), enter, np.inf)


def _hit_ellipsoid(rays: Floats, centre: tuple[float, float, float], half: tuple[float, float, float]) -> Floats:
    """Returns the same distance for an ellipsoid."""
    return _first_root(rays / half, np.divide(centre, half))


def _hit_cylinder(rays: Floats, centre: tuple[float, float, float], half: tuple[float, float, float]) -> Floats:
    """Returns the same distance for the side of an upright cylinder."""
    distance = _first_root(rays[..., :2] / half[:2], np.divide(centre[:2], half[:2]))
    with np.errstate(invalid="ignore"):
        height = np.abs(distance * rays[..., 2] - centre[2])
    return np.where(height <= half[2], distance, np.inf)


def _first_root(rays: Floats, centre: Floats) -> Floats:
    """Returns the distance at which each ray first meets the unit sphere (or circle) around `centre`, else inf."""
    square, along = (rays * rays).sum(-1), rays @ np.asarray(centre, np.float32)
    under = along * along - square * (float(np.dot(centre, centre)) - 1)
    root = (along - np.sqrt(np.maximum(under, 0))) / square
    return np.where((under >= 0) & (root > 0), root, np.inf)


_HITS: dict[str, Callable[[Floats, tuple[float, float, float], tuple[float, float, float]], Floats]] = {
    "box": _hit_box,
    "ellipsoid": _hit_ellipsoid,
    "cylinder": _hit_cylinder,
}


def _street(seed: int, position: float) -> Iterator[_Solid]:
    """Yields all solids within range of the sensor."""
    reach = 1.5 * _MAX_RANGE
    yield _ground("road", position, reach, 0.0, _ROAD, 0.0, 0.25)
    for side in (-1, 1):
        yield _ground("parking", position, reach, side * _ROAD, side * _PARKING, 0.0, 0.28)
        yield _ground("sidewalk", position, reach, side * _PARKING, side * _SIDEWALK, _CURB, 0.35)
        yield _ground("terrain", position, reach, side * _SIDEWALK, side * reach, _CURB, 0.3)
    first = int((position - _MAX_RANGE) // _BLOCK)
    for block in range(first, first + int(2 * _MAX_RANGE / _BLOCK) + 2):
        rng = np.random.default_rng((seed, block + _POSITIVE))
        for side in (-1, 1):
            yield from _furnish(rng, block * _BLOCK, side)


def _ground(
    name: str, position: float, reach: float, inner: float, outer: float, height: float, reflectivity: float
) -> _Solid:
    """Returns a strip along the street. The strip of the road lies on both sides of its middle."""
    middle, half = ((inner + outer) / 2, abs(outer - inner) / 2) if inner else (0.0, outer)
    return _Solid("box", (position, middle, height - 1), (reach, half, 1.0), _class(name), reflectivity, rough=0.02)


def _furnish(rng: np.random.Generator, start: float, side: int) -> Iterator[_Solid]:
    """Yields one side of one block: a house or a fence, and the objects in front of it."""

    def at(low: float, high: float) -> float:
        return float(rng.uniform(low, high))

    middle = start + _BLOCK / 2
    if rng.random() < 0.75:
        height, depth, width = at(5, 13), at(4, 6), at(0.75, 1.0) * _BLOCK
        place = (middle, side * (_FACADE + at(0, 2) + depth), height / 2)
        yield _solid("building", "box", place, (width / 2, depth, height / 2), at(0.25, 0.5))
    else:
        yield _solid("fence", "box", (middle, side * _FACADE, 0.8), (_BLOCK / 2, 0.05, 0.8), 0.3, porous=0.2)
    if rng.random() < 0.65:
        yield from _car(start + at(2.5, _BLOCK - 2.5), side * (_ROAD + 1.1), at(0.05, 0.6), at(0.9, 1.1))
    if rng.random() < 0.55:
        yield from _tree(start + at(1, _BLOCK - 1), side * (_SIDEWALK + 0.9), at(0.8, 1.4))
    if rng.random() < 0.35:
        yield from _lamp(start + at(0, _BLOCK), side * (_PARKING + 0.4), bool(rng.random() < 0.5))
    if rng.random() < 0.3:
        place = (start + at(0, _BLOCK), side * at(_PARKING + 0.7, _SIDEWALK - 0.4), _CURB + 0.86)
        yield _solid("person", "cylinder", place, (0.24, 0.24, 0.86), 0.35, rough=0.06)
    if rng.random() < 0.45:
        place = (start + at(2, _BLOCK - 2), side * (_FACADE - 0.9), 0.5)
        yield _solid("vegetation", "box", place, (at(1, 2), 0.5, 0.6), 0.3, porous=0.2, rough=0.25)


def _car(x: float, y: float, paint: float, size: float) -> Iterator[_Solid]:
    yield _solid("car", "box", (x, y, 0.62), (2.1 * size, _CAR_HALF_WIDTH, 0.36), paint)
    yield _solid("car", "ellipsoid", (x - 0.2, y, 0.95), (1.5 * size, 0.78, 0.58), paint)
    for along in (-1.3, 1.3):
        yield _solid("car", "box", (x + along * size, y, 0.3), (0.32, 0.82, 0.3), 0.08)


def _tree(x: float, y: float, size: float) -> Iterator[_Solid]:
    yield _solid("trunk", "cylinder", (x, y, 1.5 * size), (0.16 * size, 0.16 * size, 1.6 * size), 0.3)
    crown = (1.6 * size, 1.6 * size, 1.6 * size)
    yield _solid("vegetation", "ellipsoid", (x, y, 3.1 * size), crown, 0.35, porous=0.3, rough=0.7)


def _lamp(x: float, y: float, has_sign: bool) -> Iterator[_Solid]:
    yield _solid("pole", "cylinder", (x, y, 3.0), (0.08, 0.08, 3.0), 0.4)
    if has_sign:
        yield _solid("traffic-sign", "box", (x - 0.12, y, 2.4), (0.03, 0.35, 0.35), 0.95)


def _solid(
    name: str,
    shape: str,
    centre: tuple[float, float, float],
    half: tuple[float, float, float],
    reflectivity: float,
    porous: float = 0.0,
    rough: float = 0.0,
) -> _Solid:
    return _Solid(shape, centre, half, _class(name), reflectivity, porous, rough)


def _class(name: str) -> int:
    return SEMANTIC_KITTI.classes.index(name)
