"""AP around the vehicle: nuScenes' own figures on made frames, rings, and what counts neither way."""

from __future__ import annotations

import numpy as np
import pytest

from spvnas_ros.frame import Boxes
from spvnas_ros.offline.evaluation.box_ap import Ap, ApConfig, BoxFrame, Criterion, average_precisions

CLASSES = ("car", "pedestrian")
NUSCENES = {
    "car": (0.02253913082858549, 0.07493310792458889, 0.3468633196041655, 0.6026905452977492),
    "pedestrian": (0.011282885391719002, 0.031652720078889175, 0.23467202959812983, 0.48195548858959636),
}
"""Of nuscenes-devkit 1.2.0 (`accumulate`, `calc_ap`) on `made()`, at 0.5, 1, 2 and 4 m."""


def boxes(rows: object, classes: object = None, scores: object = None) -> Boxes:
    array = np.asarray(rows, np.float32).reshape(-1, 7)
    kinds = np.zeros(len(array)) if classes is None else np.asarray(classes)
    sure = np.zeros(len(array)) if scores is None else np.asarray(scores)
    return Boxes(array, sure.astype(np.float32), kinds.astype(np.uint8))


def at(x: float, y: float = 0) -> list[float]:
    return [x, y, 0, 4, 2, 1.5, 0]


def made(seed: int = 5, frames: int = 12) -> list[BoxFrame]:
    rng = np.random.default_rng(seed)
    out = []
    for number in range(frames):
        n = rng.integers(0, 9)
        truth = np.c_[
            rng.uniform(-60, 60, (n, 2)), rng.uniform(-2, 0, n), rng.uniform(0.5, 5, (n, 3)), rng.uniform(-3, 3, n)
        ]
        kinds = rng.integers(0, 2, n)
        shifted = truth + np.c_[rng.normal(0, 1.2, (n, 2)), np.zeros((n, 5))]
        m = rng.integers(0, 6)
        other = np.c_[rng.uniform(-60, 60, (m, 2)), np.zeros((m, 1)), np.ones((m, 4))]
        seen = rng.random(n) < 0.8
        found = np.concatenate([shifted[seen], other, truth[: n // 3]])
        found_kinds = np.concatenate([kinds[seen], rng.integers(0, 2, m), kinds[: n // 3]])
        scores = rng.random(len(found)).round(6)
        out.append(BoxFrame(str(number), boxes(truth, kinds), boxes(found, found_kinds, scores)))
    return out


def whole(figures: tuple[Ap, ...]) -> list[Ap]:
    return [ap for ap in figures if ap.begin == 0 and ap.end is None]


def test_figures_are_those_of_nuscenes() -> None:
    figures = average_precisions(made(), CLASSES)
    for kind, expected in NUSCENES.items():
        found = [ap.ap for ap in whole(figures) if ap.kind == kind]
        np.testing.assert_allclose(np.array(found) / 100, expected, rtol=1e-12)
    assert {ap.kind: ap.objects for ap in whole(figures)} == {"car": 36, "pedestrian": 31}


def test_every_object_and_detection_is_in_one_ring() -> None:
    figures = average_precisions(made(), CLASSES)
    assert [(ap.begin, ap.end) for ap in figures[:4]] == [(0, None), (0, 20), (20, 40), (40, None)]
    for all_, *rings in zip(*[iter(figures)] * 4, strict=True):
        assert all_.objects == sum(ring.objects for ring in rings)
        assert all_.detections == sum(ring.detections for ring in rings)
        right = [round((ap.recall or 0) * ap.objects) for ap in (all_, *rings)]
        assert right[0] == sum(right[1:])


def test_a_detection_beyond_the_border_finds_the_object_before_it() -> None:
    frame = BoxFrame("0", boxes([at(19.9)]), boxes([at(20.3)], scores=[0.9]))
    figures = {(ap.begin, ap.end): ap for ap in average_precisions([frame], ("car",)) if ap.criterion == "1 m"}
    assert figures[0, 20].ap == pytest.approx(100)
    assert (figures[20, 40].ap, figures[20, 40].detections, figures[20, 40].objects) == (None, 0, 0)


def test_the_limit_itself_is_too_far_and_an_object_is_found_once() -> None:
    config = ApConfig((Criterion("distance", 2.0),))
    frame = BoxFrame("0", boxes([at(10)]), boxes([at(12), at(11.5), at(10)], scores=[0.9, 0.8, 0.7]))
    (ap, *_) = average_precisions([frame], ("car",), config)
    assert (ap.recall, ap.objects, ap.detections) == (1, 1, 3)
    # Wrong, right, wrong: between the recalls 0 and 1 the precision rises from 0 to 1/2.
    assert ap.precision[50] == pytest.approx(0.25)


def test_what_finds_an_ignored_object_or_is_excused_is_neither_right_nor_wrong() -> None:
    truth, found = boxes([at(10), at(30)]), boxes([at(10), at(30), at(50), at(30)], scores=[0.5, 0.9, 0.8, 0.7])
    ignored, excused = np.array([False, True]), np.array([False, False, True, False])
    (plain, *_) = average_precisions([BoxFrame("0", truth, found)], ("car",))
    (ap, *_) = average_precisions([BoxFrame("0", truth, found, ignored, excused)], ("car",))
    assert (plain.objects, plain.detections) == (2, 4)
    assert (ap.objects, ap.detections, ap.ap) == (1, 1, pytest.approx(100))


def test_overlap_can_be_the_criterion() -> None:
    config = ApConfig((Criterion("bev", 0.5), Criterion("3d", 0.5)), rings=(0.0,))
    raised = at(20)
    raised[2] = 1.0
    frame = BoxFrame("0", boxes([at(10), at(20)]), boxes([at(10.5), raised], scores=[0.9, 0.8]))
    bev, solid = average_precisions([frame], ("car",), config)
    assert (bev.criterion, bev.recall) == ("bev 0.5", 1)
    assert (solid.criterion, solid.recall) == ("3d 0.5", 0.5)


def test_without_objects_there_is_no_figure_and_without_detections_it_is_0() -> None:
    frame = BoxFrame("0", boxes([at(10)]), Boxes.none())
    car, pedestrian = whole(average_precisions([frame], CLASSES))[::4]
    assert (car.ap, car.recall, car.objects) == (0, 0, 1)
    assert (pedestrian.ap, pedestrian.recall, pedestrian.objects) == (None, None, 0)
    assert all(ap.ap is None for ap in average_precisions([], CLASSES))


def test_a_class_that_nobody_knows_is_refused() -> None:
    with pytest.raises(ValueError, match=r"frame 7 has the class 2, expected 0\.\.1"):
        average_precisions([BoxFrame("7", Boxes.none(), boxes([at(1)], classes=[2]))], CLASSES)
