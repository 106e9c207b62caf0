"""How good boxes are: as data, as `report.json`, and in tables for a terminal."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from rich.table import Table
from rich.text import Text

from spvnas_ros.offline.evaluation.box_ap import FEW, Ap
from spvnas_ros.offline.evaluation.kitti.curves import METRICS, Figure
from spvnas_ros.offline.evaluation.report import skipped_line
from spvnas_ros.recordings.files import replacing
from spvnas_ros.segment.output import REPORT
from spvnas_ros.segment.progress import Skipped


@dataclass(frozen=True)
class BoxReport:
    """How good the boxes in files of results are.

    source, predictions: the folders, or bags, of the truth and of the results, or the name of a network
    frames:              that have results; only these are evaluated
    without_results:     frames of the truth that have none
    kitti:               KITTI's table; empty for bags
    around:              AP by distance of the centres, over all distances and in rings around the sensor
    without_truth:       messages of results without a truth of the same stamp
    skipped:             scans that a network was to be scored on and that cannot be read
    """

    source: str
    predictions: str
    frames: int
    without_results: int
    kitti: tuple[Figure, ...]
    around: tuple[Ap, ...]
    without_truth: int = 0
    skipped: tuple[Skipped, ...] = ()

    @property
    def scored(self) -> bool:
        """Whether there is a figure: in KITTI's table one that KITTI gives, in bags one of a class with objects."""
        if self.kitti:
            return any(figure.curve is not None for figure in self.kitti)
        return any(ap.ap is not None for ap in self.around)

    def document(self) -> dict[str, Any]:
        """Returns all of it as one JSON object. What is not known is null."""
        return {
            "kind": "boxes",
            "source": self.source,
            "predictions": self.predictions,
            "frames": self.frames,
            "without_results": self.without_results,
            "without_truth": self.without_truth,
            "skipped": [asdict(each) for each in self.skipped],
            "kitti": [_kitti_entry(figure) for figure in self.kitti],
            "around": [asdict(figure) for figure in self.around],
        }

    def save(self, out: Path) -> None:
        """Writes `report.json`; whole, or not at all. Raises OSError where it cannot be written."""
        with replacing(out / REPORT) as file:
            file.write(json.dumps(self.document(), indent=2).encode() + b"\n")


def describe_boxes(report: BoxReport) -> Iterable[Table | Text]:
    """Yields the report for a terminal: KITTI's table, AP around the sensor, and what limits the figures."""
    if report.kitti:
        yield _kitti_table(report.kitti, "R40")
        yield Text("")
        yield _kitti_table(report.kitti, "R11")
        yield Text("")
        yield from map(Text, _limits(report.kitti))
        yield Text("")
    yield _around_table(report.around)
    if few := sorted({f"{ap.kind} {_ring(ap)}: {ap.objects}" for ap in report.around if 0 < ap.objects < FEW}):
        yield Text(f"Few objects, each of which changes a figure by more than two percent: {'; '.join(few)}.")
    without = f"; {report.without_results} frame(s) of the truth have no results" if report.without_results else ""
    lost = f"; {report.without_truth} message(s) of results have no truth" if report.without_truth else ""
    yield Text(f"{report.frames} frame(s) of {report.predictions} against {report.source}{without}{lost}")
    if report.skipped:
        yield Text(skipped_line(report.skipped, "scored"))


def _kitti_entry(figure: Figure) -> dict[str, Any]:
    names = {"class": figure.kind, "metric": figure.metric, "difficulty": figure.difficulty}
    curve = figure.curve
    if curve is None:
        return names | {"r40": None, "r11": None, "reason": figure.reason}
    return names | {
        "r40": curve.r40,
        "r11": curve.r11,
        "objects": curve.objects,
        "detections": curve.detections,
        "reachable_recalls": curve.reachable,
        "reachable_r40": curve.reachable_r40,
        "reachable_r11": curve.reachable_r11,
        "precision": list(curve.precision),
        "thresholds": list(curve.thresholds),
    }


def _kitti_table(figures: Sequence[Figure], mean: Literal["R40", "R11"]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column(f"KITTI {mean}", no_wrap=True)
    for title in ("objects", *METRICS):
        table.add_column(title, justify="right", no_wrap=True)
    for (kind, difficulty), cells in _rows(figures).items():
        curves = [cells[metric].curve for metric in METRICS]
        counts = [str(curve.objects) for curve in curves if curve]
        values = [None if curve is None else curve.r40 if mean == "R40" else curve.r11 for curve in curves]
        table.add_row(f"{kind} {difficulty}", counts[0] if counts else "-", *map(_percent, values))
    return table


def _limits(figures: Sequence[Figure]) -> Iterable[str]:
    """Yields what keeps figures from 100 or from being there at all, a line each."""
    for (kind, difficulty), cells in _rows(figures).items():
        curve = cells["bbox"].curve
        if curve is None or curve.reachable == len(curve.precision):
            continue
        if not curve.objects:
            yield f"{kind} {difficulty}: there is no such object, so 0 is all that can be reached."
        else:
            yield (
                f"{kind} {difficulty}: {curve.objects} object(s) reach {curve.reachable} of {len(curve.precision)} "
                f"recalls; a perfect detector would have R40 {curve.reachable_r40:.2f}, R11 {curve.reachable_r11:.2f}."
            )
    for reason in dict.fromkeys(figure.reason for figure in figures if figure.reason):
        without = dict.fromkeys(f"{figure.kind} {figure.metric}" for figure in figures if figure.reason == reason)
        yield f"No figure for {', '.join(without)}: {reason}."


def _rows(figures: Sequence[Figure]) -> dict[tuple[str, str], dict[str, Figure]]:
    rows: dict[tuple[str, str], dict[str, Figure]] = {}
    for figure in figures:
        rows.setdefault((figure.kind, figure.difficulty), {})[figure.metric] = figure
    return rows


def _around_table(figures: Sequence[Ap]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("AP by distance of centres", no_wrap=True)
    table.add_column("objects", justify="right", no_wrap=True)
    criteria = tuple(dict.fromkeys(ap.criterion for ap in figures))
    for criterion in criteria:
        table.add_column(criterion, justify="right", no_wrap=True)
    table.add_column("mean", justify="right", no_wrap=True)
    rows: dict[str, list[Ap]] = {}
    for ap in figures:
        rows.setdefault(f"{ap.kind} {_ring(ap)}", []).append(ap)
    for name, row in rows.items():
        values = [ap.ap for ap in row if ap.ap is not None]
        mean = sum(values) / len(values) if values else None
        style = None if values else "dim"
        table.add_row(name, str(row[0].objects), *(_percent(ap.ap) for ap in row), _percent(mean), style=style)
    return table


def _ring(ap: Ap) -> str:
    if ap.end is None:
        return f"{ap.begin:g} m and more" if ap.begin else "all distances"
    return f"{ap.begin:g} to {ap.end:g} m"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
