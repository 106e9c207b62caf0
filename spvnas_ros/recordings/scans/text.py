"""Reads points as text: .xyz, .asc, .txt, .csv, .pts. Separator, header, comments, a count, an index and decimal commas
are found by looking at the first lines.
"""

from __future__ import annotations

import csv
import io
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from spvnas_ros.recordings.scans.columns import coordinate_names, implausible, is_intensity
from spvnas_ros.recordings.scans.records import Columns, Record, ScanError, ScanFormat, text_blocks

_LOOK = 1 << 16
"""Bytes at the start that tell the layout."""
_ROWS = 200
_COMMENT = re.compile(rb"\s*(#|//|%|!|\"(?![^\"]*\"))")
_SEPARATORS = (",", ";", "\t", "|")
_DECIMAL_COMMA = re.compile(r"[-+]?\d+,\d+([eE][-+]?\d+)?")
_LEICA_PTS = (-2048, 2047)
"""Intensities of Leica's .pts."""


@dataclass(frozen=True)
class Layout:
    """How a text file is laid out.

    header:    the line with the names of the columns, counted from 0; None without one
    first:     the first line with a point; earlier ones are a header, comments or a count
    separator: between columns; None for white space
    comma:     whether it is the decimal point
    names:     of all columns, "" for those that are left out
    count:     how many points the file announces; None where it does not
    """

    header: int | None
    first: int
    separator: str | None
    comma: bool
    names: tuple[str, ...]
    count: int | None = None


def read_text(path: Path, columns: Columns | None = None) -> Record:
    """Reads rows of numbers, float64; columns that hold something else in the first rows are left out.

    columns: names of the columns in their order; None to take the header's, or to guess x, y, z, intensity

    Raises ScanError where there are no three numbers a line, a line has another number of columns, or the columns must
    be named.
    """
    data = path.read_bytes()
    layout = find_layout(data, columns)
    record = _parse(data, layout)
    if layout.count is not None and layout.count != len(record):
        raise ScanError(f"its first line announces {layout.count} points, found {len(record)}; get the file again")
    if columns is None and layout.header is None and (wrong := implausible(record)):
        raise ScanError(
            f"its columns cannot be {', '.join(filter(None, layout.names))}: {wrong}; name them, such as --columns "
            "x,y,z,intensity,time"
        )
    return _shifted(record) if path.suffix.lower() == ".pts" and _is_leica(record) else record


def text_pieces(path: Path, columns: Columns | None = None) -> Iterator[Record]:
    """Yields the rows of a file some at a time, as `read_text` reads them. Raises ScanError as it does.

    Where intensities are Leica's, the first rows tell.
    """
    layout, found, leica = layout_in(path, columns), 0, False
    later = replace(layout, first=0)
    with path.open("rb") as file:
        for number, block in enumerate(text_blocks(file)):
            if number and not _has_rows(block):
                continue
            record = _parse(block, later if number else layout)
            if not number:
                if columns is None and layout.header is None and (wrong := implausible(record)):
                    raise ScanError(
                        f"its columns cannot be {', '.join(filter(None, layout.names))}: {wrong}; name them"
                    )
                leica = path.suffix.lower() == ".pts" and _is_leica(record)
            found += len(record)
            yield _shifted(record) if leica else record
    if layout.count is not None and layout.count != found:
        raise ScanError(f"its first line announces {layout.count} points, found {found}; get the file again")


def layout_in(path: Path, columns: Columns | None = None) -> Layout:
    """Finds out how a file is laid out by its start. Raises ScanError as `find_layout` does."""
    with path.open("rb") as file:
        return find_layout(file.read(2 * _LOOK), columns)


def rows_in(path: Path, columns: Columns | None = None) -> int:
    """Returns about how many rows a file has: its size over the mean length of the first rows."""
    with path.open("rb") as file:
        head = file.read(_LOOK)
    layout = find_layout(head, columns)
    lines = head.splitlines(keepends=True)[layout.first :]
    size = path.stat().st_size
    return layout.count or int(size * len(lines) / max(1, sum(map(len, lines))))


def _has_rows(block: bytes) -> bool:
    return any(line.strip() and not _COMMENT.match(line) for line in block.splitlines())


def find_layout(data: bytes, columns: Columns | None = None) -> Layout:
    """Finds out how a file is laid out. Raises ScanError where it holds no rows of numbers."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise ScanError("it is UTF-16 text; save it as UTF-8")
    if b"\0" in data[:_LOOK]:
        raise ScanError("it is no text; expected rows of numbers")
    lines = list(_lines(data))
    rows = [(number, line) for number, line in lines if line.strip() and not _COMMENT.match(line.encode("latin-1"))]
    if not rows:
        return Layout(None, len(lines), None, False, ("x", "y", "z"))
    count, announced = None, None
    if re.fullmatch(r"\d{1,12}", rows[0][1]) and len(rows) > 1:
        count, announced, rows = int(rows[0][1]), rows[0][0], rows[1:]
    separator, comma = _separator([line for _, line in rows[-_ROWS:]])
    split = [(number, split_line(line, separator)) for number, line in rows[:_ROWS]]
    header = None
    if not _is_row(split[0][1], comma):
        header = split[0]
        split = split[1:]
    else:
        header = _commented(lines, rows[0][0], announced, separator, len(split[0][1]))
    if not split:
        raise ScanError(f"it holds no rows of numbers, only {rows[0][1][:60]!r}")
    cells = [words for _, words in split]
    width = len(cells[0])
    for number, words in split:
        if len(words) != width:
            raise ScanError(f"line {number + 1} has {len(words)} columns, the first row {width}; expected as many")
    numeric = [all(_is_number(words[column], comma) for words in cells) for column in range(width)]
    names = _names(header[1] if header else None, cells, numeric, comma, columns)
    return Layout(header[0] if header else None, split[0][0], separator, comma, names, count)


def looks_like_points(path: Path) -> bool:
    """Returns whether the first lines of a file are rows of numbers, three at least. Raises OSError."""
    with path.open("rb") as file:
        head = file.read(_LOOK)
    try:
        return find_layout(head).first < head.count(b"\n") + 1 and bool(head.strip())
    except ScanError:
        return False


def split_line(line: str, separator: str | None) -> list[str]:
    """Splits a line into its columns."""
    if separator is None:
        return line.split()
    words = next(csv.reader([line], delimiter=separator)) if '"' in line else line.split(separator)
    words = [word.strip() for word in words]
    return words[:-1] if len(words) > 1 and not words[-1] and separator != "," else words


def _lines(data: bytes) -> Iterator[tuple[int, str]]:
    """Yields the whole lines at the start of a file, by number."""
    start = 3 if data.startswith(b"\xef\xbb\xbf") else 0
    head = data[start : start + _LOOK]
    if len(data) > start + _LOOK:
        head = head[: head.rfind(b"\n") + 1] or head
    for number, line in enumerate(head.decode("latin-1").replace("\r\n", "\n").replace("\r", "\n").split("\n")):
        yield number, line.strip(" ")  # a tab may stand before a column without a name


def _separator(lines: Sequence[str]) -> tuple[str | None, bool]:
    """Returns what separates the columns, None for white space, and whether numbers have a decimal comma."""
    for separator in _SEPARATORS[1:]:
        if all(separator in line for line in lines):
            words = [word for line in lines for word in split_line(line, separator)]
            return separator, _has_commas(words)
    spaced = [line.split() for line in lines]
    if all(len(words) >= 3 for words in spaced) and _has_commas([word for words in spaced for word in words]):
        return None, True
    if all("," in line for line in lines):
        return ",", False
    return None, False


def _has_commas(words: Sequence[str]) -> bool:
    return any(_DECIMAL_COMMA.fullmatch(word) for word in words) and not any("." in word for word in words)


def _commented(
    lines: Sequence[tuple[int, str]], first: int, announced: int | None, separator: str | None, width: int
) -> tuple[int, list[str]] | None:
    """Returns the last comment before the first row, where it names the columns (CloudCompare: "//X Y Z")."""
    for number, line in reversed(lines[:first]):
        if line and number != announced:
            words = split_line(re.sub(r"^[#/%!]+\s*", "", line), separator)
            words = words if len(words) == width else re.split(r"[,;\s]+", re.sub(r"^[#/%!]+\s*", "", line))
            named = len(words) == width and {"x", "y", "z"} <= {word.lower() for word in words}
            return (number, words) if named else None
    return None


def _is_row(words: Sequence[str], comma: bool) -> bool:
    """Returns whether three words at least are numbers: a header has names."""
    numbers = sum(bool(word) and _is_number(word, comma) for word in words)
    return numbers >= min(3, len(words)) and numbers > 0


def _is_number(word: str, comma: bool) -> bool:
    if not word:
        return True  # a value that is not there
    if "_" in word or not word.isascii():
        return False  # Python takes 1_000
    try:
        float(word.replace(",", ".") if comma else word)
    except ValueError:
        return False
    return True


def _names(
    header: Sequence[str] | None,
    cells: Sequence[Sequence[str]],
    numeric: Sequence[bool],
    comma: bool,
    columns: Columns | None,
) -> tuple[str, ...]:
    width = len(numeric)
    if columns is not None:
        named = [name for name, _ in columns]
        if len(named) != width:
            raise ScanError(f"it has {width} columns, --columns names {len(named)}: {', '.join(named)}")
        if unlike := [name for name, number in zip(named, numeric, strict=True) if not number and name in "xyz"]:
            raise ScanError(f"its column {unlike[0]} holds no numbers, found {cells[0][named.index(unlike[0])]!r}")
        return tuple(name if number else "" for name, number in zip(named, numeric, strict=True))
    if header is not None:
        return _from_header(header, numeric)
    if not all(numeric[:3]) or width < 3:
        raise ScanError(
            f"its rows hold {width} columns, the first {', '.join(cells[0][:4])!r}, and no names; expected x, y, z and "
            "more, or name the columns: --columns x,y,z,intensity"
        )
    index = width > 3 and _counts_up([words[0] for words in cells], comma)
    rest = width - index
    names = ["x", "y", "z", *(["intensity"] if rest in (4, 7) else ["intensity"] if rest == 5 else [])]
    if rest in (6, 7) and _are_colours([words[width - 3 :] for words in cells], comma):
        names += ["red", "green", "blue"]
    elif rest > 5:
        names = ["x", "y", "z", "intensity"]
    names = ([""] if index else []) + names
    names += [f"column{column + 1}" for column in range(len(names), width)]
    return tuple(name if number else "" for name, number in zip(names, numeric, strict=True))


def _from_header(header: Sequence[str], numeric: Sequence[bool]) -> tuple[str, ...]:
    names = list(header)
    if len(names) == len(numeric) - 1:
        names.insert(0, "")  # pandas' index has no name
    if len(names) != len(numeric):
        raise ScanError(
            f"its header names {len(names)} columns, the rows have {len(numeric)}: {', '.join(names)[:120]}"
        )
    change = coordinate_names([name for name in names if name])
    names = [change.get(name, name) for name in names]
    if lacking := [axis for axis in "xyz" if axis not in names]:
        raise ScanError(
            f"its header has no {lacking[0]}: {', '.join(names)[:200]}; name the columns in their order: --columns "
            "x,y,z,intensity"
        )
    for axis in "xyz":
        if not numeric[names.index(axis)]:
            raise ScanError(f"its column {axis} holds no numbers")
    seen: set[str] = set()
    kept = []
    for name, number in zip(names, numeric, strict=True):
        index = not name or name.lower().startswith("unnamed:")
        kept.append("" if index or not number or name in seen else name)
        seen.add(name)
    return tuple(kept)


def _counts_up(words: Sequence[str], comma: bool) -> bool:
    """Returns whether a column is a table's index: 0, 1, 2, ... or 1, 2, 3, ..."""
    if len(words) < 4 or not all(re.fullmatch(r"\d+", word) for word in words) or comma:
        return False
    numbers = [int(word) for word in words]
    return numbers[0] in (0, 1) and numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def _are_colours(cells: Sequence[Sequence[str]], comma: bool) -> bool:
    return not comma and all(re.fullmatch(r"\d{1,3}", word) and int(word) < 256 for words in cells for word in words)


def _parse(data: bytes, layout: Layout) -> Record:
    chosen = [(column, name) for column, name in enumerate(layout.names) if name]
    numbers = [column for column, _ in chosen]
    body = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in data else data
    body = body[3:] if body.startswith(b"\xef\xbb\xbf") else body
    body = body.replace(b"\n//", b"\n#")
    if layout.comma:
        body = body.replace(b",", b".")
    table = _table(_filled(body, layout.separator), layout, numbers)
    record = np.empty(len(table), [(name, "<f8") for _, name in chosen])
    for row, (_, name) in enumerate(chosen):
        record[name] = table[:, row]
    return record


def _filled(body: bytes, separator: str | None) -> bytes:
    """Puts nan where a value is not there."""
    if separator is None:
        return body
    sep = separator.encode()
    body = body.replace(sep + b'""', sep) if b'""' in body else body
    twice = sep + sep
    if twice in body:
        body = body.replace(twice, sep + b"nan" + sep).replace(twice, sep + b"nan" + sep)
    if sep == b",":
        body = body.replace(b",\n", b",nan\n")
        body = body + b"nan" if body.endswith(b",") else body
    return body.replace(b"\n" + sep, b"\nnan" + sep) if b"\n" + sep in body else body


def _table(body: bytes, layout: Layout, chosen: list[int]) -> npt.NDArray[np.float64]:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "(Input line|loadtxt: input)", UserWarning)  # blank lines, empty input
            text = io.TextIOWrapper(io.BytesIO(body), "latin-1")
            return np.loadtxt(
                text, np.float64, comments="#", delimiter=layout.separator, skiprows=layout.first,
                usecols=chosen, ndmin=2, quotechar='"',
            )  # fmt: skip
    except (ValueError, IndexError) as error:
        reason = str(error).split(";")[0]  # after the semicolon numpy recommends one of its own options
        raise ScanError(f"its text does not hold rows of numbers: {reason}") from error


def _shifted(record: Record) -> Record:
    """Brings Leica's intensities, -2048 to 2047, to 0..4095."""
    name = next((name for name in record.dtype.names or () if is_intensity(name)), None)
    if name is not None:
        record[name] -= _LEICA_PTS[0]
    return record


def _is_leica(record: Record) -> bool:
    """Returns whether intensities are -2048 to 2047. Others of .pts are 0..255 or 0..1 and stay."""
    name = next((name for name in record.dtype.names or () if is_intensity(name)), None)
    if name is None or not len(record):
        return False
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN", RuntimeWarning)
        low, high = np.nanmin(record[name]), np.nanmax(record[name])
    return bool(_LEICA_PTS[0] <= low < 0 and high <= _LEICA_PTS[1])


FORMAT = ScanFormat(
    "text",
    (".xyz", ".asc", ".txt", ".csv", ".pts"),
    read_text,
    read_columns=read_text,
    count=lambda path, columns, _: rows_in(path, columns),
    pieces=lambda path, columns, _: text_pieces(path, columns),
)
