"""What there is to see in a bag or in scans: headers of all clouds, points of some."""

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
"""Of how many clouds, spread over the source, the points are kept."""


@dataclass(frozen=True)
class Sample:
    """The points of a cloud.

    points: float32 `[N, 4]`, intensity scaled by the rule: what the network would be given
    raw:    float32 `[N]`, the intensity as it was published; None where there is none
    ring:   `[N]`, the beam of each point; None where the cloud does not say
    rows:   height of the cloud, 1 where it is not organised
    """

    points: Points
    raw: npt.NDArray[np.float32] | None
    ring: npt.NDArray[Any] | None
    rows: int


@dataclass(frozen=True)
class Header:
    """What a message says of itself.

    stamp, recorded: nanoseconds since 1970, by its header and by the bag
    fields:          name and numpy type, such as ("x", "float32")
    has_nan:         whether a coordinate is not finite, and `dense` whether the message denies that
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
    """What was seen.

    count:    clouds that can be read; `sizes` is how many points each has
    headers:  of all of them; empty for scans
    problems: by kind, how many clouds cannot be read and what is said of the first
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
        """Clouds that can be read."""
        return len(self.sizes)

    def add_problem(self, _: str, error: Exception) -> None:
        """A cloud, or the rest of a bag, cannot be read."""
        cause = error.__cause__ or error
        kind = cause.kind if isinstance(cause, PointCloudError) else "unreadable"
        count, first = self.problems.get(kind, (0, str(error)))
        self.problems[kind] = count + 1, first


def observe(path: str | Path, *, intensity: str = "auto", topic: str | None = None) -> Clouds:
    """Read a bag, a scan or a folder of scans. Raises what `open_source` raises; clouds that are bad are noted."""
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
    """The same scans with the intensity of the file; a message has it itself."""
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
