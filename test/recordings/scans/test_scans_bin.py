"""KITTI's .bin files, which say nothing of themselves, and nuScenes' that look alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from encoded_scans import read
from spvnas_ros.recordings.scans import ScanError, read_scan


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("odd.bin", b"\0" * 30, "30 bytes are no multiple of 16"),
    ],
    ids=lambda value: value if isinstance(value, str) and "." in value and " " not in value else "",
)
def test_a_malformed_bin_is_named_with_what_is_wrong(tmp_path: Path, name: str, data: bytes, says: str) -> None:
    with pytest.raises(ScanError, match=says) as caught:
        read(tmp_path, name, data)
    assert name in str(caught.value)


def test_five_columns_are_recognised_as_nuscenes(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    for count in (100, 101):  # 100 points of 20 bytes would pass as 125 points of 16
        scan = np.c_[rng.normal(size=(count, 4)) * 20, rng.integers(0, 32, count)].astype(np.float32)
        with pytest.raises(ScanError, match="nuScenes"):
            read(tmp_path, "lidar.pcd.bin", scan.tobytes())


def test_no_real_scan_is_taken_for_nuscenes(shared: Path) -> None:
    files = sorted((shared / "data").rglob("velodyne/*.bin"))
    assert len(files) >= 18
    for file in files:
        points = read_scan(file)
        np.testing.assert_array_equal(points, np.fromfile(file, np.float32).reshape(-1, 4))
