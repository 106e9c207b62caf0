"""A tiny design space, and drives for tests of searches."""

from __future__ import annotations

from pathlib import Path

from drives import write_drive
from spvnas_ros.nets.space import Space

TINY = Space((4,) * 9, (4, 8, 8, 12, 12, 12, 8, 8, 8), voxel_sizes=(0.5,))


def write_drives(folder: Path, sequences: int, scans: int = 2) -> Path:
    """Sequences of small labelled scans in SemanticKITTI's layout."""
    for number in range(sequences):
        drive = folder / "sequences" / f"{number:02d}"
        drive.mkdir(parents=True)
        write_drive(drive, scans)
    return folder
