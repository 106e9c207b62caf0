"""Follows the boxes of a network, or of a run, through simulated drives and scores the tracks: what
`spvnas evaluate --boxes --track` does.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from spvnas_ros.boxes.overlap import COLUMNS, BoxError, checked
from spvnas_ros.boxes.tracks import NO_ID, RULES, TrackRules, TrackState, track
from spvnas_ros.errors import UserError
from spvnas_ros.frame import Boxes
from spvnas_ros.offline.datasets.boxed import BoxedDrives, BoxedScan, open_boxed
from spvnas_ros.offline.datasets.poses import Journey, read_journey
from spvnas_ros.offline.datasets.scan import DatasetError
from spvnas_ros.offline.evaluation.box_network import load_network, rows_of
from spvnas_ros.offline.evaluation.track_report import TrackReport, describe_tracks
from spvnas_ros.offline.evaluation.track_scores import TrackFrame, track_scores
from spvnas_ros.segment.progress import OnFrame, Skipped, progress_bar


@dataclass(frozen=True)
class Finder:
    """What finds the boxes that are followed.

    find:        the boxes of a scan, in its frame; raises UserError where there are none for it
    names:       of the classes, in index order
    point_range: where it looks for them, as `BoxNetwork` has it; None where nobody knows
    """

    find: Callable[[BoxedScan], Boxes]
    names: tuple[str, ...]
    point_range: tuple[float, ...] | None = None


def network_finder(weights: str | Path, device: str = "auto") -> Finder:
    """Returns what finds boxes by a network. Raises the errors of `load_network`."""
    network = load_network(weights, device)
    return Finder(lambda scan: network.find(scan.points), network.names, network.point_range)


def run_finder(run: Path) -> Finder:
    """Returns the boxes that `spvnas segment` has left, of a drive's root or of one sequence.

    Raises UserError where there are none, and for a file that is malformed.
    """
    folder = run / "boxes"
    first = next(iter(sorted(folder.rglob("*.json"))), None)
    if first is None:
        raise UserError(
            f"{run} has no boxes of scans (boxes/*.json), expected weights, or what `spvnas segment` left of a drive "
            "with --boxes, or with a network that gives both"
        )
    names = tuple(_read(first)[0])

    def find(scan: BoxedScan) -> Boxes:
        places = (folder / f"{scan.name}.json", folder / f"{Path(scan.name).name}.json")
        file = next((place for place in places if place.is_file()), None)
        if file is None:
            raise UserError(f"{places[0]} is missing")
        theirs, boxes = _read(file)
        if tuple(theirs) != names:
            raise UserError(f"{file} has the classes {', '.join(theirs)}, {first} has {', '.join(names)}")
        return boxes

    return Finder(find, names)


def _read(path: Path) -> tuple[list[str], Boxes]:
    try:
        document = json.loads(path.read_text("utf-8"))
        names = [str(name) for name in document["classes"]]
        rows = [[float(each[column]) for column in COLUMNS] for each in document["boxes"]]
        scores = np.array([float(each["score"]) for each in document["boxes"]], np.float32)
        classes = np.array([names.index(each["class"]) for each in document["boxes"]], np.uint8)
        boxes = checked(np.array(rows, np.float64).reshape(-1, len(COLUMNS)))
    except (OSError, ValueError, KeyError, TypeError, BoxError) as error:
        raise UserError(f"{path} is no file of boxes as `spvnas segment --boxes` writes them: {error!r}") from error
    return names, Boxes(boxes.astype(np.float32), scores, classes)


def evaluate_tracks(
    source: Path,
    finder: Finder,
    *,
    name: str,
    sequences: str | None = None,
    posed: bool = True,
    every: int = 1,
    rules: TrackRules = RULES,
    on_frame: OnFrame = lambda _: None,
) -> TrackReport:
    """Finds and follows boxes in every scan of simulated drives and compares them with the true objects.

    source: a simulated drive whose boxes have ids
    name:   of the weights or the run, for the report
    posed:  follow in the first scan's frame, by poses.txt; else in the sensor's own
    every:  take every so manieth scan, as if the others were lost
    on_frame: is called after each scan taken, with what was wrong if it was skipped

    Objects count as in `evaluate_network`. Raises DatasetError where the source is no such drive, where a scan's
    boxes have no ids, or no scan can be read; UserError where SciPy is missing.
    """
    scans = open_boxed(source, sequences=sequences)
    if not isinstance(scans, BoxedDrives):
        raise DatasetError(f"{source} is no simulated drive, whose scans follow each other; no other data have tracks")
    drives, skipped = [], list[Skipped]()
    intervals: list[int] = []
    for folder, rows in _sequences(scans).items():
        journey, state, frames = read_journey(scans.scans.folder / folder), TrackState(), list[TrackFrame]()
        stamps = []
        for row in rows[::every]:
            number = _number(scans, row, journey)
            try:
                scan = scans[row]
                found = finder.find(scan)
            except UserError as error:
                skipped.append(Skipped(scans.name(row), str(error)))
                on_frame(skipped[-1])
                continue
            stamps.append(int(journey.stamps[number]))
            state, tracked = track(state, found, stamps[-1], journey.poses[number] if posed else None, rules)
            sure = np.flatnonzero(tracked.ids != NO_ID)
            truth, ids = _truth(scan, finder)
            frames.append(TrackFrame(scan.name, truth, ids, tracked.boxes.among(sure), tracked.ids[sure]))
            on_frame(None)
        intervals += np.diff(stamps).tolist()
        drives.append(frames)
    count = sum(map(len, drives))
    if not count:
        raise DatasetError(f"none of the scans can be read; the first is {skipped[0].name}: {skipped[0].reason}")
    return TrackReport(
        source=str(source),
        predictions=name,
        drives=len(drives),
        frames=count,
        interval=float(np.median(intervals)) / 1e9 if intervals else None,
        posed=posed,
        scores=track_scores(drives, finder.names),
        skipped=tuple(skipped),
    )


def run_tracks(
    source: Path,
    predictions: Path,
    *,
    network: bool,
    sequences: str | None = None,
    device: str = "auto",
    posed: bool = True,
    every: int = 1,
    out: Path | None = None,
    as_json: bool = False,
) -> int:
    """Scores tracks as a command: prints a table, or with `as_json` the report as one JSON object and nothing else.

    network: whether `predictions` is one; else it is a run's folder. The rest as in `evaluate_tracks`
    out:     a folder for report.json

    Returns the exit status: 0; 1 where no class has an object, or scans were left out.
    """
    finder = network_finder(predictions, device) if network else run_finder(predictions)
    count = len(open_boxed(source, sequences=sequences)) // every
    with progress_bar(count, "following boxes") as on_frame:
        report = evaluate_tracks(
            source,
            finder,
            name=predictions.name,
            sequences=sequences,
            posed=posed,
            every=every,
            on_frame=on_frame,
        )
    if out:
        out.mkdir(parents=True, exist_ok=True)
        report.save(out)
    if as_json:
        print(json.dumps(report.document()))
    else:
        console = Console(soft_wrap=True, highlight=False, markup=False)
        for part in describe_tracks(report):
            console.print(part)
    return 0 if report.scored and not report.skipped else 1


def _sequences(scans: BoxedDrives) -> dict[Path, list[int]]:
    """Returns the scans of each sequence, in order."""
    found: dict[Path, list[int]] = {}
    for row, file in enumerate(scans.scans.files):
        found.setdefault(Path(file.scan).parent.parent, []).append(row)
    return found


def _number(scans: BoxedDrives, row: int, journey: Journey) -> int:
    """Returns which pose is a scan's: poses are numbered as the files are."""
    stem = Path(scans.scans.files[row].scan).stem
    if not stem.isdecimal() or int(stem) >= len(journey.poses):
        raise DatasetError(f"{scans.name(row)} has no pose: poses.txt has {len(journey.poses)}, numbered from 0")
    return int(stem)


def _truth(scan: BoxedScan, finder: Finder) -> tuple[Boxes, np.ndarray]:
    if scan.objects.ids is None:
        raise DatasetError(
            f"the boxes of {scan.name} have no ids, which tell one object from another; simulate the drive again: "
            "`spvnas simulate --format semantic-kitti,boxes --interval 0.1`"
        )
    rows, classes = rows_of(scan.objects, finder.names, finder.point_range)
    return Boxes(scan.objects.boxes[rows], np.ones(len(rows), np.float32), classes), scan.objects.ids[rows]
