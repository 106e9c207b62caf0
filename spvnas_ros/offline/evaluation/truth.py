"""The truth about a bag's clouds: a field of the clouds themselves, or SemanticKITTI's .label files beside them.

All of it is read before the network starts: a run of an hour shall not end at a file that does not fit. Give the
functions a source of their own, for reading a cloud teaches the rule `auto` about the intensities of the sensor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from spvnas_ros.labels import LABEL_MAPS
from spvnas_ros.offline.datasets.label_field import Ids, LabelField, class_indices
from spvnas_ros.offline.datasets.scan import SEMANTIC_BITS
from spvnas_ros.offline.evaluation.metrics import Labels
from spvnas_ros.recordings.scans import ScanError, Source, open_source
from spvnas_ros.segment.run import frames_until_damage

if TYPE_CHECKING:
    from rosbags.typesys.stores.ros2_humble import sensor_msgs__msg__PointCloud2 as PointCloud2

    from spvnas_ros.zoo.checkpoint import Facts

_Encode = Callable[[Ids], Labels]


class TruthError(ValueError):
    """A truth that is missing or does not fit the clouds."""


@dataclass(frozen=True)
class Truth:
    """Where the truth comes from, in words, and how to read it.

    read: cloud's number in the bag and its message -> uint8 `[N]`, class indices, 255 = none; raises TruthError and
          LabelFieldError
    """

    description: str
    read: Callable[[int, PointCloud2], Labels]


def open_truth(path: Path, topic: str | None, where: LabelField | Path, facts: Facts) -> Truth:
    """The truth about a bag's clouds in a field of theirs, or in a folder of .label files.

    Raises what `truth_from_field`, `truth_from_files` and `open_source` raise.
    """
    with open_source(path, intensity="none", topic=topic) as source:
        if isinstance(where, LabelField):
            return truth_from_field(source, where, facts)
        return truth_from_files(source, where, facts)


def truth_from_field(source: Source, field: LabelField, facts: Facts) -> Truth:
    """The truth in a field of the bag's clouds. The weights' label map turns raw ids into classes.

    Raises LabelFieldError, which names the cloud, TruthError where the weights do not say what raw ids mean, and
    ValueError for raw ids that their label map does not list.
    """
    found = field.survey(_messages(source))
    field = field.settled(found, facts.num_classes)
    encode = _raw_encoder(facts) if field.ids == "raw" else partial(class_indices, facts.num_classes)
    encode(found)
    meaning = "class indices" if field.ids == "class" else f"raw ids, label map {facts.label_map}"

    def read(number: int, message: PointCloud2) -> Labels:
        return encode(field.read(number, message))

    return Truth(f"{field} ({meaning})", read)


def truth_from_files(source: Source, folder: Path, facts: Facts) -> Truth:
    """The truth in SemanticKITTI's .label files (uint32 a point), one for each cloud of the bag, in order of names.

    folder: of the files, or a sequence's folder with a `labels` folder in it

    Raises TruthError where there are not as many files as clouds, or one is not of its cloud's size; ValueError for raw
    ids that the label map does not list.
    """
    files = _label_files(folder)
    if len(files) != len(source):
        raise TruthError(
            f"{folder} holds {len(files)} .label files, but {source.path} {len(source)} clouds on {source.topic}; "
            "expected one for each cloud, in order"
        )
    encode = _raw_encoder(facts)

    def read(number: int, message: PointCloud2) -> Labels:
        raw = files[number].read_bytes()
        points = message.height * message.width
        if len(raw) != 4 * points:
            raise TruthError(
                f"{files[number]} has {len(raw)} bytes, but cloud {number:06d} of {source.path} has {points} points; "
                "expected 4 bytes a point"
            )
        try:
            return encode((np.frombuffer(raw, "<u4") & ((1 << SEMANTIC_BITS) - 1)).astype(np.int64))
        except ValueError as error:
            raise TruthError(f"{files[number]}: {error}") from error

    for number, message in _messages(source):
        read(number, message)
    return Truth(f"{folder} (raw ids, label map {facts.label_map})", read)


def _label_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise TruthError(f"{folder} is no folder; expected one with SemanticKITTI's .label files")
    files = [*folder.glob("*.label")] or [*(folder / "labels").glob("*.label")]
    if not files:
        raise TruthError(f"{folder} holds no .label files; expected SemanticKITTI's, one for each cloud")
    # By length first, so that 2 comes before 10.
    return sorted(files, key=lambda file: (len(file.stem), file.stem))


def _messages(source: Source) -> Iterator[tuple[int, PointCloud2]]:
    """Numbers and messages of the clouds that can be read; the others get no label either."""
    for frame in frames_until_damage(source, lambda *_: None):
        with suppress(ScanError):
            message = frame.load().message
            assert message is not None
            yield int(frame.name), message


def _raw_encoder(facts: Facts) -> _Encode:
    if facts.label_map not in LABEL_MAPS:
        raise TruthError(
            f"the weights name label map {facts.label_map!r}, which does not say what raw ids mean; expected one of "
            f"{', '.join(LABEL_MAPS)}, or a field with class indices"
        )
    return LABEL_MAPS[facts.label_map].encode
