"""A small nuScenes with lidarseg, written in its official layout.

v1.0-VERSION/      tables, each a JSON list of rows:
    scene.json         token, name ("scene-0103"), first_sample_token, last_sample_token, nbr_samples, log_token
    sample.json        token, timestamp (microseconds), scene_token, prev, next: the keyframes, 2 a second
    sample_data.json   token, sample_token, ego_pose_token, calibrated_sensor_token, filename (below the root),
                       fileformat, is_key_frame, timestamp, prev, next: all files of all sensors, cameras too
    category.json      token, name, description, index (lidarseg's own: the number in its files)
    lidarseg.json      token, sample_data_token, filename
samples/LIDAR_TOP/NAME.pcd.bin   float32 x (right), y (forward), z (up), intensity 0..255, ring; keyframes
sweeps/LIDAR_TOP/NAME.pcd.bin    the same; the scans between them
lidarseg/v1.0-VERSION/TOKEN_lidarseg.bin   uint8, the index of the category of each point
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from spvnas_ros.engine.sample_street import street_scan
from spvnas_ros.labels import NUSCENES_CATEGORIES

Rows = list[dict[str, Any]]

SCENES = ("scene-0061", "scene-0103")
"""One of each of the mini version's splits."""
KEYFRAMES = 2
START = 1532402927000000


def raw_scan(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Points as they are in a file, float32 [N, 5], and the indices of their categories, uint8 [N]."""
    points, labels = street_scan(number, 16, 200)
    turned = np.column_stack((-points[:, 1], points[:, 0], points[:, 2], np.rint(points[:, 3] * 255), labels % 32))
    return turned.astype(np.float32), ((labels.astype(int) * 5 + number + np.arange(len(labels)) % 3) % 32).astype(
        np.uint8
    )


def write_nuscenes(root: Path, version: str = "v1.0-mini", scenes: tuple[str, ...] = SCENES) -> Path:
    """Scenes of two keyframes each, with a sweep behind each keyframe and a picture beside it; returns the root."""
    tables: dict[str, Rows] = {name: [] for name in ("scene", "sample", "sample_data", "lidarseg")}
    tables["category"] = [
        {"token": f"c{index:02d}", "name": name, "description": "", "index": index}
        for index, name in enumerate(NUSCENES_CATEGORIES)
    ]
    for folder in ("samples/LIDAR_TOP", "samples/CAM_FRONT", "sweeps/LIDAR_TOP", f"lidarseg/{version}"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for place, scene in enumerate(scenes):
        samples = [f"{scene}-sample-{number}" for number in range(KEYFRAMES)]
        tables["scene"].append(
            {
                "token": f"{scene}-token", "log_token": "log", "nbr_samples": KEYFRAMES, "name": scene,
                "first_sample_token": samples[0], "last_sample_token": samples[-1], "description": "Parked {cars}",
            }
        )  # fmt: skip
        for number, sample in enumerate(samples):
            stamp = START + place * 10**8 + number * 500_000
            tables["sample"].append(
                {"token": sample, "timestamp": stamp, "prev": "", "next": "", "scene_token": f"{scene}-token"}
            )
            for channel, folder, later, ending in (
                ("LIDAR_TOP", "sweeps", 50_000, "pcd.bin"),
                ("LIDAR_TOP", "samples", 0, "pcd.bin"),
                ("CAM_FRONT", "samples", 3_000, "jpg"),
            ):
                token = f"{sample}-{folder}-{channel}"
                name = f"{folder}/{channel}/n015-2018-07-24-11-22-45+0800__{channel}__{stamp + later}.{ending}"
                tables["sample_data"].append(
                    {
                        "token": token, "sample_token": sample, "ego_pose_token": token,
                        "calibrated_sensor_token": channel, "timestamp": stamp + later, "fileformat": ending[:3],
                        "is_key_frame": folder == "samples", "height": 0, "width": 0, "filename": name,
                        "prev": "", "next": "",
                    }
                )  # fmt: skip
                if channel == "LIDAR_TOP":
                    points, labels = raw_scan(place * KEYFRAMES + number)
                    points.tofile(root / name)
                    if folder == "samples":
                        file = f"lidarseg/{version}/{token}_lidarseg.bin"
                        labels.tofile(root / file)
                        tables["lidarseg"].append({"token": token, "sample_data_token": token, "filename": file})
    (root / version).mkdir()
    for name, rows in tables.items():
        (root / version / f"{name}.json").write_text(json.dumps(rows, indent=0))
    return root


def changed(root: Path, table: str, change: Callable[[Rows], Any], version: str = "v1.0-mini") -> None:
    """Writes a table again after a change of its rows."""
    path = root / version / f"{table}.json"
    rows = json.loads(path.read_text())
    change(rows)
    path.write_text(json.dumps(rows, indent=0))
