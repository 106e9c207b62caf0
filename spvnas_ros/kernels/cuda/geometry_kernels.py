"""Triton kernels that find a scan's voxels, their ancestors and their neighbours.

Arrays over levels hold one level after the other, each with its own capacity. Counts stay on the device, and entries
behind a count are masked. Voxels that do not fit are left out of the arrays but not out of the counts.
"""
# No `from __future__ import annotations` here: Triton's interpreter needs the annotations as objects.

import triton
import triton.language as tl


@triton.jit
def _spread(v):
    """Moves bit i of the int64 `v` to bit 3 i."""
    v = (v | (v << 32)) & 0x1F00000000FFFF
    v = (v | (v << 16)) & 0x1F0000FF0000FF
    v = (v | (v << 8)) & 0x100F00F00F00F00F
    v = (v | (v << 4)) & 0x10C30C30C30C30C3
    return (v | (v << 2)) & 0x1249249249249249


@triton.jit
def compact(v):
    """Moves bit 3 i of the int64 `v` to bit i, for 18 bits."""
    v = v & 0x9249249249249
    v = (v | (v >> 2)) & 0x10C30C30C30C30C3
    v = (v | (v >> 4)) & 0x100F00F00F00F00F
    v = (v | (v >> 8)) & 0x1F0000FF0000FF
    v = (v | (v >> 16)) & 0x1F00000000FFFF
    return (v | (v >> 32)) & 0x3FFFF


@triton.jit
def _interleave(x, y, z):
    return (_spread(x) << 2) | (_spread(y) << 1) | _spread(z)


@triton.jit
def encode(cells, low, number, keys, capacity, BLOCK: tl.constexpr):
    """Stores the Morton keys int64 `[capacity]` of cells int32 `[capacity, 4]` (batch, x, y, z).

    The coordinates count from `low` int32 `[4]`. Rows from `number` on get the highest key, so that they sort to the
    end. A cell out of range gets the key of some other cell. The host refuses such a frame by its extent, but every key
    stays one that the later kernels can take.
    """
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = i < tl.load(number)
    batch = tl.load(cells + 4 * i, mask=live, other=0).to(tl.int64) & 0x1FF
    x = (tl.load(cells + 4 * i + 1, mask=live, other=0) - tl.load(low + 1)).to(tl.int64) & 0x3FFFF
    y = (tl.load(cells + 4 * i + 2, mask=live, other=0) - tl.load(low + 2)).to(tl.int64) & 0x3FFFF
    z = (tl.load(cells + 4 * i + 3, mask=live, other=0) - tl.load(low + 3)).to(tl.int64) & 0x3FFFF
    key = (batch << 54) | _interleave(x, y, z)
    tl.store(keys + i, tl.where(live, key, 0x7FFFFFFFFFFFFFFF), mask=i < capacity)


@triton.jit
def mark_levels(keys, number, flags, capacity, LEVELS: tl.constexpr, BLOCK: tl.constexpr):
    """Stores flags int32 `[LEVELS, capacity]`: 1 at every sorted point that is the first in its voxel of a level."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = i < tl.load(number)
    key = tl.load(keys + i, mask=live, other=0)
    before = tl.load(keys + i - 1, mask=live & (i > 0), other=-1)
    for level in tl.static_range(LEVELS):
        first = live & ((key >> (3 * level)) != (before >> (3 * level)))
        tl.store(flags + level * capacity + i, first.to(tl.int32), mask=i < capacity)


@triton.jit
def build_levels(
    keys, order, ranks, number, capacities, counts, sizes, level_keys, parents, starts, children, ancestors, first,
    inverse, capacity, LEVELS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Builds every level's voxels from the sorted points and the running count of the flags of `mark_levels`.

    keys int64, order int64 `[capacity]`: sorted points; ranks int32 `[LEVELS, capacity]`: inclusive count of flags
    capacities int32 `[LEVELS]`; counts and sizes int32 `[LEVELS, 4]`: voxels found, and voxels kept (in column 0)
    level_keys int64, parents, starts (first finest voxel under each) int32: `[all levels]`
    children int32 `[levels from 1 on][8, capacity of the level]`, filled with -1 before the launch
    ancestors int32 `[LEVELS, finest]`; first int32 `[finest]`: first point of each voxel
    inverse int32 `[capacity]`: finest voxel of each point
    """
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = i < tl.load(number)
    key = tl.load(keys + i, mask=live, other=0)
    before = tl.load(keys + i - 1, mask=live & (i > 0), other=-1)
    point = tl.load(order + i, mask=live, other=0)
    finest = tl.load(capacities)
    finest_rank = tl.load(ranks + i, mask=live, other=1) - 1
    finest_first = live & (key != before) & (finest_rank < finest)
    tl.store(inverse + point, tl.minimum(finest_rank, finest - 1), mask=live)
    tl.store(first + finest_rank, point.to(tl.int32), mask=finest_first)
    base = 0
    child_base = 0
    for level in tl.static_range(LEVELS):
        room = tl.load(capacities + level)
        earlier = 0
        if level > 0:
            earlier = tl.load(ranks + level * capacity - 1)
        rank = tl.load(ranks + level * capacity + i, mask=live, other=0) - earlier - 1
        kept = live & ((key >> (3 * level)) != (before >> (3 * level))) & (rank < room)
        tl.store(level_keys + base + rank, key >> (3 * level), mask=kept)
        tl.store(starts + base + rank, tl.minimum(finest_rank, finest - 1), mask=kept)
        tl.store(ancestors + level * finest + finest_rank, tl.minimum(rank, room - 1), mask=finest_first)
        if level + 1 < LEVELS:
            above = tl.load(ranks + (level + 1) * capacity + i, mask=live, other=0)
            above = above - tl.load(ranks + (level + 1) * capacity - 1) - 1
            above_room = tl.load(capacities + level + 1)
            tl.store(parents + base + rank, tl.minimum(above, above_room - 1), mask=kept)
            slot = ((key >> (3 * level)) & 7).to(tl.int32)
            child = child_base + slot * above_room + above
            tl.store(children + child, rank, mask=kept & (above < above_room))
            child_base += 8 * above_room
        base += room
        found = tl.load(ranks + (level + 1) * capacity - 1) - earlier
        leader = tl.program_id(0) == 0
        tl.store(counts + 4 * level, found, mask=leader)
        tl.store(sizes + 4 * level, tl.minimum(found, room), mask=leader)


@triton.jit
def _sort_key(table_rows, k, bits, SEGMENT: tl.constexpr):
    """Returns a sort key per row. Rows with the same neighbours get the same key; `bits` puts rare offsets on top."""
    there = (table_rows >= 0) & (k < 27)[None, :]
    weight = 1 << tl.load(bits + k)
    mask = tl.sum(tl.where(there, weight[None, :], 0), axis=1)
    return (SEGMENT << 27) | mask


@triton.jit
def search_neighbours(
    keys, size, bits, table, sort_keys, capacity, steps, LEVEL: tl.constexpr, SEGMENT: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Finds the neighbours at the coarsest level by binary search among its sorted keys.

    table int32 `[27, capacity]`: row of the voxel at each kernel offset, -1 where there is none
    bits int32 `[32]`: bit of each offset in the masks; sort_keys int32 `[capacity]`: this level's part
    """
    number = tl.load(size)
    if tl.program_id(0) * BLOCK >= number:
        return
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    k = tl.arange(0, 32)
    live = i < number
    key = tl.load(keys + i, mask=live, other=0)
    SPATIAL: tl.constexpr = 54 - 3 * LEVEL
    LAST: tl.constexpr = (1 << (18 - LEVEL)) - 1
    own = key & ((1 << SPATIAL) - 1)
    x = compact(own >> 2)[:, None] + (k % 3 - 1)[None, :]
    y = compact(own >> 1)[:, None] + (k // 3 % 3 - 1)[None, :]
    z = compact(own)[:, None] + (k // 9 - 1)[None, :]
    inside = (x >= 0) & (y >= 0) & (z >= 0) & (x <= LAST) & (y <= LAST) & (z <= LAST)
    inside = inside & live[:, None] & (k < 27)[None, :]
    wanted = (key >> SPATIAL << SPATIAL)[:, None] | _interleave(x & LAST, y & LAST, z & LAST)
    low = tl.zeros([BLOCK, 32], tl.int32)
    high = low + number
    for _ in range(steps):
        middle = (low + high) // 2
        open_ = low < high
        right = tl.load(keys + middle, mask=open_ & inside, other=0) < wanted
        low = tl.where(open_ & right, middle + 1, low)
        high = tl.where(open_ & (right == 0), middle, high)
    inside = inside & (low < number)
    found = tl.where(inside & (tl.load(keys + low, mask=inside, other=-1) == wanted), low, -1)
    tl.store(table + k[None, :] * capacity + i[:, None], found, mask=live[:, None] & (k < 27)[None, :])
    tl.store(sort_keys + i, _sort_key(found, k, bits, SEGMENT), mask=live)


@triton.jit
def refine_neighbours(
    keys, parents, size, bits, parent_table, children, table, sort_keys, slot_keys, capacity, parent_capacity,
    SEGMENT: tl.constexpr, SLOT_SEGMENT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Finds the neighbours at a level from those of its parents.

    A voxel's neighbour is a child of its parent's neighbour.

    children int32 `[8, parent_capacity]`; slot_keys int32 `[capacity]`: sort keys of the voxels' child slots
    """
    number = tl.load(size)
    if tl.program_id(0) * BLOCK >= number:
        return
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    k = tl.arange(0, 32)
    live = i < number
    wanted = live[:, None] & (k < 27)[None, :]
    slot = (tl.load(keys + i, mask=live, other=0) & 7).to(tl.int32)
    # Positions 0..3 along each axis; the parent's own children are at 1 and 2.
    x = (slot >> 2)[:, None] + (k % 3)[None, :]
    y = (slot >> 1 & 1)[:, None] + (k // 3 % 3)[None, :]
    z = (slot & 1)[:, None] + (k // 9)[None, :]
    offset = (x + 1 >> 1) + 3 * (y + 1 >> 1) + 9 * (z + 1 >> 1)
    child = ((x + 1 & 1) << 2) | ((y + 1 & 1) << 1) | (z + 1 & 1)
    parent = tl.load(parents + i, mask=live, other=0)
    near = tl.load(parent_table + offset * parent_capacity + parent[:, None], mask=wanted, other=-1)
    found = tl.load(children + child * parent_capacity + near, mask=wanted & (near >= 0), other=-1)
    tl.store(table + k[None, :] * capacity + i[:, None], found, mask=wanted)
    tl.store(sort_keys + i, _sort_key(found, k, bits, SEGMENT), mask=live)
    tl.store(slot_keys + i, (SLOT_SEGMENT << 27) | slot, mask=live)


@triton.jit
def _sorted_rows(order, rows, s, live, base):
    """Returns the voxel at each sorted position, and stores it in `rows`."""
    row = (tl.load(order + s, mask=live, other=0) - base).to(tl.int32)
    tl.store(rows + s, row, mask=live)
    return row


@triton.jit
def _store_list(near, k, tile, lists, lengths):
    """Stores the kernel rows k at which a column of the tile has an input, and their number.

    They are packed at the front of the tile's 32 entries in `lists`.
    """
    active = tl.max((near >= 0).to(tl.int32), axis=1)
    place = tl.cumsum(active, axis=0) - active
    tl.store(lists + tile * 32 + place, k, mask=active > 0)
    tl.store(lengths + tile, tl.sum(active, axis=0))


@triton.jit
def tile_neighbours(
    order, size, table, rows, inputs, lists, lengths, capacity, base, BLOCK: tl.constexpr
):  # fmt: skip
    """Stores the neighbour table in sorted order, and the list of offsets that each tile of BLOCK rows needs.

    order int64 `[capacity]`: positions in the sort's input, counted from `base`
    rows int32 `[capacity]`: voxel at each sorted position
    inputs int32 `[27, capacity]`; lists int32 `[tiles, 32]`; lengths int32 `[tiles]`
    """
    tile = tl.program_id(0)
    number = tl.load(size)
    if tile * BLOCK >= number:
        return
    s = tile * BLOCK + tl.arange(0, BLOCK)
    k = tl.arange(0, 32)
    live = s < number
    row = _sorted_rows(order, rows, s, live, base)
    wanted = (k < 27)[:, None] & live[None, :]
    near = tl.load(table + k[:, None] * capacity + row[None, :], mask=wanted, other=-1)
    tl.store(inputs + k[:, None] * capacity + s[None, :], near, mask=wanted)
    _store_list(near, k, tile, lists, lengths)


@triton.jit
def tile_parents(
    order, size, keys, parents, rows, inputs, lists, lengths, capacity, base, BLOCK: tl.constexpr
):  # fmt: skip
    """Stores the sorted inputs and the lists of kernel rows of the transposed 2x2x2 convolution.

    Arguments are those of `tile_neighbours`. A row has one input, its parent, in the kernel row of its child slot.
    """
    tile = tl.program_id(0)
    number = tl.load(size)
    if tile * BLOCK >= number:
        return
    s = tile * BLOCK + tl.arange(0, BLOCK)
    k = tl.arange(0, 32)
    live = s < number
    row = _sorted_rows(order, rows, s, live, base)
    slot = (tl.load(keys + row, mask=live, other=0) & 7).to(tl.int32)
    parent = tl.load(parents + row, mask=live, other=-1)
    near = tl.where((slot[None, :] == k[:, None]) & live[None, :], parent[None, :], -1)
    tl.store(inputs + k[:, None] * capacity + s[None, :], near, mask=(k < 8)[:, None] & live[None, :])
    _store_list(near, k, tile, lists, lengths)
