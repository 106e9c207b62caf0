"""Reads PLY, the Stanford polygon format, version 1.0: ascii, binary little-endian and binary big-endian.

Only the element `vertex` is read. The other elements (faces, cameras) are skipped.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
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
_ORDERS = {"ascii": "=", "binary_little_endian": "<", "binary_big_endian": ">"}
_SHORT = {"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4"}
_SIZED = {"int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4"}
_FLOATS = {"float": "f4", "double": "f8", "float32": "f4", "float64": "f8"}
_KINDS = _SHORT | _SIZED | _FLOATS
_SCALAR_PREFIX = "scalar_"
"""CloudCompare puts this before the names of its scalar fields, including the intensity."""


@dataclass
class _Property:
    """A property of an element. `length` is the type of a list's length; None for a single value."""

    name: str
    kind: str
    length: str | None = None


@dataclass
class _Element:
    """An element: `count` rows of properties."""

    name: str
    count: int
    properties: list[_Property] = field(default_factory=list)

    @property
    def has_lists(self) -> bool:
        return any(p.length for p in self.properties)


@dataclass(frozen=True)
class PlyHeader:
    """Where the vertices of a PLY file lie.

    order:        of bytes, "<" or ">"; "=" for text
    start:        the first byte behind the header
    vertices:     how many there are
    rows:         the first byte of them and the first one behind them; not of text
    lines_before: lines of text before them
    dtype:        of a vertex
    """

    order: str
    start: int
    vertices: int
    rows: tuple[int, int]
    lines_before: int
    dtype: np.dtype[np.void]


def read_ply(data: bytes) -> Record:
    """Returns the vertices of a PLY file as a structured array `[N]`. Raises ScanError where `data` is no PLY file."""
    header, more = _header(data)
    if header.order != "=":
        return parse_binary(data, header.dtype, header.vertices, header.rows[0])
    return parse_text(data[header.start :], header.dtype, header.vertices, skip=header.lines_before, after=more)


def header_of(data: Any) -> PlyHeader:
    """Returns where the vertices of a PLY file lie, by its bytes. Raises ScanError where `data` is no PLY file."""
    return _header(data)[0]


def _header(data: Any) -> tuple[PlyHeader, int]:
    """Returns where the vertices lie, and how many lines of text follow them."""
    order, elements, begin = _parse_header(data)
    start = begin
    index = next((i for i, element in enumerate(elements) if element.name == "vertex"), None)
    if index is None:
        raise ScanError(f"it has no vertex element; found {[e.name for e in elements]}")
    vertex, before, after = elements[index], elements[:index], elements[index + 1 :]
    if vertex.has_lists or not vertex.properties:
        raise ScanError("its vertex element must have single values only, found lists or nothing; export it as points")
    dtype = record_dtype([(p.name.removeprefix(_SCALAR_PREFIX), order + p.kind, 1) for p in vertex.properties])
    if order == "=":
        lines, more = (sum(element.count for element in others) for others in (before, after))
        return PlyHeader(order, begin, vertex.count, (begin, begin), lines, dtype), more
    for element in before:
        start = _end_of(element, data, start, order)
    parse_binary(data, dtype, vertex.count, start)  # they are all there
    rows = (start, start + vertex.count * dtype.itemsize)
    start = rows[1]
    for element in after:
        start = _end_of(element, data, start, order)
    check_end(data, start)
    return PlyHeader(order, begin, vertex.count, rows, 0, dtype), 0


def _pieces(path: Path) -> Iterator[Record]:
    """Yields the vertices some at a time. Raises ScanError as `read_ply` does."""
    header = _header_in(path)
    if header.order == "=":
        yield from text_pieces(path, header.dtype, header.vertices, header.start, header.lines_before)
    else:
        yield from binary_pieces(path, header.dtype, header.vertices, header.rows[0])


def _header_in(path: Path) -> PlyHeader:
    with mapped(path) as data:
        return header_of(data)


def _parse_header(data: bytes) -> tuple[str, list[_Element], int]:
    """Returns the byte order, the elements in the order of the file, and the byte at which the rows start."""
    order: str | None = None
    elements: list[_Element] = []
    for words, start in _header_lines(data):
        match words:
            case ["format", name, "1.0"] if name in _ORDERS:
                order = _ORDERS[name]
            case ["format", *rest]:
                raise ScanError(f"its format is {' '.join(rest)!r}, expected one of {', '.join(_ORDERS)} and 1.0")
            case ["element", name, count]:
                elements.append(_Element(name, parse_count(count, f"the number of {name!r} elements")))
            case ["property", "list", length, kind, name] if elements and _kind(length)[0] != "f":
                elements[-1].properties.append(_Property(name, _kind(kind), _kind(length)))
            case ["property", kind, name] if elements:
                elements[-1].properties.append(_Property(name, _kind(kind)))
            case ["end_header"] if order:
                return order, elements, start
            case [] | ["ply"] | ["comment" | "obj_info", *_]:
                pass
            case _:
                raise ScanError(f"its PLY header has the line {' '.join(words)[:80]!r}, which cannot stand there")
    raise ScanError("its PLY header has no end_header line; get the file again")


def _header_lines(data: bytes) -> Iterator[tuple[list[str], int]]:
    """Yields the words of each header line and the position of the byte after the line."""
    start = 0
    while (end := data.find(b"\n", start, _MAX_HEADER)) >= 0:
        yield data[start:end].decode("latin-1").split(), end + 1
        start = end + 1


def _kind(name: str) -> str:
    if name not in _KINDS:
        raise ScanError(f"it has a property of type {name[:40]!r}, expected one of {', '.join(_KINDS)}")
    return _KINDS[name]


def _end_of(element: _Element, data: bytes, start: int, order: str) -> int:
    """Returns the position of the byte after the rows of an element."""
    if not element.has_lists:
        return start + element.count * sum(np.dtype(p.kind).itemsize for p in element.properties)
    if (end := _end_of_equal_lists(element, data, start, order)) is not None:
        return end
    for _ in range(element.count):
        for prop in element.properties:
            start += _size_of(prop, data, start, order)
    return start


def _end_of_equal_lists(element: _Element, data: bytes, start: int, order: str) -> int | None:
    """Returns the position after the rows where all have one list of one length (triangles); else None."""
    row = sum(_size_of(prop, data, start, order) for prop in element.properties[:1]) if element.count else 0
    prop = element.properties[0]
    if len(element.properties) != 1 or prop.length is None or start + element.count * row > len(data):
        return None
    kind = np.dtype(order + prop.length)
    lengths = np.ndarray(element.count, kind, data, start, (row,))
    return start + element.count * row if (lengths == lengths[:1]).all() else None


def _size_of(prop: _Property, data: bytes, start: int, order: str) -> int:
    item = np.dtype(prop.kind).itemsize
    if prop.length is None:
        return item
    kind = np.dtype(order + prop.length)
    if start + kind.itemsize > len(data):
        raise ScanError("cut short: it ends before its rows do; get the file again")
    length = int(np.frombuffer(data, kind, 1, start)[0])
    if length < 0:
        raise ScanError(f"its list property {prop.name!r} has a negative length {length}")
    return kind.itemsize + length * item


FORMAT = ScanFormat(
    "ply",
    (".ply",),
    lambda path: read_ply(path.read_bytes()),
    rb"ply\s",
    count=lambda path, *_: _header_in(path).vertices,
    pieces=lambda path, *_: _pieces(path),
)
