"""`spvnas evaluate`: pinned scores, calibration and distance by their definitions, and what stdout holds."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

import spvnas_ros
from spvnas_ros.cli import app
from spvnas_ros.engine.sample_street import street_scan
from spvnas_ros.frame import Segmentation
from spvnas_ros.labels import SEMANTIC_KITTI
from spvnas_ros.offline.augment import tta_views
from spvnas_ros.offline.datasets import DatasetError, open_dataset
from spvnas_ros.offline.evaluation import confusion_matrix, score
from spvnas_ros.offline.evaluation.dataset_evaluation import evaluate, look
from spvnas_ros.offline.evaluation.tally import BINS, DISTANCES, Tally, averaged
from spvnas_ros.zoo import cache
from spvnas_ros.zoo.cache import FetchError, resolve_weights

CLASSES = ("car", "road", "tree")

# Of the tiny network that nobody trained, on two scans of a street that does not exist.
PINNED = {"miou": 0.013841452453712025, "accuracy": 0.08768267223382047, "ece": 0.01875349808138583}


@pytest.fixture(scope="module")
def sequences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sequences of one small scan each in SemanticKITTI's layout; a third of the road is lane marking."""
    folder = tmp_path_factory.mktemp("set") / "sequences"
    for index in range(2):
        points, labels = street_scan(seed=index, beams=16, columns=400)
        raw = SEMANTIC_KITTI.decode(labels)
        raw[raw == 40] = np.resize([40, 40, 60], (raw == 40).sum())
        for name, file, rows in (("velodyne", "000000.bin", points), ("labels", "000000.label", raw)):
            (folder / f"{index:02d}" / name).mkdir(parents=True, exist_ok=True)
            rows.tofile(folder / f"{index:02d}" / name / file)
    return folder.parent


def invoke(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)], catch_exceptions=False)


def test_the_score_of_a_seeded_network_on_a_seeded_street_is_pinned(
    perception: spvnas_ros.Perception, sequences: Path
) -> None:
    report = evaluate(perception, open_dataset(sequences))
    found = {"miou": report.score.miou, "accuracy": report.score.accuracy, "ece": report.ece}
    assert found == pytest.approx(PINNED, abs=2e-4)  # rounding differs from processor to processor
    assert report.frames == 2


def test_the_command_prints_one_object_and_nothing_else(weights: Path, sequences: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "spvnas_ros.cli", "evaluate", str(sequences), "-w", str(weights), "--json"]
    out = subprocess.run([*command, "--out", str(tmp_path / "out")], capture_output=True, text=True, check=True).stdout
    document = json.loads(out)
    assert out.count("\n") == 1
    present = [value for value in document["iou"].values() if value is not None]
    assert document["miou"] == pytest.approx(np.mean(present))
    assert tuple(document["iou"]) == SEMANTIC_KITTI.classes
    assert json.loads((tmp_path / "out" / "report.json").read_text()).keys() == document.keys()
    with Image.open(tmp_path / "out" / "confusion.png") as picture:
        assert picture.width == 1600


def test_every_way_to_name_a_sequence_gives_its_score(weights: Path, sequences: Path) -> None:
    ways = [
        (sequences, "--sequences", "01"),
        (sequences / "sequences", "--sequences", "1"),
        (sequences, "--split", "01"),
        (sequences / "sequences" / "01",),
    ]
    scores = [json.loads(invoke(*way, "-w", weights, "--json").stdout)["miou"] for way in ways]
    assert scores == [scores[0]] * len(ways)
    assert scores[0] != json.loads(invoke(sequences, "-w", weights, "--json").stdout)["miou"]


def test_a_label_map_by_name_leaves_out_what_it_ignores(weights: Path, sequences: Path) -> None:
    one, other = (
        json.loads(invoke(sequences, "-w", weights, "--json", "--label-map", name).stdout)
        for name in ("semantic-kitti", "mit-han-lab")
    )
    assert (one["label_map"], other["label_map"]) == ("semantic-kitti", "mit-han-lab")
    assert other["truth_points"]["road"] == pytest.approx(2 / 3 * one["truth_points"]["road"], abs=1)
    assert other["truth_points"]["car"] == one["truth_points"]["car"]


def test_the_table_names_classes_distances_and_the_map(weights: Path, sequences: Path) -> None:
    text = invoke(sequences, "-w", weights).stdout
    for words in (
        "traffic-sign",
        "50 m and more",
        "mIoU",
        "calibration error",
        "label map semantic-kitti",
        "untrained",
    ):
        assert words in text


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((".", "-w", "nowhere.safetensors"), "there is no file nowhere.safetensors"),
        (("nowhere", "-w", "WEIGHTS"), "nowhere does not exist"),
        (("DATA", "-w", "WEIGHTS", "--sequences", "07"), "07"),
        (("DATA", "-w", "WEIGHTS", "--label-map", "cityscapes"), "expected one of semantic-kitti, mit-han-lab"),
    ],
)
def test_what_cannot_be_evaluated_is_said(
    weights: Path, sequences: Path, arguments: tuple[str, ...], says: str
) -> None:
    given = [{"WEIGHTS": weights, "DATA": sequences}.get(argument, argument) for argument in arguments]
    result = invoke(*given)
    assert result.exit_code == 1
    assert says in result.stderr
    assert result.stdout == ""


def test_a_network_of_other_classes_is_refused(perception: spvnas_ros.Perception, sequences: Path) -> None:
    from dataclasses import replace

    names = tuple(f"class {index}" for index in range(19))
    other = spvnas_ros.Perception(perception.engine, replace(perception.facts, classes=names))
    with pytest.raises(DatasetError, match="the network has class 0"):
        evaluate(other, open_dataset(sequences))


def test_views_are_averaged(perception: spvnas_ros.Perception, sequences: Path) -> None:
    scan = open_dataset(sequences)[0]
    views = tta_views()[:3]
    assert len(tta_views()) == 36
    found = look(perception, scan, views)
    parts = [perception(view(scan.points), scores=True).scores for view in views]
    np.testing.assert_allclose(found.scores, np.mean(parts, axis=0), atol=1e-6)
    np.testing.assert_array_equal(found.labels, np.mean(parts, axis=0, dtype=float).argmax(axis=1))
    one = look(perception, scan, views[:1])
    np.testing.assert_array_equal(one.labels, perception(scan.points).labels)


def test_what_no_view_labels_stays_unlabelled() -> None:
    scores = np.array([[0.2, 0.8], [0, 0]], np.float32)
    found = averaged([scores, scores])
    np.testing.assert_array_equal(found.labels, [1, 255])
    with pytest.raises(ValueError, match="one view at least"):
        averaged([])


# What is counted

POINTS = st.lists(
    st.tuples(
        st.floats(0, 80, width=32), st.sampled_from([0, 1, 2, 255]), st.sampled_from([0, 1, 2, 255]), st.floats(0, 1)
    ),
    max_size=40,
)


def tally_of(rows: list[tuple[float, int, int, float]]) -> tuple[Tally, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    table = np.array(rows, np.float64).reshape(-1, 4)
    points = np.zeros((len(table), 4), np.float32)
    points[:, 1] = -table[:, 0]
    truth, labels = table[:, 1].astype(np.uint8), table[:, 2].astype(np.uint8)
    confidence = np.where(labels == 255, 0, table[:, 3]).astype(np.float32)
    tally = Tally(CLASSES)
    half = len(table) // 2
    for part in (slice(0, half), slice(half, None)):
        tally.add(points[part], truth[part], Segmentation(labels[part], confidence[part]))
    return tally, table[:, 0].astype(np.float32), truth, labels, confidence


@given(POINTS)
def test_rings_hold_what_lies_between_their_edges(rows: list[tuple[float, int, int, float]]) -> None:
    tally, distance, truth, labels, _ = tally_of(rows)
    np.testing.assert_array_equal(tally.confusion, confusion_matrix(truth, labels, len(CLASSES)))
    for ring, end in zip(tally.rings(), (*DISTANCES[1:], np.inf), strict=True):
        inside = (distance >= ring.begin) & (distance < end)
        expected = score(confusion_matrix(truth[inside], labels[inside], len(CLASSES)), CLASSES)
        assert (ring.miou, ring.iou) == (expected.miou, expected.iou)
        assert ring.points == (truth[inside] != 255).sum()


@given(POINTS)
def test_the_calibration_error_is_that_of_the_paper(rows: list[tuple[float, int, int, float]]) -> None:
    tally, _, truth, labels, confidence = tally_of(rows)
    counted = (truth != 255) & (labels != 255)
    if not counted.any():
        assert tally.calibration_error() is None
        return
    confidence, right = confidence[counted].astype(np.float64), (truth == labels)[counted]
    error = 0.0
    for index in range(BINS):
        inside = (confidence > index / BINS) & (confidence <= (index + 1) / BINS) | ((index == 0) & (confidence == 0))
        if inside.any():
            error += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert tally.calibration_error() == pytest.approx(error, abs=1e-9)
    assert sum(entry.points for entry in tally.reliability()) == counted.sum()


@given(POINTS)
def test_confident_mistakes_are_counted_among_all_points(rows: list[tuple[float, int, int, float]]) -> None:
    tally, _, truth, labels, confidence = tally_of(rows)
    counted = (truth != 255) & (labels != 255)
    sure = counted & (confidence > np.float32(0.8))
    wrong, found = sure & (labels != truth), tally.sureness()
    expected = (counted, sure, wrong)
    points, over, mistakes = (int(each.sum()) for each in expected)
    assert found.points == (over / points if points else None)
    assert found.wrong == (mistakes / over if over else None)
    assert found.mistakes == (mistakes / points if points else None)
    twice = Tally.joined([tally, tally])
    assert (twice.sureness(), twice.calibration_error()) == (found, pytest.approx(tally.calibration_error()))
    np.testing.assert_array_equal(twice.confusion, 2 * tally.confusion)


def test_every_sequence_has_its_own_figures(weights: Path, sequences: Path, perception: spvnas_ros.Perception) -> None:
    report = evaluate(perception, open_dataset(sequences))
    assert [part.name for part in report.by_sequence] == ["00", "01"]
    assert sum(part.frames for part in report.by_sequence) == report.frames
    assert sum(part.points for part in report.by_sequence) == report.points
    assert report.sure is not None
    for part in report.by_sequence:
        alone = evaluate(perception, open_dataset(sequences, sequences=part.name))
        assert (part.miou, part.accuracy) == (alone.score.miou, alone.score.accuracy)
        assert (part.ece, part.sure) == (alone.ece, alone.sure)
    text = invoke(sequences, "-w", weights).stdout
    assert "confidence over 0.8: 0.0% of the points, of which - are wrong" in text
    assert re.search(r"^sequence +frames +points +mIoU .* mistakes", text, re.MULTILINE)


# The network of the package


def test_default_is_the_network_of_the_package(
    weights: Path, sequences: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cache, "_DEFAULT_FILE", tmp_path / "absent.safetensors")
    with pytest.raises(FetchError, match=r"lacks the default network .*absent\.safetensors is not there"):
        resolve_weights("default")
    monkeypatch.setattr(cache, "_DEFAULT_FILE", weights)
    assert resolve_weights("default") == weights
    assert json.loads(invoke(sequences, "--json").stdout)["network"] == "tiny"
    scan = sequences / "sequences" / "00" / "velodyne" / "000000.bin"
    result = CliRunner().invoke(app, ["segment", str(scan), "--out", str(tmp_path / "out")], catch_exceptions=False)
    assert result.exit_code == 0
    assert (tmp_path / "out" / "labels" / "000000.label").is_file()
