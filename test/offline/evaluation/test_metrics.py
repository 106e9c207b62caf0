"""Scores: the benchmark's definition, spelled out another way, and what must hold for any labels."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from spvnas_ros.frame import Segmentation
from spvnas_ros.labels import SEMANTIC_KITTI
from spvnas_ros.nets.spec import NetSpec
from spvnas_ros.offline.evaluation import confusion_matrix, intersection_over_union, score
from spvnas_ros.offline.evaluation.confusion_picture import WIDTH, save_confusion
from spvnas_ros.offline.evaluation.report import Report, Tallies, describe, scored
from spvnas_ros.zoo.checkpoint import Facts

CLASSES = ("car", "road", "tree", "pole")
C = len(CLASSES)
LABEL = st.sampled_from([*range(C), 255])
PAIRS = st.lists(st.tuples(LABEL, LABEL), max_size=60)


def split(pairs: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    both = np.array(pairs, np.uint8).reshape(-1, 2)
    return both[:, 0], both[:, 1]


# By the formulas of the benchmark's own tool: miou_official, and for the two others the shares they are made of.
PINNED = (0.566023668297766, 0.5064422295295801, 0.7047043865225684)


@given(PAIRS)
def test_iou_is_intersection_over_union_of_the_sets_of_points(pairs: list[tuple[int, int]]) -> None:
    iou = intersection_over_union(confusion_matrix(*split(pairs), C))
    known = [(number, pair) for number, pair in enumerate(pairs) if pair[0] != 255]
    for index in range(C):
        truth = {number for number, pair in known if pair[0] == index}
        predicted = {number for number, pair in known if pair[1] == index}
        if truth:
            assert iou[index] == len(truth & predicted) / len(truth | predicted)
        else:
            assert np.isnan(iou[index])


@given(PAIRS, PAIRS)
def test_frames_add_up_and_the_order_of_points_is_nothing(
    first: list[tuple[int, int]], second: list[tuple[int, int]]
) -> None:
    whole = confusion_matrix(*split(second + first), C)
    np.testing.assert_array_equal(whole, confusion_matrix(*split(first), C) + confusion_matrix(*split(second), C))
    assert whole.sum() == sum(truth != 255 for truth, _ in first + second)


@given(PAIRS, st.permutations(range(C)))
def test_the_names_of_classes_do_not_change_a_score(pairs: list[tuple[int, int]], order: list[int]) -> None:
    renamed = [(order[t] if t != 255 else t, order[p] if p != 255 else p) for t, p in pairs]
    before, after = (score(confusion_matrix(*split(p), C), CLASSES) for p in (pairs, renamed))
    assert [before.iou[CLASSES[i]] for i in range(C)] == [after.iou[CLASSES[order[i]]] for i in range(C)]
    assert before.accuracy == after.accuracy
    assert before.miou == pytest.approx(after.miou)


@given(PAIRS)
def test_scores_lie_between_0_and_1_and_only_the_truth_itself_gets_1(pairs: list[tuple[int, int]]) -> None:
    truth, predicted = split(pairs)
    found = score(confusion_matrix(truth, predicted, C), CLASSES)
    known = truth != 255
    if not known.any():
        assert (found.miou, found.accuracy, found.miou_official, found.mean_recall) == (None,) * 4
        return
    assert 0 <= found.miou_official <= found.miou <= 1
    assert (found.miou == 1) == (found.accuracy == 1) == bool((truth[known] == predicted[known]).all())


def test_the_score_of_a_seeded_input_is_pinned() -> None:
    rng = np.random.default_rng(3)
    truth = rng.choice(np.array([*range(17), 255], np.uint8), 20_000)  # pole and traffic-sign do not occur
    predicted = np.where(rng.random(20_000) < 0.7, truth, rng.integers(0, 19, 20_000).astype(np.uint8))
    predicted[rng.random(20_000) < 0.02] = 255
    found = score(confusion_matrix(truth, predicted, 19), SEMANTIC_KITTI.classes)
    assert (found.miou, found.miou_official, found.accuracy) == PINNED
    assert found.iou["pole"] is None
    assert found.unlabelled == 382
    assert sum(found.truth_points.values()) == 18876


@pytest.mark.parametrize(
    ("truth", "predicted", "says"),
    [([0, 1], [0], "one number a point"), ([4], [0], r"truth holds \[4\]"), ([0], [9], r"predicted holds \[9\]")],
)
def test_labels_that_do_not_fit_are_an_error(truth: list[int], predicted: list[int], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        confusion_matrix(np.array(truth, np.uint8), np.array(predicted, np.uint8), C)


def a_report(**changes: object) -> Report:
    truth, predicted = np.array([0, 0, 1, 1, 2, 255], np.uint8), np.array([0, 1, 1, 1, 255, 0], np.uint8)
    tally = Tallies(CLASSES)
    tally.add("00/000000", np.zeros((6, 4), np.float32), truth, Segmentation(predicted, np.full(6, 0.5, np.float32)))
    values = {
        "source": "/drive", "topic": "/points", "network": "tiny", "weights": "tiny.safetensors",
        "weights_sha256": "ab", "trained": True, "label_map": "semantic-kitti", "engine": "cpu", "device": "cpu",
        "precision": "fp32", "views": 1, "frames": 2, "points": 6, "ms_p50": 1.5, "ms_p95": 2.5,
        "truth": "field 'label' (class indices)",
        **scored(tally),
    }  # fmt: skip
    return Report(**(values | changes))


@pytest.mark.parametrize("changes", [{}, {"truth": None, "ms_p50": None, "ms_p95": None}])
def test_a_report_is_flat_json_and_comes_back_as_it_was(tmp_path: Path, changes: dict[str, None]) -> None:
    report = a_report(**changes)
    report.save(tmp_path)
    assert Report.load(tmp_path) == report
    document = json.loads((tmp_path / "report.json").read_text())
    assert document["weights_sha256"] == "ab"
    assert document["miou"] == pytest.approx((1 / 2 + 2 / 3 + 0) / 3)
    assert document["iou"] == {"car": 0.5, "road": 2 / 3, "tree": 0.0, "pole": None}
    assert document["accuracy"] == 3 / 5
    assert document["confusion"][2] == [0, 0, 0, 0, 1]
    assert document["sure"] == {"over": 0.8, "points": 0.0, "wrong": None, "mistakes": 0.0}
    assert [part["name"] for part in document["by_sequence"]] == ["00"]
    # Reports of before come back without.
    del document["sure"], document["by_sequence"]
    (tmp_path / "report.json").write_text(json.dumps(document))
    assert Report.load(tmp_path) == replace(report, sure=None, by_sequence=())


def test_what_is_no_report_is_an_error(tmp_path: Path) -> None:
    for text in ("", "[]", "{}", '{"source": 1}'):
        (tmp_path / "report.json").write_text(text)
        with pytest.raises(ValueError, match="no report"):
            Report.load(tmp_path)


def test_the_table_says_what_is_absent() -> None:
    from rich.console import Console

    console = Console(width=200, record=True)
    for part in describe(a_report(trained=False)):
        console.print(part)
    text = console.export_text()
    assert "mIoU 38.9% over 3 of 4 classes" in text
    assert "truth: field 'label' (class indices)" in text
    assert "untrained" in text
    assert [line.split()[:2] for line in text.splitlines() if line.startswith(("pole", "road"))] == [
        ["road", "66.7%"],
        ["pole", "-"],
    ]


def test_the_picture_shows_each_share_where_it_belongs(tmp_path: Path) -> None:
    facts = Facts(spec=NetSpec.spvcnn(4), name="tiny")
    truth = np.repeat(np.arange(18, dtype=np.uint8), 50)
    predicted = truth.copy()
    predicted[:50] = 8  # every car is called road
    found = score(confusion_matrix(truth, predicted, 19), facts.classes)
    save_confusion(tmp_path / "c.png", found, facts, "a drive")
    with Image.open(tmp_path / "c.png") as image:
        pixels = np.array(image)
    assert pixels.shape[1] == WIDTH
    green = (pixels == (74, 222, 128)).all(axis=2).nonzero()
    red = (pixels == (248, 113, 113)).all(axis=2).nonzero()
    assert min(red[0]) < min(green[0])  # the first row has no diagonal, and one wrong cell
    assert 17 * 30**2 < len(green[0]) < 17 * 50**2
    assert 30**2 < len(red[0]) < 50**2
    assert min(green[1]) < min(red[1]) < max(green[1])
    with pytest.raises(ValueError, match="classes"):
        save_confusion(tmp_path / "c.png", score(np.zeros((C, C + 1), np.int64), CLASSES), facts)
