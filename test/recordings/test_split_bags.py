"""Recordings in several files, and files out of compressed ones: clouds come by time, and none is lost."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from rosbags.rosbag2 import CompressionFormat, CompressionMode, Writer
from rosbags.typesys import Stores, get_typestore

from made_bags import FILES, STORAGES
from recorded_clouds import COUNT, PERIOD, STAMP, cdr, check, numbered, with_mcap
from spvnas_ros.recordings.bags import CLOUD_TYPE, BagError, BagReader, BagWriter
from spvnas_ros.recordings.bags import STORAGES as PLUGINS
from spvnas_ros.recordings.scans import open_source


def write(path: Path, storage: str, numbers: tuple[int, ...], topic: str = "/points") -> Path:
    with BagWriter(path, storage) as bag:
        for number in numbers:
            bag.write(topic, cdr(number), STAMP + number * PERIOD)
    return path


def overlapping(folder: Path, storage: str, metadata: bool) -> Path:
    """A bag of two files whose times overlap, as a recorder with several threads splits."""
    parts = [write(folder.parent / f"part_{at}", storage, numbers) for at, numbers in enumerate(((0, 2), (1, 3)))]
    folder.mkdir()
    for part in parts:
        shutil.copy(part / f"{part.name}{FILES[storage]}", folder)
    if metadata:
        text = (parts[0] / "metadata.yaml").read_text()
        files = "\n".join(f"  - part_{at}{FILES[storage]}" for at in range(2))
        text = text.replace(f"  - part_0{FILES[storage]}", files, 1).replace("message_count: 2", "message_count: 4")
        assert "part_1" in text
        (folder / "metadata.yaml").write_text(text)
    return folder


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("metadata", [True, False])
def test_files_that_overlap_are_merged_by_time(tmp_path: Path, storage: str, metadata: bool) -> None:
    path = overlapping(tmp_path / "bag", storage, metadata)
    check(path)
    with BagReader(path) as reader:
        assert [cloud.stamp for cloud in reader.since(STAMP + 2 * PERIOD)] == [STAMP + 2 * PERIOD, STAMP + 3 * PERIOD]
        assert (reader.storage, reader.span) == (storage, (STAMP, STAMP + 3 * PERIOD))


def test_files_of_several_kinds_in_a_folder_are_one_recording(tmp_path: Path) -> None:
    folder = tmp_path / "drive"
    folder.mkdir()
    with_mcap(folder / "b.mcap", numbered((1, 3)))
    part = write(tmp_path / "part", "sqlite3", (0, 2))
    shutil.copy(part / "part.db3", folder)
    check(folder)
    with open_source(folder) as source:
        assert (source.kind, sorted(file.name for file in source.files)) == ("bag", ["b.mcap", "part.db3"])


@pytest.mark.parametrize("metadata", [True, False])
def test_a_split_bag_whose_last_file_was_cut_off_is_read_up_to_there(tmp_path: Path, metadata: bool) -> None:
    path = overlapping(tmp_path / "bag", "mcap", metadata)
    last = path / "part_1.mcap"
    with_mcap(last, numbered((1, 3)), "ros2", chunk_size=1)
    last.write_bytes(last.read_bytes()[: last.stat().st_size // 2])
    check(path, count=3)
    with open_source(path) as source:
        assert "part_1.mcap was cut off at byte" in source.remarks[0]
    last.write_bytes(b"")
    with open_source(path) as source:
        assert [frame.stamp for frame in source] == [STAMP, STAMP + 2 * PERIOD]
        assert "part_1.mcap cannot be read and is left out: it is empty" in source.remarks[0]
    last.unlink()
    if metadata:
        with pytest.raises(BagError, match="missing"):
            open_source(path)


@pytest.mark.parametrize("storage", STORAGES)
def test_a_file_out_of_a_bag_compressed_by_message_is_read_by_itself(tmp_path: Path, storage: str) -> None:
    bag = Writer(tmp_path / "bag", version=8, storage_plugin=PLUGINS[storage])
    bag.set_compression(CompressionMode.MESSAGE, CompressionFormat.ZSTD)
    with bag:
        connection = bag.add_connection("/points", CLOUD_TYPE, typestore=get_typestore(Stores.ROS2_HUMBLE))
        for number in range(COUNT):
            bag.write(connection, STAMP + number * PERIOD, cdr(number))
    check(tmp_path / "bag")
    check(next((tmp_path / "bag").glob(f"*{FILES[storage]}*")))
    (tmp_path / "bag/metadata.yaml").unlink()
    check(tmp_path / "bag")
    with BagReader(tmp_path / "bag") as reader:
        assert [cloud.cdr for cloud in reader] == [cdr(number) for number in range(COUNT)]


def test_a_bag_of_ros_1_beside_scans_does_not_make_them_a_recording(tmp_path: Path) -> None:
    (tmp_path / "0.bin").write_bytes(bytes(160))
    (tmp_path / "drive.bag").write_bytes(b"#ROSBAG V2.0\n")
    with open_source(tmp_path) as source:
        assert (source.kind, len(source)) == ("folder", 1)
    (tmp_path / "0.bin").unlink()
    with pytest.raises(BagError, match="cannot be read as a bag"):
        open_source(tmp_path)


def test_a_folder_whose_files_cannot_be_read_names_them(tmp_path: Path) -> None:
    for name in ("a.mcap", "b.db3"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(BagError, match=r"a\.mcap cannot be read.*b\.db3 cannot be read"):
        open_source(tmp_path)
