"""Writes scans in SemanticKITTI's layout: a folder for each sequence."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from spvnas_ros.offline.simulation.lidar import Lidar, SimulatedScan

CALIBRATION: Mapping[str, tuple[float, ...]] = {
    "P0": (718.856, 0, 607.1928, 0, 0, 718.856, 185.2157, 0, 0, 0, 1, 0),
    "P1": (718.856, 0, 607.1928, -386.1448, 0, 718.856, 185.2157, 0, 0, 0, 1, 0),
    "P2": (718.856, 0, 607.1928, 45.38225, 0, 718.856, 185.2157, -0.1130887, 0, 0, 1, 0.003779761),
    "P3": (718.856, 0, 607.1928, -337.2877, 0, 718.856, 185.2157, 2.369057, 0, 0, 1, 0.004915215),
    "Tr": (0, -1, 0, 0, 0, 0, -1, -0.08, 1, 0, 0, -0.27),
}
"""Calibration of a stereo rig like KITTI's, with axes parallel to the sensor's. `Tr` maps the sensor's frame to the
camera's.
"""


def sensor_to_camera() -> npt.NDArray[np.float64]:
    """Returns `Tr` as a matrix `[4, 4]`."""
    return np.vstack([np.array(CALIBRATION["Tr"], np.float64).reshape(3, 4), (0, 0, 0, 1)])


@contextmanager
def sequence_writer(folder: Path, lidar: Lidar) -> Iterator[Callable[[float, SimulatedScan], None]]:
    """Opens a new sequence and yields a function that writes a scan, given the second at which its sweep began.

    The sequence appears under its name at the end of the block: whole, or not at all. Raises OSError where scans cannot
    be written.
    """
    reference = lidar.unit.sensor.reference
    with whole_folder(folder) as temporary:
        writer = SequenceWriter(temporary)
        yield lambda t, scan: writer.write(scan, t + reference)
        writer.finish()


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Yields the path of a folder to be made, which gets the name `folder` at the end of the block: whole, or not at
    all.
    """
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        yield temporary
        # A scene that was killed between its formats is made again in all of them, to the same bytes.
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


class SequenceWriter:
    """Writes velodyne/*.bin, labels/*.label, calib.txt, poses.txt and times.txt into a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._poses: list[npt.NDArray[np.float64]] = []
        self._times: list[float] = []
        for name in ("velodyne", "labels"):
            (folder / name).mkdir(parents=True)

    def write(self, scan: SimulatedScan, t: float) -> None:
        """Appends a scan taken at `t` seconds. Raises OSError where it cannot be written."""
        name = f"{len(self._times):06d}"
        scan.points.astype("<f4").tofile(self._folder / "velodyne" / f"{name}.bin")
        labels = scan.labels.astype("<u4") | scan.instances.astype("<u4") << np.uint32(16)
        labels.tofile(self._folder / "labels" / f"{name}.label")
        self._poses.append(scan.pose)
        self._times.append(t)

    def finish(self) -> None:
        """Writes calibration, poses and times, which belong to the whole sequence."""
        write_calibration(self._folder / "calib.txt", CALIBRATION)
        camera = sensor_to_camera()
        first = np.linalg.inv(self._poses[0]) if self._poses else np.eye(4)
        poses = [camera @ first @ pose @ np.linalg.inv(camera) for pose in self._poses]
        rows = [" ".join(f"{value:.9e}" for value in pose[:3].ravel()) for pose in poses]
        (self._folder / "poses.txt").write_text("".join(f"{row}\n" for row in rows))
        start = self._times[0] if self._times else 0.0
        (self._folder / "times.txt").write_text("".join(f"{t - start:.6e}\n" for t in self._times))


def write_calibration(path: Path, matrices: Mapping[str, tuple[float, ...]]) -> None:
    """Writes matrices row by row, one matrix per line, as in KITTI's calib.txt."""
    lines = (f"{name}: " + " ".join(f"{value:.12e}" for value in values) for name, values in matrices.items())
    path.write_text("".join(f"{line}\n" for line in lines))
