"""Data sets in the layouts of their own are sources of frames: each test writes a small one, file by file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spvnas_cli import spvnas
from spvnas_ros.engine.sample_street import street_scan
from spvnas_ros.recordings.scans import ScanError, open_source

DRIVES = ("2011_09_26_drive_0001_sync", "2011_09_28_drive_0002_sync")
SCANS = 2


def write_drives(root: Path) -> Path:
    """KITTI's raw drives: DAY/DRIVE/velodyne_points/data/0000000000.bin beside timestamps, cameras and calibration."""
    for drive in DRIVES:
        folder = root / drive[:10] / drive / "velodyne_points" / "data"
        folder.mkdir(parents=True)
        for number in range(SCANS):
            street_scan(number, 16, 360)[0].tofile(folder / f"{number:010d}.bin")
        (folder.parent / "timestamps.txt").write_text("2011-09-26 13:02:25.951199337\n" * SCANS)
        (folder.parents[1] / "image_02" / "data").mkdir(parents=True)
        (folder.parents[2] / "calib_velo_to_cam.txt").write_text("R: 1 0 0 0 1 0 0 0 1\nT: 0 0 0\n")
    return root


def test_raw_drives_are_found_from_the_drive_the_day_or_the_root(tmp_path: Path) -> None:
    root = write_drives(tmp_path / "raw")
    one = root / DRIVES[0][:10] / DRIVES[0]
    stems = [f"{number:010d}" for number in range(SCANS)]
    for path in (one, one / "velodyne_points", one / "velodyne_points" / "data"):
        with open_source(path) as source:
            assert (source.kind, [frame.name for frame in source]) == ("folder", stems)
    for path, drives in ((one.parent, DRIVES[:1]), (root, DRIVES)):
        with open_source(path) as source:
            assert source.kind == "dataset"
            assert [frame.name for frame in source] == [f"{drive}/{stem}" for drive in drives for stem in stems]
            np.testing.assert_array_equal(next(iter(source)).load().points, street_scan(0, 16, 360)[0])
            assert source.sensor.describe() == "intensity from field 'intensity', taken as it is (unit)"


def test_raw_drives_are_labelled_and_examined(tmp_path: Path) -> None:
    root = write_drives(tmp_path / "raw")
    done = spvnas("segment", root, "-o", tmp_path / "out", "--device", "cpu")
    assert done.exit_code == 0, done.output
    for drive in DRIVES:
        labels = tmp_path / "out" / "sequences" / drive / "predictions" / "0000000001.label"
        assert labels.stat().st_size == 4 * len(street_scan(1, 16, 360)[0])
    assert f"{SCANS * len(DRIVES)} can be read" in spvnas("doctor", root).output


def test_what_a_drive_lacks_is_told(tmp_path: Path) -> None:
    root = write_drives(tmp_path / "raw")
    day = root / DRIVES[0][:10]
    (root / "copy").mkdir()
    (day / DRIVES[0]).rename(root / "copy" / DRIVES[1])
    with pytest.raises(ScanError, match=rf"{DRIVES[1]} and .*{DRIVES[1]} would get the same folder"):
        open_source(root)
    data = root / "copy" / DRIVES[1] / "velodyne_points" / "data"
    for file in data.iterdir():
        file.rename(file.with_suffix(".txt"))
    with pytest.raises(ScanError, match=r"holds no scans.*found 0000000000\.txt"):
        open_source(root / "copy")
