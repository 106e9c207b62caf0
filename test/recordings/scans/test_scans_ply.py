"""PLY files: elements before the vertices, CloudCompare's names, and what is wrong with a malformed one."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from encoded_scans import PLY_FORMATS, POINTS, ply_bytes, read, record
from spvnas_ros.recordings.scans import ScanError


@pytest.mark.parametrize("form", PLY_FORMATS)
def test_ply_steps_over_elements_before_its_vertices(folder: Path, form: str) -> None:
    points = np.arange(12, dtype=np.float32).reshape(3, 4)
    header = (
        "element face 2\nproperty list uchar int corners\nproperty float area\nelement camera 1\nproperty double f\n"
    )
    order = ">" if "big" in form else "<"
    rows = struct.pack(order + "Biif", 2, 7, 8, 0.5) + struct.pack(order + "Bfd", 0, 1.5, 50.0)
    before = b"2 7 8 0.5\n0 1.5\n50.0\n" if form == "ascii" else rows
    found = read(folder, "faces.ply", ply_bytes(record(points), form, before, header))
    np.testing.assert_array_equal(found, points)


def test_cloudcompare_intensity_is_found_in_ply(folder: Path) -> None:
    points = np.full((2, 4), 0.25, np.float32)
    found = read(folder, "cc.ply", ply_bytes(record(points, "scalar_Intensity"), "binary_little_endian"))
    np.testing.assert_array_equal(found, points)


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("header.ply", b"ply\nformat ascii 1.0\nelement vertex 1\n", "no end_header"),
        ("format.ply", b"ply\nformat ascii 2.0\nend_header\n", "format is 'ascii 2.0'"),
        ("line.ply", b"ply\nformat ascii 1.0\nvertices 3\nend_header\n", "'vertices 3'"),
        ("type.ply", b"ply\nformat ascii 1.0\nelement vertex 1\nproperty half x\nend_header\n", "type 'half'"),
        ("list.ply", b"ply\nformat ascii 1.0\nelement vertex 1\nproperty list uchar int x\nend_header\n", "single"),
        ("none.ply", b"ply\nformat ascii 1.0\nelement face 0\nend_header\n", "no vertex element"),
        ("short.ply", ply_bytes(record(POINTS), "binary_big_endian")[:-40], "cut short"),
        ("short2.ply", ply_bytes(record(POINTS), "ascii")[:-150], "cut short"),
    ],
    ids=lambda value: value if isinstance(value, str) and "." in value and " " not in value else "",
)
def test_a_malformed_ply_is_named_with_what_is_wrong(tmp_path: Path, name: str, data: bytes, says: str) -> None:
    with pytest.raises(ScanError, match=says) as caught:
        read(tmp_path, name, data)
    assert name in str(caught.value)


@pytest.mark.parametrize("form", PLY_FORMATS)
def test_rows_that_do_not_fit_the_header_are_refused(folder: Path, form: str) -> None:
    """A writer whose header says float while its rows are doubles leaves bytes behind the last row."""
    data = ply_bytes(record(POINTS), form)
    more = b"1 2 3 4\n" if form == "ascii" else POINTS.tobytes()
    with pytest.raises(ScanError, match="follow the rows that its header announces"):
        read(folder, "long.ply", data + more)
    np.testing.assert_array_equal(read(folder, "padded.ply", data + b"\n\0\0" * (form != "ascii")), POINTS)


def test_coordinates_may_have_names_in_upper_case(folder: Path) -> None:
    table = record(POINTS)
    table.dtype.names = ("X", "Y", "Z", "Intensity")
    np.testing.assert_array_equal(read(folder, "upper.ply", ply_bytes(table, "ascii")), POINTS)


def test_many_equal_faces_and_other_ones_are_stepped_over(folder: Path) -> None:
    for corners in ((3, 3, 3), (3, 4, 3)):
        faces = b"".join(struct.pack(f"<B{count}i", count, *range(count)) for count in corners)
        data = ply_bytes(record(POINTS), "binary_little_endian").replace(b"element face 1\n", b"element face 3\n")
        np.testing.assert_array_equal(read(folder, "faces.ply", data[: -struct.calcsize("<Biii")] + faces), POINTS)
