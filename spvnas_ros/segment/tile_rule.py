"""Which clouds are cut into tiles: what `--tile` says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from spvnas_ros.errors import UserError

AUTO: Final = "auto"
OFF: Final = "off"
_WIDEST = 1e5


@dataclass(frozen=True)
class TileRule:
    """Which clouds are cut into tiles, and how.

    edge: metres along a tile's edge; None for what the points allow
    cuts: False where no cloud is cut
    all:  whether every scan is cut, not just large ones and maps
    """

    edge: float | None = None
    cuts: bool = True
    all: bool = False

    @classmethod
    def parse(cls, text: str) -> TileRule:
        """Reads "auto", "off", or metres. Raises UserError."""
        if text in (AUTO, OFF):
            return cls(cuts=text == AUTO)
        try:
            edge = float(text)
        except ValueError:
            edge = 0.0
        if not 0 < edge <= _WIDEST:
            raise UserError(f"--tile is auto, off or the edge of a tile in metres, found {text!r}")
        return cls(edge, all=True)

    def __str__(self) -> str:
        return f"{self.edge:g}" if self.edge is not None else AUTO if self.cuts else OFF
