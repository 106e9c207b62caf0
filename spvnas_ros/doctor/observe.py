"""Observes a bag or scans: it reads the headers of all clouds and keeps the points of some."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from spvnas_ros.clouds.intensity import INTENSITY_FIELDS
from spvnas_ros.clouds.point_cloud2 import PointCloudError, decode
from spvnas_ros.frame import Points
from spvnas_ros.recordings.scans import Cloud, Frame, ScanError, Source, open_source
from spvnas_ros.segment.run import frames_until_damage

if TYPE_CHECKING:
    from rosbags.typesys.stores.ros2_humble import sensor_msgs__msg__PointCloud2 as PointCloud2

RING_FIELDS = ("ring", "channel", "line", "laser_id")
SAMPLES = 10
"""The largest number of clouds whose points are kept. They are spread over the recording."""


@dataclass(frozen=True)
class Sample:
    """The points of a cloud.

    points: float32 `[N, 4]` as the network would get them, with the intensity scaled by the rule
    raw:    float32 `[N]`, the intensity as published, or zeros where a scan has none; None where a message has none
    ring:   `[N]`, the beam of each point; None where the cloud does not tell
    rows:   height of the cloud; 1 where it is not organised
    """

    points: Points
    raw: npt.NDArray[np.float32] | None
    ring: npt.NDArray[Any] | None
    rows: int


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
    headers:  headers of the clouds that can be read; empty for scans
    samples:  points of some clouds
    problems: by kind of error, the number of clouds that cannot be read and the first error message
    """

    path: Path
    kind: str
    topic: str
    intensity: str
    sizes: list[int] = field(default_factory=list)
    headers: list[Header] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    problems: dict[str, tuple[int, str]] = field(default_factory=dict)

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


def observe(path: str | Path, *, intensity: str = "auto", topic: str | None = None) -> Clouds:
    """Reads a bag, a scan or a folder of scans.

    Clouds that cannot be read are counted in `problems`. Raises what `open_source` raises.
    """
    with open_source(path, intensity=intensity, topic=topic) as source:
        clouds = Clouds(source.path, source.kind, source.topic, intensity)
        every = max(1, -(-len(source) // SAMPLES))
        for frame, unscaled in zip(frames_until_damage(source, clouds.add_problem), _unscaled(source), strict=False):
            try:
                cloud = frame.load()
            except ScanError as error:
                clouds.add_problem(frame.name, error)
                continue
            if cloud.message is not None:
                clouds.headers.append(_header(frame, cloud, cloud.message))
            if clouds.count % every == 0 and len(cloud.points):
                clouds.samples.append(_sample(cloud, unscaled))
            clouds.sizes.append(len(cloud.points))
    return clouds


def _unscaled(source: Source) -> Iterator[Frame | None]:
    """Returns the same scans with the intensity as it is in the files.

    For a bag it yields None: the message itself holds that intensity.
    """
    if source.kind == "bag":
        return repeat(None)
    return iter(open_source(source.path, intensity="unit"))


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


def _sample(cloud: Cloud, unscaled: Frame | None) -> Sample:
    if unscaled is not None:
        return Sample(cloud.points, unscaled.load().points[:, 3], None, 1)
    assert cloud.message is not None
    points = decode(cloud.message)
    raw, ring = (_first_of(points, names) for names in (INTENSITY_FIELDS, RING_FIELDS))
    return Sample(cloud.points, None if raw is None else raw.astype(np.float32), ring, cloud.message.height)


def _first_of(points: npt.NDArray[np.void], names: Sequence[str]) -> npt.NDArray[Any] | None:
    name = next((name for name in names if name in (points.dtype.names or ()) and not points.dtype[name].shape), None)
    return None if name is None else points[name]
