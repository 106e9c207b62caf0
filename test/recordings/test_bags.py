"""Bags: clouds come out as they were recorded, and what cannot be read is named."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rosbags.rosbag2 import CompressionFormat, CompressionMode, Writer
from rosbags.typesys import Stores, get_typestore

from made_bags import CLOUD, FILES, STORAGES, cloud, make_bag
from spvnas_ros.clouds.point_cloud2 import decode
from spvnas_ros.recordings.bags import CLOUD_TYPE, BagError, BagReader, BagWriter, RecordedCloud, encode
from spvnas_ros.recordings.bags import STORAGES as PLUGINS
from spvnas_ros.recordings.scans import ScanError, open_source


@pytest.mark.parametrize("storage", STORAGES)
def test_a_real_bag_gives_its_clouds_and_stamps(shared: Path, storage: str) -> None:
    with BagReader(shared / f"data/bags/vlp16_pointcloud2_{storage}") as bag:
        assert (bag.topic, bag.storage, len(bag)) == ("/velodyne_points", storage, 4)
        clouds = list(bag)
        assert clouds[0].stamp == 1673400471837873222
        assert [len(decode(c.decode())) for c in clouds] == [29269, 29202, 29248, 29108]
        assert [c.stamp for c in bag] == [c.stamp for c in clouds]  # a second time


@pytest.mark.parametrize("storage", STORAGES)
def test_a_storage_file_by_itself_is_a_bag_too(shared: Path, tmp_path: Path, storage: str) -> None:
    file = next((shared / f"data/bags/vlp16_pointcloud2_{storage}").glob(f"*{FILES[storage]}"))
    folder = tmp_path / "lost_its_metadata"
    folder.mkdir()
    shutil.copyfile(file, folder / file.name)
    for path in (file, folder):
        with open_source(path) as source:
            assert (source.kind, source.storage, len(source)) == ("bag", storage, 4)
            frames = [(frame.name, frame.load()) for frame in source]
        assert [name for name, _ in frames] == ["000000", "000001", "000002", "000003"]
        assert [len(c.points) for _, c in frames] == [29269, 29202, 29248, 29108]
        assert all(c.points[:, 3].min() >= 0 and 0.1 < c.points[:, 3].max() <= 1 for _, c in frames)


def test_the_topic_must_be_named_where_there_are_several(tmp_path: Path) -> None:
    path = make_bag(tmp_path / "bag", topics=("/front", "/rear"))
    with pytest.raises(BagError, match=r"--topic: /front \(3 clouds\), /rear \(3 clouds\)"):
        BagReader(path)
    with pytest.raises(BagError, match="no cloud topic /side; found /front"):
        open_source(path, topic="/side")
    for name in ("/rear", "rear"):
        with open_source(path, topic=name) as source:
            assert (source.topic, len(source), len(list(source))) == ("/rear", 3, 3)


def test_a_bag_without_clouds_says_what_it_has(tmp_path: Path) -> None:
    path = make_bag(tmp_path / "bag", topics=())
    with pytest.raises(BagError, match=r"no topic of type .*found /chatter \(std_msgs/msg/String\)"):
        BagReader(path)


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("mode", [CompressionMode.MESSAGE, CompressionMode.FILE])
def test_compressed_bags_are_read(tmp_path: Path, storage: str, mode: CompressionMode) -> None:
    bag = Writer(tmp_path / "bag", version=8, storage_plugin=PLUGINS[storage])
    bag.set_compression(mode, CompressionFormat.ZSTD)
    with bag:
        connection = bag.add_connection("/points", CLOUD_TYPE, typestore=get_typestore(Stores.ROS2_HUMBLE))
        bag.write(connection, 5, CLOUD)
    with BagReader(tmp_path / "bag") as reader:
        assert (reader.storage, [c.raw for c in reader]) == (storage, [CLOUD])


def readable(path: Path) -> int:
    """How many clouds come out before a BagError does."""
    found = []
    with contextlib.suppress(BagError), BagReader(path) as bag:
        for recorded in bag:
            found.append(recorded.raw)
    assert found == [CLOUD] * len(found)
    return len(found)


@pytest.mark.parametrize("storage", STORAGES)
def test_damaged_bags_are_named(tmp_path: Path, storage: str) -> None:
    path = make_bag(tmp_path / "bag", storage)
    file = next(path.glob(f"*{FILES[storage]}"))
    whole = file.read_bytes()
    for keep in (0, 5, 100, len(whole) // 2, len(whole) - 10):
        file.write_bytes(whole[:keep])
        # An MCAP file is read up to the place where it was cut: before its end only the summary is lost.
        assert readable(path) < 3 or (storage == "mcap" and keep >= len(whole) // 2)
    file.write_bytes(whole[:100])
    with pytest.raises(BagError, match=f"{path}.* (cannot be read|is damaged)"):
        list(BagReader(path))
    file.unlink()
    with pytest.raises(BagError, match="missing"):
        BagReader(path)
    for text in ("", "[1, 2", "rosbag2_bagfile_information: 3", "rosbag2_bagfile_information: {version: 99}"):
        (path / "metadata.yaml").write_text(text)
        with pytest.raises(BagError, match="cannot be read as a rosbag2"):
            BagReader(path)
    with pytest.raises(BagError, match="cannot be read"):
        BagReader(tmp_path / "missing")


@settings(max_examples=300)
@given(data=st.data())
def test_a_damaged_message_is_a_named_error_or_another_cloud(data: st.DataObject) -> None:
    raw = bytearray(CLOUD)
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, 120))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del raw[data.draw(st.integers(0, len(raw))) :]
    try:
        RecordedCloud(0, bytes(raw)).decode()
    except BagError:
        return


def test_a_bad_cloud_in_a_bag_does_not_hide_the_others(tmp_path: Path) -> None:
    wrong = cloud(np.ones((3, 4)))
    wrong.data = wrong.data[:-1]
    with BagWriter(tmp_path / "bag") as bag:
        for stamp, raw in enumerate((CLOUD, encode(wrong), CLOUD[:30], CLOUD)):
            bag.write("/points", raw, stamp)
    with open_source(tmp_path / "bag") as source:
        frames = list(source)
        assert [f.stamp for f in frames] == [0, 1, 2, 3]
        assert len(frames[0].load().points) == len(frames[3].load().points) == 10
        with pytest.raises(ScanError, match="cloud 000001 of /points"):
            frames[1].load()
        with pytest.raises(ScanError, match="cloud 000002 of /points"):
            frames[2].load()
