"""Small labelled recordings for the viewer's tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from spvnas_ros.engine.sample_street import street_scan
from spvnas_ros.labels import SEMANTIC_KITTI
from spvnas_ros.recordings.bags import LABELLED_TOPIC, BagWriter, cloud_message, encode

START = 1_700_000_000 * 10**9


def labelled_bag(
    path: Path, frames: int, *, columns: int = 60, storage: str = "sqlite3", raw: bool = False, stamps: int = 10**8
) -> list[np.ndarray]:
    """One view of a street, a metre further on in each cloud, with the truth as labels and confidence 1.

    Gives each cloud's points.

    raw:    labels are SemanticKITTI's ids instead of class indices
    stamps: nanoseconds between clouds
    """
    dtype = [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("intensity", "<f4"), ("label", "<u2"), ("confidence", "<f4")]
    street, labels = street_scan(3, 16, columns)
    clouds = [street - np.array([number, 0, 0, 0], np.float32) for number in range(frames)]
    with BagWriter(path, storage) as bag:
        for number, points in enumerate(clouds):
            record = np.zeros(len(points), dtype)
            for column, name in enumerate(("x", "y", "z", "intensity")):
                record[name] = points[:, column]
            record["label"] = SEMANTIC_KITTI.decode(labels) if raw else labels
            record["confidence"] = 1
            stamp = START + number * stamps
            bag.write(LABELLED_TOPIC, encode(cloud_message(record, stamp, "lidar")), stamp)
    return clouds
