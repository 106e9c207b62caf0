"""The voxels and neighbours of a scan from a Morton octree, without hashing or searching.

Voxels are sorted by Morton key (see `kernels.grid`). A parent's key is therefore `key >> 3`, and siblings are
consecutive. A voxel's neighbours are children of its parent's neighbours. The parent's 3x3x3 neighbourhood, seen one
level down, is a 6x6x6 block, and the inner 4x4x4 of that block holds every neighbour of every child. The occupancy of
this 4x4x4 block is one 64-bit word. A child's own neighbourhood is that word shifted and masked.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numba.cpython.unsafe.numbers import trailing_zeros

from spvnas_ros.kernels.cpu.buffers import FRESH, Memory
from spvnas_ros.kernels.cpu.team import Team, take_ticket
from spvnas_ros.kernels.grid import (
    AXIS_BITS,
    CENTRE,
    CORNERS,
    KERNEL_OFFSETS,
    MAX_BATCH,
    MAX_EXTENT,
    KeyRangeError,
    key_range_error,
)

_RADIX_BITS = 11
_CHUNK = 2048
"""Voxels that one thread refines at a time, where their neighbours are not grouped by tile."""
_ROUNDS = 255
"""Windows that counters of 8 bits can add up."""


def _window_bit(x: int, y: int, z: int) -> int:
    """Returns the bit of a cell of the 4x4x4 block. The parent's own children are cells 1 and 2 of each axis."""
    return 16 * x + 4 * y + z


def _tables():
    """Returns the look-up tables over the 4x4x4 block.

    own uint64 `[256]`: block cells filled by the children of mask m of the parent itself
    inner uint8 `[27]`: mask of the child slots of the parent's neighbour at offset k that lie in the block
    turn uint64 `[27]`: bits by which `own` of those children is rotated to their cells; none leaves the word
    owner uint8 `[64]`: the neighbour of the parent that a cell belongs to
    before uint8 `[64]`: mask of that neighbour's child slots before the cell's own
    kernel_row uint8 `[64]`: in a child's window, moved to the origin, the kernel row of each cell
    bit uint64 `[27]`: the cell of each kernel row there; window uint64: all of these cells
    shift uint64 `[8]`: bits by which the window of child slot s is shifted
    """
    own, inner, turn = np.zeros(256, np.uint64), np.zeros(27, np.uint8), np.zeros(27, np.uint64)
    owner, before, kernel_row = (np.zeros(64, np.uint8) for _ in range(3))
    bits, window = np.zeros(27, np.uint64), 0
    for mask in range(256):
        cells = [_window_bit(*(b + 1 for b in corner)) for slot, corner in enumerate(CORNERS) if mask >> slot & 1]
        own[mask] = sum(1 << cell for cell in cells)
    for k, offset in enumerate(KERNEL_OFFSETS):
        bit = _window_bit(*(d + 1 for d in offset))
        kernel_row[bit], bits[k], window = k, bit, window | 1 << bit
        turn[k] = _window_bit(*(2 * d for d in offset)) % 64
        for slot, corner in enumerate(CORNERS):
            cell = [2 * d + b + 1 for d, b in zip(offset, corner, strict=True)]
            if all(0 <= v < 4 for v in cell):
                bit = _window_bit(*cell)
                owner[bit], before[bit], inner[k] = k, (1 << slot) - 1, inner[k] | 1 << slot
    shift = np.array([_window_bit(*corner) for corner in CORNERS], np.uint64)
    return own, inner, turn, owner, before, kernel_row, bits, np.uint64(window), shift


_OWN, _INNER, _TURN, _OWNER, _BEFORE, _KERNEL_ROW, _BIT, _WINDOW, _SHIFT = _tables()
_POPULATION = np.array([bin(i).count("1") for i in range(256)], np.int8)
_CORNER_OF_ROW = np.array([CORNERS.index(offset) if offset in CORNERS else 8 for offset in KERNEL_OFFSETS], np.uint8)
"""The corner of a cell that a kernel row reaches, 8 for none."""


class Neighbours(NamedTuple):
    """The occupied 3x3x3 neighbours of every voxel, as compressed rows.

    starts: int32 `[n + 1]`; kernel_rows: uint8 `[P]`; rows: int32 `[P]`
    """

    starts: Any
    kernel_rows: Any
    rows: Any


class Family(NamedTuple):
    """The links between the voxels of a level and their parents, the voxels of the next coarser level.

    parents: int32 `[n]`; first_child: int32 `[m + 1]`; masks: uint8 `[m]`, bit s set where child slot s is occupied
    """

    parents: Any
    first_child: Any
    masks: Any


@njit(cache=True, nogil=True)
def _spread(v):
    v = (v | (v << 32)) & 0x1F00000000FFFF
    v = (v | (v << 16)) & 0x1F0000FF0000FF
    v = (v | (v << 8)) & 0x100F00F00F00F00F
    v = (v | (v << 4)) & 0x10C30C30C30C30C3
    return (v | (v << 2)) & 0x1249249249249249


@njit(cache=True, nogil=True)
def _encode(coords, origin, keys):
    for i in range(coords.shape[0]):
        x, y, z = coords[i, 1] - origin[1], coords[i, 2] - origin[2], coords[i, 3] - origin[3]
        keys[i] = (coords[i, 0] << 3 * AXIS_BITS) | (_spread(x) << 2) | (_spread(y) << 1) | _spread(z)


@njit(cache=True, nogil=True)
def _scale(points, voxel_size, cells):
    """Stores `round(xyz / voxel_size)` in float32, and returns the lowest and the highest value of each axis."""
    low, high = np.full(3, np.inf, np.float32), np.full(3, -np.inf, np.float32)
    for i in range(points.shape[0]):
        for a in range(3):
            value = np.rint(points[i, a] / voxel_size)
            cells[i, a] = value
            low[a], high[a] = min(low[a], value), max(high[a], value)
    return low, high


@njit(cache=True, nogil=True)
def _encode_cells(cells, low, keys):
    for i in range(cells.shape[0]):
        x, y, z = np.int64(cells[i, 0]) - low[0], np.int64(cells[i, 1]) - low[1], np.int64(cells[i, 2]) - low[2]
        keys[i] = (_spread(x) << 2) | (_spread(y) << 1) | _spread(z)


@njit(cache=True, nogil=True)
def _sort(keys, bits, order, other_keys, other_order):
    """Sorts keys in place by their lowest `bits` bits with a stable radix sort.

    Returns those two of the arrays that hold the sorted keys and the permutation int32.
    """
    n = keys.shape[0]
    for i in range(n):
        order[i] = i
    digit_mask = (1 << _RADIX_BITS) - 1
    ends = np.empty(digit_mask + 2, np.int64)
    for shift in range(0, bits, _RADIX_BITS):
        ends[:] = 0
        for i in range(n):
            ends[((keys[i] >> shift) & digit_mask) + 1] += 1
        for d in range(digit_mask):
            ends[d + 1] += ends[d]
        for i in range(n):
            digit = (keys[i] >> shift) & digit_mask
            place = ends[digit]
            ends[digit] = place + 1
            other_keys[place], other_order[place] = keys[i], order[i]
        keys, other_keys = other_keys, keys
        order, other_order = other_order, order
    return keys, order


@njit(cache=True, nogil=True)
def _unique(keys, order, first, inverse):
    """Moves the distinct keys to the front, and returns how many they are.

    Stores the first entry of each in the caller's order, and the rank of each entry.
    """
    m = 0
    for i in range(keys.shape[0]):
        if i == 0 or keys[i] != keys[m - 1]:
            keys[m], first[m] = keys[i], order[i]
            m += 1
        inverse[order[i]] = m - 1
    return m


@njit(cache=True, nogil=True)
def _coarsen(keys, distinct, parents, first_child, masks):
    """Stores the keys of the parents and the family that joins the levels, and returns how many parents there are."""
    n, m = keys.shape[0], 0
    for i in range(n):
        key = keys[i] >> 3
        if m == 0 or key != distinct[m - 1]:
            distinct[m], first_child[m], masks[m] = key, i, 0
            m += 1
        parents[i] = m - 1
        masks[m - 1] |= np.uint8(1 << (keys[i] & 7))
    first_child[m] = n
    return m


@njit(cache=True, nogil=True)
def _block(p, family, coarse):
    """Returns the occupancy of the block around a parent."""
    block = np.uint64(0)
    for q in range(np.uint64(coarse.starts[p]), np.uint64(coarse.starts[p + np.uint64(1)])):
        k = coarse.kernel_rows[q]
        cells = _OWN[family.masks[np.uint64(coarse.rows[q])] & _INNER[k]]
        block |= (cells << _TURN[k]) | (cells >> ((np.uint64(64) - _TURN[k]) & np.uint64(63)))
    return block


@njit(cache=True, nogil=True)
def _count_neighbours(counter, tile_rows, keys, family, coarse, blocks, counts):
    """Counts each tile's neighbours by kernel row, in a first pass, and stores the occupancy of each parent's block.

    A parent whose children lie in two tiles is looked at for both.
    """
    n = keys.shape[0]
    sums = np.zeros(8, np.uint64)
    while True:
        tile = take_ticket(counter.ctypes.data)
        start = tile * tile_rows
        if start >= n:
            return
        stop = min(n, start + tile_rows)
        counts[tile] = 0
        left = _ROUNDS
        for p in range(np.uint64(family.parents[start]), np.uint64(family.parents[stop - 1] + 1)):
            block = _block(p, family, coarse)
            if family.first_child[p] >= start:
                blocks[p] = block
            first, last = max(start, family.first_child[p]), min(stop, family.first_child[p + np.uint64(1)])
            for i in range(np.uint64(first), np.uint64(last)):
                window = (block >> _SHIFT[keys[i] & 7]) & _WINDOW
                # Bit 8 b + s is counted in byte b of sum s: all bits of a window at once, and no branch.
                for s in range(np.uint64(8)):
                    sums[s] += (window >> s) & np.uint64(0x0101010101010101)
                left -= 1
                if left == 0:
                    _add_up(sums, counts[tile])
                    left = _ROUNDS
        _add_up(sums, counts[tile])


@njit(cache=True, nogil=True)
def _add_up(sums, counts):
    """Adds the bytes of the sums to the counts of their kernel rows, and starts again at 0."""
    for k in range(27):
        bit = _BIT[k]
        counts[k] += np.int32((sums[bit & np.uint64(7)] >> (bit & np.uint64(56))) & np.uint64(255))
    sums[:] = 0


@njit(cache=True, nogil=True)
def lay_out(counts, unit, groups, bases):
    """Fills where every tile's group of a kernel row begins, `groups`, and where its compressed rows begin, `bases`.

    counts: int32 `[tiles, volume]`; groups, int32 `[tiles * volume + 1]`, are padded to multiples of `unit`
    bases: int32 `[tiles + 1]`
    """
    total, place = 0, 0
    for t in range(counts.shape[0]):
        bases[t] = total
        for k in range(counts.shape[1]):
            groups[t * counts.shape[1] + k] = place
            total += counts[t, k]
            place += (counts[t, k] + unit - 1) // unit * unit
    bases[counts.shape[0]], groups[counts.size] = total, place


@njit(cache=True, nogil=True)
def _fill_neighbours(
    counter, tile_rows, keys, family, coarse, blocks, bases, groups, starts, kernel_rows, rows, in_tiles, ins, outs
):
    """Stores the neighbours themselves, in a second pass: as compressed rows and, where `ins` has room, by tile.

    Indices are unsigned, because signed ones are checked for wrap-around.
    """
    n, grouped = keys.shape[0], ins.shape[0] > 0
    padding = tile_rows if in_tiles else n
    first, masks, places = np.empty(27, np.int32), np.empty(27, np.uint8), np.empty(27, np.uint32)
    while True:
        tile = take_ticket(counter.ctypes.data)
        start = tile * tile_rows
        if start >= n:
            return
        stop = min(n, start + tile_rows)
        base = start if in_tiles else 0
        place = np.uint64(bases[tile])
        for k in range(27):
            places[k] = groups[27 * tile + k]
        for p in range(np.uint64(family.parents[start]), np.uint64(family.parents[stop - 1] + 1)):
            for q in range(np.uint64(coarse.starts[p]), np.uint64(coarse.starts[p + np.uint64(1)])):
                k, j = coarse.kernel_rows[q], np.uint64(coarse.rows[q])
                first[k], masks[k] = family.first_child[j], family.masks[j]
            begin, end = max(start, family.first_child[p]), min(stop, family.first_child[p + np.uint64(1)])
            for i in range(np.uint64(begin), np.uint64(end)):
                starts[i] = place
                shift = _SHIFT[keys[i] & 7]
                window = (blocks[p] >> shift) & _WINDOW
                while window:
                    bit = np.uint64(trailing_zeros(window))
                    window &= window - np.uint64(1)
                    owner, k = _OWNER[bit + shift], _KERNEL_ROW[bit]
                    row = first[owner] + _POPULATION[masks[owner] & _BEFORE[bit + shift]]
                    kernel_rows[place], rows[place] = k, row
                    place += np.uint64(1)
                    if grouped:
                        at = places[k]
                        ins[at], outs[at] = row, np.int64(i) - base
                        places[k] = at + np.uint32(1)
        if grouped:
            for k in range(27):
                for at in range(places[k], np.uint32(groups[27 * tile + k + 1])):
                    ins[at], outs[at] = n, padding


class Grouping(NamedTuple):
    """How the pairs of a level are grouped by tile, see `convolve.Pairs`.

    tile_rows: output rows of a tile; unit: groups are padded to multiples of it; spare: readable entries behind them
    in_tiles: output rows are counted from the first of their tile
    """

    tile_rows: int
    unit: int
    spare: int
    in_tiles: bool


class Grouped(NamedTuple):
    """The arrays of a grouping, see `convolve.Pairs`."""

    groups: np.ndarray
    ins: np.ndarray
    outs: np.ndarray


def refine(
    team: Team,
    keys: np.ndarray,
    family: Family,
    coarse: Neighbours,
    grouping: Grouping | None = None,
    memory: Memory = FRESH,
    name: str = "",
    lasting: bool = True,
) -> tuple[Neighbours, Grouped | None]:
    """Returns the neighbours of a level's voxels, found through their parents' neighbours, and their pairs by tile.

    keys, family: of the level; coarse: the neighbours of the parents; name: of the level in the memory
    lasting: whether the neighbours, besides the pairs, are needed when the geometry is complete
    """
    n = len(keys)
    tile_rows = grouping.tile_rows if grouping else _CHUNK
    tiles = -(-n // tile_rows)
    take = memory.array if lasting else memory.brief
    blocks = memory.brief(f"{name}.blocks", len(family.masks), np.uint64)
    counts = memory.brief(f"{name}.counts", (tiles, 27), np.int32)
    team.run(_count_neighbours, tile_rows, keys, family, coarse, blocks, counts, shares=tiles)
    groups, bases = memory.array(f"{name}.groups", 27 * tiles + 1, np.int32), np.empty(tiles + 1, np.int32)
    lay_out(counts, grouping.unit if grouping else 1, groups, bases)
    total, room = int(bases[-1]), int(groups[-1]) + grouping.spare if grouping else 0
    ins, outs = memory.array(f"{name}.ins", room, np.int32), memory.array(f"{name}.outs", room, np.int32)
    found = Neighbours(
        take(f"{name}.starts", n + 1, np.int32),
        take(f"{name}.kernel_rows", total, np.uint8),
        take(f"{name}.rows", total, np.int32),
    )
    found.starts[n] = total
    in_tiles = grouping is not None and grouping.in_tiles
    team.run(
        _fill_neighbours, tile_rows, keys, family, coarse, blocks, bases, groups, *found, in_tiles, ins, outs,
        shares=tiles,
    )  # fmt: skip
    if grouping is None:
        return found, None
    ins[groups[-1] :], outs[groups[-1] :] = n, tile_rows if in_tiles else n
    return found, Grouped(groups, ins, outs)


@njit(cache=True, nogil=True)
def _corner_rows(neighbours, corners):
    near = np.empty(9, np.int32)
    for i in range(np.uint64(corners.shape[0])):
        near[:] = -1
        for q in range(np.uint64(neighbours.starts[i]), np.uint64(neighbours.starts[i + np.uint64(1)])):
            near[_CORNER_OF_ROW[neighbours.kernel_rows[q]]] = neighbours.rows[q]
        for c in range(8):
            corners[i, c] = near[c]


@njit(cache=True, nogil=True)
def _cells_of(keys, cells):
    for i in range(keys.shape[0]):
        for a in range(3):
            v = (keys[i] >> (2 - a)) & 0x9249249249249  # every third of the 54 spatial bits
            v = (v | (v >> 2)) & 0x10C30C30C30C30C3
            v = (v | (v >> 4)) & 0x100F00F00F00F00F
            v = (v | (v >> 8)) & 0x1F0000FF0000FF
            v = (v | (v >> 16)) & 0x1F00000000FFFF
            cells[i, a] = np.int32((v | (v >> 32)) & 0x1FFFFF)


def corner_rows(neighbours: Neighbours, memory: Memory = FRESH, name: str = "corners") -> np.ndarray:
    """Returns the rows int32 `[n, 8]` of the voxels at the upper corners of every voxel's cell, -1 where none is."""
    corners = memory.array(name, (len(neighbours.starts) - 1, 8), np.int32)
    _corner_rows(neighbours, corners)
    return corners


def cells_of(keys: np.ndarray, memory: Memory = FRESH) -> np.ndarray:
    """Returns the voxel coordinates int32 `[n, 3]` of Morton keys, without the batch index."""
    cells = memory.array("cells", (len(keys), 3), np.int32)
    _cells_of(keys, cells)
    return cells


class Cloud(NamedTuple):
    """A sorted set of voxels, and its links to the caller's rows.

    keys: int64 `[n]`; first: int32 `[n]`, the caller's first row in each voxel; inverse: int32 `[N]`, voxel of each row
    """

    keys: np.ndarray
    first: np.ndarray
    inverse: np.ndarray


def voxels_of_points(points: np.ndarray, voxel_size: float, memory: Memory = FRESH) -> Cloud:
    """Returns the voxels of finite points float32 `[N, 3 or more]`, exactly as `sparse.coords.quantize` forms them."""
    cells = memory.brief("voxels.cells", (len(points), 3), np.float32)
    low, high = _scale(points, np.float32(voxel_size), cells)
    extent = float((high - low).max())
    if not extent < MAX_EXTENT:
        raise key_range_error(extent + 1)
    if max(abs(float(low.min())), abs(float(high.max()))) >= 2**31:
        raise KeyRangeError(
            f"points lie {np.abs(points[:, :3]).max():.3g} m from the origin, where float32 cannot tell voxels of "
            f"{voxel_size} m apart; move the cloud into the sensor's frame"
        )
    bits = int(extent).bit_length() * 3
    keys, other_keys = _key_arrays(len(points), bits, memory)
    _encode_cells(cells, low.astype(np.int64), keys)
    return _cloud(keys, other_keys, bits, memory)


def voxels_of_coords(coords: np.ndarray, depth: int = 4, memory: Memory = FRESH) -> Cloud:
    """Returns the voxels at integer coords `[N, 4]` (batch, x, y, z).

    Cells are aligned as in `sparse.kernel_map.build_levels`.
    """
    coords = np.ascontiguousarray(coords, np.int64)
    origin = coords.min(axis=0) >> depth << depth
    extent = int((coords - origin)[:, 1:].max()) + 1
    if extent > MAX_EXTENT:
        raise key_range_error(extent)
    batches = int(coords[:, 0].max())
    if not 0 <= coords[:, 0].min() <= batches < MAX_BATCH:
        raise ValueError(f"batch indices must be in 0..{MAX_BATCH - 1}, found {coords[:, 0].min()}..{batches}")
    bits = 3 * AXIS_BITS + batches.bit_length()
    keys, other_keys = _key_arrays(len(coords), bits, memory)
    _encode(coords, origin, keys)
    return _cloud(keys, other_keys, bits, memory)


def _key_arrays(count: int, bits: int, memory: Memory) -> tuple[np.ndarray, np.ndarray]:
    """Returns the array for the keys and the other one for `_sort`, which leaves the sorted keys where they last."""
    lasting, brief = memory.array("voxels.keys", count, np.int64), memory.brief("voxels.other_keys", count, np.int64)
    return (brief, lasting) if -(-bits // _RADIX_BITS) % 2 else (lasting, brief)


def _cloud(keys: np.ndarray, other_keys: np.ndarray, bits: int, memory: Memory) -> Cloud:
    n = len(keys)
    order, other_order = (memory.brief(f"voxels.{name}", n, np.int32) for name in ("order", "other_order"))
    first, inverse = (memory.array(f"voxels.{name}", n, np.int32) for name in ("first", "inverse"))
    keys, order = _sort(keys, bits, order, other_keys, other_order)
    found = _unique(keys, order, first, inverse)
    return Cloud(keys[:found], first[:found], inverse)


@njit(cache=True, nogil=True)
def first_rows(counter, tile_rows, rows, first, out):
    """Stores the caller's rows that speak for their voxels, `out[v] = rows[first[v]]`; `out` may be wider."""
    while True:
        start = take_ticket(counter.ctypes.data) * tile_rows
        if start >= first.shape[0]:
            return
        for v in range(np.uint64(start), np.uint64(min(first.shape[0], start + tile_rows))):
            row = np.uint64(first[v])
            for c in range(rows.shape[1]):
                out[v, c] = rows[row, c]


class Climb(NamedTuple):
    """All levels from the finest voxels up to where every scan is one voxel, and the families that join them."""

    keys: list[np.ndarray]
    families: list[Family]


def climb(keys: np.ndarray, depth: int, memory: Memory = FRESH) -> Climb:
    """Returns the levels over sorted distinct Morton keys of the finest voxels, at least one; `depth` at least."""
    levels, families = [keys], list[Family]()
    one_scan = keys[0] >> 3 * AXIS_BITS == keys[-1] >> 3 * AXIS_BITS
    scans = 1 if one_scan else len(np.unique(keys >> 3 * AXIS_BITS))
    while len(levels[-1]) > scans or len(levels) <= depth:
        n, name = len(levels[-1]), f"family{len(families)}"
        coarse = memory.brief(f"{name}.keys", n, np.int64)
        parents, masks = memory.brief(f"{name}.parents", n, np.int32), memory.brief(f"{name}.masks", n, np.uint8)
        first_child = memory.brief(f"{name}.first_child", n + 1, np.int32)
        found = _coarsen(levels[-1], coarse, parents, first_child, masks)
        levels.append(coarse[:found])
        families.append(Family(parents, first_child[: found + 1], masks[:found]))
    return Climb(levels, families)


def top_neighbours(keys: np.ndarray) -> Neighbours:
    """Returns the neighbours where every scan is one voxel, whose only neighbour is itself."""
    top = len(keys)
    rows = np.arange(top + 1, dtype=np.int32)
    return Neighbours(rows, np.full(top, CENTRE, np.uint8), rows[:top])


def build_octree(team: Team, keys: np.ndarray, depth: int) -> tuple[list[np.ndarray], list[Family], list[Neighbours]]:
    """Returns the keys `[n_l]` of levels 0..depth, the families that join them, and each level's neighbours.

    keys: sorted distinct Morton keys of the finest voxels, at least one
    """
    levels, families = climb(keys, depth)
    neighbours = [top_neighbours(levels[-1])]
    for level in range(len(families) - 1, -1, -1):
        neighbours.append(refine(team, levels[level], families[level], neighbours[-1])[0])
    neighbours.reverse()
    return levels[: depth + 1], families[:depth], neighbours[: depth + 1]
