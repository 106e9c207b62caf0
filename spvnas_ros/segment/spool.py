"""The points of one cloud on disk, sorted into columns of the ground, and reduced to one point a voxel.

FOLDER/points      float32 `[M, 4]`: the points that a network can use, piece by piece, within a piece by column
FOLDER/places      int32 `[N]`: the column of every point in the order of the file, -1 for those left out
FOLDER/voxels      float32 `[V, 4]`: the first point of each voxel, column by column
FOLDER/members     uint32 `[M]`: for each of `points`, its voxel within its column
FOLDER/table       what lies where; it is written last

Nothing of it is kept in memory but one piece or one column at a time, and the tables of columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from spvnas_ros.frame import NONE_UNUSABLE, Points, Unusable
from spvnas_ros.recordings.files import replacing
from spvnas_ros.segment.tile_plan import COLUMN, Columns

POINTS, PLACES, VOXELS, MEMBERS, TABLE = "points", "places", "voxels", "members", "table"
_WIDTH = 4
_BYTES = 4 * _WIDTH
_SHIFT = 31
_FAR = 1 << 30
"""Columns from the middle: farther ones cannot be told apart by their code."""


@dataclass(frozen=True)
class Piece:
    """Some points of a cloud, in its order.

    points:   float32 `[m, 4]`, those that a network can use; their cells are counted from `base`
    cells:    int64 `[m, 3]`, the voxel of each
    kept:     bool `[n]`, which points of the file these are
    unusable: the others, by kind
    """

    points: Points
    cells: npt.NDArray[np.int64]
    kept: npt.NDArray[np.bool_]
    unusable: Unusable


@dataclass(frozen=True)
class Spool:
    """What lies on disk of one cloud.

    total:    number of points of the file
    unusable: those that are not there, by kind
    lowest:   the least voxel along each axis, int64 `[3]`
    columns:  int64 `[B, 2]`, the places of the columns
    voxels:   int64 `[B + 1]`, where the voxels of each column begin in the file of voxels
    segments: int64 `[S, 4]`: number of the piece, column, first row in `points`, number of rows; ordered by piece
    sizes:    int64 `[P]`, points of the file in each piece
    """

    folder: Path
    total: int
    unusable: Unusable
    lowest: npt.NDArray[np.int64]
    columns: Columns
    voxels: npt.NDArray[np.int64]
    segments: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]

    @classmethod
    def load(cls, folder: Path) -> Spool | None:
        """Returns the spool that was written whole in a folder; None where there is none."""
        try:
            with np.load(folder / TABLE) as table:
                return cls(
                    folder, int(table["total"]), Unusable(*table["unusable"].tolist()), table["lowest"],
                    table["columns"], table["voxels"], table["segments"], table["sizes"],
                )  # fmt: skip
        except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile):
            return None

    def voxels_of(self, column: int) -> Points:
        """Returns the first point of each voxel of a column, float32 `[v, 4]`."""
        begin, end = self.voxels[column : column + 2]
        return read_rows(self.folder / VOXELS, np.float32, int(begin), int(end - begin), _WIDTH)

    def members(self) -> Iterator[npt.NDArray[np.int64]]:
        """Yields for every point in the order of the file, some at a time, the row of its voxel, -1 for none."""
        bounds = np.searchsorted(self.segments[:, 0], np.arange(len(self.sizes) + 1))
        at = 0
        for number, count in enumerate(self.sizes.tolist()):
            places = read_rows(self.folder / PLACES, np.int32, at, count)
            rows = np.full(count, -1, np.int64)
            segments = self.segments[bounds[number] : bounds[number + 1]]
            if len(segments):
                start, length = int(segments[0, 2]), int(segments[:, 3].sum())
                order = np.argsort(places, kind="stable")[count - length :]
                members = read_rows(self.folder / MEMBERS, np.uint32, start, length)
                rows[order] = members + np.repeat(self.voxels[segments[:, 1]], segments[:, 3])
            yield rows
            at += count


def write_spool(folder: Path, pieces: Iterable[Piece]) -> Spool:
    """Writes a cloud's pieces into an empty folder. Raises OSError."""
    codes: dict[int, int] = {}
    segments: list[npt.NDArray[np.int64]] = []
    sizes: list[int] = []
    written, unusable = 0, NONE_UNUSABLE
    lowest = np.full(3, np.iinfo(np.int64).max)
    with ExitStack() as stack:
        points = stack.enter_context((folder / POINTS).open("wb"))
        cells_file = stack.enter_context((folder / "cells").open("wb"))
        places = stack.enter_context((folder / PLACES).open("wb"))
        for number, piece in enumerate(pieces):
            place = np.full(len(piece.kept), -1, np.int32)
            if len(piece.points):
                column = piece.cells[:, :2] // COLUMN
                code = (column[:, 0] + _FAR << _SHIFT) + (column[:, 1] + _FAR)
                distinct, inverse = np.unique(code, return_inverse=True)
                known = np.array([codes.setdefault(int(each), len(codes)) for each in distinct], np.int64)
                ids = known[inverse]
                place[piece.kept] = ids
                order = np.argsort(ids, kind="stable")
                counts = np.bincount(ids)
                there = np.flatnonzero(counts)
                begins = written + np.concatenate(([0], np.cumsum(counts[there])[:-1]))
                segments.append(np.stack([np.full(len(there), number), there, begins, counts[there]], axis=1))
                points.write(np.ascontiguousarray(piece.points[order]).tobytes())
                cells_file.write(piece.cells[order].astype(np.int32).tobytes())
                written += len(order)
                lowest = np.minimum(lowest, piece.cells.min(axis=0))
            places.write(place.tobytes())
            sizes.append(len(place))
            unusable += piece.unusable
    by_id = np.array(sorted(codes, key=codes.__getitem__), np.int64)
    columns = np.stack([(by_id >> _SHIFT) - _FAR, (by_id & (1 << _SHIFT) - 1) - _FAR], axis=1)
    table = np.concatenate(segments) if segments else np.zeros((0, 4), np.int64)
    counts = _reduce(folder, table, columns, written)
    for name in (POINTS, "cells"):
        (folder / name).unlink()
    ends = np.concatenate(([0], np.cumsum(counts)))
    spool = Spool(folder, sum(sizes), unusable, lowest, columns, ends, table, np.array(sizes, np.int64))
    with replacing(folder / TABLE) as file:
        np.savez(
            file, total=np.int64(spool.total), unusable=np.array([*unusable.counts().values()], np.int64),
            lowest=lowest, columns=columns, voxels=ends, segments=table, sizes=spool.sizes,
        )  # fmt: skip
    return spool


def _reduce(folder: Path, segments: npt.NDArray[np.int64], columns: Columns, written: int) -> npt.NDArray[np.int64]:
    """Finds the first point of each voxel of every column. Returns how many voxels each column has."""
    counts = np.zeros(len(columns), np.int64)
    order = np.argsort(segments[:, 1], kind="stable")
    bounds = np.searchsorted(segments[order, 1], np.arange(len(columns) + 1))
    with (folder / VOXELS).open("wb") as voxels, (folder / MEMBERS).open("wb") as members:
        members.truncate(4 * written)
        for column, (begin, end) in enumerate(pairwise(bounds)):
            mine = segments[order[begin:end]]
            keys, firsts = np.empty(0, np.int64), np.empty((0, _WIDTH), np.float32)
            for _, _, start, length in mine:
                key, points = _keys(folder, int(start), int(length), columns[column])
                distinct, first = np.unique(key, return_index=True)
                fresh = ~np.isin(distinct, keys, assume_unique=True)
                if len(keys):
                    merged = np.concatenate([keys, distinct[fresh]])
                    into = np.argsort(merged, kind="stable")
                    keys = merged[into]
                    firsts = np.concatenate([firsts, points[first[fresh]]])[into]
                else:
                    keys, firsts = distinct, points[first]
            counts[column] = len(keys)
            voxels.write(np.ascontiguousarray(firsts).tobytes())
            for _, _, start, length in mine:
                key, _ = _keys(folder, int(start), int(length), columns[column])
                members.seek(4 * int(start))
                members.write(np.searchsorted(keys, key).astype(np.uint32).tobytes())
    return counts


def _keys(folder: Path, start: int, length: int, column: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], Points]:
    """Returns where points lie within a column, a number for each voxel, and the points."""
    cells = read_rows(folder / "cells", np.int32, start, length, 3).astype(np.int64)
    within = cells[:, :2] - column * COLUMN
    key = (cells[:, 2] * COLUMN + within[:, 0]) * COLUMN + within[:, 1]
    return key, read_rows(folder / POINTS, np.float32, start, length, _WIDTH)


def read_rows(path: Path, kind: npt.DTypeLike, start: int, rows: int, width: int = 1) -> npt.NDArray[Any]:
    """Reads rows of a file of numbers, `[rows, width]`, or `[rows]` where the width is 1. Raises OSError."""
    kind = np.dtype(kind)
    array = np.fromfile(path, kind, rows * width, offset=start * width * kind.itemsize)
    if len(array) < rows * width:
        raise OSError(f"{path} is cut short")
    return array.reshape(rows, width) if width > 1 else array
