"""What every augmentation has in common, and configs that put them together."""

from __future__ import annotations

import pickle
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from PIL import Image

from augmented import apply, fewer, rows, scans, seeds, street
from places import REPOSITORY
from spvnas_ros.offline import augment
from spvnas_ros.offline.augment import Augmentation, AugmentationError, tta_views
from spvnas_ros.offline.augment.pictures import SHOWN, save_pictures
from spvnas_ros.offline.datasets import LabelledScan


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
