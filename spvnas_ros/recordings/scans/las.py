"""Reads LAS 1.0 to 1.4, LAZ and COPC, point formats 0 to 10, by laspy and lazrs.

x, y and z are float64: the file's whole numbers times its scale and its offset (ASPRS LAS 1.4 R15).
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from spvnas_ros.recordings.scans.records import Record, ScanError, ScanFormat, missing

_CHUNK = 1 << 20
"""Points read at a time: no header makes this reserve more than the points of one."""
_VLR, _EVLR = 54, 60
"""Bytes of the smallest one."""
_LAYERED, _LAYERS = 3, {10: 9, 11: 1, 12: 2, 13: 1}
"""How LAZ packs point formats 6 to 10, and how many layers an item has, by its number; extra bytes have one each."""
_PACKED_CHUNK, _MOST_PACKED = 50_000, 1000
"""Points of a LAZ file that always may be there, and for each of its bytes: even equal points take more room."""


def read_las(path: Path) -> Record:
    """Reads all points with all their fields: x, y, z in the file's units, `intensity` as uint16, `classification`,
    extra bytes by their names.

    Raises ScanError for a damaged file, one that is cut short, and where laspy is not installed.
    """
    with opened(path) as reader:
        check_scale(reader.header)
        pieces = [_record(points) for points in chunks(reader)]
        if not pieces:
            return np.empty(0, [(axis, "<f8") for axis in "xyz"])
        record: Record = np.concatenate(pieces)
        return record


def las_pieces(path: Path) -> Iterator[Record]:
    """Yields all points as `read_las` returns them, some at a time. Raises ScanError as it does."""
    with opened(path) as reader:
        check_scale(reader.header)
        for points in chunks(reader):
            yield _record(points)


def points_in(path: Path) -> int:
    """Returns how many points a file announces. Raises ScanError for a damaged one."""
    with opened(path) as reader:
        return int(reader.header.point_count)


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Opens a file as laspy's LasReader. Whatever laspy or lazrs say against it becomes a ScanError."""
    try:
        import laspy
    except ImportError as error:
        raise missing("laspy", ".las and .laz", "las") from error
    check_sizes(path)
    logger = logging.getLogger("laspy")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)  # it also logs the errors that it raises
    try:
        with laspy.open(path, read_evlrs=False) as reader:
            if reader.header.are_points_compressed:
                if not laspy.LazBackend.detect_available():
                    raise missing("lazrs", ".laz", "las")
                _check_packing(path, reader.header)
            yield reader
    except (ScanError, OSError, GeneratorExit):
        raise
    except BaseException as error:
        # A panic of lazrs (Rust) is no Exception, and laspy lets through what it meets: ValueError, struct.error, ...
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ScanError(f"it is no whole LAS or LAZ file: {reason}; get the file again") from error
    finally:
        logger.setLevel(level)


def check_sizes(path: Path) -> None:
    """Raises ScanError where a header announces more than its file can hold: laspy takes its word for it.

    The places of the numbers are those of ASPRS LAS 1.4 R15.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(375)
    if len(head) < 227 or head[:4] != b"LASF":
        raise ScanError("it is no whole LAS or LAZ file: its header is not there; get the file again")
    minor, form = head[25], head[104]
    header_size, points_at, vlrs = struct.unpack_from("<HII", head, 94)
    length, points = struct.unpack_from("<HI", head, 105)
    evlrs = 0
    if minor >= 4 and len(head) == 375:
        _, evlrs, points = struct.unpack_from("<QIQ", head, 235)
    if not 227 <= header_size <= points_at <= size or vlrs * _VLR > points_at - header_size:
        raise ScanError(
            f"its header announces {vlrs} VLRs between bytes {header_size} and {points_at} of {size}; get the file "
            "again"
        )
    if evlrs * _EVLR > size:
        raise ScanError(f"its header announces {evlrs} EVLRs in {size} bytes; get the file again")
    packed = form & 0xC0
    if packed and points > _PACKED_CHUNK + _MOST_PACKED * size:
        raise ScanError(f"its header announces {points} points in {size} bytes; get the file again")
    if not packed and points * length > size - points_at:
        found = (size - points_at) // length if length else 0
        raise ScanError(f"cut short: the header announces {points} points, found {found}; get the file again")


def _check_packing(path: Path, header: Any) -> None:
    """Raises ScanError where the chunks of a LAZ file do not hold the points that its header announces."""
    import lazrs

    if not header.point_count:
        return
    vlr = lazrs.LazVlr(header.vlrs[header.vlrs.index("LasZipVlr")].record_data)
    if vlr.item_size() != header.point_format.size:
        raise ScanError(
            f"its points are packed as {vlr.item_size()} bytes each, the header has {header.point_format.size}; get "
            "the file again"
        )
    with path.open("rb") as file:
        _check_chunk_table(file, header.offset_to_point_data, header.point_format.size)
        file.seek(header.offset_to_point_data)
        table = lazrs.read_chunk_table(file, vlr)
        _check_layers(file, header, table)
    if (taken := sum(length for _, length in table)) > path.stat().st_size:
        raise ScanError(f"cut short: its chunks take {taken} bytes; get the file again")
    there = sum(points for points, _ in table)
    if header.point_count > there:
        raise ScanError(
            f"cut short: {header.point_count} points announced, its chunks hold {there}; get the file again"
        )


def chunks(reader: Any) -> Iterator[Any]:
    """Yields all points as laspy has them, some at a time. Raises ScanError where there are fewer than announced."""
    announced, found = reader.header.point_count, 0
    while found < announced:
        try:
            points = reader.read_points(_CHUNK)
        except EOFError:
            points = ()
        if len(points) < min(_CHUNK, announced - found):
            raise ScanError(
                f"cut short: the header announces {announced} points, found {found + len(points)} of them; get the "
                "file again"
            )
        found += len(points)
        yield points


def _check_layers(file: BinaryIO, header: Any, table: Sequence[tuple[int, int]]) -> None:
    """Raises ScanError where the layers of a chunk (point formats 6 to 10) announce more bytes than the chunk has.

    lazrs reserves 4 GB for a layer that says so. A chunk is a point, a count, the sizes of its layers, the layers.
    """
    record = header.vlrs[header.vlrs.index("LasZipVlr")].record_data
    if len(record) < 34 or struct.unpack_from("<H", record)[0] != _LAYERED:
        return
    layers = 0
    for item in range(struct.unpack_from("<H", record, 32)[0]):
        if len(record) < 40 + 6 * item:
            raise ScanError("it does not say how its points are packed; get the file again")
        kind, size = struct.unpack_from("<HH", record, 34 + 6 * item)
        layers += _LAYERS.get(kind, size)
    at = header.offset_to_point_data + 8
    for _, length in table:
        file.seek(at + header.point_format.size + 4)
        sizes = file.read(4 * layers)
        if len(sizes) < 4 * layers or sum(struct.unpack(f"<{layers}I", sizes)) > length:
            raise ScanError("the layers of a chunk take more bytes than it has; get the file again")
        at += length


def _check_chunk_table(file: BinaryIO, points_at: int, length: int) -> None:
    """Raises ScanError where the table of a LAZ file's chunks lists more than there can be.

    lazrs reserves room for as many as it says, and ends the process where there is none.
    """
    size = file.seek(0, 2)
    file.seek(points_at)
    at = struct.unpack("<q", file.read(8).ljust(8, b"\0"))[0]
    if at == -1 and size >= 8:  # written as a stream: the place of the table is at the end
        file.seek(size - 8)
        at = struct.unpack("<q", file.read(8))[0]
    if not points_at + 8 <= at <= size - 8:
        raise ScanError(f"cut short: the table of its chunks should be at byte {at} of {size}; get the file again")
    file.seek(at + 4)
    chunks_there = struct.unpack("<I", file.read(4))[0]
    if chunks_there * length > size:  # each begins with a point that is not packed
        raise ScanError(f"it announces {chunks_there} chunks in {size} bytes; get the file again")


def check_scale(header: Any) -> None:
    """Raises ScanError where scale and offset give no coordinates."""
    scales, offsets = np.asarray(header.scales), np.asarray(header.offsets)
    if not (np.isfinite(scales).all() and np.isfinite(offsets).all() and (scales != 0).all()):
        raise ScanError(
            f"its scale {scales.tolist()} and offset {offsets.tolist()} give no coordinates; expected finite numbers, "
            "and no scale of 0"
        )


@np.errstate(over="ignore", invalid="ignore")
def _record(points: Any) -> Record:
    names = [name for name in points.point_format.dimension_names if name not in ("X", "Y", "Z")]
    columns = {axis: np.asarray(points[axis], np.float64) for axis in "xyz"}
    columns |= {name: np.asarray(points[name]) for name in names if name not in columns}
    record = np.empty(len(points), [(name, each.dtype, each.shape[1:]) for name, each in columns.items()])
    for name, values in columns.items():
        record[name] = values
    return record


FORMAT = ScanFormat(
    "las",
    (".las", ".laz"),
    read_las,
    rb"LASF",
    count=lambda path, *_: points_in(path),
    pieces=lambda path, *_: las_pieces(path),
)
