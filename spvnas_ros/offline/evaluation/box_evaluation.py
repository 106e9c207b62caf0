"""Score files of boxes against the truth: what `spvnas evaluate --boxes` does."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

from spvnas_ros.boxes.conversions import from_kitti_camera
from spvnas_ros.errors import UserError
from spvnas_ros.frame import Boxes
from spvnas_ros.offline.evaluation.box_ap import BoxFrame, average_precisions
from spvnas_ros.offline.evaluation.box_report import BoxReport, describe_boxes
from spvnas_ros.offline.evaluation.curves_picture import save_curves
from spvnas_ros.offline.evaluation.kitti import OFFICIAL, KittiConfig, KittiFrame, evaluate_kitti
from spvnas_ros.offline.evaluation.kitti.kitti_algorithm import share_unlabelled
from spvnas_ros.recordings.kitti_objects import KittiObjects, read_objects
from spvnas_ros.segment.output import REPORT

CURVES = "curves.png"
"""Name of the picture."""
_LABELS, _TRAINING = "label_2", "training"
_LEVEL = np.array([[0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1.0]])
"""The camera's frame from one at the same place with x ahead, y left and z up."""


class BoxesError(UserError):
    """Folders that cannot be compared. The message names what is missing."""


def evaluate_boxes(source: Path, predictions: Path, config: KittiConfig = OFFICIAL) -> BoxReport:
    """Compares a folder of KITTI's results with KITTI's labels.

    source:      KITTI's folder, its `training`, or `label_2` itself; simulated ones too
    predictions: a folder of NNNNNN.txt. Only frames with such a file, which may be empty, are evaluated

    Raises BoxesError where there are no labels or results or a label is missing, KittiFileError that names file and
    line where one is malformed, OSError where one cannot be read.
    """
    labels = _labels(source)
    if not predictions.is_dir():
        raise BoxesError(f"{predictions} is no folder, expected one with a file of KITTI's results for each frame")
    files = sorted(predictions.glob("*.txt"))
    if not files:
        raise BoxesError(f"{predictions} has no .txt files, expected KITTI's results, such as 000007.txt")
    if predictions.resolve() == labels.resolve():
        raise BoxesError(f"{predictions} holds the truth itself, expected a folder of results")
    if missing := [path for path in files if not (labels / path.name).is_file()]:
        raise BoxesError(
            f"{missing[0]} has no truth: {labels / missing[0].name} is missing ({len(missing)} of {len(files)} files)"
        )
    frames = [
        KittiFrame(path.stem, read_objects(labels / path.name, scored=False), read_objects(path, scored=True))
        for path in files
    ]
    return BoxReport(
        source=str(source),
        predictions=str(predictions),
        frames=len(frames),
        without_results=len({path.name for path in labels.glob("*.txt")} - {path.name for path in files}),
        kitti=evaluate_kitti(frames, config),
        around=average_precisions([box_frame(each, config) for each in frames], [c.name for c in config.classes]),
    )


def box_frame(frame: KittiFrame, config: KittiConfig = OFFICIAL) -> BoxFrame:
    """Returns a frame as it lies around the camera: x ahead, y left, z up.

    Every labelled object of a class counts, however small or hidden. Neighbouring classes are ignored, and detections
    in a region without labels, by KITTI's rule, are excused.
    """
    names = [rule.name.lower() for rule in config.classes]
    neighbours = {rule.neighbour.lower(): index for index, rule in enumerate(config.classes) if rule.neighbour}
    indices = {name: index for index, name in enumerate(names)}
    truth, which = _boxes(frame.truth, indices | neighbours)
    found, those = _boxes(frame.found, indices)
    kinds = np.array([kind.lower() for kind in frame.truth.kinds], np.str_)[which]
    least = np.array([config.classes[index].overlap for index in found.classes])
    return BoxFrame(frame.name, truth, found, np.isin(kinds, list(neighbours)), share_unlabelled(frame)[those] > least)


def run_boxes(source: Path, predictions: Path, *, out: Path | None = None, as_json: bool = False) -> int:
    """`evaluate_boxes` as a command: prints tables, or with `as_json` the report as one JSON object and nothing else.

    out: a folder for report.json and curves.png

    Returns the exit status: 0; 1 where no class has a figure.
    """
    if out and out.exists() and not out.is_dir():
        raise BoxesError(f"{out} is a file, expected a folder for the report")
    report = evaluate_boxes(source, predictions)
    if out:
        out.mkdir(parents=True, exist_ok=True)
        save_curves(out / CURVES, report.kitti, report.around, f"{predictions.name} against {source.name}")
        report.save(out)
    if as_json:
        print(json.dumps(report.document()))
    else:
        console = Console(soft_wrap=True, highlight=False, markup=False)
        for part in describe_boxes(report):
            console.print(part)
        if out:
            console.print(f"{out / REPORT}, {out / CURVES}")
    return 0 if report.figures else 1


def _labels(source: Path) -> Path:
    for folder in (source / _TRAINING / _LABELS, source / _LABELS, source):
        if folder.is_dir() and (folder.name == _LABELS or any(folder.glob("*.txt"))):
            return folder
    raise BoxesError(f"{source} has no folder {_LABELS}, expected KITTI's folder, its {_TRAINING} or {_LABELS} itself")


def _boxes(objects: KittiObjects, indices: dict[str, int]) -> tuple[Boxes, Sequence[int]]:
    """Returns the boxes of some kinds, with their class, and which objects they are."""
    there = objects.has_box
    which = [i for i, kind in enumerate(objects.kinds) if kind.lower() in indices and there[i]]
    boxes = from_kitti_camera(objects.camera[which], _LEVEL).astype(np.float32)
    classes = np.array([indices[objects.kinds[i].lower()] for i in which], np.uint8)
    return Boxes(boxes, objects.scores[which].astype(np.float32), classes), which
