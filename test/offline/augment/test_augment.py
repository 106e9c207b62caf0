"""What every augmentation changes, and what it must leave alone."""

from __future__ import annotations

import pickle
import re
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from places import REPOSITORY
from spvnas_ros.engine.sample_street import street_scan
from spvnas_ros.offline import augment
from spvnas_ros.offline.augment import Augmentation, AugmentationError, tta_views
from spvnas_ros.offline.augment.pictures import SHOWN, save_pictures
from spvnas_ros.offline.augment.sensor import pitches, rings
from spvnas_ros.offline.datasets import LabelledScan

MIXING = ("lasermix", "polarmix")
MOVING = ("rotate", "scale", "flip", "shift", "jitter")
THINNING = ("beam_drop", "point_drop", "range_crop")
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


def distances(scan: LabelledScan) -> np.ndarray:
    """Of every point from the first."""
    return np.linalg.norm(scan.points[:, :3].astype(np.float64) - scan.points[:1, :3], axis=1)


@pytest.mark.parametrize("name", augment.STEPS)
@fewer
@given(scan=scans(), partner=scans(), seed=seeds)
def test_the_same_generator_gives_the_same_scan_and_inputs_stay(
    name: str, scan: LabelledScan, partner: LabelledScan, seed: int
) -> None:
    copies = pickle.loads(pickle.dumps((scan, partner)))
    first, second = (apply(name, scan, seed, partner) for _ in range(2))
    assert rows(first) == rows(second)
    assert (rows(scan), rows(partner)) == tuple(map(rows, copies))
    assert (first.points.dtype, first.labels.dtype, first.instances.dtype) == (np.float32, np.uint8, np.uint16)
    assert np.isfinite(first.points).all()


@pytest.mark.parametrize("name", [name for name in augment.STEPS if name != "intensity_drop"])
def test_another_generator_state_gives_another_scan(name: str) -> None:
    options = {"range_crop": {"metres": (5, 60)}}.get(name, {})
    outcomes = {tuple(rows(apply(name, street(1), seed, street(2), **options))) for seed in range(4)}
    assert len(outcomes) > 1


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


def test_views_begin_with_the_scan_itself_and_keep_shapes() -> None:
    views = tta_views()
    assert len(views) == len({view.matrix.round(9).tobytes() for view in views}) == 36
    points = street(1).points
    np.testing.assert_array_equal(views[0](points), points)
    for view in views:
        seen = view(points)
        np.testing.assert_array_equal(seen[:, 3], points[:, 3])
        np.testing.assert_allclose(seen[:, 2], points[:, 2] * view.factor, atol=1e-4)
        np.testing.assert_allclose(np.linalg.inv(view.matrix) @ seen[:, :3].T, points[:, :3].T, atol=1e-4)


RECIPE = {
    "one_of": {"lasermix": {"probability": 0.4}, "polarmix": {"probability": 0.4, "swap": 0.2}},
    "beam_drop": {"beams": [16], "probability": 0.5},
    "rotate": None,
    "scale": {"factor": [0.9, 1.1]},
}


def test_a_config_applies_its_steps_in_order() -> None:
    scan, partner = street(1), street(2)
    crop_first = {"range_crop": {"metres": [20, 20]}, "scale": {"factor": [2, 2]}}
    changed = Augmentation.from_config(crop_first)(scan, np.random.default_rng(0), lambda: partner)
    near = scan.take(np.linalg.norm(scan.points[:, :3], axis=1) <= 20)
    np.testing.assert_allclose(changed.points[:, :3], 2 * near.points[:, :3], rtol=1e-6)


def test_of_one_of_at_most_one_is_applied_with_its_probability() -> None:
    steps = Augmentation.from_config(
        {"one_of": {"intensity_drop": {"probability": 0.3}, "range_crop": {"metres": [10, 10], "probability": 0.3}}}
    )
    scan, outcomes = street(1), []
    for seed in range(200):
        changed = steps(scan, np.random.default_rng(seed), lambda: scan)
        outcomes.append((len(changed) < len(scan), not changed.points[:, 3].any()))
    cropped, dropped = np.array(outcomes).T
    assert not (cropped & dropped).any()
    assert 35 <= cropped.sum() <= 85
    assert 35 <= dropped.sum() <= 85


def test_partners_are_drawn_only_for_mixing() -> None:
    drawn = []

    def partner() -> LabelledScan:
        drawn.append(1)
        return street(2)

    steps = Augmentation.from_config(RECIPE)
    for seed in range(50):
        steps(street(1), np.random.default_rng(seed), partner)
    assert 30 <= len(drawn) <= 48


def test_an_augmentation_pickles_and_nothing_is_nothing() -> None:
    steps = Augmentation.from_config(RECIPE)
    again, scan = pickle.loads(pickle.dumps(steps)), street(1)
    first, second = (each(scan, np.random.default_rng(3), lambda: street(2)) for each in (steps, again))
    assert rows(first) == rows(second)
    assert Augmentation.from_config(None)(scan, np.random.default_rng(3), lambda: scan) is scan


def test_a_step_that_would_leave_nothing_is_not_taken() -> None:
    steps, scan = Augmentation.from_config({"range_crop": {"metres": [0, 0]}}), street(1)
    assert steps(scan, np.random.default_rng(0), lambda: scan) is scan


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"rotation": None}, "augmentation 'rotation' is not known, expected one of rotate, "),
        ({"rotate": {"angle": 3}}, "rotate has no option angle; expected degrees, probability"),
        ({"rotate": {"degrees": 3}}, r"rotate: degrees is 3, expected two numbers \[low, high\]"),
        ({"scale": {"factor": [1.1, 0.9]}}, "scale: factor is .* expected two numbers"),
        ({"point_drop": {"share": [0, 2]}}, "point_drop: share is .* within 0 to 1"),
        ({"beam_drop": {"beams": [128]}}, "beam_drop: beams has 128, but source has only 64"),
        ({"beam_drop": {"beams": "16"}}, "beam_drop: beams is '16', expected a list of whole numbers"),
        ({"shift": {"metres": 1}}, "shift: metres is 1, expected three numbers"),
        ({"lasermix": {"pitch": [3, 3]}}, "lasermix: pitch is .* two different angles"),
        ({"jitter": {"sigma": -1}}, "jitter: sigma is -1, expected a number from 0 on"),
        ({"rotate": {"probability": 2}}, "probability of rotate is 2, expected a number from 0 to 1"),
        ({"rotate": 3}, "rotate is 3, expected options by name"),
        ([{"rotate": None}], "augmentation is .* expected options by name"),
        ({"one_of": {"flip": None, "rotate": None}}, r"probabilities in one_of \(flip, rotate\) add up to more than 1"),
    ],
)
def test_what_is_wrong_with_a_config_is_named(config: Any, message: str) -> None:
    with pytest.raises(AugmentationError, match=message):
        Augmentation.from_config(config)


def test_every_augmentation_has_its_picture_in_the_docs(tmp_path: Any) -> None:
    assert set(SHOWN) == set(augment.STEPS)
    written = save_pictures(tmp_path, columns=100, size=60)
    assert [path.stem for path in written] == list(SHOWN)
    for path in written:
        picture = np.asarray(Image.open(path).convert("RGB")).astype(int)
        before, after = picture[40:100, 12:72], picture[40:100, -72:-12]
        assert (before != after).any(), f"{path.stem} shows no change"
    page = (REPOSITORY / "docs" / "augmentation.md").read_text()
    shown = re.findall(r"^### (\w+)$.*?^!\[\1\]\((images/augmentation/\1\.png)\)$", page, re.MULTILINE | re.DOTALL)
    assert [name for name, _ in shown] == list(SHOWN)
    assert all((REPOSITORY / "docs" / path).is_file() for _, path in shown)
