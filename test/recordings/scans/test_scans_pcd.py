"""PCD files: padding, fields of several values, LZF, and what is wrong with a malformed one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from encoded_scans import PCD_ENCODINGS, POINTS, lzf_compress, pcd_bytes, read, record
from spvnas_ros.recordings.scans import ScanError
from spvnas_ros.recordings.scans.pcd import lzf_decompress


@pytest.mark.parametrize("encoding", PCD_ENCODINGS)
def test_pcd_reads_past_padding_and_fields_of_several_values(folder: Path, encoding: str) -> None:
    columns = [("x", "<f4"), ("_1", "<u1", (3,)), ("y", "<f4"), ("_2", "<u1"), ("z", "<f8"), ("fpfh", "<f4", (33,))]
    table = np.zeros(7, columns)
    table["x"], table["y"], table["z"], table["fpfh"] = np.arange(7), -np.arange(7), 0.5, 9
    found = read(folder, "padded.pcd", pcd_bytes(table, encoding))
    np.testing.assert_array_equal(found, np.stack([table["x"], table["y"], table["z"], np.zeros(7)], 1))


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("empty.pcd", b"", "no DATA line"),
        ("text.pcd", b"hello", "no DATA line"),
        ("fields.pcd", b"VERSION 0.7\nDATA ascii\n", "lacks FIELDS, SIZE, TYPE"),
        ("uneven.pcd", b"FIELDS x y z\nSIZE 4 4\nTYPE F F F\nPOINTS 0\nDATA ascii\n", "as many of each"),
        ("type.pcd", b"FIELDS x\nSIZE 2\nTYPE F\nPOINTS 0\nDATA ascii\n", "type 'F' of 2 bytes"),
        ("data.pcd", pcd_bytes(record(POINTS), "binary").replace(b"DATA binary", b"DATA zip"), "DATA is 'zip'"),
        ("area.pcd", pcd_bytes(record(POINTS), "binary").replace(b"WIDTH 10", b"WIDTH 11"), "WIDTH x HEIGHT is 11"),
        ("count.pcd", pcd_bytes(record(POINTS), "ascii").replace(b"POINTS 10", b"POINTS -1"), "must be a count"),
        ("short.pcd", pcd_bytes(record(POINTS), "binary")[:-1], "cut short"),
        ("short2.pcd", pcd_bytes(record(POINTS), "binary_compressed")[:-1], "cut short"),
        ("short3.pcd", pcd_bytes(record(POINTS[:9]), "ascii").replace(b" 9\n", b" 10\n"), "cut short"),
        ("short4.pcd", pcd_bytes(record(POINTS), "ascii")[:-30], "number of columns changed"),
        ("word.pcd", pcd_bytes(record(POINTS), "ascii").replace(b"0.025", b"zero"), "does not hold rows of numbers"),
        ("noz.pcd", pcd_bytes(record(POINTS)[["x", "y"]].copy(), "ascii"), "called z"),
        ("huge.pcd", pcd_bytes(record(POINTS), "ascii").replace(b" 10\n", b" 99999999999999\n"), "cut short"),
        ("huge2.pcd", pcd_bytes(record(POINTS), "binary").replace(b" 10\n", b" 99999999999999\n"), "cut short"),
    ],
    ids=lambda value: value if isinstance(value, str) and "." in value and " " not in value else "",
)
def test_a_malformed_pcd_is_named_with_what_is_wrong(tmp_path: Path, name: str, data: bytes, says: str) -> None:
    with pytest.raises(ScanError, match=says) as caught:
        read(tmp_path, name, data)
    assert name in str(caught.value)


def test_lzf_agrees_with_what_liblzf_writes() -> None:
    text = b"abcabcabcabcabcabc spvnas spvnas"
    assert lzf_decompress(bytes.fromhex("0361626361e0050206207370766e61736006016173"), len(text)) == text


@given(st.lists(st.sampled_from([b"a", b"bc", b"\0" * 300, b"abcdefgh" * 5, b"xyz"]), max_size=60).map(b"".join))
def test_lzf_gives_back_what_was_compressed(data: bytes) -> None:
    assert lzf_decompress(lzf_compress(data), len(data)) == data


@given(st.binary(max_size=60), st.integers(0, 500))
def test_damaged_lzf_never_gives_another_size(data: bytes, size: int) -> None:
    try:
        assert len(lzf_decompress(data, size)) == size
    except ScanError:
        return


@pytest.mark.parametrize("encoding", PCD_ENCODINGS)
def test_rows_that_do_not_fit_the_header_are_refused(folder: Path, encoding: str) -> None:
    more = b"1 2 3 4\n" if encoding == "ascii" else POINTS.tobytes()
    with pytest.raises(ScanError, match="follow the rows that its header announces"):
        read(folder, "long.pcd", pcd_bytes(record(POINTS), encoding) + more)
