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
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from spvnas_ros.frame import UNLABELLED
from spvnas_ros.labels import LABEL_MAPS
from spvnas_ros.offline.evaluation.metrics import Labels
from spvnas_ros.pointcloud import decode
from spvnas_ros.scans import ScanError, Source
from spvnas_ros.segment import frames_until_damage

if TYPE_CHECKING:
    from rosbags.typesys.stores.ros2_humble import sensor_msgs__msg__PointCloud2 as PointCloud2

    from spvnas_ros.zoo.checkpoint import Facts

IDS: Final = ("auto", "raw", "class")
"""What the numbers of a label field may be."""

_SEMANTIC = 0xFFFF
"""SemanticKITTI keeps the instance in the upper half of a label."""

Ids = npt.NDArray[np.int64]
_Encode = Callable[[Ids], Labels]


class TruthError(ValueError):
    """A truth that is missing or does not fit the clouds."""


@dataclass(frozen=True)
class Truth:
    """Where the truth comes from, in words, and how to read it.

    read: cloud's number in the bag and its message -> uint8 `[N]`, class indices, 255 = none; raises TruthError
    """

    description: str
    read: Callable[[int, PointCloud2], Labels]


def truth_from_field(source: Source, field: str, facts: Facts, ids: str = "auto") -> Truth:
    """The truth in a field of the bag's clouds: any numeric type, whole numbers, the low 16 bits of each.

    ids: "raw" for SemanticKITTI's ids, which the weights' label map turns into classes; "class" for class indices,
         255 = none; "auto" looks at the whole bag: where every number is a class index or 255 they are class indices,
         else raw ids. (Raw road, building and vegetation are 40, 50 and 70; a drive without all of them must say.)

    Raises TruthError, which names the cloud, and ValueError for raw ids that the label map does not list.
    """
    if ids not in IDS:
        raise TruthError(f"label ids are {ids!r}, expected one of {', '.join(IDS)}")
    seen = np.zeros(_SEMANTIC + 1, np.bool_)
    for number, message in _messages(source):
        seen[field_values(field, number, message)] = True
    found = np.flatnonzero(seen)
    if ids == "auto":
        ids = "class" if ((found < facts.num_classes) | (found == UNLABELLED)).all() else "raw"
    encode = _raw_encoder(facts) if ids == "raw" else partial(class_indices, facts.num_classes)
    encode(found)
    meaning = "class indices" if ids == "class" else f"raw ids, label map {facts.label_map}"

    def read(number: int, message: PointCloud2) -> Labels:
        return encode(field_values(field, number, message))

    return Truth(f"field {field!r} ({meaning})", read)


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
            return encode((np.frombuffer(raw, "<u4") & _SEMANTIC).astype(np.int64))
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


def field_values(field: str, number: int, message: PointCloud2) -> Ids:
    """The low 16 bits of a field, int64 `[N]`. Raises TruthError, which names the cloud, where it holds no labels."""
    points = decode(message)
    if not len(points):
        return np.empty(0, np.int64)
    if field not in (points.dtype.names or ()) or points.dtype[field].shape:
        found = ", ".join(points.dtype.names or ()) or "none"
        raise TruthError(f"cloud {number:06d} has no field {field!r} with one number a point; found fields {found}")
    values = points[field]
    if values.dtype.kind == "f" and not (np.isfinite(values) & (values == np.floor(values))).all():
        raise TruthError(f"field {field!r} of cloud {number:06d} holds numbers that are not whole; is it a label?")
    return values.astype(np.int64) & _SEMANTIC


def _raw_encoder(facts: Facts) -> _Encode:
    if facts.label_map not in LABEL_MAPS:
        raise TruthError(
            f"the weights name label map {facts.label_map!r}, which does not say what raw ids mean; expected one of "
            f"{', '.join(LABEL_MAPS)}, or a field with class indices"
        )
    return LABEL_MAPS[facts.label_map].encode


def class_indices(num_classes: int, ids: Ids) -> Labels:
    """Ids that are class indices already, or 255, as uint8 `[N]`. Raises TruthError where they are not."""
    if wrong := sorted({int(i) for i in ids[(ids >= num_classes) & (ids != UNLABELLED)]}):
        raise TruthError(f"class indices must be 0 to {num_classes - 1}, or 255 for none, found {wrong}")
    return ids.astype(np.uint8)
