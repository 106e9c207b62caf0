"""`spvnas evaluate DRIVE --boxes ... --track`: who is taken for whom in simulated drives."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from spvnas_cli import spvnas
from spvnas_ros.boxes.tracks import RULES
from spvnas_ros.frame import Boxes
from spvnas_ros.offline.datasets import DatasetError
from spvnas_ros.offline.datasets.boxed import BoxedScan, open_boxed
from spvnas_ros.offline.evaluation.track_evaluation import Finder, evaluate_tracks
from spvnas_ros.offline.evaluation.track_scores import TrackScore
from spvnas_ros.offline.simulation.drive import Plan, simulate
from spvnas_ros.recordings.object_tables import read_objects_of, write_objects
from tiny_detectors import write_detector

NAMES = ("car", "person", "bicyclist")


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A street at ten scans a second, by a small sensor."""
    out = tmp_path_factory.mktemp("tracked") / "drive"
    plan = Plan("vlp16", 8, interval=0.1, seed=3, kind="urban", formats=("semantic-kitti", "boxes"))
    assert [done.scans for done in simulate(plan, 1, out)] == [8]
    return out


def knowing(change: Callable[[BoxedScan, Boxes], Boxes] = lambda _, boxes: boxes) -> Finder:
    """Finds what is there, changed."""

    def find(scan: BoxedScan) -> Boxes:
        rows = [row for row, kind in enumerate(scan.objects.kinds) if kind in NAMES]
        classes = np.array([NAMES.index(scan.objects.kinds[row]) for row in rows], np.uint8)
        return change(scan, Boxes(scan.objects.boxes[rows], np.full(len(rows), 0.9, np.float32), classes))

    return Finder(find, NAMES)


def of_cars(scores: tuple[TrackScore, ...], limit: float = 2.0) -> TrackScore:
    (found,) = [each for each in scores if (each.kind, each.limit) == ("car", limit)]
    return found


def test_true_boxes_keep_their_ids_and_get_them_in_the_second_frame(drive: Path) -> None:
    report = evaluate_tracks(drive, knowing(), name="all")
    cars = of_cars(report.scores)
    assert cars.all is not None
    assert (report.drives, report.frames, report.interval) == (1, 8, pytest.approx(0.1))
    assert cars.identities > 10
    assert (cars.all.switches, cars.all.false) == (0, 0)
    # Each once, when it is seen first; and again, where it was hidden for a while.
    assert cars.identities <= cars.all.misses <= 1.3 * cars.identities
    at_once = evaluate_tracks(drive, knowing(), name="all", rules=replace(RULES, hits=1))
    assert of_cars(at_once.scores).all.mota == 1  # type: ignore[union-attr]
    half = evaluate_tracks(drive, knowing(), name="all", every=2)
    assert (half.frames, half.interval) == (4, pytest.approx(0.2))
    assert of_cars(half.scores).all.switches == 0  # type: ignore[union-attr]


def test_in_the_frame_of_the_sensor_it_is_harder_and_said(drive: Path) -> None:
    fixed = evaluate_tracks(drive, knowing(), name="all", every=3)
    own = evaluate_tracks(drive, knowing(), name="all", every=3, posed=False)
    assert (fixed.posed, own.posed) == (True, False)
    for kind in ("car", "person"):
        better, worse = (
            next(each.all for each in report.scores if (each.kind, each.limit) == (kind, 2.0))
            for report in (fixed, own)
        )
        assert better is not None
        assert worse is not None
        assert better.mota >= worse.mota


def test_what_is_found_too_far_off_is_no_track_of_it(drive: Path) -> None:
    def aside(_: BoxedScan, boxes: Boxes) -> Boxes:
        return replace(boxes, boxes=boxes.boxes + np.float32((0.7, 0, 0, 0, 0, 0, 0)))

    report = evaluate_tracks(drive, knowing(aside), name="aside")
    near, far = of_cars(report.scores, 0.5), of_cars(report.scores, 1.0)
    assert near.best is not None
    assert far.best is not None
    assert near.best.found < 0.1 * near.objects
    assert far.best.found > 0.8 * far.objects


def test_a_network_is_scored_by_the_command(drive: Path, tmp_path: Path) -> None:
    weights = write_detector(tmp_path / "second.safetensors")
    found = spvnas(
        "evaluate", drive, "--boxes", weights, "--track", "--sequences", "00", "--every", "4", "--json",
        "--device", "cpu", "--out", tmp_path / "out",
    )  # fmt: skip
    assert found.exit_code == 0, found.output
    report = json.loads(found.stdout)
    assert (report["kind"], report["frames"], report["drives"], report["posed"]) == ("tracks", 2, 1, True)
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == report
    assert {each["limit"] for each in report["scores"]} == {0.5, 1, 2, 4}


def write_run(run: Path, drive: Path, finder: Finder) -> None:
    """What `spvnas segment --boxes` leaves of a drive's root."""
    scans = open_boxed(drive)
    for number in range(len(scans)):
        boxes = finder.find(scans[number])
        columns = ("x", "y", "z", "length", "width", "height", "yaw")
        rows = [
            {"class": NAMES[kind], "score": score} | dict(zip(columns, row, strict=True))
            for kind, score, row in zip(
                boxes.classes.tolist(), boxes.scores.tolist(), boxes.boxes.tolist(), strict=True
            )
        ]
        path = run / "boxes" / f"{scans.name(number)}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"classes": NAMES, "boxes": rows}))


def test_the_boxes_of_a_run_are_scored_and_one_that_is_missing_is_told(drive: Path, tmp_path: Path) -> None:
    write_run(tmp_path / "run", drive, knowing())
    found = spvnas("evaluate", drive, "--boxes", tmp_path / "run", "--track", "--no-poses")
    assert found.exit_code == 0, found.output
    assert "8 frame(s) of 1 drive(s), one each 0.1 s, followed in the frame of the sensor" in found.stdout
    assert "Few different objects" in found.stdout
    (tmp_path / "run" / "boxes" / "00" / "000003.json").unlink()
    (tmp_path / "run" / "boxes" / "00" / "000005.json").write_text('{"classes": ["car"]}')
    found = spvnas("evaluate", drive, "--boxes", tmp_path / "run", "--track", "--json")
    assert found.exit_code == 1
    skipped = json.loads(found.stdout)["skipped"]
    assert [each["name"] for each in skipped] == ["00/000003", "00/000005"]
    assert "000003.json is missing" in skipped[0]["reason"]
    assert "is no file of boxes" in skipped[1]["reason"]


def test_what_cannot_be_followed_is_said(drive: Path, shared: Path, tmp_path: Path) -> None:
    def refused(*arguments: object) -> str:
        found = spvnas("evaluate", *arguments)
        assert found.exit_code != 0
        return " ".join(found.output.replace("│", " ").split())

    weights = write_detector(tmp_path / "second.safetensors")
    assert "they go with --boxes" in refused(drive, "--track")
    assert "go with --track" in refused(drive, "--boxes", weights, "--no-poses")
    assert "no simulated drive" in refused(shared / "data" / "kitti", "--boxes", weights, "--track")
    assert "of bags" in refused(drive, "--boxes", weights, "--track", "--topic", "/boxes")
    assert "has no boxes of scans" in refused(drive, "--boxes", tmp_path, "--track")
    copy = tmp_path / "drive"
    shutil.copytree(drive, copy)
    (copy / "sequences" / "00" / "poses.txt").unlink()
    assert "poses.txt cannot be read" in refused(copy, "--boxes", weights, "--track")
    shutil.copytree(drive / "sequences" / "00", copy / "sequences" / "00", dirs_exist_ok=True)
    table = copy / "boxes" / "00" / "000000.csv"
    write_objects(table, replace(read_objects_of(table), ids=None))
    with pytest.raises(DatasetError, match=r"00/000000 have no ids.*simulate the drive again"):
        evaluate_tracks(copy, knowing(), name="all")
