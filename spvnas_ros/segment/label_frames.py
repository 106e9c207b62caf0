"""Labels the frames of a recording one after the other, and keeps what comes out in `Predictions`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from shutil import disk_usage
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from spvnas_ros.boxes.overlap import BoxError
from spvnas_ros.clouds.point_cloud2 import PointCloudError
from spvnas_ros.errors import UserError
from spvnas_ros.frame import Boxes, Points
from spvnas_ros.kernels.grid import KeyRangeError
from spvnas_ros.recordings.scans import Cloud, Frame, ScanError, Source
from spvnas_ros.segment.output import OutputError
from spvnas_ros.segment.predictions import Prediction, Predictions
from spvnas_ros.segment.progress import OnFrame, Skipped
from spvnas_ros.segment.run_frames import Views, frames_until_damage
from spvnas_ros.segment.run_options import SegmentOptions
from spvnas_ros.segment.tiles import OnStep, Stopped, View, label_tiles

if TYPE_CHECKING:
    from spvnas_ros.perception import Detector, Perception

FRAME_ERRORS = (ScanError, PointCloudError, KeyRangeError, BoxError)
"""What is wrong with one frame and says nothing of the next."""
_SPOOLED = 60
"""Bytes on disk for each point of a cloud that is cut into tiles, at most; without scores."""


class Interrupted(Exception):
    """The run was asked to stop. The labels of `done` of `total` frames are kept, and the same run goes on there.

    within: tells how far the frame at hand is, where it is cut into tiles
    """

    def __init__(self, done: int, total: int, within: str = "") -> None:
        super().__init__(f"{done} of {total} frames are labelled{within}")
        self.done, self.total = done, total


def label_frames(
    source: Source,
    perception: Perception,
    options: SegmentOptions,
    predictions: Predictions,
    views: Views,
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


def labelled_frames(
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
