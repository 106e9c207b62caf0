"""`spvnas replay`: joins two rooms that know nothing of each other. `ros/` plays and answers, `offline/` scores."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import numpy as np
from rich.console import Console
from rich.table import Table

from spvnas_ros.clouds.intensity import Intensity
from spvnas_ros.clouds.mount import Mount, PlaceRule
from spvnas_ros.offline.evaluation.metrics import Labels, Score, confusion_matrix, score
from spvnas_ros.offline.evaluation.truth import Truth, open_truth
from spvnas_ros.recordings.bags import BagReader
from spvnas_ros.recordings.files import replacing
from spvnas_ros.recordings.scans import Source, open_source
from spvnas_ros.ros.live.available import RosMissingError
from spvnas_ros.segment.first_look import first_look, tell
from spvnas_ros.segment.output import REPORT, OutputError, check_folder
from spvnas_ros.segment.progress import INTERRUPTED, progress_bar
from spvnas_ros.segment.run_frames import frames_until_damage
from spvnas_ros.zoo.cache import resolve_weights
from spvnas_ros.zoo.checkpoint import load_checkpoint

if TYPE_CHECKING:
    from spvnas_ros.offline.datasets import LabelField
    from spvnas_ros.ros.replay.replay_statistics import Replay, Spread
    from spvnas_ros.zoo.checkpoint import Facts


@dataclass(frozen=True)
class ReplayOptions:
    """Which bag through which node; the node's parameters `device`, `engine`, `precision`, `intensity` and
    `intensity_field`.

    truth: a field of the clouds, or a folder of .label files
    origin, mount: as the options have them
    quiet: nothing is said about clouds that do not fit the network
    boxes: whether the node looks for objects, where its network finds any
    """

    bag: Path
    weights: str
    out: Path
    rate: float = 1.0
    topic: str | None = None
    truth: LabelField | Path | None = None
    device: str = "auto"
    engine: str = "auto"
    intensity: str = "auto"
    intensity_field: str | None = None
    origin: str | None = None
    mount: str | None = None
    quiet: bool = False
    boxes: bool = True
    precision: str = "auto"


class KeptLabels:
    """Labels of answered clouds, by the clouds' numbers, in a file: a long drive's do not fit in memory.

    file: new, open for writing and reading
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._places: dict[int, tuple[int, int]] = {}

    def keep(self, number: int, labels: Labels) -> None:
        """Append the labels of a cloud, uint8 `[N]`."""
        self._places[number] = self._file.seek(0, 2), self._file.write(labels.tobytes())

    def find(self, number: int) -> Labels | None:
        """The labels of a cloud, None where none came."""
        if number not in self._places:
            return None
        at, size = self._places[number]
        self._file.seek(at)
        return np.frombuffer(self._file.read(size), np.uint8)


def run(options: ReplayOptions, *, force: bool = False) -> int:
    """Play, print the figures, write `report.json`. Returns the exit status: 1 where no cloud was answered.

    Raises OutputError, RosMissingError and whatever weights, bag, truth or node raise; all are ValueErrors or OSErrors.
    """
    from spvnas_ros.ros.process.lifetime import StartError, StopRequested

    with open_source(options.bag, intensity="none", topic=options.topic) as source:
        _check(source, options.out, force=force)
        weights = resolve_weights(options.weights)
        _, facts = load_checkpoint(weights)
        place = _place(source, options, facts)
        truth = open_truth(source.path, source.topic, options.truth, facts) if options.truth else None
        options.out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=options.out) as file:
            labels = KeptLabels(file)
            try:
                boxes = options.boxes and facts.spec.boxes is not None
                figures = _play(source, weights, options, place, labels if truth else None, boxes=boxes)
            except StopRequested:
                return INTERRUPTED
            except StartError as error:
                raise RosMissingError(str(error)) from error
            found = _score(source, truth, labels, facts) if truth else None
    console = Console(soft_wrap=True, highlight=False, markup=False)
    for part in (counts(figures), "", table(figures), ""):
        console.print(part)
    for line in lines(figures, found, facts):
        console.print(line)
    document = _document(figures, options, source, facts, truth, found)
    with replacing(options.out / REPORT) as report:
        report.write(json.dumps(document, indent=2).encode() + b"\n")
    console.print(str(options.out / REPORT))
    return 0 if figures.answered else 1


def _place(source: Source, options: ReplayOptions, facts: Facts) -> dict[str, str | float]:
    """Looks at the bag's clouds, and returns the node's parameters that say where the sensor is."""
    rule, place = Intensity(options.intensity, options.intensity_field), PlaceRule.parse(options.origin, options.mount)
    with open_source(source.path, intensity=rule, topic=source.topic, place=place) as looked:
        looked.sensor.suit(facts.sensor_height)
        tell([*looked.remarks, *first_look(looked.look(), looked.sensor, facts)], quiet=options.quiet)
        mount = looked.sensor.place.mount
    if not isinstance(mount, Mount):  # there is no cloud to see the ground in
        return {}
    found: dict[str, str | float] = {f"mount.{name}": getattr(mount, name) for name in ("roll", "pitch", "yaw")}
    return found | ({} if mount.z is None else {"mount.z": mount.z}) | {"origin": options.origin or ""}


def _play(
    source: Source,
    weights: Path,
    options: ReplayOptions,
    place: dict[str, str | float],
    labels: KeptLabels | None,
    *,
    boxes: bool,
) -> Replay:
    from spvnas_ros.ros.replay.through_node import NodeOptions, can_hear_objects, replay

    if boxes and not can_hear_objects():
        tell(["objects are left out: vision_msgs is not built (make messages) or not installed"], quiet=options.quiet)
        boxes = False
    field = options.intensity_field or ""
    network = (str(weights.absolute()), options.device, options.engine)
    node = NodeOptions(*network, options.intensity, field, options.precision, place)
    with BagReader(source.path, source.topic) as clouds, progress_bar(len(source), "playing") as on_sent:
        return replay(
            clouds,
            node,
            kind=clouds.type,
            rate=options.rate,
            on_sent=lambda: on_sent(None),
            on_labels=labels.keep if labels else None,
            boxes=boxes,
        )


_STAGES: Final = {
    "decode": "From the message to points.",
    "preprocess": "The points made ready for the network.",
    "inference": "The network.",
    "box_head": "Of inference, what finds boxes.",
    "postprocess": "From the network's answer to messages.",
    "publish": "Sending the messages.",
    "total": "From the cloud's arrival at the node to its last message, waiting included.",
}
"""What the node's times are, by the names of its timing topics."""


def table(figures: Replay) -> Table:
    """Returns the table of times, milliseconds."""
    result = Table(box=None, padding=(0, 2, 0, 0))
    result.add_column("time", no_wrap=True)
    for title in ("median", "95 %", "99 %", "longest"):
        result.add_column(title, justify="right", no_wrap=True)
    for name, (spread, _) in _times(figures).items():
        values = (spread.p50, spread.p95, spread.p99, spread.max) if spread else ()
        result.add_row(name, *(f"{value:.1f} ms" for value in values) if values else ("-",) * 4)
    return result


def _times(figures: Replay) -> dict[str, tuple[Spread | None, str]]:
    """Returns the rows of the table of times, each with a sentence that says what it is."""
    objects = figures.boxes_ms is not None
    rows = {
        "labels": (figures.latency_ms, "From sending a cloud until its labels were back."),
        **({"objects": (figures.boxes_ms, "From sending a cloud until its objects were back.")} if objects else {}),
        "age": (figures.age_ms, "How old the cloud of the newest labels was, at all moments of the drive."),
    }
    early = " Labels are sent before objects are sought, so they may be back sooner." if objects else ""
    names = sorted(figures.stages_ms, key=list(_STAGES).index)
    for name, spread in ((name, figures.stages_ms[name]) for name in names):
        words = _STAGES[name] + (early if name == "total" else "")
        rows[f"node {name}"] = spread, words
    return rows


def counts(figures: Replay) -> Table:
    """Returns the table of clouds: how many were sent, and what became of each; each row ends in a sentence."""
    result = Table(box=None, padding=(0, 2, 0, 0))
    result.add_column("clouds", no_wrap=True)
    result.add_column("count", justify="right", no_wrap=True)
    result.add_column("", no_wrap=True)
    rate = f" at {figures.hertz:.1f} Hz" if figures.hertz else ""
    others = figures.sent - figures.answered - figures.dropped - figures.lost - figures.bad
    rows = {
        "sent": (figures.sent, f"Sent to the node{rate}; the rows below add up to these."),
        "answered": (figures.answered, "Their labels came back."),
        "dropped": (figures.dropped, "The node was busy, and took a newer cloud instead."),
        "lost": (figures.lost, "They did not reach the node."),
        "bad": (figures.bad, "The node could not label them; its log says why."),
        **({"unanswered": (others, "They reached the node, and no labels came back.")} if others > 0 else {}),
    }
    for name, (count, words) in rows.items():
        result.add_row(name, f"{count:,}", words)
    return result


def lines(figures: Replay, found: Score | None, facts: Facts) -> Iterator[str]:
    """Yields what is in no table: a sentence for each row of times, and what else there is to say."""
    rows = _times(figures)
    width = max(map(len, rows))
    for name, (_, words) in rows.items():
        yield f"{name:<{width}}  {words}"
    yield "Half of the values are the median or less; 95 % of them are what is under 95 %, or less."
    if figures.hertz and figures.late_ms > 1e3 / figures.hertz:
        yield f"The player was up to {figures.late_ms:.0f} ms late: this machine does not keep the rate by itself."
    if found and found.miou is not None:
        occur = sum(value is not None for value in found.iou.values())
        yield f"mIoU {found.miou:.1%} over {occur} of {len(found.iou)} classes, on the clouds that were answered"
    if facts.spec.boxes is not None and figures.boxes_ms is None:
        yield "Nobody listened to objects, so the node looked for none."
    if not facts.trained:
        yield "These weights are untrained: the labels mean nothing."


def _check(source: Source, out: Path, *, force: bool) -> None:
    if source.kind != "bag":
        raise OutputError(f"{source.path} is a {source.kind} of scans, expected a rosbag2")
    check_folder(out)
    if (out / REPORT).exists() and not force:
        raise OutputError(f"{out / REPORT} would be replaced; name another folder, or replace with --force")


def _score(source: Source, truth: Truth, kept: KeptLabels, facts: Facts) -> Score:
    confusion = np.zeros((facts.num_classes, facts.num_classes + 1), np.int64)
    for frame in frames_until_damage(source, lambda *_: None):
        labels = kept.find(int(frame.name))
        if labels is not None:
            confusion += confusion_matrix(truth.read(frame.name, frame.load().record), labels, facts.num_classes)
    return score(confusion, facts.classes)


def _document(
    figures: Replay, options: ReplayOptions, source: Source, facts: Facts, truth: Truth | None, found: Score | None
) -> dict[str, Any]:
    return {
        "source": str(source.path.resolve()),
        "topic": source.topic,
        "rate": options.rate,
        "network": facts.name,
        "weights": Path(options.weights).name,
        "weights_sha256": facts.weights_sha256,
        "trained": facts.trained,
        "label_map": facts.label_map,
        "intensity": options.intensity,
        **asdict(figures),
        "hertz": figures.hertz,
        "truth": truth.description if truth else None,
        **(asdict(found) if found else {}),
    }
