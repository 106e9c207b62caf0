"""Recordings of every kind go back as bags: the same clouds at the same times, with labels and confidences."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rosbags.convert.converter import convert
from rosbags.rosbag1 import Reader as Ros1Reader
from rosbags.rosbag1 import Writer as Ros1Writer
from rosbags.typesys import Stores, get_typestore

from recorded_clouds import COUNT, PERIOD, STAMP, cdr, foxglove_protobuf, numbered, record, ros1, with_mcap
from spvnas_ros.clouds.point_cloud2 import decode
from spvnas_ros.perception import Perception
from spvnas_ros.recordings.bags import CLOUD_TYPE, LABELLED_TOPIC, BagReader
from spvnas_ros.recordings.scans import open_source
from spvnas_ros.segment.run import segment


def ros1_bag(path: Path) -> Path:
    with Ros1Writer(path) as bag:
        channel = bag.add_connection("/points", CLOUD_TYPE, typestore=get_typestore(Stores.ROS1_NOETIC))
        for number in range(COUNT):
            bag.write(channel, STAMP + number * PERIOD, ros1(cdr(number)))
    return path


KINDS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "ros1.bag": (ros1_bag, "sqlite3"),
    "no_profile.mcap": (lambda path: with_mcap(path, numbered(range(COUNT))), "mcap"),
    "foxglove.mcap": (foxglove_protobuf, "mcap"),
}


@pytest.mark.parametrize("name", KINDS)
def test_labels_go_back_as_a_bag(perception: Perception, tmp_path: Path, name: str) -> None:
    write, storage = KINDS[name]
    with open_source(write(tmp_path / name)) as source:
        assert segment(source, perception, tmp_path / "out").frames == COUNT
    with BagReader(tmp_path / "out/bag") as labelled:
        assert (labelled.topic, labelled.storage) == (LABELLED_TOPIC, storage)
        clouds = [(cloud.stamp, cloud.decode()) for cloud in labelled]
    assert [stamp for stamp, _ in clouds] == [STAMP + number * PERIOD for number in range(COUNT)]
    for number, (_, message) in enumerate(clouds):
        points, before = decode(message), record(number)
        assert message.header.frame_id == "lidar"
        assert points.dtype.names == (*(before.dtype.names or ()), "label", "confidence")
        for field in before.dtype.names or ():
            np.testing.assert_array_equal(points[field], before[field])


def test_what_came_from_ros_1_can_go_back_there(perception: Perception, tmp_path: Path) -> None:
    with open_source(ros1_bag(tmp_path / "a.bag")) as source:
        segment(source, perception, tmp_path / "out")
    convert(
        [tmp_path / "out/bag"], tmp_path / "labelled.bag", "sqlite3", 8, None, "none",
        get_typestore(Stores.ROS2_HUMBLE), get_typestore(Stores.ROS1_NOETIC), (), (), (), (),
    )  # fmt: skip
    with Ros1Reader(tmp_path / "labelled.bag") as reader:
        assert reader.message_count == COUNT
    with BagReader(tmp_path / "labelled.bag") as back, BagReader(tmp_path / "out/bag") as labelled:
        assert [cloud.cdr for cloud in back] == [cloud.cdr for cloud in labelled]


def test_a_recording_that_was_cut_off_is_labelled_to_there_and_the_summary_says_where(
    perception: Perception, tmp_path: Path
) -> None:
    path = with_mcap(tmp_path / "a.mcap", numbered(range(COUNT)), use_chunking=False)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    with open_source(path) as source:
        summary = segment(source, perception, tmp_path / "out")
        assert summary.complete
        assert 0 < summary.frames == len(source) < COUNT
        assert "cut off at byte" in source.remarks[0]
