"""Runs the demo from beginning to end."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from spvnas_ros.boxes.choice import SURE
from spvnas_ros.demo.looking import LookError, look, missing_viewer
from spvnas_ros.demo.objects_score import ObjectScore, ObjectTally, object_lines
from spvnas_ros.demo.recording import Drive, given_drive, simulated_drive
from spvnas_ros.demo.totals import Tally
from spvnas_ros.demo.weights import Weights, choose_weights
from spvnas_ros.recordings.bags import LABELLED_TOPIC, BagError, BagReader, BagWriter, RecordedCloud
from spvnas_ros.recordings.box_bags import BOXES_TOPIC, TRUE_BOXES_TOPIC, RecordedBoxes, encode_boxes
from spvnas_ros.recordings.message_types import DETECTIONS_TYPE
from spvnas_ros.ros.replay.through_node import NodeOptions
from spvnas_ros.trials.tour import Tour, tour

if TYPE_CHECKING:
    from spvnas_ros.offline.evaluation.metrics import Score

Say = Callable[[str, str], None]
"""Takes a subject and a text about it, and tells the user at once."""

_WITHOUT_LABELS = "label_info is missing: vision_msgs is not built (make messages) or not installed"
_WITHOUT_OBJECTS = "objects are missing: vision_msgs is not built (make messages) or not installed"
_MEANINGLESS = "The network is not trained: its labels mean nothing."


@dataclass(frozen=True)
class Options:
    """What to play and which node to start. `intensity`, `device` and `engine` are the node's parameters.

    bag:     the user's bag; None: simulate `clouds` clouds of a `sensor`
    weights: file or name; None: the weights that ship with the package
    """

    out: Path
    bag: Path | None = None
    weights: str | None = None
    topic: str | None = None
    device: str = "auto"
    engine: str = "auto"
    intensity: str = "auto"
    sensor: str = "hdl64"
    clouds: int = 10


@dataclass(frozen=True)
class Summary:
    """The results of a demo. `summary.json` has the same fields.

    bad:     clouds that could not be labelled, by kind
    ms_*:    milliseconds from publishing a cloud to having its labels
    classes: number of labelled points by class name, the most frequent class first
    miou:    mean IoU against the truth, over the classes that occur in the truth; None without a truth
    iou:     IoU by class name, for the classes that occur in the truth
    truth:   number of points by class name according to the truth, for the classes that occur
    objects: how good the boxes are by class; nothing where the network finds none, or they could not be listened to
    files:   path of each file that was written, by its kind
    viewer:  what did not work in the viewer; "" where it worked, or where it is not installed
    """

    bag: str
    weights: str
    trained: bool
    clouds: int
    points: int
    bad: Mapping[str, int]
    ms_p50: float
    ms_p95: float
    classes: Mapping[str, int]
    node: Tour
    miou: float | None = None
    iou: Mapping[str, float] = field(default_factory=dict)
    truth: Mapping[str, int] = field(default_factory=dict)
    objects: Mapping[str, ObjectScore] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    viewer: str = ""

    @property
    def failed(self) -> bool:
        """Whether the node or the viewer failed. What is not installed does not count."""
        return bool(self.node.status or self.viewer)


def show(options: Options, say: Say) -> Summary:
    """Labels a recording with the real node, reports the results to `say` and writes them below `options.out`.

    The caller must have ROS running (`ros_process`).

    Raises ExchangeError where the node fails. Raises ValueErrors and OSErrors, which give the reason, where something
    cannot be read or written. Where the node fails or a cloud cannot be read, no new labelled bag is written.
    """
    out = options.out
    out.mkdir(parents=True, exist_ok=True)
    weights = choose_weights(options.weights, out, lambda text: say("network", text))
    say("network", str(weights))
    boxes = weights.facts.spec.boxes
    drive = _drive(options, say, boxed=boxes is not None)
    say("drive", drive.what)
    objects = ObjectTally(boxes, drive.true_boxes()) if boxes else None
    tally = Tally(weights.facts, drive.truth(weights.facts), options.intensity, objects)
    say("node", "starting; on a machine's first run it compiles its kernels, up to a minute")
    node = _play(drive, weights, options, tally)
    for line in _node_lines(node, out / "node.log"):
        say(*line)
    found = tally.score()
    for line in _label_lines(tally, found, trained=weights.facts.trained):
        say(*line)
    for line in _object_lines(node, objects, trained=weights.facts.trained):
        say(*line)
    name = options.bag.name if options.bag else f"simulated {options.sensor}"
    pictures = tally.save_pictures(name, out / "picture.png", out / "truth.png")
    files = {"labelled bag": str(out / "labelled"), **{path.stem: str(path) for path in pictures}}
    screenshot, problem = _view(out / "labelled", out / "viewer.png", say)
    if screenshot:
        files["screenshot"] = str(screenshot)
    for kind, path in files.items():
        say(kind, path)
    say("look", f"{_command()} view {out / 'labelled'}")
    summary = replace(_summary(options, drive, weights, tally, found, node), files=files, viewer=problem)
    (out / "summary.json").write_text(json.dumps(asdict(summary), indent=2) + "\n")
    return summary


def _drive(options: Options, say: Say, *, boxed: bool) -> Drive:
    if options.bag is not None:
        return given_drive(options.bag, options.topic)
    say("drive", f"simulating {options.clouds} clouds of a street")
    return simulated_drive(options.out, options.sensor, options.clouds, lambda text: say("drive", text), boxed=boxed)


def _play(drive: Drive, weights: Weights, options: Options, tally: Tally) -> Tour:
    parameters = NodeOptions(str(weights.path.absolute()), options.device, options.engine, options.intensity)
    with (
        BagReader(drive.bag, drive.topic) as reader,
        BagWriter(options.out / "labelled", reader.storage, force=True) as writer,
    ):

        def on_answer(recorded: RecordedCloud, labelled: RecordedCloud, ms: float, found: RecordedBoxes | None) -> None:
            tally.count(recorded, labelled, ms)
            writer.write(LABELLED_TOPIC, labelled.raw, labelled.stamp)
            if found is not None:
                writer.write(BOXES_TOPIC, encode_boxes(found), labelled.stamp, DETECTIONS_TYPE)
                if (true := tally.count_boxes(recorded, found)) is not None:
                    writer.write(TRUE_BOXES_TOPIC, encode_boxes(true), labelled.stamp, DETECTIONS_TYPE)

        log, boxed = options.out / "node.log", tally.objects is not None
        node = tour(tally.readable(reader), parameters, log, on_answer, boxed=boxed)
        if not tally.ms:
            raise BagError(f"{drive.bag} has no cloud that can be labelled; skipped: {dict(tally.bad) or 'none'}")
    return node


def _node_lines(node: Tour, log: Path) -> Iterator[tuple[str, str]]:
    yield "node", f"{' > '.join(node.states)}, ended with status {node.status} ({log})"
    came = ", ".join(f"{count} {topic}" for topic, count in node.clouds.items())
    came += "" if node.objects is None else f", {node.objects} objects"
    yield "topics", f"{came}, {node.reports} diagnostics; filtered_points keeps {node.kept:.0%} (no ground)"
    yield "times", ", ".join(f"{stage} {ms:.1f}" for stage, ms in node.times_ms.items()) + " ms (median)"
    counts = ", ".join(f"{node.counts.get(name, '?')} {name}" for name in ("dropped", "bad"))
    yield "health", f"node: {node.health.get('node', '?')}; intensity: {node.health.get('intensity', '?')}; {counts}"
    if node.labels is None:
        yield "classes", _WITHOUT_LABELS
    else:
        entries = [f"{label} {name}" for label, name in node.labels.items()]
        yield "classes", f"label_info (vision_msgs, latched): {len(entries)} names, {entries[0]} .. {entries[-1]}"


def _label_lines(tally: Tally, found: Score | None, *, trained: bool) -> Iterator[tuple[str, str]]:
    p50, p95 = np.percentile(tally.ms, [50, 95])
    points = sum(tally.classes().values())
    yield "labels", f"{len(tally.ms)} clouds, {points} points; {p50:.0f} ms from publishing a cloud (p95 {p95:.0f})"
    for kind, count in tally.bad.items():
        yield "skipped", f"{count} clouds that cannot be labelled ({kind})"
    if found is None:
        yield "score", "no truth to compare with: the clouds have no label field, or only a network's"
    elif found.miou is not None:
        yield "score", f"mIoU {found.miou:.1%} over the {len(_occurring(found))} classes that occur in the truth"
    for line in _class_lines(tally.classes(), found):
        yield "", line
    if not trained:
        yield "", _MEANINGLESS


def _object_lines(node: Tour, objects: ObjectTally | None, *, trained: bool) -> Iterator[tuple[str, str]]:
    if objects is None:
        return
    if node.objects is None:
        yield "objects", _WITHOUT_OBJECTS
        return
    scores = objects.scores()
    total = sum(each.found for each in scores.values())
    compared = any(each.objects is not None for each in scores.values())
    how = "AP of all: the mean over centres within 0.5, 1, 2 and 4 m" if compared else "no true boxes to compare with"
    yield "objects", f"{total} boxes of score {SURE:g} or more in {node.objects} clouds; {how}"
    for line in object_lines(scores, trained=trained):
        yield "", line


def _class_lines(predicted: Mapping[str, int], found: Score | None) -> Iterator[str]:
    """Yields the lines of a table of the classes that the network or the truth has, most points first."""
    total = max(sum(predicted.values()), 1)
    header = f"{'class':<14}{'predicted':>12}{'share':>8}"
    yield header + (f"{'in the truth':>14}{'IoU':>8}" if found else "")
    iou = _occurring(found) if found else {}
    for name, count in sorted((dict.fromkeys(iou, 0) | dict(predicted)).items(), key=lambda each: -each[1]):
        line = f"{name:<14}{count:>12,}{count / total:>8.1%}"
        if found and name in iou:
            line += f"{found.truth_points[name]:>14,}{iou[name]:>8.1%}"
        elif found and name in found.iou:
            line += f"{'absent':>14}{'-':>8}"
        yield line
    if found and (missing := [name for name in found.iou if name not in iou and name not in predicted]):
        yield f"neither predicted nor in the truth: {', '.join(missing)}"


def _occurring(found: Score) -> dict[str, float]:
    return {name: value for name, value in found.iou.items() if value is not None}


def _view(bag: Path, picture: Path, say: Say) -> tuple[Path | None, str]:
    """Returns the screenshot or None, and what did not work or "". What is not installed is no failure."""
    if problem := missing_viewer():
        say("viewer", f"left out: {problem}")
        return None, ""
    try:
        seen = look(bag, picture)
    except LookError as error:
        say("viewer", f"did not work: {error}")
        return None, str(error)
    if seen.screenshot is None:
        say("viewer", f"its page answered; no screenshot: {seen.why_not}")
    else:
        say("viewer", "its page answered, and Chromium drew it")
    return seen.screenshot, ""


def _command() -> str:
    """Returns the command that starts `spvnas` from the working directory."""
    beside = Path(sys.executable).with_name("spvnas")
    if not beside.is_file():
        return f"{Path(sys.executable).name} -m spvnas_ros.cli"
    return os.path.relpath(beside) if beside.is_relative_to(Path.cwd()) else str(beside)


def _summary(
    options: Options,
    drive: Drive,
    weights: Weights,
    tally: Tally,
    found: Score | None,
    node: Tour,
) -> Summary:
    p50, p95 = np.percentile(tally.ms, [50, 95])
    classes = tally.classes()
    return Summary(
        bag=str(drive.bag),
        weights=str(options.weights or weights.path),
        trained=weights.facts.trained,
        clouds=len(tally.ms),
        points=sum(classes.values()),
        bad=dict(tally.bad),
        ms_p50=round(float(p50), 2),
        ms_p95=round(float(p95), 2),
        classes=classes,
        node=node,
        miou=found.miou if found else None,
        iou=_occurring(found) if found else {},
        truth={name: count for name, count in found.truth_points.items() if count} if found else {},
        objects=tally.objects.scores() if tally.objects and node.objects is not None else {},
    )
