"""Objects of a scan as a table: a CSV file with a line for each object, all around the sensor.

```
kind,x,y,z,length,width,height,yaw,points,occlusion,id
car,12.102,-3.470,-0.951,4.212,1.801,1.498,0.0312,311,0,17
```

Boxes are in the frame of the scan's points, as in `spvnas_ros.frame.Boxes`. The simulator writes such tables; those of
its first version have no `id`.
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

_FIRST: Final = ("kind", *COLUMNS, "points", "occlusion")
HEADER: Final = (*_FIRST, "id")
UNKNOWN: Final = -1
"""The occlusion of an object of which nobody knows it."""
_LARGEST: Final = 2**53


class ObjectTableError(UserError):
    """A file that is no table of objects. The message names file and line, what was found and what was expected."""


@dataclass(frozen=True)
class Objects:
    """What is truly there in a scan.

    kinds:     the data set's word for each, such as `Car`
    boxes:     float32 `[B, 7]`, as in `spvnas_ros.frame.Boxes`
    counts:    int64 `[B]`, how many points the scan has of it
    occlusion: int64 `[B]`, 0 fully visible, 1 partly, 2 largely occluded, 3 unknown; -1 = not known, too
    ids:       int64 `[B]`, which object of the drive it is, each once in a scan; None where nobody knows

    Raises ValueError where these are not as many.
    """

    kinds: tuple[str, ...]
    boxes: npt.NDArray[np.float32]
    counts: npt.NDArray[np.int64]
    occlusion: npt.NDArray[np.int64]
    ids: npt.NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        number = len(self.kinds)
        if self.boxes.shape != (number, 7) or self.counts.shape != (number,) or self.occlusion.shape != (number,):
            raise ValueError(
                f"{number} kinds have boxes {self.boxes.shape}, counts {self.counts.shape} and occlusion "
                f"{self.occlusion.shape}, expected one of each"
            )
        if self.ids is not None and (self.ids.shape != (number,) or len(np.unique(self.ids)) < number):
            raise ValueError(f"{number} kinds have ids {self.ids.shape}, expected one of each, no two the same")

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
        ids = None if self.ids is None else self.ids[rows]
        return Objects(kinds, self.boxes[rows], self.counts[rows], self.occlusion[rows], ids)

    def with_boxes(self, boxes: npt.NDArray[np.floating[Any]]) -> Objects:
        """Returns the same objects in other boxes `[B, 7]`."""
        return Objects(self.kinds, boxes.astype(np.float32), self.counts, self.occlusion, self.ids)

    @classmethod
    def joined(cls, parts: Sequence[Objects]) -> Objects:
        """Returns the objects of all parts, in order, without ids: two drives use the same ones."""
        parts = [cls.none(), *parts]
        return cls(
            tuple(kind for part in parts for kind in part.kinds),
            np.concatenate([part.boxes for part in parts]),
            np.concatenate([part.counts for part in parts]),
            np.concatenate([part.occlusion for part in parts]),
        )


def write_objects(path: Path, objects: Objects) -> None:
    """Writes a table; whole, or not at all. Without ids it has no such column. Raises OSError where it cannot be
    written.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_FIRST if objects.ids is None else HEADER)
    for index, kind in enumerate(objects.kinds):
        box = [f"{value:.4f}" for value in objects.boxes[index].tolist()]
        identity = [] if objects.ids is None else [int(objects.ids[index])]
        writer.writerow([kind, *box, int(objects.counts[index]), int(objects.occlusion[index]), *identity])
    with replacing(path) as file:
        file.write(text.getvalue().encode())


def read_objects_of(path: Path) -> Objects:
    """Reads a table.

    Raises ObjectTableError that names file and line: for another header, words that are too few, too many or no
    numbers, boxes that are none, and an id that comes twice; and where the file cannot be read.
    """
    try:
        rows = list(csv.reader(io.StringIO(path.read_text("utf-8"))))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ObjectTableError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    header = tuple(rows[0]) if rows else ()
    if header not in (HEADER, _FIRST):
        found = ",".join(rows[0]) if rows else "nothing"
        raise ObjectTableError(f"{path}, line 1 has {found!r}, expected {','.join(HEADER)!r}")
    kinds: list[str] = []
    boxes: list[list[float]] = []
    counts: list[int] = []
    occlusion: list[int] = []
    ids: dict[int, int] = {}
    for number, row in enumerate(rows[1:], start=2):
        where = f"{path}, line {number}"
        if len(row) != len(header):
            raise ObjectTableError(f"{where} has {len(row)} words, expected {len(header)}: {','.join(header)}")
        kinds.append(row[0])
        box, whole = _numbers(where, row[1:])
        boxes.append(box)
        counts.append(whole[0])
        occlusion.append(whole[1])
        for identity in whole[2:]:
            if (other := ids.setdefault(identity, number)) != number:
                raise ObjectTableError(f"{where} has the id {identity} of line {other}, expected each object once")
    return Objects(
        tuple(kinds),
        np.array(boxes, np.float32).reshape(-1, 7),
        np.array(counts, np.int64),
        np.array(occlusion, np.int64),
        np.array(list(ids), np.int64) if header == HEADER else None,
    )


def _numbers(where: str, words: list[str]) -> tuple[list[float], list[int]]:
    try:
        box, whole = [*map(float, words[:7])], [*map(int, words[7:])]
    except ValueError as error:
        raise ObjectTableError(
            f"{where}: {error}; expected numbers, and whole ones for points, occlusion and id"
        ) from None
    if large := [number for number in whole if abs(number) > _LARGEST]:
        raise ObjectTableError(f"{where} has the number {large[0]}, expected {_LARGEST} at most")
    try:
        checked([box], "the line")
    except BoxError as error:
        raise ObjectTableError(f"{where}: {error}") from error
    return box, whole
