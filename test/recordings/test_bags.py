"""Bags: clouds come out as they were recorded, labelled ones go in, and nothing half-written is ever in the way."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import CompressionFormat, CompressionMode, Writer
from rosbags.typesys import Stores, get_typestore
from rosbags.typesys.stores.ros2_humble import (
    builtin_interfaces__msg__Time as Time,
)
from rosbags.typesys.stores.ros2_humble import (
    sensor_msgs__msg__PointCloud2 as PointCloud2,
)
from rosbags.typesys.stores.ros2_humble import (
    sensor_msgs__msg__PointField as PointField,
)
from rosbags.typesys.stores.ros2_humble import (
    std_msgs__msg__Header as Header,
)
from rosbags.typesys.stores.ros2_humble import (
    std_msgs__msg__String as String,
)

from spvnas_ros.clouds.point_cloud2 import decode
from spvnas_ros.frame import Segmentation
from spvnas_ros.recordings.bags import (
    CLOUD_TYPE,
    LABELLED_TOPIC,
    BagError,
    BagReader,
    BagWriter,
    RecordedCloud,
    encode,
    labelled_message,
)
from spvnas_ros.recordings.bags import STORAGES as PLUGINS
from spvnas_ros.recordings.scans import ScanError, open_source

STORAGES = ("sqlite3", "mcap")
FILES = {"sqlite3": ".db3", "mcap": ".mcap"}


def cloud(points: np.ndarray, stamp: int = 0) -> PointCloud2:
    fields = [PointField(name, 4 * i, 7, 1) for i, name in enumerate(("x", "y", "z", "intensity"))]
    data = np.frombuffer(points.astype(np.float32).tobytes(), np.uint8)
    header = Header(Time(stamp, 0), "lidar")
    return PointCloud2(header, 1, len(points), fields, False, 16, 16 * len(points), data, True)


CLOUD = encode(cloud(np.arange(40).reshape(10, 4) / 40))


def string(text: str) -> bytes:
    return bytes(get_typestore(Stores.ROS2_HUMBLE).serialize_cdr(String(text), "std_msgs/msg/String"))


def make_bag(path: Path, storage: str = "sqlite3", topics: tuple[str, ...] = ("/points",), count: int = 3) -> Path:
    with BagWriter(path, storage) as bag:
        for number in range(count):
            for topic in topics:
                bag.write(topic, CLOUD, 10**9 + number)
        bag.write("/chatter", string("hello"), 10**9, "std_msgs/msg/String")
    return path


def leftovers(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


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
    shutil.copyfile(file, folder / f"second{FILES[storage]}")
    with pytest.raises(ScanError, match="ros2 bag reindex"):
        open_source(folder)


@pytest.mark.parametrize("storage", STORAGES)
def test_labelled_clouds_keep_every_byte_field_and_stamp_of_the_input(
    shared: Path, tmp_path: Path, storage: str
) -> None:
    rng = np.random.default_rng(0)
    segmentations = []
    with (
        BagReader(shared / f"data/bags/vlp16_pointcloud2_{storage}") as recorded,
        BagWriter(tmp_path / "bag", recorded.storage) as bag,
    ):
        for message in recorded:
            decoded = message.decode()
            count = decoded.width
            found = Segmentation(rng.integers(0, 19, count, np.uint8), rng.random(count, np.float32))
            segmentations.append(found)
            bag.write(LABELLED_TOPIC, encode(labelled_message(decoded, found)), message.stamp)
    assert leftovers(tmp_path) == ["bag"]
    assert sorted(p.suffix for p in (tmp_path / "bag").iterdir()) == sorted([".yaml", FILES[storage]])
    # Any rosbags reader, with the message definitions the bag itself carries.
    with (
        AnyReader([shared / f"data/bags/vlp16_pointcloud2_{storage}"]) as before,
        AnyReader([tmp_path / "bag"]) as after,
    ):
        pairs = zip(before.messages(), after.messages(), segmentations, strict=True)
        for (old, old_stamp, old_raw), (new, new_stamp, new_raw), found in pairs:
            assert (new.topic, new.msgtype, new_stamp) == (LABELLED_TOPIC, CLOUD_TYPE, old_stamp)
            a, b = before.deserialize(old_raw, old.msgtype), after.deserialize(new_raw, new.msgtype)
            assert str(a.header) == str(b.header)
            assert (b.height, b.width, b.is_dense) == (a.height, a.width, a.is_dense)
            assert [f.name for f in b.fields] == [*(f.name for f in a.fields), "label", "confidence"]
            points = decode(b)
            for name in decode(a).dtype.names:
                assert points[name].tobytes() == decode(a)[name].tobytes()
            np.testing.assert_array_equal(points["label"], found.labels)
            np.testing.assert_array_equal(points["confidence"], found.confidence)


@pytest.mark.parametrize("storage", STORAGES)
def test_messages_of_several_topics_and_types_go_into_one_bag(tmp_path: Path, storage: str) -> None:
    make_bag(tmp_path / "bag", storage, ("/front", "/rear"))
    with AnyReader([tmp_path / "bag"]) as reader:
        assert {t: i.msgcount for t, i in reader.topics.items()} == {"/front": 3, "/rear": 3, "/chatter": 1}
        raws = [bytes(raw) for c, _, raw in reader.messages() if c.topic == "/front"]
    assert raws == [CLOUD] * 3


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


def test_a_failing_run_leaves_nothing_behind(tmp_path: Path) -> None:
    def run() -> None:
        with BagWriter(tmp_path / "bag") as bag:
            bag.write("/points", CLOUD, 1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    assert leftovers(tmp_path) == []


def test_a_killed_run_leaves_no_bag_under_the_final_name(tmp_path: Path) -> None:
    code = (
        "import sys; from spvnas_ros.recordings.bags import BagWriter\n"
        f"bag = BagWriter({str(tmp_path / 'bag')!r}, 'mcap')\n"
        "bag.write('/points', bytes(100), 1)\nprint('written', flush=True)\nsys.stdin.read()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"written\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "bag").exists()
    make_bag(tmp_path / "bag")  # and the next run is not in its way
    assert len(BagReader(tmp_path / "bag")) == 3


def test_an_existing_bag_is_replaced_with_force_only_and_not_before_the_end(tmp_path: Path) -> None:
    path = make_bag(tmp_path / "bag", count=1)
    with pytest.raises(BagError, match=r"exists already.*--force"):
        BagWriter(path)
    with BagWriter(path, "mcap", force=True) as bag:
        bag.write("/points", CLOUD, 1)
        bag.write("/points", CLOUD, 2)
        assert len(BagReader(path)) == 1
    with BagReader(path) as reader:
        assert (reader.storage, len(reader)) == ("mcap", 2)
    assert leftovers(tmp_path) == ["bag"]


def test_two_runs_that_meet_do_not_replace_each_other(tmp_path: Path) -> None:
    first, second = BagWriter(tmp_path / "bag"), BagWriter(tmp_path / "bag")
    for bag, count in ((first, 1), (second, 2)):
        for stamp in range(count):
            bag.write("/points", CLOUD, stamp)
    first.close()
    with pytest.raises(BagError, match="exists already"):
        second.close()
    assert len(BagReader(tmp_path / "bag")) == 1
    assert leftovers(tmp_path) == ["bag"]


def test_what_is_no_bag_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "final.pdf").write_bytes(b"years of work")
    for path in (tmp_path / "thesis", tmp_path / "thesis" / "final.pdf"):
        with pytest.raises(BagError, match="is not a bag"):
            BagWriter(path, force=True)
    assert (tmp_path / "thesis" / "final.pdf").read_bytes() == b"years of work"


def test_what_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(BagError, match="storage is 'csv'"):
        BagWriter(tmp_path / "bag", "csv")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(BagError, match="cannot be written"):
        BagWriter(tmp_path / "file" / "bag")
    with pytest.raises(BagError, match="cannot be written"), BagWriter(tmp_path / "bag") as bag:
        bag.write("/boxes", b"", 1, "vision_msgs/msg/Detection3DArray")
    assert leftovers(tmp_path) == ["file"]


def test_an_empty_bag_can_be_written_and_read(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "bag"):
        pass
    with pytest.raises(BagError, match="no topics"):
        BagReader(tmp_path / "bag")


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
        assert readable(path) < 3
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
