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
from spvnas_ros.offline.datasets.open import is_bag
from spvnas_ros.offline.evaluation.box_ap import BoxFrame, average_precisions
from spvnas_ros.offline.evaluation.box_report import BoxReport, describe_boxes
from spvnas_ros.offline.evaluation.curves_picture import save_curves
from spvnas_ros.offline.evaluation.kitti import OFFICIAL, KittiConfig, KittiFrame, evaluate_kitti
from spvnas_ros.offline.evaluation.kitti.kitti_algorithm import share_unlabelled
from spvnas_ros.recordings.box_bags import RecordedBoxes, boxes_topic, in_seconds, read_boxes
from spvnas_ros.recordings.kitti_objects import KittiObjects, read_objects
from spvnas_ros.segment.output import BAG, BOXES, KITTI, REPORT, SUMMARY

_MOST_CLASSES = 255
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


def evaluate_bags(source: Path, predictions: Path, truth: str | None, topic: str | None) -> BoxReport:
    """Compares Detection3DArray messages with the true ones of the same stamp: AP around the sensor, all classes.

    source, truth:      the bag with the truth, and its topic; None where there is one only
    predictions, topic: the bag with the results, which may be the same, and their topic

    Raises BagError where a bag cannot be read or a message is no boxes, BoxesError where both are one topic, no result
    has a truth, a stamp comes twice, or the two are in different frames.
    """
    truth, topic = boxes_topic(source, truth, "--truth"), boxes_topic(predictions, topic, "--topic")
    if source.resolve() == predictions.resolve() and truth == topic:
        raise BoxesError(
            f"{topic} of {source} would be compared with itself, expected the topic of the results (--topic)"
        )
    true, theirs = _by_stamp(source, read_boxes(source, truth)), _by_stamp(predictions, read_boxes(predictions, topic))
    both = sorted(true.keys() & theirs.keys())
    if not both:
        raise BoxesError(
            f"none of the {len(theirs)} message(s) of {predictions} has the stamp of one of the {len(true)} of {source}"
        )
    for stamp in both:
        frames = true[stamp].frame_id, theirs[stamp].frame_id
        if frames[0] != frames[1]:
            raise BoxesError(
                f"at stamp {in_seconds(stamp)} the truth is in the frame {frames[0]!r} and the result in "
                f"{frames[1]!r}; expected one frame, the sensor's"
            )
    names = sorted({name for stamp in both for each in (true, theirs) for name in each[stamp].names})
    if len(names) > _MOST_CLASSES:
        raise BoxesError(f"the boxes have {len(names)} classes, expected {_MOST_CLASSES} at most")
    compared = [BoxFrame(str(stamp), _named(true[stamp], names), _named(theirs[stamp], names)) for stamp in both]
    return BoxReport(
        source=str(source),
        predictions=str(predictions),
        frames=len(both),
        without_results=len(true) - len(both),
        without_truth=len(theirs) - len(both),
        kitti=(),
        around=average_precisions(compared, names),
    )


def run_boxes(
    source: Path,
    predictions: Path,
    *,
    truth: str | None = None,
    topic: str | None = None,
    sequences: str | None = None,
    device: str = "auto",
    track: bool = False,
    posed: bool = True,
    every: int = 1,
    out: Path | None = None,
    as_json: bool = False,
) -> int:
    """Compares folders of KITTI's files, or bags, or what a network finds, as a command: prints tables, or with
    `as_json` the report as one JSON object and nothing else.

    predictions: may be a folder that `spvnas segment --boxes` filled, or a network, too
    truth, topic: of bags, see `evaluate_bags`
    sequences, device: of a network, see `evaluate_network`
    track, posed, every: whether the boxes are followed, and how: see `evaluate_tracks`
    out: a folder for report.json and curves.png

    Returns the exit status: 0; 1 where there is no figure, or scans were left out.
    """
    if out and out.exists() and not out.is_dir():
        raise BoxesError(f"{out} is a file, expected a folder for the report")
    network = is_network(predictions)
    if not track and (not posed or every != 1):
        raise BoxesError("--no-poses and --every say how boxes are followed; they go with --track")
    if track:
        if truth or topic:
            raise BoxesError("--truth and --topic are of bags, and --track follows boxes through simulated drives")
        from spvnas_ros.offline.evaluation.track_evaluation import run_tracks  # torch takes seconds

        return run_tracks(
            source,
            predictions,
            network=network,
            sequences=sequences,
            device=device,
            posed=posed,
            every=every,
            out=out,
            as_json=as_json,
        )
    if not network and (sequences is not None or device != "auto"):
        raise BoxesError(f"{predictions} is no network; --sequences and --device go with a network's boxes")
    predictions = _of_a_run(predictions)
    if network:
        if truth or topic:
            raise BoxesError("--truth and --topic are of bags, and a network is scored on scans with boxes")
        from spvnas_ros.offline.evaluation.box_network import network_report  # torch takes seconds

        report = network_report(source, predictions, sequences=sequences, device=device)
    elif is_bag(source):
        if not is_bag(predictions):
            raise BoxesError(f"{source} is a bag and {predictions} is none, expected a bag with the results")
        if source.resolve() == predictions.resolve() and truth is not None and truth == topic:
            raise BoxesError(
                f"--truth and --topic are both {truth}, expected the topics of the truth and of the results"
            )
        report = evaluate_bags(source, predictions, truth, topic)
    elif truth or topic:
        raise BoxesError(f"{source} is no bag, so there are no topics to name with --truth or --topic")
    else:
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
    return 0 if report.scored and not report.skipped else 1


def is_network(predictions: Path) -> bool:
    """Tells whether what is to be scored is a network and not its boxes: a file of weights, or a fetched one's name."""
    return predictions.suffix == ".safetensors" or (len(predictions.parts) == 1 and not predictions.exists())


def _of_a_run(predictions: Path) -> Path:
    """Returns where a run of `spvnas segment` has left its boxes; the path itself where it is no run's folder."""
    if not (predictions / SUMMARY).is_file():
        return predictions
    if found := next((place for place in (predictions / BAG, predictions / KITTI) if place.is_dir()), None):
        return found
    if (predictions / BOXES).is_dir():
        raise BoxesError(
            f"{predictions} holds a run of `spvnas segment` whose boxes are in {BOXES}/*.json alone: KITTI's results "
            "are written for scans with a calibration (velodyne/NAME.bin with calib/NAME.txt beside it)"
        )
    raise BoxesError(
        f"{predictions} holds a run of `spvnas segment` that has left no boxes to score: it needs --boxes or weights "
        "that find boxes, and a bag or scans of KITTI (velodyne/NAME.bin with calib/NAME.txt beside it)"
    )


def _labels(source: Path) -> Path:
    for folder in (source / _TRAINING / _LABELS, source / _LABELS, source):
        if folder.is_dir() and (folder.name == _LABELS or any(folder.glob("*.txt"))):
            return folder
    raise BoxesError(f"{source} has no folder {_LABELS}, expected KITTI's folder, its {_TRAINING} or {_LABELS} itself")


def _by_stamp(path: Path, messages: Sequence[RecordedBoxes]) -> dict[int, RecordedBoxes]:
    found = {message.stamp: message for message in messages}
    if len(found) < len(messages):
        raise BoxesError(
            f"{path} has {len(messages)} messages of boxes with {len(found)} stamps, expected one for each stamp"
        )
    return found


def _named(recorded: RecordedBoxes, names: Sequence[str]) -> Boxes:
    classes = np.array([names.index(name) for name in recorded.names], np.uint8)
    return Boxes(recorded.boxes.astype(np.float32), recorded.scores.astype(np.float32), classes)


def _boxes(objects: KittiObjects, indices: dict[str, int]) -> tuple[Boxes, Sequence[int]]:
    """Returns the boxes of some kinds, with their class, and which objects they are."""
    there = objects.has_box
    which = [i for i, kind in enumerate(objects.kinds) if kind.lower() in indices and there[i]]
    boxes = from_kitti_camera(objects.camera[which], _LEVEL).astype(np.float32)
    classes = np.array([indices[objects.kinds[i].lower()] for i in which], np.uint8)
    return Boxes(boxes, objects.scores[which].astype(np.float32), classes), which
