"""LAS, LAZ and COPC as laspy and copclib write them, and what is wrong with a damaged one."""

from __future__ import annotations

import struct
from pathlib import Path

import laspy
import numpy as np
import pytest

from spvnas_ros.clouds.intensity import Intensity
from spvnas_ros.clouds.mount import PlaceRule
from spvnas_ros.clouds.sensor_rules import Sensor
from spvnas_ros.recordings.scans import ScanError, open_source, read_record, read_scan
from surveyed_scans import COUNT, ORIGIN, around, brightness, copc_file, las_file


@pytest.mark.parametrize("suffix", [".las", ".laz"])
@pytest.mark.parametrize("form", range(11))
def test_every_point_format_is_read_with_all_its_fields(tmp_path: Path, form: int, suffix: str) -> None:
    record = read_record(las_file(tmp_path / f"a{suffix}", form))
    assert all(record.dtype[axis] == np.float64 for axis in "xyz")
    for axis, values in zip("xyz", (around() + ORIGIN).T, strict=True):
        np.testing.assert_allclose(record[axis], values, rtol=0, atol=0.00051)
    np.testing.assert_array_equal(record["intensity"], brightness() * 257)
    np.testing.assert_array_equal(record["classification"], brightness() % 20)
    np.testing.assert_array_equal(record["return_number"], 1 + brightness() % 3)
    np.testing.assert_allclose(record["range"], np.linalg.norm(around(), axis=1), rtol=1e-6)
    np.testing.assert_array_equal(record["rgb"][:, 2], brightness())


def test_survey_coordinates_are_brought_to_the_sensor_in_float64(tmp_path: Path) -> None:
    sensor = Sensor(Intensity(), PlaceRule.parse(",".join(map(str, ORIGIN)), None))
    points = read_scan(las_file(tmp_path / "a.laz"), sensor)
    np.testing.assert_allclose(points[:, :3], around(), rtol=0, atol=0.0006)
    np.testing.assert_allclose(points[:, 3], brightness() / 255, atol=1e-6)  # 16 bits


def test_copc_is_read_and_its_suffix_is_no_part_of_the_format(tmp_path: Path) -> None:
    record = read_record(copc_file(tmp_path / "a.copc.laz"))
    assert len(record) == COUNT
    np.testing.assert_allclose(record["x"], around()[:, 0] + ORIGIN[0], rtol=0, atol=0.0011)
    with open_source(tmp_path) as source:
        assert [frame.name for frame in source] == ["a.copc"]


def test_extra_bytes_with_a_scale_are_read_as_what_they_stand_for(tmp_path: Path) -> None:
    header = laspy.LasHeader(point_format=1)
    scaled = laspy.ExtraBytesParams("width", "u2", scales=np.array((0.5,)), offsets=np.array((10.0,)))
    header.add_extra_dim(scaled)
    las = laspy.LasData(header)
    las.x = las.y = las.z = np.arange(5.0)
    las.width = np.array((10, 10.5, 11, 12, 20))
    las.write(tmp_path / "a.las")
    assert read_record(tmp_path / "a.las")["width"].tolist() == [10, 10.5, 11, 12, 20]


def test_a_file_without_points_is_a_cloud_without_points(tmp_path: Path) -> None:
    for suffix in (".las", ".laz"):
        assert len(read_scan(las_file(tmp_path / f"a{suffix}", points=np.empty((0, 3))))) == 0


@pytest.mark.parametrize("suffix", [".las", ".laz"])
def test_a_damaged_file_is_named_with_what_is_wrong(tmp_path: Path, suffix: str) -> None:
    whole = las_file(tmp_path / f"a{suffix}", 3).read_bytes()

    def says(data: bytes, at: int = 0, form: str = "", *numbers: float) -> str:
        changed = bytearray(data)
        struct.pack_into(f"<{form}", changed, at, *numbers)
        (tmp_path / f"b{suffix}").write_bytes(changed)
        with pytest.raises(ScanError) as caught:
            read_record(tmp_path / f"b{suffix}")
        return str(caught.value)

    assert "get the file again" in says(whole[: len(whole) // 2])
    assert "its header is not there" in says(whole[:200])
    assert "give no coordinates" in says(whole, 131, "d", 0.0)
    assert "give no coordinates" in says(whole, 155, "d", float("nan"))
    assert "get the file again" in says(whole, 107, "I", COUNT + 60_000)
    assert "get the file again" in says(whole, 96, "I", 1 << 31)


def test_what_is_missing_to_read_it_is_named_with_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = las_file(tmp_path / "a.las")
    monkeypatch.setitem(__import__("sys").modules, "laspy", None)
    with pytest.raises(ScanError, match=r"needs laspy, which is not installed: pip install 'spvnas_ros\[las\]'"):
        read_record(path)
