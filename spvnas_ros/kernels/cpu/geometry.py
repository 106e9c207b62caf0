"""The geometry of a scan on the CPU: the pairs, ancestors and corners of every level, computed once a frame."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numba import njit

from spvnas_ros.kernels.cpu.convolve import AHEAD, SHAPE, UNIT, Pairs
from spvnas_ros.kernels.cpu.octree import Family, Neighbours, build_octree, cells_of, corner_rows
from spvnas_ros.kernels.cpu.team import Team

TILE_ROWS = (1024, 768, 512, 512, 512)
"""Output rows per tile at each level. A tile of outputs stays in the second-level cache, and every kernel row still
finds enough pairs in it to fill the vector blocks."""

_TILES_PER_THREAD = 4
_NO_CORNERS = np.zeros((0, 8), np.int32)
_SPARE = AHEAD + SHAPE.rows
"""Readable entries behind every index list, for whole groups and for prefetching."""


@dataclass(frozen=True)
class LevelGeometry:
    """The geometry of one resolution.

    size: number of voxels; identity: int32, rows 0..size-1 and spares; neighbours: pairs of the 3x3x3 convolution
    halving: pairs of the 2x2x2 convolution into this level; doubling: pairs of the transposed one into this level
    starts: int32 `[size + 1]`, first finest voxel under each; ancestors: int32 `[n_0]`, row of each finest voxel
    corners: int32 `[size, 8]` at the coarse levels where points and voxels meet, else empty
    """

    size: int
    tile_rows: int
    identity: np.ndarray
    neighbours: Pairs
    halving: Pairs | None
    doubling: Pairs | None
    starts: np.ndarray
    ancestors: np.ndarray
    corners: np.ndarray


@dataclass(frozen=True)
class Geometry:
    """The geometry of all resolutions.

    cells: int32 `[n_0, 3]`, coordinates of the finest voxels; around: their neighbours, voxel by voxel
    """

    levels: tuple[LevelGeometry, ...]
    cells: np.ndarray
    around: Neighbours


def build_geometry(
    team: Team, keys: np.ndarray, depth: int, point_levels: Collection[int], in_tiles: bool = False
) -> Geometry:
    """Builds the geometry over sorted distinct Morton keys (at least one) of the finest voxels.

    depth: how often the resolution is halved; point_levels: where points and voxels exchange features
    in_tiles: whether the output rows of all pairs are counted inside their tile, as `tile_pairs` says
    """
    keys_of, families, neighbours = build_octree(team, keys, depth)
    starts, ancestors = [np.arange(len(keys) + 1, dtype=np.int32)], [np.arange(len(keys), dtype=np.int32)]
    for family in families:
        starts.append(starts[-1][family.first_child])
        ancestors.append(family.parents[ancestors[-1]])

    def level(index: int) -> LevelGeometry:
        size = len(keys_of[index])
        # Small clouds get smaller tiles, so that no thread goes without work.
        tile_rows = _whole_blocks(min(TILE_ROWS[index], -(-size // (_TILES_PER_THREAD * team.threads))))
        return LevelGeometry(
            size,
            tile_rows,
            np.minimum(np.arange(size + _SPARE, dtype=np.int32), size),
            tile_pairs(*neighbours[index], 27, tile_rows, size, in_tiles),
            _halving(keys_of[index - 1], families[index - 1], tile_rows, in_tiles) if index > 0 else None,
            _doubling(keys_of[index], families[index], tile_rows, in_tiles) if index < depth else None,
            starts[index],
            ancestors[index],
            corner_rows(neighbours[index]) if index in point_levels and index > 0 else _NO_CORNERS,
        )

    return Geometry(tuple(team.map(level, range(depth + 1))), cells_of(keys), neighbours[0])


def _whole_blocks(rows: int) -> int:
    """Returns `rows` rounded up to whole blocks of the microkernel.

    Only the last tile may reach into the spare rows.
    """
    return -(-rows // SHAPE.rows) * SHAPE.rows


def _halving(children: np.ndarray, family: Family, tile_rows: int, in_tiles: bool) -> Pairs:
    rows = np.arange(len(children), dtype=np.int32)
    return tile_pairs(family.first_child, _slots(children), rows, 8, tile_rows, len(children), in_tiles)


def _doubling(keys: np.ndarray, family: Family, tile_rows: int, in_tiles: bool) -> Pairs:
    one_each = np.arange(len(keys) + 1, dtype=np.int32)
    return tile_pairs(one_each, _slots(keys), family.parents, 8, tile_rows, len(family.masks), in_tiles)


def _slots(keys: np.ndarray) -> np.ndarray:
    return (keys & 7).astype(np.uint8)


def tile_pairs(
    starts: np.ndarray,
    kernel_rows: np.ndarray,
    rows: np.ndarray,
    volume: int,
    tile_rows: int,
    padding: int,
    in_tiles: bool = False,
) -> Pairs:
    """Groups compressed rows (per output row: kernel row and input row) by tile.

    Padded pairs read input row `padding`. They write the row behind the last output.

    in_tiles: output rows are counted from the first of their tile, for sums in a scratch tile; padded pairs write row
    `tile_rows`, the one behind the tile
    """
    groups, ins, outs = _tile_pairs(starts, kernel_rows, rows, volume, tile_rows, padding, in_tiles, UNIT, _SPARE)
    return Pairs(groups, ins, outs, volume, tile_rows)


@njit(cache=True, nogil=True)
def _tile_pairs(starts, kernel_rows, rows, volume, tile_rows, num_in, in_tiles, unit, spare):
    """Regroups compressed rows (per output row: kernel row and input row) into the arrays of `Pairs`.

    unit, spare: arguments and not globals, because numba would freeze globals into its cache of this file
    """
    num_out = starts.shape[0] - 1
    tiles = (num_out + tile_rows - 1) // tile_rows
    padding = tile_rows if in_tiles else num_out
    counts = np.zeros((tiles, volume), np.int32)
    for t in range(tiles):
        for q in range(starts[t * tile_rows], starts[min(num_out, (t + 1) * tile_rows)]):
            counts[t, kernel_rows[q]] += 1
    groups = np.empty(tiles * volume + 1, np.int32)
    total = 0
    for t in range(tiles):
        for k in range(volume):
            groups[t * volume + k] = total
            total += (counts[t, k] + unit - 1) // unit * unit
    groups[tiles * volume] = total
    ins, outs = np.empty(total + spare, np.int32), np.empty(total + spare, np.int32)
    ins[total:], outs[total:] = num_in, padding
    place = np.empty(volume, np.uint32)
    for t in range(tiles):
        place[:] = groups[t * volume : (t + 1) * volume]
        base = t * tile_rows if in_tiles else 0
        for i in range(t * tile_rows, min(num_out, (t + 1) * tile_rows)):
            for q in range(starts[i], starts[i + 1]):
                k = kernel_rows[q]
                p = place[k]
                ins[p], outs[p] = rows[q], i - base
                place[k] = p + np.uint32(1)
        for k in range(volume):
            for p in range(np.int64(place[k]), groups[t * volume + k + 1]):
                ins[p], outs[p] = num_in, padding
    return groups, ins, outs
