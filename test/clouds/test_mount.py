"""Where the sensor is: given or found, it brings clouds to where the network knows them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moved_clouds import real_scans, record_of, seen_by
from spvnas_ros.clouds.mount import (
    AUTO,
    SENSOR_HEIGHT,
    Ground,
    Mount,
    Placement,
    PlaceRule,
    find_ground,
    find_sensor,
    parse_mount,
    parse_origin,
    typical_ground,
)
from spvnas_ros.clouds.sensor_rules import Sensor
from spvnas_ros.engine.sample_street import street_scan
from spvnas_ros.errors import UserError

UTM = (458000.0, 5428000.0, 120.0)

angles = st.floats(-20, 20)


@pytest.fixture(scope="module")
def street() -> np.ndarray:
    return street_scan(0, 64, 400)[0][:, :3].astype(np.float64)


def plane(height: float, roll: float, pitch: float, seed: int = 0) -> np.ndarray:
    """A rough ground with walls on it, as a sensor of this mount sees it, float64 `[N, 3]`."""
    rng = np.random.default_rng(seed)
    ground = np.column_stack((rng.uniform(-30, 30, (20_000, 2)), rng.normal(0, 0.02, 20_000)))
    walls = np.column_stack((rng.uniform(-30, 30, 6000), rng.choice((-12.0, 9.0), 6000), rng.uniform(0, 6, 6000)))
    return seen_by(np.concatenate((ground, walls)), Mount(height, roll, pitch), sensor_height=0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, Mount()),
        ("auto", AUTO),
        ("z=0.5", Mount(0.5)),
        ("z=0", Mount(0.0)),
        ("yaw=-90", Mount(None, 0, 0, -90)),
        (" z = 1.2 , pitch = 8 , roll=-3,yaw=180", Mount(1.2, -3, 8, 180)),
    ],
)
def test_a_mount_is_read(text: str | None, expected: object) -> None:
    assert parse_mount(text) == expected


@pytest.mark.parametrize(
    "text", ["", "1.5", "z", "z=", "z=high", "z=1,z=2", "height=1", "z=nan", "z=1,,pitch=2", "AUTO"]
)
def test_what_is_no_mount_is_refused(text: str) -> None:
    says = f"mount must be auto or z=METRES,roll=DEGREES,pitch=DEGREES,yaw=DEGREES, found {text!r}"
    with pytest.raises(UserError, match=re.escape(says)):
        PlaceRule.parse(None, text)


def test_an_angle_beyond_half_a_turn_is_refused() -> None:
    with pytest.raises(UserError, match=r"mount\.pitch must be a number of degrees, -180 to 180, found 181"):
        parse_mount("pitch=181")


@pytest.mark.parametrize(
    ("text", "expected"),
    [(None, None), ("auto", AUTO), ("1,2,3", (1, 2, 3)), (" 458000.25, 5428000.5 ,-1e2", (458000.25, 5428000.5, -100))],
)
def test_an_origin_is_read(text: str | None, expected: object) -> None:
    assert parse_origin(text) == expected


@pytest.mark.parametrize("text", ["", "1,2", "1,2,3,4", "a,b,c", "nan,0,0", "inf,0,0", "Auto"])
def test_what_is_no_origin_is_refused(text: str) -> None:
    with pytest.raises(
        UserError, match=re.escape(f"origin must be auto or three numbers x,y,z in metres, found {text!r}")
    ):
        PlaceRule.parse(text, None)


@given(st.none() | st.floats(-5, 5), *[st.integers(-180, 180)] * 3)
def test_a_mount_is_said_as_the_option_reads_it(z: float | None, roll: int, pitch: int, yaw: int) -> None:
    mount = Mount(None if z is None else round(z, 2), roll, pitch, yaw)
    if str(mount):
        assert parse_mount(str(mount)) == mount
    else:
        assert mount == Mount()


def test_signs_are_those_of_ros() -> None:
    """Of fixed axes, right-handed: a sensor that looks down has a positive pitch, one on its right side a positive
    roll; a yaw of 90 has its x to the left of the vehicle.
    """
    ahead = np.array([[10.0, 0, 0]])
    assert (ahead @ Mount(pitch=10).rotation().T)[0, 2] < 0
    left = np.array([[0.0, 10, 0]])
    assert (left @ Mount(roll=10).rotation().T)[0, 2] > 0
    np.testing.assert_allclose(ahead @ Mount(yaw=90).rotation().T, left, atol=1e-12)
    np.testing.assert_allclose(Mount(roll=180).rotation(), np.diag([1, -1, -1]), atol=1e-12)


@given(angles, angles, st.floats(-180, 180), st.floats(0, 3))
def test_a_cloud_that_such_a_sensor_sees_is_level_again(roll: float, pitch: float, yaw: float, height: float) -> None:
    level = np.random.default_rng(0).uniform(-40, 40, (200, 3))
    mount = Mount(height, roll, pitch, yaw)
    origin = (5.0, -3.0, 0.5)
    moved = seen_by(level, mount) + origin
    np.testing.assert_allclose(Placement(origin, mount).apply(moved), level, atol=1e-9)


def test_a_mount_without_a_height_leaves_it() -> None:
    points = np.array([[1.0, 2, 3]])
    np.testing.assert_array_equal(Placement(mount=Mount()).apply(points), points)
    np.testing.assert_array_equal(Placement(mount=Mount(0.0)).apply(points), [[1, 2, 3 - SENSOR_HEIGHT]])
    np.testing.assert_allclose(Placement(mount=Mount(0.5), sensor_height=1.0).apply(points), [[1, 2, 2.5]])


def test_coordinates_of_a_map_lose_nothing(street: np.ndarray) -> None:
    """In float32 they would be half a metre apart."""
    sensor = Sensor(place=PlaceRule(UTM))
    points = np.column_stack((street, np.full(len(street), 0.3)))
    found = sensor.points(record_of(points + np.array((*UTM, 0)), "f8"))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[:, :3], street, atol=1e-5)
    assert np.ptp((street + UTM).astype(np.float32).astype(np.float64) - UTM - street) > 0.2, "what a cast costs"


def test_no_rule_leaves_every_bit(street: np.ndarray) -> None:
    points = np.column_stack((street, np.full(len(street), 0.3))).astype(np.float32)
    np.testing.assert_array_equal(Sensor().points(record_of(points, "f4")), points)


@given(st.floats(0.3, 3), angles, angles, st.integers(0, 2**16))
def test_the_ground_is_found_however_the_sensor_stands(height: float, roll: float, pitch: float, seed: int) -> None:
    ground = find_ground(plane(height, roll, pitch, seed))
    assert ground is not None
    assert ground.height == pytest.approx(height, abs=0.15)
    # Offset along the plane's normal, not along z: where it is level they are one.
    assert (ground.roll, ground.pitch) == (pytest.approx(roll, abs=0.5), pytest.approx(pitch, abs=0.5))
    assert ground.share > 0.5
    level = Placement(mount=ground.mount(SENSOR_HEIGHT)).apply(plane(height, roll, pitch, seed))
    again = find_ground(level)
    assert again is not None
    assert again.tilt < 3.5
    assert again.height == pytest.approx(SENSOR_HEIGHT, abs=0.2)


def between_banks(height: float, half: float, slope: float, seed: int) -> np.ndarray:
    """A level road, banks of this slope, degrees, from `half` metres on both sides of it, the left one with twice the
    points of the road and the right one together, as a sensor of this height sees it, float64 `[N, 3]`.
    """
    rng = np.random.default_rng(seed)
    across = np.concatenate((rng.uniform(-30, 30, 15_000), rng.uniform(half, 30, 30_000)))
    up = np.tan(np.radians(slope)) * np.maximum(np.abs(across) - half, 0) + rng.normal(0, 0.02, len(across))
    return np.column_stack((rng.uniform(-30, 30, len(across)), across, up - height))


@given(st.floats(0.4, 2.6), st.floats(5, 9), st.floats(10, 25), st.integers(0, 2**16))
@settings(max_examples=20, deadline=None)
def test_a_bank_beside_the_road_is_not_taken_for_the_ground(
    height: float, half: float, slope: float, seed: int
) -> None:
    ground = find_ground(between_banks(height, half, slope, seed))
    assert ground is not None
    assert ground.height == pytest.approx(height, abs=0.15)
    assert ground.tilt < 1.5


@given(st.floats(0.4, 2.6), st.floats(3.5, 5), st.floats(10, 25), st.integers(0, 2**16))
@settings(max_examples=20, deadline=None)
def test_a_road_too_narrow_to_tell_is_unknown_rather_than_wrong(
    height: float, half: float, slope: float, seed: int
) -> None:
    ground = find_ground(between_banks(height, half, slope, seed))
    assert ground is None or (abs(ground.height - height) < 0.2 and ground.tilt < 3.5)


def test_two_floors_that_compete_leave_the_ground_unknown() -> None:
    level = plane(1.73, 0, 0)
    level[:, 2] += np.where(level[:, 1] > 0, 0.8, 0)
    assert find_ground(level) is None


@pytest.mark.parametrize("points", [np.zeros((0, 3)), np.zeros((500, 3)), np.full((10, 3), 1e300), np.ones((1, 3))])
def test_where_there_is_no_ground_none_is_found(points: np.ndarray) -> None:
    assert find_ground(points) is None
    with pytest.raises(UserError, match="mount is auto, but the clouds show no ground around the sensor; give it: z="):
        PlaceRule(None, AUTO).settled([points])


def test_a_wall_is_no_ground() -> None:
    rng = np.random.default_rng(0)
    wall = np.column_stack((rng.uniform(-25, 25, 5000), np.full(5000, 6.0), rng.uniform(-20, 20, 5000)))
    ground = find_ground(wall)
    assert ground is None or ground.share < 0.3 or ground.tilt < 30


def test_a_ground_that_the_network_knows_asks_for_nothing() -> None:
    assert Ground(1.73, 0.5, -2, 0.8).mount(1.73) == Mount()
    assert Ground(1.80, 0, 0, 0.8).mount(1.73) == Mount()
    assert Ground(0.5, 0.5, -2, 0.8).mount(1.73) == Mount(0.5)
    assert Ground(1.73, 0.51, 8.04, 0.8).mount(1.73) == Mount(1.73, 0.5, 8.0)
    assert Ground(1.73, 0, 0, 0.8).mount(1.0) == Mount(1.73)


def test_several_clouds_decide_the_mount() -> None:
    grounds = [Ground(0.5, 0, 8, 0.8), Ground(0.52, 0, 8, 0.8), Ground(3.0, 20, -20, 0.4)]
    assert typical_ground(grounds) == Ground(0.52, 0, 8, 0.8)
    assert typical_ground([]) is None
    rule = PlaceRule(None, AUTO).settled([plane(0.5, 0, 8, 0), plane(0.5, 0, 8, 1), plane(2, 9, 0, 2)])
    assert isinstance(rule.mount, Mount)
    assert (rule.mount.z, rule.mount.pitch) == (pytest.approx(0.5, abs=0.1), pytest.approx(8, abs=0.3))
    assert rule.describe() == f"mount {rule.mount}"


@pytest.mark.parametrize("place", [(0, 0, 0), (300, -40, 3), (30_000, 0, 0), UTM])
def test_the_sensor_is_found_amid_its_cloud(street: np.ndarray, place: tuple[float, float, float]) -> None:
    found = find_sensor(street + place)
    assert found is not None
    assert np.hypot(found[0] - place[0], found[1] - place[1]) < 5
    assert found[2] == pytest.approx(place[2], abs=0.3)
    assert find_sensor(np.empty((0, 3))) is None


def test_points_that_nothing_came_back_for_do_not_pull_the_origin(street: np.ndarray) -> None:
    points = np.column_stack((street, np.full(len(street), 0.3))) + np.array((*UTM, 0))
    holes = points.copy()
    holes[::3, :3] = 0
    holes[1::3, :3] = np.nan
    rule = PlaceRule(AUTO)
    clean = np.array(rule.origin_of(points[2::3, :3]))
    np.testing.assert_allclose(rule.origin_of(holes[:, :3]), clean, atol=1e-6)
    assert rule.origin_of(np.full((4, 3), np.nan)) == (0, 0, 0)


def test_a_few_points_at_any_numbers_do_no_harm(street: np.ndarray) -> None:
    points = street.copy()
    points[5], points[6], points[7] = (1e300, -1e300, 1e300), (1e6, 0, 0), (-1e38, 1e38, 0)
    with np.errstate(over="raise", invalid="raise"):  # numpy would warn on stderr
        found = find_sensor(points)
    expected = find_sensor(street)
    assert found is not None
    assert expected is not None
    np.testing.assert_allclose(found, expected, atol=0.1)
    assert find_ground(points) is not None


def test_real_scans_stand_as_their_sensor_did(shared: Path) -> None:
    for scan in real_scans(shared):
        ground = find_ground(scan[:, :3])
        assert ground is not None
        assert ground.mount(SENSOR_HEIGHT).roll == ground.mount(SENSOR_HEIGHT).pitch == 0
        assert ground.height == pytest.approx(SENSOR_HEIGHT, abs=0.35)
        tilted = find_ground(seen_by(scan[:, :3], Mount(0.6, 3, 8)))
        assert tilted is not None
        # The road has its own slope: what the tilt adds is what counts.
        assert tilted.pitch - ground.pitch == pytest.approx(8, abs=1.2)
        assert tilted.height - ground.height == pytest.approx(0.6 - SENSOR_HEIGHT, abs=0.25)
        found = find_sensor(scan[:, :3] + UTM)
        assert found is not None
        assert np.hypot(found[0] - UTM[0], found[1] - UTM[1]) < 9


@pytest.mark.parametrize("text", ["z=1e300", "z=-2000", "pitch=181"])
def test_a_mount_beyond_the_earth_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="must be a number of"):
        parse_mount(text)
