"""Labelled scans from every layout: what comes out is what was written, and what is wrong is named."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from spvnas_ros.engine.sample_street import street_scan
from spvnas_ros.labels import MIT_HAN_LAB, SEMANTIC_KITTI
from spvnas_ros.offline.datasets import DatasetError, LabelField, LabelledScan, open_dataset
from spvnas_ros.offline.datasets.kitti import Box, KittiDataset
from spvnas_ros.recordings.bags import BagWriter, cloud_message, encode

CAR, ROAD, OTHER_VEHICLE, NONE = 0, 8, 4, 255


def write_scan(folder: Path, name: str, raw: list[int], first: float = 0.0) -> np.ndarray:
    """A scan in SemanticKITTI's layout with these raw labels (instances in the upper half); returns its points."""
    points = (np.arange(4 * len(raw), dtype=np.float32).reshape(-1, 4) + np.float32(first)) / np.float32(100)
    for part in ("velodyne", "labels"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    points.tofile(folder / "velodyne" / f"{name}.bin")
    np.array(raw, "<u4").tofile(folder / "labels" / f"{name}.label")
    return points


@pytest.fixture
def drive(tmp_path: Path) -> Path:
    """Sequences 00, 08 and 120, of two, one and one scans."""
    write_scan(tmp_path / "sequences" / "00", "000002", [10, 40, 0], first=1)
    write_scan(tmp_path / "sequences" / "00", "000010", [10 | 7 << 16, 252 | 8 << 16, 60, 13])
    write_scan(tmp_path / "sequences" / "08", "000000", [40])
    write_scan(tmp_path / "sequences" / "120", "000000", [81])
    return tmp_path


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
    known = SEMANTIC_KITTI.to_class
    if all(value & 0xFFFF in known for value in raw):
        scan = open_dataset(folder)[0]
        assert [known[value & 0xFFFF] for value in raw] == scan.labels.tolist()
        assert [value >> 16 for value in raw] == scan.instances.tolist()
        return
    unlisted = min(value & 0xFFFF for value in raw if value & 0xFFFF not in known)
    with pytest.raises(DatasetError, match=rf"0\.label: .*does not list .*\[{unlisted}\b"):
        open_dataset(folder)[0]


def test_a_folder_of_scans_with_labels_beside_them(tmp_path: Path) -> None:
    points = np.array([[1, 2, 3, 51], [np.nan, 0, 0, 0], [4, 5, 6, 255]], np.float32)
    np.save(tmp_path / "scan.npy", points)
    np.array([10, 10, 40], "<u4").tofile(tmp_path / "scan.label")
    scan = open_dataset(tmp_path)[0]
    np.testing.assert_allclose(scan.points, [[1, 2, 3, 0.2], [4, 5, 6, 1]])
    np.testing.assert_array_equal(scan.labels, [CAR, ROAD])
    np.testing.assert_allclose(open_dataset(tmp_path, intensity="510")[0].points[:, 3], [0.1, 0.5])


def test_a_scan_does_not_depend_on_which_were_read_before(tmp_path: Path) -> None:
    for name, brightest in (("a", 0.5), ("b", 200.0), ("c", 0.5)):
        np.save(tmp_path / f"{name}.npy", np.array([[1, 2, 3, brightest]], np.float32))
        np.array([10], "<u4").tofile(tmp_path / f"{name}.label")
    dataset = open_dataset(tmp_path)
    first = dataset[0].points
    dataset[1]
    np.testing.assert_array_equal(dataset[0].points, first)
    np.testing.assert_allclose(first[0, 3], 0.5 / 255)


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


def write_kitti(folder: Path, boxes: list[str], points: np.ndarray, calibration: str | None = None) -> Path:
    """One frame; the camera sits at the sensor and looks ahead (x right, y down, z forward)."""
    text = "R0_rect: 1 0 0 0 1 0 0 0 1\nTr_velo_to_cam: 0 -1 0 0 0 0 -1 0 1 0 0 0\n"
    for part in ("velodyne", "label_2", "calib"):
        (folder / "training" / part).mkdir(parents=True)
    points.astype(np.float32).tofile(folder / "training" / "velodyne" / "000007.bin")
    (folder / "training" / "label_2" / "000007.txt").write_text("\n".join(boxes) + "\n")
    (folder / "training" / "calib" / "000007.txt").write_text(text if calibration is None else calibration)
    return folder


def line(kind: str, size: tuple[float, float, float], place: tuple[float, float, float], angle: float) -> str:
    """A line of label_2: size is height, width, length, place the bottom's centre in the camera's frame."""
    return " ".join(map(str, (kind, 0, 0, 0, 0, 0, 0, 0, *size, *place, angle)))


def test_kitti_boxes_stand_in_the_sensors_frame(tmp_path: Path) -> None:
    car = line("Car", (1.5, 1.6, 4.0), (-2.0, 1.7, 10.0), -np.pi / 2)  # 10 m ahead, 2 m to the left, driving ahead
    points = np.array([[11.9, 2.7, -0.5, 0], [11.9, 2.9, -0.5, 0], [10, 2, -1.6, 0], [10, 2, 0, 0]])
    dataset = open_dataset(write_kitti(tmp_path, [car, "DontCare " + "0 " * 14], points))
    assert isinstance(dataset, KittiDataset)
    (box,) = dataset.boxes(0)
    assert (box.kind, box.size) == ("Car", (4.0, 1.6, 1.5))
    np.testing.assert_allclose(box.centre, (10, 2, -0.95), atol=1e-9)
    assert box.yaw == pytest.approx(0, abs=1e-9)
    np.testing.assert_array_equal(box.contains(dataset[0].points), [True, False, True, False])
    # The third point is wheel or road.
    np.testing.assert_array_equal(dataset[0].labels, [CAR, NONE, NONE, NONE])
    np.testing.assert_array_equal(dataset[0].instances, [1, 0, 0, 0])


@settings(max_examples=40)
@given(yaw=st.floats(-3, 3), along=st.floats(-2.5, 2.5), across=st.floats(-1.5, 1.5))
def test_a_turned_box_holds_what_lies_within_its_length_and_width(yaw: float, along: float, across: float) -> None:
    assume(abs(abs(along) - 2) > 1e-3 and abs(abs(across) - 1) > 1e-3)
    heading, left = np.array([np.cos(yaw), np.sin(yaw)]), np.array([-np.sin(yaw), np.cos(yaw)])
    point = np.array([[*(np.array([20, -3]) + along * heading + across * left), 0.5, 0]], np.float32)
    inside = Box("Car", (4, 2, 1.5), (20, -3, 0.5), yaw).contains(point)
    assert inside[0] == (abs(along) < 2 and abs(across) < 1)


@pytest.mark.parametrize(
    ("box", "calibration", "message"),
    [
        ("Car 0 0", None, r"000007\.txt has a line of 3 words"),
        (line("Car", (1, 1, 1), (0, 0, np.nan), 0), None, r"label_2/000007\.txt has numbers that are not finite"),
        ("Car " + "x " * 14, None, r"label_2/000007\.txt: could not convert"),
        (line("Car", (1, 1, 1), (0, 0, 0), 0), "R0_rect: 1 0\n", r"calib/000007\.txt has 2 numbers for R0_rect"),
        (
            line("Car", (1, 1, 1), (0, 0, 0), 0),
            f"R0_rect:{' 0' * 9}\nTr_velo_to_cam:{' 0' * 12}\n",
            r"calib/000007\.txt: .*no rotations",
        ),
    ],
)
def test_what_is_wrong_with_a_kitti_frame_is_named(
    tmp_path: Path, box: str, calibration: str | None, message: str
) -> None:
    dataset = open_dataset(write_kitti(tmp_path, [box], np.zeros((1, 4)), calibration))
    with pytest.raises(DatasetError, match=message):
        dataset[0]


def test_a_missing_kitti_file_is_named(tmp_path: Path) -> None:
    write_kitti(tmp_path, [], np.zeros((1, 4)))
    (tmp_path / "training" / "calib" / "000007.txt").unlink()
    with pytest.raises(DatasetError, match=r"calib/000007\.txt is missing"):
        open_dataset(tmp_path)


BAG_SCANS = 3


def write_bag(path: Path, kind: str = "raw", storage: str = "mcap", **fields: str) -> list[np.ndarray]:
    """Clouds of which the last two have the same stamp, with intensities in 0..255; returns their labels."""
    truths = []
    layout = [(n, "<f4") for n in ("x", "y", "z", "intensity")] + list(fields.items())
    with BagWriter(path, storage) as bag:
        for number in range(BAG_SCANS):
            points, labels = street_scan(number, 16, 100)
            labels = labels.copy()
            labels[::9] = NONE
            record = np.zeros(len(points), layout)
            for column, name in enumerate(("x", "y", "z")):
                record[name] = points[:, column]
            record["intensity"] = points[:, 3] * 255
            record["label"] = SEMANTIC_KITTI.decode(labels) | 5 << 16 if kind == "raw" else labels
            if "instance" in fields:
                record["instance"] = 11
            stamp = 10**9 + min(number, 1)
            bag.write("/points", encode(cloud_message(record, stamp, "lidar")), stamp)
            truths.append(labels)
    return truths


@pytest.mark.parametrize(
    ("storage", "kind", "fields", "instance"),
    [
        ("mcap", "raw", {"label": "<u4"}, 5),
        ("sqlite3", "class", {"label": "|u1"}, 0),
        ("sqlite3", "class", {"label": "<f4", "instance": "<u2"}, 11),
    ],
)
def test_a_bag_gives_its_clouds_in_any_order(
    tmp_path: Path, storage: str, kind: str, fields: dict[str, str], instance: int
) -> None:
    truths = write_bag(tmp_path / "bag", kind, storage, **fields)
    dataset = open_dataset(tmp_path / "bag")
    assert len(dataset) == BAG_SCANS
    for index in (2, 0, 1):
        scan = dataset[index]
        np.testing.assert_array_equal(scan.labels, truths[index])
        np.testing.assert_allclose(scan.points, street_scan(index, 16, 100)[0], atol=1e-6)
        assert scan.name == f"{index:06d}"
        assert set(scan.instances) == {instance}
    with pytest.raises(IndexError):
        dataset[BAG_SCANS]


def test_what_is_wrong_with_a_bag_is_named(tmp_path: Path) -> None:
    write_bag(tmp_path / "bag", label="<u4")
    with pytest.raises(DatasetError, match="no field 'truth'"):
        open_dataset(tmp_path / "bag", field=LabelField("truth"))
    with pytest.raises(DatasetError, match="no cloud topic /other; found /points"):
        open_dataset(tmp_path / "bag", topic="/other")
    with pytest.raises(DatasetError, match="class indices must be 0 to 18"):
        open_dataset(tmp_path / "bag", field=LabelField(ids="class"))
    with pytest.raises(ValueError, match="expected one of auto, raw, class"):
        LabelField(ids="colours")


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


def test_real_scans(shared: Path) -> None:
    root = shared / "data" / "semantickitti"
    dataset = open_dataset(root, sequences="train", label_map=MIT_HAN_LAB)
    assert len(dataset) == 14
    scan = dataset[0]
    raw = np.fromfile(root / "sequences" / "00" / "labels" / "000000.label", np.uint32)
    np.testing.assert_array_equal(scan.labels, MIT_HAN_LAB.encode(raw))
    np.testing.assert_array_equal(scan.instances, raw >> 16)
    assert 0 <= scan.points[:, 3].min() < scan.points[:, 3].max() <= 1


def test_real_boxes_hold_points(shared: Path) -> None:
    dataset = open_dataset(shared / "data" / "kitti")
    assert isinstance(dataset, KittiDataset)
    for index in range(len(dataset)):
        scan = dataset[index]
        for number, box in enumerate(dataset.boxes(index), start=1):
            inside = scan.instances == number
            assert inside.sum() > 0, f"{scan.name}: {box.kind} at {box.centre}"
            assert not (inside & ~box.contains(scan.points)).any()
