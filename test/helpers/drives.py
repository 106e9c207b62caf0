"""Small labelled drives for tests of training."""

from __future__ import annotations

from pathlib import Path

from spvnas_ros.engine.sample_street import street_scan
from spvnas_ros.labels import SEMANTIC_KITTI


def write_drive(folder: Path, scans: int) -> None:
    """So many small scans, each of another street, in SemanticKITTI's layout."""
    for sub in ("velodyne", "labels"):
        (folder / sub).mkdir()
    for index in range(scans):
        points, labels = street_scan(seed=index, beams=16, columns=300)
        points.tofile(folder / "velodyne" / f"{index:06d}.bin")
        SEMANTIC_KITTI.decode(labels).tofile(folder / "labels" / f"{index:06d}.label")
