"""How well tracks follow objects: as data, as `report.json`, and as a table for a terminal."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from spvnas_ros.offline.evaluation.box_ap import FEW
from spvnas_ros.offline.evaluation.report import skipped_line
from spvnas_ros.offline.evaluation.track_scores import TrackCounts, TrackScore
from spvnas_ros.recordings.files import replacing
from spvnas_ros.segment.output import REPORT
from spvnas_ros.segment.progress import Skipped


@dataclass(frozen=True)
class TrackReport:
    """How well the objects of drives are followed.

    source, predictions: the drives, and the name of the network or the run
    drives, frames:      how many were scored
    interval:            seconds between two frames, the median; None where no drive has two
    posed:               whether the tracks are in a fixed frame
    scores:              of each class at each distance
    skipped:             scans that cannot be read
    """

    source: str
    predictions: str
    drives: int
    frames: int
    interval: float | None
    posed: bool
    scores: tuple[TrackScore, ...]
    skipped: tuple[Skipped, ...] = ()

    @property
    def scored(self) -> bool:
        """Whether a class has an object."""
        return any(score.best for score in self.scores)

    def document(self) -> dict[str, Any]:
        """Returns all of it as one JSON object. What is not known is null."""
        document = {"kind": "tracks", **asdict(self)}
        document["scores"] = [
            asdict(score) | {"best": _counts(score.best), "all": _counts(score.all)} for score in self.scores
        ]
        return document

    def save(self, out: Path) -> None:
        """Writes `report.json`; whole, or not at all. Raises OSError where it cannot be written."""
        with replacing(out / REPORT) as file:
            file.write(json.dumps(self.document(), indent=2).encode() + b"\n")


def describe_tracks(report: TrackReport) -> Iterable[Table | Text]:
    """Yields the report for a terminal: a table where MOTA is best, one of all tracks, and what limits them."""
    yield _table("where MOTA is best", report.scores, lambda score: score.best, amota=True)
    yield Text("")
    yield _table("all tracks", report.scores, lambda score: score.all, amota=False)
    yield Text("")
    yield Text(
        "By the distance of the centres; percent. Where MOTA is best only tracks from some score on are left. Objects "
        "are counted in every frame, and in brackets once each."
    )
    if few := sorted({f"{each.kind}: {each.identities}" for each in report.scores if 0 < each.identities < FEW}):
        yield Text(f"Few different objects, each of which changes a figure much: {'; '.join(few)}.")
    interval = "" if report.interval is None else f", one each {report.interval:g} s"
    place = "a fixed frame" if report.posed else "the frame of the sensor"
    yield Text(
        f"{report.frames} frame(s) of {report.drives} drive(s){interval}, followed in {place}: {report.predictions} "
        f"against {report.source}"
    )
    if report.skipped:
        yield Text(skipped_line(report.skipped, "scored"))


def _table(
    title: str, scores: Sequence[TrackScore], which: Callable[[TrackScore], TrackCounts | None], *, amota: bool
) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column(title, no_wrap=True)
    figures = ("AMOTA", "MOTA", "recall") if amota else ("MOTA", "recall")
    titles = ("objects", *figures, "switched", "missed", "false")
    for each in titles:
        table.add_column(each, justify="right", no_wrap=True)
    for score in scores:
        counts, name = which(score), f"{score.kind} {score.limit:g} m"
        if counts is None or score.amota is None:
            table.add_row(name, "0", *["-"] * (len(titles) - 1), style="dim")
            continue
        shares = [score.amota] * amota + [counts.mota, counts.found / counts.objects]
        numbers = (counts.switches, counts.misses, counts.false)
        objects = f"{score.objects} ({score.identities})"
        table.add_row(name, objects, *(f"{100 * share:.1f}" for share in shares), *map(str, numbers))
    return table


def _counts(counts: TrackCounts | None) -> dict[str, Any] | None:
    return None if counts is None else asdict(counts) | {"mota": counts.mota}
