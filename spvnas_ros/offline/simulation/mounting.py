"""Where the sensor stands on its vehicle: the range that a simulation draws from, one mount for each street, and the
parts of a vehicle of that size that hide the scene.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from spvnas_ros.clouds.mount import SENSOR_HEIGHT, Mount, Placement
from spvnas_ros.errors import UserError
from spvnas_ros.offline.simulation.sensors import Box, Sensor
from spvnas_ros.recordings.files import replacing

LOWEST, HIGHEST = 0.2, 5.0
"""Heights above the ground that can be simulated, metres."""
STEEPEST = 15.0
"""Degrees that a sensor may lean."""
_CAR = 1.5
"""A sensor that stands lower, metres, is not on the roof of a car."""
_ROBOT = 1.2
"""A sensor that stands lower, metres, is on a robot small enough for sidewalks."""
_DECK = (0.15, 0.4)
"""A small robot's deck is so far below its sensor, metres, and at most so high above the ground."""


@dataclass(frozen=True)
class MountRange:
    """The mounts that streets are driven with.

    height: least and greatest height of the sensor above the ground, metres; None for that of the sensor's preset
    tilt:   most degrees between the sensor's axis and the vehicle's upright
    share:  of the streets where it stands so; in the others it stands as its preset says

    Raises UserError for what cannot be simulated.
    """

    height: tuple[float, float] | None = None
    tilt: float = 0.0
    share: float = 1.0

    def __post_init__(self) -> None:
        if self.height is not None and not LOWEST <= self.height[0] <= self.height[1] <= HIGHEST:
            raise UserError(
                f"found the mount height {self.height[0]:g}:{self.height[1]:g}, expected metres above the ground, the "
                f"lower one first, from {LOWEST:g} to {HIGHEST:g}"
            )
        if not 0 <= self.tilt <= STEEPEST:
            raise UserError(f"found the mount tilt {self.tilt:g}, expected degrees from 0 to {STEEPEST:g}")
        if not 0 < self.share <= 1:
            raise UserError(
                f"found the mount share {self.share:g}, expected a share of the streets, above 0 and up to 1"
            )
        if self.share < 1 and not self.moves:
            raise UserError(
                f"a share of {self.share:g} of the streets would get another mount, but neither a height nor a tilt is "
                "given; give one (--mount-height 0.4:2.6, mount_height of a recipe), or leave the share out"
            )

    @property
    def moves(self) -> bool:
        """Whether the mount is ever another than the preset's."""
        return self.height is not None or self.tilt > 0

    def draw(self, sensor: Sensor, rng: np.random.Generator) -> Mount:
        """Draws a mount: evenly between the heights, and evenly up to the tilt, to any side.

        Of the streets that are not of the share, it is the preset's.
        """
        if self.share < 1 and rng.uniform() >= self.share:
            return Mount(sensor.height)
        low, high = self.height or (sensor.height, sensor.height)
        height, lean, side = float(rng.uniform(low, high)), float(rng.uniform(0, self.tilt)), rng.uniform(0, 2 * np.pi)
        return Mount(height, lean * float(np.cos(side)), lean * float(np.sin(side)))


def parse_height(text: str | None) -> tuple[float, float] | None:
    """Reads "1.2" or "0.4:2.6", metres. Raises UserError."""
    if text is None:
        return None
    try:
        numbers = [float(word) for word in text.split(":")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2):
        raise UserError(f"the mount height must be METRES or METRES:METRES, found {text!r}")
    return numbers[0], numbers[-1]


def upright(mount: Mount) -> Placement:
    """Returns what moves a cloud of a sensor with that mount to where networks know it: upright, on the height of
    SemanticKITTI's sensor, as the node and `spvnas segment` do.
    """
    return Placement(mount=mount, sensor_height=SENSOR_HEIGHT)


def parts_of_vehicle(sensor: Sensor, mount: Mount | None) -> tuple[Box, ...]:
    """Returns the parts that hide the scene, around the sensor and parallel to the vehicle: those of the preset's car,
    or under a low sensor a robot's deck and a mast behind it. A preset without a vehicle has none.
    """
    if mount is None or mount.z is None or mount.z >= _CAR or not sensor.body:
        return sensor.body
    z = mount.z
    top = max(min(z - _DECK[0], _DECK[1]) - z, 0.02 - z)
    deck: Box = (-0.45, -0.28, min(0.08 - z, top), 0.25, 0.28, top)
    mast: Box = (-0.42, -0.02, top, -0.38, 0.02, 0.12)
    return deck, mast


def on_sidewalk(mount: Mount, number: int) -> bool:
    """Tells whether the vehicle with that mount is a robot that drives on the sidewalk of the scene `number`, where
    there is room: every other one whose sensor is low does.
    """
    return mount.z is not None and mount.z < _ROBOT and number % 2 == 0


def write_mount(path: Path, mount: Mount) -> None:
    """Writes a street's mount: what `--mount` takes. Raises OSError where it cannot be written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write((json.dumps({**asdict(mount), "option": str(mount)}, indent=2) + "\n").encode())
