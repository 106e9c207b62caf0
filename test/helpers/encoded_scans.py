"""Scans in every format, encoded here without the reader's help."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from spvnas_ros.recordings.scans import read_scan

PCD_ENCODINGS = ("ascii", "binary", "binary_compressed")
PLY_FORMATS = ("ascii", "binary_little_endian", "binary_big_endian")
PLY_NAMES = {"i1": "char", "u1": "uchar", "i2": "short", "u2": "ushort", "i4": "int", "u4": "uint32"}
PLY_NAMES |= {"f4": "float", "f8": "double"}
scans = hnp.arrays(
    np.float32,
    st.tuples(st.integers(0, 40), st.just(4)),
    elements=st.floats(-1000, 1000, width=32) | st.just(np.float32(np.nan)),
)


def lzf_compress(data: bytes) -> bytes:
    """A plain greedy LZF encoder, so that matches of every length and distance are met."""
    out, literals, seen = bytearray(), bytearray(), {}

    def flush() -> None:
        for start in range(0, len(literals), 32):
            run = literals[start : start + 32]
            out.append(len(run) - 1)
            out.extend(run)
        literals.clear()

    at = 0
    while at < len(data):
        key = data[at : at + 3]
        back = at - seen.get(key, -10000)
        seen[key] = at
        if len(key) < 3 or back > 8192:
            literals.append(data[at])
            at += 1
            continue
        length = 3
        while at + length < len(data) and length < 264 and data[at + length] == data[at - back + length]:
            length += 1
        flush()
        short, high = length - 2, (back - 1) >> 8
        out.extend([short << 5 | high] if short < 7 else [7 << 5 | high, short - 7])
        out.append((back - 1) & 255)
        at += length
    flush()
    return bytes(out)


def record(points: np.ndarray, intensity: str = "intensity") -> np.ndarray:
    out = np.zeros(len(points), [(name, "<f4") for name in ("x", "y", "z", intensity)])
    for column, name in enumerate(out.dtype.names):
        out[name] = points[:, column]
    return out


def text_rows(table: np.ndarray) -> bytes:
    rows = (np.concatenate([np.atleast_1d(row[name]) for name in table.dtype.names]) for row in table)
    return "".join(" ".join(repr(value.item()) for value in row) + "\n" for row in rows).encode()


def pcd_bytes(table: np.ndarray, encoding: str) -> bytes:
    fields = [(name, table.dtype[name]) for name in table.dtype.names]
    names = ["_" if name.startswith("_") else name for name, _ in fields]
    header = (
        "# .PCD v0.7 - Point Cloud Data file format\nVERSION 0.7\n"
        f"FIELDS {' '.join(names)}\n"
        f"SIZE {' '.join(str(t.base.itemsize) for _, t in fields)}\n"
        f"TYPE {' '.join(t.base.kind.upper() for _, t in fields)}\n"
        f"COUNT {' '.join(str(t.itemsize // t.base.itemsize) for _, t in fields)}\n"
        f"WIDTH {len(table)}\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS {len(table)}\nDATA {encoding}\n"
    ).encode()
    if encoding == "ascii":
        return header + text_rows(table)
    if encoding == "binary":
        return header + table.tobytes()
    columns = b"".join(table[name].tobytes() for name in table.dtype.names)
    packed = lzf_compress(columns)
    return header + struct.pack("<II", len(packed), len(columns)) + packed


def ply_bytes(table: np.ndarray, form: str, before: bytes = b"", before_header: str = "") -> bytes:
    order = ">" if "big" in form else "<"
    properties = "".join(f"property {PLY_NAMES[table.dtype[n].str[1:]]} {n}\n" for n in table.dtype.names)
    header = (
        f"ply\nformat {form} 1.0\ncomment made for a test\n{before_header}element vertex {len(table)}\n{properties}"
        "element face 1\nproperty list uchar int vertex_indices\nend_header\n"
    ).encode()
    if form == "ascii":
        return header + before + text_rows(table) + b"3 0 0 0\n"
    face = struct.pack(order + "Biii", 3, 0, 0, 0)
    return header + before + table.astype(table.dtype.newbyteorder(order)).tobytes() + face


def npy_bytes(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def read(folder: Path, name: str, data: bytes, rule: str = "unit") -> np.ndarray:
    path = folder / name
    path.write_bytes(data)
    return read_scan(path, rule)


POINTS = np.arange(40, dtype=np.float32).reshape(10, 4) / 40
