"""Each thing about single clouds that does not fit is found and comes with advice."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from examined_bags import FACTS, PERIOD, START, about, invoke, message, record, three
from spvnas_ros.clouds.intensity import TrainingIntensity
from spvnas_ros.clouds.mount import Mount, PlaceRule
from spvnas_ros.doctor import examine, observe
from spvnas_ros.recordings.bags import BagWriter, PointCloud2, encode
from spvnas_ros.zoo.checkpoint import Facts

BAD_BAGS: dict[str, tuple[Callable[[np.ndarray, int], PointCloud2], str, str, str]] = {
    "no x": (lambda p, t: message(p, t, ("y", "z")), "clouds", "bad", "3 cannot be read \\(no-xyz\\)"),
    "no intensity": (lambda p, t: message(p, t, ("x", "y", "z")), "intensity", "warn", r"\(fields: x, y, z\)"),
    "cut data": (lambda p, t: cut(message(p, t)), "clouds", "bad", "short-data"),
    "no frame": (lambda p, t: message(p, t, frame_id=""), "frame_id", "warn", "empty"),
    "old frame": (lambda p, t: message(p, t, frame_id="/lidar"), "frame_id", "warn", "'/lidar'"),
    "two frames": (lambda p, t: message(p, t, frame_id=f"lidar{t % 3}"), "frame_id", "warn", "'lidar0', 'lidar1'"),
    "no clock": (lambda p, _: message(p, 0), "stamps", "bad", "all zero"),
    "hidden NaN": (lambda p, t: message(with_nan(p), t), "is_dense", "warn", "NaN"),
    "zeros, moved": (
        lambda p, t: message(np.float32((1, 0, 2, 0)) + with_zeros(p), t),
        "points",
        "warn",
        "lie at 1, 0, 2",
    ),
    "no intensities": (lambda p, t: message(dimmed(p), t), "intensity", "warn", r"50% of the points have none \(NaN\)"),
    "nothing": (lambda p, t: message(p * np.float32(0), t), "points", "bad", r"100\.0% at the origin"),
    "sparse": (lambda p, t: message(p[::20], t), "points", "warn", "all can be labelled"),
    "millimetres": (lambda p, t: message(p * (1000, 1000, 1000, 1), t), "range", "bad", "95 % .* within 2.,... m"),
    "a toy": (lambda p, t: message(p * (0.01, 0.01, 0.01, 1), t), "range", "warn", "95 % .* within 0.3 m"),
    "in the vehicle's frame": (
        lambda p, t: message(p + np.float32((0, 0, 1, 0)), t),
        "ground",
        "warn",
        "0.7. m below the origin; ",
    ),
    "upside down": (lambda p, t: message(p * (1, 1, -1, 1), t), "ground", "warn", "-1.[67]. m below"),
    "tilted up": (lambda p, t: message(p[:, [2, 1, 0, 3]], t), "view", "warn", "degrees"),
    "one intensity": (lambda p, t: message(p * (1, 1, 1, 0), t), "intensity", "warn", "all of them are 0"),
    "dark": (lambda p, t: message(p * (1, 1, 1, 0.1), t), "intensity", "warn", "95th percentile is 0.04"),
    "tilted": (lambda p, t: message(turned(p, 8), t), "ground", "warn", "tilted by 8.* degrees"),
    "far away": (lambda p, t: message(p + np.float32((300, 40, 0, 0)), t), "place", "warn", r"at (299|30\d)\."),
}


def cut(cloud: PointCloud2) -> PointCloud2:
    cloud.data = cloud.data[:-5]
    return cloud


def with_nan(points: np.ndarray) -> np.ndarray:
    points = points.copy()
    points[::2, 1] = np.nan
    return points


def dimmed(points: np.ndarray) -> np.ndarray:
    points = points.copy()
    points[::2, 3] = np.nan
    return points


def turned(points: np.ndarray, pitch: float) -> np.ndarray:
    """As a sensor sees it that looks so many degrees down."""
    matrix = Mount(pitch=pitch).rotation()
    return np.column_stack((points[:, :3] @ matrix, points[:, 3]))


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
        (None, "ok", "median 0.30, that of SemanticKITTI's scans 0.30"),
        (TrainingIntensity(0.25, 0.6), "ok", "median 0.30, that of the network's training data 0.25"),
        (TrainingIntensity(0.05, 0.2), "warn", "that of the network's training data 0.2"),
        (TrainingIntensity(0.0, 0.4), "ok", "median 0.30, that of the network's training data 0.00"),
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
    assert finding.level == "warn"
    assert re.search(
        "95th percentile is 1.*set intensity to .*u8.* such as 2[0-9]0$", f"{finding.found}; {finding.advice}"
    )
    assert (
        about(examine(observe(path, intensity="unit"), Facts(FACTS.spec, intensity="none")), "intensity").level == "ok"
    )
    dark = street * (1, 1, 1, 0.5)
    mixed = record(
        tmp_path / "mixed", [message(dark if n == 0 else street * (1, 1, 1, 255), START + n * PERIOD) for n in range(3)]
    )
    finding = about(examine(observe(mixed)), "intensity")
    assert finding.level == "ok"
    assert "divided by 255" in finding.found


def test_decibels_are_turned_into_shares_and_signed_bytes_are_refused(street: np.ndarray, tmp_path: Path) -> None:
    decibels, signed = street.copy(), street.copy()
    decibels[:, 3] = 10 * np.log10(street[:, 3].clip(1e-3))
    signed[:, 3] = np.where(street[:, 3] > 0.25, street[:, 3] * 255 - 256, street[:, 3] * 255)
    finding = about(examine(observe(record(tmp_path / "db", three(lambda t: message(decibels, t))))), "intensity")
    assert finding.level == "ok"
    assert "turned from decibels into shares" in finding.found
    path = record(tmp_path / "signed", three(lambda t: message(signed, t)))
    status, out, error = invoke(path)
    assert (status, out, error.count("\n")) == (1, "", 1)
    assert "below 0" in error
    assert "choose another field" in error
    assert invoke(path, "--intensity", "none")[0] == 0


def test_points_that_get_no_label_are_told_by_reason(street: np.ndarray, tmp_path: Path) -> None:
    points = with_nan(street)
    points[1::8, :3] = 0
    points[3, 0] = 1e6
    path = record(tmp_path / "bag", three(lambda stamp: message(points, stamp)))
    finding = about(examine(observe(path)), "points")
    assert finding.level == "ok"
    assert re.match(r"50\.\d% not finite, 12\.\d% at the origin, 0\.0% too far, not organised", finding.found)


def test_the_values_of_mount_that_the_doctor_prints_mend_it(street: np.ndarray, tmp_path: Path) -> None:
    """The one that it names and the automatic one."""
    moved = turned(street + np.float32((0, 0, 1.2, 0)), 8)
    path = record(tmp_path / "bag", three(lambda stamp: message(moved, stamp)))
    finding = about(examine(observe(path)), "ground")
    assert finding.level == "warn"
    option = r"z=(0\.(?:4[5-9]|5\d*)),pitch=(8(?:\.\d)?)"
    named = re.fullmatch(rf"set --mount ({option}) \(of the node: -p mount.z:=\2 -p mount.pitch:=\3\)", finding.advice)
    assert named, finding.advice
    for mount in (named[1], "auto"):
        assert about(examine(observe(path, place=PlaceRule.parse(None, mount))), "ground").level == "ok"
        status, out, _ = invoke(path, "--mount", mount)
        assert status == 0
        assert "ok    ground" in out


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


def test_a_stray_point_does_not_keep_the_network_from_the_others(
    street: np.ndarray, weights: Path, tmp_path: Path
) -> None:
    street = street.copy()
    street[0, 0] = 1e6
    path = record(tmp_path / "bag", three(lambda stamp: message(street, stamp)))
    status, out, _ = invoke(path, "-w", weights, "--device", "cpu")
    assert status == 0
    assert "ms a cloud (p50)" in out
    assert "0.0% too far" in out


def test_points_outside_the_range_of_the_weights_are_told(street: np.ndarray, tmp_path: Path) -> None:
    clouds = observe(record(tmp_path / "bag", three(lambda stamp: message(street, stamp))))
    near = Facts(FACTS.spec, point_range=(-5, -5, -3, 5, 5, 3))
    finding = about(examine(clouds, near), "range")
    assert finding.level == "warn"
    assert "outside the weights' range" in finding.advice
    assert about(examine(clouds, Facts(FACTS.spec, trained=False)), "weights").level == "warn"
