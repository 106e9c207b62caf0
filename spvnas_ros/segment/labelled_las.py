"""Writes a LAS or LAZ file again with the extra bytes `label` and `confidence` in every point, and all else as it came.

Header, VLRs, points and what follows them are copied as bytes; only what speaks of sizes and places changes. Offsets
are those of ASPRS LAS 1.4 R15.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt

from spvnas_ros.frame import Segmentation
from spvnas_ros.recordings.files import replacing
from spvnas_ros.recordings.scans import ScanError
from spvnas_ros.recordings.scans.las import chunks, opened
from spvnas_ros.segment.stored import Labelled

ASPRS: Final[Mapping[str, int]] = {
    "road": 11,
    "parking": 2,
    "sidewalk": 2,
    "other-ground": 2,
    "terrain": 2,
    "building": 6,
    "vegetation": 5,
    "trunk": 5,
}
"""ASPRS's codes: 11 road surface, 2 ground, 6 building, 5 high vegetation. All other classes are 1, unclassified."""
_OTHERS, _NEVER = 1, 0

_HEADER_SIZE, _POINTS_AT, _VLRS, _FORMAT, _LENGTH = 94, 96, 100, 104, 105
_WAVEFORMS_AT, _EVLRS_AT, _EVLRS = 227, 235, 243
_ENCODING, _MINOR = 6, 25
_INTERNAL_WAVEFORMS = 2
_BASE: Final = (20, 28, 26, 34, 57, 63, 30, 36, 38, 59, 67)
"""Bytes of a point of each format, without extra bytes."""
_VLR, _EVLR, _EXTRA = 54, 60, 192
_SIZES: Final = (0, 1, 1, 2, 2, 4, 4, 8, 8, 4, 8)
_UINT8, _FLOAT32 = 1, 9
_OURS: Final = (
    ("label", _UINT8, "index of the class, 255 none"),
    ("confidence", _FLOAT32, "of the label, 0 to 1"),
)


def write_las(
    source: Path, path: Path, result: Labelled, classes: tuple[str, ...], codes: Mapping[str, int] | None
) -> None:
    """Writes the points of `source` with their labels to `path`; whole, or not at all. What came compressed goes so.

    codes: the classification of each class by name; None to keep that of the points

    Raises ScanError where `source` is damaged, and ValueError where it has not as many points as there are labels.
    """
    with source.open("rb") as file, opened(source) as reader, replacing(path) as target:
        if reader.header.point_count != len(result):
            raise ValueError(f"{source} has {reader.header.point_count} points, found labels of {len(result)}")
        head = bytearray(file.read(struct.unpack_from("<H", _peek(file, _HEADER_SIZE, 2))[0]))
        points_at = struct.unpack_from("<I", head, _POINTS_AT)[0]
        vlrs = file.read(points_at - len(head))
        base, length = _BASE[head[_FORMAT] & 0x3F], struct.unpack_from("<H", head, _LENGTH)[0]
        vlrs, count = _with_extra_bytes(vlrs, struct.unpack_from("<I", head, _VLRS)[0], length - base)
        compressed = bool(reader.header.are_points_compressed)
        packer = None
        if compressed:
            import lazrs

            laz = lazrs.LazVlr.new_for_compression(head[_FORMAT] & 0x3F, length - base + 5)
            record = bytes(laz.record_data())
            vlrs = _vlr(b"laszip encoded", 22204, b"spvnas_ros", record) + vlrs
            count += 1
        struct.pack_into("<II", head, _POINTS_AT, len(head) + len(vlrs), count)
        struct.pack_into("<H", head, _LENGTH, length + 5)
        target.write(head)
        target.write(vlrs)
        if compressed:
            packer = lazrs.LasZipCompressor(target, laz)
        at = 0
        lookup = _codes(classes, codes)
        for points in chunks(reader):
            rows = _rows(points, length, result.part(at, at + len(points)), lookup, base)
            if packer is None:
                target.write(rows.tobytes())
            else:
                packer.compress_many(rows.reshape(-1).view(np.uint8))
            at += len(points)
        if packer is not None:
            packer.done()
        target.seek(0, 2)
        _copy_rest(file, target, head, points_at + length * at)
        target.seek(0)
        target.write(head)


def _peek(file: BinaryIO, at: int, count: int) -> bytes:
    file.seek(at)
    data = file.read(count)
    file.seek(0)
    return data


def _rows(
    points: Any, length: int, result: Segmentation, codes: npt.NDArray[np.uint8] | None, base: int
) -> npt.NDArray[np.void]:
    """Returns points with their labels, one row of bytes each."""
    rows = np.empty(len(points), [("input", f"V{length}"), ("label", "u1"), ("confidence", "<f4")])
    rows["input"] = np.ascontiguousarray(points.array).view(f"V{length}").reshape(-1)
    rows["label"], rows["confidence"] = result.labels, result.confidence
    if codes is not None:
        table = rows.view(np.uint8).reshape(len(rows), -1)
        classes = codes[result.labels]
        # Up to format 5 the upper three bits of that byte are flags; later formats have a byte of its own.
        if base in _BASE[:6]:
            table[:, 15] = (table[:, 15] & 0xE0) | classes
        else:
            table[:, 16] = classes
    return rows


def _codes(classes: tuple[str, ...], codes: Mapping[str, int] | None) -> npt.NDArray[np.uint8] | None:
    if codes is None:
        return None
    table = np.full(256, _NEVER, np.uint8)
    table[: len(classes)] = [codes.get(name, _OTHERS) for name in classes]
    return table


def _with_extra_bytes(vlrs: bytes, count: int, extra: int) -> tuple[bytes, int]:
    """Returns the VLRs with our two extra bytes described, and without those that speak of how points are packed.

    extra: bytes of a point that its format does not have; those that nothing describes are described as just bytes
    """
    kept, described, at, number = bytearray(), b"", 0, 0
    for _ in range(count):
        user, record = vlrs[at + 2 : at + 18].rstrip(b"\0"), struct.unpack_from("<H", vlrs, at + 18)[0]
        end = at + _VLR + struct.unpack_from("<H", vlrs, at + 20)[0]
        if end > len(vlrs):
            raise ScanError("its VLRs reach into its points; get the file again")
        if (user, record) == (b"LASF_Spec", 4) and not described:
            described = vlrs[at:end]
        elif (user, record) != (b"laszip encoded", 22204) and user != b"copc":
            kept += vlrs[at:end]
            number += 1
        at = end
    rest = vlrs[at:]
    fields = described[_VLR:]
    entries = [bytearray(fields[at : at + _EXTRA]) for at in range(0, len(fields) // _EXTRA * _EXTRA, _EXTRA)]
    names = {bytes(entry[4:36]).rstrip(b"\0") for entry in entries}
    for entry in entries:
        name = bytes(entry[4:36]).rstrip(b"\0")
        if name in (b"label", b"confidence"):
            fresh = b"input_" + name
            while fresh in names:
                fresh = b"input_" + fresh
            names.add(fresh)
            entry[4:36] = fresh[:32].ljust(32, b"\0")
    for some in _undescribed(extra - sum(_size(entry) for entry in entries)):
        entries.append(bytearray(_entry("", 0, "", some)))
    entries += [bytearray(_entry(name, kind, text)) for name, kind, text in _OURS]
    text = bytes(described[22:_VLR]).rstrip(b"\0") or b"spvnas_ros"
    return bytes(kept) + _vlr(b"LASF_Spec", 4, text, b"".join(entries)) + rest, number + 1


def _size(entry: bytes | bytearray) -> int:
    kind, options = entry[2], entry[3]
    if kind == 0:
        return options
    return _SIZES[(kind - 1) % 10 + 1] * ((kind - 1) // 10 + 1)


def _undescribed(count: int) -> list[int]:
    return [min(255, count - at) for at in range(0, count, 255)]


def _entry(name: str, kind: int, text: str, options: int = 0) -> bytes:
    return struct.pack("<2xBB32s4x24x24x24x24x24x32s", kind, options, name.encode(), text.encode())


def _vlr(user: bytes, record: int, text: bytes, data: bytes) -> bytes:
    if len(data) > 0xFFFF:
        raise ScanError("it has too many extra bytes for two more to be described")
    return struct.pack("<2x16sHH32s", user, record, len(data), text) + data


def _copy_rest(file: BinaryIO, target: BinaryIO, head: bytearray, end: int) -> None:
    """Copies what follows the points: EVLRs, and waveforms. Changes in the header where they are."""
    minor = head[_MINOR]
    waveforms = bool(struct.unpack_from("<H", head, _ENCODING)[0] & _INTERNAL_WAVEFORMS) and minor >= 3
    evlrs_at, evlrs = struct.unpack_from("<QI", head, _EVLRS_AT) if minor >= 4 else (0, 0)
    waveforms_at = struct.unpack_from("<Q", head, _WAVEFORMS_AT)[0] if waveforms else 0
    if evlrs:
        struct.pack_into("<QI", head, _EVLRS_AT, target.tell(), evlrs)
        at, kept = evlrs_at, 0
        for _ in range(evlrs):
            file.seek(at)
            start = file.read(_EVLR)
            if len(start) < _EVLR:
                raise ScanError("cut short: its last EVLR is not there; get the file again")
            size = _EVLR + struct.unpack_from("<Q", start, 20)[0]
            if at == waveforms_at:
                struct.pack_into("<Q", head, _WAVEFORMS_AT, target.tell())
            if start[2:18].rstrip(b"\0") != b"copc":
                _copy(file, target, at, size)
                kept += 1
            at += size
        struct.pack_into("<QI", head, _EVLRS_AT, struct.unpack_from("<Q", head, _EVLRS_AT)[0] if kept else 0, kept)
    elif waveforms_at >= end and waveforms_at:
        struct.pack_into("<Q", head, _WAVEFORMS_AT, target.tell())
        _copy(file, target, waveforms_at, file.seek(0, 2) - waveforms_at)


def _copy(file: BinaryIO, target: BinaryIO, at: int, size: int) -> None:
    file.seek(at)
    while size > 0:
        data = file.read(min(size, 1 << 20))
        if not data:
            raise ScanError("cut short: its last EVLR is not there; get the file again")
        target.write(data)
        size -= len(data)
