"""The picture shows the right thing in the right place; whether it is handsome, a person has to look."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spvnas_ros.labels import SEMANTIC_KITTI
from spvnas_ros.nets.spec import NetSpec
from spvnas_ros.palettes import shown
from spvnas_ros.recordings.scans import read_scan
from spvnas_ros.segment.picture import SIZE, save_picture
from spvnas_ros.zoo.checkpoint import Facts

COLOURS = shown(SEMANTIC_KITTI.classes, SEMANTIC_KITTI.palette)
FACTS = Facts(spec=NetSpec.spvcnn(4), name="tiny")
CAR, BUILDING = SEMANTIC_KITTI.classes.index("car"), SEMANTIC_KITTI.classes.index("building")
TOP_VIEW = (slice(76, 864), slice(24, 812))
DRIVER_VIEW = (slice(76, 476), slice(836, 1576))
LEGEND = (slice(490, 900), slice(836, 1576))


def picture(path: Path, points: np.ndarray, labels: np.ndarray, facts: Facts = FACTS) -> np.ndarray:
    save_picture(path / "p.png", points.astype(np.float32), labels.astype(np.uint8), facts, "a title")
    with Image.open(path / "p.png") as image:
        assert (image.size, image.format) == (SIZE, "PNG")
        return np.asarray(image).astype(int)


def where(pixels: np.ndarray, label: int) -> np.ndarray:
    """Mean row and column of the pixels with a class's hue, darkened or not."""
    colour = np.array(COLOURS[label]) / np.linalg.norm(COLOURS[label])
    bright = pixels.sum(axis=-1) > 150
    alike = (pixels @ colour) > 0.995 * np.linalg.norm(pixels, axis=-1)
    assert (bright & alike).any(), "the class is not to be seen"
    return np.argwhere(bright & alike).mean(axis=0)


def blob(x: float, y: float, z: float, count: int = 400) -> np.ndarray:
    return np.random.default_rng(0).normal((x, y, z, 0.5), 0.2, (count, 4))


def test_ahead_is_up_and_left_is_left_from_above(tmp_path: Path) -> None:
    pixels = picture(tmp_path, np.r_[blob(30, 0, 0), blob(0, 30, 0)], np.repeat([CAR, BUILDING], 400))[TOP_VIEW]
    ahead, left = where(pixels, CAR), where(pixels, BUILDING)
    middle = 788 / 2
    np.testing.assert_allclose(ahead, (middle - 30 * middle / 50, middle), atol=4)
    np.testing.assert_allclose(left, (middle, middle - 30 * middle / 50), atol=4)


def test_the_driver_looks_ahead_with_left_on_the_left_and_up_above(tmp_path: Path) -> None:
    scene = np.r_[blob(20, 6, -1), blob(20, -6, 1), blob(-20, 0, 0)]
    pixels = picture(tmp_path, scene, np.repeat([CAR, BUILDING, 14], 400))[DRIVER_VIEW]
    left_low, right_high = where(pixels, CAR), where(pixels, BUILDING)
    assert left_low[1] < 300 < 440 < right_high[1]
    assert right_high[0] < left_low[0]
    with pytest.raises(AssertionError, match="not to be seen"):
        where(pixels, 14)  # it is behind


def test_the_nearer_point_hides_the_farther_one_whatever_their_order(tmp_path: Path) -> None:
    scene, labels = np.r_[blob(10, 0, 0, 4000), blob(30, 0, 0, 50)], np.repeat([CAR, BUILDING], [4000, 50])
    for order in (slice(None), slice(None, None, -1)):
        pixels = picture(tmp_path, scene[order], labels[order])[DRIVER_VIEW]
        where(pixels, CAR)
        with pytest.raises(AssertionError, match="not to be seen"):
            where(pixels, BUILDING)


def test_the_higher_point_hides_the_lower_one_from_above(tmp_path: Path) -> None:
    scene, labels = np.r_[blob(20, 0, 3, 4000), blob(20, 0, -1, 50)], np.repeat([CAR, BUILDING], [4000, 50])
    pixels = picture(tmp_path, scene, labels)[TOP_VIEW]
    where(pixels, CAR)
    with pytest.raises(AssertionError, match="not to be seen"):
        where(pixels, BUILDING)


def test_the_legend_has_the_classes_present_in_their_colours_and_no_others(tmp_path: Path) -> None:
    legend = picture(tmp_path, blob(10, 0, 0), np.repeat([CAR, BUILDING], 200))[LEGEND].reshape(-1, 3)
    shown = {tuple(colour) for colour in np.unique(legend, axis=0)}
    assert {c for c in COLOURS if c in shown} == {COLOURS[i] for i in (CAR, BUILDING)}


def test_an_untrained_network_is_called_so(tmp_path: Path) -> None:
    header = slice(0, 64)
    trained = picture(tmp_path, blob(10, 0, 0), np.zeros(400))[header]
    untrained = picture(tmp_path, blob(10, 0, 0), np.zeros(400), Facts(spec=FACTS.spec, trained=False))[header]
    amber = lambda pixels: ((pixels[..., 0] > 200) & (pixels[..., 2] < 120)).sum()  # noqa: E731
    assert amber(trained) == 0
    assert amber(untrained) > 500


@pytest.mark.filterwarnings("error")
def test_odd_clouds_are_drawn_too(tmp_path: Path) -> None:
    nothing = picture(tmp_path, np.zeros((0, 4)), np.zeros(0))
    assert nothing.max() > 200  # the title
    picture(tmp_path, np.full((3, 4), np.nan), np.full(3, 255))
    picture(tmp_path, np.zeros((1, 4)), np.array([200]))  # a class the network does not have
    picture(tmp_path, np.array([[1e30, -1e30, 1e30, 0], [5, 0, 0, 0], [np.inf, 0, 0, 0]]), np.array([0, 255, 3]))
    picture(tmp_path, blob(20, 0, 0, 500), np.arange(500) % 20)


def test_labels_must_be_as_many_as_points(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="3 points have 2 labels"):
        save_picture(tmp_path / "p.png", np.zeros((3, 4), np.float32), np.zeros(2, np.uint8), FACTS)
    with pytest.raises(OSError, match="missing"):
        save_picture(tmp_path / "missing" / "p.png", np.zeros((3, 4), np.float32), np.zeros(3, np.uint8), FACTS)


def test_a_real_scan_is_drawn_in_half_a_second(shared: Path, tmp_path: Path) -> None:
    sequence = shared / "data/semantickitti/sequences/00"
    points = read_scan(sequence / "velodyne/000000.bin")
    labels = SEMANTIC_KITTI.encode(np.fromfile(sequence / "labels/000000.label", np.uint32))
    picture(tmp_path, points, labels)
    start = time.process_time()
    pixels = picture(tmp_path, points, labels)
    seconds = time.process_time() - start
    print(f"picture of {len(points)} points: {seconds:.2f} s")
    assert seconds < 0.8  # measured 0.3; this leaves room for a busy machine
    coloured = np.ptp(pixels[TOP_VIEW], axis=-1) > 60
    assert 0.05 < coloured.mean() < 0.6
