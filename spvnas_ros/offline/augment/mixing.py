"""Mixes two scans into one. Instances of the second scan get numbers that the first one does not use; a box comes along
where its points do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from spvnas_ros.boxes.inside import rows_inside
from spvnas_ros.boxes.overlap import bev_overlap
from spvnas_ros.frame import UNLABELLED
from spvnas_ros.offline.augment.boxed_scene import AnyScan, carried, labels_of, turn
from spvnas_ros.offline.augment.option_checks import AugmentationError, Interval, counts, number, pair
from spvnas_ros.offline.augment.sensor import pitches
from spvnas_ros.offline.datasets.boxed import BoxedScan
from spvnas_ros.offline.datasets.scan import Instances, LabelledScan
from spvnas_ros.recordings.object_tables import Objects

STAYED = 0.3
"""A box comes along with this share of its points or more. Drives have boxes of objects hidden in part, too."""

THINGS = tuple(range(8))
"""Class indices of SemanticKITTI's things, which occur as single objects: car to motorcyclist."""


def lasermix(
    scan: AnyScan,
    partner: AnyScan,
    rng: np.random.Generator,
    *,
    areas: Sequence[int] = (3, 4, 5, 6),
    pitch: Interval = (-25.0, 3.0),
) -> AnyScan:
    """Takes bands of pitch alternately from both scans, the uppermost from `scan` (LaserMix, Kong et al., CVPR 2023).

    areas: numbers of bands to choose from
    pitch: degrees from the bottom of the lowest band to the top of the highest one; points outside belong to these two
    """
    low, high = np.radians(pair("pitch", pitch, -90, 90))
    if low == high:
        raise AugmentationError(f"pitch is {pitch!r}, expected two different angles")
    number_of_bands = int(rng.choice(counts("areas", areas, least=1)))
    edges = np.linspace(low, high, number_of_bands + 1, dtype=np.float32)[1:-1]

    def band(of: LabelledScan | BoxedScan) -> npt.NDArray[np.int64]:
        """Returns the band of each point, 0 for the uppermost. A pitch on an edge belongs to the band below it."""
        return len(edges) - np.searchsorted(edges, pitches(of.points))

    return joined(_part(scan, band(scan) % 2 == 0), _part(partner, band(partner) % 2 == 1))


def polarmix(
    scan: AnyScan,
    partner: AnyScan,
    rng: np.random.Generator,
    *,
    classes: Sequence[int] = THINGS,
    swap: float = 0.5,
    paste: float = 1.0,
) -> AnyScan:
    """Takes half a turn from the partner and then adds its objects three times (PolarMix, Xiao et al., NeurIPS 2022).

    swap:    probability that the half plane on one side of the sensor is replaced by the partner's
    paste:   probability that the partner's points of `classes` are added three times: at their own place, turned by a
             random angle under 120 degrees, and turned by that angle plus 120 degrees
    classes: class indices; of a partner with boxes and without labels, the points in its boxes are added
    """
    chosen = counts("classes", classes)
    swap, paste = number("swap", swap, most=1), number("paste", paste, most=1)
    mixed = scan
    if rng.random() < swap:
        start = (rng.random() - 1) * np.pi
        mixed = joined(_part(scan, ~_in_sector(scan, start)), _part(partner, _in_sector(partner, start)))
    if rng.random() < paste:
        objects = _part(partner, _of_classes(partner, chosen))
        angle = rng.random() * np.pi * 2 / 3
        angles = (0.0, angle, angle + np.pi * 2 / 3)
        mixed = joined(mixed, *(carried(objects, turn(each)) for each in angles))
    return mixed


def _in_sector(scan: LabelledScan | BoxedScan, start: float) -> npt.NDArray[np.bool_]:
    """Tells whether each point lies in the half turn that begins at `start`, radians clockwise from ahead."""
    yaw = -np.arctan2(scan.points[:, 1], scan.points[:, 0])
    inside: npt.NDArray[np.bool_] = (yaw > start) & (yaw < start + np.pi)
    return inside


def _of_classes(scan: LabelledScan | BoxedScan, classes: Sequence[int]) -> npt.NDArray[np.bool_]:
    """Tells which points are of some classes, bool `[N]`; of a scan with boxes alone, which are in boxes."""
    if scan.labels is not None and (isinstance(scan, LabelledScan) or (scan.labels != UNLABELLED).any()):
        return np.isin(scan.labels, classes)
    chosen = np.zeros(len(scan), np.bool_)
    if isinstance(scan, BoxedScan):
        for rows in rows_inside(scan.points, scan.objects.boxes):
            chosen[rows] = True
    return chosen


def _part(scan: AnyScan, mask: npt.NDArray[np.bool_]) -> AnyScan:
    """Returns some points, and the objects of which enough is among them, with so many points as these still have."""
    part = scan.take(mask)
    if not isinstance(part, BoxedScan):
        return part
    rows = rows_inside(scan.points, part.objects.boxes)
    before, after = (
        np.array(each, np.int64) for each in (list(map(len, rows)), [int(mask[row].sum()) for row in rows])
    )
    along = (after > 0) & (after >= STAYED * before)
    return replace(part, objects=replace(part.objects, counts=after).among(along))


def joined(*scans: AnyScan) -> AnyScan:
    """Returns the points of all scans in order, under the name of the first.

    Instances of the later scans get free numbers. Where 16 bits are too few for these numbers, the objects of every
    scan are first numbered anew, without gaps.

    Of boxes of different scans that overlap, seen from above, the one with the most points stays. In the box of one
    scan no points of others stay. Where nobody knows the objects of one, nobody knows those of all.
    """
    first = scans[0]
    if isinstance(first, BoxedScan):
        return _joined_with_boxes([scan for scan in scans if isinstance(scan, BoxedScan)])
    labelled = [scan for scan in scans if isinstance(scan, LabelledScan)]
    return LabelledScan(
        first.name,
        np.concatenate([scan.points for scan in labelled]),
        np.concatenate([scan.labels for scan in labelled]),
        _apart([scan.instances for scan in labelled]),
    )


def _joined_with_boxes(scans: Sequence[BoxedScan]) -> BoxedScan:
    boxed = all(scan.boxed for scan in scans)
    labelled = any(scan.labels is not None for scan in scans)
    objects = Objects.joined([scan.objects for scan in scans] if boxed else [])
    if boxed:
        owner = np.repeat(np.arange(len(scans)), [len(scan.objects) for scan in scans])
        stays = _alone(objects, owner)
        objects, owner = objects.among(stays), owner[stays]
        scans = [_outside(scan, objects.boxes[owner != number]) for number, scan in enumerate(scans)]
    return BoxedScan(
        scans[0].name,
        np.concatenate([scan.points for scan in scans]),
        objects,
        np.concatenate([labels_of(scan) for scan in scans]) if labelled else None,
        boxed,
    )


def _alone(objects: Objects, owner: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Returns the rows of the objects that stay, in order, where those of different owners may not overlap."""
    overlaps = (bev_overlap(objects.boxes, objects.boxes) > 0) & (owner[:, None] != owner)
    stays = np.zeros(len(objects), np.bool_)
    for row in np.argsort(-objects.counts, kind="stable").tolist():
        stays[row] = not (overlaps[row] & stays).any()
    return np.flatnonzero(stays)


def _outside(scan: BoxedScan, boxes: npt.NDArray[np.float32]) -> BoxedScan:
    """Returns the points that are in none of some boxes."""
    free = np.ones(len(scan), np.bool_)
    for rows in rows_inside(scan.points, boxes):
        free[rows] = False
    return scan if free.all() else scan.take(free)


def _apart(instances: Sequence[Instances]) -> Instances:
    if sum(int(each.max(initial=0)) for each in instances) > np.iinfo(np.uint16).max:
        instances = [_compact(each) for each in instances]
    shifted, used = [], 0
    for each in instances:
        shifted.append(np.where(each > 0, each + np.uint16(used), np.uint16(0)))
        used += int(each.max(initial=0))
    return np.concatenate(shifted)


def _compact(instances: Instances) -> Instances:
    """Returns the same objects, numbered from 1 without gaps; 0 stays 0."""
    rank = np.unique(np.append(instances, np.uint16(0)), return_inverse=True)[1]
    return rank[:-1].astype(np.uint16)
