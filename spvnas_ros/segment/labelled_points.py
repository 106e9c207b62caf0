"""Writes PLY and PCD files again with the fields `label` (uint8) and `confidence` (float32) in every point.

Header lines, other fields, other elements and their bytes stay. A field that is called like one of ours becomes
`input_label`, `input_confidence`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from spvnas_ros.frame import Segmentation
from spvnas_ros.recordings.files import replacing
from spvnas_ros.recordings.scans.pcd import header_of as pcd_header
from spvnas_ros.recordings.scans.pcd import read_pcd
from spvnas_ros.recordings.scans.ply import header_of as ply_header

OURS = ("label", "confidence")


def write_ply(source: Path, path: Path, result: Segmentation) -> None:
    """Writes the vertices of `source` with their labels to `path`, in its encoding; whole, or not at all.

    Raises ScanError where `source` is damaged, and ValueError where it has not as many points as there are labels.
    """
    data = source.read_bytes()
    header = ply_header(data)
    check_length(source, header.vertices, result)
    lines = data[: header.start].splitlines(keepends=True)
    end = b"\r\n" if lines[0].endswith(b"\r\n") else b"\n"
    first = next(number for number, line in enumerate(lines) if line.split()[:2] == [b"element", b"vertex"])
    last = next(number for number in range(first + 1, len(lines)) if not _within_element(lines[number]))
    names = {line.split()[-1].decode("latin-1") for line in lines[first + 1 : last] if line.startswith(b"property")}
    fresh = renames(names)
    for number in range(first + 1, last):
        *kept, name = lines[number].split() or [b""]
        if kept[:1] == [b"property"] and name.decode("latin-1") in fresh:
            lines[number] = b" ".join((*kept, fresh[name.decode("latin-1")].encode())) + end
    lines[last:last] = [b"property uchar label" + end, b"property float confidence" + end]
    with replacing(path) as file:
        file.write(b"".join(lines))
        if header.order == "=":
            for part in text_rows(data[header.start :], header.lines_before, header.vertices, result):
                file.write(part)
        else:
            begin, stop = header.rows
            file.write(data[header.start : begin])
            file.write(_binary_rows(data[begin:stop], result, header.order).tobytes())
            file.write(data[stop:])


def write_pcd(source: Path, path: Path, result: Segmentation) -> None:
    """Writes the points of `source` with their labels to `path`, ascii as ascii, all else as binary.

    Raises ScanError where `source` is damaged, and ValueError where it has not as many points as there are labels.
    """
    data = source.read_bytes()
    header = pcd_header(data)
    check_length(source, header.rows, result)
    lines = [_pcd_line(line) for line in data[: header.start].splitlines(keepends=True)]
    with replacing(path) as file:
        file.write(b"".join(lines))
        if header.encoding == "ascii":
            for part in text_rows(data[header.start :], 0, header.rows, result):
                file.write(part)
        else:
            file.write(_binary_rows(read_pcd(data).tobytes(), result, "<").tobytes())


def check_length(source: Path, points: int, result: Segmentation) -> None:
    """Raises ValueError where a file has not as many points as there are labels."""
    if points != len(result):
        raise ValueError(f"{source} has {points} points, found labels of {len(result)}")


def renames(names: Iterable[str]) -> dict[str, str]:
    """Returns what fields that are called like one of ours are called then."""
    taken, fresh = set(names), {}
    for name in OURS:
        if name in taken:
            other = f"input_{name}"
            while other in taken:
                other = f"input_{other}"
            fresh[name] = other
            taken.add(other)
    return fresh


def as_text(result: Segmentation) -> tuple[list[bytes], list[bytes]]:
    """Returns labels and confidences as text; confidences with six digits."""
    labels = [b"%d" % label for label in result.labels.tolist()]
    return labels, [b"%.6g" % value for value in result.confidence.tolist()]


def text_rows(body: bytes, before: int, count: int, result: Segmentation) -> Iterator[bytes]:
    """Yields the lines of a text, in parts, with label and confidence behind `count` of them after the first `before`.

    Blank lines are passed over, as the parser does behind the first ones.
    """
    labels, confidences = as_text(result)
    lines = body.splitlines(keepends=True)
    yield b"".join(lines[:before])
    done = 0
    out = []
    for number in range(before, len(lines)):
        line = lines[number]
        bare = line.rstrip()
        if bare and done < count:
            end = line[len(line.rstrip(b"\r\n")) :] or b"\n"
            out.append(b"%b %b %b%b" % (bare, labels[done], confidences[done], end))
            done += 1
        else:
            out.append(line)
        if len(out) >= 1 << 16:
            yield b"".join(out)
            out.clear()
    yield b"".join(out)


def _binary_rows(rows: bytes, result: Segmentation, order: str) -> npt.NDArray[np.void]:
    width = len(rows) // len(result) if len(result) else 0
    table = np.empty(len(result), [("input", f"V{width}"), ("label", "u1"), ("confidence", f"{order}f4")])
    if width:
        table["input"] = np.frombuffer(rows, f"V{width}", len(result))
    table["label"], table["confidence"] = result.labels, result.confidence
    return table


def _within_element(line: bytes) -> bool:
    return line.split()[:1] in ([], [b"property"], [b"comment"], [b"obj_info"])


def _pcd_line(line: bytes) -> bytes:
    words = re.split(rb"(\s+)", line.split(b"#")[0].strip())
    more = {b"FIELDS": b"label confidence", b"SIZE": b"1 4", b"TYPE": b"U F", b"COUNT": b"1 1"}.get(words[0])
    if words[0] == b"DATA" and words[-1] != b"ascii":
        return b"DATA binary\n"
    if more is None:
        return line
    if words[0] == b"FIELDS":
        fresh = renames(word.decode("latin-1") for word in words[2::2])
        words[2::2] = [
            fresh.get(word.decode("latin-1"), word.decode("latin-1")).encode("latin-1") for word in words[2::2]
        ]
    return b"".join(words) + b" " + more + (b"\r\n" if line.endswith(b"\r\n") else b"\n")
