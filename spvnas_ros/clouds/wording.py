"""How advice names what a user can set: options of a command, or parameters of the node."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from spvnas_ros.clouds.mount import Mount


@dataclass(frozen=True)
class Wording:
    """The words for one listener.

    command: whether options of a command are spoken of; else parameters of the node
    """

    command: bool = False

    def mount(self, mount: Mount) -> str:
        """Returns how to set a mount; "" for none needed."""
        value = str(mount)
        return f"set {'--mount ' if self.command else 'mount: '}{value}" if value else ""

    @property
    def no_mount(self) -> str:
        return f"leave {'--mount' if self.command else 'the mount'} out"

    @property
    def place(self) -> str:
        """How to say where the sensor is."""
        if self.command:
            return "give its place with --origin x,y,z or --origin auto, and the height with --mount auto"
        return (
            "give its place with origin (x,y,z or auto; mount auto for the height), or the sensor's frame with "
            "target_frame"
        )

    @property
    def field(self) -> str:
        """What names the field of the intensities, as a sentence has it behind "with"."""
        return "--intensity-field" if self.command else "intensity_field"

    def scale(self, values: str) -> str:
        """Returns how to set the scale of the intensities to one of some values."""
        return f"give --intensity {values}" if self.command else f"set intensity to {values}"


TO_COMMAND: Final = Wording(command=True)
TO_NODE: Final = Wording()
