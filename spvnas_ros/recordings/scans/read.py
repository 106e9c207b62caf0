"""Reads a scan file of any known format, and lists the scans of a folder."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from spvnas_ros.clouds.intensity import Intensity
from spvnas_ros.clouds.point_cloud2 import PointCloudError
from spvnas_ros.clouds.sensor_rules import Sensor
from spvnas_ros.frame import Points
from spvnas_ros.recordings.containers.kind_of_file import KINDS_BY_SUFFIX, MAGICS
from spvnas_ros.recordings.scans import e57, kitti_bin, las, npy, npz, nuscenes_bin, pcd, ply, tables, text
from spvnas_ros.recordings.scans.columns import renamed
from spvnas_ros.recordings.scans.records import PIECE, Columns, Record, ScanError, ScanFormat

FORMATS: dict[str, ScanFormat] = {
    each.name: each
    for each in (
        *(module.FORMAT for module in (kitti_bin, npy, pcd, ply, nuscenes_bin, las, e57, text, npz)),
        *(tables.PARQUET, tables.FEATHER),
    )
}
"""Every format of scan files. A new one is a file of this folder and a name here."""

SUFFIXES = tuple(suffix for each in FORMATS.values() for suffix in each.suffixes)
_COMMON = (".txt", ".csv")
"""Suffixes of many things: in a folder they are scans where nothing else is one, and their first lines are points."""
_VELODYNE = "velodyne"
_MAGIC = {name: each.magic for name, each in FORMATS.items() if each.magic} | dict(MAGICS)
_MAGIC_LENGTH = 4096


def kind_of(path: Path) -> str | None:
    """Returns the kind of a file: a name of `FORMATS`, or of a recording's kinds (`MAGICS`); None where it is unknown.

    The first bytes of the file decide. Where they say nothing, the suffix decides. Raises OSError where the file cannot
    be read.
    """
    with path.open("rb") as file:
        first = file.read(_MAGIC_LENGTH)
    for name, magic in _MAGIC.items():
        if re.match(magic, first):
            return name
    by_suffix: dict[str, str] = {suffix: name for name, each in FORMATS.items() for suffix in each.suffixes}
    by_suffix |= dict(KINDS_BY_SUFFIX)
    fitting = [suffix for suffix in by_suffix if path.name.lower().endswith(suffix)]
    return by_suffix[str(max(fitting, key=len))] if fitting else None


def parts_of(path: Path) -> int:
    """Returns how many scans a file holds; 1 for one that cannot be read, which says so when it is."""
    try:
        form = FORMATS.get(kind_of(path) or "")
        return form.parts(path) if form and form.parts else 1
    except (ScanError, OSError):
        return 1


def frames_of(name: str, path: Path) -> list[tuple[str, Path, int]]:
    """Returns the scans of a file: what each is called, `name` or `name_0`, `name_1`, ..., the file, and its number."""
    count = parts_of(path)
    return [(name if count == 1 else f"{name}_{part}", path, part) for part in range(count)]


def read_scan(path: str | Path, intensity: Intensity | Sensor | str = "auto", part: int = 0) -> Points:
    """Reads one scan as float32 `[N, 4]`: x, y, z in metres and intensity in 0..1.

    path:      a scan of one of `FORMATS`; a file whose first bytes name its format may have any name
    intensity: the rule that scales the file's intensity, or all rules of a sensor; pass one for all its scans
    part:      which scan of a file that may hold several

    Points may be NaN, as in organised clouds. The intensity is 0 where the file has none.

    Raises ScanError, which names the file, where the file is missing, of another format, cut short or malformed, or has
    no x, y and z. Raises ValueError for an unknown intensity rule.
    """
    if isinstance(intensity, str):
        intensity = Intensity(intensity)
    sensor = intensity if isinstance(intensity, Sensor) else Sensor(intensity)
    try:
        return sensor.points(read_record(path, part=part))
    except PointCloudError as error:
        raise ScanError(f"{path}: {error}") from error


def read_record(path: str | Path, columns: Columns | None = None, part: int = 0) -> Record:
    """Reads one scan with every field that the file has, structured `[N]`; x, y and z are single numbers.

    columns: what the numbers of a point are, for files that do not say it; None for what the format has, or is found
    part:    which scan of a file that may hold several

    Raises ScanError as `read_scan` does.
    """
    path = Path(path)
    try:
        return _checked(renamed(_read(path, columns, part)))
    except ScanError as error:
        raise ScanError(f"{path}: {error}") from error
    except OSError as error:
        raise ScanError(f"{path}: cannot be read: {error.strerror or error}") from error


def points_announced(path: Path, columns: Columns | None = None, part: int = 0) -> int:
    """Returns how many points a scan has, without reading them: exactly, or about as many where nothing says so.

    Of a format that has to be read whole, and of a file that cannot be read, which says so when it is, it is 0.
    """
    try:
        form = FORMATS.get(kind_of(path) or "")
        return form.count(path, columns, part) if form and form.count else 0
    except (ScanError, OSError):
        return 0


def read_pieces(path: Path, columns: Columns | None = None, part: int = 0) -> Iterator[Record]:
    """Reads one scan as `read_record` does, some points at a time, in order. Raises ScanError as it does."""
    try:
        form = FORMATS.get(kind_of(path) or "")
        if form is None or form.pieces is None:
            record = read_record(path, columns, part)
            yield from (record[at : at + PIECE] for at in range(0, max(1, len(record)), PIECE))
            return
        if columns is not None and form.read_columns is None:
            raise ScanError(f"its format ({form.name}) names its columns itself; leave --columns out")
        for piece in form.pieces(path, columns, part):
            yield _checked(renamed(piece))
    except ScanError as error:
        raise error if str(error).startswith(f"{path}: ") else ScanError(f"{path}: {error}") from error
    except OSError as error:
        raise ScanError(f"{path}: cannot be read: {error.strerror or error}") from error


def sequences_in(folder: Path) -> list[Path]:
    """Returns the sequences of a data set's root (SemanticKITTI's `sequences/NN/velodyne`), in order; [] elsewhere."""
    return sorted(path.parent for path in folder.glob(f"sequences/*/{_VELODYNE}") if path.is_dir())


def scan_files(folder: Path) -> list[Path]:
    """Returns the scans of a folder or of its subfolder `velodyne` (a SemanticKITTI sequence).

    They are sorted by number: `2.bin` comes before `10.bin`. Raises ScanError where there are no scans, or where two
    scans would have results of the same name.
    """
    files = _scans_in(folder) or _scans_in(folder / _VELODYNE) or _scans_in(folder, common=True)
    if not files:
        found = sorted(p.name for p in folder.iterdir())
        shown = ", ".join(found[:8]) + (f" and {len(found) - 8} more" if len(found) > 8 else "") or "nothing"
        raise ScanError(
            f"{folder} holds no scans; expected {', '.join(SUFFIXES)} files, a velodyne folder of them, or a rosbag2 "
            f"with its metadata.yaml; found {shown}"
        )
    stems: dict[str, Path] = {}
    for file in files:
        if (other := stems.setdefault(file.stem, file)) != file:
            raise ScanError(f"{other} and {file.name} would get the same label file; move one of them elsewhere")
    return files


def passed_over(files: Sequence[Path]) -> list[Path]:
    """Returns the text files with points beside the scans of a folder, which `scan_files` takes for notes."""
    folder = files[0].parent
    return [] if files[0].suffix.lower() in _COMMON else _scans_in(folder, common=True)


def _scans_in(folder: Path, *, common: bool = False) -> list[Path]:
    """Returns the scans of a folder, those with common suffixes or the others."""
    if not folder.is_dir():
        return []
    suffixes = _COMMON if common else [suffix for suffix in SUFFIXES if suffix not in _COMMON]
    files = [p for p in folder.iterdir() if p.suffix.lower() in suffixes and p.name[0] != "." and p.is_file()]
    files = [p for p in files if text.looks_like_points(p)] if common else files
    return sorted(files, key=lambda p: [(part.isdecimal(), part.zfill(20)) for part in re.split(r"(\d+)", p.name)])


def _read(path: Path, columns: Columns | None, part: int) -> Record:
    kind = kind_of(path)
    if kind in FORMATS:
        return _read_as(FORMATS[kind], path, columns, part)
    if kind in MAGICS:
        raise ScanError("it is a bag, expected one scan; open it with open_source")
    raise ScanError(f"its format is not known; expected {', '.join(SUFFIXES)} or a rosbag2 (.mcap, .db3)")


def _read_as(form: ScanFormat, path: Path, columns: Columns | None, part: int) -> Record:
    if columns is not None:
        if form.read_columns is None:
            raise ScanError(f"its format ({form.name}) names its columns itself; leave --columns out")
        return form.read_columns(path, columns)
    if form.read_part is not None:
        return form.read_part(path, part)
    return form.read(path)


def _checked(record: Record) -> Record:
    fields = dict(record.dtype.fields or {})
    for name in "xyz":
        # numpy gives the kind "V" to a field that holds several values.
        if name not in fields or fields[name][0].kind not in "iuf":
            raise ScanError(f"it needs one number a point called {name}; found fields {', '.join(fields) or 'none'}")
    return record
