"""ROS 1 bags: clouds come out as rosbags' ROS 1 writer put them in."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from rosbags.rosbag1 import Writer
from rosbags.typesys import Stores, get_typestore

from broken_recordings import damaged, outcome
from recorded_clouds import COUNT, PERIOD, STAMP, cdr, check, ros1
from spvnas_ros.recordings.bags import CLOUD_TYPE, BagError, BagReader
from spvnas_ros.recordings.scans import open_source

COMPRESSIONS = [None, Writer.CompressionFormat.LZ4, Writer.CompressionFormat.BZ2]


def write(path: Path, compression: object = None, topics: tuple[str, ...] = ("/points",)) -> Path:
    path.unlink(missing_ok=True)
    bag, store = Writer(path), get_typestore(Stores.ROS1_NOETIC)
    if compression:
        bag.set_compression(compression)
    with bag:
        channels = [bag.add_connection(topic, CLOUD_TYPE, typestore=store) for topic in topics]
        other = bag.add_connection("/chatter", "std_msgs/msg/String", typestore=store)
        text = store.types["std_msgs/msg/String"]("hello")
        for number in range(COUNT):
            for channel in channels:
                bag.write(channel, STAMP + number * PERIOD, ros1(cdr(number)))
            bag.write(other, STAMP, bytes(store.serialize_ros1(text, "std_msgs/msg/String")))
    return path


@pytest.mark.parametrize("compression", COMPRESSIONS, ids=str)
def test_clouds_come_out_as_they_went_in(tmp_path: Path, compression: object) -> None:
    path = write(tmp_path / "drive.bag", compression)
    check(path)
    with open_source(path) as source:
        assert (source.kind, source.topic, source.storage) == ("bag", "/points", "sqlite3")
        assert [frame.stamp for frame in source.resume(2, STAMP + 2 * PERIOD)] == [
            STAMP + 2 * PERIOD,
            STAMP + 3 * PERIOD,
        ]
    with BagReader(path) as reader:
        assert [cloud.cdr for cloud in reader] == [cdr(number) for number in range(COUNT)]


def test_the_first_bytes_tell_whatever_the_name(tmp_path: Path) -> None:
    check(write(tmp_path / "drive.bag").rename(tmp_path / "drive.bag.orig"))


def test_several_topics_are_told_apart(tmp_path: Path) -> None:
    path = write(tmp_path / "drive.bag", topics=("/front", "/rear"))
    with pytest.raises(BagError, match=r"/front \(4 clouds\), /rear \(4 clouds\)"):
        open_source(path)
    check(path, "/rear")


def test_a_bag_without_an_index_is_told_with_the_command_that_makes_one(tmp_path: Path) -> None:
    path = write(tmp_path / "drive.bag.active")
    whole = path.read_bytes()
    at = whole.index(b"index_pos=") + len(b"index_pos=")
    path.write_bytes(whole[:at] + bytes(8) + whole[at + 8 :])  # as a recorder leaves it that was killed
    with pytest.raises(BagError, match=f"rosbag reindex {path}"):
        open_source(path)


@pytest.mark.parametrize("compression", COMPRESSIONS, ids=str)
def test_broken_bags_are_refused_or_read_up_to_the_damage(tmp_path: Path, compression: object) -> None:
    path = write(tmp_path / "drive.bag", compression)
    whole, found = path.read_bytes(), Counter[str]()
    for seed in range(100):
        path.write_bytes(damaged(whole, seed, spared=13))
        found[outcome(path)] += 1
    assert found["refused"]
    assert found["read"] < 100
