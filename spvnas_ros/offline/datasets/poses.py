"""Where the sensor was in each scan of a sequence in SemanticKITTI's layout: poses.txt, calib.txt and times.txt."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from spvnas_ros.offline.datasets.scan import DatasetError


@dataclass(frozen=True)
class Journey:
    """A sequence's way.

    poses:  float64 `[N, 4, 4]`, the first scan's frame from each scan's
    stamps: int64 `[N]`, nanoseconds since the first scan
    """

    poses: npt.NDArray[np.float64]
    stamps: npt.NDArray[np.int64]


def read_journey(folder: Path) -> Journey:
    """Reads the way of a sequence: KITTI gives the camera's, and the calibration's `Tr` where the sensor is on it.

    Raises DatasetError that names the file where one is missing, malformed, or there are not as many poses as times.
    """
    camera = np.stack([_matrix(folder / "poses.txt", n, words) for n, words in _lines(folder / "poses.txt")])
    times = np.array([_numbers(folder / "times.txt", n, words, 1)[0] for n, words in _lines(folder / "times.txt")])
    if len(times) != len(camera):
        raise DatasetError(f"{folder / 'times.txt'} has {len(times)} times and poses.txt {len(camera)} poses")
    if not (np.abs(times) < 1e9).all():
        raise DatasetError(f"{folder / 'times.txt'} has the time {times[np.abs(times).argmax()]:g} s, expected seconds")
    if (late := np.flatnonzero(np.diff(times) <= 0)).size:
        raise DatasetError(
            f"{folder / 'times.txt'}, line {late[0] + 2}: {times[late[0] + 1]:g} s is not after {times[late[0]]:g} s, "
            "expected a later time in each line"
        )
    calibration = folder / "calib.txt"
    found = [(n, words[1:]) for n, words in _lines(calibration) if words[0] == "Tr:"]
    if not found:
        raise DatasetError(f"{calibration} has no line Tr, which says where the sensor is on the camera")
    mount = _matrix(calibration, *found[0])
    return Journey(np.linalg.inv(mount) @ camera @ mount, np.rint(times * 1e9).astype(np.int64))


def _lines(path: Path) -> list[tuple[int, list[str]]]:
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    found = [(number, words) for number, line in enumerate(lines, start=1) if (words := line.split())]
    if not found:
        raise DatasetError(f"{path} is empty")
    return found


def _matrix(path: Path, number: int, words: list[str]) -> npt.NDArray[np.float64]:
    matrix = np.vstack([np.array(_numbers(path, number, words, 12)).reshape(3, 4), (0, 0, 0, 1)])
    turn = matrix[:3, :3]
    if not np.abs(turn @ turn.T - np.eye(3)).max() < 1e-2 or np.linalg.det(turn) < 0:
        raise DatasetError(f"{path}, line {number} turns by {turn.tolist()}, expected a rotation")
    # The digits of a file are few: the nearest rotation.
    left, _, right = np.linalg.svd(turn)
    matrix[:3, :3] = left @ right
    return matrix


def _numbers(path: Path, number: int, words: list[str], count: int) -> list[float]:
    try:
        values = [float(word) for word in words]
    except ValueError as error:
        raise DatasetError(f"{path}, line {number}: {error}") from error
    if len(values) != count or not np.isfinite(values).all():
        raise DatasetError(f"{path}, line {number} has {' '.join(words)[:60]!r}, expected {count} finite numbers")
    return values
