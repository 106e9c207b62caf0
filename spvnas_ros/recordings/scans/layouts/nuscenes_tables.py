"""Finds the LiDAR scans of nuScenes by its tables, and reads them.

Layout: Caesar et al., "nuScenes: A multimodal dataset for autonomous driving", CVPR 2020; labels: Fong et al.,
"Panoptic nuScenes", RA-L 2022; the schema is docs/schema_nuscenes.md of nuscenes-devkit.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from spvnas_ros.recordings.scans.layouts.recording_layout import Layout
from spvnas_ros.recordings.scans.records import Record, ScanError, record_dtype

CHANNEL: Final = "LIDAR_TOP"
SUFFIX: Final = ".pcd.bin"
INTENSITY: Final = "u8"
_ROW = record_dtype([(name, "<f4", 1) for name in ("x", "y", "z", "intensity", "ring")])
_TABLE = "sample_data.json"
_VERSION = "v1.0-"
_CHUNK = 1 << 20
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_GAP = re.compile(r"[\s,]*")


@dataclass(frozen=True)
class Scan:
    """A scan that the tables list.

    scene:  its name, such as `scene-0061`
    token:  of its row in sample_data
    file:   relative to the data set's root
    labels: file of its labels, relative to the root; None where the tables list none
    stamp:  microseconds since 1970
    """

    scene: str
    token: str
    file: str
    stamp: int
    labels: str | None = None

    @property
    def name(self) -> str:
        """The name of its results: scene, and stem of its file."""
        return f"{self.scene}/{Path(self.file).name.removesuffix(SUFFIX)}"


def is_nuscenes(path: Path) -> bool:
    """Tells whether a folder is nuScenes' root, or the folder of one version's tables in it."""
    return bool(_versions(path))


def find(path: Path, *, sweeps: bool = False) -> Layout | None:
    """Returns the scans of nuScenes: the keyframes, which are labelled, or all of them.

    path:   the data set's root, or the folder of one version's tables in it, where there are several

    Frames have the names of `Scan.name`, scene by scene in order of names, and in order of time. Raises ScanError for
    tables that cannot be used and for files that they list and that are missing; a scene none of whose files are there
    was not downloaded, and is passed over.
    """
    if not is_nuscenes(path):
        return None
    root = root_of(path)
    scans = present(root, list_scans(path, sweeps=sweeps))
    return Layout("nuScenes", "dataset", tuple((scan.name, root / scan.file) for scan in scans), read_lidar, INTENSITY)


def tables_of(path: Path) -> Path:
    """Returns the folder with the tables. Raises ScanError where the root holds those of several versions."""
    versions = _versions(path)
    if len(versions) > 1:
        names = " and ".join(version.name for version in versions)
        raise ScanError(f"{path} holds {names}; name the tables of one of them: {versions[0]}")
    return versions[0]


def root_of(path: Path) -> Path:
    """Returns the data set's root, which the tables' file names are relative to."""
    return tables_of(path).parent


def list_scans(path: Path, *, sweeps: bool = False, labels: bool = False) -> list[Scan]:
    """Returns the scans that the tables list, scene by scene and in order of time.

    sweeps: the scans between the keyframes, too
    labels: with the files of their labels

    Raises ScanError, which names the table, where one is missing, malformed, or does not fit the others.
    """
    folder = tables_of(path)
    scenes = {
        _text(row, "token", folder, "scene"): _text(row, "name", folder, "scene") for row in rows(folder, "scene")
    }
    sample_scenes: dict[str, str] = {}
    for row in rows(folder, "sample"):
        sample_scenes[_text(row, "token", folder, "sample")] = _known(
            scenes, _text(row, "scene_token", folder, "sample"), folder, "sample", "scene"
        )
    found = []
    for row in rows(folder, "sample_data", CHANNEL):
        file, key, stamp = _text(row, "filename", folder, "sample_data"), row.get("is_key_frame"), row.get("timestamp")
        if not isinstance(key, bool) or not isinstance(stamp, int):
            raise ScanError(f"{folder / _TABLE}: a row has no is_key_frame and timestamp, as nuScenes' tables do")
        if not file.endswith(SUFFIX) or f"/{CHANNEL}/" not in file or not (key or sweeps):
            continue
        if Path(file).is_absolute() or ".." in Path(file).parts:
            raise ScanError(f"{folder / _TABLE}: a row names the file {file!r}, expected one below {folder.parent}")
        sample = _text(row, "sample_token", folder, "sample_data")
        scene = _known(sample_scenes, sample, folder, "sample_data", "sample")
        found.append(Scan(scene, _text(row, "token", folder, "sample_data"), file, stamp))
    if odd := [name for name in scenes.values() if not _NAME.fullmatch(name)]:
        raise ScanError(f"{folder / 'scene.json'} calls a scene {odd[0]!r:.60}, expected a name such as scene-0061")
    if len({scan.name for scan in found}) < len(found):
        raise ScanError(f"{folder / _TABLE} lists a scan twice")
    if not found:
        raise ScanError(f"{folder / _TABLE} lists no scans of {CHANNEL}")
    found.sort(key=lambda scan: (scan.scene, scan.stamp))
    return _with_labels(folder, found) if labels else found


def present(root: Path, scans: list[Scan]) -> list[Scan]:
    """Returns the scans of the scenes that are there. Raises ScanError where only a part of a scene is, or nothing."""
    folders = {str(Path(scan.file).parent) for scan in scans}
    there = {
        f"{folder}/{file.name}" for folder in folders if (root / folder).is_dir() for file in (root / folder).iterdir()
    }
    scenes = {scan.scene for scan in scans if scan.file in there}
    kept = [scan for scan in scans if scan.scene in scenes]
    if missing := [scan for scan in kept or scans[:1] if scan.file not in there]:
        raise ScanError(
            f"{root / missing[0].file} is missing, which the tables list as a scan of {missing[0].scene} "
            f"(so are {len(missing) - 1} more); get the whole archive, or without --sweeps its keyframes alone"
        )
    return kept


def read_lidar(path: Path) -> Record:
    """Reads a scan: float32 x (to the right), y (forward), z (up), intensity 0..255 and the beam's number.

    Returns it turned, x forward and y left, as structured `[N]`. Raises ScanError where the size does not fit or the
    file cannot be read.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ScanError(f"{path}: cannot be read: {error.strerror or error}") from error
    if len(data) % _ROW.itemsize:
        raise ScanError(
            f"{path}: {len(data)} bytes are no multiple of {_ROW.itemsize}; expected nuScenes' x, y, z, intensity and "
            "ring, float32"
        )
    record = np.frombuffer(data, _ROW).copy()
    record["x"], record["y"] = record["y"].copy(), -record["x"]
    return record


def rows(folder: Path, table: str, having: str = "") -> Iterator[dict[str, Any]]:
    """Yields the rows of a table, a JSON list of objects, one at a time: `sample_data` has millions.

    having: rows in whose text this does not occur are passed over; a brace in a text of theirs is an error then

    Raises ScanError, which names the file, where it is missing or no such list.
    """
    path = folder / f"{table}.json"
    decoder = json.JSONDecoder()
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(_CHUNK).lstrip("\ufeff \t\r\n")
            if not text.startswith("["):
                raise ScanError(f"{path} is no table of nuScenes: expected a JSON list of rows, found {text[:20]!r}")
            at = 1
            while True:
                gap = _GAP.match(text, at)
                at = gap.end() if gap else at
                if text.startswith("]", at):
                    return
                end = text.find("}", at)
                if having and text.startswith("{", at) and end >= 0 and text.find(having, at, end) < 0:
                    at = end + 1
                    continue
                try:
                    row, at = decoder.raw_decode(text, at)
                except ValueError as error:  # of numbers that are far too long it is no JSONDecodeError
                    more = file.read(_CHUNK) if len(text) - at < _CHUNK else ""
                    if not more:
                        raise ScanError(
                            f"{path} is cut short or damaged ({getattr(error, 'msg', error)}); get it again"
                        ) from error
                    text, at = text[at:] + more, 0
                    continue
                if not isinstance(row, dict):
                    raise ScanError(f"{path} is no table of nuScenes: expected objects as rows, found {row!r:.40}")
                yield row
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        raise ScanError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _with_labels(folder: Path, scans: list[Scan]) -> list[Scan]:
    """Adds the files of labels that the table `lidarseg` lists."""
    files = {}
    for row in rows(folder, "lidarseg"):
        file = _text(row, "filename", folder, "lidarseg")
        if Path(file).is_absolute() or ".." in Path(file).parts:
            raise ScanError(f"{folder / 'lidarseg.json'}: a row names the file {file!r}, expected one below the root")
        files[_text(row, "sample_data_token", folder, "lidarseg")] = file
    return [replace(scan, labels=files.get(scan.token)) for scan in scans]


def _versions(path: Path) -> list[Path]:
    if path.name.startswith(_VERSION) and (path / _TABLE).is_file():
        return [path]
    return sorted(file.parent for file in path.glob(f"{_VERSION}*/{_TABLE}"))


def _text(row: dict[str, Any], key: str, folder: Path, table: str) -> str:
    value = row.get(key)
    if not isinstance(value, str) or not value:
        raise ScanError(f"{folder / table}.json: a row has no {key}, as nuScenes' tables do: {row!r:.80}")
    return value


def _known(names: dict[str, str], token: str, folder: Path, table: str, other: str) -> str:
    if token not in names:
        raise ScanError(
            f"{folder / table}.json names the {other} {token!r}, which {other}.json does not have; are the tables of "
            "one version?"
        )
    return names[token]
