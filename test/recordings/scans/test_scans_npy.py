"""Numpy files: how many columns there may be, and what is wrong with a malformed one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from encoded_scans import POINTS, npy_bytes, read
from spvnas_ros.recordings.scans import ScanError


def test_three_columns_have_no_intensity_and_more_than_four_are_read_in_front(folder: Path) -> None:
    wide = np.random.default_rng(0).random((6, 7))
    np.testing.assert_array_equal(read(folder, "w.npy", npy_bytes(wide)), wide[:, :4].astype(np.float32))
    bare = read(folder, "n.npy", npy_bytes(wide[:, :3]))
    np.testing.assert_array_equal(bare, np.c_[wide[:, :3], np.zeros(6)].astype(np.float32))


def test_an_intensity_of_words_is_none(folder: Path) -> None:
    words = np.ones(3, [("x", "f4"), ("y", "f4"), ("z", "f4"), ("i", "U4")])
    np.testing.assert_array_equal(read(folder, "words.npy", npy_bytes(words)), [[1, 1, 1, 0]] * 3)


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("short.npy", npy_bytes(POINTS)[:-1], "no whole numpy array"),
        ("pickle.npy", npy_bytes(np.array([[1, "a"]], object)), "no whole numpy array"),
        ("flat.npy", npy_bytes(np.zeros(8, np.float32)), r"float32 \(8,\)"),
        ("two.npy", npy_bytes(np.zeros((8, 2), np.float32)), r"\(8, 2\)"),
        ("text.npy", npy_bytes(np.zeros((8, 4), "U3")), "expected numbers"),
        ("names.npy", npy_bytes(np.zeros(3, [("x", "f4"), ("y", "f4"), ("z", "U4")])), "called z"),
    ],
    ids=lambda value: value if isinstance(value, str) and "." in value and " " not in value else "",
)
def test_a_malformed_npy_is_named_with_what_is_wrong(tmp_path: Path, name: str, data: bytes, says: str) -> None:
    with pytest.raises(ScanError, match=says) as caught:
        read(tmp_path, name, data)
    assert name in str(caught.value)
