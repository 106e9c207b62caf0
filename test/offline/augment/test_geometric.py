"""Motions change where points are, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from augmented import DIMMING, apply, fewer, scans, seeds
from spvnas_ros.offline.datasets import LabelledScan

MOVING = ("rotate", "scale", "flip", "shift", "jitter")


def distances(scan: LabelledScan) -> np.ndarray:
    """Of every point from the first."""
    return np.linalg.norm(scan.points[:, :3].astype(np.float64) - scan.points[:1, :3], axis=1)


@pytest.mark.parametrize("name", [*MOVING, *DIMMING])
@fewer
@given(scan=scans(), seed=seeds)
def test_moving_and_dimming_keep_points_labels_and_instances(name: str, scan: LabelledScan, seed: int) -> None:
    changed = apply(name, scan, seed)
    np.testing.assert_array_equal(changed.labels, scan.labels)
    np.testing.assert_array_equal(changed.instances, scan.instances)
    kept = 3 if name in MOVING else slice(0, 3)
    np.testing.assert_array_equal(changed.points[:, kept], scan.points[:, kept])


@pytest.mark.parametrize("name", ["rotate", "flip", "shift"])
@fewer
@given(scan=scans(least=1), seed=seeds)
def test_rigid_motions_keep_distances_between_points(name: str, scan: LabelledScan, seed: int) -> None:
    np.testing.assert_allclose(distances(apply(name, scan, seed)), distances(scan), atol=1e-4)


@fewer
@given(scan=scans(), seed=seeds, degrees=st.floats(-180, 180))
def test_a_rotation_keeps_heights_and_turns_by_its_angle(scan: LabelledScan, seed: int, degrees: float) -> None:
    turned = apply("rotate", scan, seed, degrees=(degrees, degrees)).points.astype(np.float64)
    np.testing.assert_array_equal(turned[:, 2], scan.points[:, 2])
    expected = (scan.points[:, 0] + 1j * scan.points[:, 1]) * np.exp(1j * np.radians(degrees))
    np.testing.assert_allclose(turned[:, 0] + 1j * turned[:, 1], expected, atol=1e-4)


@fewer
@given(scan=scans(least=1), seed=seeds)
def test_a_scale_is_one_factor_within_its_interval(scan: LabelledScan, seed: int) -> None:
    before, after = distances(scan), distances(apply("scale", scan, seed))
    far = before > 1
    factors = after[far] / before[far]
    assert ((factors > 0.9499) & (factors < 1.0501)).all()
    assert np.ptp(factors) < 1e-4 if len(factors) else True


@fewer
@given(scan=scans(), seed=seeds)
def test_a_flip_mirrors_as_it_is_told(scan: LabelledScan, seed: int) -> None:
    mirrored = apply("flip", scan, seed, x=0.0, y=1.0).points
    np.testing.assert_array_equal(mirrored, scan.points * np.array([1, -1, 1, 1], np.float32))


@fewer
@given(scan=scans(), seed=seeds, limit=st.floats(0, 0.1))
def test_jitter_stays_within_its_limit(scan: LabelledScan, seed: int, limit: float) -> None:
    moved = apply("jitter", scan, seed, sigma=1.0, limit=limit).points[:, :3].astype(np.float64) - scan.points[:, :3]
    assert np.abs(moved).max(initial=0) <= limit + 1e-5
