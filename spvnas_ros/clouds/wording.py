"""How advice names what a user can set: options of a command, or parameters of the node."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from spvnas_ros.clouds.mount import Mount


@dataclass(frozen=True)
class Wording:
    """The words for one listener.

    command: whether options of a command are spoken of; else parameters of the node
    both:    of a mount, the command's option goes before the node's parameters
    """

    command: bool = False
    both: bool = False

    def mount(self, mount: Mount) -> str:
        """Returns how to set a mount, as it can be copied to a command line; "" for none needed."""
        value = str(mount)
        if not value:
            return ""
        option, parameters = (
            f"--mount {value}",
            " ".join(f"-p mount.{each.replace('=', ':=')}" for each in value.split(",")),
        )
        if self.both:
            return f"set {option} (of the node: {parameters})"
        return f"set {option if self.command else parameters}"

    @property
    def no_mount(self) -> str:
        return f"leave {'--mount' if self.command else 'the mount'} out"

    @property
    def place(self) -> str:
        """How to say where the sensor is."""
        if self.command:
            return "give its place with --origin x,y,z or --origin auto, and the height with --mount auto"
        return (
            "give its place with origin (x,y,z or auto) and the height with mount.z, or the sensor's frame with "
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
TO_BOTH: Final = Wording(both=True)
