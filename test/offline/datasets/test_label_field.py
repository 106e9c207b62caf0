"""Whose labels a field of a bag's clouds holds: a network is never scored on, or taught by, its own by mistake."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from labelled_files import write_scan
from spvnas_ros import Perception
from spvnas_ros.cli import app
from spvnas_ros.clouds.point_cloud2 import decode, with_labels
from spvnas_ros.engine.sample_street import street_scan
from spvnas_ros.frame import Segmentation
from spvnas_ros.offline.datasets import DatasetError, LabelField, open_dataset
from spvnas_ros.offline.datasets.label_field import truth_field, written_by_network
from spvnas_ros.recordings.bags import LABELLED_TOPIC, BagReader, BagWriter, cloud_message, encode

TWO = 2
FIELDS = ("x", "y", "z", "intensity")


def write_street(path: Path, *names: str) -> None:
    """Two clouds of a street with its truth, class indices, in fields of these names."""
    with BagWriter(path) as bag:
        for number in range(TWO):
            points, labels = street_scan(number, 16, 60)
            record = np.zeros(len(points), [(name, "<f4") for name in FIELDS] + [(name, "|u1") for name in names])
            for column, name in enumerate(FIELDS):
                record[name] = points[:, column]
            for name in names:
                record[name] = labels
            bag.write("/points", encode(cloud_message(record, number, "lidar")), number)


def spvnas(*arguments: object) -> Any:
    return CliRunner().invoke(app, [*map(str, arguments)], catch_exceptions=False)


@pytest.fixture
def labelled(weights: Path, tmp_path: Path) -> Path:
    """A street with its truth in `label`, labelled by the command."""
    write_street(tmp_path / "drive", "label")
    assert spvnas("segment", tmp_path / "drive", "-w", weights, "-o", tmp_path / "first").exit_code == 0
    return tmp_path / "first" / "bag"


@pytest.mark.parametrize("command", ["segment", "evaluate"])
def test_a_network_is_not_scored_against_its_own_labels(
    labelled: Path, weights: Path, tmp_path: Path, command: str
) -> None:
    def run(*options: object) -> Any:
        return spvnas(
            command,
            labelled,
            "-w",
            weights,
            "-o",
            tmp_path / "out",
            "--device",
            "cpu",
            "--label-ids",
            "class",
            *options,
        )

    refused = run("--truth", "label")
    assert (refused.exit_code, refused.stdout) == (1, "")
    for part in ("field 'label' holds what a network said", "--truth input_label", "data.labels_field"):
        assert part in refused.stderr
    assert not (tmp_path / "out").exists()

    assert run("--truth", "input_label").exit_code == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert 0 < report["miou"] < 0.5
    assert "input_label" in report["truth"]

    options = ("--truth", "label", "--network-labels", *(("--force",) if command == "segment" else ()))
    assert run(*options).exit_code == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["miou"] == 1
    assert "whoever wrote it" in report["truth"]


def test_evaluate_refuses_also_where_no_field_is_named(labelled: Path, weights: Path) -> None:
    refused = spvnas("evaluate", labelled, "-w", weights)
    assert refused.exit_code == 1
    assert refused.stdout == ""
    assert "input_label" in refused.stderr


def test_without_a_truth_beside_it_the_refusal_says_how_to_insist(weights: Path, tmp_path: Path) -> None:
    write_street(tmp_path / "drive")
    spvnas("segment", tmp_path / "drive", "-w", weights, "-o", tmp_path / "first")
    with pytest.raises(
        DatasetError, match=r"found x, y, z, intensity, label, confidence\), or insist \(--network-labels"
    ):
        open_dataset(tmp_path / "first" / "bag")
    assert len(open_dataset(tmp_path / "first" / "bag", field=LabelField(network=True))) == TWO


def test_labels_of_a_folder_that_a_command_wrote_are_scored_with_a_warning(weights: Path, tmp_path: Path) -> None:
    """Files do not tell who corrected them."""
    (tmp_path / "velodyne").mkdir()
    street_scan(0, 16, 60)[0].tofile(tmp_path / "velodyne" / "0.bin")
    assert spvnas("segment", tmp_path / "velodyne", "-w", weights, "-o", tmp_path, "--device", "cpu").exit_code == 0
    found = spvnas("evaluate", tmp_path, "-w", weights, "--json", "--device", "cpu")
    assert json.loads(found.stdout)["miou"] == 1
    assert f"the labels in {tmp_path / 'labels'} were written by `spvnas segment`" in found.stderr
    (tmp_path / "summary.json").unlink()
    assert "Warning" not in spvnas("evaluate", tmp_path, "-w", weights, "--json", "--device", "cpu").stderr


@given(
    own=st.lists(st.sampled_from(["ring", "label", "input_label", "semantic"]), unique=True),
    times=st.integers(0, 4),
)
def test_however_often_a_cloud_is_labelled_its_truth_is_found(own: list[str], times: int) -> None:
    record = np.zeros(3, [(name, "<f4") for name in FIELDS] + [(name, "|u1") for name in own])
    for name in own:
        record[name] = 7
    cloud: Any = cloud_message(record, 0, "lidar")
    for _ in range(times):
        cloud = with_labels(cloud, Segmentation(np.full(3, 9, np.uint8), np.ones(3, np.float32)))
    points = decode(cloud)
    names = points.dtype.names or ()
    for name in names:
        if name.endswith("label"):
            assert written_by_network(name, names) == bool((points[name] == 9).all()), name
    known = truth_field(names)
    assert (known is not None) == bool({"label", "input_label"} & set(own))
    if known:
        assert (points[known] == 7).all()


def test_the_labels_of_the_command_are_a_networks(labelled: Path, perception: Perception) -> None:
    with BagReader(labelled) as reader:
        assert reader.topic == LABELLED_TOPIC
        for number, recorded in enumerate(reader):
            cloud = decode(recorded.decode())
            points, truth = street_scan(number, 16, 60)
            np.testing.assert_array_equal(cloud["label"], perception(points).labels)
            np.testing.assert_array_equal(cloud["input_label"], truth)
            assert written_by_network("label", cloud.dtype.names or ())


@pytest.mark.parametrize("kind", ["<i2", "<i4", "<f4", "<f8", "<u2", "<u4", "|i1"])
@pytest.mark.parametrize("ids", ["raw", "class", "auto"])
def test_minus_one_is_no_label_whatever_the_field_holds(tmp_path: Path, kind: str, ids: str) -> None:
    raw = np.array([-1, 10, 0, -1, 40] if ids == "raw" else [-1, 10, 0, -1, 18])
    write_labels(tmp_path / "bag", raw.astype(kind))
    dataset = open_dataset(tmp_path / "bag", field=LabelField(ids=ids))
    expected = [255, 0, 255, 255, 8] if ids == "raw" else [255, 10, 0, 255, 18]
    assert dataset[0].labels.tolist() == expected
    assert dataset[0].instances.tolist() == [0] * len(raw)


@pytest.mark.parametrize(("ids", "says"), [("raw", r"\[-5, 300\]"), ("class", r"found \[-5, 300\]")])
def test_other_negative_labels_are_shown_as_they_are(tmp_path: Path, ids: str, says: str) -> None:
    write_labels(tmp_path / "bag", np.array([-5, 10, 300], "<i4"))
    with pytest.raises(DatasetError, match=says):
        open_dataset(tmp_path / "bag", field=LabelField(ids=ids))


def write_labels(path: Path, labels: np.ndarray) -> None:
    """One cloud of a bag whose field `label` holds these numbers."""
    record = np.zeros(len(labels), [(name, "<f4") for name in FIELDS] + [("label", labels.dtype)])
    record["x"], record["label"] = np.arange(1, len(labels) + 1), labels
    with BagWriter(path) as bag:
        bag.write("/points", encode(cloud_message(record, 0, "lidar")), 0)


def test_minus_one_in_a_label_file_is_no_label(tmp_path: Path) -> None:
    write_scan(tmp_path, "0", [2**32 - 1, 10, 3 << 16 | 40])
    scan = open_dataset(tmp_path)[0]
    assert (scan.labels.tolist(), scan.instances.tolist()) == ([255, 0, 8], [0, 0, 3])
    write_scan(tmp_path, "0", [2**32 - 7, 10])
    with pytest.raises(DatasetError, match=r"raw label id\(s\) \[-7\]"):
        open_dataset(tmp_path)[0]
