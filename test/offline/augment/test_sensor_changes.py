"""Other sensors: fewer beams and points, a shorter reach, other intensities."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from augmented import DIMMING, apply, fewer, rows, scans, seeds, street
from spvnas_ros.offline.augment.sensor import pitches, rings
from spvnas_ros.offline.datasets import LabelledScan

THINNING = ("beam_drop", "point_drop", "range_crop")


@pytest.mark.parametrize("name", THINNING)
@fewer
@given(scan=scans(), seed=seeds)
def test_thinning_keeps_a_part_in_its_order(name: str, scan: LabelledScan, seed: int) -> None:
    left = iter(rows(scan))
    assert all(row in left for row in rows(apply(name, scan, seed)))


@pytest.mark.parametrize("beams", [16, 32])
def test_fewer_beams_keep_their_share_of_points_in_as_many_rings(beams: int) -> None:
    scan = street(3)
    for seed in range(4):
        thin = apply("beam_drop", scan, seed, beams=(beams,))
        assert len(thin) / len(scan) == pytest.approx(beams / 64, rel=0.25)
        assert len(np.unique(rings(scan.points, 64)[np.isin(rows(scan), rows(thin))])) == beams


@pytest.mark.parametrize("beams", [16, 32, 64])
def test_rings_are_told_by_pitch(beams: int) -> None:
    scan = street(5, beams)
    ring = rings(scan.points, beams)
    assert set(ring) == set(range(beams))
    pitch = np.degrees(pitches(scan.points))
    widths = [np.ptp(pitch[ring == number]) for number in range(1, beams - 1)]
    assert max(widths) <= np.ptp(pitch) / beams * 1.01


@fewer
@given(scan=scans(), seed=seeds, reach=st.floats(0, 200))
def test_a_crop_keeps_exactly_what_is_near(scan: LabelledScan, seed: int, reach: float) -> None:
    near = np.linalg.norm(scan.points[:, :3], axis=1) <= np.float32(reach)
    assert rows(apply("range_crop", scan, seed, metres=(reach, reach))) == rows(scan.take(near))


def test_points_drop_with_their_share() -> None:
    scan = street(3)
    assert len(apply("point_drop", scan, 1, share=(0.3, 0.3))) / len(scan) == pytest.approx(0.7, abs=0.03)
    assert rows(apply("point_drop", scan, 1, share=(0, 0))) == rows(scan)


@pytest.mark.parametrize("name", DIMMING)
@fewer
@given(scan=scans(), seed=seeds)
def test_intensities_end_within_0_and_1(name: str, scan: LabelledScan, seed: int) -> None:
    intensity = apply(name, scan, seed).points[:, 3]
    assert ((intensity >= 0) & (intensity <= 1)).all()


@pytest.mark.parametrize("name", ["intensity_scale", "intensity_gamma"])
@fewer
@given(scan=scans(), seed=seeds)
def test_what_is_brighter_stays_brighter(name: str, scan: LabelledScan, seed: int) -> None:
    order = np.argsort(scan.points[:, 3], kind="stable")
    assert (np.diff(apply(name, scan, seed).points[order, 3]) >= 0).all()
