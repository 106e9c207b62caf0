"""Where the sensor is: what turns a cloud's coordinates into those a network was trained on, and what the cloud itself
shows of it.

A network knows clouds with the sensor at the origin, z up, and the ground at the height of its training sensor. Clouds
of another mount, in the vehicle's frame or in a map's are moved there, in float64, before they become float32; what is
published or written keeps its coordinates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from spvnas_ros.errors import UserError

Positions = npt.NDArray[np.float64]
"""float64 `[N, 3]`: x, y, z in metres."""

Vector3 = tuple[float, float, float]

AUTO: Final = "auto"
SENSOR_HEIGHT: Final = 1.73
"""Metres above the ground: the sensor of KITTI and SemanticKITTI, which all published networks were trained on."""

LEVEL_DEGREES: Final = 3.0
"""A ground that is tilted less is a road's own slope: an automatic mount leaves it as it is."""
SAME_HEIGHT: Final = 0.15
"""Metres: a difference that loading and tyres make."""

GROUND_SHARE: Final = 0.3
"""Of the surroundings: less of a plane is hardly the ground, as in a room or a wood."""

_NEAREST, _FARTHEST = 3.0, 25.0
"""Metres from the sensor: the ground is searched between these distances."""
_CELL = 1.0
_HIGHEST = 1000.0
_FEWEST_CELLS = 30
_STEEPEST_DEGREES = 30.0
_THICK = 0.15
_TRIALS = 400
_REFITS = 3
_UNDERFOOT = 5.0
"""Metres: nearer cells weigh as these do, for many of them are the vehicle's own roof."""
_FALLOFF = 2.5
"""Of a cell's weight with its distance: 2 makes every octave of distance count the same, more the near ones more."""
_BELOW = 0.5
"""What a point under a plane takes from it, a point on it being 1: there is little to be seen under the ground."""
_OTHER, _OTHER_DEGREES = 0.3, 5.0
"""Metres in height and degrees that make a plane another one."""
_RIVAL = 0.6
"""Of the ground's share: another plane through so many of the remaining cells leaves both in doubt."""
_SMOOTH: Final = (30.0, 20.0, 12.0, *(8.0,) * 8)
"""Metres: widths of the window that finds the densest place, wide ones first."""
_SOME = 30_000

FAR: Final = 100.0
"""Metres, in the plane: where all points are farther from the origin, no sensor stands there."""


@dataclass(frozen=True)
class Mount:
    """How the cloud's frame stands over the ground.

    z:     height of the frame's origin above the ground, metres; None for that of the network's training sensor
    roll, pitch, yaw: degrees, about the fixed axes x (forward), y (left) and z (up) of a level frame, in this order

    Raises UserError where a number is not finite or an angle is beyond 180 degrees.
    """

    z: float | None = None
    roll: float = 0.0
    pitch: float = 0.0
    yaw: float = 0.0

    def __post_init__(self) -> None:
        for name, value in (("z", self.z or 0.0), ("roll", self.roll), ("pitch", self.pitch), ("yaw", self.yaw)):
            if not abs(value) <= (_HIGHEST if name == "z" else 180):
                unit = f"metres, -{_HIGHEST:g} to {_HIGHEST:g}" if name == "z" else "degrees, -180 to 180"
                raise UserError(f"mount.{name} must be a number of {unit}, found {value}")

    def rotation(self) -> Positions:
        """Returns the matrix `[3, 3]` that turns the cloud's coordinates into level ones."""
        (cr, sr), (cp, sp), (cy, sy) = (
            (math.cos(angle), math.sin(angle)) for angle in np.radians((self.roll, self.pitch, self.yaw))
        )
        about_x = np.array([[1, 0, 0], [0, cr, -sr], [0, sr, cr]])
        about_y = np.array([[cp, 0, sp], [0, 1, 0], [-sp, 0, cp]])
        about_z = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
        turned: Positions = np.linalg.multi_dot((about_z, about_y, about_x))
        return turned

    def __str__(self) -> str:
        """The value of the option --mount."""
        numbers = {"z": self.z, "roll": self.roll, "pitch": self.pitch, "yaw": self.yaw}
        return ",".join(f"{name}={value:g}" for name, value in numbers.items() if value or (name == "z" and value == 0))


class Moves(Protocol):
    """What moves positions, float64 `[N, 3]`."""

    def apply(self, positions: Positions) -> Positions: ...


@dataclass(frozen=True)
class Placement:
    """What takes a cloud's coordinates to the network's.

    origin:        the sensor's place in the cloud's frame, metres: subtracted first
    mount:         how the cloud's frame, at that place, stands over the ground
    sensor_height: of the network's training sensor above the ground, metres
    """

    origin: Vector3 = (0.0, 0.0, 0.0)
    mount: Mount = Mount()
    sensor_height: float = SENSOR_HEIGHT

    def matrix(self) -> Positions:
        """Returns what moves positions as a matrix `[4, 4]`, from the cloud's frame to the network's."""
        matrix = np.eye(4)
        matrix[:3, :3] = self.mount.rotation()
        matrix[:3, 3] = self.apply(np.zeros((1, 3)))[0]
        return matrix

    def apply(self, positions: Positions) -> Positions:
        """Moves positions, float64 `[N, 3]`."""
        moved: Positions = positions - np.array(self.origin)
        if self.mount.roll or self.mount.pitch or self.mount.yaw:
            moved = moved @ self.mount.rotation().T
        if self.mount.z is not None:
            moved[:, 2] += self.mount.z - self.sensor_height
        return moved


@dataclass(frozen=True)
class Ground:
    """The plane of the ground, as a cloud shows it.

    height:      of the cloud's origin above it, metres
    roll, pitch: degrees, of the `Mount` that makes it level
    share:       of the cells around the sensor whose lowest points lie on it, the near ones counting more, 0..1, see
                 `GROUND_SHARE`
    """

    height: float
    roll: float
    pitch: float
    share: float

    @property
    def tilt(self) -> float:
        """Degrees between the plane's normal and z."""
        up = _up(self.roll, self.pitch)
        return math.degrees(math.acos(min(1.0, float(up[2]))))

    def mount(self, sensor_height: float) -> Mount:
        """Returns the mount that this ground asks for: nothing where the network knows such a ground."""
        tilted = self.tilt > LEVEL_DEGREES
        roll, pitch = (round(self.roll, 1), round(self.pitch, 1)) if tilted else (0.0, 0.0)
        off = tilted or abs(self.height - sensor_height) > SAME_HEIGHT
        return Mount(round(self.height, 2) if off else None, roll, pitch)


def find_ground(positions: npt.NDArray[np.floating], upright: float = _STEEPEST_DEGREES) -> Ground | None:
    """Finds the plane of the ground around the origin, in positions `[N, 3]`; None where there is none to be seen.

    upright: degrees that it may be tilted

    The ground is the plane near most of the low points of square cells 3 to 25 m from the origin, near ones counting
    more, and with few below it (RANSAC with a fixed seed, then least squares). None is seen, too, where a plane of
    another height or tilt is almost as good: a guess would turn every cloud.
    """
    low = _low_points(positions)
    if len(low) < _FEWEST_CELLS:
        return None
    # A vehicle stands on what is near: the road counts more than a bank beside it that has more points.
    ranges = np.hypot(low[:, 0], low[:, 1])
    weights = np.maximum(ranges, _UNDERFOOT) ** -_FALLOFF
    weights /= weights.sum()
    normals, offsets = _planes(low, weights, upright)
    if not len(normals):
        return None
    # By einsum, not by BLAS, whose threads keep a core busy long after so small a product.
    above = np.einsum("ij,kj->ik", low, normals)
    above -= offsets
    on_plane = np.abs(above) < _THICK
    scores = np.einsum("i,ij->j", weights, on_plane) - _BELOW * np.einsum("i,ij->j", weights, above < -2 * _THICK)
    scores *= normals[:, 2] ** 2
    best = int(scores.argmax())
    normal, offset = normals[best], float(offsets[best])
    for _ in range(_REFITS):
        near = np.abs(low @ normal - offset) < _THICK
        if near.sum() < 3:
            return None
        normal, offset = _least_squares(low[near], np.sqrt(weights[near]))
    near = np.abs(low @ normal - offset) < _THICK
    share = float(weights[near].sum())
    # Not underfoot, where the vehicle's own roof is a plane.
    around = ~near & (ranges > _UNDERFOOT)
    rest = np.einsum("i,ij->j", np.where(around, weights, 0.0), on_plane)
    turned = np.einsum("ij,j->i", normals, normal) < math.cos(math.radians(_OTHER_DEGREES))
    if float(rest[(np.abs(offsets - offset) > _OTHER) | turned].max(initial=0.0)) > _RIVAL * share:
        return None
    roll, pitch = _angles(normal)
    return Ground(-offset, roll, pitch, share)


def _planes(low: Positions, weights: Positions, upright: float) -> tuple[Positions, Positions]:
    """Returns planes through three of these points each: upward normals `[K, 3]` and offsets along them `[K]`."""
    rng = np.random.default_rng(0)
    # The square roots draw near points and far ones: those near alone give no direction.
    ladder = np.cumsum(np.sqrt(weights))
    rows = np.searchsorted(ladder, rng.random((3, _TRIALS)) * ladder[-1])
    a, b, c = low[np.minimum(rows, len(low) - 1)]
    normals = np.cross(b - a, c - a)
    lengths = np.linalg.norm(normals, axis=1)
    wide = lengths > 5 * _CELL**2
    normals = normals[wide] / lengths[wide, None]
    normals *= np.where(normals[:, 2:] < 0, -1, 1)
    level = normals[:, 2] > math.cos(math.radians(upright))
    return normals[level], (normals * a[wide])[level].sum(axis=1)


def _least_squares(points: Positions, weights: Positions) -> tuple[Positions, float]:
    """Returns the plane nearest to points `[N, 3]` in height: its upward normal, and the offset along it."""
    rows = np.column_stack((points[:, :2], np.ones(len(points))))
    slope = np.linalg.lstsq(rows * weights[:, None], points[:, 2] * weights, rcond=None)[0]
    normal = np.array((-slope[0], -slope[1], 1.0))
    length = float(np.linalg.norm(normal))
    return normal / length, float(slope[2]) / length


def typical_ground(grounds: Sequence[Ground]) -> Ground | None:
    """Returns the median of what several clouds show; None where none shows a ground."""
    if not grounds:
        return None
    values = [(each.height, each.roll, each.pitch, each.share) for each in grounds]
    return Ground(*(float(value) for value in np.median(values, axis=0)))


def _low_points(positions: npt.NDArray[np.floating]) -> Positions:
    """Returns a low point of each cell: the one above a tenth of the others, for single echoes lie below the ground."""
    distance = np.hypot(positions[:, 0], positions[:, 1])
    around = (distance > _NEAREST) & (distance < _FARTHEST) & (np.abs(positions[:, 2]) < _FARTHEST)
    near = positions[around].astype(np.float64)
    cells = np.floor(near[:, :2] / _CELL).astype(np.int64)
    keys = cells[:, 0] * 4096 + cells[:, 1]
    order = np.lexsort((near[:, 2], keys))
    keys, near = keys[order], near[order]
    begins = np.flatnonzero(np.diff(keys, prepend=np.iinfo(np.int64).min))
    counts = np.diff(np.append(begins, len(keys)))
    low: Positions = near[(begins + counts // 10)[counts >= 3]]
    return low


def _up(roll: float, pitch: float) -> Positions:
    """Returns what is up in the cloud's frame where the mount has these angles: the last row of its matrix."""
    return np.asarray(Mount(None, roll, pitch).rotation()[2])


def _angles(normal: Positions) -> tuple[float, float]:
    """Returns roll and pitch, degrees, of the mount that turns this direction of the cloud's frame up."""
    pitch = -math.asin(max(-1.0, min(1.0, float(normal[0]))))
    roll = math.atan2(float(normal[1]), float(normal[2]))
    return math.degrees(roll), math.degrees(pitch)


def find_sensor(positions: Positions, height: float = SENSOR_HEIGHT) -> Vector3 | None:
    """Finds where the sensor is in positions `[N, 3]`, finite ones: amid the densest part; None without points.

    height: of the sensor above the ground, metres

    Only a sensor that looks all around is in its middle. x and y are right within about 2 m on streets; z is the height
    of the ground there and the sensor's above it.
    """
    if not len(positions):
        return None
    some = positions[:: -(-len(positions) // _SOME)]
    middle = np.median(some, axis=0)
    flat = some[:, :2] - middle[:2]
    centre = np.zeros(2)
    for width in _SMOOTH:
        with np.errstate(over="ignore"):  # of a point that is no distance at all, and has no weight
            weights = np.exp(((flat - centre) ** 2).sum(axis=1) / (-2 * width**2))
        if not weights.sum() > 0:
            break
        centre = weights @ flat / weights.sum()
    x, y = (float(value) for value in middle[:2] + centre)
    around = positions - np.array((x, y, float(middle[2])))
    ground = find_ground(around)
    z = float(middle[2]) - ground.height + height if ground else float(middle[2])
    return x, y, z


def is_far(positions: Positions) -> bool:
    """Returns whether no point, of positions `[N, 3]` that are finite, lies within `FAR` of the origin in the plane."""
    if not len(positions):
        return False
    # Some points are enough to know that a cloud is near.
    return all(
        float(np.hypot(some[:, 0], some[:, 1]).min()) > FAR
        for some in (positions[:: -(-len(positions) // 100)], positions)
    )


@dataclass(frozen=True)
class PlaceRule:
    """Where the sensor is, as somebody said it.

    origin:        the sensor's place in the clouds' frame, metres; AUTO finds it in each cloud; None where it is the
                   origin
    mount:         how the clouds' frame stands over the ground; AUTO finds it in the first clouds
    sensor_height: of the network's training sensor, metres
    by_itself:     without an origin, the place is found in clouds that are all `FAR` away from theirs, as surveys are
    """

    origin: Vector3 | str | None = None
    mount: Mount | str = Mount()
    sensor_height: float = SENSOR_HEIGHT
    by_itself: bool = False

    @classmethod
    def parse(cls, origin: str | None, mount: str | None) -> PlaceRule:
        """Makes a rule from the options --origin and --mount. Raises UserError, which names the option."""
        return cls(parse_origin(origin), parse_mount(mount))

    @property
    def moves(self) -> bool:
        """Whether clouds do not stay where they are."""
        return self.origin is not None or self.mount != Mount()

    def settled(self, clouds: Sequence[Positions]) -> PlaceRule:
        """Returns the rule with the mount that the clouds, finite positions, show; itself where it is not AUTO.

        Raises UserError where they show no ground.
        """
        if self.mount != AUTO:
            return self
        seen = [find_ground(cloud - np.array(self.origin_of(cloud))) for cloud in clouds]
        ground = typical_ground([each for each in seen if each is not None and each.share > GROUND_SHARE])
        if ground is None:
            raise UserError(
                "mount is auto, but the clouds show no ground around the sensor; give it: z=..,pitch=.., and for "
                "clouds of a map give origin, too"
            )
        return replace(self, mount=ground.mount(self.sensor_height))

    def of(self, positions: Positions) -> Placement:
        """Returns the placement of one cloud, positions `[N, 3]`, which may hold NaN. The rule must be settled."""
        assert isinstance(self.mount, Mount)
        return Placement(self.origin_of(positions), self.mount, self.sensor_height)

    def origin_of(self, positions: Positions) -> Vector3:
        """Returns where the sensor is in the frame of a cloud, positions `[N, 3]`, which may hold NaN."""
        if isinstance(self.origin, tuple):
            return self.origin
        if self.origin is None and not self.by_itself:
            return 0.0, 0.0, 0.0
        there = np.isfinite(positions).all(axis=1) & (positions != 0).any(axis=1)
        if self.origin is None and not is_far(positions[there]):
            return 0.0, 0.0, 0.0
        # A mount that says how high the sensor is speaks of the place that is found, too.
        known = self.mount.z if isinstance(self.mount, Mount) else None
        return find_sensor(positions[there], self.sensor_height if known is None else known) or (0.0, 0.0, 0.0)

    def describe(self) -> str:
        """Says in half a sentence what is done to the coordinates; "" where nothing is."""
        parts = []
        if isinstance(self.origin, tuple):
            parts.append(f"origin {','.join(f'{value:.12g}' for value in self.origin)}")
        elif self.origin is not None:
            parts.append("origin found in each cloud")
        if isinstance(self.mount, Mount) and str(self.mount):
            parts.append(f"mount {self.mount}")
        return ", ".join(parts)


def parse_mount(text: str | None) -> Mount | str:
    """Reads "auto" or "z=0.5,roll=0,pitch=8,yaw=90", of which any may be left out. Raises UserError."""
    if text is None:
        return Mount()
    if text == AUTO:
        return AUTO
    values: dict[str, float] = {}
    for part in text.split(","):
        name, _, number = (word.strip() for word in part.partition("="))
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if name not in ("z", "roll", "pitch", "yaw") or name in values or not math.isfinite(value):
            raise UserError(f"mount must be auto or z=METRES,roll=DEGREES,pitch=DEGREES,yaw=DEGREES, found {text!r}")
        values[name] = value
    return Mount(**values)


def parse_origin(text: str | None) -> Vector3 | str | None:
    """Reads "auto" or "x,y,z" in metres. Raises UserError."""
    if text is None or text == AUTO:
        return text
    try:
        numbers = [float(number) for number in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != 3 or not all(map(math.isfinite, numbers)):
        raise UserError(f"origin must be auto or three numbers x,y,z in metres, found {text!r}")
    return numbers[0], numbers[1], numbers[2]
