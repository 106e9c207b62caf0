"""Packets of Velodyne and Ouster: rotations come out of bags, captures and OSF files as their libraries decode them."""

from __future__ import annotations

import struct
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rosbags.rosbag1 import Writer as Ros1Writer
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from broken_recordings import damaged, outcome
from recorded_clouds import STAMP
from spvnas_ros.recordings.bags import BagError, BagReader
from spvnas_ros.recordings.scans import open_source

velodyne = pytest.importorskip(
    "velodyne_decoder", reason="velodyne-decoder is not installed; pip install 'spvnas_ros[velodyne]' brings it"
)
dpkt = pytest.importorskip("dpkt", reason="dpkt is not installed; pip install 'spvnas_ros[velodyne]' brings it")

SCAN = "velodyne_msgs/msg/VelodyneScan"
PER_ROTATION = 76
PERIOD = 1327
"""Microseconds between a VLP-16's packets."""


def packet(number: int) -> bytes:
    """A VLP-16's packet by Velodyne's manual: 12 blocks of flag, azimuth and 32 times distance (2 mm) and reflectivity,
    then microseconds of the hour, the mode of returns and the model.
    """
    random = np.random.default_rng(number)
    data = b""
    for block in range(12):
        data += struct.pack("<HH", 0xEEFF, (number * 480 + 40 * block) % 36000)
        for distance, strength in zip(random.integers(500, 20000, 32), random.integers(0, 256, 32), strict=True):
            data += struct.pack("<HB", int(distance), int(strength))
    return data + struct.pack("<IBB", number * PERIOD, 0x37, 0x22)


PACKETS = [packet(number) for number in range(2 * PER_ROTATION + 10)]


def types(store: Stores) -> Any:
    known = get_typestore(store)
    known.register(
        get_types_from_msg("builtin_interfaces/Time stamp\nuint8[1206] data", "velodyne_msgs/msg/VelodynePacket")
    )
    known.register(get_types_from_msg("std_msgs/Header header\nvelodyne_msgs/VelodynePacket[] packets", SCAN))
    for package in ("ouster_ros", "ouster_sensor_msgs"):
        known.register(get_types_from_msg("uint8[] buf", f"{package}/msg/PacketMsg"))
    return known


def write(path: Path, ros1: bool, messages: list[tuple[str, str, int, dict[str, Any]]]) -> Path:
    """Topic, type, stamp and fields of each message."""
    store = types(Stores.ROS1_NOETIC if ros1 else Stores.ROS2_HUMBLE)
    bag: Any = Ros1Writer(path) if ros1 else Writer(path, version=8, storage_plugin=StoragePlugin.MCAP)
    channels: dict[str, Any] = {}
    with bag:
        for topic, kind, stamp, fields in messages:
            if topic not in channels:
                channels[topic] = bag.add_connection(topic, kind, typestore=store)
            message = fields["make"](store) if "make" in fields else store.types[kind](**fields)
            raw = store.serialize_ros1(message, kind) if ros1 else store.serialize_cdr(message, kind)
            bag.write(channels[topic], stamp, bytes(raw))
    return path


def scan(store: Any, rotation: int, packets: list[bytes]) -> Any:
    time = store.types["builtin_interfaces/msg/Time"]
    counted = {"seq": 0} if "seq" in store.types["std_msgs/msg/Header"].__dataclass_fields__ else {}
    header = store.types["std_msgs/msg/Header"](
        **counted, stamp=time(STAMP // 10**9 + rotation, 5), frame_id="velodyne"
    )
    one = store.types["velodyne_msgs/msg/VelodynePacket"]
    return store.types[SCAN](
        header,
        [one(time(STAMP // 10**9, number), np.frombuffer(data, np.uint8)) for number, data in enumerate(packets)],
    )


def velodyne_bag(path: Path, ros1: bool) -> Path:
    rows = [slice(0, PER_ROTATION), slice(PER_ROTATION, 2 * PER_ROTATION)]
    return write(
        path,
        ros1,
        [
            ("/velodyne_packets", SCAN, STAMP + number, {"make": lambda s, n=number, r=row: scan(s, n, PACKETS[r])})
            for number, row in enumerate(rows)
        ],
    )


def expected(row: slice) -> np.ndarray:
    packets = velodyne.PacketVector()
    for data in PACKETS[row]:
        packets.append(velodyne.VelodynePacket(STAMP / 1e9, data))
    points: np.ndarray = velodyne.ScanDecoder(velodyne.Config()).decode(packets, True)[1]
    return points


@pytest.mark.parametrize("ros1", [True, False])
def test_a_bag_of_velodyne_scans_gives_a_cloud_for_each(tmp_path: Path, ros1: bool) -> None:
    with open_source(velodyne_bag(tmp_path / "a.bag", ros1)) as source:
        assert (source.topic, len(source)) == ("/velodyne_packets", 2)
        for number, frame in enumerate(source):
            cloud = frame.load()
            points = expected(slice(number * PER_ROTATION, (number + 1) * PER_ROTATION))
            for name in points.dtype.names or ():
                if name != "time":  # counted from the packets' own stamps
                    np.testing.assert_array_equal(cloud.record[name], points[name])
            assert cloud.message is not None
            assert cloud.message.header.stamp.sec == STAMP // 10**9 + number
            assert frame.stamp == STAMP + number
            assert 0 < cloud.points[:, 3].max() <= 1


def frames_of_network(packets: list[bytes]) -> Iterator[tuple[float, bytes]]:
    for number, data in enumerate(packets):
        udp = dpkt.udp.UDP(sport=2368, dport=2368, data=data, ulen=8 + len(data))
        ip = dpkt.ip.IP(src=b"\xc0\xa8\x01\xc9", dst=b"\xff\xff\xff\xff", p=17, data=udp)
        ip.len = len(ip)
        yield STAMP / 1e9 + number * PERIOD * 1e-6, bytes(dpkt.ethernet.Ethernet(data=ip))


def capture(path: Path, packets: list[bytes] = PACKETS) -> Path:
    other = [b"position" + bytes(504)]
    with path.open("wb") as file:
        writer = dpkt.pcapng.Writer(file) if path.suffix == ".pcapng" else dpkt.pcap.Writer(file)
        for stamp, frame in frames_of_network(packets + other):
            writer.writepkt(frame, ts=stamp)
    return path


@pytest.mark.parametrize("suffix", [".pcap", ".pcapng", ".dump"])
def test_a_capture_of_a_velodyne_gives_its_rotations(tmp_path: Path, suffix: str) -> None:
    path = capture(tmp_path / f"a{suffix}")
    with open_source(path) as source:
        assert (source.kind, source.topic, source.storage) == ("bag", "/velodyne_points", "mcap")
        clouds = [(frame.stamp, frame.load()) for frame in source]
        assert len(source) == len(clouds) >= 2
        assert sum(len(cloud.points) for _, cloud in clouds) == len(PACKETS) * 12 * 32
        again = [frame.stamp for frame in source.resume(1, clouds[1][0])]
    assert again == [stamp for stamp, _ in clouds[1:]]
    assert all(STAMP < stamp < STAMP + 10**9 for stamp, _ in clouds)


def test_a_capture_of_something_else_says_what_it_found(tmp_path: Path) -> None:
    with pytest.raises(BagError, match=r"no packets of a Velodyne.*found 300, 512.*for an Ouster.*a\.json"):
        open_source(capture(tmp_path / "a.pcap", [bytes(300)] * 3))
    with pytest.raises(BagError, match="blocks do not begin as Velodyne's do"):
        open_source(capture(tmp_path / "a.pcap", [b"\1" * 1206]))


@pytest.mark.parametrize("kind", [".pcap", ".pcapng", "bag"])
def test_broken_recordings_of_a_velodyne_are_refused_or_read_up_to_the_damage(tmp_path: Path, kind: str) -> None:
    path = velodyne_bag(tmp_path / "a.bag", True) if kind == "bag" else capture(tmp_path / f"a{kind}", PACKETS[:90])
    whole, found = path.read_bytes(), Counter[str]()
    for seed in range(60):
        path.write_bytes(damaged(whole, seed, spared=13))
        found[outcome(path)] += 1
    assert found["read"] < 60


@pytest.fixture(scope="module")
def ouster() -> Any:
    return pytest.importorskip("ouster.sdk.core", reason="ouster-sdk is not installed; docs/recordings.md says how")


def simulated(core: Any, rotations: int = 3) -> tuple[Any, list[Any], list[np.ndarray]]:
    """Metadata, packets and ranges of an OS1-64, as ouster-sdk makes them."""
    info = core.SensorInfo.from_default(core.LidarMode._512x10)
    info.config.udp_port_lidar = 7502  # port 0, as by default, is read back as a sensor that is off
    packets, ranges = list[Any](), list[np.ndarray]()
    for number in range(rotations):
        random, frame = np.random.default_rng(number), core.LidarFrame(info)
        distance = random.integers(1000, 50000, (frame.h, frame.w), dtype=np.uint32)
        distance[:, ::7] = 0
        frame.field("RANGE")[:] = distance
        frame.field("SIGNAL")[:] = random.integers(0, 60000, (frame.h, frame.w))
        frame.field("REFLECTIVITY")[:] = random.integers(0, 255, (frame.h, frame.w))
        frame.timestamp[:] = STAMP + number * 10**8 + np.arange(frame.w) * 10**8 // frame.w
        frame.status[:] = 1
        frame.measurement_id[:] = np.arange(frame.w)
        frame.frame_id = number + 1
        made = core.frame_to_packets(frame, core.PacketFormat(info), info.init_id, info.sn)
        for at, each in enumerate(made):
            each.host_timestamp = STAMP + number * 10**8 + at * 10**6
        packets += [each for each in made if isinstance(each, core.LidarPacket)]
        ranges.append(core.destagger(info, distance))
    return info, packets, ranges


def check_ouster(path: Path, ranges: list[np.ndarray], topic: str) -> None:
    with open_source(path) as source:
        assert source.topic == topic
        frames = [frame.load() for frame in source]
        assert len(source) == len(frames) == len(ranges)
    for cloud, distance in zip(frames, ranges, strict=True):
        np.testing.assert_array_equal(cloud.record["range"], distance.reshape(-1))
        assert cloud.message is not None
        assert (cloud.message.height, cloud.message.width) == distance.shape
        lengths = np.linalg.norm(cloud.points[:, :3].astype(np.float64), axis=1)
        returned = distance.reshape(-1) > 0
        np.testing.assert_allclose(lengths[returned], distance.reshape(-1)[returned] / 1e3, atol=0.1)
        assert not lengths[~returned].any()
        assert cloud.record["reflectivity"].max() > 100


@pytest.mark.parametrize("ros1", [True, False])
def test_a_bag_of_ouster_packets_gives_its_rotations(tmp_path: Path, ouster: Any, ros1: bool) -> None:
    info, packets, ranges = simulated(ouster)
    kind = "ouster_ros/msg/PacketMsg" if ros1 else "ouster_sensor_msgs/msg/PacketMsg"
    messages: list[tuple[str, str, int, dict[str, Any]]] = [
        ("/ouster/metadata", "std_msgs/msg/String", STAMP, {"data": info.to_json_string()})
    ]
    messages += [
        ("/ouster/lidar_packets", kind, STAMP + 1 + at, {"buf": np.array(each.buf)}) for at, each in enumerate(packets)
    ]
    check_ouster(write(tmp_path / "a.bag", ros1, messages), ranges, "/ouster/lidar_packets")
    with pytest.raises(BagError, match=r"not the sensor's metadata, .* on /ouster/metadata"):
        BagReader(write(tmp_path / "b.bag", ros1, messages[1:]))


def test_captures_and_osf_files_of_an_ouster_give_its_rotations(tmp_path: Path, ouster: Any) -> None:
    from ouster.sdk import osf, pcap

    info, packets, ranges = simulated(ouster)
    pcap.record(packets, str(tmp_path / "a.pcap"))
    with pytest.raises(BagError, match=r"for an Ouster its metadata must lie beside it as a\.json"):
        open_source(tmp_path / "a.pcap")
    (tmp_path / "a.json").write_text(info.to_json_string())
    check_ouster(tmp_path / "a.pcap", ranges, "/ouster/points")

    batch, frame = ouster.FrameBatcher(info), ouster.LidarFrame(info)
    writer = osf.Writer(str(tmp_path / "a.osf"), info)
    for each in packets:
        if batch(each, frame):
            writer.save(0, frame)
            frame = ouster.LidarFrame(info)
    writer.close()
    check_ouster(tmp_path / "a.osf", ranges, "/ouster/points")


def test_an_osf_file_with_a_wrong_checksum_is_refused_before_its_library_sees_it(tmp_path: Path) -> None:
    """A file is a row of blocks: length, bytes, CRC-32 of both."""
    path, blocks = tmp_path / "a.osf", [b"\0\0\0\0OSF$" + bytes(40), bytes(1000)]
    rows = [len(block).to_bytes(4, "little") + block for block in blocks]
    whole = b"".join(row + zlib.crc32(row).to_bytes(4, "little") for row in rows)
    for seed in range(60):
        broken = damaged(whole, seed, spared=16)
        if not broken.startswith(whole) and len(broken) not in (0, 56):
            path.write_bytes(broken)
            with pytest.raises(BagError, match=r"was cut off|is damaged: the checksum"):
                open_source(path)


def test_metadata_of_an_ouster_that_is_no_text_is_named(tmp_path: Path) -> None:
    messages: list[tuple[str, str, int, dict[str, Any]]] = [
        ("/ouster/metadata", "std_msgs/msg/String", STAMP, {"data": "metadata"}),
        ("/ouster/lidar_packets", "ouster_ros/msg/PacketMsg", STAMP + 1, {"buf": np.zeros(5, np.uint8)}),
    ]
    path = write(tmp_path / "a.bag", True, messages)
    path.write_bytes(path.read_bytes().replace(b"\x08\0\0\0metadata", b"\x08\0\0\0met\xff\xffata"))
    with pytest.raises(BagError, match="the metadata of an Ouster is damaged"):
        BagReader(path)
