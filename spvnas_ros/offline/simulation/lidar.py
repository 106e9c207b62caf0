"""Simulates a LiDAR in a street: casts rays with Embree, and turns the hits into a labelled scan of the sensor."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from spvnas_ros.clouds.mount import Mount
from spvnas_ros.frame import Points
from spvnas_ros.offline.simulation.cast import Mover, Target, as_labelled, cast, turn_of
from spvnas_ros.offline.simulation.mounting import parts_of_vehicle, upright
from spvnas_ros.offline.simulation.returns import Hits, bloom, mix_edges, receive
from spvnas_ros.offline.simulation.scene import Actor, Mesh, Scene, merge
from spvnas_ros.offline.simulation.sensors import Box, Sensor
from spvnas_ros.offline.simulation.sweep import Sweep, Unit, build_unit, sweep

OUTLIER = 1
"""SemanticKITTI's raw label for echoes from the vehicle itself."""
_MARGIN = 0.05
"""Radians around an actor in which rays are still tried: the sensor turns and drives while the beams pass it."""
_SAMPLED = 100
"""Number of an actor's triangles that are sampled to tell which share of it is visible."""
_SLACK = 0.5
"""Metres above and below an actor in which rays are still tried: beams start at different heights."""
_BODY_COLUMNS = 720
_NOTHING = np.float32(np.inf)

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class SimulatedScan:
    """The scan of one revolution.

    points:    float32 `[N, 4]`, metres in the sensor's frame (x forward, y left, z up), intensity 0..1
    labels:    uint16 `[N]`, SemanticKITTI's raw labels
    instances: uint16 `[N]`, 0 = none
    ring:      uint16 `[N]`
    time:      float32 `[N]`, seconds since the sweep began
    pose:      float64 `[4, 4]`, the points' frame in the world at the moment that they are given for
    level:     float64 `[4, 4]`, what moved the points out of the sensor's frame; None where they are in it
    """

    points: Points
    labels: npt.NDArray[np.uint16]
    instances: npt.NDArray[np.uint16]
    ring: npt.NDArray[np.uint16]
    time: Floats
    pose: npt.NDArray[np.float64]
    level: npt.NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.points)


@dataclass(frozen=True)
class Meeting:
    """When and from where a scan shows an actor.

    moment: seconds
    sensor: float64 `[4, 4]`, sensor in world
    frame:  float64 `[4, 4]`, the frame of the scan's points in the world
    """

    moment: float
    sensor: npt.NDArray[np.float64]
    frame: npt.NDArray[np.float64]


class Lidar:
    """One sensor on the vehicle of a scene. The still objects are prepared once, for all scans.

    rng:   draws the deviations of this unit of the sensor
    mount: where it stands on the vehicle; None for the preset's place
    """

    def __init__(self, scene: Scene, sensor: Sensor, rng: np.random.Generator, mount: Mount | None = None) -> None:
        self.scene = scene
        self.mount = mount
        self.unit: Unit = build_unit(sensor, rng, mount)
        still = [_placed(actor, 0.0) for actor in scene.actors if not actor.moving]
        self._still = Target(merge([scene.static, *still]))
        self._movers = [actor for actor in scene.actors if actor.moving]
        self._targets: dict[int, Target] = {}
        self._body = _body_distance(self.unit, parts_of_vehicle(sensor, mount))

    def scan(self, t: float, rng: np.random.Generator) -> SimulatedScan:
        """Simulates the revolution that begins at `t` seconds."""
        sensor = self.unit.sensor
        rays = sweep(self.unit, self.scene.ego_pose, t, rng)
        hits, label, instance = self._cast(rays, t, rng)
        told = bloom(hits, sensor.receiver, rng)
        beams = np.arange(sensor.beams)[:, None]
        hits, label, instance = hits.at((beams, told)), label[beams, told], instance[beams, told]
        hits, label = self._behind_body(rays, hits, label, rng)
        spacing = 2 * np.pi / sensor.columns
        hits = replace(hits, distance=mix_edges(hits.distance, sensor.divergence, spacing, rng))
        distance, intensity, kept = receive(hits, self.unit, rng)
        points = np.empty((*distance.shape, 4), np.float32)
        points[..., :3] = rays.points(np.where(kept, distance, 0), sensor.deskew)
        points[..., 3] = intensity
        beam, column = _ordered(kept, sensor, rays)
        ring = sensor.beams - 1 - beam if sensor.lowest_first else beam
        return SimulatedScan(
            points[beam, column],
            label[beam, column],
            instance[beam, column],
            ring.astype(np.uint16),
            rays.time[column],
            rays.reference,
        )

    def pose(self, t: float) -> npt.NDArray[np.float64]:
        """Returns the pose of the sensor in the world at `t` seconds, `[4, 4]`."""
        return self.scene.ego_pose(t) @ self.unit.mount

    def levelled(self, scan: SimulatedScan) -> SimulatedScan:
        """Returns the scan as networks know scans: upright, with the ground as far below as SemanticKITTI's. It is the
        same where the sensor stands as its preset does.
        """
        if self.mount is None:
            return scan
        placement = upright(self.mount)
        points, matrix = scan.points.copy(), placement.matrix()
        points[:, :3] = placement.apply(points[:, :3].astype(np.float64))
        return replace(scan, points=points, pose=scan.pose @ np.linalg.inv(matrix), level=matrix)

    def meeting(self, actor: Actor, scan: SimulatedScan, t: float) -> Meeting:
        """Tells when and from where the scan, whose sweep begins at `t` seconds, shows an actor."""
        sensor = scan.pose if scan.level is None else scan.pose @ scan.level
        moment = moment_seen(actor, self.unit.sensor, sensor, t)
        if not self.unit.sensor.deskew:
            sensor = self.pose(moment)
        return Meeting(moment, sensor, sensor if scan.level is None else sensor @ np.linalg.inv(scan.level))

    def visible_share(self, actor: Actor, moment: float, sensor: npt.NDArray[np.float64]) -> float:
        """Returns the share 0..1 of the actor that a sensor at the pose `[4, 4]` sees. Only still objects hide it."""
        mesh = _placed(actor, moment)
        middles = mesh.vertices[mesh.faces[:: max(len(mesh.faces) // _SAMPLED, 1)]].mean(axis=1)
        rays = middles - sensor[:3, 3].astype(np.float32)
        length = np.linalg.norm(rays, axis=1)
        direction = (rays / length[:, None]).astype(np.float32)
        origin = np.broadcast_to(sensor[:3, 3].astype(np.float32), direction.shape)
        distance, face, _ = self._still.cast(np.ascontiguousarray(origin), direction)
        itself = np.append(self._still.mesh.instance, 0)[face] == actor.instance
        return float((itself | (distance >= length)).mean())

    def _cast(
        self, rays: Sweep, t: float, rng: np.random.Generator
    ) -> tuple[Hits, npt.NDArray[np.uint16], npt.NDArray[np.uint16]]:
        """Returns the hits of the rays, labels and instances, `[B, C]`."""
        shape = rays.direction.shape[:2]
        origin, direction = (part.reshape(-1, 3) for part in rays.world_rays())
        movers = [mover for actor in self._movers if (mover := self._find(actor, rays, t))]
        found = cast(self._still, movers, origin, direction, rng)
        hits = Hits(found.distance.reshape(shape), found.cosine.reshape(shape), found.material.reshape(shape))
        return hits, found.label.reshape(shape), found.instance.reshape(shape)

    def _find(self, actor: Actor, rays: Sweep, t: float) -> Mover | None:
        """Returns the actor's pose when the sweep reaches it and the rays that may hit it; None where it is out of
        range.
        """
        sensor = self.unit.sensor
        moment = moment_seen(actor, sensor, rays.reference, t)
        at = actor.pose(moment)
        column = min(int(np.searchsorted(rays.time, moment - t)), sensor.columns - 1)
        x, y, z = (np.linalg.inv(rays.poses[column]) @ (*at[:3], 1.0))[:3]
        away, radius = float(np.hypot(x, y)), _radius(actor)
        lean = float(np.sqrt(max(1 - self.unit.mount[2, 2] ** 2, 0.0)))
        slack = _SLACK + radius * lean
        radius += actor.size[2] * lean
        if away - radius > sensor.most:
            return None
        if actor.instance not in self._targets:
            self._targets[actor.instance] = Target(as_labelled(actor))
        margin = _MARGIN + np.radians(np.abs(sensor.azimuths).max())
        margin += np.arcsin(radius / away) if away > radius else np.pi
        beside = np.abs((rays.azimuth - np.arctan2(y, x) + np.pi) % (2 * np.pi) - np.pi)
        columns = np.flatnonzero(beside < margin)
        bottom, top = z - slack, z + actor.size[2] + slack
        near, far = max(away - radius, 0.1), away + radius
        low, high = np.arctan2(bottom, near if bottom < 0 else far), np.arctan2(top, near if top > 0 else far)
        beams = np.flatnonzero((self.unit.elevations > low) & (self.unit.elevations < high))
        numbers = (beams[:, None] * sensor.columns + columns).ravel()
        return Mover(self._targets[actor.instance], at, numbers)

    def _behind_body(
        self, rays: Sweep, hits: Hits, label: npt.NDArray[np.uint16], rng: np.random.Generator
    ) -> tuple[Hits, npt.NDArray[np.uint16]]:
        """Replaces hits behind the vehicle's own parts by hits on the parts, or by none. Returns hits and labels."""
        column = np.rint(rays.azimuth / (2 * np.pi) * _BODY_COLUMNS).astype(np.int64) % _BODY_COLUMNS
        body = self._body[:, column]
        hidden = body < hits.distance
        told = rng.random(body.shape, np.float32) < self.unit.sensor.body_echo
        return (
            replace(hits, distance=np.where(hidden, np.where(told, body, _NOTHING), hits.distance)),
            np.where(hidden, np.uint16(OUTLIER), label),
        )


def _placed(actor: Actor, t: float) -> Mesh:
    """Returns the actor's triangles where it stands at `t` seconds, with its label and instance number."""
    x, y, z, yaw = actor.pose(t)
    mesh = as_labelled(actor)
    return replace(mesh, vertices=(mesh.vertices @ turn_of(yaw).T + (x, y, z)).astype(np.float32))


def _radius(actor: Actor) -> float:
    """Returns the radius of a circle around the actor, seen from above."""
    return float(np.hypot(actor.mesh.vertices[:, 0], actor.mesh.vertices[:, 1]).max())


def moment_seen(actor: Actor, sensor: Sensor, reference: npt.NDArray[np.float64], t: float) -> float:
    """Returns the second at which the beams of the sweep that begins at `t` pass the actor. The scan shows it as it is
    then.

    reference: float64 `[4, 4]`, sensor in world
    """
    x, y, z, _ = actor.pose(t + sensor.sweep / 2)
    local = np.linalg.inv(reference) @ (x, y, z, 1.0)
    return t + sensor.moment(float(np.arctan2(local[1], local[0])))


def _ordered(kept: npt.NDArray[np.bool_], sensor: Sensor, rays: Sweep) -> tuple[npt.NDArray[np.int64], ...]:
    """Returns beam and column of the echoes, in the order of the sensor's driver."""
    if sensor.order == "column":
        firing = np.array(sensor.firing)
        column, place = np.nonzero(kept[firing].T)
        return firing[place], column
    turned = np.argsort(rays.azimuth % (2 * np.pi), kind="stable") if sensor.deskew else np.arange(kept.shape[1])
    beam, place = np.nonzero(kept[:, turned])
    return beam, turned[place]


def _body_distance(unit: Unit, parts: tuple[Box, ...]) -> Floats:
    """Returns the distance `[B, 720]` at which the vehicle's parts block each beam, inf where none does."""
    azimuth = np.arange(_BODY_COLUMNS) / _BODY_COLUMNS * 2 * np.pi
    flat, up = np.cos(unit.elevations)[:, None], np.sin(unit.elevations)[:, None]
    direction = np.stack(np.broadcast_arrays(flat * np.cos(azimuth), flat * np.sin(azimuth), up), -1)
    turn = unit.mount[:3, :3]
    origins = np.array(unit.sensor.origins)[:, None] * turn[:, 2]
    if turn[2, 2] < 1:
        direction = direction @ turn.T
    direction[direction == 0] = 1e-9
    nearest = np.full(direction.shape[:2], np.inf)
    for box in parts:
        enter, leave = np.zeros(nearest.shape), np.full(nearest.shape, np.inf)
        for axis in range(3):
            origin = origins[:, axis, None]
            first = (box[axis] - origin) / direction[..., axis]
            second = (box[axis + 3] - origin) / direction[..., axis]
            enter = np.maximum(enter, np.minimum(first, second))
            leave = np.minimum(leave, np.maximum(first, second))
        nearest = np.where((enter <= leave) & (enter < nearest), enter, nearest)
    return nearest.astype(np.float32)


def scan(scene: Scene, sensor: Sensor, t: float, rng: np.random.Generator) -> SimulatedScan:
    """Simulates one revolution of a new unit of the sensor, from `t` seconds on. For several scans, keep a `Lidar`."""
    return Lidar(scene, sensor, rng).scan(t, rng)
