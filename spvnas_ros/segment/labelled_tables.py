"""Writes Parquet and Feather files again with the columns `label` (uint8) and `confidence` (float32) at the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from spvnas_ros.frame import Segmentation
from spvnas_ros.recordings.files import replacing
from spvnas_ros.recordings.scans.tables import arrow
from spvnas_ros.segment.labelled_points import check_length, renames


def write_parquet(source: Path, path: Path, result: Segmentation) -> None:
    """Writes the table of `source` with its labels to `path`, in row groups as long, compressed as its first column.

    Raises ScanError where `source` is damaged, and ValueError where it has not as many rows as there are labels.
    """
    with arrow("Parquet"):
        from pyarrow import parquet

        with parquet.ParquetFile(source) as file:
            groups = file.metadata.num_row_groups
            first = file.metadata.row_group(0) if groups else None
            table = _with_labels(source, file.read(), result)
        compression = first.column(0).compression if first and first.num_columns else "SNAPPY"
        with replacing(path) as target:
            parquet.write_table(
                table, target, compression="NONE" if compression == "UNCOMPRESSED" else compression,
                row_group_size=first.num_rows if first and first.num_rows else None,
            )  # fmt: skip


def write_feather(source: Path, path: Path, result: Segmentation) -> None:
    """Writes the table of `source` with its labels to `path`, compressed by LZ4, as Feather is by default.

    Raises ScanError where `source` is damaged, and ValueError where it has not as many rows as there are labels.
    """
    with arrow("Feather") as pa:
        from pyarrow import feather

        with pa.memory_map(str(source)) as file:
            table = _with_labels(source, feather.read_table(file, memory_map=False), result)
        with replacing(path) as target:
            feather.write_feather(table, target)


def _with_labels(source: Path, table: Any, result: Segmentation) -> Any:
    import pyarrow as pa

    check_length(source, table.num_rows, result)
    fresh = renames(table.column_names)
    metadata = table.schema.metadata
    table = table.rename_columns([fresh.get(name, name) for name in table.column_names])
    table = table.append_column("label", pa.array(result.labels))
    return table.append_column("confidence", pa.array(result.confidence)).replace_schema_metadata(metadata)
