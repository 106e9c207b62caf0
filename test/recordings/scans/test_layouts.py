"""Data sets in the layouts of their own are sources of frames: each test writes a small one, file by file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import feather

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


LOGS = ("02678d04-cc9f-3148-9f95-1ba66347dff9", "05fa5048-f355-3274-b565-c0ddc547b315")


def write_logs(root: Path) -> Path:
    """Argoverse 2: sensor/SPLIT/LOG/sensors/lidar/TIMESTAMP.feather, written by pyarrow as the set's own files are.

    Columns: x, y, z (float16, metres, the vehicle's frame), intensity and laser_number (uint8), offset_ns (int32).
    Beside them annotations.feather (cuboids), calibration/ and city_SE3_egovehicle.feather.
    """
    for place, log in enumerate(LOGS):
        folder = root / "sensor" / ("val" if place else "train") / log
        (folder / "sensors" / "lidar").mkdir(parents=True)
        (folder / "calibration").mkdir()
        feather.write_feather(pa.table({"category": ["BUS"], "tx_m": [3.0]}), folder / "annotations.feather")
        for number in range(SCANS):
            write_table(folder / "sensors" / "lidar" / f"{315966265259836000 + number * 10**8}.feather", number)
    return root / "sensor"


def write_table(path: Path, number: int, **others: np.ndarray) -> None:
    points = street_scan(number, 16, 200)[0]
    columns = dict(zip("xyz", (points[:, :3] + (1.35, 0, 1.64)).astype(np.float16).T, strict=True))
    columns |= {"intensity": np.rint(points[:, 3] * 255).astype(np.uint8)}
    columns |= {"laser_number": np.zeros(len(points), np.uint8), "offset_ns": np.arange(len(points), dtype=np.int32)}
    feather.write_feather(pa.table(columns | others), path, compression="zstd")


def test_argoverses_logs_are_found_alone_by_split_and_from_the_root(tmp_path: Path) -> None:
    root = write_logs(tmp_path)
    stems = ["315966265259836000", "315966265359836000"]
    with open_source(root / "val" / LOGS[1]) as source:
        assert (source.kind, [frame.name for frame in source]) == ("folder", stems)
    for path, logs in ((root / "val", LOGS[1:]), (root, LOGS), (tmp_path, LOGS)):
        with open_source(path) as source:
            assert [frame.name for frame in source] == [f"{log}/{stem}" for log in logs for stem in stems]
            cloud, points = next(iter(source)).load(), street_scan(0, 16, 200)[0]
            np.testing.assert_allclose(cloud.points[:, :3], points[:, :3] + (1.35, 0, 1.64), rtol=1e-3, atol=1e-2)
            np.testing.assert_allclose(cloud.points[:, 3], points[:, 3], atol=0.5 / 255 + 1e-6)
            assert (cloud.record["offset_ns"] == np.arange(len(points))).all()


def test_a_log_is_labelled_and_its_mount_is_told(tmp_path: Path) -> None:
    log = write_logs(tmp_path) / "train" / LOGS[0]
    done = spvnas("segment", log, "-o", tmp_path / "out", "--device", "cpu")
    assert done.exit_code == 0, done.output
    assert len([*(tmp_path / "out" / "labels").glob("*.label")]) == SCANS
    assert "warning: ground" in done.stderr
    assert "--mount" in done.stderr


def test_damaged_tables_are_named(tmp_path: Path) -> None:
    folder = write_logs(tmp_path) / "train" / LOGS[0] / "sensors" / "lidar"
    file = sorted(folder.iterdir())[0]
    whole = file.read_bytes()

    def message() -> str:
        with open_source(folder.parents[1], intensity="u8") as source, pytest.raises(ScanError) as caught:
            next(iter(source)).load()
        return str(caught.value)

    for broken in (b"", whole[:100], whole[: len(whole) // 2], b"FEA1" + whole[4:], b"x" * 100):
        file.write_bytes(broken)
        assert file.name in message()
    feather.write_feather(pa.table({"x": [1.0], "y": [1.0]}), file)
    assert "has no column 'z'" in message()
    write_table(file, 0, intensity=np.full(len(street_scan(0, 16, 200)[0]), 300, np.int64))
    assert "column 'intensity' goes from 300 to 300, expected 0 to 255" in message()
    for path in folder.iterdir():
        path.unlink()
    with pytest.raises(ScanError, match=r"holds no scans, expected Argoverse 2's"):
        open_source(folder.parents[1])
