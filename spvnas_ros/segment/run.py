"""Labels a whole recording, frame by frame, into a folder (see `output`): what `spvnas segment` does.

First every frame is labelled, its objects are found where a detector is given, and both are kept in a file of their
own; then the results are written in one go. A run that was interrupted or killed goes on when the same command is given
again, and labels no frame twice. Weights, detector, engine, device, intensity rule, truth and source must be those the
run was begun with; anything else is an error.

Nothing is written, and with `force` nothing is removed, before a frame has been labelled. So a run that labels none
leaves everything as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from hashlib import sha256
from pathlib import Path
from shutil import disk_usage
from time import perf_counter
from typing import TYPE_CHECKING, Protocol

import numpy as np

from spvnas_ros.boxes.overlap import BoxError
from spvnas_ros.clouds.point_cloud2 import PointCloudError
from spvnas_ros.errors import UserError
from spvnas_ros.frame import NONE_UNUSABLE, Boxes, Points, Segmentation
from spvnas_ros.kernels.grid import KeyRangeError
from spvnas_ros.palettes import SPVNAS
from spvnas_ros.recordings.bags import BagError
from spvnas_ros.recordings.scans import Cloud, Frame, Record, ScanError, Source
from spvnas_ros.segment.box_files import calibration_files, kitti_scans, placed
from spvnas_ros.segment.gallery import ACCURACY, CONFIDENCE, FIRST, choose, mean_confidence
from spvnas_ros.segment.label_forms import LabelForm
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
from spvnas_ros.segment.picture import RANGES, PicturedBoxes, save_picture
from spvnas_ros.segment.predictions import RUN, Prediction, Predictions
from spvnas_ros.segment.progress import OnFrame, Skipped
from spvnas_ros.segment.stored import Labelled, StoredSegmentation, parts_of_result
from spvnas_ros.segment.summary import RunFacts, Summary, differences
from spvnas_ros.segment.tile_rule import TileRule
from spvnas_ros.segment.tiles import OnStep, Stopped, View, label_tiles, view_of

if TYPE_CHECKING:
    from spvnas_ros.perception import Detector, Perception
    from spvnas_ros.zoo.checkpoint import Facts

FRAME_ERRORS = (ScanError, PointCloudError, KeyRangeError, BoxError)
"""What is wrong with one frame and says nothing of the next."""
_SPOOLED = 60
"""Bytes on disk for each point of a cloud that is cut into tiles, at most; without scores."""
_PICTURED = 2_000_000
"""Points of a large cloud that are enough for a picture, wherever they lie."""
_CHANNELS = 4
"""Values of a point, as `Points` has them."""


class Interrupted(Exception):
    """The run was asked to stop. The labels of `done` of `total` frames are kept, and the same run goes on there.

    within: tells how far the frame at hand is, where it is cut into tiles
    """

    def __init__(self, done: int, total: int, within: str = "") -> None:
        super().__init__(f"{done} of {total} frames are labelled{within}")
        self.done, self.total = done, total


class Judge(Protocol):
    """Compares labels with a truth. `offline.evaluation` has the one that scores them.

    truth: where the truth comes from, in words
    files: that it is read from, where it is not in the frames themselves
    """

    @property
    def truth(self) -> str: ...

    @property
    def files(self) -> Sequence[Path]: ...

    def add(self, frame: Frame, cloud: Cloud, result: Segmentation) -> float | None:
        """Counts a frame, and returns its accuracy; None where it has no truth.

        Raises ValueError where its truth does not fit.
        """
        ...

    def save(self, summary: Summary, out: Path) -> None:
        """Writes the scores beside the other results."""
        ...


@dataclass(frozen=True)
class SegmentOptions:
    """How a recording is labelled.

    weights:   name of the weights, for the summary
    scores:    whether the probabilities of all classes are kept, too
    force:     start again, and replace the results of an earlier run
    judge:     what the labels are compared with; None for nothing
    concerns:  what was said about the recording, for the summary
    palette:   name of the colours in pictures
    detector:  what finds objects beside the labels; None where nothing does, or the network itself
    boxes:     name of its weights, for the summary
    form:      in which form the labels of scans are written
    tiles:     which scans are cut into tiles
    """

    weights: str = ""
    scores: bool = False
    force: bool = False
    judge: Judge | None = None
    concerns: tuple[str, ...] = ()
    palette: str = SPVNAS
    detector: Detector | None = None
    boxes: str = ""
    form: LabelForm = field(default_factory=LabelForm)
    tiles: TileRule = field(default_factory=TileRule)


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
        views = _Views(source, perception, options)
        skipped = _label(source, perception, options, predictions, views, on_frame, on_step, stopped)
        summary = Summary(
            run, perception.facts.name, options.weights, perception.facts.label_map, perception.facts.trained,
            skipped=skipped, boxes=dict.fromkeys(names, 0),
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
            for frame, load, prediction in _labelled(source, predictions, skipped, stopped):
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
                    points, shown = _pictured(frame, load, result, views)
                    _save_picture(out / PICTURE, points, shown, perception.facts, title, summary)
                summary.frames += 1
                summary.names.append(frame.name)
                summary.points += len(result)
                unusable += result.unusable
                summary.ms.append(prediction.ms)
                if boxes is not None:
                    sought = True
                    summary.kitti_frames += frame.name in kitti
                    for kind in boxes.kinds:
                        summary.boxes[kind] += 1
                if prediction.boxes_ms:
                    summary.boxes_ms.append(prediction.boxes_ms)
                if isinstance(result, StoredSegmentation):
                    summary.tiled[result.words] = summary.tiled.get(result.words, 0) + result.tiles
                for part in parts_of_result(result):
                    counts += np.bincount(part.labels, minlength=256)
                on_written(None)
        if not sought:  # nobody may take "not looked for" for "none there"
            summary.detector, summary.boxes = "", {}
        summary.unusable, summary.unusable_words = unusable.counts(), str(unusable)
        summary.pictures = choose(values, ACCURACY if options.judge else CONFIDENCE)
        _save_pictures(source, perception.facts, predictions, views, summary, out)
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


def _save_picture(path: Path, points: Points, result: Segmentation, facts: Facts, title: str, summary: Summary) -> None:
    boxes = None
    if result.boxes is not None:
        boxes = PicturedBoxes(result.boxes, tuple(summary.boxes), summary.detector_trained)
    save_picture(path, points, result.labels, facts, title, summary.run.palette, boxes)


class _Views:
    """How frames that are cut into tiles are seen; each is looked at once."""

    def __init__(self, source: Source, perception: Perception, options: SegmentOptions) -> None:
        self._source, self._perception, self._rule = source, perception, options.tiles
        self._found: dict[str, View | None] = {}

    def of(self, frame: Frame, load: Callable[[], Cloud]) -> View | None:
        """Returns how a frame, which `load` reads, is seen; None where it is not cut. Raises ScanError."""
        if frame.name not in self._found:
            if frame.scan is not None and self._rule.cuts and self._source.sensor.open:
                self._source.look()  # what the rules leave open, all of the recording decides, not a piece
            alone = len(self._source) == 1
            self._found[frame.name] = view_of(
                frame, load, self._perception, self._source.sensor, self._rule, alone=alone
            )
        return self._found[frame.name]


def _judged(judge: Judge, frame: Frame, load: Callable[[], Cloud], result: Labelled, views: _Views) -> float | None:
    """Counts a frame, and returns its accuracy; of one that was cut into tiles, part by part."""
    view = None if isinstance(result, Segmentation) else views.of(frame, load)
    if isinstance(result, Segmentation):
        return judge.add(frame, load(), result)
    assert view is not None
    if judge.files:  # label files, which belong to whole clouds
        return judge.add(frame, _seen_by(view, load().record), result.part(0, len(result)))
    total, weight = 0.0, 0
    for record, part in _with_parts(frame, result):
        value = judge.add(frame, _seen_by(view, record), part)
        if value is not None:
            total, weight = total + value * len(part), weight + len(part)
    return total / weight if weight else None


def _seen_by(view: View, record: Record) -> Cloud:
    return Cloud(view.points(record), record)


def _with_parts(frame: Frame, result: Labelled) -> Iterator[tuple[Record, Segmentation]]:
    """Yields the records of a frame, some points at a time, with their labels."""
    assert frame.scan is not None
    at = 0
    for record in frame.scan.pieces():
        yield record, result.part(at, at + len(record))
        at += len(record)


def _pictured(frame: Frame, load: Callable[[], Cloud], result: Labelled, views: _Views) -> tuple[Points, Segmentation]:
    """Returns what a picture of a frame shows: all of it, or of a large one what lies around its middle."""
    if isinstance(result, Segmentation):
        return load().points, result
    view = views.of(frame, load)
    assert view is not None
    assert frame.scan is not None
    if not frame.scan.large:
        return view.points(load().record), result.part(0, len(result))
    points: list[Points] = []
    labels: list[Segmentation] = []
    step = max(1, len(result) // _PICTURED) | 1
    for record, part in _with_parts(frame, result):
        some = view.points(record)
        with np.errstate(invalid="ignore"):
            near = np.flatnonzero((np.abs(some[:, :2]) < RANGES[-1]).all(axis=1))[::step]
        points.append(some[near])
        labels.append(Segmentation(part.labels[near], part.confidence[near]))
    shown = Segmentation(
        np.concatenate([each.labels for each in labels]), np.concatenate([e.confidence for e in labels])
    )
    return np.concatenate(points), shown


def _save_pictures(
    source: Source, facts: Facts, predictions: Predictions, views: _Views, summary: Summary, out: Path
) -> None:
    """Draws the frames that were chosen when all were known; the first one has its picture already."""
    missing = [picture for picture in summary.pictures if picture.shows != FIRST]
    frames = frames_until_damage(source, lambda *_: None)
    while missing and (frame := next(frames, None)):
        if of_frame := [picture for picture in missing if picture.frame == frame.name]:
            prediction = predictions.find(frame.name)
            assert prediction is not None
            points, shown = _pictured(frame, frame.load, prediction.segmentation, views)
            for picture in of_frame:
                title = picture.title(source.path.name or str(source.path))
                _save_picture(out / picture.file, points, shown, facts, title, summary)
                missing.remove(picture)


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


def _label(
    source: Source,
    perception: Perception,
    options: SegmentOptions,
    predictions: Predictions,
    views: _Views,
    on_frame: OnFrame,
    on_step: OnStep,
    stopped: Callable[[], bool],
) -> list[Skipped]:
    """Labels what is not labelled yet; returns the frames that cannot be."""
    scores, detector = options.scores, options.detector
    skipped: list[Skipped] = []
    warm = False

    def skip(name: str, error: Exception) -> None:
        skipped.append(Skipped(name, str(error)))
        on_frame(skipped[-1])

    for frame in frames_until_damage(source, skip):
        if stopped():
            raise Interrupted(predictions.count(), len(source))
        load = cache(frame.load)
        try:
            if (view := views.of(frame, load)) is not None:
                if detector:
                    raise UserError(
                        f"{frame.name} is cut into tiles ({view.words}), and a detector needs a scan as its sensor saw "
                        "it; leave out --boxes, or label without tiles: --tile off"
                    )
                _label_in_tiles(source, frame, view, options, predictions, on_step, stopped)
                on_frame(None)
                continue
            points = load().points
            if predictions.find(frame.name, len(points)) is None:
                if not warm:
                    # The first call of a process pays for memory and compiled kernels: it is not what is measured.
                    perception(points, scores, boxes=detector is None)
                    if detector:
                        _detected(points, perception, detector, source)
                    warm = True
                begun = perf_counter()
                result = perception(points, scores, boxes=detector is None)
                prediction = Prediction(result, (perf_counter() - begun) * 1e3, result.head_ms or 0.0)
                if detector:
                    begun = perf_counter()
                    result = replace(result, boxes=_detected(points, perception, detector, source))
                    prediction = Prediction(result, prediction.ms, (perf_counter() - begun) * 1e3)
                predictions.keep(frame.name, prediction)
        except FRAME_ERRORS as error:
            skip(frame.name, error)
            continue
        on_frame(None)
    return skipped


def _label_in_tiles(
    source: Source,
    frame: Frame,
    view: View,
    options: SegmentOptions,
    predictions: Predictions,
    on_step: OnStep,
    stopped: Callable[[], bool],
) -> None:
    """Labels a frame tile by tile, unless it is labelled. Raises Interrupted between two tiles, OutputError where the
    disk has no room for it.
    """
    assert frame.scan is not None
    if predictions.find(frame.name) is not None:
        return
    folder, announced = predictions.tiles(frame.name), frame.scan.announced
    free = disk_usage(predictions.folder).free
    if not folder.exists() and announced * _SPOOLED > free:
        raise OutputError(
            f"labelling {announced:,} points tile by tile takes about {announced * _SPOOLED / 1e9:.1f} GB in "
            f"{predictions.folder}, where {free / 1e9:.1f} GB are free; name a folder on another disk"
        )
    try:
        label_tiles(
            folder, frame.scan.pieces(), view, options.tiles.edge,
            announced=announced, scores=options.scores, stopped=stopped, on_step=on_step,
        )  # fmt: skip
    except Stopped as stop:
        within = f", and {stop} of {frame.name}" if stop.total else ""
        raise Interrupted(predictions.count(), len(source), within) from stop


def _detected(points: Points, perception: Perception, detector: Detector, source: Source) -> Boxes:
    """Finds the objects in points that are where the labelling network knows them; the boxes are there, too.

    Where it is known how high the points are above the ground, the detector sees them at the height of its own training
    sensor.
    """
    lift = perception.facts.sensor_height - detector.facts.sensor_height if source.sensor.stands else 0.0
    if not lift:
        return detector(points)
    found = detector(points + np.array([0, 0, lift, 0], np.float32))
    return replace(found, boxes=found.boxes - np.array([0, 0, lift, 0, 0, 0, 0], np.float32))


def _labelled(
    source: Source, predictions: Predictions, skipped: list[Skipped], stopped: Callable[[], bool]
) -> Iterator[tuple[Frame, Callable[[], Cloud], Prediction]]:
    """The labelled frames in order, each with a function that reads its cloud once."""
    left_out = {entry.name for entry in skipped}
    for frame in frames_until_damage(source, lambda *_: None):
        if stopped():
            raise Interrupted(predictions.count(), len(source))
        if frame.name in left_out:
            continue
        prediction = predictions.find(frame.name)
        if prediction is None:
            raise OutputError(f"the labels of frame {frame.name} have vanished from {predictions.folder}")
        yield frame, cache(frame.load), prediction


def frames_until_damage(source: Source, skip: Callable[[str, Exception], None]) -> Iterator[Frame]:
    """Yields the source's frames; a bag that turns out damaged on the way ends there, and `skip` is told."""
    frames = iter(source)
    while True:
        try:
            frame = next(frames, None)
        except BagError as error:
            skip("the rest", error)
            return
        if frame is None:
            return
        yield frame
