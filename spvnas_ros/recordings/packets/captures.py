"""Opens captures of the network (pcap, pcapng) with packets of a Velodyne or an Ouster, and Ouster's OSF files."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any, Final

from spvnas_ros.recordings.containers.bounded import BoundedFile
from spvnas_ros.recordings.containers.container import BagError
from spvnas_ros.recordings.message_kinds import velodyne_packets
from spvnas_ros.recordings.message_kinds.decoded import needed
from spvnas_ros.recordings.packets import ouster_frames
from spvnas_ros.recordings.packets.stream import PacketStream, Rotation

_PIECE: Final = 1 << 20
VELODYNE_TOPIC: Final = "/velodyne_points"


def open_capture(path: Path) -> PacketStream:
    """Opens a capture. It is an Ouster's where the sensor's metadata (.json) lies beside it, else a Velodyne's.

    Raises BagError and MissingLibraryError.
    """
    metadata = metadata_beside(path)
    if metadata is not None:
        return PacketStream(str(path), lambda: ouster_frames.of_capture(path, metadata))
    return PacketStream(str(path), lambda: _velodyne(path))


def open_osf(path: Path) -> PacketStream:
    """Opens an Ouster's OSF file. Raises BagError, for a damaged one too, and MissingLibraryError."""
    _check_osf(path)
    return PacketStream(str(path), lambda: ouster_frames.of_osf(path))


def _check_osf(path: Path) -> None:
    """Raises BagError where a block of an OSF file does not bear out its checksum: ouster-sdk reads on, and its native
    code does not survive all that it finds there. A file is a row of blocks: a length, as many bytes, their CRC-32.
    """
    size, at = path.stat().st_size, 0
    with path.open("rb") as file:
        while at < size:
            head = file.read(4)
            length = int.from_bytes(head, "little")
            if len(head) < 4 or at + 8 + length > size:
                raise BagError(f"{path} was cut off: what begins at byte {at} ends behind byte {size}; copy it again")
            crc, left = zlib.crc32(head), length
            while left:
                piece = file.read(min(left, _PIECE))
                if not piece:
                    raise BagError(f"{path} has become shorter while it was read")
                crc, left = zlib.crc32(piece, crc), left - len(piece)
            if int.from_bytes(file.read(4), "little") != crc:
                raise BagError(f"{path} is damaged: the checksum of what begins at byte {at} is wrong; copy it again")
            at += 8 + length
    if not at:
        raise BagError(f"{path} is empty")


def metadata_beside(path: Path) -> Path | None:
    """Returns the Ouster metadata of a recording: a .json of its name, or the only such file in its folder."""
    named = [path.with_suffix(".json"), path.with_name(f"{path.stem}_0.json")]
    found = [file for file in named if file.is_file()] or [f for f in path.parent.glob("*.json") if _is_metadata(f)]
    return found[0] if len(found) == 1 or (found and found[0] in named) else None


def _is_metadata(path: Path) -> bool:
    try:
        text = path.read_bytes()[: 1 << 20]
        return isinstance(json.loads(text), dict) and b"beam_altitude_angles" in text
    except (OSError, ValueError):
        return False


def _velodyne(path: Path) -> Iterator[Rotation]:
    for stamp, points in velodyne_packets.rotations(_payloads(path)):
        yield VELODYNE_TOPIC, stamp, velodyne_packets.as_cloud(points, stamp, "velodyne")


def _payloads(path: Path) -> Iterator[tuple[float, bytes]]:
    """Yields time and bytes of every packet of points."""
    what = "captures of the network"
    pcap: Any = needed("dpkt.pcap", "'spvnas_ros[velodyne]'", what)
    pcapng: Any = needed("dpkt.pcapng", "'spvnas_ros[velodyne]'", what)
    ethernet: Any = needed("dpkt.ethernet", "'spvnas_ros[velodyne]'", what)
    sll: Any = needed("dpkt.sll", "'spvnas_ros[velodyne]'", what)
    found, other = 0, set[int]()
    with BoundedFile(path) as file:
        reader = _reader(file, pcap, pcapng)
        link = sll.SLL if reader.datalink() == pcap.DLT_LINUX_SLL else ethernet.Ethernet
        for stamp, frame in reader:
            data = _udp(frame, link)
            if data is not None and len(data) == velodyne_packets.PACKET_SIZE:
                found += 1
                yield float(stamp), data
            elif data is not None:
                other.add(len(data))
    if not found:
        sizes = ", ".join(map(str, sorted(other)[:6])) or "none"
        raise BagError(
            f"{path} has no packets of a Velodyne (UDP of {velodyne_packets.PACKET_SIZE} bytes; found {sizes}); for an "
            f"Ouster its metadata must lie beside it as {path.with_suffix('.json').name}"
        )


def _reader(file: BufferedReader, pcap: Any, pcapng: Any) -> Any:
    try:
        return pcap.Reader(file)
    except ValueError:
        file.seek(0)
        return pcapng.Reader(file)


def _udp(frame: bytes, link: Any) -> bytes | None:
    """Returns what the UDP packet in a frame holds; None for anything else."""
    try:
        layer = link(frame)
        while not isinstance(layer, bytes | bytearray):
            if type(layer).__name__ == "UDP":
                return bytes(layer.data)
            layer = layer.data
    except Exception:  # a frame that is cut or of no interest
        return None
    return None
