"""Holds what the readers of all scan formats share: the error, and the parsers of rows into structured arrays."""

from __future__ import annotations

import io
import mmap
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt

from spvnas_ros.errors import UserError

Record = npt.NDArray[np.void]
"""Structured array `[N]` with one row for each point. The field names are those of the file."""

_BLOCK = 1 << 24
_MOST_BYTES_PER_LETTER = 8
"""Bytes of an array for each letter of its text, at most: a value takes up to 8 bytes and at least one letter. A header
that announces more is wrong.
"""

Column = tuple[str, str, int]
"""Name, numpy type and number of values of a field."""

Columns = tuple[tuple[str, str], ...]
"""Name and numpy type of each column of a file that does not name them itself, see `columns.parse_columns`."""


class ScanError(UserError):
    """A scan cannot be read. The message says what was found, what was expected and what to do."""


@dataclass(frozen=True)
class ScanFormat:
    """A format of scan files. Each format is one file of this folder; `read.FORMATS` lists them.

    name:         short name, such as "pcd"
    suffixes:     of its files, in lower case
    read:         reads a file; raises ScanError where it is malformed, OSError where it cannot be read
    magic:        pattern of its first bytes; None where the files have none, so that only the suffix tells
    read_columns: reads a file whose columns the user has named; None where the format names them itself
    parts:        returns how many scans a file holds; None where it is always one
    read_part:    reads one of them
    count:        returns how many points a scan of a file has by its header or size, about as many where nothing says
                  so, without reading them
    pieces:       reads a scan some points at a time, in order; None where it has to be read whole
    """

    name: str
    suffixes: tuple[str, ...]
    read: Callable[[Path], Record]
    magic: bytes | None = None
    read_columns: Callable[[Path, Columns], Record] | None = None
    parts: Callable[[Path], int] | None = None
    read_part: Callable[[Path, int], Record] | None = None
    count: Callable[[Path, Columns | None, int], int] | None = None
    pieces: Callable[[Path, Columns | None, int], Iterator[Record]] | None = None


PIECE: Final = 1 << 20
"""Points of a piece, at most."""


def missing(package: str, what: str, extra: str) -> ScanError:
    """Returns the error that says which package is needed to read `what`, and how to install it."""
    return ScanError(f"reading {what} needs {package}, which is not installed: pip install 'spvnas_ros[{extra}]'")


def record_dtype(columns: Sequence[Column]) -> np.dtype[np.void]:
    """Returns the packed row type of the columns. A repeated name (PCL's padding `_`) gets a number appended."""
    seen: dict[str, int] = {}
    fields: list[tuple[str, str] | tuple[str, str, tuple[int]]] = []
    for name, kind, count in columns:
        seen[name] = seen.get(name, 0) + 1
        unique = name if seen[name] == 1 else f"{name}#{seen[name]}"
        fields.append((unique, kind) if count == 1 else (unique, kind, (count,)))
    return np.dtype(fields)


def parse_binary(body: bytes, dtype: np.dtype[np.void], rows: int, start: int = 0) -> Record:
    """Returns the rows of `body` from byte `start` on, a view. Raises ScanError where `body` is too short for them."""
    if start + rows * dtype.itemsize > len(body):
        raise ScanError(_too_few(rows, f"{len(body) - start} bytes, {dtype.itemsize} a point,"))
    return np.frombuffer(body, dtype, rows, start)


def binary_pieces(path: Path, dtype: np.dtype[np.void], rows: int, start: int) -> Iterator[Record]:
    """Yields rows of a file from byte `start` on. Raises ScanError where they are not all there."""
    with path.open("rb") as file:
        file.seek(start)
        for at in range(0, rows, PIECE):
            piece = np.fromfile(file, dtype, min(PIECE, rows - at))
            if len(piece) < min(PIECE, rows - at):
                raise ScanError(_too_few(rows, f"{at + len(piece)}"))
            yield piece


def text_blocks(file: BinaryIO) -> Iterator[bytes]:
    """Yields the rest of a file in blocks of whole lines."""
    left: list[bytes] = []
    while block := file.read(_BLOCK):
        end = block.rfind(b"\n") + 1
        if end:
            yield b"".join((*left, block[:end]))
            left = [block[end:]] if end < len(block) else []
        else:
            left.append(block)
    if left:
        yield b"".join(left)


def text_pieces(path: Path, dtype: np.dtype[np.void], rows: int, start: int, skip: int = 0) -> Iterator[Record]:
    """Yields rows of numbers of a file from byte `start` on, after `skip` lines. Raises ScanError as `parse_text`."""
    found = 0
    with path.open("rb") as file:
        file.seek(start)
        for block in text_blocks(file):
            lines = [line for line in block.splitlines(keepends=True) if line.strip()]
            lines, skip = lines[skip:], max(0, skip - len(lines))
            lines = lines[: rows - found]
            if lines:
                found += len(lines)
                yield parse_text(b"".join(lines), dtype, len(lines))
    if found < rows:
        raise ScanError(_too_few(rows, f"{found} lines"))


@contextmanager
def mapped(path: Path) -> Iterator[Any]:
    """Yields the bytes of a file, of which only what is looked at is read; nothing where it is empty."""
    with path.open("rb") as file:
        if not path.stat().st_size:
            yield b""
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield data


def check_end(body: bytes, end: int) -> None:
    """Raises ScanError where bytes follow byte `end` that no header announced: the rows are others than it says.

    White space and zeros are left by some writers.
    """
    if len(body) > end and (rest := len(body[end:].strip(b"\0 \t\r\n"))):
        raise ScanError(
            f"{len(body) - end} bytes follow the rows that its header announces ({rest} are not 0): header and rows do "
            "not fit each other; write the file again"
        )


def parse_text(body: bytes, dtype: np.dtype[np.void], rows: int, skip: int = 0, after: int = 0) -> Record:
    """Parses rows of numbers, one row on each line, after the first `skip` lines and before the last `after` ones.

    Raises ScanError where the text is not numbers, a line has another number of values, or rows are missing.
    """
    record = np.empty(rows if rows * dtype.itemsize < _MOST_BYTES_PER_LETTER * len(body) else 0, dtype)
    if len(record) < rows or skip > len(body):
        raise ScanError(_too_few(rows, f"{len(body)} bytes"))
    if rows == 0:
        return record
    table = _parse_numbers(body, rows, skip)
    widths = [dtype[name].itemsize // dtype[name].base.itemsize for name in dtype.names or ()]
    if table.shape[1] != sum(widths):
        raise ScanError(f"its lines hold {table.shape[1]} numbers, expected {sum(widths)}: {list(dtype.names or ())}")
    if len(table) < rows:
        raise ScanError(_too_few(rows, f"{len(table)} lines"))
    if (lines := _lines(body)) > skip + rows + after:
        raise ScanError(
            f"{lines - skip - rows - after} lines follow the rows that its header announces: they do not fit each "
            "other; write the file again"
        )
    ends = np.cumsum(widths)
    with np.errstate(invalid="ignore", over="ignore"):
        for name, width, end in zip(dtype.names or (), widths, ends, strict=True):
            record[name] = table[:, end - width : end].reshape(rows, *dtype[name].shape)
    return record


def _lines(body: bytes) -> int:
    """Returns how many lines are not blank."""
    text = body.strip()
    if re.search(rb"\n\s*\n|\r(?!\n)", text):
        return sum(1 for line in text.splitlines() if line.strip())
    return text.count(b"\n") + 1 if text else 0


def _parse_numbers(body: bytes, rows: int, skip: int) -> npt.NDArray[np.float64]:
    """Returns the numbers as `[at most rows, columns]`, float64 because a file may write an integer as "1.0"."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "(Input line|loadtxt: input)", UserWarning)  # blank lines, empty input
            text = io.TextIOWrapper(io.BytesIO(body), "latin-1")
            return np.loadtxt(text, np.float64, comments=None, skiprows=skip, max_rows=rows, ndmin=2)
    except ValueError as error:
        reason = str(error).split(";")[0]  # after the semicolon numpy recommends one of its own options
        raise ScanError(f"its text does not hold rows of numbers: {reason}") from error


def parse_count(word: str, what: str) -> int:
    """Returns the count that a word of a header gives. Raises ScanError where the word is not a count."""
    # isdecimal alone would accept the digits of other scripts. 18 digits fit into 64 bits.
    if not (word.isascii() and word.isdecimal() and len(word) <= 18):
        raise ScanError(f"{what} must be a count, found {word[:40]!r}")
    return int(word)


def _too_few(rows: int, found: str) -> str:
    return f"cut short: the header announces {rows} points, found {found} of them; get the file again"
