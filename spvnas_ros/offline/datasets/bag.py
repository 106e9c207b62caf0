"""Reads labelled scans from a rosbag2 whose clouds carry their labels in a field."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from zlib import crc32

import numpy as np
import numpy.typing as npt

from spvnas_ros.clouds.sensor_rules import Sensor
from spvnas_ros.labels import LabelMap, plain_ids
from spvnas_ros.offline.datasets.label_field import Ids, LabelField, class_indices
from spvnas_ros.offline.datasets.scan import (
    SEMANTIC_BITS,
    DatasetError,
    Instances,
    Inventory,
    LabelledScan,
    Labels,
    Looked,
    finite,
)
from spvnas_ros.recordings.scans import ScanError, Source, open_source

INSTANCE_FIELD = "instance"
"""Name of the field with the object numbers. Where a cloud has no such field, the upper 16 bits of the label field's
lower 32 are taken, if it holds integers of at least 32 bits.
"""


@dataclass(frozen=True)
class BagDataset:
    """A `ScanDataset` that reads the clouds of a bag. It keeps no file open: each access opens the bag anew and finds
    the cloud by its time.

    stamps: when each cloud was recorded, nanoseconds since 1970, in order
    field:  the field with the labels; its `ids` are "raw" or "class"
    labels_crc: checksum of all labels
    """

    path: Path
    topic: str
    field: LabelField
    label_map: LabelMap
    sensor: Sensor
    stamps: tuple[int, ...]
    labels_crc: int = 0
    boxes_only: Literal[False] = False

    def name(self, index: int) -> str:
        """Returns the number of a cloud, as a `Source` names it."""
        return f"{range(len(self))[index]:06d}"

    def look(self) -> list[Looked]:
        """Returns some clouds as they were recorded."""
        with open_source(self.path, sensor=self.sensor, topic=self.topic) as source:
            return [Looked(self.sensor, source.look(), source.remarks)]

    def inventory(self) -> Inventory:
        """Returns the number of clouds of the topic and a checksum of their labels: a bag that was split, compressed or
        moved to another storage is the same data.
        """
        return {f"{self.topic}, {self.field}": f"{len(self)} clouds, crc {self.labels_crc:08x}"}

    def __len__(self) -> int:
        return len(self.stamps)

    def __getitem__(self, index: int) -> LabelledScan:
        index = range(len(self))[index]
        stamp = self.stamps[index]
        first = self.stamps.index(stamp)
        try:
            with open_source(self.path, sensor=self.sensor, topic=self.topic) as source:
                for number, frame in enumerate(source.resume(first, stamp), first):
                    if number == index:
                        cloud = frame.load()
                        break
                else:
                    raise DatasetError(f"{self.path} has lost cloud {index:06d}; was it recorded anew meanwhile?")
            labels = _classes(self.field, self.label_map, self.field.read(frame.name, cloud.record))
        except (ValueError, OSError) as error:
            raise _named(self.path, error) from error
        return finite(LabelledScan(frame.name, cloud.points, labels, _instances(cloud.record, self.field.name)))


def open_bag(
    path: Path,
    label_map: LabelMap,
    sensor: Sensor,
    topic: str | None = None,
    field: LabelField | None = None,
) -> BagDataset:
    """Opens the clouds of one topic. All clouds are read once here, to learn which label ids occur and the scale of the
    intensities.

    field: the field with the labels; None: `label`

    Raises DatasetError for a bag, a topic or a field that cannot be read, for labels that a network wrote where `field`
    does not allow them, and for ids that the map does not list.
    """
    chosen, stamps, crc = field or LabelField(), list[int](), 0

    def frames(source: Source) -> Iterator[tuple[str, npt.NDArray[np.void]]]:
        nonlocal crc
        for frame in source:
            stamps.append(frame.stamp)
            try:
                record = frame.load().record
            except ScanError:
                continue  # an error where it is used, not for the clouds beside it
            if chosen.name in (record.dtype.names or ()):
                crc = crc32(np.ascontiguousarray(record[chosen.name]).tobytes(), crc)
            yield frame.name, record

    try:
        with open_source(path, sensor=sensor, topic=topic) as source:
            found = chosen.survey(frames(source))
            found_topic = source.topic
        settled = chosen.settled(found, len(label_map.classes))
        _classes(settled, label_map, found)
    except (ValueError, OSError) as error:
        raise _named(path, error) from error
    return BagDataset(path, found_topic, settled, label_map, sensor, tuple(stamps), crc)


def _classes(field: LabelField, label_map: LabelMap, ids: Ids) -> Labels:
    return label_map.encode(ids) if field.ids == "raw" else class_indices(len(label_map.classes), ids)


def _instances(points: npt.NDArray[np.void], field: str) -> Instances:
    for name, shift in ((INSTANCE_FIELD, 0), (field, SEMANTIC_BITS)):
        if name in (points.dtype.names or ()):
            values: npt.NDArray[np.generic] = points[name]
            if values.ndim == 1 and values.dtype.kind in "iu" and (shift == 0 or values.dtype.itemsize >= 4):
                numbers = values.astype(np.int64) >> shift & 0xFFFF
                return np.where(plain_ids(values) == -1, 0, numbers).astype(np.uint16)
    return np.zeros(len(points), np.uint16)


def _named(path: Path, error: Exception) -> DatasetError:
    return DatasetError(str(error) if str(path) in str(error) else f"{path}: {error}")
