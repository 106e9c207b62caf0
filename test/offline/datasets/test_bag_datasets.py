"""A bag's clouds with a label field are a data set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from labelled_files import BAG_SCANS, write_bag
from spvnas_ros.engine.sample_street import street_scan
from spvnas_ros.offline.datasets import DatasetError, LabelField, open_dataset


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
