"""Adds objects of other scans to a scan, and moves each object by itself. No two boxes are made to overlap.

Ground-truth sampling and noise of objects are those of Yan et al., "SECOND", Sensors 2018, 3.4.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from spvnas_ros.boxes.conversions import wrapped
from spvnas_ros.boxes.inside import rows_inside
from spvnas_ros.boxes.overlap import bev_overlap
from spvnas_ros.frame import Points
from spvnas_ros.offline.augment.boxed_scene import labels_of
from spvnas_ros.offline.augment.option_checks import AugmentationError, Interval, number, pair
from spvnas_ros.offline.datasets.boxed import BoxedScan
from spvnas_ros.offline.datasets.scan import Labels
from spvnas_ros.recordings.object_tables import Objects

_MOST_HIDDEN = 2
"""Occlusion of the objects that are sampled, at most. Of an object of 3 nobody knows how much is seen."""

Amounts = Mapping[str, int] | int
"""Numbers by kind of object, or one for all kinds."""


@dataclass(frozen=True)
class Database:
    """Objects to put into other scans.

    objects: where they were seen; counts are of the points here
    points:  float32 `[P, 4]`, of one object after the other
    labels:  uint8 `[P]`, 255 where the scans have none
    starts:  int64 `[K + 1]`, where each object's points begin
    rows:    int64 each: the objects of each kind
    """

    objects: Objects
    points: Points
    labels: Labels
    starts: npt.NDArray[np.int64]
    rows: Mapping[str, npt.NDArray[np.int64]]

    def __len__(self) -> int:
        return len(self.objects)

    def among(self, which: npt.NDArray[np.int64]) -> tuple[Objects, Points, Labels]:
        """Returns some objects, their points and the labels of these."""
        parts = [slice(self.starts[row], self.starts[row + 1]) for row in which.tolist()]
        points = np.concatenate([np.zeros((0, 4), np.float32), *(self.points[part] for part in parts)])
        labels = np.concatenate([np.zeros(0, np.uint8), *(self.labels[part] for part in parts)])
        return self.objects.among(which), points, labels


def build_database(scans: Iterable[BoxedScan], least: int = 1) -> Database:
    """Returns the objects of scans that have `least` points or more in their box and are not wholly hidden."""
    found, points, labels = [], [], []
    for scan in scans:
        rows = rows_inside(scan.points, scan.objects.boxes)
        counts = np.array([len(each) for each in rows], np.int64)
        kept = np.flatnonzero((counts >= max(least, 1)) & (scan.objects.occlusion <= _MOST_HIDDEN))
        found.append(replace(scan.objects, counts=counts).among(kept))
        points += [scan.points[rows[row]] for row in kept]
        labels += [labels_of(scan)[rows[row]] for row in kept]
    objects = Objects.joined(found)
    kinds = np.array(objects.kinds, np.str_)
    return Database(
        objects,
        np.concatenate([np.zeros((0, 4), np.float32), *points]),
        np.concatenate([np.zeros(0, np.uint8), *labels]),
        np.cumsum([0, *map(len, points)], dtype=np.int64),
        {kind: np.flatnonzero(kinds == kind) for kind in np.unique(kinds).tolist()},
    )


def sample_objects(
    scan: BoxedScan,
    rng: np.random.Generator,
    database: Database,
    *,
    counts: Mapping[str, int],
    min_points: Amounts = 5,
) -> BoxedScan:
    """Adds objects of other scans where these stood, until a scan has `counts` of each kind.

    counts:     how many of each kind there shall be; fewer where the objects that are drawn would overlap others
    min_points: an object has so many points at least

    Points of the scan that lie in the box of a new object go. Objects and other points of the scan stay, in order, and
    the new ones come behind them. A scan whose objects nobody knows stays as it is: new ones would stand in others.
    """
    if not scan.boxed:
        return scan
    wanted = _amounts("counts", counts)
    boxes, taken = scan.objects.boxes, list[int]()
    for kind, count in wanted.items():
        rows = database.rows.get(kind, np.zeros(0, np.int64))
        least = min_points if isinstance(min_points, int) else _amounts("min_points", min_points).get(kind, 0)
        rows = rows[database.objects.counts[rows] >= least]
        missing = min(max(count - scan.objects.kinds.count(kind), 0), len(rows))
        for row in rng.choice(rows, missing, replace=False).tolist() if missing else ():
            box = database.objects.boxes[row : row + 1]
            if not bev_overlap(box, boxes).any():
                boxes = np.concatenate([boxes, box])
                taken.append(row)
    if not taken:
        return scan
    objects, points, labels = database.among(np.array(taken, np.int64))
    stays = np.ones(len(scan), np.bool_)
    for inside in rows_inside(scan.points, objects.boxes):
        stays[inside] = False
    return BoxedScan(
        scan.name,
        np.concatenate([scan.points[stays], points]),
        Objects.joined([scan.objects, objects]),
        None if scan.labels is None else np.concatenate([scan.labels[stays], labels]),
    )


def object_noise(
    scan: BoxedScan,
    rng: np.random.Generator,
    *,
    metres: Sequence[float] = (1.0, 1.0, 0.5),
    degrees: Interval = (-45.0, 45.0),
    tries: int = 100,
) -> BoxedScan:
    """Moves each object with its points by normal noise and turns it about its middle.

    metres:  standard deviation along x, y and z
    degrees: interval of the turn
    tries:   an object that overlaps another after so many draws stays where it is

    A point in several boxes goes with the first. All other points stay, also where an object comes to stand on them.
    """
    low, high = np.radians(pair("degrees", degrees))
    if not isinstance(metres, list | tuple) or len(metres) != 3:
        raise AugmentationError(f"metres is {metres!r}, expected three numbers: deviations along x, y and z")
    deviations = [number("metres", value) for value in metres]
    if isinstance(tries, bool) or not isinstance(tries, int) or tries < 1:
        raise AugmentationError(f"tries is {tries!r}, expected a whole number from 1 on")
    boxes, points = scan.objects.boxes.astype(np.float64), scan.points.copy()
    free = np.ones(len(scan), np.bool_)
    for row, inside in enumerate(rows_inside(scan.points, boxes)):
        shifts, turns = rng.normal(0, 1, (tries, 3)) * deviations, rng.uniform(low, high, tries)
        draws = np.repeat(boxes[row : row + 1], tries, axis=0)
        draws[:, :3] += shifts
        draws[:, 6] = wrapped(draws[:, 6] + turns)
        # What is kept is rounded to float32, so that is what must not overlap.
        draws = draws.astype(np.float32).astype(np.float64)
        alone = ~bev_overlap(draws, np.delete(boxes, row, axis=0)).any(axis=1)
        own, free[inside] = inside[free[inside]], False
        if not alone.any():
            continue
        new = draws[int(alone.argmax())]
        points[own, :3] = _carried(scan.points[own, :3], boxes[row], new)
        boxes[row] = new
    return replace(scan, points=points, objects=scan.objects.with_boxes(boxes))


def _carried(
    points: npt.NDArray[np.float32], old: npt.NDArray[np.float64], new: npt.NDArray[np.float64]
) -> npt.NDArray[np.float32]:
    """Returns points `[N, 3]` of a box where they are after it has moved."""
    c, s = np.cos(new[6] - old[6]), np.sin(new[6] - old[6])
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    there: npt.NDArray[np.float32] = ((points.astype(np.float64) - old[:3]) @ turn.T + new[:3]).astype(np.float32)
    return there


def _amounts(name: str, value: Mapping[str, int]) -> Mapping[str, int]:
    fine = isinstance(value, Mapping) and all(
        isinstance(kind, str) and isinstance(count, int) and not isinstance(count, bool) and count >= 0
        for kind, count in value.items()
    )
    if not fine:
        raise AugmentationError(f"{name} is {value!r}, expected whole numbers from 0 on by kind, such as {{Car: 15}}")
    return value


def lowest(min_points: Amounts) -> int:
    """Returns the fewest points that any kind needs. Raises AugmentationError for anything but such numbers."""
    if isinstance(min_points, int) and not isinstance(min_points, bool) and min_points >= 0:
        return min_points
    return min(_amounts("min_points", min_points).values(), default=1)  # type: ignore[arg-type]
