"""Writes text files of points again with the columns `label` and `confidence` at the end of every row.

All else stays: header, comments, count, line ends and every digit.
"""

from __future__ import annotations

import re
from pathlib import Path

from spvnas_ros.recordings.files import replacing
from spvnas_ros.recordings.scans.records import text_blocks
from spvnas_ros.recordings.scans.text import layout_in
from spvnas_ros.segment.labelled_points import OURS, TextLabels, check_length, renames
from spvnas_ros.segment.stored import Labelled


def write_text(source: Path, path: Path, result: Labelled) -> None:
    """Writes the rows of `source` with their labels to `path`; whole, or not at all.

    Raises ScanError where `source` holds no rows of numbers, and ValueError where it has not as many as there are
    labels.
    """
    layout = layout_in(source)
    separator = layout.separator.encode() if layout.separator else b" "
    labels, number, done = TextLabels(result), 0, 0
    with source.open("rb") as file, replacing(path) as target:
        for block in text_blocks(file):
            lines = block.splitlines(keepends=True)
            if not number and layout.separator is None and layout.first < len(lines):
                separator = b"\t" if b"\t" in lines[layout.first].strip() else separator
            for row, line in enumerate(lines):
                if number == layout.header:
                    lines[row] = _header(line, separator, layout.separator)
                elif number >= layout.first and (bare := _bare(line)):
                    done += 1
                    if done <= len(result):
                        label, confidence = labels.next()
                        confidence = confidence.replace(b".", b",") if layout.comma else confidence
                        lines[row] = separator.join((bare, label, confidence)) + line[len(bare) :]
                number += 1
            target.write(b"".join(lines))
        check_length(source, done, result)


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
