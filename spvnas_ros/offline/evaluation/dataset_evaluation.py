"""Score weights on labelled scans: what `spvnas evaluate` does."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import numpy as np
from rich.console import Console

from spvnas_ros.clouds.mount import PlaceRule
from spvnas_ros.frame import NONE_UNUSABLE, Segmentation
from spvnas_ros.kernels.grid import KeyRangeError
from spvnas_ros.labels import LABEL_MAPS
from spvnas_ros.offline.augment import View, tta_views
from spvnas_ros.offline.datasets import DatasetError, LabelField, LabelledScan, ScanDataset, open_dataset
from spvnas_ros.offline.evaluation.confusion_picture import save_confusion
from spvnas_ros.offline.evaluation.metrics import accuracy
from spvnas_ros.offline.evaluation.report import Report, Tallies, describe, scored, skipped_line
from spvnas_ros.offline.evaluation.tally import averaged
from spvnas_ros.offline.evaluation.thinned import Thinned
from spvnas_ros.palettes import SPVNAS
from spvnas_ros.palettes import check as check_palette
from spvnas_ros.perception import Perception
from spvnas_ros.segment.first_look import first_look, tell
from spvnas_ros.segment.gallery import ACCURACY, choose
from spvnas_ros.segment.label_frames import Interrupted
from spvnas_ros.segment.output import CONFUSION, LABELS, REPORT, SUMMARY
from spvnas_ros.segment.picture import save_picture
from spvnas_ros.segment.progress import INTERRUPTED, Skipped, progress_bar, stop_on_signal


def evaluate(
    perception: Perception,
    dataset: ScanDataset,
    *,
    tta: bool = False,
    source: str = "",
    topic: str = "",
    weights: str = "",
    truth: str | None = None,
    beams: int | None = None,
    sensor: str = "",
    pictures: bool = False,
    on_scan: Callable[[Skipped | None], None] = lambda _: None,
    stopped: Callable[[], bool] = lambda: False,
) -> Report:
    """Label all scans of a data set and compare.

    tta: average the probabilities of the 36 views of `tta_views`
    source, topic, weights, truth, beams, sensor: for the report
    pictures: say in the report which scans to draw beside it

    stopped: is asked before each scan; True ends the evaluation

    A scan that cannot be read, has no point or is too large is left out, and stands in the report.

    Raises DatasetError where the data set is empty, its classes are not the network's, or no scan can be labelled, and
    Interrupted where it was stopped.
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
    tallies, ms, points = Tallies(facts.classes, boxes_only=dataset.boxes_only), list[float](), 0
    skipped: list[Skipped] = []
    unusable = NONE_UNUSABLE
    values: list[tuple[str, float | None]] = []
    for index in range(len(dataset)):
        if stopped():
            raise Interrupted(index, len(dataset))
        try:
            scan = dataset[index]
            if not len(scan):
                raise DatasetError("it has no point that could be labelled")
            if not ms:
                perception(scan.points, boxes=False)  # the first call pays for memory and compiled kernels
            begun = perf_counter()
            result = look(perception, scan, views)
        except (DatasetError, KeyRangeError) as error:
            skipped.append(Skipped(dataset.name(index), str(error)))
            on_scan(skipped[-1])
            continue
        ms.append((perf_counter() - begun) * 1e3)
        tallies.add(scan.name, scan.points, scan.labels, result)
        values.append((scan.name, accuracy(scan.labels, result.labels)))
        points += len(scan)
        unusable += scan.unusable + result.unusable
        on_scan(None)
    if not ms:
        raise DatasetError(f"nothing was scored: {skipped_line(skipped, 'scored')}")
    return Report(
        source=source,
        topic=topic,
        network=facts.name,
        weights=weights,
        weights_sha256=facts.weights_sha256,
        trained=facts.trained,
        truth=truth,
        beams=beams,
        label_map=dataset.label_map.name,
        engine=engine.name,
        device=str(engine.device),
        precision=engine.precision,
        views=len(views),
        frames=len(ms),
        points=points,
        ms_p50=float(np.percentile(ms, 50)),
        ms_p95=float(np.percentile(ms, 95)),
        boxes_only=dataset.boxes_only,
        skipped=tuple(skipped),
        pictures=tuple(choose(values, ACCURACY)) if pictures else (),
        unusable=unusable.counts(),
        sensor=sensor,
        **scored(tallies),
    )


def look(perception: Perception, scan: LabelledScan, views: Sequence[View]) -> Segmentation:
    """Label a scan, looked at in one way or in several."""
    if len(views) == 1:
        return perception(views[0](scan.points), boxes=False)
    parts = []
    for view in views:
        scores = perception(view(scan.points), scores=True, boxes=False).scores
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
    intensity_field: str | None = None,
    origin: str | None = None,
    mount: str | None = None,
    quiet: bool = False,
    beams: int | None = None,
    palette: str = SPVNAS,
    device: str = "auto",
    engine: str = "auto",
    precision: str = "fp32",
) -> int:
    """`evaluate` as a command: prints the table, or with `as_json` the report as one JSON object and nothing else.

    Returns the exit status: 0; 1 where scans were left out or no point has a truth; 130 after Ctrl-C.

    out:       a folder for report.json and confusion.png
    label_map: of the truth; None = the network's own
    topic, field: of a bag's clouds, see `open_dataset`
    intensity, intensity_field, origin, mount: the rules for the sensor, as the options have them
    quiet:     nothing is said about clouds that do not fit the network
    beams:     of the 64 of each scan that are kept; None for all
    palette:   name of the colours in pictures
    """
    check_palette(palette)
    place = PlaceRule.parse(origin, mount)
    perception = Perception.load(weights, device=device, engine=engine, precision=precision)
    label_map = label_map or perception.facts.label_map
    if label_map not in LABEL_MAPS:
        raise DatasetError(
            f"label map is {label_map!r}, expected one of {', '.join(LABEL_MAPS)}; name one with --label-map"
        )
    dataset = open_dataset(
        source,
        label_map=label_map,
        sequences=sequences,
        topic=topic,
        field=field,
        intensity=intensity,
        intensity_field=intensity_field,
        place=replace(place, sensor_height=perception.facts.sensor_height),
    )
    if out and out.exists() and not out.is_dir():
        raise DatasetError(f"{out} is a file, expected a folder for the report")
    if warning := prelabelled(source):
        print(warning, file=sys.stderr)
    looks = dataset.look()
    for looked in looks:
        tell([*looked.remarks, *first_look(looked.clouds, looked.sensor, perception.facts)], quiet=quiet)
    sensor = "; ".join(dict.fromkeys(looked.sensor.describe() for looked in looks))
    if beams is not None:
        dataset = Thinned(dataset, beams)
    truth = str(field) if field else None
    try:
        with progress_bar(len(dataset)) as on_scan, stop_on_signal() as stopped:
            report = evaluate(
                perception,
                dataset,
                tta=tta,
                source=str(source),
                topic=topic or "",
                weights=Path(weights).name,
                truth=truth,
                beams=beams,
                sensor=sensor,
                pictures=out is not None,
                on_scan=on_scan,
                stopped=stopped.is_set,
            )
    except Interrupted as interrupted:
        print(
            f"interrupted after {interrupted.done} of {interrupted.total} scans of {source}; nothing was written",
            file=sys.stderr,
        )
        return INTERRUPTED
    unscored = report.score.accuracy is None
    if unscored:
        print(f"no point of {source} has a label that counts (label map {label_map}): no score", file=sys.stderr)
    status = 1 if report.skipped or unscored else 0
    if out:
        _save(report, perception, out, palette)
        _save_pictures(report, perception, dataset, out, palette)
    if as_json:
        print(json.dumps(report.document()))
        return status
    console = Console(soft_wrap=True, highlight=False, markup=False)
    for part in describe(report):
        console.print(part)
    if out:
        console.print(f"{out / REPORT}, {out / CONFUSION}")
        console.print("; ".join(str(out / str(picture)) for picture in report.pictures))
    return status


def prelabelled(source: Path) -> str | None:
    """What to say of a folder whose labels `spvnas segment` has written: nothing in them tells whether someone has
    corrected them since. None for any other source."""
    if not ((source / SUMMARY).is_file() and (source / LABELS).is_dir()):
        return None
    return (
        f"Warning: the labels in {source / LABELS} were written by `spvnas segment`. Where nobody has corrected them, "
        f"they are a network's own and no truth. (Once they are corrected, remove {source / SUMMARY}.)"
    )


def _save(report: Report, perception: Perception, out: Path, palette: str) -> None:
    out.mkdir(parents=True, exist_ok=True)
    title = f"{Path(report.source).name}, {report.network or report.weights}"
    save_confusion(out / CONFUSION, report.score, perception.facts, title, palette, boxes_only=report.boxes_only)
    report.save(out)


def _save_pictures(report: Report, perception: Perception, dataset: ScanDataset, out: Path, palette: str) -> None:
    """Draws the scans that the report names; they are labelled once more, which spares keeping all labels."""
    views = tta_views() if report.views > 1 else (View(),)
    for picture in report.pictures:
        scan = dataset[picture.number]
        title = picture.title(Path(report.source).name)
        labels = look(perception, scan, views).labels
        save_picture(out / picture.file, scan.points, labels, perception.facts, title, palette)
