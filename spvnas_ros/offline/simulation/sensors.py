"""Describes spinning LiDARs as data: the directions of their beams, and how their receivers report an echo.

Beam tables, ranges and rates are those of the makers' manuals. Values for the HDL-64E that its manual does not give
(height of the two blocks, spread of the encoder's steps, gains, response by range) were measured on the scans of the
KITTI car.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from spvnas_ros.errors import UserError

Box = tuple[float, float, float, float, float, float]
"""Lowest x, y, z and highest x, y, z, metres, in the sensor's frame."""


@dataclass(frozen=True)
class Receiver:
    """The receiver, which turns an echo into an intensity or misses it.

    gain:           intensity of a white surface that is hit perpendicularly
    gamma:          exponent on the reflectivity: 1 is linear, a smaller one brightens dark surfaces
    contrast:       exponent on the cosine of incidence: 1 is Lambert's law, 0 is a sensor that corrects for it fully
    response:       range in metres -> factor on the intensity; linear between, constant outside
    floor:          is subtracted from the intensity; a lower intensity gives 0
    speckle:        standard deviation of the intensity of one surface, relative
    step:           intensities are multiples of this
    gain_spread:    standard deviation of the beams' gains, relative
    weak_beams:     share of the beams whose gain is about half
    reach:          range in metres at which half of the echoes of reflectivity 0.1, hit perpendicularly, come back
    full_intensity: value in the driver's messages for an intensity of 1
    """

    gain: float = 0.45
    gamma: float = 0.8
    contrast: float = 0.3
    response: tuple[tuple[float, float], ...] = ((0.0, 1.0),)
    floor: float = 0.0
    speckle: float = 0.1
    step: float = 1 / 255
    gain_spread: float = 0.05
    weak_beams: float = 0.0
    reach: float = 60.0
    full_intensity: float = 255.0


@dataclass(frozen=True)
class Sensor:
    """A spinning LiDAR and its mounting.

    elevations:   of the beams, degrees, the highest first
    azimuths:     angle of each beam ahead of the column, degrees, to the left
    origins:      height of each beam's origin above the sensor's origin, metres
    columns:      firings of each beam in a revolution
    half_steps:   share of columns that follow the one before at half the usual angle
    rate:         revolutions per second
    height:       above the ground, metres
    least, most:  range, metres
    noise:        standard deviation of the range, metres
    bias:         standard deviation of the beams' constant range errors, metres
    divergence:   full angle of the beam, radians
    jitter:       standard deviation of the elevations from their table, degrees: no two sensors are alike
    clockwise:    sense of rotation, seen from above
    order:        points by "ring" (beam by beam, the highest first) or by "column", in the order of `firing`
    firing:       beams in the order in which they fire, as indices of `elevations`
    lowest_first: whether ring 0 is the lowest beam
    deskew:       whether points are corrected to one moment, the middle of the sweep, as in KITTI
    body:         parts of the vehicle that hide the scene
    body_echo:    share of the rays that hit the vehicle and are reported; for the others it is too near for an echo
    """

    name: str
    elevations: tuple[float, ...]
    azimuths: tuple[float, ...]
    origins: tuple[float, ...]
    columns: int
    firing: tuple[int, ...]
    half_steps: float = 0.0
    rate: float = 10.0
    height: float = 1.73
    least: float = 0.5
    most: float = 100.0
    noise: float = 0.01
    bias: float = 0.0
    divergence: float = 0.003
    jitter: float = 0.02
    clockwise: bool = True
    order: Literal["ring", "column"] = "column"
    lowest_first: bool = True
    deskew: bool = False
    receiver: Receiver = Receiver()
    body: tuple[Box, ...] = ()
    body_echo: float = 1.0

    @property
    def beams(self) -> int:
        """Number of beams."""
        return len(self.elevations)

    @property
    def sweep(self) -> float:
        """Duration of a revolution, seconds."""
        return 1 / self.rate

    def moment(self, azimuth: float) -> float:
        """Returns the seconds into the sweep at which the beams pass `azimuth`, radians. The sweep begins behind the
        vehicle.
        """
        turned = np.pi - azimuth if self.clockwise else np.pi + azimuth
        return float(turned % (2 * np.pi) / (2 * np.pi)) * self.sweep

    @property
    def reference(self) -> float:
        """Seconds into the sweep at which the pose of a scan is taken."""
        return self.sweep / 2 if self.deskew else 0.0


def _sensor(name: str, beams: list[tuple[float, float, float]], **rest: object) -> Sensor:
    """Builds a sensor from its beams in the order of firing: elevation, azimuth, origin."""
    order = sorted(range(len(beams)), key=lambda beam: -beams[beam][0])
    place = {beam: row for row, beam in enumerate(order)}
    elevations, azimuths, origins = zip(*(beams[beam] for beam in order), strict=True)
    firing = tuple(place[beam] for beam in range(len(beams)))
    return replace(Sensor(name, elevations, azimuths, origins, 1, firing), **rest)  # type: ignore[arg-type]


_HDL64_RESPONSE = ((2.0, 0.85), (5, 0.9), (10, 1.0), (15, 1.1), (20, 1.0), (30, 0.8), (50, 0.5), (80, 0.25))
"""The response has its maximum at about 15 m, where the optics are focused."""

_KITTI_ROOF: tuple[Box, ...] = (
    (-1.60, -0.58, -0.60, -1.20, 0.58, -0.385),
    (-1.55, 0.50, -0.60, -1.45, 0.60, -0.29),
    (-1.55, -0.60, -0.60, -1.45, -0.50, -0.29),
    (1.00, -0.19, -0.60, 1.20, 0.19, -0.365),
    (0.04, -0.75, -0.21, 0.22, -0.62, -0.10),
    (-0.50, 0.60, -0.60, -0.44, 0.66, -0.19),
    (-0.55, -0.66, -0.60, -0.49, -0.60, -0.19),
    (0.80, 0.30, -0.60, 0.90, 0.42, -0.33),
    (0.80, -0.42, -0.60, 0.90, -0.30, -0.33),
)
"""Cameras, antennas and the rack around the sensor of the KITTI car, derived from the holes in its scans."""
_ROOF: tuple[Box, ...] = ((-1.6, -0.65, -0.60, 0.9, 0.65, -0.40),)

HDL64 = _sensor(
    "hdl64",
    [(2.0 - i / 3, 0.0, 0.20) for i in range(32)] + [(-8.83 - i / 2, 0.0, 0.12) for i in range(32)],
    columns=2160,
    half_steps=0.17,
    least=1.3,
    most=80.0,
    noise=0.012,
    bias=0.015,
    jitter=0.06,
    clockwise=False,
    order="ring",
    deskew=True,
    body=_KITTI_ROOF,
    body_echo=0.01,
    receiver=Receiver(
        gain=0.87,
        gamma=0.42,
        contrast=0.2,
        response=_HDL64_RESPONSE,
        floor=0.05,
        speckle=0.12,
        step=0.01,
        gain_spread=0.12,
        weak_beams=0.06,
        reach=75.0,
        full_intensity=1.0,
    ),
)
"""Velodyne HDL-64E on the car of KITTI: points ordered and deskewed as in KITTI's files, intensities 0 to 0.99."""

VLP16 = _sensor(
    "vlp16",
    [(float(-15 + 2 * (i // 2) if i % 2 == 0 else 1 + 2 * (i // 2)), 0.0, 0.0) for i in range(16)],
    columns=1800,
    noise=0.012,
    most=100.0,
    body=_ROOF,
    receiver=Receiver(contrast=0.5, speckle=0.15, reach=60.0),
)
"""Velodyne VLP-16 (Puck)."""

# fmt: off
_VLP32C = (
    (-25.0, 1.4), (-1.0, -4.2), (-1.667, 1.4), (-15.639, -1.4), (-11.31, 1.4), (0.0, -1.4), (-0.667, 4.2),
    (-8.843, -1.4), (-7.254, 1.4), (0.333, -4.2), (-0.333, 1.4), (-6.148, -1.4), (-5.333, 4.2), (1.333, -1.4),
    (0.667, 4.2), (-4.0, -1.4), (-4.667, 1.4), (1.667, -4.2), (1.0, 1.4), (-3.667, -4.2), (-3.333, 4.2),
    (3.333, -1.4), (2.333, 1.4), (-2.667, -1.4), (-3.0, 1.4), (7.0, -1.4), (4.667, 1.4), (-2.333, -4.2),
    (-2.0, 4.2), (15.0, -1.4), (10.333, 1.4), (-1.333, -1.4),
)
# fmt: on
VLP32C = _sensor(
    "vlp32c",
    [(elevation, -azimuth, 0.0) for elevation, azimuth in _VLP32C],
    columns=1800,
    noise=0.012,
    least=1.0,
    most=120.0,
    body=_ROOF,
    receiver=Receiver(contrast=0.5, speckle=0.15, reach=90.0),
)
"""Velodyne VLP-32C (Ultra Puck), with dense beams around the horizon."""


def _ouster(name: str, beams: int, columns: int, offsets: tuple[float, ...]) -> Sensor:
    step = 45.0 / (beams - 1)
    table = [(22.5 - i * step, offsets[i % len(offsets)], 0.0) for i in range(beams)]
    receiver = Receiver(contrast=0.6, speckle=0.2, gain_spread=0.03, reach=60.0)
    return _sensor(
        name, table, columns=columns, noise=0.015, most=120.0, order="ring", lowest_first=False, body=_ROOF,
        receiver=receiver,
    )  # fmt: skip


OS1_64 = _ouster("os1-64", 64, 1024, (3.16, 1.05, -1.05, -3.16))
"""Ouster OS1-64, 1024 columns; its messages hold the calibrated reflectivity, 0 to 255."""
OS1_128 = _ouster("os1-128", 128, 1024, (4.24, 1.41, -1.41, -4.24))
"""Ouster OS1-128, 1024 columns."""

SENSORS: Mapping[str, Sensor] = {sensor.name: sensor for sensor in (HDL64, VLP16, VLP32C, OS1_64, OS1_128)}


def find_sensor(name: str) -> Sensor:
    """Returns the preset of that name. Raises ValueError where there is none."""
    if name not in SENSORS:
        raise UserError(f"there is no sensor {name!r}, expected one of {', '.join(SENSORS)}")
    return SENSORS[name]
