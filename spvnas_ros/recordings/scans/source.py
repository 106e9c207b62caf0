"""Opens a scan, a folder of scans or a bag as a sequence of frames."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from spvnas_ros.clouds.intensity import Intensity
from spvnas_ros.clouds.mount import AUTO, PlaceRule
from spvnas_ros.clouds.point_cloud2 import PointCloudError, decode
from spvnas_ros.clouds.sensor_rules import Sensor
from spvnas_ros.frame import Points
from spvnas_ros.recordings.scans.layouts import Layout, find_layout
from spvnas_ros.recordings.scans.layouts.nuscenes_tables import is_nuscenes
from spvnas_ros.recordings.scans.read import SUFFIXES, kind_of, read_record, scan_files, sequences_in
from spvnas_ros.recordings.scans.records import Record, ScanError

if TYPE_CHECKING:
    from rosbags.typesys.stores.ros2_humble import sensor_msgs__msg__PointCloud2 as PointCloud2
    from typing_extensions import Self

    from spvnas_ros.recordings.bags import BagReader, RecordedCloud

_VELODYNE = "velodyne"
_METADATA = "metadata.yaml"
_BAG_SUFFIXES = (".mcap", ".db3")
_FIRST_LOOK = 12
"""Frames that tell intensity scale and mount, evenly spread over the recording."""


@dataclass(frozen=True)
class Cloud:
    """A frame that was read.

    points:  float32 `[N, 4]`, as `read_scan` returns them
    record:  structured `[N]`, every field of the file or message
    message: the message they were decoded from; None for a scan
    """

    points: Points
    record: Record
    message: PointCloud2 | None = None


@dataclass(frozen=True)
class Frame:
    """One cloud of a source, not yet read.

    name:  stem of the scan's file name, behind its sequence where there are several ("08/000123"), or the number of the
           cloud in the bag with six digits
    load:  reads the cloud; raises ScanError where the scan or cloud is malformed
    stamp: time of recording, nanoseconds since 1970; 0 for a scan
    """

    name: str
    load: Callable[[], Cloud]
    stamp: int = 0


class Source:
    """The frames of a recording in order. It can be iterated several times, and `len` is the number of frames.

    It is a context manager, which closes the files that it opened.

    Attributes:
        path:    the path that the user gave
        kind:    "scan", "folder", "dataset" (folders of sequences) or "bag"
        topic:   the topic of the clouds; "" where the source is not a bag
        storage: "sqlite3" or "mcap" for a bag, else ""
        files:   what it reads, on disk
        sensor:  how its clouds become what a network sees
    """

    path: Path
    sensor: Sensor
    kind: str
    topic: str = ""
    storage: str = ""
    files: tuple[Path, ...] = ()

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
    _read: Callable[[Path], Record] = staticmethod(read_record)

    def __init__(self, path: Path, kind: str, files: list[tuple[str, Path]], sensor: Sensor) -> None:
        self.path, self.kind, self.sensor = path, kind, sensor
        self.files = tuple(file for _, file in files)
        self._files = files

    def __len__(self) -> int:
        return len(self._files)

    def resume(self, number: int, stamp: int | None) -> Iterator[Frame]:  # noqa: ARG002
        return (Frame(name, partial(self._load, file)) for name, file in self._files[number:])

    def _load(self, file: Path) -> Cloud:
        try:
            return self._cloud(self._read(file))
        except PointCloudError as error:
            raise ScanError(f"{file}: {error}") from error

    def _some(self) -> Iterator[Record]:
        for row in _spread(len(self._files)):
            with suppress(ScanError):
                yield self._read(self._files[row][1])


class _LaidOut(_Scans):
    def __init__(self, path: Path, layout: Layout, sensor: Sensor) -> None:
        super().__init__(path, layout.kind, list(layout.files), sensor)
        self._read = layout.read


class _Bag(Source):
    kind = "bag"

    def __init__(self, path: Path, reader: BagReader, sensor: Sensor) -> None:
        self.sensor = sensor
        self.path, self.topic, self.storage = path, reader.topic, reader.storage
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
            message = recorded.decode()
            return self._cloud(decode(message), message)
        except (BagError, PointCloudError) as error:
            raise ScanError(f"cloud {name} of {self.topic} in {self.path}: {error}") from error

    def _some(self) -> Iterator[Record]:
        from spvnas_ros.recordings.bags import BagError

        begin, end = self._reader.span
        for row in _spread(_FIRST_LOOK):
            with suppress(BagError, PointCloudError):
                stamp = begin + (end - begin) * row // _FIRST_LOOK
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
    sweeps: bool = False,
    sequences: Container[str] | None = None,
) -> Source:
    """Opens a scan, a folder of scans, a data set (SemanticKITTI's, or one of `layouts`), or a rosbag2. The files there
    decide which.

    intensity: the rule that scales the sensor's intensity, as in `read_scan`
    topic:     the topic of the clouds, where a bag has several
    place:     where the sensor is; None for the origin of its clouds
    sensor:    the rules for the sensor, instead of `intensity` and `place`
    sweeps:    of nuScenes, the scans between the keyframes, too
    sequences: of SemanticKITTI's root, only those of these names

    Raises ScanError where `path` is none of these. Raises BagError for a bag that cannot be read or whose topic must be
    named, and ValueError for an unknown intensity rule.
    """
    path = Path(path)
    rule = intensity if isinstance(intensity, Intensity) else Intensity(intensity)
    sensor = sensor or Sensor(rule, place or PlaceRule())
    if not path.exists():
        raise ScanError(f"{path} does not exist; expected a scan, a folder of scans, or a rosbag2")
    if sweeps and not (path.is_dir() and is_nuscenes(path)):
        raise ScanError(f"{path} is not nuScenes, so it has no sweeps; leave --sweeps out")
    try:
        bag = _bag_at(path)
        if bag is not None:
            from spvnas_ros.recordings.bags import BagReader

            return _Bag(path, BagReader(bag, topic), sensor)
        if topic is not None:
            raise ScanError(f"{path} is no bag, so it has no topic {topic}; leave the topic out")
        if folders := sequences_in(path):
            chosen = [each for each in folders if sequences is None or each.name in sequences]
            files = [(f"{each.name}/{file.stem}", file) for each in chosen for file in scan_files(each)]
            return _Scans(path, "dataset", files, sensor)
        if sequences is not None:
            raise ScanError(f"{path} is no root of SemanticKITTI: it has no sequences/NN/{_VELODYNE}")
        if layout := find_layout(path, sweeps=sweeps):
            if sensor.intensity.rule == AUTO and not sensor.intensity.asked:
                # Nothing has to be guessed from the clouds. The sensor is the caller's where one was handed in.
                sensor = replace(sensor, intensity=Intensity(layout.intensity))
            return _LaidOut(path, layout, sensor)
        if path.is_dir():
            return _Scans(path, "folder", [(file.stem, file) for file in scan_files(path)], sensor)
        return _Scans(path, "scan", [(path.stem, path)], sensor)
    except OSError as error:
        raise ScanError(f"{path}: cannot be read: {error.strerror or error}") from error


def _bag_at(path: Path) -> Path | None:
    """Returns the path to open as a bag, or None where `path` is not a bag.

    That is `path` itself, or the only storage file of a folder that lacks its metadata.yaml.
    """
    if not path.is_dir():
        kind = kind_of(path)
        if kind == "ros1":
            raise ScanError(f"{path} is a ROS 1 bag; convert it: rosbags-convert --src {path} --dst NEW_FOLDER")
        if kind is None:
            raise ScanError(
                f"{path} is of no known format; expected a scan ({', '.join(SUFFIXES)}), a folder of scans, or a "
                "rosbag2 (its folder, or an .mcap or .db3 file)"
            )
        return path if kind in ("db3", "mcap") else None
    if (path / _METADATA).is_file():
        return path
    storage = [file for file in path.iterdir() if file.suffix in _BAG_SUFFIXES]
    if len(storage) > 1:
        raise ScanError(
            f"{path} has {len(storage)} bag files but no {_METADATA}; name one of them, or restore it: "
            f"ros2 bag reindex {path}"
        )
    return storage[0] if storage else None
