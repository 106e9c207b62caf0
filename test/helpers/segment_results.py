"""What `spvnas segment` left in its folder, read back; and drives with a truth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from spvnas_ros.engine.sample_street import street_scan
from spvnas_ros.labels import SEMANTIC_KITTI
from spvnas_ros.recordings.bags import BagReader, BagWriter, cloud_message, encode

FRAMES = 4
PICTURES = ("picture.png", "picture_median.png", "picture_worst.png")
"""Of a run over two frames or more, in order of names."""


def labels_in(folder: Path) -> dict[str, np.ndarray]:
    """Raw ids by the name of the scan."""
    return {file.stem: np.fromfile(file, np.uint32) for file in sorted((folder / "labels").glob("*.label"))}


def files_in(folder: Path) -> list[str]:
    """All files, relative to the folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def document_in(out: Path, name: str) -> dict[str, Any]:
    """A JSON file of the results."""
    document: dict[str, Any] = json.loads((out / name).read_text())
    return document


def content(bag: Path) -> list[tuple[int, bytes]]:
    """Stamps and bytes of a bag's clouds."""
    with BagReader(bag) as reader:
        return [(cloud.stamp, cloud.raw) for cloud in reader]


def street(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Points and truth of a cloud of the drive; every seventh point has no truth."""
    points, labels = street_scan(number, 16, 200)
    labels = labels.copy()
    labels[::7] = 255
    return points, labels


def write_bag(path: Path, truth: str = "", kind: str = "<u4", storage: str = "sqlite3") -> Path:
    """Writes a drive whose clouds hold the truth in a field `label`: "raw" ids, "class" indices, or "" for none."""
    fields = [(name, "<f4") for name in ("x", "y", "z", "intensity")] + ([("label", kind)] if truth else [])
    with BagWriter(path, storage) as bag:
        for number in range(FRAMES):
            points, labels = street(number)
            record = np.zeros(len(points), fields)
            for column, name in enumerate(("x", "y", "z", "intensity")):
                record[name] = points[:, column]
            if truth:
                record["label"] = SEMANTIC_KITTI.decode(labels) if truth == "raw" else labels
            bag.write("/points", encode(cloud_message(record, 10**9 + number, "lidar")), 10**9 + number)
    return path


def write_label_files(folder: Path) -> Path:
    """Writes the truth of the drive as .label files whose names are not the clouds' numbers."""
    folder.mkdir()
    for number in range(FRAMES):
        instance = np.uint32(number << 16)
        (SEMANTIC_KITTI.decode(street(number)[1]) | instance).tofile(folder / f"{number + 8}.label")
    return folder
