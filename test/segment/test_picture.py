"""The picture shows the right thing in the right place; whether it is handsome, a person has to look."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from spvnas_ros.frame import Boxes
from spvnas_ros.labels import SEMANTIC_KITTI
from spvnas_ros.nets.spec import NetSpec
from spvnas_ros.palettes import UNKNOWN_BOX, shown
from spvnas_ros.recordings.scans import read_scan
from spvnas_ros.segment.box_lines import View, draw_boxes
from spvnas_ros.segment.picture import SIZE, PicturedBoxes, save_picture
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


def objects(*rows: tuple[float, ...], kinds: tuple[int, ...] = (), trained: bool = True) -> PicturedBoxes:
    boxes = np.array(rows, np.float32).reshape(-1, 7)
    classes = np.array(kinds or [0] * len(rows), np.uint8)
    return PicturedBoxes(Boxes(boxes, np.full(len(rows), 0.5, np.float32), classes), ("Car", "wheelbarrow"), trained)


def boxed(path: Path, boxes: PicturedBoxes | None, points: np.ndarray | None = None) -> np.ndarray:
    """With points without a class, at the reach of the top view, so that all colours are those of boxes."""
    scene = blob(45, 0, 0, 40) if points is None else points
    save_picture(path / "p.png", scene.astype(np.float32), np.full(len(scene), 255, np.uint8), FACTS, "", boxes=boxes)
    with Image.open(path / "p.png") as image:
        return np.asarray(image).astype(int)


def test_a_box_is_drawn_where_its_points_are_in_both_views(tmp_path: Path) -> None:
    pixels = boxed(tmp_path, objects((20, 6, -1, 4, 2, 1.5, 0.3)))
    middle = 788 / 2
    above, ahead = where(pixels[TOP_VIEW], CAR), where(pixels[DRIVER_VIEW], CAR)
    np.testing.assert_allclose(above, (middle - 20 * middle / 50, middle - 6 * middle / 50), atol=5)
    points = picture(tmp_path, blob(20, 6, -1), np.repeat(CAR, 400))
    np.testing.assert_allclose(ahead, where(points[DRIVER_VIEW], CAR), atol=12)


def test_the_arrow_on_the_roof_points_to_the_front(tmp_path: Path) -> None:
    """The half of the box that is filled is the front one."""
    for yaw in (0.0, np.pi):
        pixels = boxed(tmp_path, objects((20, 0, -1, 12, 6, 1.5, yaw)))[TOP_VIEW].sum(axis=-1)
        centre = round(788 / 2 - 20 * 788 / 100)
        ahead = pixels[centre - 12 : centre - 3, 384].mean()
        behind = pixels[centre + 4 : centre + 13, 384].mean()
        assert (ahead > behind + 60) if yaw == 0 else (behind > ahead + 60)


def test_what_is_behind_the_camera_or_far_outside_is_not_drawn_and_what_crosses_it_is_cut(tmp_path: Path) -> None:
    nothing = boxed(tmp_path, objects())
    for row in (
        (-20, 0, 0, 4, 2, 2, 0),
        (3000, 0, 0, 4, 2, 2, 0),
        (20, 0, 0, np.inf, 1, 1, 0),
        (1e8, 0, 0, 1, 1, 1, 0),
    ):
        behind = boxed(tmp_path, objects(row))
        np.testing.assert_array_equal(behind[DRIVER_VIEW], nothing[DRIVER_VIEW])
    np.testing.assert_array_equal(behind[TOP_VIEW], nothing[TOP_VIEW])
    across = boxed(tmp_path, objects((0, 2, -1, 30, 2, 1.5, 0)))[DRIVER_VIEW]
    left = where(across, CAR)
    assert left[1] < 370  # the camera is within its length: nothing of it is mirrored to the right
    assert not (np.abs(across[:, 420:] - nothing[DRIVER_VIEW][:, 420:]) > 8).any()
    everywhere = boxed(tmp_path, objects((0, 0, 0, 5000, 5000, 5000, 0.4)))
    assert everywhere.shape == nothing.shape


@given(st.lists(st.tuples(*[st.floats(-1e9, 1e9, width=32)] * 3, *[st.floats(0, 1e9, width=32)] * 3,
                          st.floats(-4, 4, width=32)), max_size=4))  # fmt: skip
@settings(max_examples=15)
def test_any_box_can_be_drawn(rows: list[tuple[float, ...]]) -> None:
    view = View(np.array([[10, -20, 0, 5.0], [10, 0, -20, 3], [1, 0, 0, 1]]), (40, 30), 1, 120)
    draw_boxes(Image.new("RGB", (40, 30)), view, objects(*rows).boxes, ((1, 2, 3),) * 2, 2)


def test_the_legend_counts_boxes_by_class_and_names_an_untrained_detector(tmp_path: Path) -> None:
    row = (20, 0, 0, 4, 2, 2, 0)
    line = (slice(840, 880), slice(836, 1576))
    without, none, both = (
        boxed(tmp_path, each)[line] for each in (None, objects(), objects(row, row, kinds=(0, 1), trained=False))
    )
    assert without.max() < 40
    assert none.max() > 100
    shown = {tuple(colour) for colour in both.reshape(-1, 3)}
    assert {COLOURS[CAR], UNKNOWN_BOX} <= shown
    header = boxed(tmp_path, objects(row, trained=False))[:64]
    assert ((header[..., 0] > 200) & (header[..., 2] < 120)).sum() > 500


def test_scores_are_written_beside_boxes_that_do_not_crowd(tmp_path: Path) -> None:
    alone = boxed(tmp_path, objects((20, 0, -1, 4, 2, 1.5, 0)))[DRIVER_VIEW]
    twice = boxed(tmp_path, objects((20, 0, -1, 4, 2, 1.5, 0), (20, 0.01, -1, 4, 2, 1.5, 0)))[DRIVER_VIEW]
    text = lambda pixels: (pixels.min(axis=-1) > 150).sum()  # noqa: E731
    assert 20 < text(alone) <= text(twice) < 1.5 * text(alone)
