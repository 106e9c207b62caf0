"""Reads recordings without labels, scan by scan: whatever `spvnas segment` reads. Labels that lie beside the scans, or
in a field of a bag's clouds, are never looked at.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal
from zlib import crc32

import numpy as np

from spvnas_ros.clouds.sensor_rules import Sensor
from spvnas_ros.errors import UserError
from spvnas_ros.frame import UNLABELLED
from spvnas_ros.labels import LabelMap
from spvnas_ros.offline.datasets.scan import DatasetError, Inventory, LabelledScan, Looked, finite
from spvnas_ros.recordings.scans import Frame, Source, open_source

_VELODYNE = "velodyne"


@dataclass(frozen=True)
class Unlabelled:
    """A `ScanDataset` of a recording's clouds, all of whose points are unlabelled (255).

    topic:  of the clouds; None where they are scans
    names:  of the clouds, in order
    stamps: when each was recorded, nanoseconds since 1970; 0 for scans
    files:  sizes of the scans by name; of a bag the number of its clouds and a checksum of their times
    """

    path: Path
    topic: str | None
    label_map: LabelMap
    sensor: Sensor
    names: tuple[str, ...]
    stamps: tuple[int, ...]
    files: tuple[tuple[str, str], ...]
    boxes_only: Literal[False] = False

    @property
    def title(self) -> str:
        """What records call it."""
        return title_of(self.path)

    def name(self, index: int) -> str:
        """Returns the name of a cloud, as a `Source` names it."""
        return self.names[index]

    def look(self) -> list[Looked]:
        """Returns some clouds as they were recorded."""
        with self._opened() as source:
            return [Looked(self.sensor, source.look(), source.remarks)]

    def inventory(self) -> Inventory:
        """Returns what tells these scans from others, wherever they lie."""
        return dict(self.files)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> LabelledScan:
        index = range(len(self))[index]
        stamp = None if self.topic is None else self.stamps[index]
        first = index if stamp is None else self.stamps.index(stamp)
        try:
            with self._opened() as source:
                for number, frame in enumerate(source.resume(first, stamp), first):
                    if number == index:
                        return _scan(frame)
        except (UserError, OSError) as error:
            raise _named(self.path, error) from error
        raise DatasetError(f"{self.path} has lost {self.names[index]}; was it recorded anew meanwhile?")

    def _opened(self) -> Source:
        """Returns the recording. Scans are listed once: a source of scans keeps no file open, one of a bag does."""
        return self._scans if self.topic is None else self._anew()

    @cached_property
    def _scans(self) -> Source:
        return self._anew()

    def _anew(self) -> Source:
        return open_source(self.path, sensor=self.sensor, topic=self.topic)

    def __getstate__(self) -> dict[str, Any]:
        """Returns what is pickled: all but the list of scans."""
        return {name: value for name, value in vars(self).items() if name != "_scans"}


def title_of(path: Path) -> str:
    """Returns what records call a recording: the end of its path, with the folder before where that is `velodyne`."""
    parts = path.resolve().parts[1:]
    return "/".join(parts[-2:] if parts[-1:] == (_VELODYNE,) else parts[-1:])


def open_unlabelled(path: Path, label_map: LabelMap, sensor: Sensor, topic: str | None = None) -> Unlabelled:
    """Opens a recording: a scan, a folder of scans, a data set in any known layout, or a bag.

    label_map: of the network that is to learn from it
    sensor:    the rules for the sensor; what they leave open is decided here, by some clouds of all over the recording
    topic:     of the clouds, where a bag has several

    Raises DatasetError where it is none of these, holds no cloud, or where the sensor's rules cannot be followed.
    """
    try:
        with open_source(path, sensor=sensor, topic=topic) as source:
            frames = list(source)
            if not frames:
                raise DatasetError(f"{path} holds no scans, so there is nothing to learn from")
            bag = source.kind == "bag"
            if not bag and sensor.place.origin is None:
                sensor.place = replace(sensor.place, by_itself=True)
            source.look()
            topic = source.topic or None
    except (UserError, OSError) as error:
        raise _named(path, error) from error
    names, stamps = tuple(each.name for each in frames), tuple(each.stamp for each in frames)
    times = crc32(np.array(stamps, np.int64).tobytes())
    files = (
        ((f"{topic}", f"{len(frames)} clouds, times crc {times:08x}"),)
        if bag
        else tuple((each.name, f"{each.file.stat().st_size} bytes") for each in frames if each.file)
    )
    return Unlabelled(path, topic, label_map, sensor, names, stamps, files)


def _scan(frame: Frame) -> LabelledScan:
    if frame.scan is not None and frame.scan.large:
        raise DatasetError(
            f"{frame.file} has about {frame.scan.announced} points, which is a survey or a map, no single scan; "
            "networks learn from scans"
        )
    points = frame.load().points
    labels = np.full(len(points), UNLABELLED, np.uint8)
    return finite(LabelledScan(frame.name, points, labels, np.zeros(len(points), np.uint16)))


def _named(path: Path, error: Exception) -> DatasetError:
    return DatasetError(str(error) if str(path) in str(error) else f"{path}: {error}")
