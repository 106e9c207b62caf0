"""Score weights on labelled scans: what `spvnas evaluate` does."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from spvnas_ros.frame import Segmentation
from spvnas_ros.labels import LABEL_MAPS
from spvnas_ros.offline.augment import View, tta_views
from spvnas_ros.offline.datasets import DatasetError, LabelField, LabelledScan, ScanDataset, open_dataset
from spvnas_ros.offline.evaluation.confusion_picture import save_confusion
from spvnas_ros.offline.evaluation.metrics import Score, score
from spvnas_ros.offline.evaluation.report import score_table
from spvnas_ros.offline.evaluation.tally import Bin, Ring, Tally, averaged
from spvnas_ros.perception import Perception
from spvnas_ros.recordings.files import replacing
from spvnas_ros.segment.output import LABELS, SUMMARY
from spvnas_ros.segment.run import Skipped, progress_bar

REPORT, CONFUSION = "report.json", "confusion.png"


@dataclass(frozen=True)
class DatasetReport:
    """How good the labels of a network are on a data set.

    truth:          the field of a bag's clouds that was chosen, in words; None where none was
    label_map:      of the truth: scores of different maps cannot be compared
    views:          how each scan was looked at: 1, or the views of test-time augmentation
    ms_p50, ms_p95: milliseconds a scan, of the network alone
    ece:            expected calibration error of the confidences, 0..1
    by_distance:    IoU in rings around the sensor
    reliability:    confidence beside accuracy
    """

    source: str
    network: str
    weights: str
    weights_sha256: str | None
    trained: bool
    truth: str | None
    label_map: str
    engine: str
    device: str
    views: int
    scans: int
    points: int
    ms_p50: float
    ms_p95: float
    score: Score
    ece: float | None
    by_distance: tuple[Ring, ...]
    reliability: tuple[Bin, ...]

    def document(self) -> dict[str, Any]:
        """All of it as one flat JSON object: the score's `miou`, `iou`, ... stand beside the rest."""
        document = asdict(self)
        found: dict[str, Any] = document.pop("score")
        return found | document


def evaluate(
    perception: Perception,
    dataset: ScanDataset,
    *,
    tta: bool = False,
    source: str = "",
    weights: str = "",
    truth: str | None = None,
    on_scan: Callable[[Skipped | None], None] = lambda _: None,
) -> DatasetReport:
    """Label all scans of a data set and compare.

    tta: average the probabilities of the 36 views of `tta_views`
    source, weights, truth: for the report

    Raises DatasetError where the data set is empty, its classes are not the network's or a scan cannot be read;
    KeyRangeError for a scan that is too large.
    """
    facts, engine = perception.facts, perception.engine
    if dataset.label_map.classes != facts.classes:
        raise DatasetError(
            f"label map {dataset.label_map.name!r} has the classes {', '.join(dataset.label_map.classes)}; the network "
            f"has {', '.join(facts.classes)}"
        )
    if not len(dataset):
        raise DatasetError(f"{source or 'the data set'} holds no scans")
    views = tta_views() if tta else (View(),)
    tally, ms, points = Tally(facts.classes), [], 0
    perception(dataset[0].points)  # the first call pays for memory and compiled kernels
    for index in range(len(dataset)):
        scan = dataset[index]
        begun = perf_counter()
        result = look(perception, scan, views)
        ms.append((perf_counter() - begun) * 1e3)
        tally.add(scan.points, scan.labels, result)
        points += len(scan)
        on_scan(None)
    return DatasetReport(
        source=source,
        network=facts.name,
        weights=weights,
        weights_sha256=facts.weights_sha256,
        trained=facts.trained,
        truth=truth,
        label_map=dataset.label_map.name,
        engine=engine.name,
        device=str(engine.device),
        views=len(views),
        scans=len(dataset),
        points=points,
        ms_p50=float(np.percentile(ms, 50)),
        ms_p95=float(np.percentile(ms, 95)),
        score=score(tally.confusion, facts.classes),
        ece=tally.calibration_error(),
        by_distance=tally.rings(),
        reliability=tally.reliability(),
    )


def look(perception: Perception, scan: LabelledScan, views: Sequence[View]) -> Segmentation:
    """Label a scan, looked at in one way or in several."""
    if len(views) == 1:
        return perception(views[0](scan.points))
    parts = []
    for view in views:
        scores = perception(view(scan.points), scores=True).scores
        assert scores is not None
        parts.append(scores)
    return averaged(parts)


def run(
    weights: str,
    source: Path,
    *,
    out: Path | None = None,
    tta: bool = False,
    as_json: bool = False,
    label_map: str | None = None,
    sequences: str | None = None,
    topic: str | None = None,
    field: LabelField | None = None,
    intensity: str | None = None,
    device: str = "auto",
    engine: str = "auto",
) -> None:
    """`evaluate` as a command: prints the table, or with `as_json` the report as one JSON object and nothing else.

    out:       a folder for report.json and confusion.png
    label_map: of the truth; None = the network's own
    topic, field: of a bag's clouds, see `open_dataset`
    """
    perception = Perception.load(weights, device=device, engine=engine)
    label_map = label_map or perception.facts.label_map
    if label_map not in LABEL_MAPS:
        raise DatasetError(
            f"label map is {label_map!r}, expected one of {', '.join(LABEL_MAPS)}; name one with --label-map"
        )
    dataset = open_dataset(
        source, label_map=label_map, sequences=sequences, topic=topic, field=field, intensity=intensity
    )
    if out and out.exists() and not out.is_dir():
        raise DatasetError(f"{out} is a file, expected a folder for the report")
    if warning := prelabelled(source):
        print(warning, file=sys.stderr)
    truth = str(field) if field else None
    with progress_bar(len(dataset)) as on_scan:
        report = evaluate(
            perception, dataset, tta=tta, source=str(source), weights=Path(weights).name, truth=truth, on_scan=on_scan
        )
    if out:
        _save(report, perception, out)
    if as_json:
        print(json.dumps(report.document()))
        return
    console = Console(soft_wrap=True, highlight=False, markup=False)
    for part in describe(report):
        console.print(part)
    if out:
        console.print(f"{out / REPORT}, {out / CONFUSION}")


def prelabelled(source: Path) -> str | None:
    """What to say of a folder whose labels `spvnas segment` has written: nothing in them tells whether someone has
    corrected them since. None for any other source."""
    if not ((source / SUMMARY).is_file() and (source / LABELS).is_dir()):
        return None
    return (
        f"Warning: the labels in {source / LABELS} were written by `spvnas segment`. Where nobody has corrected them, "
        f"they are a network's own and no truth. (Once they are corrected, remove {source / SUMMARY}.)"
    )


def _save(report: DatasetReport, perception: Perception, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    title = f"{Path(report.source).name}, {report.network or report.weights}"
    save_confusion(out / CONFUSION, report.score, perception.facts, title)
    with replacing(out / REPORT) as file:
        file.write(json.dumps(report.document(), indent=2).encode() + b"\n")


def describe(report: DatasetReport) -> Iterable[Table | Text]:
    """The report for a terminal: tables by class and by distance, and a few lines."""
    yield score_table(report.score)
    yield _distance_table(report.by_distance)
    found = report.score
    occur = sum(value is not None for value in found.iou.values())
    yield Text(
        f"mIoU {_percent(found.miou)} over {occur} of {len(found.iou)} classes (all classes, absent ones as 0: "
        f"{_percent(found.miou_official)}), accuracy {_percent(found.accuracy)}, calibration error "
        f"{_percent(report.ece)}"
    )
    views = f", {report.views} views each" if report.views > 1 else ""
    truth = f", truth: {report.truth}" if report.truth else ""
    yield Text(
        f"{report.scans} scan(s) of {report.source}{views}{truth}, label map {report.label_map}; "
        f"{report.network or report.weights} (engine {report.engine}, device {report.device}): "
        f"{report.ms_p50:.1f} ms a scan (p50), {report.ms_p95:.1f} ms (p95)"
    )
    if not report.trained:
        yield Text("These weights are untrained: the labels mean nothing.")


def _distance_table(rings: Sequence[Ring]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("distance", no_wrap=True)
    for title in ("mIoU", "points"):
        table.add_column(title, justify="right", no_wrap=True)
    for ring in rings:
        name = f"{ring.begin:g} m and more" if ring.end is None else f"{ring.begin:g} to {ring.end:g} m"
        table.add_row(name, _percent(ring.miou), f"{ring.points:,}")
    return table


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"
