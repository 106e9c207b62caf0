"""Mixes two scans into one. Instances of the second scan get numbers that the first one does not use."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from spvnas_ros.offline.augment.geometric import rotated
from spvnas_ros.offline.augment.option_checks import AugmentationError, Interval, counts, number, pair
from spvnas_ros.offline.augment.sensor import pitches
from spvnas_ros.offline.datasets.scan import Instances, LabelledScan

THINGS = tuple(range(8))
"""Class indices of SemanticKITTI's things, which occur as single objects: car to motorcyclist."""


def lasermix(
    scan: LabelledScan,
    partner: LabelledScan,
    rng: np.random.Generator,
    *,
    areas: Sequence[int] = (3, 4, 5, 6),
    pitch: Interval = (-25.0, 3.0),
) -> LabelledScan:
    """Takes bands of pitch alternately from both scans, the uppermost from `scan` (LaserMix, Kong et al., CVPR 2023).

    areas: numbers of bands to choose from
    pitch: degrees from the bottom of the lowest band to the top of the highest one; points outside belong to these two
    """
    low, high = np.radians(pair("pitch", pitch, -90, 90))
    if low == high:
        raise AugmentationError(f"pitch is {pitch!r}, expected two different angles")
    number_of_bands = int(rng.choice(counts("areas", areas, least=1)))
    edges = np.linspace(low, high, number_of_bands + 1, dtype=np.float32)[1:-1]

    def band(of: LabelledScan) -> npt.NDArray[np.int64]:
        """Returns the band of each point, 0 for the uppermost. A pitch on an edge belongs to the band below it."""
        return len(edges) - np.searchsorted(edges, pitches(of.points))

    return joined(scan.take(band(scan) % 2 == 0), partner.take(band(partner) % 2 == 1))


def polarmix(
    scan: LabelledScan,
    partner: LabelledScan,
    rng: np.random.Generator,
    *,
    classes: Sequence[int] = THINGS,
    swap: float = 0.5,
    paste: float = 1.0,
) -> LabelledScan:
    """Takes half a turn from the partner and then adds its objects three times (PolarMix, Xiao et al., NeurIPS 2022).

    swap:    probability that the half plane on one side of the sensor is replaced by the partner's
    paste:   probability that the partner's points of `classes` are added three times: at their own place, turned by a
             random angle under 120 degrees, and turned by that angle plus 120 degrees
    classes: class indices
    """
    chosen = counts("classes", classes)
    swap, paste = number("swap", swap, most=1), number("paste", paste, most=1)
    mixed = scan
    if rng.random() < swap:
        start = (rng.random() - 1) * np.pi
        mixed = joined(scan.take(~_in_sector(scan, start)), partner.take(_in_sector(partner, start)))
    if rng.random() < paste:
        objects = partner.take(np.isin(partner.labels, chosen))
        turn = rng.random() * np.pi * 2 / 3
        angles = (0.0, turn, turn + np.pi * 2 / 3)
        mixed = joined(mixed, *(objects.with_points(rotated(objects.points, angle)) for angle in angles))
    return mixed


def _in_sector(scan: LabelledScan, start: float) -> npt.NDArray[np.bool_]:
    """Tells whether each point lies in the half turn that begins at `start`, radians clockwise from ahead."""
    yaw = -np.arctan2(scan.points[:, 1], scan.points[:, 0])
    inside: npt.NDArray[np.bool_] = (yaw > start) & (yaw < start + np.pi)
    return inside


def joined(*scans: LabelledScan) -> LabelledScan:
    """Returns the points of all scans in order, under the name of the first. Instances of the later scans get free
    numbers.

    Where 16 bits are too few for these numbers, the objects of every scan are first numbered anew, without gaps.
    """
    return LabelledScan(
        scans[0].name,
        np.concatenate([scan.points for scan in scans]),
        np.concatenate([scan.labels for scan in scans]),
        _apart([scan.instances for scan in scans]),
    )


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
