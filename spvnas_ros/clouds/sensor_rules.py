"""How the clouds of one sensor become the points that a network sees: their intensity and their place together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from spvnas_ros.clouds.intensity import Intensity
from spvnas_ros.clouds.mount import AUTO, FAR, Mount, Placement, PlaceRule
from spvnas_ros.clouds.point_cloud2 import positions, to_points
from spvnas_ros.frame import Points

Record = npt.NDArray[np.void]


@dataclass
class Sensor:
    """The rules for one sensor. What they leave open is decided by its first clouds, before any is read.

    intensity: the rule for the intensities
    place:     where the sensor is

    Attributes:
        asked: the rules as they were given, in words, by the names of their options
    """

    intensity: Intensity = field(default_factory=Intensity)
    place: PlaceRule = field(default_factory=PlaceRule)
    asked: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        origin, mount = self.place.origin, self.place.mount
        self.asked = {
            "intensity": self.intensity.rule,
            "intensity_field": self.intensity.asked or "",
            "origin": ",".join(map(repr, origin)) if isinstance(origin, tuple) else origin or "",
            "mount": str(mount),
        }

    @property
    def open(self) -> bool:
        """Whether clouds must be looked at before one is read."""
        return self.place.mount == AUTO or not self.intensity.decided

    def suit(self, sensor_height: float) -> None:
        """Moves clouds to where a network knows them, whose training sensor stood this high, metres."""
        self.place = replace(self.place, sensor_height=sensor_height)

    def settle(self, clouds: Sequence[Record]) -> None:
        """Decides by these clouds, structured `[N]`. Clouds without x, y and z are passed over.

        Raises IntensityError where no intensity can be had as asked for, UserError where an automatic mount finds no
        ground.
        """
        if not clouds:
            return
        if not self.intensity.decided:
            self.intensity.settle(clouds)
        if self.place.mount == AUTO:
            self.place = self.place.settled([there for cloud in clouds if len(there := finite_positions(cloud))])

    def points(self, cloud: Record) -> Points:
        """Returns what a network sees of a cloud, float32 `[N, 4]`, as `to_points` does. Raises PointCloudError."""
        if self.place.mount == AUTO and len(cloud):
            self.settle([cloud])
        return to_points(cloud, self.intensity, self.placement(cloud))

    def placement(self, cloud: Record) -> Placement | None:
        """Returns what moved a cloud, structured `[N]`, that was read; None where it stays where it is."""
        if not len(cloud) or not has_positions(cloud):
            return None
        if self.place.moves or (self.place.by_itself and self.place.origin is None and _may_be_far(cloud)):
            return self.place.of(positions(cloud))
        return None

    @property
    def stands(self) -> bool:
        """Whether it is known how high clouds are above the ground, so that networks of other heights see others."""
        mount = self.place.mount
        return AUTO in (self.asked["origin"], self.asked["mount"]) or (isinstance(mount, Mount) and mount.z is not None)

    def describe(self) -> str:
        """Says in half a sentence what is done to the clouds."""
        return ", ".join(part for part in (self.intensity.describe(), self.place.describe()) if part)


def has_positions(cloud: Record) -> bool:
    """Returns whether a cloud has x, y and z, one number each."""
    return all(name in (cloud.dtype.names or ()) and not cloud.dtype[name].shape for name in "xyz")


def _may_be_far(cloud: Record) -> bool:
    """Returns whether some of a cloud's points leave it open that all are far from the origin."""
    some = positions(cloud[:: -(-len(cloud) // 1000)])
    with np.errstate(invalid="ignore"):
        near = (np.hypot(some[:, 0], some[:, 1]) <= FAR) & (some != 0).any(axis=1)
    return not bool(near.any())


def finite_positions(cloud: Record) -> npt.NDArray[np.float64]:
    """Returns the measured positions of a cloud, float64 `[M, 3]`: finite, and not at the origin."""
    if not has_positions(cloud):
        return np.empty((0, 3))
    found = positions(cloud)
    there: npt.NDArray[np.float64] = found[np.isfinite(found).all(axis=1) & (found != 0).any(axis=1)]
    return there
