"""E57 as pye57 writes it: every scan around its scanner, and what is wrong with a damaged one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pye57
import pytest
from pye57 import libe57

from spvnas_ros.recordings.scans import ScanError, open_source, read_record
from surveyed_scans import around, brightness, e57_file


def test_every_scan_of_a_file_is_a_frame_upright_around_its_scanner(tmp_path: Path) -> None:
    e57_file(tmp_path / "hall.e57", 3)
    with open_source(tmp_path) as source:
        frames = {frame.name: frame.load() for frame in source}
    assert list(frames) == ["hall_0", "hall_1", "hall_2"]
    there = np.arange(len(around())) % 10 != 0
    x, y, z = around().T
    for cloud, (right, left) in zip(frames.values(), ((x, y), (-y, x), (-x, -y)), strict=True):
        np.testing.assert_allclose(cloud.points[there, :3], np.c_[right, left, z][there], atol=1e-4)
        assert np.isnan(cloud.points[~there, :3]).all()
        assert cloud.points[there, 3].max() <= 1
        np.testing.assert_array_equal(cloud.record["green"], brightness())
        np.testing.assert_array_equal(cloud.record["row"], np.arange(len(around())))
    with open_source(e57_file(tmp_path / "one.e57", 1)) as source:
        assert [frame.name for frame in source] == ["one"]


def test_a_poses_numbers_are_taken_by_name_in_whatever_order_they_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, held = libe57.StructureNode, {}

    class WFirstIsLast(made):
        """Writes the four numbers of a rotation as x, y, z, w; pye57 writes w first."""

        def set(self, name: str, node: object) -> None:
            if name not in "wxyz" or len(held) == 4:
                made.set(self, name, node)
                return
            held[name] = node
            for each in "xyzw" if len(held) == 4 else "":
                made.set(self, each, held[each])

    columns = {f"cartesian{axis}": values for axis, values in zip("XYZ", around().T, strict=True)}
    monkeypatch.setattr(libe57, "StructureNode", WFirstIsLast)
    with pye57.E57(str(tmp_path / "a.e57"), "w") as file:
        file.write_scan_raw(columns, rotation=np.array((0.0, 0, 0, 1)), translation=np.zeros(3))
    monkeypatch.undo()
    with pye57.E57(str(tmp_path / "a.e57")) as file:
        rotation = file.get_header(0).node["pose"]["rotation"]
        assert [each.elementName() for each in rotation] == ["x", "y", "z", "w"]
    record = read_record(tmp_path / "a.e57")
    for axis, values in zip("xyz", (around() * (-1, -1, 1)).T, strict=True):
        np.testing.assert_allclose(record[axis], values, atol=1e-5)


@pytest.mark.parametrize(("low", "high", "scaled"), [(-2048, 2047, True), (0, 255, True), (0.1, 0.7, False)])
def test_the_scanners_intensity_limits_scale_and_those_of_a_scans_own_values_do_not(
    tmp_path: Path, low: float, high: float, scaled: bool
) -> None:
    values = low + (high - low) * brightness() / 255.0
    columns = {f"cartesian{axis}": each for axis, each in zip("XYZ", around().T, strict=True)}
    with pye57.E57(str(tmp_path / "a.e57"), "w") as file:
        file.write_scan_raw({**columns, "intensity": values})
    found = read_record(tmp_path / "a.e57")["intensity"]
    expected = (values - values.min()) / (values.max() - values.min()) if scaled else values
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_damaged_file_is_named_with_what_is_wrong(tmp_path: Path) -> None:
    whole = e57_file(tmp_path / "a.e57").read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    for data in (whole[:2000], whole[:10], bytes(flipped)):
        (tmp_path / "b.e57").write_bytes(data)
        with pytest.raises(ScanError, match=r"b\.e57: it is no whole E57 file: .*; get the file again"):
            read_record(tmp_path / "b.e57")
    with pye57.E57(str(tmp_path / "c.e57"), "w"):
        pass
    with pytest.raises(ScanError, match="holds no scans"):
        read_record(tmp_path / "c.e57")


def test_what_is_missing_to_read_it_is_named_with_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = e57_file(tmp_path / "a.e57")
    monkeypatch.setitem(__import__("sys").modules, "pye57", None)
    with pytest.raises(ScanError, match=r"needs pye57, which is not installed: pip install 'spvnas_ros\[e57\]'"):
        read_record(path)
