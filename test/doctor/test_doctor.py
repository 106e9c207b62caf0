"""`spvnas doctor`: what fits is called ok, and each thing that does not is found and comes with advice."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from typer.testing import CliRunner

from spvnas_ros.cli import app
from spvnas_ros.clouds.intensity import TrainingIntensity
from spvnas_ros.doctor import Finding, Timing, examine, observe, sensor_guess
from spvnas_ros.doctor.timing import rate_of
from spvnas_ros.engine.sample_street import street_scan, write_drive_bag
from spvnas_ros.nets.spec import NetSpec
from spvnas_ros.nets.unet import PointVoxelUNet
from spvnas_ros.recordings.bags import BagWriter, PointCloud2, cloud_message, encode
from spvnas_ros.zoo.checkpoint import Facts, save_checkpoint

PERIOD = 10**8
START = 1_700_000_000 * 10**9
XYZI = ("x", "y", "z", "intensity")
FACTS = Facts(spec=NetSpec.spvcnn(4), name="tiny")


@pytest.fixture(scope="module")
def street() -> np.ndarray:
    return street_scan(0, 64, 400)[0]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_checkpoint(path, PointVoxelUNet(FACTS.spec).eval(), FACTS)
    return path


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


def test_semantickitti_fits_itself(shared: Path) -> None:
    for sequence in sorted((shared / "data/semantickitti/sequences").iterdir()):
        findings = examine(observe(sequence), FACTS)
        assert [f for f in findings if f.level != "ok"] == []
        assert about(findings, "beams").found == "64 by the order of the points"


@pytest.mark.parametrize("storage", ["sqlite3", "mcap"])
def test_a_real_vlp16_is_readable_but_not_what_the_weights_know(shared: Path, weights: Path, storage: str) -> None:
    status, out, error = invoke(shared / f"data/bags/vlp16_pointcloud2_{storage}", "-w", weights, "--device", "cpu")
    assert (status, error) == (0, "")
    lines = out.splitlines()
    levels = {line.split()[1]: line.split()[0] for line in lines if line[:1].strip()}
    assert {name for name, level in levels.items() if level == "warn"} >= {"beams", "view", "ground"}
    assert {name for name, level in levels.items() if level == "ok"} >= {"fields", "stamps", "rate", "intensity"}
    assert "intensity float32, ring uint16, time float32" in out
    assert "10.0 Hz" in out
    assert "-11.0 to +15.0 degrees" in out
    assert "4 measured" in out
    assert all(line.startswith(" " * 16 + " -> ") or line[:4].strip() for line in lines)
    assert lines[-1].endswith("0 bad")


def test_a_generated_drive_fits_from_end_to_end(tmp_path: Path) -> None:
    write_drive_bag(tmp_path / "drive", 3, columns=400)
    status, out, _ = invoke(tmp_path / "drive")
    assert status == 0
    assert "64 seen, by the ring field" in out
    assert "\nwarn" not in out
    write_drive_bag(tmp_path / "small", 3, beams=16, columns=900)
    status, out, _ = invoke(tmp_path / "small")
    assert status == 0
    assert "warn  beams" in out


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


def test_stamps_that_jump_back_repeat_or_drift_are_found(street: np.ndarray, tmp_path: Path) -> None:
    def findings(name: str, stamps: list[int], recorded: list[int] | None = None) -> list[Finding]:
        clouds = [message(street[::50], START + stamp * PERIOD) for stamp in stamps]
        return examine(observe(record(tmp_path / name, clouds, recorded)))

    clock = [START + number * PERIOD for number in range(6)]
    assert about(findings("good", [0, 1, 2, 3, 4, 5], clock), "stamps").level == "ok"
    back = about(findings("back", [0, 1, 2, 0, 1, 2], clock), "stamps")
    assert (back.level, back.found) == ("bad", "jump back 1 time(s)")
    same = about(findings("same", [0, 1, 1, 2, 3, 4], clock), "stamps")
    assert (same.level, same.found) == ("warn", "1 repeated")
    assert about(findings("drift", [100, 101, 102, 103, 104, 105], clock), "stamps").found.startswith("-10.0 s")
    lost = about(findings("lost", [0, 1, 2, 5, 6, 7]), "rate")
    assert (lost.level, lost.found) == ("warn", "10.0 Hz, but about 2 of 8 clouds are missing")


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


def test_the_network_is_held_against_the_rate_of_the_sensor(street: np.ndarray, tmp_path: Path) -> None:
    clouds = observe(record(tmp_path / "bag", three(lambda stamp: message(street, stamp))))

    def speed(*ms: float) -> Finding:
        return about(examine(clouds, FACTS, Timing(ms, "cpu")), "network")

    assert speed(20, 30).level == "ok"
    assert speed(20, 30, 200).level == "warn"
    assert "every 3rd cloud" in speed(250, 260).advice
    assert "cloud every 100.0 ms" in speed(20).found


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


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("missing",), "missing does not exist"),
        (("drive", "--topic", "/other"), "no cloud topic /other"),
        (("drive", "--weights", "missing.safetensors"), "missing.safetensors"),
        (("drive", "--intensity", "loud"), "intensity rule"),
    ],
)
def test_what_the_user_can_mend_is_one_line_and_status_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_drive_bag("drive", 1, beams=16, columns=20)
    status, out, error = invoke(*arguments)
    assert (status, out) == (1, "")
    assert error.startswith("spvnas: ")
    assert says in error
    assert error.count("\n") == 1


@given(
    count=st.integers(8, 128),
    lowest=st.floats(-30, -5),
    step=st.floats(0.2, 2),
    by_beam=st.booleans(),
    clockwise=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_beams_are_counted_however_the_points_are_ordered(
    count: int, lowest: float, step: float, by_beam: bool, clockwise: bool, seed: int
) -> None:
    assume(lowest + count * step < 60)
    rng = np.random.default_rng(seed)
    elevation = np.radians(lowest + step * np.arange(count))[:, None]
    azimuth = np.linspace(0.1, 2 * np.pi - 0.1, 200) * (-1 if clockwise else 1)
    distance = rng.uniform(2, 80, (count, 200))
    flat = distance * np.cos(elevation)
    points = np.stack(
        (flat * np.cos(azimuth), flat * np.sin(azimuth), distance * np.sin(elevation), np.zeros_like(flat)), axis=-1
    ).astype(np.float32)
    cloud = points.reshape(-1, 4) if by_beam else rng.permutation(points.reshape(-1, 4))
    found = sensor_guess.beams(cloud)
    assert found is not None
    assert found[0] == count
    low, high = sensor_guess.vertical_view(cloud) or (0.0, 0.0)
    assert abs(low - lowest) < step + 0.1
    assert abs(high - (lowest + step * (count - 1))) < step + 0.1


@given(st.data(), st.floats(1, 50), st.integers(5, 60))
def test_clouds_that_are_missing_are_counted(data: st.DataObject, hertz: float, count: int) -> None:
    inner = st.lists(st.integers(1, count - 2), unique=True, max_size=(count - 2) // 4)
    missing = set(data.draw(inner))
    stamps = [START + round(n * 1e9 / hertz) for n in range(count) if n not in missing]
    rate = rate_of(stamps)
    assert rate is not None
    assert rate.hertz == pytest.approx(hertz, rel=1e-3)
    assert (rate.lost, rate.expected) == (len(missing), count)
