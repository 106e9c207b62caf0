"""Sites on bounded grids: sorting, strided convolutions that make new sites, pairs by kernel row, and what lies around
points. `sparse.sites` is the definition; every array here is that one's to the last bit.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from spvnas_ros.kernels.cpu.octree import Neighbours
from spvnas_ros.kernels.grid import AXIS_BITS, CENTRE, CORNERS, MAX_BATCH, MAX_EXTENT

_RADIX_BITS = 11
_CORNERS = np.array(CORNERS, np.int64)
_FIBONACCI = -7046029254386353131
"""2**64 over the golden ratio, as int64: Knuth's multiplier for hashing."""


@njit(cache=True, nogil=True)
def _spread(v):
    """Moves bit i of `v` to bit 3 i."""
    v = (v | (v << 32)) & 0x1F00000000FFFF
    v = (v | (v << 16)) & 0x1F0000FF0000FF
    v = (v | (v << 8)) & 0x100F00F00F00F00F
    v = (v | (v << 4)) & 0x10C30C30C30C30C3
    return (v | (v << 2)) & 0x1249249249249249


@njit(cache=True, nogil=True)
def _compact(v):
    """Moves bit 3 i of `v` to bit i, for the 18 bits of an axis."""
    v = v & 0x9249249249249
    v = (v | (v >> 2)) & 0x10C30C30C30C30C3
    v = (v | (v >> 4)) & 0x100F00F00F00F00F
    v = (v | (v >> 8)) & 0x1F0000FF0000FF
    v = (v | (v >> 16)) & 0x1F00000000FFFF
    return (v | (v >> 32)) & 0x1FFFFF


@njit(cache=True, nogil=True)
def keys_of(coords, shape):
    """Returns the Morton keys of coords int64 `[n, 4]`, and whether all of them lie in a grid of `shape` cells."""
    keys = np.empty(coords.shape[0], np.int64)
    for i in range(coords.shape[0]):
        b, x, y, z = coords[i, 0], coords[i, 1], coords[i, 2], coords[i, 3]
        inside = 0 <= b < MAX_BATCH and 0 <= x < shape[0] and 0 <= y < shape[1] and 0 <= z < shape[2]
        if not inside:
            return keys, False
        keys[i] = (b << 3 * AXIS_BITS) | (_spread(x) << 2) | (_spread(y) << 1) | _spread(z)
    return keys, True


@njit(cache=True, nogil=True)
def coords_of(keys):
    """Returns the coords int64 `[n, 4]` (batch, x, y, z) of Morton keys."""
    coords = np.empty((keys.shape[0], 4), np.int64)
    for i in range(keys.shape[0]):
        coords[i, 0] = keys[i] >> 3 * AXIS_BITS
        for a in range(3):
            coords[i, 1 + a] = _compact(keys[i] >> (2 - a))
    return coords


@njit(cache=True, nogil=True)
def sort_keys(keys):
    """Sorts keys, none negative, and returns them with the permutation int64: a stable radix sort.

    Digits in which all keys agree are left out: those of a bounded grid have few others.
    """
    n = keys.shape[0]
    keys, order = keys.copy(), np.arange(n)
    other_keys, other_order = np.empty_like(keys), np.empty_like(order)
    changing = np.int64(0)
    for i in range(n):
        changing |= keys[i] ^ keys[0]
    digit_mask = (1 << _RADIX_BITS) - 1
    for shift in range(0, 63, _RADIX_BITS):
        if not (changing >> shift) & digit_mask:
            continue
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


class Pairing(NamedTuple):
    """The pairs of a strided convolution.

    keys: int64 `[m]`, of the outputs; in_rows, out_rows: int64 `[P]`, by kernel row, then by input; sizes: int64 `[K]`
    by_input, by_output: the other rows and kernel rows of every input and every output, as compressed rows
    """

    keys: Any
    in_rows: Any
    out_rows: Any
    sizes: Any
    by_input: Any
    by_output: Any


@njit(cache=True, nogil=True)
def _reached(cell, kernel, stride, padding, limit, rows, outs):
    """Fills the kernel rows by which a cell reaches an output of an axis, and the outputs; returns how many."""
    count = 0
    for k in range(kernel):
        reach = cell + padding - k
        out = reach // stride
        if out * stride == reach and 0 <= out < limit:
            rows[count], outs[count] = k, out
            count += 1
    return count


@njit(cache=True, nogil=True)
def pair_sites(coords, kernel, stride, padding, shape):
    """Returns the `Pairing` of sites int64 `[n, 4]`, sorted by key, with the outputs that a window reaches.

    kernel, stride, padding: of the window along x, y, z; shape: cells of the output's grid
    """
    n, volume = coords.shape[0], kernel[0] * kernel[1] * kernel[2]
    most = np.max(kernel)
    rows, outs, counts = np.empty((3, most), np.int64), np.empty((3, most), np.int64), np.empty(3, np.int64)
    starts = np.empty(n + 1, np.int32)
    total = 0
    for i in range(n):
        starts[i] = total
        found = 1
        for a in range(3):
            found *= _reached(coords[i, 1 + a], kernel[a], stride[a], padding[a], shape[a], rows[a], outs[a])
        total += found
    starts[n] = total
    keys, kernel_rows, owners = np.empty(total, np.int64), np.empty(total, np.uint8), np.empty(total, np.int32)
    sizes = np.zeros(volume, np.int64)
    p = 0
    for i in range(n):
        for a in range(3):
            counts[a] = _reached(coords[i, 1 + a], kernel[a], stride[a], padding[a], shape[a], rows[a], outs[a])
            for q in range(counts[a]):
                outs[a, q] = _spread(outs[a, q]) << (2 - a)
        batch = coords[i, 0] << 3 * AXIS_BITS
        for u in range(counts[2]):
            for v in range(counts[1]):
                for w in range(counts[0]):
                    k = (rows[2, u] * kernel[1] + rows[1, v]) * kernel[0] + rows[0, w]
                    keys[p] = batch | outs[2, u] | outs[1, v] | outs[0, w]
                    kernel_rows[p], owners[p] = k, i
                    sizes[k] += 1
                    p += 1
    ranks, distinct, out_starts, out_kernel_rows, out_owners = _outputs(keys, kernel_rows, owners)
    in_rows, out_rows = np.empty(total, np.int64), np.empty(total, np.int64)
    place = np.cumsum(sizes) - sizes
    for p in range(total):
        q = place[kernel_rows[p]]
        in_rows[q], out_rows[q] = owners[p], ranks[p]
        place[kernel_rows[p]] = q + 1
    by_input = Neighbours(starts, kernel_rows, ranks)
    by_output = Neighbours(out_starts, out_kernel_rows, out_owners)
    return Pairing(distinct, in_rows, out_rows, sizes, by_input, by_output)


@njit(cache=True, nogil=True)
def _outputs(keys, kernel_rows, owners):
    """Returns each pair's output int32, the outputs' keys, and their compressed rows."""
    n = keys.shape[0]
    ordered, order = sort_keys(keys)
    m = 0
    for i in range(n):
        m += i == 0 or ordered[i] != ordered[i - 1]
    distinct, starts = np.empty(m, np.int64), np.empty(m + 1, np.int32)
    ranks, new_rows, new_owners = np.empty(n, np.int32), np.empty_like(kernel_rows), np.empty_like(owners)
    m = 0
    for i in range(n):
        if i == 0 or ordered[i] != ordered[i - 1]:
            distinct[m], starts[m] = ordered[i], i
            m += 1
        p = order[i]
        ranks[p], new_rows[i], new_owners[i] = m - 1, kernel_rows[p], owners[p]
    starts[m] = n
    return ranks, distinct, starts, new_rows, new_owners


@njit(cache=True, nogil=True)
def mirrored_pairs(neighbours):
    """Returns in_rows, out_rows int64 `[P]` and sizes int64 `[27]` of a 3x3x3 convolution, by kernel row.

    A row of the first half goes by its outputs; its mirror in the second half has the same pairs, exchanged.
    """
    n, total = neighbours.starts.shape[0] - 1, neighbours.rows.shape[0]
    sizes = np.zeros(27, np.int64)
    for p in range(total):
        sizes[neighbours.kernel_rows[p]] += 1
    in_rows, out_rows = np.empty(total, np.int64), np.empty(total, np.int64)
    firsts = np.cumsum(sizes) - sizes
    place = firsts.copy()
    for i in range(n):
        for p in range(neighbours.starts[i], neighbours.starts[i + 1]):
            k = neighbours.kernel_rows[p]
            if k > CENTRE:
                continue
            q, other = place[k], neighbours.rows[p]
            in_rows[q], out_rows[q] = other, i
            place[k] = q + 1
            if k < CENTRE:
                q += firsts[26 - k] - firsts[k]
                in_rows[q], out_rows[q] = i, other
    return in_rows, out_rows, sizes


@njit(cache=True, nogil=True)
def compress(kernel_rows, others, owners, count):
    """Returns pairs by owner, as compressed rows; an owner's pairs stay in their order.

    kernel_rows: uint8 `[P]`; others, owners: int64 `[P]`, the rows of the two sides; count: of owners
    """
    total = owners.shape[0]
    starts = np.zeros(count + 1, np.int32)
    for p in range(total):
        starts[owners[p] + 1] += 1
    for i in range(count):
        starts[i + 1] += starts[i]
    place, new_rows, rows = starts.copy(), np.empty(total, np.uint8), np.empty(total, np.int32)
    for p in range(total):
        q = place[owners[p]]
        new_rows[q], rows[q] = kernel_rows[p], others[p]
        place[owners[p]] = q + 1
    return Neighbours(starts, new_rows, rows)


@njit(cache=True, nogil=True)
def slot_of(key, bits):
    """Returns where an open hash table of `2**bits` places begins to look for a key."""
    return np.int64(np.uint64(key * _FIBONACCI) >> np.uint64(64 - bits))


@njit(cache=True, nogil=True)
def _find(key, keys, table, bits):
    slot = slot_of(key, bits)
    while table[slot] >= 0:
        if keys[table[slot]] == key:
            return np.int64(table[slot])
        slot = (slot + 1) & (table.shape[0] - 1)
    return np.int64(-1)


@njit(cache=True, nogil=True)
def _table(keys):
    """Returns an open hash table of rows, twice as large as there are keys at least, and its bits."""
    bits = 4
    while (1 << bits) < 2 * keys.shape[0]:
        bits += 1
    table = np.full(1 << bits, -1, np.int32)
    for i in range(keys.shape[0]):
        slot = slot_of(keys[i], bits)
        while table[slot] >= 0:
            slot = (slot + 1) & (table.shape[0] - 1)
        table[slot] = i
    return table, bits


@njit(cache=True, nogil=True)
def around_points(coords, keys, steps, lasts, offset, scale):
    """Returns each point's site, int64 `[P]`, and the eight around it, int64 `[P, 8]`, with weights float32 `[P, 8]`.

    coords: int64 `[P, 4]`, of the points; keys: of the sites
    steps, lasts: int64 `[S, 3]`, by what a point's cell is divided at every step, and the last cell there
    offset, scale: float32 `[3]`, of the sites in finest cells

    The weights of places without a site are 0, and the others are not yet divided by their sum.
    """
    table, bits = _table(keys)
    n = coords.shape[0]
    ancestors, rows, weights = np.empty(n, np.int64), np.empty((n, 8), np.int64), np.empty((n, 8), np.float32)
    low, fractions = np.empty(3, np.int64), np.empty((3, 2), np.float32)
    parts, exists = np.empty((3, 2), np.int64), np.empty((3, 2), np.bool_)
    one = np.float32(1)
    for i in range(n):
        batch = coords[i, 0] << 3 * AXIS_BITS
        own = batch
        moved = i == 0 or coords[i, 0] != coords[i - 1, 0]
        for a in range(3):
            cell = coords[i, 1 + a]
            for s in range(steps.shape[0]):
                cell = min(cell // steps[s, a], lasts[s, a])
            own |= _spread(cell) << (2 - a)
            place = (np.float32(coords[i, 1 + a]) - offset[a]) / scale[a]
            floor = np.floor(place)
            fractions[a, 1] = place - floor
            fractions[a, 0] = one - fractions[a, 1]
            moved = moved or low[a] != np.int64(floor)
            low[a] = np.int64(floor)
        ancestors[i] = _find(own, keys, table, bits)
        if moved:
            for a in range(3):
                for side in range(2):
                    exists[a, side] = 0 <= low[a] + side < MAX_EXTENT
                    parts[a, side] = _spread(low[a] + side) << (2 - a) if exists[a, side] else 0
        for c in range(8):
            x, y, z = _CORNERS[c]
            if not moved:
                rows[i, c] = rows[i - 1, c]
            elif exists[0, x] and exists[1, y] and exists[2, z]:
                rows[i, c] = _find(batch | parts[0, x] | parts[1, y] | parts[2, z], keys, table, bits)
            else:
                rows[i, c] = -1
            weight = fractions[0, x] * fractions[1, y] * fractions[2, z]
            weights[i, c] = weight if rows[i, c] >= 0 else np.float32(0)
    return ancestors, rows, weights
