"""Opens a scan, a folder of scans or a bag as a sequence of frames."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from spvnas_ros.clouds.intensity import Intensity
from spvnas_ros.clouds.mount import AUTO, PlaceRule
from spvnas_ros.clouds.point_cloud2 import PointCloudError, decode
from spvnas_ros.clouds.sensor_rules import Sensor
from spvnas_ros.clouds.survey import place_remark
from spvnas_ros.frame import Points
from spvnas_ros.recordings.containers.kind_of_file import BAG_SUFFIXES, MAGICS, PACKET_SUFFIXES, is_recording_folder
from spvnas_ros.recordings.scans.columns import parse_columns
from spvnas_ros.recordings.scans.layouts import Layout, find_layout
from spvnas_ros.recordings.scans.layouts.nuscenes_tables import is_nuscenes
from spvnas_ros.recordings.scans.read import (
    SUFFIXES,
    frames_of,
    kind_of,
    passed_over,
    points_announced,
    read_pieces,
    read_record,
    scan_files,
    sequences_in,
)
from spvnas_ros.recordings.scans.records import Columns, Record, ScanError

if TYPE_CHECKING:
    from rosbags.typesys.stores.ros2_humble import sensor_msgs__msg__PointCloud2 as PointCloud2
    from typing_extensions import Self

    from spvnas_ros.recordings.bags import BagReader, RecordedCloud

_VELODYNE = "velodyne"
_FIRST_LOOK = 12
"""Frames that tell intensity scale and mount, evenly spread over the recording."""
LARGE: Final = 1_000_000
"""Points from which a scan is not read whole where that can be avoided. No sensor's single scan has as many."""
SAMPLE: Final = 400_000
_LARGE_ONES = 2
"""How many large scans are looked at: each is read from one end to the other."""


@dataclass(frozen=True)
class Cloud:
    """A frame that was read.

    points:  float32 `[N, 4]`, as `read_scan` returns them
    record:  structured `[N]`, every field of the file or message
    message: the message they were decoded from, coordinates in the frame of its header; None for a scan
    """

    points: Points
    record: Record
    message: PointCloud2 | None = None


@dataclass(frozen=True)
class Frame:
    """One cloud of a source, not yet read.

    name:  stem of the scan's file name, behind its sequence where there are several ("08/000123") and before its number
           in a file of several ("hall_2"), or the number of the cloud in the bag with six digits
    load:  reads the cloud; raises ScanError where the scan or cloud is malformed
    stamp: time of recording, nanoseconds since 1970; 0 for a scan
    file:  the scan's file; None for a cloud of a bag
    scan:  reads the same cloud some points at a time; None for clouds that only come whole
    """

    name: str
    load: Callable[[], Cloud]
    stamp: int = 0
    file: Path | None = None
    scan: ScanFile | None = None


@dataclass(frozen=True)
class ScanFile:
    """A scan of a file, which need not fit into memory.

    columns: what its numbers are, where the file does not say it
    part:    which scan of a file that holds several
    """

    file: Path
    columns: Columns | None = None
    part: int = 0

    @property
    def announced(self) -> int:
        """How many points it has, or about as many; 0 where only reading it would tell."""
        return points_announced(self.file, self.columns, self.part)

    @property
    def large(self) -> bool:
        """Whether it is better not read whole."""
        return self.announced > LARGE

    def pieces(self) -> Iterator[Record]:
        """Yields its points, structured `[n]`, some at a time, in order. Raises ScanError where it is malformed."""
        return read_pieces(self.file, self.columns, self.part)

    def sample(self) -> Record:
        """Reads some points of all over it, about `SAMPLE` of a large one. Raises ScanError where it is malformed."""
        return _sample(self, self.file.stat().st_mtime_ns)


@lru_cache(maxsize=2)
def _sample(scan: ScanFile, _: int) -> Record:
    """Samples a scan, once while it stays the same: two questions are asked of each."""
    # An odd step: beams and returns alternate by powers of two.
    step = max(1, scan.announced // SAMPLE) | 1
    return np.concatenate([piece[::step].copy() for piece in scan.pieces()])  # a view would keep all of its piece


class Source:
    """The frames of a recording in order. It can be iterated several times, and `len` is the number of frames.

    It is a context manager, which closes the files that it opened.

    Attributes:
        path:    the path that the user gave
        kind:    "scan", "folder", "dataset" (folders of sequences) or "bag"
        topic:   the topic of the clouds; "" where the source is not a bag
        storage: "sqlite3" or "mcap" for a bag: what a bag of the results is stored in; else ""
        files:   what it reads, on disk
        columns: what the numbers of a point are, as the user named them; "" where the files say it
        sensor:  how its clouds become what a network sees
        remarks: what the user should know of the recording, such as where it was cut off, a sentence each
    """

    path: Path
    sensor: Sensor
    kind: str
    topic: str = ""
    storage: str = ""
    files: tuple[Path, ...] = ()
    remarks: tuple[str, ...] = ()
    columns: str = ""

    def __len__(self) -> int:
        raise NotImplementedError

    def __iter__(self) -> Iterator[Frame]:
        return self.resume(0, None)

    def resume(self, number: int, stamp: int | None) -> Iterator[Frame]:
        """Yields the frames from `number` on, without reading the earlier ones.

        stamp: the stamp of frame `number`, which must be the first frame with this stamp; None for the start of a bag.
               Scans do not need it
        """
        raise NotImplementedError

    def look(self) -> list[Record]:
        """Looks at some clouds of all over the recording, and settles by them what the sensor's rules leave open.

        Returns these clouds. It happens by itself before the first frame is loaded, so that a frame's points do not
        depend on which frames were loaded before. Raises IntensityError and UserError as `Sensor.settle` does.
        """
        clouds = [cloud for cloud in self._some() if len(cloud)]
        if self.sensor.open:
            self.sensor.settle(clouds)
        remark = place_remark(clouds, self.sensor)
        if remark and remark not in self.remarks:
            self.remarks = (*self.remarks, remark)
        return clouds

    def _some(self) -> Iterator[Record]:
        """Yields clouds that can be read, evenly spread over the recording."""
        raise NotImplementedError

    def _cloud(self, record: Record, message: PointCloud2 | None = None) -> Cloud:
        if self.sensor.open and len(record):
            self.look()
        return Cloud(self.sensor.points(record), record, message)

    def close(self) -> None:
        """Closes the files."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Scans(Source):
    def __init__(
        self, path: Path, kind: str, files: list[tuple[str, Path]], sensor: Sensor, columns: str | None = None
    ) -> None:
        self.path, self.kind, self.sensor = path, kind, sensor
        self.files = tuple(file for _, file in files)
        self.columns = columns or ""
        self._columns = parse_columns(columns) if columns is not None else None
        self._scans = [scan for name, file in files for scan in frames_of(name, file)]

    def __len__(self) -> int:
        return len(self._scans)

    def resume(self, number: int, stamp: int | None) -> Iterator[Frame]:  # noqa: ARG002
        for name, file, part in self._scans[number:]:
            yield Frame(name, partial(self._load, file, part), 0, file, ScanFile(file, self._columns, part))

    def _load(self, file: Path, part: int) -> Cloud:
        try:
            return self._cloud(self._read(file, part))
        except PointCloudError as error:
            raise ScanError(f"{file}: {error}") from error

    def _some(self) -> Iterator[Record]:
        left = _LARGE_ONES
        for row in _spread(len(self._scans)):
            _, file, part = self._scans[row]
            scan = ScanFile(file, self._columns, part)
            with suppress(ScanError):
                if not scan.large:
                    yield self._read(file, part)
                elif left:
                    left -= 1
                    yield scan.sample()

    def _read(self, file: Path, part: int) -> Record:
        return read_record(file, self._columns, part)


class _LaidOut(_Scans):
    def __init__(self, path: Path, layout: Layout, sensor: Sensor) -> None:
        self.path, self.kind, self.sensor = path, layout.kind, sensor
        self.files = tuple(file for _, file in layout.files)
        self._scans = [(name, file, 0) for name, file in layout.files]
        self._layout = layout

    def resume(self, number: int, stamp: int | None) -> Iterator[Frame]:  # noqa: ARG002
        return (Frame(name, partial(self._load, file, part), 0, file) for name, file, part in self._scans[number:])

    def _some(self) -> Iterator[Record]:
        for row in _spread(len(self._scans)):
            with suppress(ScanError):
                yield self._read(self._scans[row][1], 0)

    def _read(self, file: Path, part: int) -> Record:  # noqa: ARG002
        return self._layout.read(file)


class _Bag(Source):
    kind = "bag"

    def __init__(self, path: Path, reader: BagReader, sensor: Sensor) -> None:
        self.sensor = sensor
        self.path, self.topic, self.storage, self.remarks = path, reader.topic, reader.storage, reader.remarks
        self.files = tuple(file for file in path.iterdir() if file.is_file()) if path.is_dir() else (path,)
        self._reader = reader

    def __len__(self) -> int:
        return len(self._reader)

    def resume(self, number: int, stamp: int | None) -> Iterator[Frame]:
        for index, recorded in enumerate(self._reader.since(stamp), number):
            name = f"{index:06d}"
            yield Frame(name, partial(self._load, name, recorded), recorded.stamp)

    def _load(self, name: str, recorded: RecordedCloud) -> Cloud:
        from spvnas_ros.recordings.bags import BagError

        try:
            unpacked = recorded.unpack()
            return self._cloud(decode(unpacked.message), unpacked.placed())
        except (BagError, PointCloudError) as error:
            raise ScanError(f"cloud {name} of {self.topic} in {self.path}: {error}") from error

    def _some(self) -> Iterator[Record]:
        from spvnas_ros.recordings.bags import BagError

        begin, end = self._reader.span
        for row in _spread(_FIRST_LOOK):
            with suppress(BagError, PointCloudError):
                stamp = begin + (end + 1 - begin) * row // _FIRST_LOOK
                if recorded := next(self._reader.since(stamp), None):
                    yield decode(recorded.decode())

    def close(self) -> None:
        self._reader.close()


def _spread(count: int) -> list[int]:
    """Returns up to `_FIRST_LOOK` numbers below `count`, evenly spread."""
    step = max(1.0, count / _FIRST_LOOK)
    return [int(row * step) for row in range(min(count, _FIRST_LOOK))]


def open_source(
    path: str | Path,
    *,
    intensity: Intensity | str = "auto",
    topic: str | None = None,
    place: PlaceRule | None = None,
    sensor: Sensor | None = None,
    columns: str | None = None,
    sweeps: bool = False,
    sequences: Container[str] | None = None,
) -> Source:
    """Opens a scan, a folder of scans, a data set (SemanticKITTI's, or one of `layouts`), or a bag. The files there
    decide which.

    intensity: the rule that scales the sensor's intensity, as in `read_scan`
    topic:     the topic of the clouds, where a bag has several
    place:     where the sensor is; None for the origin of its clouds
    sensor:    the rules for the sensor, instead of `intensity` and `place`
    columns:   what the numbers of a point are, for scans that do not say it, see `parse_columns`
    sweeps:    of nuScenes, the scans between the keyframes, too
    sequences: of SemanticKITTI's root, only those of these names

    Raises ScanError where `path` is none of these. Raises BagError for a bag that cannot be read or whose topic must be
    named, UserError for columns that cannot be, and ValueError for an unknown intensity rule.
    """
    path = Path(path)
    rule = intensity if isinstance(intensity, Intensity) else Intensity(intensity)
    mine = sensor is None
    sensor = sensor or Sensor(rule, place or PlaceRule())
    if not path.exists():
        raise ScanError(f"{path} does not exist; expected a scan, a folder of scans, or a rosbag2")
    if sweeps and not (path.is_dir() and is_nuscenes(path)):
        raise ScanError(f"{path} is not nuScenes, so it has no sweeps; leave --sweeps out")
    try:
        if _is_bag(path):
            if columns is not None:
                raise ScanError(f"{path} is a bag, whose clouds name their fields; leave --columns out")
            from spvnas_ros.recordings.bags import BagReader

            return _Bag(path, BagReader(path, topic), sensor)
        if mine:  # what a bag's clouds are counted from, their frame says
            sensor.place = replace(sensor.place, by_itself=sensor.place.origin is None)
        if topic is not None:
            raise ScanError(f"{path} is no bag, so it has no topic {topic}; leave the topic out")
        if folders := sequences_in(path):
            chosen = [each for each in folders if sequences is None or each.name in sequences]
            files = [(f"{each.name}/{file.stem}", file) for each in chosen for file in scan_files(each)]
            return _Scans(path, "dataset", files, sensor, columns)
        if sequences is not None:
            raise ScanError(f"{path} is no root of SemanticKITTI: it has no sequences/NN/{_VELODYNE}")
        if layout := find_layout(path, sweeps=sweeps):
            if columns is not None:
                raise ScanError(
                    f"{path} is in the layout of {layout.name}, whose columns are known; leave --columns out"
                )
            if sensor.intensity.rule == AUTO and not sensor.intensity.asked:
                # Nothing has to be guessed from the clouds. The sensor is the caller's where one was handed in.
                sensor = replace(sensor, intensity=Intensity(layout.intensity))
            return _LaidOut(path, layout, sensor)
        if path.is_dir():
            files = [(file.stem, file) for file in scan_files(path)]
            folder = _Scans(path, "folder", files, sensor, columns)
            if others := passed_over(folder.files):
                more = f" and {len(others) - 1} more" if len(others) > 1 else ""
                folder.remarks = (
                    f"{others[0].name}{more} left out: beside other scans, .txt and .csv are taken for notes; name "
                    "such a file by itself to read it",
                )
            return folder
        return _Scans(path, "scan", [(path.stem, path)], sensor, columns)
    except OSError as error:
        raise ScanError(f"{path}: cannot be read: {error.strerror or error}") from error


def _is_bag(path: Path) -> bool:
    """Whether `path` is to be opened as a bag: a bag file, or a folder with metadata.yaml or bag files.

    Raises ScanError for a file of no known format.
    """
    if path.is_dir():
        return is_recording_folder(path)
    kind = kind_of(path)
    if kind is None:
        raise ScanError(
            f"{path} is of no known format; expected a scan ({', '.join(SUFFIXES)}), a folder of scans, or a "
            f"recording (its folder, or a file: {', '.join((*BAG_SUFFIXES, *PACKET_SUFFIXES))})"
        )
    return kind in MAGICS
