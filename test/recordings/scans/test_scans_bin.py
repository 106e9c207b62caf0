"""KITTI's .bin files, which say nothing of themselves, and nuScenes' that look alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from encoded_scans import read
from spvnas_ros.clouds.intensity import Intensity
from spvnas_ros.clouds.mount import PlaceRule
from spvnas_ros.clouds.sensor_rules import Sensor
from spvnas_ros.engine.sample_street import street_scan
from spvnas_ros.errors import UserError
from spvnas_ros.recordings.scans import ScanError, read_record, read_scan
from spvnas_ros.recordings.scans.columns import parse_columns


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


def sweep(count: int) -> np.ndarray:
    """Points of nuScenes' kind: x, y, z, intensity 0..255 and ring."""
    rng = np.random.default_rng(3)
    where = rng.normal(size=(count, 3)) * 20
    return np.c_[where, rng.integers(0, 256, count), rng.integers(0, 32, count)].astype(np.float32)


def test_five_columns_are_recognised_as_nuscenes_and_the_advice_turns_them(tmp_path: Path) -> None:
    for count in (100, 101):  # 100 points of 20 bytes would pass as 125 points of 16
        with pytest.raises(ScanError, match=r"nuScenes.*NAME\.pcd\.bin.*--mount yaw=-90"):
            read(tmp_path, "lidar.bin", sweep(count).tobytes())


def test_a_pcd_bin_is_turned_so_that_x_points_forward(tmp_path: Path) -> None:
    right, forward, up, intensity, ring = sweep(50).T
    (tmp_path / "a.pcd.bin").write_bytes(sweep(50).tobytes())
    record = read_record(tmp_path / "a.pcd.bin")
    for name, values in {"x": forward, "y": -right, "z": up, "intensity": intensity, "ring": ring}.items():
        np.testing.assert_array_equal(record[name], values)
    # It is what the advice for such a .bin does.
    (tmp_path / "a.bin").write_bytes(sweep(50).tobytes())
    advised = Sensor(Intensity(), PlaceRule.parse(None, "yaw=-90"))
    named = read_record(tmp_path / "a.bin", parse_columns("x,y,z,intensity,ring"))
    np.testing.assert_allclose(advised.points(named), read_scan(tmp_path / "a.pcd.bin"), atol=1e-5)
    with pytest.raises(ScanError, match=r"no multiple of 20.*must not be called \.pcd\.bin"):
        read(tmp_path, "b.pcd.bin", bytes(30))


@pytest.mark.parametrize("shuffled", [False, True])
def test_numbers_of_other_columns_are_refused_with_the_columns_that_they_may_be(tmp_path: Path, shuffled: bool) -> None:
    scan = street_scan(0, 16, 360)[0].astype(np.float64)
    scan = scan[: len(scan) // 4 * 4]
    if shuffled:
        scan = np.random.default_rng(0).permutation(scan)
    time, ring = np.linspace(0, 0.1, len(scan)), np.arange(len(scan)) % 16.0
    survey = scan + np.array((512_000.25, 5_403_000.125, 260, 0))
    for columns, values in {
        "x,y,z": scan[:, :3],
        "x,y,z,intensity,time": np.c_[scan, time],
        "x,y,z,intensity,ring,time": np.c_[scan, ring, time],
        "x:float64,y,z": scan[:, :3],
        "x:float64,y,z,intensity": scan,
        "x:float64,y,z,intensity,time": np.c_[survey, time],
    }.items():
        path = tmp_path / "a.bin"
        path.write_bytes(values.astype("<f8" if "64" in columns else "<f4").tobytes())
        with pytest.raises(ScanError, match="--columns") as caught:
            read_record(path)
        assert str(caught.value).endswith(f"--columns {columns}")
        named = read_record(path, parse_columns(columns))
        assert len(named) == len(scan)
        np.testing.assert_allclose(named["y"], values[:, 1], rtol=1e-6)


def test_columns_of_other_types_are_read_as_they_are_named(tmp_path: Path) -> None:
    points = np.zeros(9, [("x", "<f8"), ("y", "<f8"), ("z", "<f8"), ("intensity", "u1"), ("t", "<u4")])
    for row, name in enumerate(points.dtype.names):
        points[name] = np.arange(9) + row
    (tmp_path / "a.bin").write_bytes(points.tobytes())
    named = read_record(tmp_path / "a.bin", parse_columns("x:float64,y,z,intensity:uint8,t:uint32"))
    np.testing.assert_array_equal(named, points)
    with pytest.raises(ScanError, match=r"no multiple of 16, which a point of columns x,y,z,intensity takes"):
        read_record(tmp_path / "a.bin", parse_columns("x,y,z,intensity"))
    for wrong in ("x,y", "x,y,z,", "x,y,z,x", "x,y,z:half", ""):
        with pytest.raises(UserError, match="columns"):
            parse_columns(wrong)


def test_no_real_scan_is_taken_for_nuscenes(shared: Path) -> None:
    files = sorted((shared / "data").rglob("velodyne/*.bin"))
    assert len(files) >= 18
    for file in files:
        points = read_scan(file)
        np.testing.assert_array_equal(points, np.fromfile(file, np.float32).reshape(-1, 4))
