"""Rays meet what stands there, where it stands, and echoes fade as they should."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spvnas_ros.offline.simulation.kitti_boxes import label_lines
from spvnas_ros.offline.simulation.lidar import OUTLIER, Lidar, SimulatedScan, moment_seen
from spvnas_ros.offline.simulation.materials import MATERIALS, material
from spvnas_ros.offline.simulation.mesh import labelled, merge, mesh, place
from spvnas_ros.offline.simulation.returns import Hits, bloom, brightness, heard, mix_edges
from spvnas_ros.offline.simulation.scene import Actor, Mesh, Scene
from spvnas_ros.offline.simulation.sensors import HDL64, SENSORS, VLP16, VLP32C, Sensor, find_sensor

Pose = npt.NDArray[np.float64]

_HALF_SIZE = (2.0, 0.9, 0.75)
_FINE = 0.004
"""Float32 at 100 m, and the grain of Embree, metres."""


def exact(sensor: Sensor, **changes: object) -> Sensor:
    """The sensor without noise, losses and vehicle."""
    receiver = replace(sensor.receiver, reach=1e6, speckle=0.0, gain_spread=0.0, weak_beams=0.0)
    still = replace(sensor, jitter=0.0, half_steps=0.0, body=(), receiver=receiver)
    return replace(still, noise=0.0, bias=0.0, divergence=0.0, least=0.0, **changes)  # type: ignore[arg-type]


def ground(height: float = 0.0, of: str = "painted metal", label: int = 40) -> Mesh:
    corners = [(-500, -500, height), (500, -500, height), (500, 500, height), (-500, 500, height)]
    return mesh(corners, [(0, 1, 2), (0, 2, 3)], of, label)


def wall(x: float, of: str = "roof tiles", label: int = 50) -> Mesh:
    corners = [(x, -50, -5), (x, 50, -5), (x, 50, 50), (x, -50, 50)]
    return mesh(corners, [(0, 1, 2), (0, 2, 3)], of, label)


def cuboid(half: tuple[float, float, float] = _HALF_SIZE, of: str = "plastic") -> Mesh:
    """Stands on the ground."""
    corners = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (0, 2)]) * half
    sides = [(0, 1, 3, 2), (4, 5, 7, 6), (0, 1, 5, 4), (2, 3, 7, 6), (0, 2, 6, 4), (1, 3, 7, 5)]
    return mesh(corners, [t for a, b, c, d in sides for t in ((a, b, c), (a, c, d))], of)


def pose(x: float = 0.0, y: float = 0.0, yaw: float = 0.0) -> Pose:
    matrix = np.eye(4)
    matrix[:2, :2] = [[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]]
    matrix[:2, 3] = x, y
    return matrix


def scene(static: Mesh, *actors: Actor, ego: Callable[[float], Pose] = lambda _: np.eye(4)) -> Scene:
    return Scene(static, actors, 0, "test", ego)


def actor(at: Callable[[float], tuple[float, float, float, float]], label: int = 10, number: int = 1) -> Actor:
    moving = at(0.0) != at(1.0)
    length, width, height = (2 * half for half in _HALF_SIZE)
    return Actor(cuboid(), label, number, (length, width, height), at, moving)


def standing(x: float, y: float, yaw: float = 0.0) -> Callable[[float], tuple[float, float, float, float]]:
    return lambda _: (x, y, 0.0, yaw)


def take(world: Scene, sensor: Sensor, t: float = 0.0) -> SimulatedScan:
    return Lidar(world, sensor, np.random.default_rng(0)).scan(t, np.random.default_rng(1))


def in_world(scan: SimulatedScan) -> npt.NDArray[np.float64]:
    return scan.points[:, :3] @ scan.pose[:3, :3].T + scan.pose[:3, 3]


def off_surface(points: npt.NDArray[np.float64], at: tuple[float, float, float, float]) -> npt.NDArray[np.float64]:
    """How far points are from the surface of the cuboid that stands at x, y, z, yaw."""
    x, y, z, yaw = at
    local = (points - (x, y, z + _HALF_SIZE[2])) @ pose(yaw=yaw)[:3, :3]
    beyond = np.abs(local) - _HALF_SIZE
    outside = np.linalg.norm(np.maximum(beyond, 0), axis=1)
    return np.where((beyond > 0).any(axis=1), outside, np.abs(beyond.max(axis=1)))


@given(
    x=st.floats(-200, 200), y=st.floats(-200, 200), yaw=st.floats(-3.2, 3.2),
    bearing=st.floats(-3.1, 3.1), away=st.floats(5, 30), turned=st.floats(-3.2, 3.2),
)  # fmt: skip
@settings(max_examples=15)
def test_points_lie_on_the_ground_and_on_the_box_wherever_the_vehicle_stands(
    x: float, y: float, yaw: float, bearing: float, away: float, turned: float
) -> None:
    stands = (x + away * np.cos(bearing), y + away * np.sin(bearing), 0.0, turned)
    world = scene(ground(), actor(lambda _: stands, number=7), ego=lambda _: pose(x, y, yaw))
    scan = take(world, exact(VLP16))
    points, on_box = in_world(scan), scan.labels == 10
    assert set(scan.labels.tolist()) == {10, 40}
    assert (scan.instances == np.where(on_box, 7, 0)).all()
    assert np.abs(points[~on_box, 2]).max() < _FINE
    assert off_surface(points[on_box], stands).max() < _FINE
    assert off_surface(points[~on_box], stands).min() > 0


@pytest.mark.parametrize("name", SENSORS)
def test_each_beam_meets_the_ground_where_its_angle_says(name: str) -> None:
    sensor = exact(find_sensor(name))
    scan = take(scene(ground()), sensor)
    beam = sensor.beams - 1 - scan.ring if sensor.lowest_first else scan.ring
    down = -np.radians(sensor.elevations)[beam]
    height = sensor.height + np.array(sensor.origins)[beam]
    np.testing.assert_allclose(np.hypot(scan.points[:, 0], scan.points[:, 1]), height / np.tan(down), rtol=1e-4)
    reach = (sensor.height + np.array(sensor.origins)) / np.sin(np.maximum(-np.radians(sensor.elevations), 1e-9))
    assert len(scan) == (reach < sensor.most).sum() * sensor.columns


def test_beam_tables_are_those_of_the_manuals() -> None:
    assert [SENSORS[name].beams for name in ("hdl64", "vlp16", "vlp32c", "os1-64", "os1-128")] == [64, 16, 32, 64, 128]
    assert np.diff(VLP16.elevations) == pytest.approx(-2.0)
    assert (VLP16.elevations[0], VLP16.elevations[-1]) == (15, -15)
    assert (HDL64.elevations[0], HDL64.elevations[32]) == pytest.approx((2.0, -8.83))
    steps = -np.diff(VLP32C.elevations)
    assert steps.min() == pytest.approx(1 / 3, abs=0.01)
    assert steps.max() == pytest.approx(9.361)
    for sensor in SENSORS.values():
        assert sorted(sensor.elevations, reverse=True) == list(sensor.elevations)
        assert sorted(sensor.firing) == list(range(sensor.beams))


def test_a_kitti_scan_is_ordered_beam_by_beam_and_to_the_left_from_ahead() -> None:
    scan = take(scene(merge([ground(), wall(8), wall(-9)])), exact(HDL64))
    azimuth = np.arctan2(scan.points[:, 1], scan.points[:, 0]) % (2 * np.pi)
    assert (np.diff(scan.ring.astype(int)) <= 0).all()
    same_ring = np.diff(scan.ring.astype(int)) == 0
    assert (np.diff(azimuth)[same_ring] > 0).all()


def test_a_vlp16_scan_is_in_the_order_of_firing() -> None:
    scan = take(scene(merge([ground(), wall(8), wall(-9)])), exact(VLP16))
    assert (np.diff(scan.time) >= 0).all()
    column = scan.ring[scan.time == scan.time[len(scan) // 2]].tolist()
    assert column == [ring for ring in (0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15) if ring in column]
    assert len(column) > 8
    azimuth = np.unwrap(np.arctan2(scan.points[:, 1], scan.points[:, 0])[scan.ring == 0])
    assert azimuth[-1] < azimuth[0], "Velodynes turn clockwise"


@pytest.mark.parametrize(("sensor", "straight"), [(HDL64, True), (VLP16, False)])
def test_motion_bends_a_wall_unless_the_scan_is_deskewed(sensor: Sensor, straight: bool) -> None:
    # A wall ahead, which is met in the middle of the sweep, and the rest of the circle before and after.
    world = scene(merge([wall(20), wall(-20)]), ego=lambda t: pose(x=15 * t, yaw=0.5 * t))
    scan = take(world, exact(sensor), t=0.4)
    off = np.abs(np.abs(in_world(scan)[:, 0]) - 20)
    assert (off.max() < _FINE) == straight
    if not straight:
        sensed = np.array(
            [
                (world.ego_pose(0.4 + float(t)) @ (*point, 1.0))[0]
                for t, point in zip(scan.time[::50], scan.points[::50, :3].tolist(), strict=True)
            ]
        )
        assert np.abs(np.abs(sensed) - 20).max() < _FINE


@given(bearing=st.floats(-3.1, 3.1), speed=st.floats(5, 30), direction=st.floats(-3.1, 3.1), t=st.floats(0, 20))
@settings(max_examples=15)
def test_what_moves_stands_where_the_beams_pass_it(bearing: float, speed: float, direction: float, t: float) -> None:
    def at(moment: float) -> tuple[float, float, float, float]:
        driven = speed * (moment - t)
        x, y = 12 * np.cos(bearing) + driven * np.cos(direction), 12 * np.sin(bearing) + driven * np.sin(direction)
        return float(x), float(y), 0.0, direction

    mover = actor(at, label=252, number=3)
    sensor = exact(VLP16)
    scan = take(scene(ground(), mover), sensor, t)
    moment = moment_seen(mover, sensor, scan.pose, t)
    seen = scan.labels == 252
    assert t <= moment <= t + sensor.sweep
    assert seen.any()
    assert (scan.instances[seen] == 3).all()
    assert off_surface(in_world(scan)[seen], at(moment)).max() < _FINE


def test_glass_lets_its_share_of_the_rays_through() -> None:
    scan = take(scene(merge([wall(10, "glass", 50), wall(15, "roof tiles", 51)])), exact(VLP16))
    ahead = np.abs(np.arctan2(scan.points[:, 1], scan.points[:, 0])) < 0.8
    behind = scan.labels[ahead] == 51
    np.testing.assert_allclose(scan.points[ahead, 0], np.where(behind, 15, 10), atol=_FINE)
    assert behind.mean() == pytest.approx(MATERIALS[material("glass")].transmission, abs=0.05)


def hits(distance: object, cosine: object, of: str) -> Hits:
    distance, cosine = np.broadcast_arrays(np.atleast_1d(distance).astype("f4"), np.asarray(cosine, np.float32))
    return Hits(distance, cosine, np.full(distance.shape, material(of), np.uint8))


@given(of=st.sampled_from([m.name for m in MATERIALS]), distance=st.floats(1, 120), sensor=st.sampled_from([*SENSORS]))
def test_echoes_are_lost_the_more_the_flatter_the_farther_the_darker(of: str, distance: float, sensor: str) -> None:
    receiver = SENSORS[sensor].receiver
    flat_to_straight = np.linspace(0, 1, 50)
    assert (np.diff(heard(hits(distance, flat_to_straight, of), receiver)) >= 0).all()
    assert (np.diff(brightness(hits(distance, flat_to_straight, of), receiver)) >= 0).all()
    assert (np.diff(heard(hits(np.linspace(1, 120, 50), 0.7, of), receiver)) <= 0).all()
    dark, light = (heard(hits(distance, 0.7, paint), receiver) for paint in ("clothes, dark", "clothes, light"))
    assert dark <= light
    chance = heard(hits(distance, flat_to_straight, of), receiver)
    assert ((chance >= 0) & (chance <= 1)).all()


def test_a_dark_target_is_heard_half_of_the_time_at_the_reach() -> None:
    receiver = replace(VLP16.receiver, reach=30.0)
    tenth = min(MATERIALS, key=lambda m: abs(m.reflectivity * (1 - m.specular) - 0.1) + m.specular)
    found = heard(hits(30.0 * np.sqrt(tenth.reflectivity * (1 - tenth.specular) / 0.1), 0.999, tenth.name), receiver)
    assert found == pytest.approx(0.5, abs=0.01)


@given(near=st.floats(2, 40), gap=st.floats(0.2, 1.1), seed=st.integers(0, 99))
def test_an_edge_gives_ranges_between_its_sides_and_changes_nothing_else(near: float, gap: float, seed: int) -> None:
    ranges = np.full((8, 40), near, np.float32)
    ranges[:, 20:30] += np.float32(gap)
    ranges[:, 35:] = np.inf
    mixed = mix_edges(ranges, 0.003, 0.003, np.random.default_rng(seed))
    changed = mixed != ranges
    assert not np.delete(changed, (19, 29), axis=1).any()
    assert (mixed[:, (19, 29)] >= near - 1e-4).all()
    assert (mixed[:, (19, 29)] <= near + gap + 1e-4).all()


@pytest.mark.parametrize("of", ["lane paint", "lawn", "tall grass"])
def test_ground_is_as_rough_as_what_it_is_made_of(of: str) -> None:
    scan = take(scene(ground(of=of)), exact(VLP16))
    near = np.linalg.norm(scan.points[:, :3], axis=1) < 12
    assert in_world(scan)[near, 2].std() == pytest.approx(MATERIALS[material(of)].grain, rel=0.1)


def test_a_retroreflector_spills_over_into_the_rays_beside_it() -> None:
    road = hits(np.full((200, 5), 10.0), 1.0, "asphalt")
    road.material[:, 2] = material("retroreflector")
    told = bloom(road, HDL64.receiver, np.random.default_rng(0))
    assert (told[:, (0, 2, 4)] == (0, 2, 4)).all()
    assert (told[:, (1, 3)] == 2).mean() == pytest.approx(0.5, abs=0.1)


def test_the_vehicle_hides_the_ground_and_answers_itself() -> None:
    bare, mounted = exact(VLP16), exact(VLP16, body=VLP16.body)
    seen = take(scene(ground()), mounted)
    own = seen.labels == OUTLIER
    assert own.any()
    assert (np.abs(seen.points[own, 0]) < 1.7).all()
    assert (np.abs(seen.points[own, 1]) < 0.7).all()
    assert len(seen) == len(take(scene(ground()), bare))
    silent = take(scene(ground()), replace(mounted, body_echo=0.0))
    assert len(silent) == (~own).sum()


def test_boxes_are_given_as_kitti_has_them() -> None:
    world = scene(
        merge([ground(), wall(40), place(labelled(cuboid((0.1, 30, 3)), 50), (-5, 0, 0))]),
        actor(standing(12, 2, 0.3), number=1),
        actor(standing(-12, 0), number=2),
        actor(standing(15, -3), label=30, number=3),
    )
    lidar = Lidar(world, exact(HDL64), np.random.default_rng(0))
    scan = lidar.scan(0.0, np.random.default_rng(0))
    car, person = (line.split() for line in label_lines(lidar, scan, 0.0))
    assert (car[0], person[0]) == ("Car", "Pedestrian")
    height, width, length, x, y, z, turn = map(float, car[8:])
    assert (height, width, length) == (1.5, 1.8, 4.0)
    assert (x, y, z) == pytest.approx((-2, 1.73 - 0.08, 12 - 0.27), abs=0.01)
    assert turn == pytest.approx(-np.pi / 2 - 0.3, abs=0.01)
    assert float(car[1]) == 0
    assert int(car[2]) == 0


def test_the_same_generator_gives_the_same_scan() -> None:
    world = scene(merge([ground(), wall(10, "glass")]), actor(standing(6, 3)))
    first, second = take(world, HDL64), take(world, HDL64)
    assert first.points.tobytes() == second.points.tobytes()
    assert first.labels.tobytes() == second.labels.tobytes()
