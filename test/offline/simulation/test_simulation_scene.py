"""The simulator's streets: reproducible, labelled throughout, drivable, and without collisions."""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spvnas_ros.labels import SEMANTIC_KITTI
from spvnas_ros.offline.simulation import vegetation
from spvnas_ros.offline.simulation.ground import MARGIN, Ground, Relief, Surface, centreline
from spvnas_ros.offline.simulation.lots import fence
from spvnas_ros.offline.simulation.materials import material
from spvnas_ros.offline.simulation.scene import KINDS, MATERIALS, Actor, Mesh, Scene, build_scene
from spvnas_ros.offline.simulation.site import Fleet, Site
from spvnas_ros.offline.simulation.street_plan import draw_plan, draw_relief

SIZES = {
    "car": ((3.4, 5.3), (1.6, 2.4), (1.2, 2.0)),
    "bicycle": ((1.4, 2.0), (0.5, 0.9), (0.9, 1.25)),
    "motorcycle": ((1.5, 2.6), (0.6, 1.1), (1.0, 1.6)),
    "truck": ((4.8, 12.0), (1.9, 3.2), (1.9, 4.2)),
    "other-vehicle": ((2.4, 13.0), (1.4, 3.0), (0.8, 3.5)),
    "person": ((0.15, 2.3), (0.3, 1.3), (0.9, 2.4)),
    "bicyclist": ((1.3, 2.1), (0.45, 0.9), (1.2, 2.1)),
    "motorcyclist": ((1.6, 2.6), (0.6, 1.2), (1.4, 2.1)),
}
"""Least and greatest length, width and height in metres."""
PARKING = 44
"""SemanticKITTI's raw label."""
VEHICLE = (4.0, 1.8)
"""Length and width of the vehicle that carries the sensor, metres."""


@functools.cache
def scene(seed: int) -> Scene:
    return build_scene(seed, KINDS[seed % len(KINDS)], 90.0)


def meshes(of: Scene) -> list[Mesh]:
    return [of.static, *(actor.mesh for actor in of.actors)]


def class_name(actor: Actor) -> str:
    return SEMANTIC_KITTI.classes[SEMANTIC_KITTI.to_class[actor.raw_label]]


def corners(x: float, y: float, yaw: float, size: tuple[float, float]) -> npt.NDArray[np.float64]:
    """The corners of a rectangle on the ground, `[4, 2]`."""
    half = np.array([[1, 1], [1, -1], [-1, -1], [-1, 1]]) * np.array(size) / 2
    c, s = np.cos(yaw), np.sin(yaw)
    return half @ np.array([[c, s], [-s, c]]) + [x, y]


def overlap(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]) -> bool:
    """Whether two rectangles meet: no line of their sides separates them."""
    for box in (first, second):
        for axis in (box[1] - box[0], box[2] - box[1]):
            a, b = first @ axis, second @ axis
            if a.max() <= b.min() or b.max() <= a.min():
                return False
    return True


def footprints(of: Scene, t: float) -> tuple[list[str], npt.NDArray[np.float64]]:
    """Names and corners `[N, 4, 2]` of all actors, and of the vehicle with the sensor at the end."""
    boxes = []
    for actor in of.actors:
        x, y, _, yaw = actor.pose(t)
        boxes.append(corners(x, y, yaw, actor.size[:2]))
    pose = of.ego_pose(t)
    boxes.append(corners(pose[0, 3], pose[1, 3], np.arctan2(pose[1, 0], pose[0, 0]), VEHICLE))
    return [*(f"{class_name(actor)} {actor.instance}" for actor in of.actors), "vehicle"], np.array(boxes)


def collisions(of: Scene, t: float) -> list[tuple[str, str]]:
    names, boxes = footprints(of, t)
    middle = boxes.mean(axis=1)
    reach = np.linalg.norm(boxes - middle[:, None], axis=2).max(axis=1)
    near = np.linalg.norm(middle[:, None] - middle[None], axis=2) < reach[:, None] + reach[None]
    pairs = np.argwhere(np.triu(near, 1))
    return [(names[i], names[j]) for i, j in pairs if overlap(boxes[i], boxes[j])]


def test_the_same_seed_gives_the_same_bytes() -> None:
    first, second = (build_scene(11, "residential", 50.0) for _ in range(2))
    for one, other in zip(meshes(first), meshes(second), strict=True):
        for name in ("vertices", "faces", "material", "raw_label", "instance"):
            assert getattr(one, name).tobytes() == getattr(other, name).tobytes()
    for t in (0.0, 1.7, 9.0):
        assert [actor.pose(t) for actor in first.actors] == [actor.pose(t) for actor in second.actors]
        assert first.ego_pose(t).tobytes() == second.ego_pose(t).tobytes()


def test_other_seeds_give_other_streets() -> None:
    assert len(scene(0).static) != len(scene(5).static)


@pytest.mark.parametrize("seed", range(6))
def test_every_triangle_has_a_listed_label_a_material_and_finite_corners(seed: int) -> None:
    for part in meshes(scene(seed)):
        assert part.vertices.dtype == np.float32
        assert part.faces.dtype == np.int32
        assert np.isfinite(part.vertices).all()
        assert part.faces.min() >= 0
        assert part.faces.max() < len(part.vertices)
        assert part.material.max() < len(MATERIALS)
        assert len(part.material) == len(part.raw_label) == len(part.instance) == len(part.faces)
        assert set(np.unique(part.raw_label).tolist()) <= set(SEMANTIC_KITTI.to_class) - {0}


@pytest.mark.parametrize("seed", range(6))
def test_a_street_is_small_enough_to_cast_rays_at(seed: int) -> None:
    assert 100_000 < len(scene(seed).static) < 420_000


def test_places_to_park_that_are_paved_like_the_road_have_lines() -> None:
    met = 0
    for seed in range(12):
        land = build_scene(seed, "urban", 50.0).static
        of = land.material[land.raw_label == PARKING]
        if (of == material("asphalt")).any():
            met += 1
            assert (of == material("lane paint")).any(), seed
    assert met > 2


def test_sidewalks_are_high_low_and_level_with_the_road() -> None:
    plans = [draw_plan(kind, 160.0, np.random.default_rng(seed)) for kind in KINDS for seed in range(8)]
    rises = {plan.side(sign).rise for plan in plans for sign in (-1, 1)}
    assert min(rises) == 0.0
    assert max(rises) == 0.15
    for plan in plans:
        for sign in (-1, 1):
            for start, end in plan.side(sign).noses:
                assert plan.side(sign).parking
                assert all(plan.clear(s, sign, 0) for s in np.linspace(start, end, 9))


def test_banks_are_no_walls() -> None:
    for seed in range(30):
        rng = np.random.default_rng(seed)
        relief = draw_relief(draw_plan(KINDS[seed % len(KINDS)], 160.0, rng), rng)
        assert max(map(abs, relief.bank)) / relief.width < 0.46


@given(st.floats(0.6, 1.6), st.floats(0.15, 0.8), st.integers(0, 99))
@settings(max_examples=10)
def test_low_plants_are_vegetation_and_low(depth: float, height: float, seed: int) -> None:
    part = vegetation.cover(np.random.default_rng(seed), 4.0, depth, height)
    assert set(part.raw_label.tolist()) == {vegetation.VEGETATION}
    assert part.vertices[:, 2].max() < 1.1 * height + 0.5
    assert np.median(part.vertices[:, 2]) < height


@given(depth=st.floats(0.4, 1.1), height=st.floats(0.5, 1.8), seed=st.integers(0, 99))
@settings(max_examples=25)
def test_hedges_as_even_as_walls_end_below_the_sensor(depth: float, height: float, seed: int) -> None:
    part = vegetation.hedge(np.random.default_rng(seed), 4.0, depth, height)
    if (part.material == material("clipped leaves")).any():
        assert part.vertices[:, 2].max() < 1.85
    assert set(part.raw_label.tolist()) == {vegetation.VEGETATION}


@given(kind=st.sampled_from(["wall", "low wall", "panel", "boards"]), seed=st.integers(0, 99))
@settings(max_examples=25)
def test_fences_as_dense_as_facades_end_below_the_sensor(kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    # A straight street on even land, so that heights are those above the ground.
    even, asphalt = Relief(np.zeros((0, 3)), (0.0, 0.0), (4.0, 4.0), 10.0, 0.0), Surface(40, "asphalt", 0.0, 0.0)
    lines = np.array([-100.0, 100.0])
    ground = Ground(centreline(np.zeros(121)), even, lines, lines, np.zeros((1, 1), np.int64), (asphalt,))
    site = Site(ground, rng, Fleet(rng))
    fence(site, kind, (0.0, 5.0), (20.0, 5.0))
    top = max(float(part.vertices[:, 2].max()) for part in site.parts)
    assert 0.25 < top < 1.8


def test_fronts_of_towns_stand_near_and_others_far() -> None:
    near = []
    for seed in range(60):
        plan = draw_plan(("urban", "residential")[seed % 2], 80.0, np.random.default_rng(seed))
        fronts = [
            plan.side(parcel.side).lot + parcel.setback - parcel.side * plan.lane(-1)
            for parcel in plan.parcels
            if parcel.use in ("row", "house")
        ]
        near.append(min(fronts, default=99.0) < 8.0)
    # Beside the vehicle a scan shows the lowest 2 m of a facade; both this and wider streets have to be learnt.
    assert 0.35 < np.mean(near) < 0.85


def test_a_parking_lot_is_rows_of_cars_on_places_for_them() -> None:
    for seed in range(2):
        of = build_scene(seed, "parking", 50.0)
        assert sum(class_name(actor) == "car" for actor in of.actors) > 25
        labels = of.static.raw_label
        assert {40, PARKING} <= set(np.unique(labels).tolist())
        names, boxes = footprints(of, 0.0)
        cars = boxes[[name.startswith("car") for name in names]].mean(axis=1)
        centre = of.static.vertices[of.static.faces].mean(axis=1)
        places = centre[labels == PARKING, :2]
        near = np.array([np.linalg.norm(places - car, axis=1).min() for car in cars])
        assert (near < 2.0).mean() > 0.7, "the others drive"


def test_a_handful_of_streets_has_every_class() -> None:
    labels = {int(label) for seed in range(6) for part in meshes(scene(seed)) for label in np.unique(part.raw_label)}
    assert {SEMANTIC_KITTI.to_class[label] for label in labels} >= set(range(len(SEMANTIC_KITTI.classes)))


@pytest.mark.parametrize("seed", range(6))
def test_instances_are_numbered_and_labelled_as_their_actor(seed: int) -> None:
    actors = scene(seed).actors
    assert [actor.instance for actor in actors] == list(range(1, len(actors) + 1))
    for actor in actors:
        assert set(actor.mesh.raw_label.tolist()) == {actor.raw_label}
        assert set(actor.mesh.instance.tolist()) == {actor.instance}
        assert actor.moving == (actor.raw_label > 250) == (actor.pose(0.0) != actor.pose(1.0))
    assert not scene(seed).static.instance.any()


@settings(max_examples=4)
@given(st.integers(0, 10_000), st.sampled_from(KINDS))
def test_movable_things_have_the_size_of_their_class(seed: int, kind: str) -> None:
    for actor in build_scene(seed, kind, 60.0).actors:
        for value, (least, most) in zip(actor.size, SIZES[class_name(actor)], strict=True):
            assert least <= value <= most, (class_name(actor), actor.size)


@pytest.mark.parametrize("seed", range(7))
def test_nobody_collides(seed: int) -> None:
    for t in (0.0, 1.3, 4.2, 15.0):
        assert collisions(scene(seed), t) == []


@pytest.mark.parametrize("seed", range(6))
def test_the_vehicle_drives_on_the_road(seed: int) -> None:
    static = scene(seed).static
    centre = static.vertices[static.faces].mean(axis=1)
    road = centre[np.isin(static.raw_label, [40, 60])]
    for t in (0.0, 2.0, 5.0):
        pose = scene(seed).ego_pose(t)
        np.testing.assert_allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-9)
        assert pose[2, 2] > 0.98
        away = np.linalg.norm(road[:, :2] - pose[:2, 3], axis=1)
        assert away.min() < 1.5
        assert abs(road[away.argmin(), 2] - pose[2, 3]) < 0.12


def test_the_vehicle_gets_along_and_stays_inside() -> None:
    for seed in range(5):
        start, end = (scene(seed).ego_pose(t)[:2, 3] for t in (0.0, 100.0))
        assert np.linalg.norm(end - start) > 25
        assert np.linalg.norm(end) < 90 + MARGIN


def test_a_kind_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="no street of kind 'desert', expected one of urban"):
        build_scene(0, "desert")


def test_a_street_too_short_is_refused() -> None:
    with pytest.raises(ValueError, match="expected at least 40 m"):
        build_scene(0, length=12.0)
