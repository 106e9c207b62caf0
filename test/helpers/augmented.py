"""Labelled scans to augment, and what is compared of them."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from spvnas_ros.engine.sample_street import street_scan
from spvnas_ros.offline import augment
from spvnas_ros.offline.datasets import LabelledScan

MIXING = ("lasermix", "polarmix")
DIMMING = ("intensity_scale", "intensity_gamma", "intensity_noise", "intensity_drop")
seeds = st.integers(0, 2**32 - 1)
fewer = settings(max_examples=20)


def random_scan(seed: int, count: int) -> LabelledScan:
    """Any points within 100 m; among them one in the sensor, one straight above it, and two in one place."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(-100, 100, (count, 4)).astype(np.float32) * rng.choice([1, 0.1, 0.01], (count, 1)).astype("f4")
    points[1:2, :3], points[2:3, :2], points[3:4] = 0, 0, points[4:5]
    points[:, 3] = np.abs(points[:, 3]) / 100
    labels = rng.integers(0, 256, count).astype(np.uint8)
    labels[::3] = rng.integers(0, 8)
    instances = rng.integers(0, rng.choice([3, 300, 1 << 16]), count).astype(np.uint16)
    return LabelledScan("any", points, labels, instances)


def scans(least: int = 0) -> st.SearchStrategy[LabelledScan]:
    return st.builds(random_scan, seeds, st.sampled_from([n for n in (0, 1, 5, 40) if n >= least]))


@cache
def street(seed: int, beams: int = 64) -> LabelledScan:
    points, labels = street_scan(seed, beams, 60)
    instances = np.where(labels < 8, labels + 1, 0).astype(np.uint16)
    return LabelledScan(f"street {seed}", points, labels, instances)


def apply(
    name: str, scan: LabelledScan, seed: int, partner: LabelledScan | None = None, **options: Any
) -> LabelledScan:
    function, rng = getattr(augment, name), np.random.default_rng(seed)
    if name in MIXING:
        return function(scan, scan if partner is None else partner, rng, **options)
    return function(scan, rng, **options)


def rows(scan: LabelledScan, instances: bool = True) -> list[bytes]:
    """Each point with its label (and instance) as one value, to be counted and compared."""
    parts = [scan.points.view(np.uint8), scan.labels[:, None]]
    if instances:
        parts.append(scan.instances[:, None].view(np.uint8))
    return [row.tobytes() for row in np.concatenate(parts, axis=1)]
