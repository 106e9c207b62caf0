"""Scans come back from every format as they were written, and a damaged file is a ScanError, never anything else."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from encoded_scans import PCD_ENCODINGS, PLY_FORMATS, POINTS, npy_bytes, pcd_bytes, ply_bytes, read, record, scans
from spvnas_ros.clouds.intensity import Intensity
from spvnas_ros.recordings.scans import ScanError, read_scan
from spvnas_ros.recordings.scans.read import read_record


def written(points: np.ndarray) -> dict[str, bytes]:
    """The same points in every format, by file name."""
    table = record(points)
    return {
        "a.bin": points.tobytes(),
        "a.npy": npy_bytes(points),
        "b.npy": npy_bytes(table),
        "c.npy": npy_bytes(np.asfortranarray(points.astype(np.float64))),
        **{f"{encoding}.pcd": pcd_bytes(table, encoding) for encoding in PCD_ENCODINGS},
        **{f"{form}.ply": ply_bytes(table, form) for form in PLY_FORMATS},
    }


@settings(max_examples=60)
@given(points=scans)
def test_every_format_gives_back_what_was_written(folder: Path, points: np.ndarray) -> None:
    for name, data in written(points).items():
        found = read(folder, name, data)
        assert found.dtype == np.float32, name
        np.testing.assert_array_equal(found, points, err_msg=name)


@contextlib.contextmanager
def counting_lines() -> Iterator[list[int]]:
    """How many lines of Python run: what a parser costs, however busy the machine is."""
    count, before = [0], sys.gettrace()

    def trace(_: FrameType, event: str, __: Any) -> Any:
        count[0] += event == "line"
        return trace

    sys.settrace(trace)
    try:
        yield count
    finally:
        sys.settrace(before)


def test_a_real_scan_survives_every_format_and_quickly(folder: Path, full_scan: np.ndarray) -> None:
    scan = full_scan[:10000]
    for name, data in written(scan).items():
        path = folder / name
        path.write_bytes(data)
        with counting_lines() as lines:
            found = read_scan(path)
        # No parser loops over the points; LZF loops over runs, of which random numbers have one or two a value.
        assert lines[0] < (2 * len(data) if path.stem == "binary_compressed" else 5000), name
        np.testing.assert_array_equal(found, scan, err_msg=name)


@settings(max_examples=60)
@given(data=st.data())
def test_fields_are_found_by_name_among_others_of_any_type(folder: Path, data: st.DataObject) -> None:
    kinds = ("<i1", "<u1", "<i2", "<u2", "<i4", "<u4", "<f4", "<f8")
    extras = data.draw(st.lists(st.sampled_from(kinds), max_size=4))
    coordinate = data.draw(st.sampled_from(("<i2", "<i4", "<f4", "<f8")))
    fields = [(name, coordinate) for name in "xyz"] + [("intensity", "<u2")]
    fields += [(f"extra{i}", kind) for i, kind in enumerate(extras)]
    table = np.zeros(5, data.draw(st.permutations(fields)))
    for i, name in enumerate(table.dtype.names):
        table[name] = np.arange(5) + i
    expected = np.stack([table[n].astype(np.float32) for n in ("x", "y", "z", "intensity")], 1)
    expected[:, 3] /= 255  # whole numbers far below 65535
    files = {f"{e}.pcd": pcd_bytes(table, e) for e in PCD_ENCODINGS} | {"s.npy": npy_bytes(table)}
    for name, content in (files | {f"{f}.ply": ply_bytes(table, f) for f in PLY_FORMATS}).items():
        np.testing.assert_allclose(read(folder, name, content, "auto"), expected, rtol=1e-6, err_msg=name)


def test_a_file_is_read_by_its_content_whatever_its_name(folder: Path) -> None:
    points = np.ones((3, 4), np.float32)
    for name, data in written(points).items():
        if name != "a.bin":
            np.testing.assert_array_equal(read(folder, "cloud", data), points, err_msg=name)
            np.testing.assert_array_equal(read(folder, "cloud.bin", data), points, err_msg=name)


def test_the_intensity_rule_is_the_callers_and_scales_all_scans_of_its_sensor_alike(folder: Path) -> None:
    bright, dark = np.full((2, 4), 200, np.float32), np.full((2, 4), 0.5, np.float32)
    rule = Intensity("auto")
    (folder / "bright.bin").write_bytes(bright.tobytes())
    (folder / "dark.bin").write_bytes(dark.tobytes())
    rule.settle(read_record(folder / name) for name in ("dark.bin", "bright.bin"))
    assert read_scan(folder / "dark.bin", rule)[0, 3] == pytest.approx(0.5 / 255)
    assert read_scan(folder / "bright.bin", rule)[0, 3] == pytest.approx(200 / 255)
    assert read_scan(folder / "dark.bin", rule)[0, 3] == pytest.approx(0.5 / 255)
    assert read_scan(folder / "bright.bin", "none")[0, 3] == 0
    with pytest.raises(ValueError, match="intensity rule"):
        read_scan(folder / "bright.bin", "percent")


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("cloud.xyzzy", b"LASF"[::-1], "format is not known"),
    ],
    ids=lambda value: value if isinstance(value, str) and "." in value and " " not in value else "",
)
def test_an_unknown_format_is_named_with_what_is_wrong(tmp_path: Path, name: str, data: bytes, says: str) -> None:
    with pytest.raises(ScanError, match=says) as caught:
        read(tmp_path, name, data)
    assert name in str(caught.value)


@settings(max_examples=400)
@given(data=st.data())
def test_damaged_files_raise_scan_errors_only(folder: Path, data: st.DataObject) -> None:
    name, content = data.draw(st.sampled_from(sorted(written(POINTS).items())))
    damaged = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(damaged)))
        end = min(len(damaged), at + data.draw(st.integers(0, 3)))
        damaged[at:end] = data.draw(st.binary(max_size=3))
    if data.draw(st.booleans()):
        del damaged[data.draw(st.integers(0, len(damaged))) :]
    try:
        points = read(folder, name, bytes(damaged))
    except ScanError:
        return
    assert points.dtype == np.float32
    assert points.shape == (len(points), 4)


@given(text=st.binary(max_size=400), start=st.sampled_from([b"ply\n", b"FIELDS ", b"\x93NUMPY", b"# .PCD v0.7\n", b""]))
def test_any_bytes_behind_a_format_mark_raise_scan_errors_only(folder: Path, text: bytes, start: bytes) -> None:
    try:
        read(folder, "anything", start + text)
    except ScanError:
        return
