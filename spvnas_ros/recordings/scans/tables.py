"""Reads tables of points by pyarrow: Parquet, and Feather (Arrow's file format), as Argoverse 2 has it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from spvnas_ros.recordings.scans.columns import coordinate_names
from spvnas_ros.recordings.scans.records import PIECE, Record, ScanError, ScanFormat, missing

_INDEX = "__index_level_"


def read_parquet(path: Path) -> Record:
    """Reads the columns of numbers of a Parquet file; what is null becomes NaN. Raises ScanError for a damaged one."""
    with arrow("Parquet"):
        from pyarrow import parquet

        with parquet.ParquetFile(path) as file:
            names = _wanted(file.schema_arrow)
            return _record(file.read(columns=names, use_threads=True), names)


def read_feather(path: Path) -> Record:
    """Reads the columns of numbers of a Feather file; what is null becomes NaN. Raises ScanError for a damaged one."""
    _check_version(path)
    with arrow("Feather") as pa:
        from pyarrow import feather

        with pa.memory_map(str(path)) as source:
            table = feather.read_table(source, memory_map=False)
            for column in table.columns:
                column.validate(full=True)
            return _record(table, _wanted(table.schema))


def parquet_pieces(path: Path) -> Iterator[Record]:
    """Yields the rows of a Parquet file some at a time, one piece at least. Raises ScanError as `read_parquet`."""
    with arrow("Parquet") as pa:
        from pyarrow import parquet

        with parquet.ParquetFile(path) as file:
            names = _wanted(file.schema_arrow)
            if not file.metadata.num_rows:
                yield _record(file.read(columns=names), names)
            for batch in file.iter_batches(PIECE, columns=names):
                yield _record(pa.Table.from_batches([batch]), names)


def feather_pieces(path: Path) -> Iterator[Record]:
    """Yields the rows of a Feather file batch by batch, one piece at least. Raises ScanError as `read_feather`."""
    _check_version(path)
    with arrow("Feather") as pa, pa.memory_map(str(path)) as source:
        file = pa.ipc.open_file(source)
        names = _wanted(file.schema)
        if not file.num_record_batches:
            yield _record(file.read_all(), names)
        for number in range(file.num_record_batches):
            batch = file.get_batch(number)
            batch.validate(full=True)
            yield _record(pa.Table.from_batches([batch]), names)


def _rows_of_parquet(path: Path) -> int:
    with arrow("Parquet"):
        from pyarrow import parquet

        with parquet.ParquetFile(path) as file:
            return int(file.metadata.num_rows)


def rows_of_feather(path: Path) -> int:
    """Returns how many rows a Feather file has. Raises ScanError for a damaged one."""
    _check_version(path)
    with arrow("Feather") as pa, pa.memory_map(str(path)) as source:
        file = pa.ipc.open_file(source)
        return sum(file.get_batch(number).num_rows for number in range(file.num_record_batches))


def _check_version(path: Path) -> None:
    with path.open("rb") as file:
        if file.read(4) == b"FEA1":
            # pyarrow 26 reads it, but ends the process on damaged ones.
            raise ScanError("it is of Feather's version 1; write it again as version 2, pyarrow's and pandas' default")


@contextmanager
def arrow(what: str) -> Iterator[Any]:
    """Yields pyarrow. What it says against a file becomes a ScanError, as it does where pyarrow is missing."""
    try:
        import pyarrow as pa
    except ImportError as error:
        raise missing("pyarrow", f"{what} files", "tables") from error
    try:
        yield pa
    except (pa.ArrowException, ValueError, KeyError, TypeError, OverflowError, MemoryError, UnicodeError) as error:
        if isinstance(error, ScanError):
            raise
        reason = " ".join(str(error).split())[:200]
        raise ScanError(f"it is no whole {what} file: {reason}; get the file again") from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise ScanError(f"it is no whole {what} file: {' '.join(str(error).split())[:200]}; get it again") from error


def _wanted(schema: Any) -> list[str]:
    """Returns the columns of numbers. Raises ScanError where x, y and z are not among them."""
    from pyarrow import types

    kinds = (types.is_integer, types.is_floating, types.is_boolean)
    names = [
        field.name for field in schema if any(kind(field.type) for kind in kinds) and not field.name.startswith(_INDEX)
    ]
    change = coordinate_names(names)
    if lacking := [axis for axis in "xyz" if axis not in names and axis not in change.values()]:
        raise ScanError(
            f"it needs a column of numbers called {lacking[0]}; found columns {', '.join(schema.names)[:200] or 'none'}"
        )
    if len(set(names)) < len(names):
        raise ScanError(f"two of its columns have one name: {', '.join(names)[:200]}")
    return names


def _record(table: Any, names: list[str]) -> Record:
    columns: dict[str, npt.NDArray[Any]] = {}
    for name in names:
        values = table.column(name).to_numpy()
        columns[name] = values.astype(np.uint8) if values.dtype.kind in "bO" else values
    record = np.empty(table.num_rows, [(name, values.dtype) for name, values in columns.items()])
    for name, values in columns.items():
        record[name] = values
    return record


PARQUET = ScanFormat(
    "parquet",
    (".parquet",),
    read_parquet,
    rb"PAR1",
    count=lambda path, *_: _rows_of_parquet(path),
    pieces=lambda path, *_: parquet_pieces(path),
)
FEATHER = ScanFormat(
    "feather",
    (".feather", ".arrow"),
    read_feather,
    rb"ARROW1|FEA1",
    count=lambda path, *_: rows_of_feather(path),
    pieces=lambda path, *_: feather_pieces(path),
)
