"""A folder, a sequence or one scan is a source of frames; what is none is named with what was found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from encoded_scans import POINTS
from spvnas_ros.recordings.bags import BagError
from spvnas_ros.recordings.scans import ScanError, open_source, read_scan, scan_files


def save(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        POINTS.tofile(folder / name)


def test_a_folder_gives_its_scans_in_natural_order(tmp_path: Path) -> None:
    save(tmp_path, "10.bin", "2.bin", "1.bin", "._1.bin", "notes.txt")
    with open_source(tmp_path) as source:
        assert (source.kind, len(source)) == ("folder", 3)
        assert [frame.name for frame in source] == ["1", "2", "10"]
        np.testing.assert_array_equal(next(iter(source)).load().points, POINTS)


def test_points_in_text_beside_other_scans_are_left_out_and_told(tmp_path: Path) -> None:
    save(tmp_path, "1.bin")
    (tmp_path / "notes.txt").write_text("rain, 3 degrees\n")
    with open_source(tmp_path) as source:
        assert source.remarks == ()
    (tmp_path / "2.csv").write_text("x,y,z\n1,2,3\n4,5,6\n")
    with open_source(tmp_path) as source:
        assert [frame.name for frame in source] == ["1"]
        (remark,) = source.remarks
        assert remark.startswith("2.csv left out: beside other scans")
    (tmp_path / "1.bin").unlink()
    with open_source(tmp_path) as source:
        assert ([frame.name for frame in source], source.remarks) == (["2"], ())


def test_a_sequence_folder_gives_the_scans_of_its_velodyne_folder(shared: Path) -> None:
    with open_source(shared / "data/semantickitti/sequences/00") as source:
        assert [frame.name for frame in source] == ["000000", "000009"]
        assert all(frame.load().message is None for frame in source)


def test_one_scan_is_a_source_of_one_frame(tmp_path: Path) -> None:
    save(tmp_path, "one.bin")
    with open_source(tmp_path / "one.bin") as source:
        assert (source.kind, len(source), source.topic) == ("scan", 1, "")
        assert [frame.name for frame in source] == ["one"]


def test_a_bad_scan_in_a_folder_does_not_hide_the_others(tmp_path: Path) -> None:
    save(tmp_path, "1.bin", "3.bin")
    (tmp_path / "2.bin").write_bytes(b"short")
    with open_source(tmp_path) as source:
        frames = list(source)
        assert len(frames[0].load().points) == len(frames[2].load().points) == 10
        with pytest.raises(ScanError, match=r"2\.bin"):
            frames[1].load()


def test_what_is_no_source_is_named_with_what_was_found(tmp_path: Path) -> None:
    with pytest.raises(ScanError, match="does not exist"):
        open_source(tmp_path / "missing")
    with pytest.raises(ScanError, match="found nothing"):
        open_source(tmp_path)
    (tmp_path / "readme.txt").write_text("hello")
    with pytest.raises(ScanError, match=r"found readme\.txt"):
        open_source(tmp_path)
    with pytest.raises(ScanError, match="no rows of numbers, only 'hello'"):
        read_scan(tmp_path / "readme.txt")
    (tmp_path / "readme.md").write_text("hello")
    with pytest.raises(ScanError, match="no known format"):
        open_source(tmp_path / "readme.md")
    (tmp_path / "old.bag").write_bytes(b"#ROSBAG V2.0\n")
    with pytest.raises(BagError, match="cannot be read as a bag"):
        open_source(tmp_path / "old.bag")
    with pytest.raises(ScanError, match="missing"):
        read_scan(tmp_path / "missing.bin")
    save(tmp_path, "1.bin", "1.pcd")
    with pytest.raises(ScanError, match="same label file"):
        scan_files(tmp_path)
    with pytest.raises(ScanError, match="no topic /points"):
        open_source(tmp_path / "1.bin", topic="/points")
