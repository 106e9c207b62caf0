"""Labelled scans from every layout: what is no data set is named, and one can be handed to another process."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path

import numpy as np
import pytest

from labelled_files import write_bag, write_kitti
from spvnas_ros.offline.datasets import DatasetError, LabelField, LabelledScan, open_dataset
from surveyed_scans import COUNT, e57_file

CAR, ROAD = 0, 8


def test_a_folder_of_scans_with_labels_beside_them(tmp_path: Path) -> None:
    points = np.array([[1, 2, 3, 51], [np.nan, 0, 0, 0], [4, 5, 6, 255]], np.float32)
    np.save(tmp_path / "scan.npy", points)
    np.array([10, 10, 40], "<u4").tofile(tmp_path / "scan.label")
    scan = open_dataset(tmp_path)[0]
    np.testing.assert_allclose(scan.points, [[1, 2, 3, 0.2], [4, 5, 6, 1]])
    np.testing.assert_array_equal(scan.labels, [CAR, ROAD])
    np.testing.assert_allclose(open_dataset(tmp_path, intensity="510")[0].points[:, 3], [0.1, 0.5])


def test_every_scan_of_an_e57_file_has_labels_of_its_own(tmp_path: Path) -> None:
    """Named as `spvnas segment` names what it writes of them."""
    e57_file(tmp_path / "hall.e57", 2)
    for part in range(2):
        np.full(COUNT, 10 + 30 * part, "<u4").tofile(tmp_path / f"hall_{part}.label")
    dataset = open_dataset(tmp_path)
    assert [dataset.name(index) for index in range(len(dataset))] == ["hall_0", "hall_1"]
    one, other = dataset[0], dataset[1]
    assert set(one.labels) == {0}
    assert set(other.labels) == {8}
    np.testing.assert_allclose(one.points[:, :2], other.points[:, :2] @ [[0, -1], [1, 0]], atol=1e-4)
    (tmp_path / "hall_1.label").unlink()
    with pytest.raises(DatasetError, match=r"hall_1\.label is missing, the labels of .*hall\.e57"):
        open_dataset(tmp_path)


def test_a_scan_does_not_depend_on_which_were_read_before(tmp_path: Path) -> None:
    for name, brightest in (("a", 0.5), ("b", 200.0), ("c", 0.5)):
        np.save(tmp_path / f"{name}.npy", np.array([[1, 2, 3, brightest]], np.float32))
        np.array([10], "<u4").tofile(tmp_path / f"{name}.label")
    dataset = open_dataset(tmp_path)
    first = dataset[0].points
    dataset[1]
    np.testing.assert_array_equal(dataset[0].points, first)
    np.testing.assert_allclose(first[0, 3], 0.5 / 255)


def test_all_scans_take_the_same_intensity_field(tmp_path: Path) -> None:
    """Also by a rule that leaves no scale open, and where some scans have it dead."""
    for name, reflectivity in (("a", 0.0), ("b", 0.75)):
        scan = np.ones(3, [(field, "<f4") for field in ("x", "y", "z", "intensity", "reflectivity")])
        scan["intensity"], scan["reflectivity"] = 0.25, reflectivity
        np.save(tmp_path / f"{name}.npy", scan)
        np.full(3, 10, "<u4").tofile(tmp_path / f"{name}.label")
    for rule in ("unit", "auto"):
        dataset = open_dataset(tmp_path, intensity=rule)
        assert [float(dataset[index].points[0, 3]) for index in (0, 1, 0)] == [0, 0.75, 0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sequences": "train"}, "not in SemanticKITTI's layout"),
        ({"topic": "/points"}, "no bag"),
        ({"field": LabelField("truth")}, "no bag"),
        ({"intensity": "bright"}, "intensity rule must be"),
    ],
)
def test_arguments_of_another_kind_of_data_set_are_refused(tmp_path: Path, arguments: dict, message: str) -> None:
    np.zeros((1, 4), np.float32).tofile(tmp_path / "scan.bin")
    np.array([10], "<u4").tofile(tmp_path / "scan.label")
    with pytest.raises(DatasetError, match=message):
        open_dataset(tmp_path, **arguments)


@pytest.mark.parametrize("content", ["nothing", "text", "absent"])
def test_what_is_no_data_set_is_named(tmp_path: Path, content: str) -> None:
    source = tmp_path / "source"
    if content == "nothing":
        source.mkdir()
    elif content == "text":
        source.write_text("hello")
    with pytest.raises(DatasetError, match="source"):
        open_dataset(source)


def test_data_sets_pickle_and_read_the_same_afterwards(drive: Path, tmp_path: Path) -> None:
    write_bag(tmp_path / "bag", label="<u4")
    write_kitti(tmp_path / "kitti", [], np.ones((2, 4)))
    for source in (drive, tmp_path / "bag", tmp_path / "kitti"):
        dataset = open_dataset(source)
        before, after = dataset[0], pickle.loads(pickle.dumps(dataset))[0]
        for field in dataclasses.fields(LabelledScan):
            np.testing.assert_array_equal(getattr(after, field.name), getattr(before, field.name))


def test_a_scan_holds_as_many_labels_as_points() -> None:
    with pytest.raises(ValueError, match="scan 'x' has 2 points, 3 labels and 2 instances"):
        LabelledScan("x", np.zeros((2, 4), np.float32), np.zeros(3, np.uint8), np.zeros(2, np.uint16))
