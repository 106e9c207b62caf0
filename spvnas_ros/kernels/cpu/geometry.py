"""The geometry of a scan on the CPU: the pairs, ancestors and corners of every level, computed once a frame."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numba import njit

from spvnas_ros.kernels.cpu.buffers import FRESH, Memory
from spvnas_ros.kernels.cpu.convolve import AHEAD, SHAPE, UNIT, Pairs
from spvnas_ros.kernels.cpu.octree import (
    Family,
    Grouped,
    Grouping,
    Neighbours,
    cells_of,
    climb,
    corner_rows,
    lay_out,
    refine,
    top_neighbours,
)
from spvnas_ros.kernels.cpu.team import Team

TILE_ROWS = (1024, 768, 512, 512, 512)
"""Output rows per tile at each level. A tile of outputs stays in the second-level cache, and every kernel row still
finds enough pairs in it to fill the vector blocks."""

_TILES_PER_THREAD = 4
_NO_CORNERS = np.zeros((0, 8), np.int32)
_NO_ROWS = np.zeros(0, np.int32)
SPARE = AHEAD + SHAPE.rows
"""Readable entries behind every index list, for whole groups and for prefetching."""


@dataclass(frozen=True)
class LevelGeometry:
    """The geometry of one resolution.

    size: number of voxels; identity: int32, rows 0..size-1 and spares; neighbours: pairs of the 3x3x3 convolution
    halving: pairs of the 2x2x2 convolution into this level; doubling: pairs of the transposed one into this level
    starts: int32 `[size + 1]`, first finest voxel under each
    ancestors: int32 `[n_0]`, row of each finest voxel, and corners: int32 `[size, 8]`: at the coarse levels where
    points and voxels meet, else empty
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

    @property
    def tiles(self) -> int:
        """The number of tiles."""
        return -(-self.size // self.tile_rows)


@dataclass(frozen=True)
class Geometry:
    """The geometry of all resolutions.

    cells: int32 `[n_0, 3]`, coordinates of the finest voxels; around: their neighbours, voxel by voxel
    """

    levels: tuple[LevelGeometry, ...]
    cells: np.ndarray
    around: Neighbours


def build_geometry(
    team: Team,
    keys: np.ndarray,
    depth: int,
    point_levels: Collection[int],
    in_tiles: bool = False,
    memory: Memory = FRESH,
) -> Geometry:
    """Builds the geometry over sorted distinct Morton keys (at least one) of the finest voxels.

    depth: how often the resolution is halved; point_levels: where points and voxels exchange features
    in_tiles: whether the output rows of all pairs are counted inside their tile, as `tile_pairs` says
    memory: where all arrays of the geometry live
    """
    keys_of, families = climb(keys, depth + 1, memory)  # one more, so that all levels have parents
    # Small clouds get smaller tiles, so that no thread goes without work.
    tile_rows = [
        _whole_blocks(min(most, -(-len(keys_of[level]) // (_TILES_PER_THREAD * team.threads))))
        for level, most in enumerate(TILE_ROWS[: depth + 1])
    ]
    groupings = [Grouping(rows, UNIT, SPARE, in_tiles) for rows in tile_rows]
    around: list[Neighbours] = [top_neighbours(keys_of[-1])] * len(keys_of)
    grouped: list[Grouped | None] = [None] * len(keys_of)
    for level in reversed(range(len(families))):
        grouping = groupings[level] if level <= depth else None
        around[level], grouped[level] = refine(
            team, keys_of[level], families[level], around[level + 1], grouping, memory, f"level{level}", level == 0
        )
    finest = memory.array("level0.identity", len(keys) + SPARE, np.int32)
    _number(_NO_ROWS, _NO_ROWS, finest, len(keys))
    starts = [finest[: len(keys) + 1]]
    for level, family in enumerate(families[:depth]):
        out = memory.array(f"level{level + 1}.firsts", len(family.first_child), np.int32)
        # With "clip", which never happens, numpy writes to `out` itself.
        starts.append(np.take(starts[level], family.first_child, out=out, mode="clip"))

    def level_geometry(level: int) -> LevelGeometry:
        size, name, grouping = len(keys_of[level]), f"level{level}", groupings[level]
        identity = finest if level == 0 else memory.array(f"{name}.identity", size + SPARE, np.int32)
        neighbours, ancestors, corners = grouped[level], _NO_ROWS, _NO_CORNERS
        assert neighbours is not None
        if level in point_levels and level > 0:
            ancestors = memory.array(f"{name}.ancestors", len(keys), np.int32)
            corners = corner_rows(around[level], memory, f"{name}.corners")
        if level > 0:
            _number(starts[level], ancestors, identity, size)
        return LevelGeometry(
            size,
            grouping.tile_rows,
            identity,
            Pairs(*neighbours, 27, grouping.tile_rows),
            _by_slot(keys_of[level - 1], families[level - 1], True, grouping, memory, name) if level > 0 else None,
            _by_slot(keys_of[level], families[level], False, grouping, memory, name) if level < depth else None,
            starts[level],
            ancestors,
            corners,
        )

    levels = team.map(level_geometry, range(depth + 1))
    return Geometry(tuple(levels), cells_of(keys, memory), around[0])


def _whole_blocks(rows: int) -> int:
    """Returns `rows` rounded up to whole blocks of the microkernel.

    Only the last tile may reach into the spare rows.
    """
    return -(-rows // SHAPE.rows) * SHAPE.rows


def _by_slot(keys: np.ndarray, family: Family, halving: bool, grouping: Grouping, memory: Memory, name: str) -> Pairs:
    """Returns the pairs of a 2x2x2 convolution between voxels (keys, family) and their parents.

    halving: whether it leads to the parents and not to the children
    """
    num_out = len(family.masks) if halving else len(keys)
    num_in = len(keys) if halving else len(family.masks)
    tile_rows, unit, spare, in_tiles = grouping
    tiles = -(-num_out // tile_rows)
    name = f"{name}.halving" if halving else f"{name}.doubling"
    counts, edges = memory.array(f"{name}.counts", (tiles, 8), np.int32), np.empty(tiles + 1, np.int32)
    _count_slots(keys, family.first_child, halving, tile_rows, counts, edges)
    groups = memory.array(f"{name}.groups", 8 * tiles + 1, np.int32)
    lay_out(counts, unit, groups, np.empty(tiles + 1, np.int32))
    room = int(groups[-1]) + spare
    ins, outs = memory.array(f"{name}.ins", room, np.int32), memory.array(f"{name}.outs", room, np.int32)
    padding = tile_rows if in_tiles else num_out
    _fill_slots(keys, family.parents, halving, tile_rows, in_tiles, edges, groups, num_in, padding, ins, outs)
    return Pairs(groups, ins, outs, 8, tile_rows)


@njit(cache=True, nogil=True)
def _count_slots(keys, first_child, halving, tile_rows, counts, edges):
    """Counts the pairs of every tile by child slot, and stores the children at which each tile begins and ends."""
    num_out = first_child.shape[0] - 1 if halving else keys.shape[0]
    edges[0] = 0
    for t in range(counts.shape[0]):
        last = min(num_out, (t + 1) * tile_rows)
        edges[t + 1] = first_child[last] if halving else last
        counts[t] = 0
        for child in range(np.uint64(edges[t]), np.uint64(edges[t + 1])):
            counts[t, keys[child] & 7] += 1


@njit(cache=True, nogil=True)
def _fill_slots(keys, parents, halving, tile_rows, in_tiles, edges, groups, num_in, padding, ins, outs):
    place = np.empty(8, np.uint32)
    for t in range(edges.shape[0] - 1):
        base = t * tile_rows if in_tiles else 0
        for k in range(8):
            place[k] = groups[8 * t + k]
        for child in range(np.uint64(edges[t]), np.uint64(edges[t + 1])):
            slot = np.uint64(keys[child]) & np.uint64(7)
            p = place[slot]
            place[slot] = p + np.uint32(1)
            if halving:
                ins[p], outs[p] = child, parents[child] - base
            else:
                ins[p], outs[p] = parents[child], np.int64(child) - base
        for k in range(8):
            for p in range(np.int64(place[k]), groups[8 * t + k + 1]):
                ins[p], outs[p] = num_in, padding
    for p in range(groups[-1], ins.shape[0]):
        ins[p], outs[p] = num_in, padding


@njit(cache=True, nogil=True)
def _number(starts, ancestors, identity, size):
    """Stores 0, 1, 2, ... up to `size`, and this again in all places behind it, in `identity`.

    Stores in `ancestors`, where it is not empty, the number of the run of `starts` that each place lies in.
    """
    for i in range(identity.shape[0]):
        identity[i] = min(i, size)
    if ancestors.shape[0] > 0:
        for run in range(starts.shape[0] - 1):
            for i in range(starts[run], starts[run + 1]):
                ancestors[i] = run


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
    groups, ins, outs = _tile_pairs(starts, kernel_rows, rows, volume, tile_rows, padding, in_tiles, UNIT, SPARE)
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
