"""Text as surveyors, CloudCompare, pandas, Excel and Leica write it: the layout is found, or asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spvnas_ros.recordings.scans import Record, ScanError, open_source, read_record, read_scan
from spvnas_ros.recordings.scans.columns import parse_columns
from surveyed_scans import ORIGIN, around, brightness, table, text_bytes


def read(folder: Path, text: str | bytes, name: str = "a.txt", columns: str | None = None) -> Record:
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_record(folder / name, parse_columns(columns) if columns else None)


@pytest.mark.parametrize(
    ("separator", "header", "name"),
    [
        (" ", "", "a.xyz"),
        ("   ", "", "a.asc"),
        ("\t", "X\tY\tZ\tIntensity\n", "a.txt"),
        (",", "x,y,z,intensity\n", "a.csv"),
        (",", "\ufeffx,y,z,i\n", "a.csv"),
        (";", "Easting [m];Northing [m];Elevation [m];Reflectance\n", "a.csv"),
        (" ", "//X Y Z Intensity\n120\n", "a.asc"),
        (" ", "# made by hand\n# x y z intensity\n", "a.xyz"),
        (" ", "120\n", "a.pts"),
        (",", '"Points_m_XYZ:0","Points_m_XYZ:1","Points_m_XYZ:2","intensity"\n', "a.csv"),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_separator_header_and_comments_are_found(
    tmp_path: Path, separator: str, header: str, name: str, end: str
) -> None:
    text = text_bytes(separator, header).replace(b"\n", end.encode())
    record = read(tmp_path, text, name)
    for axis, values in zip("xyz", (around() + ORIGIN).T, strict=True):
        np.testing.assert_array_equal(record[axis], np.round(values, 3))
    assert len(record.dtype.names) == 4
    np.testing.assert_array_equal(record[record.dtype.names[3]], brightness())
    np.testing.assert_allclose(read_scan(tmp_path / name)[:, 3], brightness() / 255, atol=1e-6)


def test_what_pandas_writes_is_read_with_its_index_its_text_and_its_gaps(tmp_path: Path) -> None:
    for options in ({}, {"index": False}, {"sep": ";", "decimal": ","}, {"sep": "\t", "quoting": 2}):
        table().to_csv(tmp_path / "a.csv", **options)
        record = read_record(tmp_path / "a.csv")
        assert record.dtype.names == ("x", "y", "z", "intensity")
        np.testing.assert_array_equal(record["x"], table()["x"])
        np.testing.assert_array_equal(np.flatnonzero(np.isnan(record["z"])), [3])


def test_an_index_without_a_name_and_colours_are_told_from_coordinates(tmp_path: Path) -> None:
    rows = "".join(f"{i} {i * 1.5} 2.5 3.5\n" for i in range(9))
    assert read(tmp_path, rows).dtype.names == ("x", "y", "z")
    rows = "".join(f"{i * 1.5} 2.5 3.5 -{i} 255 0 {i}\n" for i in range(9))
    record = read(tmp_path, rows, "a.pts")
    assert record.dtype.names == ("x", "y", "z", "intensity", "red", "green", "blue")
    np.testing.assert_array_equal(record["intensity"], 2048 - np.arange(9))  # Leica's -2048 to 2047
    assert read(tmp_path, rows, "a.xyz")["intensity"].min() == -8


def test_named_columns_are_taken_in_their_order(tmp_path: Path) -> None:
    record = read(tmp_path, "7 1 2 3 0.5\n8 4 5 6 0.6\n", columns="time,x,y,z,intensity")
    assert (record["y"].tolist(), record["time"].tolist()) == ([2, 5], [7, 8])
    record = read(tmp_path, "a;1;2;3\nb;4;5;6\n", columns="name,x,y,z")
    assert record.dtype.names == ("x", "y", "z")
    with open_source(tmp_path / "a.txt", columns="name,x,y,z") as source:
        assert next(iter(source)).load().record["z"].tolist() == [3, 6]


@pytest.mark.parametrize(
    ("text", "columns", "says"),
    [
        ("hello world\n", None, "holds no rows of numbers, only 'hello world'"),
        ("x,y,w\n1,2,3\n", None, r"its header has no z: x, y, w; .*--columns"),
        ("1 2\n3 4\n", None, "its rows hold 2 columns"),
        ("1 2 3\n4 5\n", None, "line 2 has 2 columns, the first row 3"),
        ("1 2 3\n" * 300 + "a b c\n", None, "could not convert string 'a'"),
        ("1 2 3\n" * 300 + "1 2\n", None, "rows of numbers"),
        ("4\n1 2 3\n4 5 6\n", None, "announces 4 points, found 2"),
        ("x,y,z\n1,b,3\n", None, "its column y holds no numbers"),
        ("1,2,3\n", "x,y,z,intensity", "it has 3 columns, --columns names 4"),
        (b"\xff\xfe1\x00", None, "UTF-16"),
        (b"1 2 3\0", None, "it is no text"),
        (
            "".join(f"1e30 {i}e20 3 4\n" for i in range(99)),
            None,
            "its columns cannot be x, y, z, intensity: x is beyond",
        ),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str | bytes, columns: str | None, says: str) -> None:
    with pytest.raises(ScanError, match=says):
        read(tmp_path, text, columns=columns)


def test_in_a_folder_txt_and_csv_are_scans_where_nothing_else_is_and_they_hold_points(tmp_path: Path) -> None:
    (tmp_path / "calib.txt").write_text("P0: 7.1 0 6.0 0\nP1: 7.1 0 6.0 0\n")
    (tmp_path / "times.txt").write_text("0.0\n0.1\n")
    read(tmp_path, text_bytes(), "cloud.txt")
    with open_source(tmp_path) as source:
        assert [frame.name for frame in source] == ["cloud"]
    np.save(tmp_path / "scan.npy", np.zeros((2, 4)))
    with open_source(tmp_path) as source:
        assert [frame.name for frame in source] == ["scan"]


def test_no_points_are_a_cloud_without_points(tmp_path: Path) -> None:
    for text in ("", "# nothing\n", "\n\n"):
        assert len(read(tmp_path, text)) == 0
