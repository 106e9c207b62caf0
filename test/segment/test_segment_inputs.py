"""Inputs as drivers, tools and mounts give them: what cannot be labelled costs nothing else, what does not fit is
told.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from moved_clouds import record_of, seen_by
from segment_results import content, document_in, labels_in
from spvnas_cli import segmented
from spvnas_ros.clouds.mount import Mount
from spvnas_ros.clouds.point_cloud2 import decode
from spvnas_ros.engine.sample_street import street_scan
from spvnas_ros.frame import UNLABELLED
from spvnas_ros.recordings.bags import BagReader, BagWriter, cloud_message, encode

UTM = (458000.0, 5428000.0, 120.0)
FRAMES = 3
STRAY, ZEROS, DARK = slice(11, 12), slice(20, 60), slice(70, 75)
"""Points of each damaged cloud: at 1000 km, without a return, and without an intensity."""

Records = list[np.ndarray]


def bag(path: Path, records: Records) -> Path:
    with BagWriter(path) as writer:
        for number, record in enumerate(records):
            stamp = 10**9 + number * 10**8
            writer.write("/points", encode(cloud_message(record, stamp, "lidar")), stamp)
    return path


def streets(beams: int = 32, columns: int = 200) -> list[np.ndarray]:
    return [street_scan(number, beams, columns)[0].astype(np.float64) for number in range(FRAMES)]


def labelled_in(path: Path) -> Records:
    with BagReader(path) as reader:
        return [decode(cloud.decode()) for cloud in reader]


@pytest.fixture
def damaged() -> tuple[Records, Records]:
    """The clouds of a drive with points that nobody can label, and the same without these."""
    whole, without = [], []
    for points in streets():
        holes = points.copy()
        holes[STRAY, 0], holes[ZEROS, :3], holes[DARK, 3] = 1e6, 0, np.nan
        whole.append(record_of(holes, "f4"))
        kept = np.ones(len(points), bool)
        kept[STRAY] = kept[ZEROS] = kept[DARK] = False
        without.append(record_of(points[kept], "f4"))
    return whole, without


def test_what_cannot_be_labelled_is_counted_and_costs_no_other_label(
    damaged: tuple[Records, Records], weights: Path, tmp_path: Path
) -> None:
    whole, without = (bag(tmp_path / name, records) for name, records in zip(("a", "b"), damaged, strict=True))
    status, said, error = segmented(whole, "-w", weights, "-o", tmp_path / "whole", "--device", "cpu")
    assert (status, error) == (0, "")
    assert segmented(without, "-w", weights, "-o", tmp_path / "without", "--device", "cpu")[0] == 0
    pairs = zip(*(labelled_in(tmp_path / name / "bag") for name in ("whole", "without")), strict=True)
    for number, (here, alone) in enumerate(pairs):
        seen = here["label"] != UNLABELLED
        assert (~seen).sum() == 1 + 40 + 5
        for part in (STRAY, ZEROS, DARK):
            assert not seen[part].any()
        np.testing.assert_array_equal(here["confidence"][~seen], 0)
        np.testing.assert_array_equal(here["label"][seen], alone["label"])
        np.testing.assert_array_equal(here["confidence"][seen], alone["confidence"])
        for name in ("x", "y", "z", "intensity"):
            assert here[name].tobytes() == damaged[0][number][name].tobytes()
    summary, other = (document_in(tmp_path / name, "summary.json") for name in ("whole", "without"))
    assert summary["unusable"] == {"not_finite": 0, "at_origin": 120, "too_far": 3, "no_intensity": 15, "outside": 0}
    assert not any(other["unusable"].values())
    assert summary["classes"] == other["classes"]
    assert summary["points"] == other["points"] + 138
    lines = said.splitlines()
    assert lines.count("Without a label: 120 at the origin, 3 too far, 15 without intensity.") == 1
    assert f"3 frame(s), {other['points']:,} points labelled by tiny" in lines[0]


def test_a_run_that_goes_on_counts_what_the_first_part_left_out(
    damaged: tuple[Records, Records], weights: Path, tmp_path: Path
) -> None:
    """Of a finished run, too."""
    path = bag(tmp_path / "in", damaged[0])
    first = segmented(path, "-w", weights, "-o", tmp_path / "out", "--device", "cpu")
    again = segmented(path, "-w", weights, "-o", tmp_path / "out", "--device", "cpu")
    assert again[1].endswith(first[1])
    assert "nothing to do" in again[1]


def test_clouds_of_which_nothing_can_be_labelled_are_told_by_the_status(weights: Path, tmp_path: Path) -> None:
    clouds = [record_of(np.full((50, 4), value), "f4") for value in (np.nan, 0, 1e7)]
    status, said, _ = segmented(bag(tmp_path / "in", clouds), "-w", weights, "-o", tmp_path / "out", "--device", "cpu")
    assert status == 1
    assert "3 frame(s), 0 points labelled" in said
    assert "Without a label: 50 not finite, 50 at the origin, 50 too far." in said
    for cloud in labelled_in(tmp_path / "out/bag"):
        assert set(cloud["label"]) == {UNLABELLED}


def test_what_does_not_fit_is_one_line_each_and_none_with_quiet(weights: Path, tmp_path: Path) -> None:
    dim = [points * (1, 1, 1, 0.02) + (0, 0, 1.2, 0) for points in streets()]
    path = bag(tmp_path / "in", [record_of(points, "f4") for points in dim])
    status, said, error = segmented(path, "-w", weights, "-o", tmp_path / "out", "--device", "cpu")
    assert status == 0
    lines = error.splitlines()
    assert [line.split(":")[:2] for line in lines] == [["warning", " ground"], ["warning", " intensity"]]
    assert "set --mount z=0.5" in lines[0]
    assert document_in(tmp_path / "out", "summary.json")["concerns"] == [line.split(": ", 1)[1] for line in lines]
    assert "warning" not in said
    quiet = segmented(path, "-w", weights, "-o", tmp_path / "quiet", "--device", "cpu", "--quiet")
    assert (quiet[0], quiet[2]) == (0, "")
    assert content(tmp_path / "quiet/bag") == content(tmp_path / "out/bag")


def test_clouds_of_a_map_and_a_tilted_sensor_are_labelled_as_at_home(weights: Path, tmp_path: Path) -> None:
    """And stay where they were: every byte of every field."""
    level = streets(64, 400)
    away = [np.column_stack((seen_by(points[:, :3], Mount(0.5, 0, 8)) + UTM, points[:, 3])) for points in level]
    path = bag(tmp_path / "in", [record_of(points, "f8") for points in away])
    plain = segmented(path, "-w", weights, "-o", tmp_path / "plain", "--device", "cpu")
    assert plain[2].startswith("warning: place: the sensor seems to be at 45")
    given = ("--origin", ",".join(map(str, UTM)), "--mount", "z=0.5,pitch=8")
    status, said, error = segmented(path, "-w", weights, "-o", tmp_path / "out", "--device", "cpu", *given)
    assert (status, error) == (0, "")
    assert "origin 458000,5428000,120, mount z=0.5,pitch=8" in said
    home = bag(tmp_path / "home", [record_of(points, "f4") for points in level])
    assert segmented(home, "-w", weights, "-o", tmp_path / "there", "--device", "cpu")[0] == 0
    for before, here, there in zip(
        away, labelled_in(tmp_path / "out/bag"), labelled_in(tmp_path / "there/bag"), strict=True
    ):
        assert (here["label"] == there["label"]).mean() > 0.99
        for column, name in enumerate(("x", "y", "z")):
            assert here[name].dtype == np.float64
            assert here[name].tobytes() == np.ascontiguousarray(before[:, column]).tobytes()
    auto = ("--origin", "auto", "--mount", "auto")
    status, said, error = segmented(path, "-w", weights, "-o", tmp_path / "auto", "--device", "cpu", *auto)
    assert (status, error) == (0, "")
    assert "origin found in each cloud, mount z=" in said
    assert ",pitch=8" in said
    assert document_in(tmp_path / "auto", "summary.json")["origin"] == "auto"


def test_empty_clouds_settle_nothing_and_are_labelled(weights: Path, tmp_path: Path) -> None:
    """Alone, and before the first with points."""
    auto = ("--origin", "auto", "--mount", "auto", "--device", "cpu", "-w", weights)
    nothing = [record_of(np.zeros((0, 4)), "f4")] * 20
    status, said, error = segmented(bag(tmp_path / "empty", nothing), "-o", tmp_path / "a", *auto)
    assert (status, error) == (0, "")
    assert "20 frame(s), 0 points" in said
    path = bag(tmp_path / "late", [*nothing, *(record_of(points, "f4") for points in streets(64, 400))])
    status, said, error = segmented(path, "-o", tmp_path / "b", *auto)
    assert (status, error) == (0, "")
    assert "taken as it is" in said


def test_another_mount_or_origin_is_another_run(scans: Path, weights: Path, tmp_path: Path) -> None:
    arguments = (scans, "-w", weights, "-o", tmp_path / "out", "--device", "cpu", "--mount", "z=1.7")
    assert segmented(*arguments)[0] == 0
    before = labels_in(tmp_path / "out")
    for other in (("--mount", "z=1.6"), ("--mount", "auto"), ("--mount", "z=1.7", "--origin", "0,0,1")):
        status, _, error = segmented(*arguments[:-2], *other)
        assert status == 1
        assert "and would be replaced; name another folder, or replace with --force" in error
    assert "nothing to do" in segmented(*arguments)[1]
    for name, labels in labels_in(tmp_path / "out").items():
        np.testing.assert_array_equal(labels, before[name])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--mount", "high"), "mount must be auto or z=METRES"),
        (("--origin", "1,2"), "origin must be auto or three numbers x,y,z in metres, found '1,2'"),
        (("--intensity", "loud"), "intensity rule must be"),
        (("--intensity-field", "echo"), "intensity_field is 'echo', expected a field that holds one number a point; "),
    ],
)
def test_an_option_that_cannot_be_followed_is_one_line_and_writes_nothing(
    scans: Path, weights: Path, tmp_path: Path, arguments: tuple[str, str], says: str
) -> None:
    status, said, error = segmented(scans, "-w", weights, "-o", tmp_path / "out", "--device", "cpu", *arguments)
    assert (status, said, error.count("\n")) == (1, "", 1)
    assert error.startswith("spvnas: ")
    assert says in error
    assert not (tmp_path / "out").exists()


def test_an_intensity_field_is_taken_and_said(weights: Path, tmp_path: Path) -> None:
    records = [record_of(points, "f4") for points in streets()]
    for record in records:
        record.dtype.names = ("x", "y", "z", "brightness")
    path = bag(tmp_path / "in", records)
    status, said, error = segmented(path, "-w", weights, "-o", tmp_path / "none", "--device", "cpu")
    assert (status, error.count("\n")) == (0, 1)
    assert "intensity: no field is known to hold it (fields: x, y, z, brightness)" in error
    asked = ("--intensity-field", "brightness")
    status, said, error = segmented(path, "-w", weights, "-o", tmp_path / "out", "--device", "cpu", *asked)
    assert (status, error) == (0, "")
    assert "intensity from field 'brightness', taken as it is (auto)" in said
    summary = document_in(tmp_path / "out", "summary.json")
    assert (summary["intensity_field"], summary["intensity_from"]) == ("brightness", "brightness")


def test_equal_clouds_get_equal_labels_wherever_they_come(weights: Path, tmp_path: Path) -> None:
    """Although the first is as dark as a sensor of 0..1."""
    dark, bright = (streets()[0] * (1, 1, 1, factor) for factor in (0.9, 255))
    for name, order in (("up", (dark, dark, bright)), ("down", (bright, dark, dark))):
        folder = tmp_path / name
        folder.mkdir()
        for number, points in enumerate(order):
            points.astype(np.float32).tofile(folder / f"{number}.bin")
        out = tmp_path / f"{name}-out"
        assert segmented(folder, "-w", weights, "-o", out, "--scores", "--device", "cpu", "--quiet")[0] == 0
    scores = {
        name: [np.load(tmp_path / f"{name}-out/scores/{number}.npy") for number in range(3)] for name in ("up", "down")
    }
    np.testing.assert_array_equal(scores["up"][0], scores["up"][1])
    np.testing.assert_array_equal(scores["up"][0], scores["down"][2])
    np.testing.assert_array_equal(scores["up"][2], scores["down"][0])
