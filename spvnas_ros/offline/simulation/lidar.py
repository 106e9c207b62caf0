"""Simulates a LiDAR in a street: casts rays with Embree, and turns the hits into a labelled scan of the sensor."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from spvnas_ros.frame import Points
from spvnas_ros.offline.simulation.cast import Mover, Target, as_labelled, cast, turn_of
from spvnas_ros.offline.simulation.returns import Hits, bloom, mix_edges, receive
from spvnas_ros.offline.simulation.scene import Actor, Mesh, Scene, merge
from spvnas_ros.offline.simulation.sensors import Sensor
from spvnas_ros.offline.simulation.sweep import Sweep, Unit, build_unit, mounted, sweep

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
    pose:      float64 `[4, 4]`, sensor in world at the moment that the points are given for
    """

    points: Points
    labels: npt.NDArray[np.uint16]
    instances: npt.NDArray[np.uint16]
    ring: npt.NDArray[np.uint16]
    time: Floats
    pose: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.points)


class Lidar:
    """One sensor on the vehicle of a scene. The still objects are prepared once, for all scans.

    rng: draws the deviations of this unit of the sensor
    """

    def __init__(self, scene: Scene, sensor: Sensor, rng: np.random.Generator) -> None:
        self.scene = scene
        self.unit: Unit = build_unit(sensor, rng)
        still = [_placed(actor, 0.0) for actor in scene.actors if not actor.moving]
        self._still = Target(merge([scene.static, *still]))
        self._movers = [actor for actor in scene.actors if actor.moving]
        self._targets: dict[int, Target] = {}
        self._body = _body_distance(self.unit)

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
        return self.scene.ego_pose(t) @ mounted(self.unit.sensor)

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
        if away - radius > sensor.most:
            return None
        if actor.instance not in self._targets:
            self._targets[actor.instance] = Target(as_labelled(actor))
        margin = _MARGIN + np.radians(np.abs(sensor.azimuths).max())
        margin += np.arcsin(radius / away) if away > radius else np.pi
        beside = np.abs((rays.azimuth - np.arctan2(y, x) + np.pi) % (2 * np.pi) - np.pi)
        columns = np.flatnonzero(beside < margin)
        bottom, top = z - _SLACK, z + actor.size[2] + _SLACK
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


def _body_distance(unit: Unit) -> Floats:
    """Returns the distance `[B, 720]` at which the vehicle's parts block each beam, inf where none does."""
    azimuth = np.arange(_BODY_COLUMNS) / _BODY_COLUMNS * 2 * np.pi
    flat, up = np.cos(unit.elevations)[:, None], np.sin(unit.elevations)[:, None]
    direction = np.stack(np.broadcast_arrays(flat * np.cos(azimuth), flat * np.sin(azimuth), up), -1)
    direction[direction == 0] = 1e-9
    height = np.array(unit.sensor.origins)[:, None]
    nearest = np.full(direction.shape[:2], np.inf)
    for box in unit.sensor.body:
        enter, leave = np.zeros(nearest.shape), np.full(nearest.shape, np.inf)
        for axis in range(3):
            origin = height if axis == 2 else 0.0
            first = (box[axis] - origin) / direction[..., axis]
            second = (box[axis + 3] - origin) / direction[..., axis]
            enter = np.maximum(enter, np.minimum(first, second))
            leave = np.minimum(leave, np.maximum(first, second))
        nearest = np.where((enter <= leave) & (enter < nearest), enter, nearest)
    return nearest.astype(np.float32)


def scan(scene: Scene, sensor: Sensor, t: float, rng: np.random.Generator) -> SimulatedScan:
    """Simulates one revolution of a new unit of the sensor, from `t` seconds on. For several scans, keep a `Lidar`."""
    return Lidar(scene, sensor, rng).scan(t, rng)
