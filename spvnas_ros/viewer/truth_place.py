"""Finds the truth that the labels of frames are compared with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from spvnas_ros.clouds.point_cloud2 import LABEL_FIELD
from spvnas_ros.labels import LABEL_MAPS, LabelMap
from spvnas_ros.offline.datasets.label_field import truth_field
from spvnas_ros.recordings.scans import ScanError, Source, open_source
from spvnas_ros.segment.output import SUMMARY
from spvnas_ros.segment.run_frames import frames_until_damage
from spvnas_ros.viewer.frames import Frames, Labelling, Truth


@dataclass(frozen=True)
class TruthPlace:
    """Where the truth about frames lies, in a folder of .label files or in a field of the clouds.

    raw:     whether the field holds raw ids
    source:  recording that has it and `topic` its clouds; None: the one that is shown
    numbers: number there of each frame that is shown; None: the same
    asked:   see `Truth`
    """

    folder: Path | None = None
    field: str | None = None
    raw: bool = False
    source: Path | None = None
    topic: str | None = None
    numbers: tuple[int, ...] | None = None
    asked: bool = True


def named_truth(truth: str | None) -> TruthPlace | None:
    """Returns the truth that an option names, a folder where there is one of that name; None where it names none."""
    if truth is None:
        return None
    folder = Path(truth)
    return TruthPlace(folder=folder) if folder.is_dir() or folder.name != truth else TruthPlace(field=truth)


def looked_for(source: Source, labels: Path | None, field: str | None, *, network: bool) -> TruthPlace | None:
    """Returns where a truth may lie that nobody named: beside the frames. None where the clouds of a bag have none.

    labels, field: the folder and the field of labels that were named
    network:       whether a network labels the frames, so that these labels may be the truth
    """
    if network and (labels or field):
        return TruthPlace(folder=labels, field=field, asked=False)
    if source.kind != "bag":
        return TruthPlace(asked=False)
    found = truth_field(_fields(source))
    shown = None if network else field or LABEL_FIELD
    return None if found in (None, shown) else TruthPlace(field=found, asked=False)


def _fields(source: Source) -> tuple[str, ...]:
    """Returns the names of the fields of the first cloud that can be read."""
    with open_source(
        source.path, intensity="none", topic=source.topic or None, columns=source.columns or None
    ) as again:
        for frame in frames_until_damage(again, lambda *_: None):
            with suppress(ScanError):
                return frame.load().record.dtype.names or ()
    return ()


def truth_of_a_run(path: Path) -> TruthPlace | None:
    """Returns the truth that the run was compared with whose folder this is; None for a run without, or no run.

    The clouds of a labelled bag are those that the recording had, without those that could not be labelled.
    """
    try:
        summary = json.loads((path / SUMMARY).read_text())
        place = summary["truth_place"]
        if not place:
            return None
        of_bag = summary["kind"] == "bag"
        return TruthPlace(
            folder=Path(place["folder"]) if "folder" in place else None,
            field=place.get("field"),
            raw=place.get("ids") == "raw",
            source=Path(summary["source"]) if of_bag else None,
            topic=summary["topic"] or None,
            numbers=tuple(map(int, summary["names"])) if of_bag else None,
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def label_map_of_a_run(path: Path) -> str | None:
    """Returns the label map of the run whose folder this is; None where it has none, or is no run's."""
    try:
        name = json.loads((path / SUMMARY).read_text())["label_map"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return name if name in LABEL_MAPS else None


@contextmanager
def open_truth(place: TruthPlace, shown: Source, label_map: LabelMap) -> Iterator[Truth]:
    """Opens the truth about the frames of `shown`. Raises what `open_source` raises."""
    path, topic = (shown.path, shown.topic) if place.source is None else (place.source, place.topic)
    columns = (shown.columns or None) if path == shown.path else None
    with open_source(path, intensity="none", topic=topic or None, columns=columns) as source:
        labelling = Labelling(label_map, place.field, place.folder, raw=place.raw, predictions=False)
        yield Truth(Frames(source, labelling), place.numbers, place.asked)
