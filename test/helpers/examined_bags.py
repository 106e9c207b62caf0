"""Bags for the doctor, and what it says of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from typer.testing import CliRunner

from spvnas_ros.cli import app
from spvnas_ros.doctor import Finding
from spvnas_ros.nets.spec import NetSpec
from spvnas_ros.recordings.bags import BagWriter, PointCloud2, cloud_message, encode
from spvnas_ros.zoo.checkpoint import Facts

PERIOD = 10**8
START = 1_700_000_000 * 10**9
XYZI = ("x", "y", "z", "intensity")
FACTS = Facts(spec=NetSpec.spvcnn(4), name="tiny")


def message(points: np.ndarray, stamp: int, names: tuple[str, ...] = XYZI, frame_id: str = "lidar") -> PointCloud2:
    record = np.zeros(len(points), [(name, "<f4") for name in names])
    for column, name in enumerate(XYZI):
        if name in names:
            record[name] = points[:, column]
    return cloud_message(record, stamp, frame_id)


def record(path: Path, clouds: list[PointCloud2], stamps: list[int] | None = None) -> Path:
    with BagWriter(path) as bag:
        for number, cloud in enumerate(clouds):
            stamp = stamps[number] if stamps else cloud.header.stamp.sec * 10**9 + cloud.header.stamp.nanosec
            bag.write("/points", encode(cloud), stamp)
    return path


def three(make: Callable[[int], PointCloud2]) -> list[PointCloud2]:
    return [make(START + number * PERIOD) for number in range(3)]


def about(findings: list[Finding], topic: str) -> Finding:
    """What is said of a topic; the worst, where there is more."""
    return max((f for f in findings if f.about == topic), key=lambda f: ("ok", "warn", "bad").index(f.level))


def invoke(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["doctor", *map(str, arguments)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr
