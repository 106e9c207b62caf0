"""Reads a scan file of any known format, and lists the scans of a folder."""

from __future__ import annotations

import re
from pathlib import Path

from spvnas_ros.clouds.intensity import Intensity
from spvnas_ros.clouds.point_cloud2 import PointCloudError
from spvnas_ros.clouds.sensor_rules import Sensor
from spvnas_ros.frame import Points
from spvnas_ros.recordings.containers.kind_of_file import KINDS_BY_SUFFIX, MAGICS
from spvnas_ros.recordings.scans import kitti_bin, npy, pcd, ply
from spvnas_ros.recordings.scans.records import Record, ScanError

FORMATS = {each.name: each for each in (kitti_bin.FORMAT, npy.FORMAT, pcd.FORMAT, ply.FORMAT)}
"""Every format of scan files. A new one is a file of this folder and a name here."""

SUFFIXES = tuple(each.suffix for each in FORMATS.values())
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
    by_suffix = {each.suffix: name for name, each in FORMATS.items()} | dict(KINDS_BY_SUFFIX)
    return by_suffix.get(path.suffix.lower())


def read_scan(path: str | Path, intensity: Intensity | Sensor | str = "auto") -> Points:
    """Reads one scan as float32 `[N, 4]`: x, y, z in metres and intensity in 0..1.

    path:      .bin (KITTI), .npy, .pcd or .ply; a file whose first bytes name its format may have any name
    intensity: the rule that scales the file's intensity, or all rules of a sensor; pass one for all its scans

    Points may be NaN, as in organised clouds. The intensity is 0 where the file has none.

    Raises ScanError, which names the file, where the file is missing, of another format, cut short or malformed, or has
    no x, y and z. Raises ValueError for an unknown intensity rule.
    """
    if isinstance(intensity, str):
        intensity = Intensity(intensity)
    sensor = intensity if isinstance(intensity, Sensor) else Sensor(intensity)
    try:
        return sensor.points(read_record(path))
    except PointCloudError as error:
        raise ScanError(f"{path}: {error}") from error


def read_record(path: str | Path) -> Record:
    """Reads one scan with every field that the file has, structured `[N]`; x, y and z are single numbers.

    Raises ScanError as `read_scan` does.
    """
    path = Path(path)
    try:
        return _checked(_read(path))
    except ScanError as error:
        raise ScanError(f"{path}: {error}") from error
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
    files = _scans_in(folder) or _scans_in(folder / _VELODYNE)
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


def _scans_in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    files = [p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and p.name[0] != "." and p.is_file()]
    return sorted(files, key=lambda p: [(part.isdecimal(), part.zfill(20)) for part in re.split(r"(\d+)", p.name)])


def _read(path: Path) -> Record:
    kind = kind_of(path)
    if kind in FORMATS:
        return FORMATS[kind].read(path)
    if kind in MAGICS:
        raise ScanError("it is a bag, expected one scan; open it with open_source")
    raise ScanError(f"its format is not known; expected {', '.join(SUFFIXES)} or a rosbag2 (.mcap, .db3)")


def _checked(record: Record) -> Record:
    fields = dict(record.dtype.fields or {})
    for name in "xyz":
        # numpy gives the kind "V" to a field that holds several values.
        if name not in fields or fields[name][0].kind not in "iuf":
            raise ScanError(f"it needs one number a point called {name}; found fields {', '.join(fields) or 'none'}")
    return record
