"""Writes PLY and PCD files again with the fields `label` (uint8) and `confidence` (float32) in every point.

Header lines, other fields, other elements and their bytes stay. A field that is called like one of ours becomes
`input_label`, `input_confidence`.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from spvnas_ros.frame import Segmentation
from spvnas_ros.recordings.files import replacing
from spvnas_ros.recordings.scans.pcd import header_of as pcd_header
from spvnas_ros.recordings.scans.pcd import read_pcd
from spvnas_ros.recordings.scans.ply import header_of as ply_header
from spvnas_ros.recordings.scans.records import binary_pieces, mapped, text_blocks
from spvnas_ros.segment.stored import PART, Labelled
from spvnas_ros.segment.stored import parts_of_result as parts

OURS = ("label", "confidence")


def write_ply(source: Path, path: Path, result: Labelled) -> None:
    """Writes the vertices of `source` with their labels to `path`, in its encoding; whole, or not at all.

    Raises ScanError where `source` is damaged, and ValueError where it has not as many points as there are labels.
    """
    with mapped(source) as data:
        header = ply_header(data)
        head = bytes(data[: header.start])
    check_length(source, header.vertices, result)
    lines = head.splitlines(keepends=True)
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
    with source.open("rb") as file, replacing(path) as target:
        target.write(b"".join(lines))
        file.seek(header.start)
        if header.order == "=":
            target.writelines(text_rows(file, header.lines_before, header.vertices, result))
            return
        begin, stop = header.rows
        copy_bytes(file, target, begin - header.start)
        for rows, part in zip(binary_pieces(source, header.dtype, header.vertices, begin), parts(result), strict=True):
            target.write(_binary_rows(rows.tobytes(), part, header.order).tobytes())
        file.seek(stop)
        shutil.copyfileobj(file, target, 1 << 20)


def write_pcd(source: Path, path: Path, result: Labelled) -> None:
    """Writes the points of `source` with their labels to `path`, ascii as ascii, all else as binary.

    Raises ScanError where `source` is damaged, and ValueError where it has not as many points as there are labels.
    """
    with mapped(source) as data:
        header = pcd_header(data)
        head = bytes(data[: header.start])
    check_length(source, header.rows, result)
    with source.open("rb") as file, replacing(path) as target:
        target.write(b"".join(_pcd_line(line) for line in head.splitlines(keepends=True)))
        if header.encoding == "ascii":
            file.seek(header.start)
            target.writelines(text_rows(file, 0, header.rows, result))
        elif header.encoding == "binary":
            pieces = binary_pieces(source, header.dtype, header.rows, header.start)
            for rows, part in zip(pieces, parts(result), strict=True):
                target.write(_binary_rows(rows.tobytes(), part, "<").tobytes())
        else:
            record = read_pcd(source.read_bytes())
            for number, part in enumerate(parts(result)):
                rows = record[number * PART : number * PART + len(part)]
                target.write(_binary_rows(rows.tobytes(), part, "<").tobytes())


def copy_bytes(file: BinaryIO, target: BinaryIO, count: int) -> None:
    """Copies so many bytes, or what there is of them."""
    while count > 0 and (data := file.read(min(count, 1 << 20))):
        target.write(data)
        count -= len(data)


def check_length(source: Path, points: int, result: Labelled) -> None:
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


class TextLabels:
    """Label and confidence of one point after the other, as text, of labels that may lie on disk."""

    def __init__(self, result: Labelled) -> None:
        self._texts = chain.from_iterable(zip(*as_text(part), strict=True) for part in parts(result))

    def next(self) -> tuple[bytes, bytes]:
        """Returns those of the next point."""
        return next(self._texts)


def text_rows(file: BinaryIO, before: int, count: int, result: Labelled) -> Iterator[bytes]:
    """Yields the lines of the rest of a text, in parts, with label and confidence behind `count` of them after the
    first `before`.

    Blank lines are passed over, as the parser does behind the first ones.
    """
    labels, done, number = TextLabels(result), 0, 0
    for block in text_blocks(file):
        out = []
        for line in block.splitlines(keepends=True):
            bare = line.rstrip()
            if number >= before and bare and done < count:
                end = line[len(line.rstrip(b"\r\n")) :] or b"\n"
                out.append(b"%b %b %b%b" % (bare, *labels.next(), end))
                done += 1
            else:
                out.append(line)
            number += 1
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
