"""Two scans in one. Instances of the second get numbers that the first does not use."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from spvnas_ros.offline.augment.geometric import rotated
from spvnas_ros.offline.augment.options import AugmentationError, Interval, counts, number, pair
from spvnas_ros.offline.augment.sensor import pitches
from spvnas_ros.offline.datasets.scan import Instances, LabelledScan

THINGS = tuple(range(8))
"""Classes of SemanticKITTI that come as single objects: car to motorcyclist."""


def lasermix(
    scan: LabelledScan,
    partner: LabelledScan,
    rng: np.random.Generator,
    *,
    areas: Sequence[int] = (3, 4, 5, 6),
    pitch: Interval = (-25.0, 3.0),
) -> LabelledScan:
    """Bands of pitch by turns from either scan, the uppermost from `scan` (LaserMix, Kong et al., CVPR 2023).

    areas: how many bands there may be
    pitch: degrees from the lowest band's bottom to the highest one's top; what lies outside belongs to these two
    """
    low, high = np.radians(pair("pitch", pitch, -90, 90))
    if low == high:
        raise AugmentationError(f"pitch is {pitch!r}, expected two different angles")
    number_of_bands = int(rng.choice(counts("areas", areas, least=1)))
    edges = np.linspace(low, high, number_of_bands + 1, dtype=np.float32)[1:-1]

    def band(of: LabelledScan) -> npt.NDArray[np.int64]:
        """0 for the uppermost; a pitch on an edge belongs to the band below it."""
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
    """Half a turn from the partner, then its objects three times over (PolarMix, Xiao et al., NeurIPS 2022).

    swap:    probability that a half plane through the sensor is replaced by the partner's
    paste:   probability that the partner's points of `classes` are added, where they were and turned twice, by a random
             angle under 120 degrees and by one 120 degrees more
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
    """Whether each point lies in the half turn from `start` on, radians clockwise from ahead."""
    yaw = -np.arctan2(scan.points[:, 1], scan.points[:, 0])
    inside: npt.NDArray[np.bool_] = (yaw > start) & (yaw < start + np.pi)
    return inside


def joined(*scans: LabelledScan) -> LabelledScan:
    """The points of all in order, under the first one's name; the others' instances get numbers that are free.

    Where 16 bits are too few for that, the objects of all scans are numbered anew, without gaps.
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
    """The same objects, numbered from 1 on without gaps; 0 stays 0."""
    rank = np.unique(np.append(instances, np.uint16(0)), return_inverse=True)[1]
    return rank[:-1].astype(np.uint16)
