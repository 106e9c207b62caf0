"""Pictures of a run's frames: what of a frame is shown, and under which title."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from spvnas_ros.frame import Points, Segmentation
from spvnas_ros.recordings.scans import Cloud, Frame, Source
from spvnas_ros.segment.gallery import FIRST
from spvnas_ros.segment.picture import RANGES, PicturedBoxes, save_picture
from spvnas_ros.segment.predictions import Predictions
from spvnas_ros.segment.run_frames import Views, frames_until_damage, with_parts
from spvnas_ros.segment.stored import Labelled
from spvnas_ros.segment.summary import Summary

if TYPE_CHECKING:
    from spvnas_ros.zoo.checkpoint import Facts

_PICTURED = 2_000_000
"""Points of a large cloud that are enough for a picture, wherever they lie."""


def save_one(path: Path, points: Points, result: Segmentation, facts: Facts, title: str, summary: Summary) -> None:
    boxes = None
    if result.boxes is not None:
        boxes = PicturedBoxes(result.boxes, tuple(summary.boxes), summary.detector_trained)
    save_picture(path, points, result.labels, facts, title, summary.run.palette, boxes)


def pictured(frame: Frame, load: Callable[[], Cloud], result: Labelled, views: Views) -> tuple[Points, Segmentation]:
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
    for record, part in with_parts(frame, result):
        some = view.points(record)
        with np.errstate(invalid="ignore"):
            near = np.flatnonzero((np.abs(some[:, :2]) < RANGES[-1]).all(axis=1))[::step]
        points.append(some[near])
        labels.append(Segmentation(part.labels[near], part.confidence[near]))
    shown = Segmentation(
        np.concatenate([each.labels for each in labels]), np.concatenate([e.confidence for e in labels])
    )
    return np.concatenate(points), shown


def save_chosen(
    source: Source, facts: Facts, predictions: Predictions, views: Views, summary: Summary, out: Path
) -> None:
    """Draws the frames that were chosen when all were known; the first one has its picture already."""
    missing = [picture for picture in summary.pictures if picture.shows != FIRST]
    frames = frames_until_damage(source, lambda *_: None)
    while missing and (frame := next(frames, None)):
        if of_frame := [picture for picture in missing if picture.frame == frame.name]:
            prediction = predictions.find(frame.name)
            assert prediction is not None
            points, shown = pictured(frame, frame.load, prediction.segmentation, views)
            for picture in of_frame:
                title = picture.title(source.path.name or str(source.path))
                save_one(out / picture.file, points, shown, facts, title, summary)
                missing.remove(picture)
