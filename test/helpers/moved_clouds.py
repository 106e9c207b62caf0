"""Clouds as sensors of other mounts and frames give them, and real scans to move."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from spvnas_ros.clouds.mount import SENSOR_HEIGHT, Mount

FIELDS = ("x", "y", "z", "intensity")


def seen_by(level: np.ndarray, mount: Mount, sensor_height: float = SENSOR_HEIGHT) -> np.ndarray:
    """Positions `[N, 3]` as a sensor of this mount sees what one at `sensor_height` sees level."""
    lifted = level.astype(np.float64)
    if mount.z is not None:
        lifted[:, 2] -= mount.z - sensor_height
    return np.asarray(lifted @ mount.rotation())


def record_of(points: np.ndarray, kind: str = "f8") -> np.ndarray:
    """A cloud `[N, 4]` as a structured array whose coordinates are of this type."""
    record = np.zeros(len(points), [(name, kind if name != "intensity" else "f4") for name in FIELDS])
    for column, name in enumerate(FIELDS):
        record[name] = points[:, column]
    return record


def real_files(shared: Path) -> list[Path]:
    """The scans of SemanticKITTI that lie there."""
    return sorted((shared / "data/semantickitti").glob("sequences/*/velodyne/*.bin"))


def real_scans(shared: Path) -> list[np.ndarray]:
    """These scans, float32 `[N, 4]` each."""
    return [np.fromfile(file, np.float32).reshape(-1, 4) for file in real_files(shared)]
