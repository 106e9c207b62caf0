"""Labelled scans written in the layouts of others."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from spvnas_ros.engine.sample_street import street_scan
from spvnas_ros.labels import SEMANTIC_KITTI
from spvnas_ros.recordings.bags import BagWriter, cloud_message, encode


def write_scan(folder: Path, name: str, raw: list[int], first: float = 0.0) -> np.ndarray:
    """A scan in SemanticKITTI's layout with these raw labels (instances in the upper half); returns its points."""
    points = (np.arange(4 * len(raw), dtype=np.float32).reshape(-1, 4) + np.float32(first)) / np.float32(100)
    for part in ("velodyne", "labels"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    points.tofile(folder / "velodyne" / f"{name}.bin")
    np.array(raw, "<u4").tofile(folder / "labels" / f"{name}.label")
    return points


def write_kitti(folder: Path, boxes: list[str], points: np.ndarray, calibration: str | None = None) -> Path:
    """One frame; the camera sits at the sensor and looks ahead (x right, y down, z forward)."""
    text = "R0_rect: 1 0 0 0 1 0 0 0 1\nTr_velo_to_cam: 0 -1 0 0 0 0 -1 0 1 0 0 0\n"
    for part in ("velodyne", "label_2", "calib"):
        (folder / "training" / part).mkdir(parents=True)
    points.astype(np.float32).tofile(folder / "training" / "velodyne" / "000007.bin")
    (folder / "training" / "label_2" / "000007.txt").write_text("\n".join(boxes) + "\n")
    (folder / "training" / "calib" / "000007.txt").write_text(text if calibration is None else calibration)
    return folder


BAG_SCANS = 3
NONE = 255


def write_bag(path: Path, kind: str = "raw", storage: str = "mcap", **fields: str) -> list[np.ndarray]:
    """Clouds of which the last two have the same stamp, with intensities in 0..255; returns their labels."""
    truths = []
    layout = [(n, "<f4") for n in ("x", "y", "z", "intensity")] + list(fields.items())
    with BagWriter(path, storage) as bag:
        for number in range(BAG_SCANS):
            points, labels = street_scan(number, 16, 100)
            labels = labels.copy()
            labels[::9] = NONE
            record = np.zeros(len(points), layout)
            for column, name in enumerate(("x", "y", "z")):
                record[name] = points[:, column]
            record["intensity"] = points[:, 3] * 255
            record["label"] = SEMANTIC_KITTI.decode(labels) | 5 << 16 if kind == "raw" else labels
            if "instance" in fields:
                record["instance"] = 11
            stamp = 10**9 + min(number, 1)
            bag.write("/points", encode(cloud_message(record, stamp, "lidar")), stamp)
            truths.append(labels)
    return truths
