"""In which form labels are written: label files, arrays, or the scans themselves with the labels in them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from spvnas_ros.errors import UserError
from spvnas_ros.recordings.files import replacing
from spvnas_ros.recordings.scans import kind_of
from spvnas_ros.segment import labelled_las, labelled_points, labelled_tables, labelled_text
from spvnas_ros.segment.labelled_las import ASPRS
from spvnas_ros.segment.stored import Labelled, parts_of_result

SCANS: Final = "scans"
ARRAYS: Final = "arrays"
FORMS: Final = ("auto", "label", "npy", "same")

_WRITERS: Final[dict[str, Callable[[Path, Path, Labelled], None]]] = {
    "ply": labelled_points.write_ply,
    "pcd": labelled_points.write_pcd,
    "text": labelled_text.write_text,
    "parquet": labelled_tables.write_parquet,
    "feather": labelled_tables.write_feather,
}
"""What writes a scan with its labels, by its format. LAS has a writer of its own, for its classification."""

_NO_FIELDS: Final = "expected .las, .laz, .ply, .pcd, .parquet, .feather or text, whose points may have further fields"


@dataclass(frozen=True)
class LabelForm:
    """What `--format` and `--classification` ask for.

    form:           "label" for SemanticKITTI's .label files, "npy" for arrays, "same" for the scans themselves with
                    `label` and `confidence` in them, "auto" for .label files and, where the format allows, the scans
    classification: "asprs" sets the classification of LAS points, too; "" leaves it

    Raises UserError for others.
    """

    form: str = "auto"
    classification: str = ""

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise UserError(f"format must be one of {', '.join(FORMS)}, found {self.form!r}")
        if self.classification not in ("", "asprs"):
            raise UserError(f"classification must be asprs, found {self.classification!r}")

    @property
    def raw_ids(self) -> bool:
        """Whether .label files are written, which need a label map."""
        return self.form in ("auto", "label")

    def check(self, files: Iterable[Path]) -> None:
        """Raises UserError where scans cannot take what was asked for. Raises OSError where one cannot be read."""
        files = list(files)
        if self.form == "same" and (wrong := [file for file in files if not _can(file)]):
            raise UserError(f"--format same: {wrong[0]} has no place for labels; {_NO_FIELDS}; or use --format label")
        if self.classification:
            if self.form not in ("auto", "same"):
                raise UserError(f"--classification goes into the scans themselves; --format {self.form} writes none")
            if not any(kind_of(file) == "las" for file in files):
                raise UserError("--classification is a field of LAS and LAZ, and there is no such file")

    def copy_of(self, out: Path, name: str, file: Path | None) -> Path | None:
        """Returns where the scan `name`, read from `file`, goes with its labels; None where it does not."""
        if self.form not in ("auto", "same") or file is None or not _can(file):
            return None
        # A scan with labels added is no COPC any more.
        return out / SCANS / f"{name.removesuffix('.copc')}{file.suffix.lower()}"

    def write_copy(self, path: Path, file: Path, result: Labelled, classes: tuple[str, ...]) -> None:
        """Writes the scan of `file` with its labels to `path`; whole, or not at all.

        Raises ScanError where the file cannot be written so, ValueError where the labels are not of it.
        """
        kind = kind_of(file)
        if kind == "las":
            codes = ASPRS if self.classification else None
            labelled_las.write_las(file, path, result, classes, codes)
        else:
            _WRITERS[kind or ""](file, path, result)


def array_file(out: Path, name: str) -> Path:
    """Returns where `--format npy` puts the labels of a scan."""
    return out / ARRAYS / f"{name}.npy"


def write_array(path: Path, result: Labelled) -> None:
    """Writes labels (class indices, 255 for none) and confidences as a structured array `[N]`."""
    dtype = np.dtype([("label", "u1"), ("confidence", "<f4")])

    def rows() -> Iterator[npt.NDArray[Any]]:
        for part in parts_of_result(result):
            array = np.empty(len(part), dtype)
            array["label"], array["confidence"] = part.labels, part.confidence
            yield array

    write_npy(path, dtype, (len(result),), rows())


def write_npy(path: Path, dtype: npt.DTypeLike, shape: tuple[int, ...], rows: Iterable[npt.NDArray[Any]]) -> None:
    """Writes an array as numpy's .npy, some rows at a time; whole, or not at all."""
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    with replacing(path) as file:
        np.lib.format.write_array_header_1_0(file, header)
        for some in rows:
            file.write(np.ascontiguousarray(some).tobytes())


def all_copies_of(out: Path, name: str) -> list[Path]:
    """Returns the files that may hold the scan `name` with its labels, or these alone, whatever its format was."""
    suffixes = (
        ".las",
        ".laz",
        ".ply",
        ".pcd",
        ".xyz",
        ".asc",
        ".txt",
        ".csv",
        ".pts",
        ".parquet",
        ".feather",
        ".arrow",
    )
    stem = name.removesuffix(".copc")
    return [array_file(out, name), *(out / SCANS / f"{stem}{suffix}" for suffix in suffixes)]


def _can(file: Path) -> bool:
    kind = kind_of(file)
    return kind == "las" or kind in _WRITERS
