"""Reads PCD, the format of the Point Cloud Library, version 0.7: ascii, binary and binary_compressed.

Format: https://pointclouds.org/documentation/tutorials/pcd_file_format.html
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spvnas_ros.recordings.scans.records import (
    Record,
    ScanError,
    ScanFormat,
    binary_pieces,
    check_end,
    mapped,
    parse_binary,
    parse_count,
    parse_text,
    record_dtype,
    text_pieces,
)

_MAX_HEADER = 1 << 16
_MAX_COUNT = 4096
_KINDS = {"F": ("4", "8"), "I": ("1", "2", "4", "8"), "U": ("1", "2", "4", "8")}
_ENCODINGS = ("ascii", "binary", "binary_compressed")


@dataclass(frozen=True)
class PcdHeader:
    """The contents of the header. The rows start at byte `start`."""

    dtype: np.dtype[np.void]
    rows: int
    encoding: str
    start: int


def read_pcd(data: bytes) -> Record:
    """Returns the points of a PCD file as a structured array `[N]`. Raises ScanError where `data` is no PCD file."""
    header = header_of(data)
    body = data[header.start :]
    if header.encoding == "ascii":
        return parse_text(body, header.dtype, header.rows)
    if header.encoding == "binary":
        record = parse_binary(body, header.dtype, header.rows)
        check_end(body, record.nbytes)
        return record
    return _parse_compressed(body, header.dtype, header.rows)


def _pieces(path: Path) -> Iterator[Record]:
    """Yields the points some at a time; compressed ones at once. Raises ScanError as `read_pcd` does."""
    header = _header_in(path)
    if header.encoding == "ascii":
        yield from text_pieces(path, header.dtype, header.rows, header.start)
    elif header.encoding == "binary":
        yield from binary_pieces(path, header.dtype, header.rows, header.start)
    else:
        yield read_pcd(path.read_bytes())


def _header_in(path: Path) -> PcdHeader:
    with mapped(path) as data:
        header = header_of(data)
        if header.encoding == "binary":
            check_end(data, header.start + parse_binary(data, header.dtype, header.rows, header.start).nbytes)
    return header


def header_of(data: Any) -> PcdHeader:
    """Returns the header of a PCD file by its bytes. Raises ScanError where it cannot be one."""
    words: dict[str, list[str]] = {}
    start = 0
    while "DATA" not in words:
        end = data.find(b"\n", start, _MAX_HEADER)
        if end < 0:
            raise ScanError("its PCD header has no DATA line; expected VERSION, FIELDS, SIZE, TYPE, COUNT, ..., DATA")
        line = data[start:end].decode("latin-1").split("#")[0].split()
        start = end + 1
        if line:
            words[line[0]] = line[1:]
    encoding = " ".join(words["DATA"])
    if encoding not in _ENCODINGS:
        raise ScanError(f"its DATA is {encoding!r}, expected one of {', '.join(_ENCODINGS)}")
    return PcdHeader(_dtype(words), _rows(words), encoding, start)


def _dtype(words: dict[str, list[str]]) -> np.dtype[np.void]:
    if missing := [key for key in ("FIELDS", "SIZE", "TYPE") if not words.get(key)]:
        raise ScanError(f"its PCD header lacks {', '.join(missing)}")
    names, sizes, kinds = words["FIELDS"], words["SIZE"], words["TYPE"]
    counts = words.get("COUNT") or ["1"] * len(names)
    if not len(names) == len(sizes) == len(kinds) == len(counts):
        raise ScanError(
            f"its PCD header has {len(names)} FIELDS, {len(sizes)} SIZE, {len(kinds)} TYPE and {len(counts)} COUNT "
            "entries; expected as many of each"
        )
    columns = []
    for name, size, kind, count in zip(names, sizes, kinds, counts, strict=True):
        if size not in _KINDS.get(kind, ()):
            raise ScanError(f"field {name!r} has type {kind!r} of {size} bytes; expected F 4|8, I or U 1|2|4|8")
        if not 1 <= parse_count(count, f"COUNT of field {name!r}") <= _MAX_COUNT:
            raise ScanError(f"COUNT of field {name!r} is {count}, expected 1 to {_MAX_COUNT}")
        columns.append((name, f"<{kind.lower()}{size}", int(count)))
    return record_dtype(columns)


def _rows(words: dict[str, list[str]]) -> int:
    counts = {key: parse_count(" ".join(words[key]), key) for key in ("WIDTH", "HEIGHT", "POINTS") if key in words}
    area = counts["WIDTH"] * counts.get("HEIGHT", 1) if "WIDTH" in counts else None
    rows = counts.get("POINTS", area)
    if rows is None:
        raise ScanError("its PCD header has neither POINTS nor WIDTH; expected how many points there are")
    if area not in (None, rows):
        raise ScanError(f"its PCD header announces POINTS {rows} but WIDTH x HEIGHT is {area}")
    return rows


def _parse_compressed(body: bytes, dtype: np.dtype[np.void], rows: int) -> Record:
    """Parses binary_compressed data: two sizes, then the LZF of one field after the other, each for all points."""
    if len(body) < 8:
        raise ScanError("cut short: the sizes of its compressed data are not there; get the file again")
    packed, unpacked = struct.unpack_from("<II", body)
    if packed > len(body) - 8:
        raise ScanError(f"cut short: {packed} compressed bytes announced, found {len(body) - 8}; get the file again")
    if unpacked != rows * dtype.itemsize:
        raise ScanError(
            f"its compressed data announces {unpacked} bytes, but {rows} points of {dtype.itemsize} bytes "
            f"are {rows * dtype.itemsize}"
        )
    check_end(body, 8 + packed)
    columns = lzf_decompress(body[8 : 8 + packed], unpacked)
    table = np.empty(rows, dtype)
    start = 0
    for name in dtype.names or ():
        table[name] = np.frombuffer(columns, dtype[name], rows, start)
        start += rows * dtype[name].itemsize
    return table


def lzf_decompress(data: bytes, size: int) -> bytes:
    """Decompresses LZF (Marc Lehmann's LibLZF) into exactly `size` bytes. Raises ScanError for damaged data.

    A control byte below 32 copies that many bytes plus one from the input. Any other control byte copies bytes that
    were already written: its upper 3 bits give the length, its lower 5 bits the upper part of the distance.
    """
    out = bytearray()
    at = 0
    try:
        while at < len(data) and len(out) <= size:
            control = data[at]
            at += 1
            if control < 32:
                out += data[at : at + control + 1]
                at += control + 1
                continue
            length = control >> 5
            if length == 7:
                length += data[at]
                at += 1
            distance = ((control & 31) << 8 | data[at]) + 1
            at += 1
            _repeat(out, distance, length + 2)
    except IndexError:
        raise ScanError("its compressed data ends in the middle of a copy; get the file again") from None
    if len(out) != size or at > len(data):
        raise ScanError(f"its compressed data gives {len(out)} bytes, expected {size}; get the file again")
    return bytes(out)


def _repeat(out: bytearray, distance: int, length: int) -> None:
    """Appends `length` bytes, copied from `distance` bytes before the end. The source and the copy may overlap."""
    start = len(out) - distance
    if start < 0:
        raise ScanError("its compressed data points before its own start; get the file again")
    if distance >= length:
        out += out[start : start + length]
    else:
        pattern = bytes(out[start:])
        out += (pattern * (length // distance + 1))[:length]


FORMAT = ScanFormat(
    "pcd",
    (".pcd",),
    lambda path: read_pcd(path.read_bytes()),
    rb"(\s|#[^\n]*\n)*(VERSION|FIELDS)\s",
    count=lambda path, *_: _header_in(path).rows,
    pieces=lambda path, *_: _pieces(path),
)
