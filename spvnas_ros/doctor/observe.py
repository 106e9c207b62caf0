"""Observes a bag or scans: it reads the headers of all clouds and keeps the points of some."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from spvnas_ros.clouds.cleaning import Limits
from spvnas_ros.clouds.fit import Look, look_at
from spvnas_ros.clouds.intensity import Intensity, is_number
from spvnas_ros.clouds.mount import SENSOR_HEIGHT, PlaceRule
from spvnas_ros.clouds.point_cloud2 import PointCloudError, decode
from spvnas_ros.clouds.sensor_rules import Sensor
from spvnas_ros.frame import Points
from spvnas_ros.recordings.scans import Cloud, Frame, ScanError, open_source
from spvnas_ros.segment.run_frames import frames_until_damage

if TYPE_CHECKING:
    from rosbags.typesys.stores.ros2_humble import sensor_msgs__msg__PointCloud2 as PointCloud2

RING_FIELDS = ("ring", "channel", "line", "laser_id")
SAMPLES = 10
"""The largest number of clouds whose points are kept. They are spread over the recording."""


@dataclass(frozen=True)
class Sample:
    """The points of a cloud.

    points: float32 `[N, 4]` as the network would get them
    raw:    `[N]`, the intensity as published; None where the cloud has none
    ring:   `[N]`, the beam of each point; None where the cloud does not tell
    rows:   height of the cloud; 1 where it is not organised
    look:   what the cloud shows
    """

    points: Points
    raw: npt.NDArray[Any] | None
    ring: npt.NDArray[Any] | None
    rows: int
    look: Look


@dataclass(frozen=True)
class Header:
    """What a message says about itself.

    stamp, recorded: nanoseconds since 1970, according to the header and to the bag
    fields:          name and numpy type of each field, such as ("x", "float32")
    dense:           whether the message claims that all points are valid (is_dense)
    has_nan:         whether a coordinate is not finite
    """

    name: str
    stamp: int
    recorded: int
    frame_id: str
    fields: tuple[tuple[str, str], ...]
    dense: bool
    has_nan: bool


@dataclass
class Clouds:
    """What was observed of a recording.

    sizes:    number of points of each cloud that can be read; `count` is the number of these clouds
    sensor:   the rules that made them points
    headers:  headers of the clouds that can be read; empty for scans
    samples:  points of some clouds
    problems: by kind of error, the number of clouds that cannot be read and the first error message
    remarks:  what the reader said of the recording, such as where it was cut off
    """

    path: Path
    kind: str
    topic: str
    sensor: Sensor
    sizes: list[int] = field(default_factory=list)
    headers: list[Header] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    problems: dict[str, tuple[int, str]] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """Number of clouds that can be read."""
        return len(self.sizes)

    def add_problem(self, _: str, error: Exception) -> None:
        """Counts an error: a cloud, or the rest of a bag, cannot be read."""
        cause = error.__cause__ or error
        kind = cause.kind if isinstance(cause, PointCloudError) else "unreadable"
        count, first = self.problems.get(kind, (0, str(error)))
        self.problems[kind] = count + 1, first


def observe(
    path: str | Path,
    *,
    intensity: Intensity | str = "auto",
    topic: str | None = None,
    place: PlaceRule | None = None,
    columns: str | None = None,
    sensor_height: Callable[[], float] = lambda: SENSOR_HEIGHT,
) -> Clouds:
    """Reads a bag, a scan or a folder of scans.

    sensor_height: is asked, once the recording is found, how high the network's training sensor was, metres

    Clouds that cannot be read are counted in `problems`. Raises what `open_source` raises.
    """
    with open_source(path, intensity=intensity, topic=topic, place=place, columns=columns) as source:
        source.sensor.suit(sensor_height())
        source.look()
        clouds = Clouds(source.path, source.kind, source.topic, source.sensor, remarks=source.remarks)
        every = max(1, -(-len(source) // SAMPLES))
        for frame in frames_until_damage(source, clouds.add_problem):
            try:
                cloud = frame.load()
            except ScanError as error:
                clouds.add_problem(frame.name, error)
                continue
            if cloud.message is not None:
                clouds.headers.append(_header(frame, cloud, cloud.message))
            if clouds.count % every == 0 and len(cloud.points):
                clouds.samples.append(_sample(cloud, source.sensor))
            clouds.sizes.append(len(cloud.points))
    return clouds


def _header(frame: Frame, cloud: Cloud, message: PointCloud2) -> Header:
    stamp = message.header.stamp
    points = decode(message)
    return Header(
        frame.name,
        stamp.sec * 10**9 + stamp.nanosec,
        frame.stamp,
        message.header.frame_id,
        tuple((name, str(points.dtype[name])) for name in points.dtype.names or ()),
        message.is_dense,
        not bool(np.isfinite(cloud.points[:, :3]).all()),
    )


def _sample(cloud: Cloud, sensor: Sensor) -> Sample:
    field, record = sensor.intensity.field, cloud.record
    raw = record[field] if field is not None and is_number(record, field) else None
    rows = 1 if cloud.message is None else cloud.message.height
    return Sample(cloud.points, raw, _first_of(record, RING_FIELDS), rows, look_at(record, sensor, Limits()))


def _first_of(points: npt.NDArray[np.void], names: Sequence[str]) -> npt.NDArray[Any] | None:
    name = next((name for name in names if name in (points.dtype.names or ()) and not points.dtype[name].shape), None)
    return None if name is None else points[name]
