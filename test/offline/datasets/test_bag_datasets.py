"""A bag's clouds with a label field are a data set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from rosbags.convert.converter import convert
from rosbags.typesys import Stores, get_typestore

from labelled_files import BAG_SCANS, write_bag
from spvnas_ros.engine.sample_street import street_scan
from spvnas_ros.offline.datasets import DatasetError, LabelField, open_dataset
from spvnas_ros.recordings.bags import BagWriter, cloud_message, encode


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


def test_a_bag_is_known_by_its_labels_wherever_it_lies(tmp_path: Path) -> None:
    for name, storage in (("one", "mcap"), ("other", "sqlite3")):
        write_bag(tmp_path / name, storage=storage, label="<u4")
    write_bag(tmp_path / "classes", kind="class", label="<u4")
    one, other, classes = (open_dataset(tmp_path / name).inventory() for name in ("one", "other", "classes"))
    assert one == other
    assert one.keys() == classes.keys()
    assert one != classes


def test_a_damaged_cloud_is_an_error_where_it_is_used(tmp_path: Path) -> None:
    points = np.zeros(5, [(name, "<f4") for name in ("x", "y", "z")] + [("label", "|u1")])
    points["x"] = np.arange(1, 6)
    whole, broken = (cloud_message(points, stamp, "lidar") for stamp in (1, 2))
    broken.width = 7  # more points than bytes
    with BagWriter(tmp_path / "bag") as bag:
        for stamp, message in enumerate((whole, broken, whole)):
            bag.write("/points", encode(message), stamp)
    dataset = open_dataset(tmp_path / "bag")
    assert [len(dataset), dataset.name(1), len(dataset[0]), len(dataset[2])] == [3, "000001", 5, 5]
    with pytest.raises(DatasetError, match="cloud 000001 of /points"):
        dataset[1]


def test_a_bag_of_ros_1_is_the_same_data(tmp_path: Path) -> None:
    write_bag(tmp_path / "bag", label="<u4")
    convert(
        [tmp_path / "bag"], tmp_path / "a.bag", "sqlite3", 8, None, "none",
        get_typestore(Stores.ROS2_HUMBLE), get_typestore(Stores.ROS1_NOETIC), (), (), (), (),
    )  # fmt: skip
    one, other = open_dataset(tmp_path / "bag"), open_dataset(tmp_path / "a.bag")
    assert one.inventory() == other.inventory()
    for index in (2, 0, 1):
        np.testing.assert_array_equal(other[index].labels, one[index].labels)
        np.testing.assert_array_equal(other[index].points, one[index].points)
