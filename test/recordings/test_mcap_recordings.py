"""MCAP files of every writer: clouds come out as they were recorded, and a file is read to where it was cut off."""

from __future__ import annotations

from collections import Counter
from io import BytesIO
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from mcap.data_stream import ReadDataStream
from mcap.records import Footer
from mcap.writer import CompressionType, IndexType

from broken_recordings import damaged, outcome
from recorded_clouds import (
    COUNT,
    PERIOD,
    POSE,
    STAMP,
    cdr,
    check,
    foxglove_flatbuffer,
    foxglove_json,
    foxglove_protobuf,
    numbered,
    record,
    ros1,
    with_mcap,
)
from spvnas_ros.recordings.bags import BagError, BagReader
from spvnas_ros.recordings.scans import open_source

CLOUD = ("sensor_msgs/msg/PointCloud2", "ros2msg")
FOXGLOVE = {"protobuf": foxglove_protobuf, "json": foxglove_json, "flatbuffer": foxglove_flatbuffer}


@pytest.mark.parametrize("profile", ["", "ros2", "px4"])
@pytest.mark.parametrize("name", ["sensor_msgs/msg/PointCloud2", "sensor_msgs/PointCloud2"])
def test_any_profile_and_both_names_of_the_type_are_read(tmp_path: Path, profile: str, name: str) -> None:
    check(with_mcap(tmp_path / "a.mcap", numbered(range(COUNT)), profile, (name, "ros2msg")))
    check(with_mcap(tmp_path / "b.mcap", numbered(range(COUNT)), profile, ("sensor_msgs::msg::dds_::PointCloud2_", "")))


def test_ros_1_messages_in_mcap_are_read(tmp_path: Path) -> None:
    for encoding in ("ros1", ""):  # some writers say it in the schema only
        messages = numbered(range(COUNT), lambda number: ros1(cdr(number)))
        path = with_mcap(tmp_path / "a.mcap", messages, "ros1", ("sensor_msgs/PointCloud2", "ros1msg"), encoding)
        check(path)


@pytest.mark.parametrize("compression", list(CompressionType))
@pytest.mark.parametrize("bare", [False, True])
def test_what_a_writer_leaves_out_is_found_in_the_data(
    tmp_path: Path, compression: CompressionType, bare: bool
) -> None:
    left_out = {
        "use_summary_offsets": False,
        "use_statistics": False,
        "repeat_channels": False,
        "repeat_schemas": False,
        "index_types": IndexType.NONE,
    }
    for use_chunking, options in product((True, False), ({name: value} for name, value in left_out.items())):
        chosen = left_out if bare else options
        path = with_mcap(
            tmp_path / "a.mcap", numbered(range(COUNT)), compression=compression, chunk_size=3000,
            use_chunking=use_chunking, **chosen,
        )  # fmt: skip
        check(path)
        with BagReader(path) as reader:
            assert [cloud.stamp for cloud in reader.since(STAMP + PERIOD + 1)] == [
                STAMP + 2 * PERIOD,
                STAMP + 3 * PERIOD,
            ]
            assert reader.span == (STAMP, STAMP + (COUNT - 1) * PERIOD)
            assert reader.remarks == ()


def test_messages_come_by_time_whatever_their_order_in_the_file(tmp_path: Path) -> None:
    for chunked in (True, False):
        path = with_mcap(tmp_path / "a.mcap", numbered(iter((2, 0, 3, 1))), use_chunking=chunked, chunk_size=3000)
        check(path)


def test_several_topics_are_told_apart(tmp_path: Path) -> None:
    messages = ((topic, stamp, raw) for _, stamp, raw in numbered(range(COUNT)) for topic in ("/front", "rear"))
    path = with_mcap(tmp_path / "a.mcap", messages)
    with pytest.raises(BagError, match=r"several cloud topics.*/front \(4 clouds\), rear \(4 clouds\)"):
        BagReader(path)
    for topic in ("/front", "front", "rear"):
        check(path, topic)


@pytest.mark.parametrize("encoding", FOXGLOVE)
def test_foxglove_clouds_are_read_as_its_sdk_wrote_them(tmp_path: Path, encoding: str) -> None:
    path = FOXGLOVE[encoding](tmp_path / "a.mcap")
    check(path)
    with open_source(path) as source:
        assert (source.kind, source.storage, source.topic) == ("bag", "mcap", "/points")


@pytest.mark.parametrize("encoding", FOXGLOVE)
def test_a_pose_moves_what_is_written_and_not_what_the_network_sees(tmp_path: Path, encoding: str) -> None:
    with open_source(FOXGLOVE[encoding](tmp_path / "a.mcap", posed=True)) as source:
        cloud = next(iter(source)).load()
    before, (place, _) = record(0), POSE
    np.testing.assert_array_equal(cloud.record["x"], before["x"])
    np.testing.assert_array_equal(cloud.points[:, :3], np.stack([before[axis] for axis in "xyz"], axis=1))
    assert cloud.message is not None
    moved = np.frombuffer(cloud.message.data.tobytes(), before.dtype)
    assert np.isnan(moved["x"][0])
    moved, before = moved[1:], before[1:]  # a number that is not there makes the other two unknown, too
    np.testing.assert_allclose(moved["x"], -before["y"] + place[0], atol=1e-5)
    np.testing.assert_allclose(moved["y"], before["x"] + place[1], atol=1e-5)
    np.testing.assert_allclose(moved["z"], before["z"] + place[2], atol=1e-5)
    for name in ("intensity", "reflectivity", "ring", "t"):
        np.testing.assert_array_equal(moved[name], before[name])


@pytest.mark.parametrize(
    "options",
    [{}, {"use_chunks": False}, {"repeat_channels": False}, {"repeat_schemas": False}, {"emit_statistics": False},
     {"emit_chunk_indexes": False}, {"emit_message_indexes": False}, {"chunk_size": 2000}],
    ids=str,
)  # fmt: skip
def test_every_option_of_foxgloves_writer_is_read(tmp_path: Path, options: dict[str, object]) -> None:
    check(foxglove_protobuf(tmp_path / "a.mcap", **options))


def up_to_the_cut(path: Path) -> tuple[list[tuple[int, np.ndarray]], str]:
    """Stamps and points of the clouds that can be read, and what is said of the rest."""
    try:
        with open_source(path) as source:
            frames = [(frame.stamp, frame.load().record) for frame in source]
            assert len(source) == len(frames)
            (remark,) = source.remarks
            return frames, remark
    except BagError as error:
        return [], str(error)


@pytest.mark.parametrize("chunked", [True, False])
def test_a_file_without_its_end_is_read_up_to_there_and_one_line_says_so(tmp_path: Path, chunked: bool) -> None:
    path = with_mcap(tmp_path / "a.mcap", numbered(range(COUNT)), use_chunking=chunked, chunk_size=1)
    whole, counts = path.read_bytes(), list[int]()
    end_of_data = Footer.read(ReadDataStream(BytesIO(whole[-28:]))).summary_start - 13  # what marks it has 13 bytes
    for keep in range(end_of_data, 8, -len(whole) // 25):
        path.write_bytes(whole[:keep])
        frames, words = up_to_the_cut(path)
        assert f"cut off at byte {keep}" in words
        assert not frames or f"the {len(frames)} messages before that are read" in words
        for number, (stamp, found) in enumerate(frames):
            assert stamp == STAMP + number * PERIOD
            assert found.tobytes() == record(number).tobytes()
        counts.append(len(frames))
    assert counts[0] == COUNT
    assert counts[-1] == 0
    assert counts == sorted(counts, reverse=True)
    assert len(set(counts)) == COUNT + 1


def test_what_is_not_in_the_file_is_said(tmp_path: Path) -> None:
    path = with_mcap(tmp_path / "a.mcap", numbered(range(COUNT)), schema=("my.Scan", "protobuf"), encoding="protobuf")
    with pytest.raises(BagError, match=r"no topic of type sensor_msgs/msg/PointCloud2.*found /points \(my\.Scan\)"):
        open_source(path)
    path.write_bytes(b"")
    with pytest.raises(BagError, match="empty"):
        open_source(path)


KINDS = {
    **FOXGLOVE,
    "cdr in chunks": lambda path: with_mcap(path, numbered(range(COUNT)), chunk_size=3000),
    "cdr without chunks": lambda path: with_mcap(path, numbered(range(COUNT)), use_chunking=False),
    "cdr in lz4": lambda path: with_mcap(path, numbered(range(COUNT)), compression=CompressionType.LZ4),
    "cdr in bare chunks": lambda path: with_mcap(path, numbered(range(COUNT)), compression=CompressionType.NONE,
                                                 enable_crcs=False),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_broken_files_are_refused_or_read_up_to_the_damage(tmp_path: Path, kind: str) -> None:
    path = KINDS[kind](tmp_path / "a.mcap")
    whole, found = path.read_bytes(), Counter[str]()
    for seed in range(100):
        path.write_bytes(damaged(whole, seed, spared=8))
        found[outcome(path)] += 1
    assert found["refused"]
    assert found["remarked"] + found["skipped"] + found["ended"]


@pytest.mark.parametrize("kind", FOXGLOVE)
def test_a_broken_message_in_a_sound_file_is_named(tmp_path: Path, kind: str) -> None:
    """The checksums of chunks catch most damage; writers without them do not."""
    with BagReader(FOXGLOVE[kind](tmp_path / "a.mcap")) as reader:
        raw = next(iter(reader)).raw
    schema, path, found = ("foxglove.PointCloud", kind), tmp_path / "b.mcap", Counter[str]()
    for seed in range(100):
        with_mcap(path, iter([("/points", STAMP, damaged(raw, seed))]), schema=schema, encoding=kind)
        found[outcome(path)] += 1
    assert found["skipped"]
    assert found["skipped"] + found["read"] == 100
