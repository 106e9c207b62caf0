"""Two scans become one: which parts come from which, and whose objects are whose."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given

from augmented import MIXING, apply, fewer, rows, scans, seeds
from spvnas_ros.offline.augment.sensor import pitches
from spvnas_ros.offline.datasets import LabelledScan


@fewer
@given(scan=scans(), partner=scans(), seed=seeds)
def test_lasermix_takes_bands_by_turns(scan: LabelledScan, partner: LabelledScan, seed: int) -> None:
    areas = 3 + seed % 4
    mixed = apply("lasermix", scan, seed, partner, areas=(areas,))
    edges = np.radians(np.linspace(-25, 3, areas + 1)).astype(np.float32)

    def bands(of: LabelledScan, odd: int) -> list[bytes]:
        """Points of each second band, counted from above."""
        pitch = np.clip(pitches(of.points), edges[0] + 1e-6, edges[-1])
        chosen = np.zeros(len(of), np.bool_)
        for band in range(odd, areas, 2):
            chosen |= (pitch > edges[areas - band - 1]) & (pitch <= edges[areas - band])
        return rows(of.take(chosen), instances=False)

    assert rows(mixed, instances=False) == bands(scan, 0) + bands(partner, 1)


@fewer
@given(scan=scans(), partner=scans(), seed=seeds)
def test_polarmix_pastes_objects_three_times(scan: LabelledScan, partner: LabelledScan, seed: int) -> None:
    objects = partner.take(partner.labels < 8)
    mixed = apply("polarmix", scan, seed, partner, swap=0.0)
    assert rows(mixed.take(np.arange(len(scan))), instances=False) == rows(scan, instances=False)
    pasted = mixed.take(np.arange(len(scan), len(mixed)))
    assert len(pasted) == 3 * len(objects)
    np.testing.assert_array_equal(pasted.labels, np.tile(objects.labels, 3))
    np.testing.assert_array_equal(pasted.points[: len(objects)], objects.points)
    np.testing.assert_array_equal(pasted.points[:, 2:], np.tile(objects.points[:, 2:], (3, 1)))
    reach = np.hypot(pasted.points[:, 0], pasted.points[:, 1])
    np.testing.assert_allclose(reach, np.tile(np.hypot(objects.points[:, 0], objects.points[:, 1]), 3), atol=1e-4)


@fewer
@given(scan=scans(), partner=scans(), seed=seeds)
def test_polarmix_swaps_half_a_turn(scan: LabelledScan, partner: LabelledScan, seed: int) -> None:
    mixed = apply("polarmix", scan, seed, partner, swap=1.0, paste=0.0)
    start = (np.random.default_rng(seed).random(2)[1] - 1) * np.pi

    def swapped(of: LabelledScan) -> np.ndarray:
        yaw = -np.arctan2(of.points[:, 1], of.points[:, 0])
        return (yaw > start) & (yaw < start + np.pi)

    expected = rows(scan.take(~swapped(scan)), False) + rows(partner.take(swapped(partner)), False)
    assert rows(mixed, instances=False) == expected


@pytest.mark.parametrize("name", MIXING)
@fewer
@given(scan=scans(), partner=scans(), seed=seeds)
def test_mixed_objects_are_never_one(name: str, scan: LabelledScan, partner: LabelledScan, seed: int) -> None:
    """Points that had no instance have none; points of different objects (or scans) have different numbers."""
    # What was where is told by labels, which mixing never changes.
    of_scan = LabelledScan("a", scan.points, np.full(len(scan), 6, np.uint8), scan.instances)
    of_partner = LabelledScan("b", partner.points, np.full(len(partner), 7, np.uint8), partner.instances)
    mixed = apply(name, of_scan, seed, of_partner, **({"classes": (7,)} if name == "polarmix" else {}))
    numbers = [set(mixed.instances[mixed.labels == label].tolist()) - {0} for label in (6, 7)]
    assert not numbers[0] & numbers[1]
    if not (scan.instances == 0).any() and not (partner.instances == 0).any():
        assert (mixed.instances > 0).all()
