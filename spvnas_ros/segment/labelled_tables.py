"""Writes Parquet and Feather files again with the columns `label` (uint8) and `confidence` (float32) at the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from spvnas_ros.frame import Segmentation
from spvnas_ros.recordings.files import replacing
from spvnas_ros.recordings.scans.tables import arrow, rows_of_feather
from spvnas_ros.segment.labelled_points import check_length, renames
from spvnas_ros.segment.stored import PART, Labelled


def write_parquet(source: Path, path: Path, result: Labelled) -> None:
    """Writes the table of `source` with its labels to `path`, in row groups as long, compressed as its first column.

    Raises ScanError where `source` is damaged, and ValueError where it has not as many rows as there are labels.
    """
    with arrow("Parquet") as pa:
        from pyarrow import parquet

        with parquet.ParquetFile(source) as file, replacing(path) as target:
            check_length(source, file.metadata.num_rows, result)
            groups = file.metadata.num_row_groups
            first = file.metadata.row_group(0) if groups else None
            compression = first.column(0).compression if first and first.num_columns else "SNAPPY"
            schema, at = _schema(file.schema_arrow), 0
            with parquet.ParquetWriter(
                target, schema, compression="NONE" if compression == "UNCOMPRESSED" else compression
            ) as writer:
                for group in range(groups):
                    rows = file.metadata.row_group(group).num_rows
                    # One batch a group keeps the groups; one of millions of rows is written as several.
                    for batch in file.iter_batches(PART, row_groups=[group]) if rows > PART else ():
                        table = pa.Table.from_batches([batch])
                        writer.write_table(_with_labels(table, result.part(at, at + len(table)), schema))
                        at += len(table)
                    if rows <= PART:
                        table = file.read_row_group(group)
                        writer.write_table(_with_labels(table, result.part(at, at + rows), schema))
                        at += rows


def write_feather(source: Path, path: Path, result: Labelled) -> None:
    """Writes the table of `source` with its labels to `path`, batch by batch, compressed by LZ4, Feather's default.

    Raises ScanError where `source` is damaged, and ValueError where it has not as many rows as there are labels.
    """
    with arrow("Feather") as pa, pa.memory_map(str(source)) as data:
        file = pa.ipc.open_file(data)
        check_length(source, rows_of_feather(source), result)
        schema, at = _schema(file.schema), 0
        options = pa.ipc.IpcWriteOptions(compression="lz4" if pa.Codec.is_available("lz4") else None)
        with replacing(path) as target, pa.ipc.new_file(target, schema, options=options) as writer:
            for number in range(file.num_record_batches):
                table = pa.Table.from_batches([file.get_batch(number)])
                writer.write_table(_with_labels(table, result.part(at, at + len(table)), schema))
                at += len(table)


def _schema(schema: Any) -> Any:
    """Returns the schema with our two columns at the end, and others that are called so renamed."""
    import pyarrow as pa

    fresh = renames(schema.names)
    fields = [field.with_name(fresh.get(field.name, field.name)) for field in schema]
    ours = [pa.field("label", pa.uint8()), pa.field("confidence", pa.float32())]
    return pa.schema([*fields, *ours], metadata=schema.metadata)


def _with_labels(table: Any, part: Segmentation, schema: Any) -> Any:
    import pyarrow as pa

    columns = [*table.columns, pa.array(part.labels), pa.array(part.confidence)]
    return pa.Table.from_arrays(columns, schema=schema)
