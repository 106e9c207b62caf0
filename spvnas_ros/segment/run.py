"""Labels a whole recording, frame by frame, into a folder (see `output`): what `spvnas segment` does.

First every frame is labelled, its objects are found where a detector is given, and both are kept in a file of their
own; then the results are written in one go. A run that was interrupted or killed goes on when the same command is given
again, and labels no frame twice. Weights, detector, engine, device, intensity rule, truth and source must be those the
run was begun with; anything else is an error.

Nothing is written, and with `force` nothing is removed, before a frame has been labelled. So a run that labels none
leaves everything as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from spvnas_ros.boxes.choice import SURE
from spvnas_ros.errors import UserError
from spvnas_ros.frame import NONE_UNUSABLE, Segmentation
from spvnas_ros.recordings.scans import Cloud, Frame, Record, Source
from spvnas_ros.segment.box_files import calibration_files, kitti_scans, placed
from spvnas_ros.segment.gallery import ACCURACY, CONFIDENCE, choose, mean_confidence
from spvnas_ros.segment.label_frames import label_frames, labelled_frames
from spvnas_ros.segment.output import (
    PICTURE,
    SUMMARY,
    UNFINISHED,
    OutputError,
    check_folder,
    check_free_or_removable,
    check_truth_apart,
    open_sink,
    remove_results,
    results_of,
    save_scores,
)
from spvnas_ros.segment.predictions import RUN, Predictions
from spvnas_ros.segment.progress import OnFrame
from spvnas_ros.segment.run_frames import Views, with_parts
from spvnas_ros.segment.run_options import Judge, SegmentOptions
from spvnas_ros.segment.run_pictures import pictured, save_chosen, save_one
from spvnas_ros.segment.stored import Labelled, StoredSegmentation, parts_of_result
from spvnas_ros.segment.summary import RunFacts, Summary, differences
from spvnas_ros.segment.tiles import OnStep, View

if TYPE_CHECKING:
    from spvnas_ros.perception import Detector, Perception

_CHANNELS = 4
"""Values of a point, as `Points` has them."""


def segment(
    source: Source,
    perception: Perception,
    out: Path,
    options: SegmentOptions | None = None,
    *,
    on_frame: OnFrame = lambda _: None,
    on_written: OnFrame = lambda _: None,
    on_step: OnStep = lambda *_: None,
    stopped: Callable[[], bool] = lambda: False,
) -> Summary:
    """Labels every frame of `source` into the folder `out`. A frame that cannot be read or labelled is skipped.

    on_frame:   is called after each frame that was labelled or skipped, with what was wrong if it was skipped
    on_written: is called after each frame whose results were written
    on_step:    is called while a frame is cut into tiles
    stopped:    is asked before each frame, and before each tile; True ends the run

    Raises Interrupted where it was stopped, OutputError where other results are in the way, UserError where network and
    detector do not go together, KittiFileError for a calibration that is none, and BagError or OSError where results
    cannot be written; a new bag is then not there at all, and the labels are kept.
    """
    options = options or SegmentOptions()
    source.sensor.suit(perception.facts.sensor_height)
    names = _box_names(perception, options.detector)
    run = _facts(source, perception, options)
    if source.kind != "bag":
        options.form.check(source.files)
    kitti = kitti_scans(source) if names else {}
    sink = open_sink(source, perception.facts.label_map, out, kitti, options.form, perception.facts.classes)
    check_folder(out)
    with Predictions(out / UNFINISHED, vars(run), restart=options.force) as predictions:
        earlier = _earlier_results(out, predictions)
        if options.judge:
            check_truth_apart(options.judge.files, out)
        if not predictions.begun:
            # An unfinished run has asked before, and what lies there now may be its own.
            check_free_or_removable(
                source,
                out,
                scores=options.scores,
                force=options.force,
                results=earlier,
                boxes=bool(names),
                kitti=kitti,
                form=options.form,
            )
        views = Views(source, perception, options)
        skipped = label_frames(source, perception, options, predictions, views, on_frame, on_step, stopped)
        summary = Summary(
            run, perception.facts.name, options.weights, perception.facts.label_map, perception.facts.trained,
            skipped=skipped, boxes=dict.fromkeys(names, 0), sure_boxes=dict.fromkeys(names, 0),
        )  # fmt: skip
        if names:
            summary.detector = _detector_name(perception, options)
            summary.detector_trained = options.detector is None or options.detector.facts.trained
        sensor = source.sensor
        summary.intensity_from, summary.intensity_scale = sensor.intensity.field, str(sensor.intensity.scale or "")
        summary.sensor_words, summary.concerns = sensor.describe(), list(options.concerns)
        unusable = NONE_UNUSABLE
        if not predictions.count():
            return summary
        if options.force:
            remove_results(earlier, out)
        classes, counts = perception.facts.classes, np.zeros(256, np.int64)
        values: list[tuple[str, float | None]] = []
        sought = False
        with sink as write:
            for frame, load, prediction in labelled_frames(source, predictions, skipped, stopped):
                result = prediction.segmentation
                found = result.boxes if isinstance(result, Segmentation) else None
                boxes = None if found is None else placed(found, names, load(), source.sensor)
                write(frame, load, result, boxes)
                if options.scores:
                    save_scores(out, frame.name, result)
                value = _judged(options.judge, frame, load, result, views) if options.judge else mean_confidence(result)
                values.append((frame.name, value))
                if not summary.frames:
                    title = f"{source.path.name or source.path}, {frame.name}"
                    points, shown = pictured(frame, load, result, views)
                    save_one(out / PICTURE, points, shown, perception.facts, title, summary)
                summary.frames += 1
                summary.names.append(frame.name)
                summary.points += len(result)
                unusable += result.unusable
                summary.ms.append(prediction.ms)
                if boxes is not None:
                    sought = True
                    summary.kitti_frames += frame.name in kitti
                    for kind, score in zip(boxes.kinds, boxes.scores, strict=True):
                        summary.boxes[kind] += 1
                        summary.sure_boxes[kind] += int(score >= SURE)
                if prediction.boxes_ms:
                    summary.boxes_ms.append(prediction.boxes_ms)
                if isinstance(result, StoredSegmentation):
                    summary.tiled[result.words] = summary.tiled.get(result.words, 0) + result.tiles
                for part in parts_of_result(result):
                    counts += np.bincount(part.labels, minlength=256)
                on_written(None)
        if not sought:  # nobody may take "not looked for" for "none there"
            summary.detector, summary.boxes, summary.sure_boxes = "", {}, {}
        summary.unusable, summary.unusable_words = unusable.counts(), str(unusable)
        summary.pictures = choose(values, ACCURACY if options.judge else CONFIDENCE)
        save_chosen(source, perception.facts, predictions, views, summary, out)
        order = np.argsort(-counts[: len(classes)], kind="stable")
        summary.classes = {classes[i]: int(counts[i]) for i in order if counts[i]}
        if options.judge:
            options.judge.save(summary, out)
        summary.save(out)
        predictions.remove()
        return summary


def _box_names(perception: Perception, detector: Detector | None) -> tuple[str, ...]:
    """Returns the classes of the boxes that a run finds; () where nothing looks for any.

    Where a detector is given, its boxes take the place of those that the network would find.
    """
    if detector is None:
        return perception.box_names
    if (channels := detector.facts.spec.in_channels) != _CHANNELS:
        raise UserError(f"the detector takes {channels} values a point, expected x, y, z and intensity")
    return detector.names


def _detector_name(perception: Perception, options: SegmentOptions) -> str:
    if options.detector is None:
        return perception.facts.name or options.weights or "the network"
    return options.detector.facts.name or options.boxes or "the detector"


def _judged(judge: Judge, frame: Frame, load: Callable[[], Cloud], result: Labelled, views: Views) -> float | None:
    """Counts a frame, and returns its accuracy; of one that was cut into tiles, part by part."""
    view = None if isinstance(result, Segmentation) else views.of(frame, load)
    if isinstance(result, Segmentation):
        return judge.add(frame, load(), result)
    assert view is not None
    if judge.files:  # label files, which belong to whole clouds
        return judge.add(frame, _seen_by(view, load().record), result.part(0, len(result)))
    total, weight = 0.0, 0
    for record, part in with_parts(frame, result):
        value = judge.add(frame, _seen_by(view, record), part)
        if value is not None:
            total, weight = total + value * len(part), weight + len(part)
    return total / weight if weight else None


def _seen_by(view: View, record: Record) -> Cloud:
    return Cloud(view.points(record), record)


def finished(source: Source, perception: Perception, out: Path, options: SegmentOptions) -> Summary | None:
    """Returns the summary in `out`, if this very run has finished before; None with `force`, or without a summary.

    Raises OutputError where the results in `out` are of another run.
    """
    if options.force or not (out / SUMMARY).is_file():
        return None
    summary = Summary.load(out)
    facts = _facts(source, perception, options)
    begun = out / UNFINISHED / RUN
    if begun.is_file() and begun.stat().st_mtime_ns > (out / SUMMARY).stat().st_mtime_ns:
        return None  # a run that was to replace these results, and did not end
    if summary.run != facts:
        raise OutputError(
            f"{out / SUMMARY} is of another run ({differences(summary.run, facts)}) and would be replaced; name "
            "another folder, or replace with --force"
        )
    # What lies there may be another run's.
    with suppress(OutputError), Predictions(out / UNFINISHED, vars(summary.run)) as left:
        if left.begun:  # this run was killed at the very end
            left.remove()
    return summary


def _facts(source: Source, perception: Perception, options: SegmentOptions) -> RunFacts:
    detector = options.detector
    calibrations = calibration_files(source).values() if _box_names(perception, detector) else ()
    return RunFacts(
        source=str(source.path.resolve()),
        kind=source.kind,
        topic=source.topic,
        frames_in_source=len(source),
        files_sha256=_fingerprint([*source.files, *(options.judge.files if options.judge else ()), *calibrations]),
        weights_sha256=perception.facts.weights_sha256,
        engine=perception.engine.name,
        device=str(perception.engine.device),
        precision=perception.engine.precision,
        **source.sensor.asked,
        scores=options.scores,
        truth=options.judge.truth if options.judge else None,
        palette=options.palette,
        detector_sha256=detector.facts.weights_sha256 if detector else None,
        min_score=detector.min_score if detector else perception.min_score,
        columns=source.columns,
        format=options.form.form,
        classification=options.form.classification,
        tile=str(options.tiles),
    )


def _fingerprint(files: Sequence[Path]) -> str:
    """Returns what changes when a file is another one, or was written to."""
    stats = [(file.name, file.stat()) for file in files]
    lines = [f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in stats]
    return sha256("\n".join(lines).encode()).hexdigest()


def _earlier_results(out: Path, predictions: Predictions) -> list[Path]:
    """Returns the files that an earlier run has left in `out`, finished or killed while it wrote them."""
    if (out / SUMMARY).is_file():
        with suppress(OutputError):
            summary = Summary.load(out)
            return results_of(out, () if summary.run.kind == "bag" else summary.names)
    return results_of(out, predictions.names()) if predictions.found else []
