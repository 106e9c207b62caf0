"""Opens nuScenes with the labels of nuScenes-lidarseg: keyframes by the tables, labels of 32 categories, 16 classes.

Layout, turning and tables: `recordings/scans/layouts/nuscenes_tables.py`; classes: `labels.NUSCENES`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from spvnas_ros.clouds.sensor_rules import Sensor
from spvnas_ros.errors import UserError
from spvnas_ros.labels import NUSCENES, NUSCENES_CATEGORIES, LabelMap
from spvnas_ros.offline.datasets.file_pairs import samples
from spvnas_ros.offline.datasets.scan import (
    DatasetError,
    Inventory,
    LabelledScan,
    Looked,
    checksums_of,
    finite,
    sizes_of,
)
from spvnas_ros.recordings.scans import ScanError
from spvnas_ros.recordings.scans.layouts.nuscenes_tables import (
    Scan,
    list_scans,
    present,
    read_lidar,
    root_of,
    rows,
    tables_of,
)

_VAL: Final = (
    "3,12-18,35,36,38,39,92-110,221,268-278,329-332,344-346,519-524,552-565,625-627,629,630,632-638,770,771,775,777,778,"
    "780-784,794-800,802,904-917,919-931,962,963,966-969,971,972,1059-1073"
)
_MINI_VAL: Final = "103,916"
"""Scenes of the official splits (nuscenes-devkit, utils/splits.py); those that are not listed are for training."""

_SPLITS: Final = ("train", "val", "test")
_RANGE = re.compile(r"(?:scene-)?([0-9]{1,4})(?:-([0-9]{1,4}))?")


@dataclass(frozen=True)
class NuScenesDataset:
    """A `ScanDataset` of keyframes with labels.

    root: the data set's folder; the names of its files are relative to it
    """

    root: Path
    scans: tuple[Scan, ...]
    label_map: LabelMap
    sensor: Sensor
    boxes_only: Literal[False] = False

    def name(self, index: int) -> str:
        """Returns the name of a scan: its scene, and the stem of its file."""
        return self.scans[index].name

    def look(self) -> list[Looked]:
        """Returns some scans, turned as all are."""
        return [Looked(self.sensor, samples((self.root / scan.file for scan in self.scans), read_lidar))]

    def inventory(self) -> Inventory:
        """Returns sizes of the scans, sizes and checksums of their labels."""
        scans = sizes_of(self.root, (scan.file for scan in self.scans))
        return scans | checksums_of(self.root, (scan.labels for scan in self.scans if scan.labels))

    def __len__(self) -> int:
        return len(self.scans)

    def __getitem__(self, index: int) -> LabelledScan:
        scan = self.scans[index]
        try:
            points = self.sensor.points(read_lidar(self.root / scan.file))
        except UserError as error:
            raise DatasetError(str(error)) from error
        path = self.root / (scan.labels or "")
        try:
            raw = np.frombuffer(path.read_bytes(), np.uint8)
        except OSError as error:
            raise DatasetError(f"{path}: cannot be read: {error.strerror or error}") from error
        if len(raw) != len(points):
            raise DatasetError(
                f"{path} has {len(raw)} bytes, but {self.root / scan.file} has {len(points)} points; expected 1 byte a "
                "point"
            )
        try:
            labels = self.label_map.encode(raw)
        except ValueError as error:
            raise DatasetError(f"{path}: {error}") from error
        return finite(LabelledScan(scan.name, points, labels, np.zeros(len(points), np.uint16)))


def open_nuscenes(
    folder: Path, label_map: LabelMap, sensor: Sensor, wanted: str | int | Sequence[str | int] | None = None
) -> NuScenesDataset:
    """Opens the labelled keyframes of some scenes.

    folder: the data set's root, or the folder of one version's tables in it
    wanted: `train`, `val`, `test`; the name of a split in the tables' `splits.json`; scenes such as `scene-0061`, 61
            and 1-100; a list of these; None for all

    Raises DatasetError, which names the file, for tables that cannot be used, for other categories than the official
    ones, and where labels are missing; and for a label map of other raw ids.
    """
    if label_map.to_class.keys() != NUSCENES.to_class.keys():
        raise DatasetError(
            f"{folder} is labelled with nuScenes' categories, which label map {label_map.name!r} knows nothing of; "
            f"name weights with classes of label map {NUSCENES.name!r} (of a training with data.label_map="
            f"{NUSCENES.name}), for the classes of other networks are not these"
        )
    try:
        tables, root = tables_of(folder), root_of(folder)
        if not (tables / "lidarseg.json").is_file():
            raise DatasetError(
                f"{tables / 'lidarseg.json'} is missing: these are scans without labels; unpack nuScenes-lidarseg into "
                f"{root}, or label them with `spvnas segment`"
            )
        _check_categories(tables)
        listed = list_scans(folder, labels=True)
        chosen = _choose(tables, {scan.scene for scan in listed}, wanted)
        scans = present(root, [scan for scan in listed if scan.scene in chosen])
    except ScanError as error:
        raise DatasetError(str(error)) from error
    if lacking := [scan for scan in scans if scan.labels is None or not (root / scan.labels).is_file()]:
        first = lacking[0]
        raise DatasetError(
            f"{root / first.labels if first.labels else tables / 'lidarseg.json'} lacks the labels of {first.file} "
            f"(and {len(lacking) - 1} more of {len(scans)} keyframes have none)"
        )
    return NuScenesDataset(root, tuple(scans), label_map, sensor)


def _check_categories(tables: Path) -> None:
    found: dict[Any, Any] = {row.get("index"): row.get("name") for row in rows(tables, "category") if "index" in row}
    for index, name in enumerate(NUSCENES_CATEGORIES):
        if found.get(index) != name:
            raise DatasetError(
                f"{tables / 'category.json'} calls category {index} {found.get(index)!r}, expected {name!r} as in "
                "nuScenes-lidarseg; unpack its tables over those of nuScenes"
            )


def _choose(tables: Path, found: Collection[str], wanted: str | int | Sequence[str | int] | None) -> set[str]:
    """Returns the names of the wanted scenes, of a split those that the tables have."""
    if wanted is None:
        return set(found)
    chosen: set[str] = set()
    for word in (
        word.strip()
        for part in ([wanted] if isinstance(wanted, str | int) else wanted)
        for word in str(part).split(",")
    ):
        split = _split(tables, found, word)
        if split is None:
            if not (match := _RANGE.fullmatch(word)):
                raise DatasetError(
                    f"scenes are {wanted!r}, expected {', '.join(_SPLITS)}, a split of {tables / 'splits.json'}, or "
                    "scenes such as scene-0061, 61 or 1-100"
                )
            split = _scenes(f"{match[1]}-{match[2] or match[1]}")
            if not split & set(found):
                raise DatasetError(f"{tables} has no scene {word}; found {_listed(found)}")
        chosen |= split & set(found)
    if not chosen:
        raise DatasetError(f"{tables} has no scene of {wanted}; found {_listed(found)}")
    return chosen


def _split(tables: Path, found: Collection[str], word: str) -> set[str] | None:
    """Returns the scenes of a split; None where there is none of that name."""
    own = tables / "splits.json"
    if own.is_file():
        try:
            splits = json.loads(own.read_text("utf-8"))
            names = splits.get(word)
            if names is not None:
                return set(map(str, names))
        except (OSError, ValueError, AttributeError, TypeError) as error:
            raise DatasetError(f"{own} is no table of splits ({error}); expected lists of scenes by name") from error
    mini, test = tables.name.endswith("-mini"), tables.name.endswith("-test")
    name = word.removeprefix("mini_") if mini else word
    if name not in _SPLITS:
        return None
    if name == "test" or test:
        return set(found) if name == "test" and test else set()
    val = _scenes(_MINI_VAL if mini else _VAL)
    return val if name == "val" else set(found) - val


def _scenes(numbers: str) -> set[str]:
    spans = (part.partition("-") for part in numbers.split(","))
    return {f"scene-{n:04d}" for begin, _, end in spans for n in range(int(begin), int(end or begin) + 1)}


def _listed(found: Collection[str]) -> str:
    names = sorted(found)
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
