"""Frames of KITTI's object benchmark, from archives of `label_2/` and `det/` and from folders."""

from __future__ import annotations

import zipfile
from pathlib import Path

from spvnas_ros.offline.evaluation.kitti import KittiFrame
from spvnas_ros.recordings.kitti_objects import read_objects

SETS = (
    "dense_good", "dontcare_neighbours", "empty_and_missing", "few_perfect", "limits", "mixed", "perfect",
    "scores_angles", "ties",
)  # fmt: skip


def unpacked(shared: Path, name: str, folder: Path) -> Path:
    """The set in a folder."""
    with zipfile.ZipFile(shared / "golden" / "detection" / "kitti_eval" / f"{name}.zip") as archive:
        archive.extractall(folder)
    return folder


def frames_of(folder: Path) -> list[KittiFrame]:
    return [
        KittiFrame(
            path.stem,
            read_objects(folder / "label_2" / path.name, scored=False),
            read_objects(path, scored=True),
        )
        for path in sorted((folder / "det").glob("*.txt"))
    ]
