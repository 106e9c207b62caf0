"""SemanticKITTI's folders: scans with classes and instances, sequences by split or number."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labelled_files import write_scan
from spvnas_ros.labels import MIT_HAN_LAB, SEMANTIC_KITTI
from spvnas_ros.offline.datasets import DatasetError, open_dataset

CAR, ROAD, OTHER_VEHICLE, NONE = 0, 8, 4, 255


def names(dataset: object) -> list[str]:
    return [dataset[index].name for index in range(len(dataset))]


def test_a_scan_comes_with_its_classes_and_instances(drive: Path) -> None:
    points = np.fromfile(drive / "sequences" / "00" / "velodyne" / "000010.bin", np.float32).reshape(-1, 4)
    scan = open_dataset(drive, sequences="00")[1]
    np.testing.assert_array_equal(scan.points, points)
    np.testing.assert_array_equal(scan.labels, [CAR, CAR, ROAD, OTHER_VEHICLE])
    np.testing.assert_array_equal(scan.instances, [7, 8, 0, 0])


def test_label_maps_go_by_name(drive: Path) -> None:
    official, published = (open_dataset(drive, label_map=name)[1] for name in ("semantic-kitti", "mit-han-lab"))
    np.testing.assert_array_equal(official.labels, [CAR, CAR, ROAD, OTHER_VEHICLE])
    np.testing.assert_array_equal(published.labels, [CAR, CAR, NONE, NONE])
    with pytest.raises(DatasetError, match="'cityscapes', expected one of semantic-kitti, mit-han-lab"):
        open_dataset(drive, label_map="cityscapes")


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (None, ["00/000002", "00/000010", "08/000000", "120/000000"]),
        ("train", ["00/000002", "00/000010"]),
        ("val", ["08/000000"]),
        (("val", "120"), ["08/000000", "120/000000"]),
        (8, ["08/000000"]),
        ("120, 8", ["120/000000", "08/000000"]),
        ([0, "08"], ["00/000002", "00/000010", "08/000000"]),
        ("120-120", ["120/000000"]),
    ],
)
def test_sequences_are_chosen_by_split_or_number(drive: Path, wanted: object, expected: list[str]) -> None:
    assert names(open_dataset(drive, sequences=wanted)) == expected
    assert names(open_dataset(drive / "sequences", sequences=wanted)) == expected


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("03", "no sequence 03; found 00, 08, 120"),
        ("test", "no sequence of test"),
        ("all", "sequences are 'all', expected train, val, test"),
    ],
)
def test_a_sequence_that_is_not_there_is_named(drive: Path, wanted: str, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        open_dataset(drive, sequences=wanted)


def test_one_sequence_is_a_data_set(drive: Path) -> None:
    assert names(open_dataset(drive / "sequences" / "08")) == ["08/000000"]
    with pytest.raises(DatasetError, match="is one sequence"):
        open_dataset(drive / "sequences" / "08", sequences="val")


def test_a_missing_label_file_is_named_when_the_set_is_opened(drive: Path) -> None:
    (drive / "sequences" / "00" / "labels" / "000010.label").unlink()
    with pytest.raises(DatasetError, match=r"labels/000010\.label is missing"):
        open_dataset(drive)
    assert len(open_dataset(drive, sequences="08")) == 1


def test_a_truncated_scan_and_labels_of_another_size_are_named(drive: Path) -> None:
    dataset = open_dataset(drive)
    scan = drive / "sequences" / "00" / "velodyne" / "000010.bin"
    scan.write_bytes(scan.read_bytes()[:-3])
    with pytest.raises(DatasetError, match=r"000010\.bin: 61 bytes are no multiple of 16"):
        dataset[1]
    scan.write_bytes(scan.read_bytes()[:48])
    with pytest.raises(DatasetError, match=r"000010\.label has 16 bytes, but .*000010\.bin has 3 points"):
        dataset[1]


def test_a_file_that_vanished_is_named(drive: Path) -> None:
    dataset = open_dataset(drive)
    (drive / "sequences" / "08" / "labels" / "000000.label").unlink()
    with pytest.raises(DatasetError, match=r"08/labels/000000\.label: cannot be read"):
        dataset[2]


@settings(max_examples=25)
@given(raw=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=20))
def test_a_raw_label_is_its_class_or_ignored_or_an_error(
    tmp_path_factory: pytest.TempPathFactory, raw: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("raw")
    write_scan(folder, "0", raw)
    known = SEMANTIC_KITTI.to_class | {-1: 255}
    # Negative numbers of 16 bits are shown as they were meant.
    ids = [value - 2**32 if value >= 2**32 - 2**15 else value & 0xFFFF for value in raw]
    if all(value in known for value in ids):
        scan = open_dataset(folder)[0]
        assert [known[value] for value in ids] == scan.labels.tolist()
        assert [0 if value == 2**32 - 1 else value >> 16 for value in raw] == scan.instances.tolist()
        return
    unlisted = min(value for value in ids if value not in known)
    with pytest.raises(DatasetError, match=rf"0\.label: .*does not list .*\[{unlisted}\b"):
        open_dataset(folder)[0]


def test_real_scans(shared: Path) -> None:
    root = shared / "data" / "semantickitti"
    dataset = open_dataset(root, sequences="train", label_map=MIT_HAN_LAB)
    assert len(dataset) == 14
    scan = dataset[0]
    raw = np.fromfile(root / "sequences" / "00" / "labels" / "000000.label", np.uint32)
    np.testing.assert_array_equal(scan.labels, MIT_HAN_LAB.encode(raw))
    np.testing.assert_array_equal(scan.instances, raw >> 16)
    assert 0 <= scan.points[:, 3].min() < scan.points[:, 3].max() <= 1
