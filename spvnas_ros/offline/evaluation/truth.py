"""The truth about the frames of a recording: a field of the frames themselves, or SemanticKITTI's .label files.

All of it is read before the network starts: a run of an hour shall not end at a file that does not fit. The functions
open a source of their own, because reading a frame teaches the rule `auto` about the intensities of the sensor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from spvnas_ros.errors import UserError
from spvnas_ros.labels import LABEL_MAPS, plain_ids
from spvnas_ros.offline.datasets.label_field import Ids, LabelField, class_indices
from spvnas_ros.offline.evaluation.metrics import Labels
from spvnas_ros.recordings.scans import Frame, Record, ScanError, Source, open_source
from spvnas_ros.recordings.scans.layouts.nuscenes_tables import is_nuscenes
from spvnas_ros.segment.run_frames import frames_until_damage

if TYPE_CHECKING:
    from spvnas_ros.zoo.checkpoint import Facts

_Encode = Callable[[Ids], Labels]
_SUFFIX = ".label"


class TruthError(UserError):
    """A truth that is missing or does not fit the frames."""


@dataclass(frozen=True)
class Truth:
    """Where the truth comes from, in words, and how to read it.

    read:  the frame's name and its record, structured `[N]` -> uint8 `[N]`, class indices, 255 = none; raises
           TruthError and LabelFieldError
    files: that it is read from; none where it is a field of the frames
    place: the same for programs: `folder`, or `field` and `ids` ("raw" or "class")
    """

    description: str
    read: Callable[[str, Record], Labels]
    files: tuple[Path, ...] = ()
    place: Mapping[str, str] = field(default_factory=dict)


def open_truth(
    path: Path, topic: str | None, where: LabelField | Path, facts: Facts, columns: str | None = None
) -> Truth:
    """Opens the truth about a recording, in a field of its frames or in a folder of .label files.

    Raises what `truth_from_field`, `truth_from_files` and `open_source` raise.
    """
    with open_source(path, intensity="none", topic=topic or None, columns=columns) as source:
        if isinstance(where, LabelField):
            return truth_from_field(source, where, facts)
        return truth_from_files(source, where, facts)


def truth_from_field(source: Source, where: LabelField, facts: Facts) -> Truth:
    """Returns the truth in a field of the frames. The weights' label map turns raw ids into classes.

    Raises LabelFieldError, which names the frame, TruthError where the weights do not say what raw ids mean, and
    ValueError for raw ids that their label map does not list.
    """
    found = where.survey((frame.name, record) for frame, record in _records(source))
    where = where.settled(found, facts.num_classes)
    encode = _raw_encoder(facts) if where.ids == "raw" else partial(class_indices, facts.num_classes)
    encode(found)
    meaning = "class indices" if where.ids == "class" else f"raw ids, label map {facts.label_map}"
    place = {"field": where.name, "ids": where.ids}
    return Truth(f"{where} ({meaning})", lambda name, record: encode(where.read(name, record)), place=place)


def truth_from_files(source: Source, folder: Path, facts: Facts) -> Truth:
    """Returns the truth in SemanticKITTI's .label files (uint32 a point).

    folder: of the files, or a sequence's folder with a `labels` folder in it, or a data set's root. A scan's file has
            the scan's name; a bag has one file for each cloud, in order of names

    Raises TruthError where a frame has no file, or one that is not of its size; ValueError for raw ids that the label
    map does not list.
    """
    if not folder.is_dir():
        raise TruthError(f"{folder} is no folder; expected one with SemanticKITTI's {_SUFFIX} files")
    if is_nuscenes(folder):
        raise TruthError(
            f"{folder} is nuScenes, whose labels are no {_SUFFIX} files; score weights against them with "
            "`spvnas evaluate`"
        )
    files = files_in_order(source, folder) if source.kind == "bag" else _files_by_name(source, folder)
    encode = _raw_encoder(facts)

    def read(name: str, record: Record) -> Labels:
        raw = files[name].read_bytes()
        if len(raw) != 4 * len(record):
            raise TruthError(
                f"{files[name]} has {len(raw)} bytes, but frame {name} of {source.path} has {len(record)} points; "
                "expected 4 bytes a point"
            )
        try:
            return encode(plain_ids(np.frombuffer(raw, "<u4")))
        except ValueError as error:
            raise TruthError(f"{files[name]}: {error}") from error

    for frame, record in _records(source):
        read(frame.name, record)
    return Truth(
        f"{folder.resolve()} (raw ids, label map {facts.label_map})",
        read,
        tuple(files.values()),
        {"folder": str(folder.resolve())},
    )


def files_in_order(source: Source, folder: Path) -> dict[str, Path]:
    """Returns the .label file of each cloud of a bag, by the name of its frame.

    Raises TruthError where they are not as many as the clouds.
    """
    files = [*folder.glob(f"*{_SUFFIX}")] or [*(folder / "labels").glob(f"*{_SUFFIX}")]
    if not files:
        raise TruthError(f"{folder} holds no {_SUFFIX} files; expected SemanticKITTI's, one for each cloud")
    if len(files) != len(source):
        raise TruthError(
            f"{folder} holds {len(files)} {_SUFFIX} files, but {source.path} {len(source)} clouds on {source.topic}; "
            "expected one for each cloud, in order"
        )
    # By length first, so that 2 comes before 10.
    files.sort(key=lambda file: (len(file.stem), file.stem))
    return {f"{number:06d}": file for number, file in enumerate(files)}


def _files_by_name(source: Source, folder: Path) -> dict[str, Path]:
    files = {}
    for frame in source:
        sequence, _, stem = frame.name.rpartition("/")
        roots = [folder / "sequences" / sequence, folder / sequence] if sequence else [folder]
        places = [root / part / f"{stem}{_SUFFIX}" for root in roots for part in (".", "labels")]
        file = next((place for place in places if place.is_file()), None)
        if file is None:
            raise TruthError(
                f"{folder} holds no labels of scan {frame.name} of {source.path}; expected {places[0]} "
                f"or {places[1]}, SemanticKITTI's uint32 a point"
            )
        files[frame.name] = file
    return files


def _records(source: Source) -> Iterator[tuple[Frame, Record]]:
    """Yields the frames that can be read, with every field; the others get no label either."""
    for frame in frames_until_damage(source, lambda *_: None):
        with suppress(ScanError):
            yield frame, frame.load().record


def _raw_encoder(facts: Facts) -> _Encode:
    if facts.label_map not in LABEL_MAPS:
        raise TruthError(
            f"the weights name label map {facts.label_map!r}, which does not say what raw ids mean; expected one of "
            f"{', '.join(LABEL_MAPS)}, or a field with class indices"
        )
    return LABEL_MAPS[facts.label_map].encode
