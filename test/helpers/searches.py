"""A tiny supernet that nobody trained, and drives for tests of searches."""

from __future__ import annotations

from pathlib import Path

import torch

from drives import write_drive
from spvnas_ros.nets.space import Space
from spvnas_ros.nets.supernet import Supernet
from spvnas_ros.zoo.checkpoint import Facts
from spvnas_ros.zoo.supernet_checkpoint import save_supernet

TINY = Space((4,) * 9, (4, 8, 8, 12, 12, 12, 8, 8, 8), voxel_sizes=(0.5,))


def write_supernet(path: Path, space: Space = TINY) -> Path:
    """A supernet with random weights."""
    torch.manual_seed(3)
    largest = space.largest()
    facts = Facts(spec=largest.spec, name="tiny", voxel_size=largest.voxel_size, trained=False)
    save_supernet(path, Supernet(space), facts)
    return path


def write_drives(folder: Path, sequences: int, scans: int = 2) -> Path:
    """Sequences of small labelled scans in SemanticKITTI's layout."""
    for number in range(sequences):
        drive = folder / "sequences" / f"{number:02d}"
        drive.mkdir(parents=True)
        write_drive(drive, scans)
    return folder
