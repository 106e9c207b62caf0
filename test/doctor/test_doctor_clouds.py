"""Each thing about single clouds that does not fit is found and comes with advice."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from examined_bags import FACTS, PERIOD, START, about, invoke, message, record, three
from spvnas_ros.clouds.intensity import TrainingIntensity
from spvnas_ros.doctor import examine, observe
from spvnas_ros.recordings.bags import BagWriter, PointCloud2, encode
from spvnas_ros.zoo.checkpoint import Facts

BAD_BAGS: dict[str, tuple[Callable[[np.ndarray, int], PointCloud2], str, str, str]] = {
    "no x": (lambda p, t: message(p, t, ("y", "z")), "clouds", "bad", "3 cannot be read \\(no-xyz\\)"),
    "no intensity": (lambda p, t: message(p, t, ("x", "y", "z")), "fields", "warn", "no intensity"),
    "cut data": (lambda p, t: cut(message(p, t)), "clouds", "bad", "short-data"),
    "no frame": (lambda p, t: message(p, t, frame_id=""), "frame_id", "warn", "empty"),
    "old frame": (lambda p, t: message(p, t, frame_id="/lidar"), "frame_id", "warn", "'/lidar'"),
    "two frames": (lambda p, t: message(p, t, frame_id=f"lidar{t % 3}"), "frame_id", "warn", "'lidar0', 'lidar1'"),
    "no clock": (lambda p, _: message(p, 0), "stamps", "bad", "all zero"),
    "hidden NaN": (lambda p, t: message(with_nan(p), t), "is_dense", "warn", "NaN"),
    "zeros": (lambda p, t: message(with_zeros(p), t), "points", "warn", r"50\.\d% at the origin"),
    "nothing": (lambda p, t: message(p * np.float32(0), t), "points", "bad", r"100\.0% at the origin"),
    "sparse": (lambda p, t: message(p[::20], t), "points", "warn", "at the origin"),
    "millimetres": (lambda p, t: message(p * (1000, 1000, 1000, 1), t), "range", "bad", "95% within"),
    "a toy": (lambda p, t: message(p * (0.01, 0.01, 0.01, 1), t), "range", "warn", "95% within"),
    "in the vehicle's frame": (lambda p, t: message(p + np.float32((0, 0, 1, 0)), t), "ground", "warn", "z = -0.6"),
    "upside down": (lambda p, t: message(p * (1, 1, -1, 1), t), "ground", "warn", "z = "),
    "tilted up": (lambda p, t: message(p[:, [2, 1, 0, 3]], t), "view", "warn", "degrees"),
    "one intensity": (lambda p, t: message(p * (1, 1, 1, 0), t), "intensity", "warn", "always 0"),
    "decibels": (lambda p, t: message(p - (0, 0, 0, 1), t), "intensity", "bad", "-1 to"),
    "dark": (lambda p, t: message(p * (1, 1, 1, 0.1), t), "intensity", "warn", "median 0.03"),
}


def cut(cloud: PointCloud2) -> PointCloud2:
    cloud.data = cloud.data[:-5]
    return cloud


def with_nan(points: np.ndarray) -> np.ndarray:
    points = points.copy()
    points[::2, 1] = np.nan
    return points


def with_zeros(points: np.ndarray) -> np.ndarray:
    points = points.copy()
    points[::2, :3] = 0
    return points


@pytest.mark.parametrize("name", BAD_BAGS)
def test_what_does_not_fit_is_found_and_comes_with_advice(name: str, street: np.ndarray, tmp_path: Path) -> None:
    make, topic, level, found = BAD_BAGS[name]
    path = record(tmp_path / "bag", three(lambda stamp: make(street, stamp // PERIOD * PERIOD + stamp // PERIOD % 3)))
    finding = about(examine(observe(path)), topic)
    assert finding.level == level
    assert re.search(found, finding.found), finding.found
    assert finding.advice
    assert "\n" not in finding.advice
    assert invoke(path)[0] == (level == "bad")


@pytest.mark.parametrize(
    ("trained", "level", "said"),
    [
        (None, "ok", "the median of SemanticKITTI's scans is 0.30"),
        (TrainingIntensity(0.25, 0.6), "ok", "the median of the network's training data is 0.25"),
        (TrainingIntensity(0.05, 0.2), "warn", "the median of the network's training data is 0.05; try intensity: "),
        (TrainingIntensity(0.0, 0.2), "ok", "the median of the network's training data is 0.00"),
    ],
)
def test_intensities_are_held_to_what_the_weights_were_trained_on(
    shared: Path, trained: TrainingIntensity | None, level: str, said: str
) -> None:
    clouds = observe(shared / "data/semantickitti/sequences/00")
    finding = about(examine(clouds, Facts(FACTS.spec, training_intensity=trained)), "intensity")
    assert finding.level == level
    assert said in finding.found + finding.advice


def test_an_intensity_rule_that_does_not_fit_is_told_with_the_one_that_does(street: np.ndarray, tmp_path: Path) -> None:
    path = record(tmp_path / "bag", three(lambda stamp: message(street * (1, 1, 1, 255), stamp)))
    assert invoke(path)[0] == 0
    assert invoke(path, "--intensity", "u8")[0] == 0
    finding = about(examine(observe(path, intensity="unit")), "intensity")
    assert finding.level == "bad"
    assert "intensity: u8" in finding.advice
    assert (
        about(examine(observe(path, intensity="unit"), Facts(FACTS.spec, intensity="none")), "intensity").level == "ok"
    )
    dark = street * (1, 1, 1, 0.5)
    mixed = record(
        tmp_path / "mixed", [message(dark if n == 0 else street * (1, 1, 1, 255), START + n * PERIOD) for n in range(3)]
    )
    finding = about(examine(observe(mixed)), "intensity")
    assert (finding.level, "too dark for auto" in finding.advice) == ("warn", True)


def test_clouds_that_are_bad_are_counted_by_kind_beside_the_good_ones(street: np.ndarray, tmp_path: Path) -> None:
    good, bad = message(street, START), cut(message(street, START + PERIOD))
    findings = examine(observe(record(tmp_path / "bag", [good, bad, message(street, START + 2 * PERIOD)])))
    assert [f.level for f in findings if f.about == "clouds"] == ["ok", "bad"]
    (tmp_path / "scans").mkdir()
    street.tofile(tmp_path / "scans/0.bin")
    (tmp_path / "scans/1.bin").write_bytes(b"no scan")
    status, out, _ = invoke(tmp_path / "scans")
    assert status == 1
    assert "1 cannot be read (unreadable)" in out
    with BagWriter(tmp_path / "empty") as bag:
        bag.write("/points", encode(message(street[:0], START)), START)
    empty = about(examine(observe(tmp_path / "empty")), "clouds")
    assert (empty.level, empty.found) == ("bad", "1 can be read on /points, but none has a point")


def test_a_cloud_the_network_cannot_take_is_bad(street: np.ndarray, weights: Path, tmp_path: Path) -> None:
    street = street.copy()
    street[0, 0] = 1e6
    path = record(tmp_path / "bag", three(lambda stamp: message(street, stamp)))
    status, out, _ = invoke(path, "-w", weights, "--device", "cpu")
    assert status == 1
    assert "bad   network" in out
    assert "voxels" in out


def test_points_outside_the_range_of_the_weights_are_told(street: np.ndarray, tmp_path: Path) -> None:
    clouds = observe(record(tmp_path / "bag", three(lambda stamp: message(street, stamp))))
    near = Facts(FACTS.spec, point_range=(-5, -5, -3, 5, 5, 3))
    finding = about(examine(clouds, near), "range")
    assert finding.level == "warn"
    assert "outside the weights' range" in finding.advice
    assert about(examine(clouds, Facts(FACTS.spec, trained=False)), "weights").level == "warn"
