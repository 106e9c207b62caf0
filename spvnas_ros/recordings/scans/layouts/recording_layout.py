"""Holds what the layouts of data sets have in common: the value that describes one, and the search for recordings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from spvnas_ros.recordings.scans.records import Record, ScanError

MOST_FOLDERS = 3
"""Folders between a data set's root and the folder of a recording, at most."""


@dataclass(frozen=True)
class Layout:
    """The scans of a data set.

    name:      of the data set
    kind:      as a `Source` has it: "folder" for one recording, "dataset" for several
    files:     name of each frame ("RECORDING/STEM", or "STEM" of one recording) and its file, in order
    read:      reads a file as structured `[N]`, x forward and y left, metres; raises ScanError
    intensity: the rule for the intensities in all of its files, see `clouds.intensity.Intensity`
    """

    name: str
    kind: str
    files: tuple[tuple[str, Path], ...]
    read: Callable[[Path], Record]
    intensity: str


def recordings_in(root: Path, tail: str) -> dict[str, Path]:
    """Returns the recordings under a data set's root, by name and in order: folders with a folder `tail` in them.

    root: is no recording itself; {} where there is none below it

    Raises ScanError where two of them have one name, as their results would have.
    """
    found: dict[str, Path] = {}
    for depth in range(1, MOST_FOLDERS + 1):
        for path in sorted(root.glob("/".join(["*"] * depth + [tail]))):
            if not path.is_dir():
                continue
            recording = path.parents[tail.count("/")]
            if (other := found.setdefault(recording.name, recording)) != recording:
                raise ScanError(
                    f"{other} and {recording} would get the same folder of results; name the folder above one of them"
                )
    return dict(sorted(found.items()))
