"""Computes the rays of one revolution: origin and direction of each beam while the vehicle drives on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spvnas_ros.clouds.mount import Mount
from spvnas_ros.offline.simulation.sensors import Sensor

Poses = npt.NDArray[np.float64]
_SAMPLES = 5
"""Number of poses that are computed per revolution. Between two of them the motion is taken as a straight line."""


@dataclass(frozen=True)
class Unit:
    """One individual sensor of a type; no two units are alike.

    elevations: radians `[B]`; gains: `[B]`; biases: of the ranges, metres `[B]`
    mount:      float64 `[4, 4]`, sensor on the vehicle
    """

    sensor: Sensor
    elevations: npt.NDArray[np.float64]
    gains: npt.NDArray[np.float32]
    biases: npt.NDArray[np.float32]
    mount: Poses


def build_unit(sensor: Sensor, rng: np.random.Generator, mount: Mount | None = None) -> Unit:
    """Returns a unit with random deviations: each beam has its own error of elevation, gain and range bias.

    mount: where it stands on the vehicle; None for the preset's place
    """
    receiver = sensor.receiver
    elevations = np.radians(np.array(sensor.elevations) + rng.normal(0, sensor.jitter, sensor.beams))
    gains = np.exp(rng.normal(0, receiver.gain_spread, sensor.beams))
    weak = rng.random(sensor.beams) < receiver.weak_beams
    gains[weak] *= rng.uniform(0.35, 0.7, int(weak.sum()))
    biases = rng.normal(0, sensor.bias, sensor.beams)
    return Unit(sensor, elevations, gains.astype(np.float32), biases.astype(np.float32), mounted(sensor, mount))


@dataclass(frozen=True)
class Sweep:
    """The rays of a revolution, `B` beams and `C` columns.

    azimuth:    radians `[C]`, of the columns in the sensor's frame, in order of firing
    time:       float32 `[C]`, seconds since the sweep began
    direction:  float32 `[B, C, 3]`, unit vectors in the sensor's frame at that moment
    offset:     float32 `[B]`, height of the beams' origins above the sensor's origin
    poses:      float64 `[C, 4, 4]`, sensor in world
    reference:  float64 `[4, 4]`, the pose that the scan is given in
    """

    azimuth: npt.NDArray[np.float64]
    time: npt.NDArray[np.float32]
    direction: npt.NDArray[np.float32]
    offset: npt.NDArray[np.float32]
    poses: Poses
    reference: Poses

    def world_rays(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Returns origins and directions float32 `[B, C, 3]` in the world."""
        turn = self.poses[:, :3, :3].astype(np.float32)
        up = self.poses[:, :3, 2].astype(np.float32)
        origin = self.poses[:, :3, 3].astype(np.float32) + self.offset[:, None, None] * up
        return origin, rotate(turn, self.direction)

    def points(self, distance: npt.NDArray[np.float32], deskew: bool) -> npt.NDArray[np.float32]:
        """Turns ranges `[B, C]` into points float32 `[B, C, 3]` in the sensor's frame.

        The frame is that of each point's own moment, or with `deskew` that of the reference pose.
        """
        local = self.direction * distance[..., None]
        local[..., 2] += self.offset[:, None]
        if not deskew:
            return local
        moved = np.linalg.inv(self.reference) @ self.poses
        return rotate(moved[:, :3, :3].astype(np.float32), local) + moved[:, :3, 3].astype(np.float32)


def rotate(turn: npt.NDArray[np.float32], vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Rotates vectors `[B, C, 3]` with one matrix per column, `[C, 3, 3]`."""
    turned = np.empty_like(vectors)
    x, y, z = vectors[..., 0], vectors[..., 1], vectors[..., 2]
    for axis in range(3):
        turned[..., axis] = turn[:, axis, 0] * x + turn[:, axis, 1] * y + turn[:, axis, 2] * z
    return turned


def sweep(unit: Unit, vehicle: Callable[[float], Poses], start: float, rng: np.random.Generator) -> Sweep:
    """Returns the rays of the revolution that begins at `start` seconds. It begins behind the vehicle.

    vehicle: function from seconds to the pose `[4, 4]` of the vehicle, on the ground
    """
    sensor = unit.sensor
    turned = _columns(sensor, rng)
    time = (turned / (2 * np.pi) * sensor.sweep).astype(np.float32)
    azimuth = np.pi - turned if sensor.clockwise else turned - np.pi
    flat, up = np.cos(unit.elevations)[:, None], np.sin(unit.elevations)[:, None]
    along = azimuth + np.radians(sensor.azimuths)[:, None]
    direction = np.empty((sensor.beams, sensor.columns, 3), np.float32)
    direction[..., 0], direction[..., 1], direction[..., 2] = flat * np.cos(along), flat * np.sin(along), up
    offset = np.array(sensor.origins, np.float32)
    poses, reference = _poses(unit, vehicle, start, time)
    return Sweep(azimuth, time, direction, offset, poses, reference)


def mounted(sensor: Sensor, mount: Mount | None = None) -> Poses:
    """Returns the pose of the sensor on the vehicle, `[4, 4]`; without a mount, that of its preset."""
    pose = np.eye(4)
    pose[2, 3] = sensor.height
    if mount is not None:
        pose[:3, :3] = mount.rotation()
        pose[2, 3] = sensor.height if mount.z is None else mount.z
    return pose


def _columns(sensor: Sensor, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Returns the angle that the sensor has turned at each column, radians `[C]`. The encoder's steps are uneven."""
    steps = np.where(rng.random(sensor.columns) < sensor.half_steps, 0.5, 1.0)
    turned = np.cumsum(steps) - steps * rng.random()
    return np.asarray(turned / steps.sum() * 2 * np.pi)


def _poses(
    unit: Unit, vehicle: Callable[[float], Poses], start: float, time: npt.NDArray[np.float32]
) -> tuple[Poses, Poses]:
    sensor, mount = unit.sensor, unit.mount
    moments = np.linspace(0, sensor.sweep, _SAMPLES)
    known = np.stack([vehicle(start + moment) @ mount for moment in moments])
    place = time / sensor.sweep * (_SAMPLES - 1)
    before = np.minimum(place.astype(np.int64), _SAMPLES - 2)
    share = (place - before)[:, None, None]
    return known[before] * (1 - share) + known[before + 1] * share, vehicle(start + sensor.reference) @ mount
