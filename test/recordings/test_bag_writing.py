"""Labelled clouds go into a bag beside the input's bytes, and nothing half-written is ever in the way."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rosbags.highlevel import AnyReader

from made_bags import CLOUD, FILES, STORAGES, make_bag
from spvnas_ros.clouds.point_cloud2 import decode
from spvnas_ros.frame import Segmentation
from spvnas_ros.recordings.bags import (
    CLOUD_TYPE,
    LABELLED_TOPIC,
    BagError,
    BagReader,
    BagWriter,
    encode,
    labelled_message,
)


def leftovers(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


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
        bag.write("/boxes", b"", 1, "vision_msgs/msg/Detection2DArray")
    assert leftovers(tmp_path) == ["file"]


def test_an_empty_bag_can_be_written_and_read(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "bag"):
        pass
    with pytest.raises(BagError, match="no topics"):
        BagReader(tmp_path / "bag")
