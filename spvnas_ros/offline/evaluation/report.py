"""How good labels are: as data, as `report.json`, and in tables for a terminal."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from spvnas_ros.errors import UserError
from spvnas_ros.frame import Points, Segmentation, Unusable
from spvnas_ros.offline.evaluation.metrics import Labels, Score, official_rule
from spvnas_ros.offline.evaluation.tally import Bin, Ring, Sureness, Tally
from spvnas_ros.recordings.files import replacing
from spvnas_ros.segment.gallery import Pictured
from spvnas_ros.segment.output import REPORT
from spvnas_ros.segment.progress import Skipped


@dataclass(frozen=True)
class Part:
    """How good the labels are in a part of the data, as in `Report`.

    name: of the sequence
    """

    name: str
    frames: int
    points: int
    miou: float | None
    accuracy: float | None
    ece: float | None
    sure: Sureness


@dataclass(frozen=True)
class Report:
    """How good the labels of a network are on a recording or a data set.

    source, topic:  what was labelled; the topic is "" where it is no bag
    network:        name of the network; `weights` is the file's name, `weights_sha256` the hash of what is in it
    truth:          where the truth came from, in words; None where nobody chose
    label_map:      of the truth: scores of different maps cannot be compared
    views:          how often each frame was looked at: 1, or the views of test-time augmentation
    ms_p50, ms_p95: milliseconds a frame, of the network alone
    ece:            expected calibration error of the confidences, 0..1; None where no point has a truth
    by_distance:    IoU in rings around the sensor
    reliability:    confidence beside accuracy
    sure:           how many points the network is sure of, and how many of them are wrong
    by_sequence:    of each sequence of a folder with sequences; without names there is none
    boxes_only:     only points in boxes have a truth: recall in boxes is known, IoU is not
    skipped:        frames that could not be scored, and why
    beams:          that each frame was thinned to; None for all of them
    unusable:       points that no network sees, by reason
    sensor:         what was done to the clouds: intensity field and scale, mount
    pictures:       which frames are shown beside the report, and why those
    """

    source: str
    topic: str
    network: str
    weights: str
    weights_sha256: str | None
    trained: bool
    truth: str | None
    label_map: str
    engine: str
    device: str
    precision: str
    views: int
    frames: int
    points: int
    ms_p50: float | None
    ms_p95: float | None
    score: Score
    ece: float | None
    by_distance: tuple[Ring, ...]
    reliability: tuple[Bin, ...]
    sure: Sureness | None = None
    by_sequence: tuple[Part, ...] = ()
    boxes_only: bool = False
    skipped: tuple[Skipped, ...] = ()
    pictures: tuple[Pictured, ...] = ()
    beams: int | None = None
    unusable: dict[str, int] = field(default_factory=dict)
    sensor: str = ""

    def document(self) -> dict[str, Any]:
        """Returns all of it as one flat JSON object: the score's `miou`, `iou`, ... stand beside the rest."""
        document = asdict(self)
        found: dict[str, Any] = document.pop("score")
        return found | document

    def save(self, out: Path) -> None:
        """Writes `report.json`; whole, or not at all. Raises OSError where it cannot be written."""
        with replacing(out / REPORT) as file:
            file.write(json.dumps(self.document(), indent=2).encode() + b"\n")

    @classmethod
    def load(cls, out: Path) -> Report:
        """Reads what `save` wrote. Raises ValueError for anything else, OSError where it cannot be read."""
        path = out / REPORT
        try:
            document = json.loads(path.read_text())
            document = {
                "boxes_only": False,
                "skipped": (),
                "pictures": (),
                "beams": None,
                "unusable": {},
                "sensor": "",
                "sure": None,
                "by_sequence": (),
            } | document  # not in reports of before
            values = {each.name: document[each.name] for each in fields(cls) if each.name != "score"}
            values["skipped"] = tuple(Skipped(**each) for each in values["skipped"])
            values["by_distance"] = tuple(Ring(**each) for each in values["by_distance"])
            values["reliability"] = tuple(Bin(**each) for each in values["reliability"])
            values["sure"] = Sureness(**values["sure"]) if values["sure"] else None
            values["by_sequence"] = tuple(
                Part(**each | {"sure": Sureness(**each["sure"])}) for each in values["by_sequence"]
            )
            values["pictures"] = tuple(Pictured(**each) for each in values["pictures"])
            return cls(**values, score=Score(**{each.name: document[each.name] for each in fields(Score)}))
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path} is no report of this program: {error!r}") from error


class Tallies:
    """A tally for each sequence; the sequence of a frame is its name up to the last slash."""

    def __init__(self, classes: Sequence[str], *, boxes_only: bool = False) -> None:
        self._new = partial(Tally, tuple(classes), boxes_only=boxes_only)
        self._parts: dict[str, tuple[Tally, list[int]]] = {}

    def add(self, name: str, points: Points, truth: Labels, predicted: Segmentation) -> None:
        """Counts a frame, see `Tally.add`."""
        tally, sizes = self._parts.setdefault(name.rpartition("/")[0], (self._new(), []))
        tally.add(points, truth, predicted)
        sizes.append(len(points))

    def whole(self) -> Tally:
        """The counts of all frames."""
        return Tally.joined([tally for tally, _ in self._parts.values()] or [self._new()])

    def parts(self) -> tuple[Part, ...]:
        """How good each sequence is, in the order of their first frames; nothing where frames belong to none."""
        found = []
        for name, (tally, sizes) in self._parts.items():
            score = tally.score()
            sure, ece = tally.sureness(), tally.calibration_error()
            found.append(Part(name, len(sizes), sum(sizes), score.miou, score.accuracy, ece, sure))
        return () if set(self._parts) <= {""} else tuple(found)


def scored(tallies: Tallies) -> dict[str, Any]:
    """Returns the fields of a `Report` that come from tallies."""
    tally = tallies.whole()
    return {
        "score": tally.score(),
        "ece": tally.calibration_error(),
        "by_distance": tally.rings(),
        "reliability": tally.reliability(),
        "sure": tally.sureness(),
        "by_sequence": tallies.parts(),
    }


def describe(report: Report) -> Iterable[Table | Text]:
    """Yields the report for a terminal: tables by class and by distance, and a few lines."""
    yield score_table(report.score, boxes_only=report.boxes_only)
    yield _distance_table(report.by_distance, boxes_only=report.boxes_only)
    if len(report.by_sequence) > 1:
        yield _sequence_table(report.by_sequence, boxes_only=report.boxes_only)
    found = report.score
    over = f"over {sum(map(bool, found.truth_points.values()))} of {len(found.iou)} classes"
    if report.boxes_only:
        yield Text(
            f"mean recall in boxes {_percent(found.mean_recall)} {over}, calibration error in boxes "
            f"{_percent(report.ece)}. Only points in boxes have a truth: what is wrongly called an object elsewhere is "
            "not known, so this is no mIoU."
        )
    else:
        yield Text(
            f"mIoU {_percent(found.miou)} {over} ({official_rule(tuple(found.iou))}: {_percent(found.miou_official)}), "
            f"accuracy {_percent(found.accuracy)}, calibration error {_percent(report.ece)}"
        )
    if report.sure:
        short = " (ECE, sure, wrong and mistakes in the table)" if len(report.by_sequence) > 1 else ""
        yield Text(f"{sure_line(report.sure)}{short}")
    beams = f", thinned to {report.beams} beams" if report.beams else ""
    views = f", {report.views} views each" if report.views > 1 else ""
    truth = f", truth: {report.truth}" if report.truth else ""
    times = f": {report.ms_p50:.1f} ms a frame (p50), {report.ms_p95:.1f} ms (p95)" if report.ms_p50 else ""
    yield Text(
        f"{report.frames} frame(s) of {report.source}{beams}{views}{truth}, label map {report.label_map}; "
        f"{report.network or report.weights} "
        f"(engine {report.engine}, {report.precision}, device {report.device}){times}"
    )
    if report.skipped:
        yield Text(skipped_line(report.skipped, "scored"))
    left_out = str(Unusable(**report.unusable)) if report.unusable else ""
    if report.sensor or left_out:
        yield Text(f"{report.sensor}{'; not seen by the network: ' + left_out if left_out else ''}")
    if not report.trained:
        yield Text("These weights are untrained: the labels mean nothing.")


def sure_line(sure: Sureness) -> str:
    """Says how many points the network is sure of, and how many of them are wrong."""
    return (
        f"confidence over {sure.over:g}: {_percent(sure.points)} of the points, of which {_percent(sure.wrong)} are "
        f"wrong; confident mistakes, of all points: {_percent(sure.mistakes)}"
    )


def skipped_line(skipped: Sequence[Skipped], done: str) -> str:
    """Says how many frames could not be `done`, and why the first one could not."""
    return f"{len(skipped)} scan(s) could not be {done}, the first is {skipped[0].name}: {skipped[0].reason}"


def score_table(score: Score, *, boxes_only: bool = False) -> Table:
    """Returns IoU (of boxes: recall) and points by class as a table."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("class", no_wrap=True)
    for title in ("recall in boxes" if boxes_only else "IoU", "points"):
        table.add_column(title, justify="right", no_wrap=True)
    for name, value in (score.recall if boxes_only else score.iou).items():
        table.add_row(
            name, _percent(value), f"{score.truth_points[name]:,}", style=None if value is not None else "dim"
        )
    table.add_section()
    mean = score.mean_recall if boxes_only else score.miou
    table.add_row("mean of those that occur", _percent(mean), f"{sum(score.truth_points.values()):,}")
    return table


def _distance_table(rings: Sequence[Ring], *, boxes_only: bool) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("distance", no_wrap=True)
    for title in ("recall in boxes" if boxes_only else "mIoU", "points"):
        table.add_column(title, justify="right", no_wrap=True)
    for ring in rings:
        name = f"{ring.begin:g} m and more" if ring.end is None else f"{ring.begin:g} to {ring.end:g} m"
        table.add_row(name, _percent(ring.recall if boxes_only else ring.miou), f"{ring.points:,}")
    return table


def _sequence_table(parts: Sequence[Part], *, boxes_only: bool) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("sequence", no_wrap=True)
    for title in ("frames", "points", "mIoU", "accuracy", "ECE", "sure", "wrong", "mistakes"):
        table.add_column(title, justify="right", no_wrap=True)
    for part in parts:
        shares = (part.accuracy, part.ece, part.sure.points, part.sure.wrong, part.sure.mistakes)
        miou = None if boxes_only else part.miou
        table.add_row(part.name, str(part.frames), f"{part.points:,}", *map(_percent, (miou, *shares)))
    return table


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"
