"""Augmentations of scans with boxes: points in boxes stay in their boxes, and no boxes are made to overlap."""

from __future__ import annotations

import pickle
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from augmented import MIXING, fewer, seeds
from augmented import street as labelled_street
from places import RECIPES, REPOSITORY
from spvnas_ros.boxes.inside import counts_inside, rows_inside
from spvnas_ros.boxes.overlap import bev_overlap
from spvnas_ros.offline.augment.boxed_objects import Database, build_database, object_noise, sample_objects
from spvnas_ros.offline.augment.boxed_pictures import SHOWN_BOXED, save_pictures, street
from spvnas_ros.offline.augment.compose import BOXED_STEPS, Augmentation, BoxedAugmentation
from spvnas_ros.offline.augment.geometric import flip, rotate, scale, shift
from spvnas_ros.offline.augment.mixing import STAYED, lasermix, polarmix
from spvnas_ros.offline.augment.option_checks import AugmentationError
from spvnas_ros.offline.augment.registry import BOXED, LABELLED, Boxes
from spvnas_ros.offline.datasets.boxed import BoxedScan, open_boxed
from spvnas_ros.offline.training.recipe_files import load_recipe
from spvnas_ros.recordings.object_tables import Objects

KINDS = ("Car", "Pedestrian", "Cyclist")
SHARE = 0.98
"""Points keep to this part of their box, so that rounding carries none over a face."""


def boxed_scan(seed: int, objects: int, labelled: bool, background: int = 200) -> BoxedScan:
    """Objects that do not overlap, each with points of a label of its own, among points without; in random order."""
    rng = np.random.default_rng(seed)
    boxes = np.zeros((0, 7), np.float32)
    while len(boxes) < objects:
        size = rng.uniform((0.5, 0.5, 1), (6, 3, 3))
        box = np.float32([[*rng.uniform((-40, -40, -2), (40, 40, 2)), *size, rng.uniform(-np.pi, np.pi)]])
        if not bev_overlap(box, boxes).any():
            boxes = np.concatenate([boxes, box])
    counts = rng.integers(0, 30, objects)
    own = np.repeat(np.arange(objects), counts)
    local = rng.uniform(-SHARE / 2, SHARE / 2, (len(own), 3)) * boxes[own, 3:6]
    c, s = np.cos(boxes[own, 6]), np.sin(boxes[own, 6])
    inside = np.column_stack((local[:, 0] * c - local[:, 1] * s, local[:, 0] * s + local[:, 1] * c, local[:, 2]))
    outside = rng.uniform((-50, -50, -3), (50, 50, 3), (background, 3)).astype(np.float32)
    outside = outside[[not near(point, boxes) for point in outside]]
    places = np.concatenate([inside + boxes[own, :3], outside])
    points = np.column_stack((places, rng.random(len(places)))).astype(np.float32)
    labels = np.concatenate([own, np.full(len(outside), 255)]).astype(np.uint8)
    order = rng.permutation(len(points))
    kinds = tuple(rng.choice(KINDS, objects).tolist())
    truth = Objects(kinds, boxes, counts, rng.integers(0, 4, objects))
    return BoxedScan("any", points[order], truth, labels[order] if labelled else None)


def near(point: np.ndarray, boxes: np.ndarray) -> bool:
    return bool((np.linalg.norm(boxes[:, :2] - point[:2], axis=1) < 4).any())


def scans() -> st.SearchStrategy[BoxedScan]:
    return st.builds(boxed_scan, seeds, st.sampled_from([0, 1, 8]), st.booleans())


def members(scan: BoxedScan) -> list[list[int]]:
    return [rows.tolist() for rows in rows_inside(scan.points, scan.objects.boxes)]


def local(points: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Points in the frame of a box."""
    offset, c, s = points[:, :3].astype(float) - box[:3], np.cos(float(box[6])), np.sin(float(box[6]))
    return np.column_stack((offset[:, 0] * c + offset[:, 1] * s, offset[:, 1] * c - offset[:, 0] * s, offset[:, 2]))


def overlaps(scan: BoxedScan) -> np.ndarray:
    both = bev_overlap(scan.objects.boxes, scan.objects.boxes)
    np.fill_diagonal(both, 0)
    return both


@cache
def database() -> Database:
    return build_database(boxed_scan(seed, 8, labelled=True) for seed in range(20))


@pytest.mark.parametrize("step", [rotate, scale, flip, shift, object_noise])
@fewer
@given(scan=scans(), seed=seeds)
def test_points_stay_in_their_boxes(step: Any, scan: BoxedScan, seed: int) -> None:
    before = pickle.dumps(scan)
    changed, again = (step(scan, np.random.default_rng(seed)) for _ in range(2))
    assert pickle.dumps(scan) == before
    assert pickle.dumps(changed) == pickle.dumps(again)
    for own, now in zip(members(scan), members(changed), strict=True):
        assert set(own) <= set(now)
        if step is not object_noise:
            assert own == now
    assert changed.objects.kinds == scan.objects.kinds
    assert changed.points.dtype == changed.objects.boxes.dtype == np.float32
    np.testing.assert_array_equal(changed.points[:, 3], scan.points[:, 3])
    assert overlaps(changed).max(initial=0) < 1e-6
    if scan.labels is not None:
        np.testing.assert_array_equal(changed.labels, scan.labels)


def test_a_scene_is_turned_mirrored_and_scaled_as_a_whole() -> None:
    scan, rng = boxed_scan(3, 8, labelled=True), np.random.default_rng(0)
    for changed, factor in (
        (rotate(scan, rng, degrees=(30, 30)), 1.0),
        (scale(scan, rng, factor=(1.2, 1.2)), 1.2),
        (flip(scan, rng, x=1, y=0), 1.0),
        (flip(scan, rng, x=0, y=1), 1.0),
    ):
        np.testing.assert_allclose(changed.objects.boxes[:, 3:6], factor * scan.objects.boxes[:, 3:6], rtol=1e-6)
        fronts = [each.objects.boxes[:, :2] + front(each.objects.boxes) for each in (scan, changed)]
        np.testing.assert_allclose(
            np.linalg.norm(fronts[1], axis=1), factor * np.linalg.norm(fronts[0], axis=1), rtol=1e-5
        )
        mirrored = changed.objects.boxes[:, 1].tolist() == (-scan.objects.boxes[:, 1]).tolist()
        for own, before, after in zip(members(scan), scan.objects.boxes, changed.objects.boxes, strict=True):
            was, now = local(scan.points[own], before) * factor, local(changed.points[own], after)
            flipped = mirrored or changed.objects.boxes[0, 0] == -scan.objects.boxes[0, 0]
            np.testing.assert_allclose(now, was * (1, -1 if flipped else 1, 1), atol=1e-4)
    twice = flip(flip(scan, rng, x=1, y=1), rng, x=1, y=1)
    np.testing.assert_array_equal(twice.points, scan.points)
    np.testing.assert_allclose(twice.objects.boxes, scan.objects.boxes, atol=1e-6)


def front(boxes: np.ndarray) -> np.ndarray:
    """From the middle of a box to its front, half its length."""
    return boxes[:, 3:4] / 2 * np.column_stack((np.cos(boxes[:, 6]), np.sin(boxes[:, 6])))


@fewer
@given(scan=scans(), seed=seeds)
def test_each_object_moves_as_one_and_the_rest_stays(scan: BoxedScan, seed: int) -> None:
    changed = object_noise(scan, np.random.default_rng(seed), metres=(2, 2, 1), degrees=(-90, 90))
    own = members(scan)
    for rows, before, after in zip(own, scan.objects.boxes, changed.objects.boxes, strict=True):
        np.testing.assert_allclose(local(changed.points[rows], after), local(scan.points[rows], before), atol=2e-5)
        np.testing.assert_array_equal(after[3:6], before[3:6])
        assert not np.array_equal(before, after)
    others = np.setdiff1d(np.arange(len(scan)), [row for rows in own for row in rows])
    np.testing.assert_array_equal(changed.points[others], scan.points[others])


def test_an_object_without_room_stays() -> None:
    """A row of objects, side by side, that can only turn and shift into each other."""
    boxes = np.float32([[0, 1.001 * y, 0, 8, 1, 1, 0] for y in range(-3, 4)])
    scan = BoxedScan("row", boxes[:, :4].copy(), Objects(("Car",) * 7, boxes, np.ones(7, int), np.zeros(7, int)))
    changed = object_noise(scan, np.random.default_rng(0), metres=(0, 0.1, 0), degrees=(20, 45), tries=3)
    np.testing.assert_array_equal(changed.objects.boxes[1:-1], boxes[1:-1])
    assert overlaps(changed).max() == 0


@fewer
@given(scan=scans(), seed=seeds, wanted=st.integers(0, 12))
def test_sampled_objects_come_with_their_points_and_overlap_nothing(scan: BoxedScan, seed: int, wanted: int) -> None:
    counts, least = {"Car": wanted, "Pedestrian": 2}, {"Car": 5, "Pedestrian": 20}
    changed = sample_objects(scan, np.random.default_rng(seed), database(), counts=counts, min_points=least)
    own = len(scan.objects)
    np.testing.assert_array_equal(changed.objects.boxes[:own], scan.objects.boxes)
    assert changed.objects.kinds[:own] == scan.objects.kinds
    assert overlaps(changed).max(initial=0) == 0
    for kind in KINDS:
        before, after = (each.objects.kinds.count(kind) for each in (scan, changed))
        assert before <= after <= max(before, counts.get(kind, 0))
    # Its own objects keep all their points, in order.
    for was, now in zip(members(scan), members(changed)[:own], strict=True):
        np.testing.assert_array_equal(scan.points[was], changed.points[now])
    for row in range(own, len(changed.objects)):
        kind, now = changed.objects.kinds[row], members(changed)[row]
        match = np.flatnonzero((database().objects.boxes == changed.objects.boxes[row]).all(1))
        _, points, labels = database().among(match)
        np.testing.assert_array_equal(changed.points[now], points)
        assert len(points) == changed.objects.counts[row] >= least[kind]
        if scan.labels is not None:
            assert changed.labels is not None
            np.testing.assert_array_equal(changed.labels[now], labels)
    assert (changed.labels is None) == (scan.labels is None)


def test_a_scan_gets_so_many_objects_where_there_is_room() -> None:
    empty = boxed_scan(0, 0, labelled=False)
    found = [
        sample_objects(empty, np.random.default_rng(seed), database(), counts={"Car": 6}, min_points=1).objects
        for seed in range(20)
    ]
    assert np.mean([len(each) for each in found]) > 5
    assert len({each.boxes.tobytes() for each in found}) == 20
    assert max(len(each) for each in found) == 6


def test_a_database_holds_what_can_be_seen_well_enough() -> None:
    truths = [boxed_scan(seed, 8, labelled=True) for seed in range(20)]
    expected = sum(int(((t.objects.counts >= 10) & (t.objects.occlusion < 3)).sum()) for t in truths)
    found = build_database(truths, least=10)
    assert len(found) == expected > 0
    assert found.objects.counts.min() >= 10
    assert found.starts[-1] == len(found.points) == found.objects.counts.sum()
    assert sum(map(len, found.rows.values())) == len(found)
    assert len(build_database([])) == 0


def test_real_objects_are_put_into_real_frames(shared: Path) -> None:
    dataset = open_boxed(shared / "data" / "kitti")
    frames = [dataset[index] for index in range(len(dataset))]
    objects = build_database(frames, least=5)
    steps = BoxedAugmentation.from_config(
        {
            "sample_objects": {"counts": {"Car": 15, "Pedestrian": 10}},
            "object_noise": None,
            "flip": None,
            "rotate": None,
        }
    )
    scan = frames[0]
    changed = steps(scan, np.random.default_rng(1), objects)
    assert len(changed.objects) > len(scan.objects) + 2
    before = max(overlaps(each).max(initial=0) for each in frames)
    assert overlaps(changed).max() <= before
    assert (counts_inside(changed.points, changed.objects.boxes) >= 0.97 * changed.objects.counts - 1).all()


def test_steps_are_applied_in_order_with_their_probability() -> None:
    scan = boxed_scan(5, 8, labelled=True)
    turned = BoxedAugmentation.from_config({"rotate": {"degrees": [90, 90], "probability": 0.5}})
    outcomes = [turned(scan, np.random.default_rng(seed)) is scan for seed in range(200)]
    assert 70 <= sum(outcomes) <= 130
    steps = BoxedAugmentation.from_config({"sample_objects": {"counts": {"Car": 9}}, "rotate": {"degrees": [90, 90]}})
    assert steps.least == 5
    changed = pickle.loads(pickle.dumps(steps))(scan, np.random.default_rng(1), database())
    new = changed.objects.boxes[len(scan.objects) :]
    assert len(new)
    places = {
        tuple(box[[1, 0]].round(3).tolist()) for box in database().objects.boxes * np.float32((1, -1, 1, 1, 1, 1, 1))
    }
    assert {tuple(box[:2].round(3).tolist()) for box in new} <= places
    with pytest.raises(ValueError, match="sample_objects needs a database"):
        steps(scan, np.random.default_rng(1))
    assert BoxedAugmentation.from_config(None)(scan, np.random.default_rng(1)) is scan


def marked(scan: BoxedScan, low: float) -> BoxedScan:
    """The scan with intensities in a half of 0..1 of its own, which tell where a point came from."""
    points = scan.points.copy()
    points[:, 3] = low + points[:, 3] * np.float32(0.49)
    return scan.with_points(points)


def labelled_points(scan: BoxedScan) -> set[tuple[float, int]]:
    """Every point by its intensity, with its label."""
    labels = np.zeros(len(scan)) if scan.labels is None else scan.labels
    return set(zip(scan.points[:, 3].tolist(), labels.tolist(), strict=True))


@pytest.mark.parametrize("name", BOXED_STEPS)
@settings(max_examples=8)
@given(scan=scans(), partner=scans(), seed=seeds)
def test_each_does_to_boxes_what_it_says(name: str, scan: BoxedScan, partner: BoxedScan, seed: int) -> None:
    known = BOXED[name]
    options = {"sample_objects": {"counts": {"Car": 9}}, "range_crop": {"metres": [10, 40]}}.get(name)
    step, before = BoxedAugmentation.from_config({name: options}), pickle.dumps((scan, partner))
    changed, again = (step(scan, np.random.default_rng(seed), database(), lambda: partner) for _ in range(2))
    assert pickle.dumps((scan, partner)) == before
    assert pickle.dumps(changed) == pickle.dumps(again)
    if changed is scan:  # nothing would be left
        return
    assert changed.points.dtype == changed.objects.boxes.dtype == np.float32
    if known.boxes in (Boxes.STAY, Boxes.COUNTED):
        assert changed.objects.kinds == scan.objects.kinds
        np.testing.assert_array_equal(changed.objects.boxes, scan.objects.boxes)
    if known.boxes is Boxes.STAY:
        assert changed.objects is scan.objects
        np.testing.assert_array_equal(changed.points[:, :3], scan.points[:, :3])
    elif known.boxes is Boxes.MIXED and (scan.labels is None) != (partner.labels is None):
        assert changed.labels is not None
    elif known.boxes is not Boxes.ADDED:
        there = labelled_points(scan) | (labelled_points(partner) if known.boxes is Boxes.MIXED else set())
        assert labelled_points(changed) <= there
    if known.boxes in (Boxes.COUNTED, Boxes.MIXED):
        np.testing.assert_array_equal(changed.objects.counts, counts_inside(changed.points, changed.objects.boxes))


@pytest.mark.parametrize("mix", [lasermix, polarmix])
@fewer
@given(seed=seeds)
def test_a_box_comes_along_with_its_own_points(mix: Any, seed: int) -> None:
    scan, partner = (marked(boxed_scan(seed + row, 8, labelled=True), row / 2) for row in (0, 1))
    options = {"areas": (3,)} if mix is lasermix else {"swap": 1.0, "paste": 0.0}
    mixed = mix(scan, partner, np.random.default_rng(seed), **options)
    assert overlaps(mixed).max(initial=0) == 0
    kept, found = set(map(tuple, mixed.objects.boxes.tolist())), 0
    for of, low, high in ((scan, 0, 0.5), (partner, 0.5, 1)):
        came = mixed.points[:, 3]
        own = set(came[(came >= low) & (came < high)].tolist())
        for box, kind, rows in zip(of.objects.boxes, of.objects.kinds, members(of), strict=True):
            share = np.mean([value in own for value in of.points[rows, 3].tolist()]) if rows else 0.0
            if tuple(box.tolist()) in kept:
                row = next(row for row, each in enumerate(mixed.objects.boxes) if (each == box).all())
                inside = mixed.points[members(mixed)[row]]
                assert ((inside[:, 3] >= low) & (inside[:, 3] < high)).all()
                assert mixed.objects.kinds[row] == kind
                assert mixed.objects.counts[row] == len(inside) == round(share * len(rows)) > 0
                assert share >= STAYED
                found += 1
            elif share >= STAYED:  # it had to make room for one with as many points or more
                assert bev_overlap(box[None], mixed.objects.boxes).max() > 0
    assert found == len(mixed.objects)


@fewer
@given(seed=seeds)
def test_pasted_objects_come_up_to_three_times_with_their_boxes(seed: int) -> None:
    nothing, partner = boxed_scan(seed, 0, labelled=True, background=5), boxed_scan(seed, 3, labelled=True)
    mixed = polarmix(nothing, partner, np.random.default_rng(seed), swap=0.0)
    before = [len(rows) for rows in members(partner) if rows]
    assert set(mixed.objects.counts.tolist()) <= set(before)
    assert len(mixed.objects) <= 3 * len(before)
    assert (len(mixed.objects) > 0) == (len(before) > 0)
    for rows, count in zip(members(mixed), mixed.objects.counts, strict=True):
        assert len(rows) == count
        assert mixed.labels is not None
        assert len(set(mixed.labels[rows].tolist())) == 1


def test_mixing_with_a_scan_that_lacks_something() -> None:
    scan, partner = boxed_scan(1, 8, labelled=True), boxed_scan(2, 8, labelled=False)
    for first, second in ((scan, partner), (partner, scan)):
        mixed = polarmix(first, second, np.random.default_rng(4), swap=0.0)
        assert mixed.labels is not None
        assert len(mixed.objects) > len(first.objects)
        assert mixed.boxed
    plain = polarmix(partner, partner, np.random.default_rng(4), swap=0.0)
    assert plain.labels is None
    assert len(plain) > len(partner)
    unknown = BoxedScan("any", partner.points, Objects.none(), None, boxed=False)
    for pair in ((scan, unknown), (unknown, scan)):
        mixed = lasermix(*pair, np.random.default_rng(4))
        assert not mixed.boxed
        assert not len(mixed.objects)


def as_ever(config: Any, scan: Any, rng: np.random.Generator, call: Any) -> Any:
    """What a config did when scans with boxes had a list of their own: a draw for each step, then the step's own."""
    for name, given_options in config.items():
        chance = rng.random()
        for each, options in (given_options if name == "one_of" else {name: given_options}).items():
            options = dict(options or {})
            chance -= options.pop("probability", 1.0)
            if chance < 0:
                changed = call(each, scan, rng, options)
                scan = changed if len(changed) else scan
                break
    return scan


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_recipe_draws_as_it_always_has(path: Path) -> None:
    recipe = load_recipe(path)
    defaults: dict[str, Any] = {"rotate": {"degrees": (-45, 45)}, "flip": {"x": 0}}

    def with_boxes(name: str, scan: Any, rng: np.random.Generator, options: dict[str, Any]) -> Any:
        objects = (database(),) if name == "sample_objects" else ()
        return BOXED[name].function(scan, rng, *objects, **defaults.get(name, {}) | options)

    def with_labels(name: str, scan: Any, rng: np.random.Generator, options: dict[str, Any]) -> Any:
        partners = (labelled_street(9),) if name in MIXING else ()
        return LABELLED[name].function(scan, *partners, rng, **options)

    for seed in range(2):
        first, second = (np.random.default_rng(seed) for _ in range(2))
        if recipe.detector or recipe.boxes:
            scan = boxed_scan(seed, 8, labelled=True)
            expected = as_ever(recipe.augment, scan, first, with_boxes)
            found: Any = BoxedAugmentation.from_config(recipe.augment)(scan, second, database())
            assert pickle.dumps(found.objects) == pickle.dumps(expected.objects)
        else:
            expected = as_ever(recipe.augment, labelled_street(seed), first, with_labels)
            augment = Augmentation.from_config(recipe.augment)
            found = augment(labelled_street(seed), second, lambda: labelled_street(9))
        assert found.points.tobytes() == expected.points.tobytes()
        assert found.labels.tobytes() == expected.labels.tobytes()
        assert first.bit_generator.state == second.bit_generator.state


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"lasermax": None},
            "augmentation 'lasermax' is not known for scans with boxes, expected one of sample_obj.*, one_of",
        ),
        ({"sample_objects": None}, "sample_objects needs the option counts"),
        (
            {"sample_objects": {"counts": {"Car": -1}}},
            "sample_objects: counts is .* expected whole numbers from 0 on by kind",
        ),
        (
            {"sample_objects": {"counts": {}, "min_points": [1]}},
            "sample_objects: min_points is .* expected whole numbers",
        ),
        ({"object_noise": {"metres": 1}}, "object_noise: metres is 1, expected three numbers"),
        ({"object_noise": {"tries": 0}}, "object_noise: tries is 0, expected a whole number from 1 on"),
        (
            {"object_noise": {"sigma": 0}},
            "object_noise has no option sigma; expected metres, degrees, tries, probability",
        ),
        ({"flip": {"y": 2}}, "flip: y is 2, expected a number from 0 to 1"),
        ({"beam_drop": {"beams": [128]}}, "beam_drop: beams has 128, but source has only 64"),
        ({"one_of": {"polarmix": {"swap": 2}}}, "polarmix: swap is 2, expected a number from 0 to 1"),
        ({"one_of": {"flip": None, "rotate": None}}, "add up to more than 1"),
    ],
)
def test_what_is_wrong_with_a_config_of_boxes_is_named(config: Any, message: str) -> None:
    with pytest.raises(AugmentationError, match=message):
        BoxedAugmentation.from_config(config)


def test_what_needs_boxes_is_refused_for_labels_alone() -> None:
    message = "augmentation 'object_noise' is for scans with boxes, these have labels alone; expected one of rotate"
    with pytest.raises(AugmentationError, match=message):
        Augmentation.from_config({"object_noise": None})


def test_every_augmentation_of_boxes_has_its_picture_in_the_docs(tmp_path: Path) -> None:
    changing = {Boxes.ADDED, Boxes.MOVE, Boxes.MIXED}
    assert set(SHOWN_BOXED) == {name for name in BOXED_STEPS if BOXED[name].boxes in changing}
    text = (REPOSITORY / "docs" / "augmentation.md").read_text()
    written = save_pictures(tmp_path, columns=200, size=60)
    assert [path.stem for path in written] == [f"boxed_{name}" for name in SHOWN_BOXED]
    for path in written:
        picture = np.asarray(Image.open(path).convert("RGB")).astype(int)
        before, after = picture[40:100, 12:72], picture[40:100, 84:144]
        assert np.abs(before - after).max() > 60
        assert f"images/augmentation/{path.name}" in text
        assert (REPOSITORY / "docs" / "images" / "augmentation" / path.name).is_file()


def test_the_boxes_of_the_generated_street_hold_its_objects() -> None:
    scan = street(4, columns=600)
    assert scan.labels is not None
    for name, kind in (("car", 0), ("person", 5)):
        rows = [rows for k, rows in zip(scan.objects.kinds, members(scan), strict=True) if k == name]
        inside = np.concatenate(rows)
        assert (scan.labels[inside] == kind).mean() > 0.8
        assert len(np.unique(inside)) > 0.97 * (scan.labels == kind).sum()
