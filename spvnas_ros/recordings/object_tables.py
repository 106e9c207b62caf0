"""Objects of a scan as a table: a CSV file with a line for each object, all around the sensor.

```
kind,x,y,z,length,width,height,yaw,points,occlusion
car,12.102,-3.470,-0.951,4.212,1.801,1.498,0.0312,311,0
```

Boxes are in the frame of the scan's points, as in `spvnas_ros.frame.Boxes`. The simulator writes such tables.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from spvnas_ros.boxes.overlap import COLUMNS, BoxError, checked
from spvnas_ros.errors import UserError
from spvnas_ros.recordings.files import replacing

HEADER: Final = ("kind", *COLUMNS, "points", "occlusion")
UNKNOWN: Final = -1
"""The occlusion of an object of which nobody knows it."""


class ObjectTableError(UserError):
    """A file that is no table of objects. The message names file and line, what was found and what was expected."""


@dataclass(frozen=True)
class Objects:
    """What is truly there in a scan.

    kinds:     the data set's word for each, such as `Car`
    boxes:     float32 `[B, 7]`, as in `spvnas_ros.frame.Boxes`
    counts:    int64 `[B]`, how many points the scan has of it
    occlusion: int64 `[B]`, 0 fully visible, 1 partly, 2 largely occluded, 3 unknown; -1 = not known, too

    Raises ValueError where these are not as many.
    """

    kinds: tuple[str, ...]
    boxes: npt.NDArray[np.float32]
    counts: npt.NDArray[np.int64]
    occlusion: npt.NDArray[np.int64]

    def __post_init__(self) -> None:
        number = len(self.kinds)
        if self.boxes.shape != (number, 7) or self.counts.shape != (number,) or self.occlusion.shape != (number,):
            raise ValueError(
                f"{number} kinds have boxes {self.boxes.shape}, counts {self.counts.shape} and occlusion "
                f"{self.occlusion.shape}, expected one of each"
            )

    @classmethod
    def none(cls) -> Objects:
        """Returns what a scan without any object has."""
        return cls((), np.zeros((0, 7), np.float32), np.zeros(0, np.int64), np.zeros(0, np.int64))

    def __len__(self) -> int:
        return len(self.kinds)

    def among(self, which: npt.NDArray[np.bool_] | npt.NDArray[np.integer[Any]]) -> Objects:
        """Returns some of the objects: those of a mask, bool `[B]`, or of indices, in the order of these."""
        rows = np.flatnonzero(which) if which.dtype == np.bool_ else which
        kinds = tuple(self.kinds[row] for row in rows.tolist())
        return Objects(kinds, self.boxes[rows], self.counts[rows], self.occlusion[rows])

    def with_boxes(self, boxes: npt.NDArray[np.floating[Any]]) -> Objects:
        """Returns the same objects in other boxes `[B, 7]`."""
        return Objects(self.kinds, boxes.astype(np.float32), self.counts, self.occlusion)

    @classmethod
    def joined(cls, parts: Sequence[Objects]) -> Objects:
        """Returns the objects of all parts, in order."""
        parts = [cls.none(), *parts]
        return cls(
            tuple(kind for part in parts for kind in part.kinds),
            np.concatenate([part.boxes for part in parts]),
            np.concatenate([part.counts for part in parts]),
            np.concatenate([part.occlusion for part in parts]),
        )


def write_objects(path: Path, objects: Objects) -> None:
    """Writes a table; whole, or not at all. Raises OSError where it cannot be written."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADER)
    for index, kind in enumerate(objects.kinds):
        box = [f"{value:.4f}" for value in objects.boxes[index].tolist()]
        writer.writerow([kind, *box, int(objects.counts[index]), int(objects.occlusion[index])])
    with replacing(path) as file:
        file.write(text.getvalue().encode())


def read_objects_of(path: Path) -> Objects:
    """Reads a table.

    Raises ObjectTableError that names file and line: for another header, words that are too few, too many or no
    numbers, and boxes that are none; and where the file cannot be read.
    """
    try:
        rows = list(csv.reader(io.StringIO(path.read_text("utf-8"))))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ObjectTableError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if not rows or tuple(rows[0]) != HEADER:
        found = ",".join(rows[0]) if rows else "nothing"
        raise ObjectTableError(f"{path}, line 1 has {found!r}, expected {','.join(HEADER)!r}")
    kinds, table = [], []
    for number, row in enumerate(rows[1:], start=2):
        where = f"{path}, line {number}"
        if len(row) != len(HEADER):
            raise ObjectTableError(f"{where} has {len(row)} words, expected {len(HEADER)}: {','.join(HEADER)}")
        kinds.append(row[0])
        table.append(_numbers(where, row[1:]))
    values = np.array(table, np.float64).reshape(-1, len(HEADER) - 1)
    return Objects(
        tuple(kinds), values[:, :7].astype(np.float32), values[:, 7].astype(np.int64), values[:, 8].astype(np.int64)
    )


def _numbers(where: str, words: list[str]) -> list[float]:
    try:
        values = [*map(float, words[:7]), *map(int, words[7:])]
    except ValueError as error:
        raise ObjectTableError(f"{where}: {error}; expected numbers, and whole ones for points and occlusion") from None
    try:
        checked([values[:7]], "the line")
    except BoxError as error:
        raise ObjectTableError(f"{where}: {error}") from error
    return values
