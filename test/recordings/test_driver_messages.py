"""Livox's CustomMsg and compressed clouds: points come out as drivers and plugins put them in, or it is said why."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zstandard

from broken_recordings import MOST_MEMORY, damaged, outcome
from driver_messages import LIVOX, PACKERS, ROS2, compressed, custom, draco, write
from recorded_clouds import STAMP, check, record, with_mcap
from spvnas_ros.recordings.bags import BagError, BagReader
from spvnas_ros.recordings.message_kinds import decoded
from spvnas_ros.recordings.message_types import COMPRESSED_TYPE
from spvnas_ros.recordings.scans import ScanError, open_source

DracoPy = pytest.importorskip("DracoPy", reason="DracoPy is not installed; pip install 'spvnas_ros[draco]' brings it")


@pytest.mark.parametrize("ros1", [True, False])
@pytest.mark.parametrize("package", ["livox_ros_driver", "livox_ros_driver2", "livox_interfaces"])
def test_livox_points_come_out_as_the_driver_put_them_in(tmp_path: Path, ros1: bool, package: str) -> None:
    path = write(tmp_path / "a.bag", ros1, f"{package}/msg/CustomMsg", lambda *each: custom(*each, package))
    check(path, fields=LIVOX)
    with open_source(path) as source:
        next(iter(source)).load()
        assert source.sensor.intensity.field == "reflectivity"


@pytest.mark.parametrize("frame", ["", "a", "livox", "livox_frame"])
@pytest.mark.parametrize("count", [0, 1, 2])
@pytest.mark.parametrize("little", [True, False])
def test_livox_messages_of_every_alignment_are_read(tmp_path: Path, frame: str, count: int, little: bool) -> None:
    kind = "livox_ros_driver2/msg/CustomMsg"
    raw = bytes(ROS2.serialize_cdr(custom(ROS2, 1, "livox_ros_driver2", frame, count), kind, little_endian=little))
    path = with_mcap(tmp_path / "a.mcap", iter([("/points", STAMP, raw)]), schema=(kind, "ros2msg"))
    with BagReader(path) as reader:
        message = next(iter(reader)).decode()
    assert (message.header.frame_id, message.width) == (frame, count)
    assert message.data.tobytes() == record(1, LIVOX)[:count].tobytes()


@pytest.mark.parametrize("ros1", [True, False])
@pytest.mark.parametrize("packer", PACKERS)
def test_compressed_clouds_come_out_byte_for_byte(tmp_path: Path, ros1: bool, packer: str) -> None:
    check(write(tmp_path / "a.bag", ros1, COMPRESSED_TYPE, lambda *each: compressed(*each, *PACKERS[packer])))


def problem(tmp_path: Path, name: str, pack: Callable[[np.ndarray], bytes]) -> str:
    path = write(tmp_path / "a", False, COMPRESSED_TYPE, lambda *each: compressed(*each, name, pack))
    with open_source(path) as source, pytest.raises(ScanError) as caught:
        next(iter(source)).load()
    return str(caught.value)


def test_a_codec_that_lost_points_or_their_order_is_refused_with_the_reason(tmp_path: Path) -> None:
    def tree(points: np.ndarray) -> bytes:
        return bytes(
            DracoPy.encode(np.nan_to_num(np.stack([points[axis] for axis in "xyz"], axis=1)), preserve_order=False)
        )

    (tmp_path / "1").mkdir()
    assert "changed the order of its points" in problem(tmp_path / "1", "draco", tree)
    (tmp_path / "2").mkdir()
    assert "left 59 of 60 points" in problem(tmp_path / "2", "draco", lambda points: draco(points[1:]))
    (tmp_path / "3").mkdir()
    assert "compressed by 'magic', which is not known" in problem(tmp_path / "3", "magic", lambda _: b"")
    (tmp_path / "4").mkdir()
    assert "cloudini has left out points" in problem(
        tmp_path / "4", "", lambda _: b"CLOUDINI_V05\nversion: 5\nwidth: 59\nheight: 1\npoint_step: 21\n\0"
    )


def test_a_missing_library_is_named_with_the_command_that_installs_it() -> None:
    with pytest.raises(decoded.MissingLibraryError, match=r"clouds need no_such_library, .*: pip install 'a\[b\]'"):
        decoded.needed("no_such_library.part", "'a[b]'", "clouds")


def test_cloudini_is_read_where_its_decoder_is_there(tmp_path: Path) -> None:
    cloudini = pytest.importorskip("pureini", reason="pureini is not installed; pip install pureini brings it")

    def pack(points: np.ndarray) -> bytes:
        kinds = {"f4": cloudini.FieldType.FLOAT32, "u1": cloudini.FieldType.UINT8, "u2": cloudini.FieldType.UINT16,
                 "u4": cloudini.FieldType.UINT32}  # fmt: skip
        fields = [
            cloudini.PointField(name, points.dtype.fields[name][1], kinds[points.dtype[name].str[1:]])
            for name in points.dtype.names or ()
        ]
        info = cloudini.EncodingInfo(
            fields, len(points), 1, points.dtype.itemsize, cloudini.EncodingOptions.LOSSLESS,
            cloudini.CompressionOption.ZSTD,
        )  # fmt: skip
        return bytes(cloudini.PointcloudEncoder(info).encode(points.tobytes()))

    check(write(tmp_path / "a", False, COMPRESSED_TYPE, lambda *each: compressed(*each, "", pack)))


def raw_of(kind: str) -> tuple[str, bytes]:
    if kind == "livox":
        name = "livox_ros_driver2/msg/CustomMsg"
        return name, bytes(ROS2.serialize_cdr(custom(ROS2, 0, "livox_ros_driver2"), name))
    return COMPRESSED_TYPE, bytes(ROS2.serialize_cdr(compressed(ROS2, 0, *PACKERS[kind]), COMPRESSED_TYPE))


@pytest.mark.parametrize("kind", ["livox", "zstd", "zlib", "draco"])
def test_broken_messages_are_named(tmp_path: Path, kind: str) -> None:
    (name, raw), path, found = raw_of(kind), tmp_path / "b.mcap", Counter[str]()
    for seed in range(100):
        with_mcap(path, iter([("/points", STAMP, damaged(raw, seed))]), schema=(name, "ros2msg"))
        found[outcome(path)] += 1
    assert found["skipped"]
    assert found["skipped"] + found["read"] + found["ended"] == 100


@pytest.mark.parametrize("name", ["zstd", "zlib"])
def test_a_bomb_is_told_by_what_its_message_announces(tmp_path: Path, name: str) -> None:
    zeros = bytes(2 * MOST_MEMORY)
    bomb = zstandard.compress(zeros) if name == "zstd" else zlib.compress(zeros, 1)
    path = write(tmp_path / "a", False, COMPRESSED_TYPE, lambda *each: compressed(*each, name, lambda _: bomb))
    assert outcome(path) == "skipped"


def test_the_packages_name_of_an_unknown_topic_is_listed(tmp_path: Path) -> None:
    path = with_mcap(tmp_path / "a.mcap", iter([("/p", STAMP, b"")]), schema=("my_msgs/msg/Scan", "ros2msg"))
    with pytest.raises(BagError, match=r"found /p \(my_msgs/msg/Scan\)"):
        BagReader(path)
