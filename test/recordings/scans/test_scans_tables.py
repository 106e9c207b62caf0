"""Parquet and Feather as pandas and pyarrow write them, and numpy's .npz."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import feather, parquet

from spvnas_ros.recordings.scans import ScanError, read_record, read_scan
from surveyed_scans import COUNT, around, brightness, npz_bytes, table


def test_tables_are_read_with_their_columns_of_numbers(tmp_path: Path) -> None:
    shuffled = table().sample(frac=1, random_state=0)
    shuffled.to_parquet(tmp_path / "a.parquet")
    shuffled.to_parquet(tmp_path / "b.parquet", compression="zstd", row_group_size=7)
    shuffled.reset_index(drop=True).to_feather(tmp_path / "c.feather")
    shuffled.reset_index(drop=True).to_feather(tmp_path / "d.arrow", compression="uncompressed")
    for path in sorted(tmp_path.iterdir()):
        record = read_record(path)
        assert record.dtype.names == ("x", "y", "z", "intensity")
        np.testing.assert_array_equal(record["x"], shuffled["x"])
        assert np.isnan(record["z"]).sum() == 1
        assert read_scan(path)[:, 3].max() <= 1


def test_argoverses_sweeps_of_half_floats_are_read(tmp_path: Path) -> None:
    columns = {axis: pa.array(values.astype(np.float16)) for axis, values in zip("xyz", around().T, strict=True)}
    columns |= {"intensity": pa.array(brightness().astype(np.uint8)), "laser_number": pa.array([7] * COUNT, pa.uint8())}
    feather.write_feather(pa.table({**columns, "offset_ns": pa.array([0] * COUNT, pa.int32())}), tmp_path / "a.feather")
    np.testing.assert_array_equal(read_scan(tmp_path / "a.feather")[:, :3], around().astype(np.float16))


def test_what_is_null_or_named_in_upper_case_is_a_number_all_the_same(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"X": [1, None, 3], "Y": [1.5, 2.5, None], "Z": [0, 1, 2]}), tmp_path / "a.parquet")
    record = read_record(tmp_path / "a.parquet")
    np.testing.assert_array_equal(record["x"], [1, np.nan, 3])
    np.testing.assert_array_equal(record["y"], [1.5, 2.5, np.nan])


def test_a_table_that_is_none_of_points_is_named_with_its_columns(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"x": [1], "y": [1], "z": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(ScanError, match="a column of numbers called z; found columns x, y, z"):
        read_record(tmp_path / "a.parquet")
    (tmp_path / "a.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-30])
    with pytest.raises(ScanError, match="it is no whole Parquet file"):
        read_record(tmp_path / "a.parquet")


def test_feathers_first_version_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "a.feather").write_bytes(b"FEA1")
    with pytest.raises(ScanError, match="version 1; write it again as version 2"):
        read_record(tmp_path / "a.feather")


@pytest.mark.parametrize("name", ["a.parquet", "a.feather"])
def test_what_is_missing_to_read_it_is_named_with_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / name).write_bytes(b"PAR1" if "parquet" in name else b"ARROW1")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ScanError, match=r"needs pyarrow, which is not installed: pip install 'spvnas_ros\[tables\]'"):
        read_record(tmp_path / name)


def test_npz_holds_an_array_for_each_field_or_one_of_points(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(npz_bytes())
    record = read_record(tmp_path / "a.npz")
    assert record.dtype.names == ("x", "y", "z", "i")
    np.testing.assert_array_equal(record["i"], brightness())
    np.savez(tmp_path / "b.npz", points=around(), label=brightness(), pose=np.eye(4)[0])
    record = read_record(tmp_path / "b.npz")
    assert record.dtype.names == ("x", "y", "z", "label")
    np.testing.assert_array_equal(record["y"], around()[:, 1])
    np.savez(tmp_path / "c.npz", first=around(), second=around())
    with pytest.raises(ScanError, match=r"one array of points.*found several: first float64"):
        read_record(tmp_path / "c.npz")
    np.savez(tmp_path / "d.npz", names=np.array(["a"]))
    with pytest.raises(ScanError, match="expected arrays x, y and z, or one array"):
        read_record(tmp_path / "d.npz")
    (tmp_path / "e.npz").write_bytes(npz_bytes()[:-40])
    with pytest.raises(ScanError, match="no whole zip file"):
        read_record(tmp_path / "e.npz")
