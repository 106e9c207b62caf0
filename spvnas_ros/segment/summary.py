"""What a run over a recording did: as data, as `summary.json`, and in words."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from spvnas_ros.boxes.choice import SURE
from spvnas_ros.palettes import SPVNAS
from spvnas_ros.recordings.files import replacing
from spvnas_ros.segment.gallery import FIRST, Pictured
from spvnas_ros.segment.label_forms import ARRAYS, SCANS
from spvnas_ros.segment.output import (
    BAG,
    BOXES,
    CONFUSION,
    KITTI,
    LABELS,
    PICTURE,
    REPORT,
    SEQUENCES,
    SUMMARY,
    OutputError,
)
from spvnas_ros.segment.progress import Skipped

_TOP_CLASSES = 5


@dataclass(frozen=True)
class RunFacts:
    """What must be the same for two runs to be one.

    source:         absolute path; `kind` as a `Source` has it, `topic` of a bag's clouds, `frames_in_source`
    files_sha256:   of names, sizes and times of change of the files of source and truth
    weights_sha256: of the weights; None for a network that was never saved
    intensity, intensity_field, origin, mount: the rules for the sensor, as they were given
    scores:         whether the probabilities of all classes are kept
    precision:      of features and weights, as `engine.PRECISIONS` names it
    truth:          what the labels are compared with, in words; None for nothing
    palette:        name of the colours in pictures
    detector_sha256: of the weights that boxes come from; None without a detector, or for one that was never saved
    min_score:      least score of a box; None where nothing looks for any
    columns:        what the numbers of a point are, as the user named them
    format, classification: in which form labels are written, as the options have them
    tile:           which scans are cut into tiles, as the option has it
    """

    source: str
    kind: str
    topic: str
    frames_in_source: int
    files_sha256: str
    weights_sha256: str | None
    engine: str
    device: str
    intensity: str
    intensity_field: str
    origin: str
    mount: str
    scores: bool
    truth: str | None
    palette: str = SPVNAS
    precision: str = "fp32"
    detector_sha256: str | None = None
    min_score: float | None = None
    columns: str = ""
    format: str = "auto"
    classification: str = ""
    tile: str = "auto"


def differences(then: RunFacts, now: RunFacts) -> str:
    """Returns in what two runs differ, such as "min_score 0.1, now 0.3"; what is a checksum is only named."""
    texts = []
    for each in fields(RunFacts):
        before, after = getattr(then, each.name), getattr(now, each.name)
        if before != after:
            what, checksum, _ = each.name.partition("_sha256")
            texts.append(f"other {what}" if checksum else f"{each.name} {before!r}, now {after!r}")
    return "; ".join(texts)


@dataclass
class Summary:
    """What a run did.

    ms:                 milliseconds each frame took, in order, of the network alone: no reading, no writing, and not
                        the first call of a process, which pays for memory and compiled kernels
    names:              of the frames that were labelled, in order
    classes:            points by class name, the most frequent first; unlabelled points are in none of them
    intensity_from:     the field that intensities came from; None without any
    intensity_scale:    what was done to them; "" without any
    sensor_words:       that and the mount in words
    concerns:           what was said about the recording before it was labelled
    unusable:           points that got no label, by reason
    pictures:           which frames are shown, and why those
    truth_place:        where the truth lies: `folder`, or `field` of the frames and `ids`, "raw" or "class"
    detector:           name of what the boxes come from; "" where nothing looked for any
    detector_trained:   False for random weights
    boxes:              how many were written, by class name; {} where nothing looked for any
    sure_boxes:         of these those of score `SURE` or more, which pictures, viewer and node show, likewise
    boxes_ms:           milliseconds for the boxes of each frame: of the detector beside `ms`, or of the network's box
                        branch as a part of `ms`; [] where nothing looked for any, or its engine does not measure it
    kitti_frames:       how many frames have their boxes as KITTI's results, too
    tiled:              how frames that were labelled tile by tile were seen, and in how many tiles each such kind
    """

    run: RunFacts
    network: str
    weights: str
    label_map: str
    trained: bool
    frames: int = 0
    names: list[str] = field(default_factory=list)
    points: int = 0
    ms: list[float] = field(default_factory=list)
    classes: dict[str, int] = field(default_factory=dict)
    unusable: dict[str, int] = field(default_factory=dict)
    unusable_words: str = ""
    intensity_from: str | None = None
    intensity_scale: str = ""
    sensor_words: str = ""
    concerns: list[str] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    pictures: list[Pictured] = field(default_factory=list)
    truth_place: dict[str, str] = field(default_factory=dict)
    detector: str = ""
    detector_trained: bool = True
    boxes: dict[str, int] = field(default_factory=dict)
    sure_boxes: dict[str, int] = field(default_factory=dict)
    boxes_ms: list[float] = field(default_factory=list)
    kitti_frames: int = 0
    tiled: dict[str, int] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether there were frames, all of them were labelled, and of their points, if there are any, one at least."""
        return self.frames > 0 and not self.skipped and bool(self.classes or not self.points)

    def percentile(self, percent: float) -> float | None:
        """Returns a percentile of the milliseconds a frame; None without frames."""
        return float(np.percentile(self.ms, percent)) if self.ms else None

    def document(self) -> dict[str, Any]:
        """Returns all of it as one flat JSON object."""
        document = asdict(self)
        facts: dict[str, Any] = document.pop("run")
        return facts | document | {"ms_p50": self.percentile(50), "ms_p95": self.percentile(95)}

    def save(self, out: Path) -> None:
        """Writes `summary.json`; whole, or not at all."""
        with replacing(out / SUMMARY) as file:
            file.write(json.dumps(self.document(), indent=2).encode() + b"\n")

    @classmethod
    def load(cls, out: Path) -> Summary:
        """Reads what `save` wrote. Raises OutputError for anything else."""
        path = out / SUMMARY
        try:
            document = json.loads(path.read_text())
            facts = RunFacts(**{each.name: document[each.name] for each in fields(RunFacts)})
            values = {each.name: document[each.name] for each in fields(cls) if each.name != "run"}
            values["skipped"] = [Skipped(**entry) for entry in values["skipped"]]
            values["pictures"] = [Pictured(**entry) for entry in values["pictures"]]
            return cls(run=facts, **values)
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise OutputError(
                f"{path} is no summary of a run of this version; name another folder, or replace with --force"
            ) from error


def describe(summary: Summary, out: Path, kind: str) -> str:
    """Says what a run did, for a terminal. `kind` is that of the source."""
    return "\n".join(_lines(summary, out, kind))


def _lines(summary: Summary, out: Path, kind: str) -> Iterator[str]:
    if not summary.frames:
        yield f"{_nothing(summary)}: nothing was written to {out}."
        return
    facts = summary.run
    name = summary.network or summary.weights or "the network"
    network = f"{name} (engine {facts.engine}, {facts.precision}, device {facts.device})"
    sensor = f"; {summary.sensor_words}" if summary.sensor_words else ""
    labelled = sum(summary.classes.values())
    yield (
        f"{summary.frames} frame(s), {labelled:,} points labelled by {network}: "
        f"{summary.percentile(50):.1f} ms a frame (p50), {summary.percentile(95):.1f} ms (p95){sensor}"
    )
    if summary.classes:
        shares = [f"{name} {count / labelled:.1%}" for name, count in summary.classes.items()]
        rest = len(shares) - _TOP_CLASSES
        yield ", ".join(shares[:_TOP_CLASSES]) + (f", {rest} more classes" if rest > 0 else "")
    for words, tiles in summary.tiled.items():
        yield f"Labelled in {tiles:,} tile(s), in which no boxes are sought: {words}."
    if summary.unusable_words:
        yield f"Without a label: {summary.unusable_words}."
    if summary.detector:
        yield _boxes(summary, kind)
    labels = {"bag": BAG, "dataset": SEQUENCES}.get(kind, LABELS)
    places = [name for name in (labels, ARRAYS, SCANS) if (out / name).is_dir()] or [labels]
    scored = (REPORT, CONFUSION) if facts.truth else ()
    boxes = (BOXES, *((KITTI,) if summary.kitti_frames else ())) if summary.detector and kind != "bag" else ()
    yield ", ".join(str(out / name) for name in (*places, *boxes, PICTURE, *scored, SUMMARY))
    if others := [str(out / str(picture)) for picture in summary.pictures if picture.shows != FIRST]:
        yield "; ".join(others)
    if not summary.trained:
        yield "These weights are untrained: the labels mean nothing."
    if not summary.detector_trained:
        yield "This detector is untrained: the boxes mean nothing."
    if summary.skipped:
        first = summary.skipped[0]
        yield (
            f"{len(summary.skipped)} frame(s) could not be labelled, the first is {first.name}: {first.reason} "
            f"(all: {out / SUMMARY})"
        )


def _boxes(summary: Summary, kind: str) -> str:
    least, all_of_them = summary.run.min_score or 0.0, sum(summary.boxes.values())
    counts = summary.boxes if least >= SURE else summary.sure_boxes
    classes = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)
    found = f"{sum(counts.values()):,} of score {max(least, SURE):g} or more" + (f" ({classes})" if classes else "")
    if least < SURE:
        place = "the bag" if kind == "bag" else BOXES
        found += f", as pictures, viewer and node show them; {all_of_them:,} from {least:g} on, in {place}"
    took = f": {np.percentile(summary.boxes_ms, 50):.1f} ms a frame (p50)" if summary.boxes_ms else ""
    without = summary.frames - summary.kitti_frames if summary.kitti_frames else 0
    lacking = f"; {without} frame(s) have no calibration, so no results of KITTI" if without else ""
    return f"Boxes by {summary.detector}{took}: {found}{lacking}"


def _nothing(summary: Summary) -> str:
    if summary.skipped:
        return f"None of {len(summary.skipped)} frame(s) could be labelled, see above"
    return f"{summary.run.source} holds no frames"
