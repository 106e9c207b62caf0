"""Writes text files of points again with the columns `label` and `confidence` at the end of every row.

All else stays: header, comments, count, line ends and every digit.
"""

from __future__ import annotations

import re
from pathlib import Path

from spvnas_ros.frame import Segmentation
from spvnas_ros.recordings.files import replacing
from spvnas_ros.recordings.scans.text import find_layout
from spvnas_ros.segment.labelled_points import OURS, as_text, check_length, renames

_PART = 1 << 16


def write_text(source: Path, path: Path, result: Segmentation) -> None:
    """Writes the rows of `source` with their labels to `path`; whole, or not at all.

    Raises ScanError where `source` holds no rows of numbers, and ValueError where it has not as many as there are
    labels.
    """
    data = source.read_bytes()
    layout = find_layout(data)
    lines = data.splitlines(keepends=True)
    separator = layout.separator.encode() if layout.separator else b" "
    if layout.separator is None and layout.first < len(lines) and b"\t" in lines[layout.first].strip():
        separator = b"\t"
    labels, confidences = as_text(result)
    if layout.comma:
        confidences = [value.replace(b".", b",") for value in confidences]
    rows = [number for number in range(layout.first, len(lines)) if _bare(lines[number])]
    check_length(source, len(rows), result)
    if layout.header is not None:
        lines[layout.header] = _header(lines[layout.header], separator, layout.separator)
    for row, number in enumerate(rows):
        line = lines[number]
        bare = _bare(line)
        lines[number] = separator.join((bare, labels[row], confidences[row])) + line[len(bare) :]
    with replacing(path) as file:
        for start in range(0, len(lines), _PART):
            file.write(b"".join(lines[start : start + _PART]))


def _bare(line: bytes) -> bytes:
    """Returns a row without its comment, its line end and the white space before them."""
    return b"" if line.lstrip().startswith(b"//") else line.split(b"#", 1)[0].rstrip()


def _header(line: bytes, separator: bytes, split_at: str | None) -> bytes:
    bare = line.rstrip()
    at = separator
    if re.match(rb"\s*(#|//|%|!)", bare) and separator not in bare.strip():
        at = b","
    words = bare.split(at) if split_at is not None or at == b"," else bare.split()
    fresh = renames(word.strip(b'" ').decode("latin-1") for word in words)
    for old, new in fresh.items():
        bare = re.sub(rb"(?<![A-Za-z0-9_])%b(?![A-Za-z0-9_])" % old.encode(), new.encode(), bare)
    return at.join((bare, *(name.encode() for name in OURS))) + line[len(line.rstrip()) :]
