"""Decodes Ouster's packets by ouster-sdk: in captures, OSF files and bags. First returns only."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

from spvnas_ros.clouds.point_cloud2 import Datatype, PointField
from spvnas_ros.recordings.containers.container import BagError
from spvnas_ros.recordings.message_kinds.decoded import cloud_of, needed
from spvnas_ros.recordings.packets.stream import Rotation

_INSTALL: Final = "'spvnas_ros[ouster]' && pip install --no-deps ouster-sdk"
"""ouster-sdk asks for a rosbags older than ours, which only its own reader of bags uses: so it comes without."""
_WHAT: Final = "packets of an Ouster"
_FIELDS: Final = (
    PointField("x", 0, Datatype.FLOAT32),
    PointField("y", 4, Datatype.FLOAT32),
    PointField("z", 8, Datatype.FLOAT32),
    PointField("intensity", 12, Datatype.FLOAT32),
    PointField("t", 16, Datatype.UINT32),
    PointField("reflectivity", 20, Datatype.UINT16),
    PointField("ring", 22, Datatype.UINT16),
    PointField("ambient", 24, Datatype.UINT16),
    PointField("range", 28, Datatype.UINT32),
)
"""As Ouster's ROS driver names them; x, y, z in the sensor's frame."""
_LAYOUT: Final = np.dtype(
    {
        "names": [each.name for each in _FIELDS],
        "formats": ["<f4", "<f4", "<f4", "<f4", "<u4", "<u2", "<u2", "<u2", "<u4"],
        "offsets": [each.offset for each in _FIELDS],
        "itemsize": 32,
    }
)
_FRAME_ID: Final = "os_sensor"
_MOST_METADATA: Final = 4 << 20


def topic(sensor: int) -> str:
    """Returns the topic of a sensor's clouds."""
    return "/ouster/points" if sensor == 0 else f"/ouster_{sensor}/points"


def of_capture(path: Path, metadata: Path) -> Iterator[Rotation]:
    """Yields the rotations of a capture. Raises MissingLibraryError, and what ouster-sdk raises."""
    pcap = needed("ouster.sdk.pcap", _INSTALL, _WHAT)
    yield from _of_source(pcap.PcapFrameSetSource(str(path), meta=[str(metadata)]))


def of_osf(path: Path) -> Iterator[Rotation]:
    """Yields the rotations of an OSF file. Raises MissingLibraryError, and what ouster-sdk raises."""
    osf = needed("ouster.sdk.osf", _INSTALL, _WHAT)
    yield from _of_source(osf.OsfFrameSetSource(str(path)))


def of_packets(metadata: str, packets: Iterator[tuple[int, bytes]], name: str) -> Iterator[Rotation]:
    """Yields the rotations in a stream of packets with their times, nanoseconds since 1970.

    metadata: the sensor's, JSON
    name:     the topic

    Raises MissingLibraryError, BagError where no packet fits the metadata, and what ouster-sdk raises.
    """
    core = needed("ouster.sdk.core", _INSTALL, _WHAT)
    if len(metadata) > _MOST_METADATA:
        raise BagError(f"the metadata of {name} has {len(metadata)} bytes")
    info = core.SensorInfo(metadata)
    size, batch, lut = core.PacketFormat(info).lidar_packet_size, core.FrameBatcher(info), core.XYZLut(info)
    frame, begun, last, others = core.LidarFrame(info), False, 0, set[int]()
    for stamp, data in packets:
        if len(data) != size:
            others.add(len(data))
            continue
        packet = core.LidarPacket(size)
        packet.buf[:] = np.frombuffer(data, np.uint8)
        packet.host_timestamp = stamp
        last = stamp
        if batch(packet, frame):
            yield name, stamp, _cloud(core, frame, lut, stamp)
            frame, begun = core.LidarFrame(info), False
        else:
            begun = True
    if begun:
        yield name, last, _cloud(core, frame, lut, last)
    if not last:
        raise BagError(f"{name} has no packets of {size} bytes, as its metadata says; found {sorted(others)[:6]}")


def _of_source(source: Any) -> Iterator[Rotation]:
    core = needed("ouster.sdk.core", _INSTALL, _WHAT)
    luts = [core.XYZLut(info) for info in source.sensor_info]
    try:
        for frames in source:
            for sensor, frame in enumerate(frames):
                if frame is not None:
                    stamps = frame.packet_timestamp[frame.packet_timestamp > 0]
                    stamp = int(stamps.max()) if len(stamps) else int(frame.timestamp.max())
                    yield topic(sensor), stamp, _cloud(core, frame, luts[sensor], stamp)
    finally:
        source.close()


def _cloud(core: Any, frame: Any, lut: Any, stamp: int) -> Any:
    info, points = frame.sensor_info, np.zeros((frame.h, frame.w), _LAYOUT)
    place = core.destagger(info, lut(frame))
    for column, name in enumerate("xyz"):
        points[name] = place[:, :, column]
    for name, of_frame in (("range", "RANGE"), ("intensity", "SIGNAL"), ("reflectivity", "REFLECTIVITY"),
                           ("ambient", "NEAR_IR")):  # fmt: skip
        if frame.has_field(of_frame):
            points[name] = core.destagger(info, frame.field(of_frame))
    times = frame.timestamp.astype(np.int64)
    since = np.where(times > 0, times - min(times[times > 0], default=0), 0)
    points["t"] = core.destagger(info, np.broadcast_to(since.astype(np.uint32), (frame.h, frame.w)).copy())
    points["ring"] = np.arange(frame.h, dtype=np.uint16)[:, None]
    cloud = cloud_of(stamp, _FRAME_ID, _FIELDS, _LAYOUT.itemsize, points.reshape(-1).view(np.uint8))
    cloud.height, cloud.width, cloud.row_step = frame.h, frame.w, frame.w * _LAYOUT.itemsize
    return cloud
