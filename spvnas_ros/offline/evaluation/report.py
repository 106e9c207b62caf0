"""What an evaluated run gave, for people and for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from spvnas_ros.offline.evaluation.metrics import Score
from spvnas_ros.recordings.files import replacing
from spvnas_ros.segment.run import Skipped


@dataclass(frozen=True)
class Report:
    """A run over a source, and how good its labels are where there is a truth.

    source, topic:  what was labelled
    network:        name of the network; `weights` is the file's name, `weights_sha256` the hash of what is in it
    label_map:      name of the map from raw ids to classes: scores of different maps cannot be compared
    clouds, points: how many were labelled
    ms_p50, ms_p95: milliseconds a cloud, of the network alone: no reading, no writing; None without clouds
    truth:          where the truth came from, in words; None without one
    score:          None without a truth
    """

    source: str
    topic: str
    network: str
    weights: str
    weights_sha256: str | None
    trained: bool
    label_map: str
    engine: str
    device: str
    intensity: str
    clouds: int
    points: int
    ms_p50: float | None
    ms_p95: float | None
    skipped: tuple[Skipped, ...] = ()
    truth: str | None = None
    score: Score | None = None

    @property
    def complete(self) -> bool:
        """Whether there were clouds, and all of them were labelled."""
        return self.clouds > 0 and not self.skipped

    def document(self) -> dict[str, Any]:
        """All of it as one flat JSON object: the score's `miou`, `iou`, ... stand beside the rest."""
        document = asdict(self)
        return document | (document.pop("score") or {})

    def save(self, path: Path) -> None:
        """Write `report.json`; whole, or not at all. Raises OSError where it cannot be written."""
        with replacing(path) as file:
            file.write(json.dumps(self.document(), indent=2).encode() + b"\n")

    @classmethod
    def load(cls, path: Path) -> Report:
        """Read what `save` wrote. Raises ValueError for anything else, OSError where it cannot be read."""
        try:
            document = json.loads(path.read_text())
            values = {field.name: document[field.name] for field in fields(cls) if field.name != "score"}
            values["skipped"] = tuple(Skipped(**entry) for entry in values["skipped"])
            found = {field.name: document[field.name] for field in fields(Score) if field.name in document}
            return cls(**values, score=Score(**found) if found else None)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is no report of this program: {error!r}") from error


def describe(report: Report) -> Iterable[Table | Text]:
    """The report for a terminal: the table by class where there is a truth, and a few lines."""
    if report.score:
        yield score_table(report.score)
    yield from (Text(line) for line in _lines(report))


def score_table(score: Score) -> Table:
    """IoU and points by class."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("class", no_wrap=True)
    for title in ("IoU", "points"):
        table.add_column(title, justify="right", no_wrap=True)
    for name, value in score.iou.items():
        table.add_row(
            name, _percent(value), f"{score.truth_points[name]:,}", style=None if value is not None else "dim"
        )
    table.add_section()
    table.add_row("mean of those that occur", _percent(score.miou), f"{sum(score.truth_points.values()):,}")
    return table


def _lines(report: Report) -> Iterable[str]:
    network = f"{report.network or report.weights} (engine {report.engine}, device {report.device})"
    line = f"{report.clouds} cloud(s), {report.points:,} points labelled by {network}"
    if report.ms_p50 is not None:
        line += f": {report.ms_p50:.1f} ms a cloud (p50), {report.ms_p95:.1f} ms (p95)"
    yield line
    if report.score:
        occur = sum(value is not None for value in report.score.iou.values())
        yield (
            f"mIoU {_percent(report.score.miou)} over {occur} of {len(report.score.iou)} classes (all classes, absent "
            f"ones as 0: {_percent(report.score.miou_official)}), accuracy {_percent(report.score.accuracy)}"
        )
        yield f"truth: {report.truth}; label map of the weights: {report.label_map}"
    if not report.trained:
        yield "These weights are untrained: the labels mean nothing."
    if report.skipped:
        yield f"{len(report.skipped)} cloud(s) could not be labelled: {_first(report.skipped)}"


def _first(skipped: tuple[Skipped, ...]) -> str:
    rest = f" (and {len(skipped) - 1} more)" if len(skipped) > 1 else ""
    return f"{skipped[0].name}: {skipped[0].reason}{rest}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"
