"""The node holds up: load, broken drivers, garbage, a full disk."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed; pip install 'spvnas_ros[ros]' brings it")

from ros_harness import private_domain, weights
from spvnas_ros.clouds.intensity import Intensity
from spvnas_ros.clouds.point_cloud2 import PointCloudError, decode, to_points, with_labels
from spvnas_ros.frame import Segmentation
from spvnas_ros.labels import SEMANTIC_KITTI
from spvnas_ros.recordings.bags import BagReader, BagWriter, cloud_message, encode
from spvnas_ros.ros.node.messages import colored_message, filtered_message, labelled_message, packed_palette
from spvnas_ros.trials.garbage import garbage_cloud

__all__ = ["weights"]  # a fixture

GARBAGE = 5000
SPVNAS = str(Path(sys.executable).with_name("spvnas"))

linux = pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="there is no /proc here")


def soaked(*more: str) -> subprocess.CompletedProcess[str]:
    """A short soak, in as much time as a busy machine needs for it: small clouds, so that there are many."""
    command = [sys.executable, "-m", "spvnas_ros.trials.soak", "--seconds", "4", "--points", "20000", "--rate", "50"]
    command += ["--least", "70"]
    with private_domain():
        return subprocess.run([*command, *more], capture_output=True, text=True, timeout=300)


@linux
def test_a_short_soak_with_a_driver_that_dies_garbage_and_stamps_that_jump_back() -> None:
    """The node is real, its network answers at once."""
    done = soaked()
    assert done.returncode == 0, done.stdout + done.stderr
    for row in (
        "clouds sent",
        "answered",
        "messages of object",
        "memory of its own",
        "memory, trend",
        "threads",
        "publish to labels, ms",
    ):
        assert row in done.stdout
    assert "Traceback" not in done.stderr


@linux
def test_a_leak_of_50_kb_a_cloud_is_found_in_a_short_soak() -> None:
    done = soaked("--leak", "50000")
    assert done.returncode == 1, done.stdout + done.stderr
    problems = [line for line in done.stderr.splitlines() if line.startswith("did not hold up: ")]
    assert len(problems) == 1, done.stderr
    assert "memory leaks: " in problems[0]


def test_garbage_is_refused_by_name_or_labelled_and_never_anything_else() -> None:
    rng, palette = np.random.default_rng(0), packed_palette(SEMANTIC_KITTI.palette)
    kinds, labelled = set(), 0
    for number in range(GARBAGE):
        cloud = garbage_cloud(rng)
        try:
            points = to_points(decode(cloud), Intensity())
            count = len(points)
            result = Segmentation(np.full(count, number % 19, np.uint8), np.ones(count, np.float32))
            layout = with_labels(cloud, result)
            message = labelled_message(cloud.header, layout, cloud.is_dense)
            colored_message(cloud, points, palette[result.labels])
            filtered_message(cloud.header, layout, result.labels > 9, cloud.is_dense)
        except PointCloudError as error:
            kinds.add(error.kind)
        else:
            labelled += 1
            assert (message.height * message.width, len(decode(message))) == (count, count)
    assert 100 < labelled < GARBAGE - 100
    assert {"short-data", "no-xyz", "bad-datatype", "bad-point-step", "bad-row-step", "field-outside"} <= kinds


@pytest.fixture
def drive(tmp_path: Path) -> Path:
    """A bag of four clouds, two megabytes with labels."""
    rng = np.random.default_rng(0)
    with BagWriter(tmp_path / "drive", "mcap") as bag:
        for number in range(4):
            values = rng.uniform((-20, -20, -2, 0), (20, 20, 3, 1), (20_000, 4)).astype(np.float32)
            record = values.view([(name, "<f4") for name in ("x", "y", "z", "intensity")]).reshape(-1)
            bag.write("/points", encode(cloud_message(record, number, "lidar")), number)
    return tmp_path / "drive"


def spvnas(*arguments: object, most_bytes: int | None = None) -> subprocess.CompletedProcess[str]:
    """The command; with `most_bytes` no file gets larger, as if the disk were full."""
    limit = "" if most_bytes is None else f"ulimit -f {most_bytes // 512}; "
    command = ["sh", "-c", f'{limit}exec "$@"', "sh", SPVNAS, *map(str, arguments), "--device", "cpu"]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_a_full_disk_ends_segment_with_one_line_no_half_bag_and_nothing_labelled_lost(
    drive: Path, weights: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = ("segment", drive, "--weights", weights, "--out", out)
    done = spvnas(*command, most_bytes=1 << 20)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "cannot be written" in done.stderr
    assert "Traceback" not in done.stderr
    assert not [file for file in out.rglob("*") if file.suffix in (".mcap", ".db3", ".part")]
    kept = list((out / "unfinished").glob("0*.npz"))
    assert len(kept) == 4
    assert not (out / "bag").exists()
    done = spvnas(*command)
    assert done.returncode == 0, done.stderr
    with BagReader(out / "bag") as reader:
        assert len(list(reader)) == 4
    assert json.loads((out / "summary.json").read_text())["frames"] == 4
