"""What coordinates are counted from is found by where the points are dense."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from moved_clouds import real_scans, record_of
from spvnas_ros.clouds.mount import Mount, PlaceRule, is_far
from spvnas_ros.clouds.sensor_rules import Sensor
from spvnas_ros.clouds.survey import MAP, SCAN, SENSOR, place_remark, survey
from spvnas_ros.engine.sample_street import street_scan

UTM = np.array((512_000.25, 5_403_000.125, 260.5))


@pytest.fixture(scope="module")
def scan() -> np.ndarray:
    return street_scan(0, 16, 360)[0].astype(np.float64)


def along(scan: np.ndarray, number: int, step: float) -> np.ndarray:
    """Positions of a drive: the same street again and again, so far ahead each time."""
    return np.concatenate([scan[:, :3] + (step * each, 0, 0) for each in range(number)])


def test_a_scan_a_survey_and_a_map_are_told_apart(scan: np.ndarray) -> None:
    positions, far = scan[:, :3], scan[:, :3] + UTM
    assert survey(positions).kind == SENSOR
    found = survey(far)
    assert found.kind == SCAN
    np.testing.assert_allclose(found.place, UTM, atol=3)
    for number, step in ((6, 50.0), (40, 10.0)):
        assert survey(along(scan, number, step)).kind == MAP
        assert survey(along(scan, number, step) + UTM).kind == MAP
    assert survey(along(scan, 6, 50), alone=False).kind == SENSOR, "a scan of many around a sensor may look far ahead"
    assert survey(positions[:50]).kind == survey(positions[:0]).kind == SENSOR


def test_real_scans_are_scans(shared: Path) -> None:
    for points in real_scans(shared):
        positions = points[:, :3].astype(np.float64)
        assert survey(positions).kind == SENSOR
        assert survey(positions + UTM).kind == SCAN


def test_a_place_is_only_found_by_itself_where_no_point_is_near(scan: np.ndarray) -> None:
    far = record_of(scan + np.append(UTM, 0))
    sensor = Sensor(place=PlaceRule(by_itself=True))
    assert np.abs(sensor.points(far)[:, :2]).max() < 100
    assert place_remark([far], sensor).startswith("place: no point lies within 100 m")
    assert sensor.placement(record_of(scan)) is None
    assert place_remark([record_of(scan)], sensor) == ""
    for rule in (PlaceRule(), PlaceRule((0.0, 0.0, 0.0), by_itself=True)):
        assert np.abs(Sensor(place=rule).points(far)[:, 0]).min() > 1e5
        assert place_remark([far], Sensor(place=rule)) == ""
    lifted = Sensor(place=PlaceRule(mount=Mount(1.73), by_itself=True))
    np.testing.assert_allclose(lifted.points(far)[:, :3], sensor.points(far)[:, :3], atol=1e-3)
    zeros = record_of(np.concatenate([np.zeros((9, 4)), scan + np.append(UTM, 0)]))
    assert np.abs(sensor.points(zeros)[9:, :2]).max() < 100, "what no point came back for is no point near by"
    assert not is_far(np.empty((0, 3)))
