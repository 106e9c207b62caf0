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
"""Parents that one thread refines at a time."""


def _window_bit(x: int, y: int, z: int) -> int:
    """Returns the bit of a cell of the 4x4x4 block. The parent's own children are cells 1 and 2 of each axis."""
    return 16 * x + 4 * y + z


def _tables():
    """Returns the look-up tables over the 4x4x4 block.

    occupancy uint64 `[27, 256]`: block cells filled by a parent's neighbour at offset k with child mask m
    owner uint8 `[64]`: the neighbour of the parent that a cell belongs to
    before uint8 `[64]`: mask of that neighbour's child slots before the cell's own
    kernel_row uint8 `[64]`: in a child's window, moved to the origin, the kernel row of each cell
    window uint64: the cells of such a window
    shift uint64 `[8]`: bits by which the window of child slot s is shifted
    """
    occupancy, owner = np.zeros((27, 256), np.uint64), np.zeros(64, np.uint8)
    before, kernel_row = np.zeros(64, np.uint8), np.zeros(64, np.uint8)
    window = 0
    for k, offset in enumerate(KERNEL_OFFSETS):
        bit = _window_bit(*(d + 1 for d in offset))
        kernel_row[bit], window = k, window | 1 << bit
        for slot, corner in enumerate(CORNERS):
            cell = [2 * d + b + 1 for d, b in zip(offset, corner, strict=True)]
            if all(0 <= v < 4 for v in cell):
                bit = _window_bit(*cell)
                owner[bit], before[bit] = k, (1 << slot) - 1
                for mask in range(256):
                    if mask >> slot & 1:
                        occupancy[k, mask] |= np.uint64(1 << bit)
    shift = np.array([_window_bit(*corner) for corner in CORNERS], np.uint64)
    return occupancy, owner, before, kernel_row, np.uint64(window), shift


_OCCUPANCY, _OWNER, _BEFORE, _KERNEL_ROW, _WINDOW, _SHIFT = _tables()
_POPULATION = np.array([bin(i).count("1") for i in range(256)], np.int8)
_CORNER_OF_ROW = np.array([CORNERS.index(offset) if offset in CORNERS else -1 for offset in KERNEL_OFFSETS], np.int8)


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
def _encode(coords, origin):
    keys = np.empty(coords.shape[0], np.int64)
    for i in range(coords.shape[0]):
        x, y, z = coords[i, 1] - origin[1], coords[i, 2] - origin[2], coords[i, 3] - origin[3]
        keys[i] = (coords[i, 0] << 3 * AXIS_BITS) | (_spread(x) << 2) | (_spread(y) << 1) | _spread(z)
    return keys


@njit(cache=True, nogil=True)
def _scale(points, voxel_size):
    """Returns `round(xyz / voxel_size)` in float32, and the lowest and the highest value of each axis."""
    cells = np.empty((points.shape[0], 3), np.float32)
    low, high = np.full(3, np.inf, np.float32), np.full(3, -np.inf, np.float32)
    for i in range(points.shape[0]):
        for a in range(3):
            value = np.rint(points[i, a] / voxel_size)
            cells[i, a] = value
            low[a], high[a] = min(low[a], value), max(high[a], value)
    return cells, low, high


@njit(cache=True, nogil=True)
def _encode_cells(cells, low):
    keys = np.empty(cells.shape[0], np.int64)
    for i in range(cells.shape[0]):
        x, y, z = np.int64(cells[i, 0]) - low[0], np.int64(cells[i, 1]) - low[1], np.int64(cells[i, 2]) - low[2]
        keys[i] = (_spread(x) << 2) | (_spread(y) << 1) | _spread(z)
    return keys


@njit(cache=True, nogil=True)
def _sort(keys, bits):
    """Sorts keys by their lowest `bits` bits with a stable radix sort.

    Returns the sorted keys and the permutation int32.
    """
    n = keys.shape[0]
    keys, order = keys.copy(), np.arange(n).astype(np.int32)
    other_keys, other_order = np.empty_like(keys), np.empty_like(order)
    digit_mask = (1 << _RADIX_BITS) - 1
    for shift in range(0, bits, _RADIX_BITS):
        ends = np.zeros(digit_mask + 2, np.int64)
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
def _unique(keys, order):
    """Returns the distinct keys, the first entry of each in the caller's order, and the rank of each entry."""
    n = keys.shape[0]
    distinct, first, inverse = np.empty(n, np.int64), np.empty(n, np.int32), np.empty(n, np.int32)
    m = 0
    for i in range(n):
        if i == 0 or keys[i] != keys[i - 1]:
            distinct[m], first[m] = keys[i], order[i]
            m += 1
        inverse[order[i]] = m - 1
    return distinct[:m], first[:m], inverse


@njit(cache=True, nogil=True)
def _coarsen(keys):
    """Returns the keys of the parents, and the family that joins the two levels."""
    n = keys.shape[0]
    distinct, parents = np.empty(n, np.int64), np.empty(n, np.int32)
    first_child, masks = np.empty(n + 1, np.int32), np.zeros(n, np.uint8)
    m = 0
    for i in range(n):
        key = keys[i] >> 3
        if m == 0 or key != distinct[m - 1]:
            distinct[m], first_child[m] = key, i
            m += 1
        parents[i] = m - 1
        masks[m - 1] |= np.uint8(1 << (keys[i] & 7))
    first_child[m] = n
    return distinct[:m], Family(parents, first_child[: m + 1], masks[:m])


@njit(cache=True, nogil=True)
def _count_neighbours(counter, keys, family, coarse, blocks, starts, totals):
    """Counts the neighbours, in a first pass over chunks of parents.

    Stores the occupancy of each parent's block, and where each voxel's neighbours start in its chunk.
    """
    while True:
        chunk = take_ticket(counter.ctypes.data)
        if chunk >= totals.shape[0]:
            return
        total = 0
        for p in range(chunk * _CHUNK, min(family.masks.shape[0], (chunk + 1) * _CHUNK)):
            block = np.uint64(0)
            for q in range(coarse.starts[p], coarse.starts[p + 1]):
                block |= _OCCUPANCY[coarse.kernel_rows[q], family.masks[coarse.rows[q]]]
            blocks[p] = block
            for i in range(family.first_child[p], family.first_child[p + 1]):
                starts[i] = total
                total += _popcount((block >> _SHIFT[keys[i] & 7]) & _WINDOW)
        totals[chunk] = total


@njit(cache=True, nogil=True)
def _fill_neighbours(counter, keys, family, coarse, blocks, bases, starts, kernel_rows, rows):
    """Stores the neighbours themselves, in a second pass.

    Indices are unsigned, because signed ones are checked for wrap-around.
    """
    first, masks = np.empty(27, np.int32), np.empty(27, np.uint8)
    while True:
        chunk = take_ticket(counter.ctypes.data)
        if chunk >= bases.shape[0]:
            return
        place = np.uint64(bases[chunk])
        for p in range(chunk * _CHUNK, min(family.masks.shape[0], (chunk + 1) * _CHUNK)):
            for q in range(coarse.starts[p], coarse.starts[p + 1]):
                k, j = coarse.kernel_rows[q], coarse.rows[q]
                first[k], masks[k] = family.first_child[j], family.masks[j]
            for i in range(family.first_child[p], family.first_child[p + 1]):
                starts[i] += bases[chunk]
                shift = _SHIFT[keys[i] & 7]
                window = (blocks[p] >> shift) & _WINDOW
                while window:
                    bit = np.uint64(trailing_zeros(window))
                    window &= window - np.uint64(1)
                    k = _OWNER[bit + shift]
                    kernel_rows[place] = _KERNEL_ROW[bit]
                    rows[place] = first[k] + _POPULATION[masks[k] & _BEFORE[bit + shift]]
                    place += np.uint64(1)


def _refine(team: Team, keys: np.ndarray, family: Family, coarse: Neighbours) -> Neighbours:
    """Returns the neighbours of a level's voxels, found through their parents' neighbours."""
    n, m = len(keys), len(family.masks)
    blocks, starts = np.empty(m, np.uint64), np.empty(n + 1, np.int32)
    totals = np.zeros(-(-m // _CHUNK), np.int32)
    team.run(_count_neighbours, keys, family, coarse, blocks, starts, totals)
    ends = np.cumsum(totals, dtype=np.int32)
    starts[n] = ends[-1]
    kernel_rows, rows = np.empty(ends[-1], np.uint8), np.empty(ends[-1], np.int32)
    team.run(_fill_neighbours, keys, family, coarse, blocks, ends - totals, starts, kernel_rows, rows)
    return Neighbours(starts, kernel_rows, rows)


@njit(cache=True, nogil=True)
def _popcount(x):
    x = x - ((x >> np.uint64(1)) & np.uint64(0x5555555555555555))
    x = (x & np.uint64(0x3333333333333333)) + ((x >> np.uint64(2)) & np.uint64(0x3333333333333333))
    x = (x + (x >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((x * np.uint64(0x0101010101010101)) >> np.uint64(56))


@njit(cache=True, nogil=True)
def corner_rows(neighbours):
    """Returns the rows int32 `[n, 8]` of the voxels at the upper corners of every voxel's cell, -1 where none is."""
    n = neighbours.starts.shape[0] - 1
    corners = np.full((n, 8), -1, np.int32)
    for i in range(n):
        for q in range(neighbours.starts[i], neighbours.starts[i + 1]):
            corner = _CORNER_OF_ROW[neighbours.kernel_rows[q]]
            if corner >= 0:
                corners[i, corner] = neighbours.rows[q]
    return corners


@njit(cache=True, nogil=True)
def cells_of(keys):
    """Returns the voxel coordinates int32 `[n, 3]` of Morton keys, without the batch index."""
    cells = np.empty((keys.shape[0], 3), np.int32)
    for i in range(keys.shape[0]):
        for a in range(3):
            v = (keys[i] >> (2 - a)) & 0x9249249249249  # every third of the 54 spatial bits
            v = (v | (v >> 2)) & 0x10C30C30C30C30C3
            v = (v | (v >> 4)) & 0x100F00F00F00F00F
            v = (v | (v >> 8)) & 0x1F0000FF0000FF
            v = (v | (v >> 16)) & 0x1F00000000FFFF
            cells[i, a] = np.int32((v | (v >> 32)) & 0x1FFFFF)
    return cells


class Cloud(NamedTuple):
    """A sorted set of voxels, and its links to the caller's rows.

    keys: int64 `[n]`; first: int32 `[n]`, the caller's first row in each voxel; inverse: int32 `[N]`, voxel of each row
    """

    keys: np.ndarray
    first: np.ndarray
    inverse: np.ndarray


def voxels_of_points(points: np.ndarray, voxel_size: float) -> Cloud:
    """Returns the voxels of finite points float32 `[N, 3 or more]`, exactly as `sparse.coords.quantize` forms them."""
    cells, low, high = _scale(points, np.float32(voxel_size))
    extent = float((high - low).max())
    if not extent < MAX_EXTENT:
        raise key_range_error(extent + 1)
    if max(abs(float(low.min())), abs(float(high.max()))) >= 2**31:
        raise KeyRangeError(
            f"points lie {np.abs(points[:, :3]).max():.3g} m from the origin, where float32 cannot tell voxels of "
            f"{voxel_size} m apart; move the cloud into the sensor's frame"
        )
    return _cloud(_encode_cells(cells, low.astype(np.int64)), int(extent).bit_length() * 3)


def voxels_of_coords(coords: np.ndarray, depth: int = 4) -> Cloud:
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
    return _cloud(_encode(coords, origin), 3 * AXIS_BITS + batches.bit_length())


def _cloud(keys: np.ndarray, bits: int) -> Cloud:
    return Cloud(*_unique(*_sort(keys, bits)))


def build_octree(team: Team, keys: np.ndarray, depth: int) -> tuple[list[np.ndarray], list[Family], list[Neighbours]]:
    """Returns the keys `[n_l]` of levels 0..depth, the families that join them, and each level's neighbours.

    keys: sorted distinct Morton keys of the finest voxels, at least one
    """
    levels, families = [keys], []
    scans = len(np.unique(keys >> 3 * AXIS_BITS))
    while len(levels[-1]) > scans or len(levels) <= depth:
        parents, family = _coarsen(levels[-1])
        levels.append(parents)
        families.append(family)
    # At the top every scan is one voxel, whose only neighbour is itself.
    top = len(levels[-1])
    itself = Neighbours(
        np.arange(top + 1, dtype=np.int32), np.full(top, CENTRE, np.uint8), np.arange(top, dtype=np.int32)
    )
    neighbours = [itself]
    for level in range(len(families) - 1, -1, -1):
        neighbours.append(_refine(team, levels[level], families[level], neighbours[-1]))
    neighbours.reverse()
    return levels[: depth + 1], families[:depth], neighbours[: depth + 1]
