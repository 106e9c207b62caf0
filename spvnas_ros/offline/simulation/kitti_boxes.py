"""Writes boxes around the objects that the sensor saw, in the format of KITTI's object benchmark: label_2, calib,
velodyne.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import numpy as np
import numpy.typing as npt

from spvnas_ros.offline.simulation.lidar import Lidar, Meeting, SimulatedScan
from spvnas_ros.offline.simulation.scene import Actor
from spvnas_ros.offline.simulation.semantic_kitti_writer import CALIBRATION, sensor_to_camera, write_calibration
from spvnas_ros.recordings.files import replacing

IMAGE = (1242, 375)
"""Width and height of the camera's picture, pixels."""
TYPES = {
    10: "Car", 252: "Car", 18: "Truck", 258: "Truck", 13: "Misc", 257: "Misc", 20: "Misc", 259: "Misc",
    30: "Pedestrian", 254: "Pedestrian", 31: "Cyclist", 253: "Cyclist", 11: "Misc", 15: "Misc", 32: "Misc", 255: "Misc",
}  # fmt: skip
"""KITTI's type for each of SemanticKITTI's raw labels that is written as a box."""

_FEWEST = 5
"""Least number of echoes for which an object counts as seen."""
_OCCLUDED = (0.7, 0.35)
"""Visible shares from which on KITTI's occlusion is 0 (fully visible) and 1 (partly); below these it is 2."""


@contextmanager
def frame_writer(folder: Path, first: int, lidar: Lidar) -> Iterator[Callable[[float, SimulatedScan], None]]:
    """Yields a function that writes a scan, given the second at which its sweep began, as a frame in KITTI's folder
    `training`. The frames are numbered from `first`.
    """
    numbers = count(first)
    yield lambda t, scan: write_frame(folder, f"{next(numbers):06d}", lidar, scan, t)


def write_frame(folder: Path, name: str, lidar: Lidar, scan: SimulatedScan, t: float) -> None:
    """Writes velodyne/NAME.bin, calib/NAME.txt and, last, label_2/NAME.txt. Raises OSError where they cannot be
    written.
    """
    for part in ("velodyne", "calib", "label_2"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    with replacing(folder / "velodyne" / f"{name}.bin") as file:
        file.write(scan.points.astype("<f4").tobytes())
    matrices = {
        **{camera: CALIBRATION[camera] for camera in ("P0", "P1", "P2", "P3")},
        "R0_rect": (1, 0, 0, 0, 1, 0, 0, 0, 1),
        "Tr_velo_to_cam": CALIBRATION["Tr"],
        "Tr_imu_to_velo": (1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0),
    }
    write_calibration(folder / "calib" / f"{name}.txt", matrices)
    with replacing(folder / "label_2" / f"{name}.txt") as file:
        file.write("".join(f"{line}\n" for line in label_lines(lidar, scan, t)).encode())


def label_lines(lidar: Lidar, scan: SimulatedScan, t: float) -> list[str]:
    """Returns one line of KITTI's label_2 for each object that the sensor saw and that lies in the camera's picture.

    t: seconds at which the sweep began
    """
    counts = np.bincount(scan.instances, minlength=1 << 16)
    lines = []
    for actor in lidar.scene.actors:
        if counts[actor.instance] < _FEWEST or actor.raw_label not in TYPES:
            continue
        met = lidar.meeting(actor, scan, t)
        line = _line(actor, met, lidar.visible_share(actor, met.moment, met.sensor))
        if line:
            lines.append(line)
    return lines


def occlusion_of(visible: float) -> int:
    """Returns KITTI's occlusion of an object of which a share 0..1 is visible: 0, 1 or 2."""
    return 0 if visible >= _OCCLUDED[0] else 1 if visible >= _OCCLUDED[1] else 2


def _line(actor: Actor, met: Meeting, visible: float) -> str | None:
    x, y, z, yaw = actor.pose(met.moment)
    length, width, height = actor.size
    to_camera = sensor_to_camera() @ np.linalg.inv(met.frame)
    place = (to_camera @ (x, y, z, 1.0))[:3]
    ahead = to_camera[:3, :3] @ (np.cos(yaw), np.sin(yaw), 0.0)
    turn = float(np.arctan2(-ahead[2], ahead[0]))
    corners = place + _corners(length, width, height, turn)
    if corners[:, 2].min() < 0.1:
        return None
    rectangle, truncated = _rectangle(corners)
    if truncated >= 1:
        return None
    occluded = occlusion_of(visible)
    alpha = _wrapped(turn - float(np.arctan2(place[0], place[2])))
    numbers = (*rectangle, height, width, length, *place, _wrapped(turn))
    return f"{TYPES[actor.raw_label]} {truncated:.2f} {occluded} {alpha:.2f} " + " ".join(f"{n:.2f}" for n in numbers)


def _corners(length: float, width: float, height: float, turn: float) -> npt.NDArray[np.float64]:
    """Returns the corners of a box relative to the centre of its bottom, `[8, 3]`, in the camera's frame (x right, y
    down, z ahead).
    """
    x, y, z = np.meshgrid((-length / 2, length / 2), (-height, 0.0), (-width / 2, width / 2), indexing="ij")
    cos, sin = np.cos(turn), np.sin(turn)
    return np.stack([cos * x + sin * z, y, cos * z - sin * x], -1).reshape(-1, 3)


def _rectangle(corners: npt.NDArray[np.float64]) -> tuple[tuple[float, ...], float]:
    """Returns left, top, right, bottom in the picture, and the share of the rectangle that lies outside the picture."""
    project = np.array(CALIBRATION["P2"], np.float64).reshape(3, 4)
    seen = np.c_[corners, np.ones(len(corners))] @ project.T
    pixels = seen[:, :2] / seen[:, 2:]
    low, high = pixels.min(0), pixels.max(0)
    inside_low, inside_high = np.clip(low, 0, np.array(IMAGE) - 1), np.clip(high, 0, np.array(IMAGE) - 1)
    truncated = 1 - float(np.prod(inside_high - inside_low) / np.prod(high - low))
    return (*inside_low.tolist(), *inside_high.tolist()), truncated


def _wrapped(angle: float) -> float:
    return float((angle + np.pi) % (2 * np.pi) - np.pi)
