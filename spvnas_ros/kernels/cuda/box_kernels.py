"""Triton kernels that find boxes in features: columns of voxels, the bird's-eye view, and the anchors that score.

The definition is `nets.box_branch`. Nothing is added up in an order that differs from run to run.
"""
# No `from __future__ import annotations` here: Triton's interpreter needs the annotations as objects.

import triton
import triton.language as tl

from spvnas_ros.kernels.cuda.feature_kernels import store_rows
from spvnas_ros.kernels.cuda.geometry_kernels import compact


@triton.jit
def mark_columns(
    keys, size, base, places, kernel_rows, leads, wide, deep, height,
    MERGED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Finds the column of each voxel of a level, and the first voxel of each column.

    keys int64: of the level's voxels; base int64 `[3]`: the voxel at the lower corner of the bird's-eye view
    places int32 `[capacity]`: written, the column's cell in the view `[deep, wide]`, flat; -1 outside
    kernel_rows int32 `[capacity]`: written, the voxel's place within its column; x runs fastest, then y
    leads int32 `[deep * wide]`: the first voxel of each column; the largest number before the launch
    height: of the range, in voxels
    """
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = i < tl.load(size)
    key = tl.load(keys + i, mask=live, other=0)
    x = compact(key >> 2) - tl.load(base)
    y = compact(key >> 1) - tl.load(base + 1)
    z = compact(key) - tl.load(base + 2)
    inside = live & (x >= 0) & (y >= 0) & (z >= 0) & (x < wide * MERGED) & (y < deep * MERGED) & (z < height)
    # What lies outside may be far away, and its numbers too large for what follows.
    x = tl.where(inside, x, 0).to(tl.int32)
    y = tl.where(inside, y, 0).to(tl.int32)
    z = tl.where(inside, z, 0).to(tl.int32)
    place = (y // MERGED) * wide + x // MERGED
    tl.store(places + i, tl.where(inside, place, -1), mask=live)
    tl.store(kernel_rows + i, (z * MERGED + y % MERGED) * MERGED + x % MERGED, mask=live)
    tl.atomic_min(leads + place, i, mask=inside)


@triton.jit
def mark_leads(places, leads, size, flags, capacity, BLOCK: tl.constexpr):
    """Stores flags int32 `[capacity]`: 1 at the first voxel of each column."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = i < tl.load(size)
    place = tl.load(places + i, mask=live, other=-1)
    lead = tl.load(leads + place, mask=place >= 0, other=-1)
    tl.store(flags + i, (lead == i).to(tl.int32), mask=i < capacity)


@triton.jit
def gather_columns(
    places, kernel_rows, leads, ranks, size, inputs, rows, number, capacity, BLOCK: tl.constexpr
):  # fmt: skip
    """Stores which voxel each column has at each of its places.

    ranks int32 `[capacity]`: running count of the flags of `mark_leads`
    inputs int32 `[volume, capacity]`: filled with -1 before the launch; columns are in the order of their first voxel
    rows int32 `[capacity]`: the cell of each column; number int32 `[1]`: how many columns there are
    """
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = i < tl.load(size)
    place = tl.load(places + i, mask=live, other=-1)
    inside = place >= 0
    lead = tl.load(leads + place, mask=inside, other=0)
    column = tl.load(ranks + lead, mask=inside, other=1) - 1
    kernel_row = tl.load(kernel_rows + i, mask=inside, other=0)
    tl.store(inputs + kernel_row * capacity + column, i, mask=inside)
    tl.store(rows + column, place, mask=inside & (lead == i))
    tl.store(number, tl.load(ranks + capacity - 1), mask=tl.program_id(0) == 0)


@triton.jit
def list_kernel_rows(
    inputs, size, lists, lengths, capacity, VOLUME: tl.constexpr, LISTED: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Stores the kernel rows at which any column of a tile of BLOCK has an input, as `convolve` takes them.

    inputs int32 `[VOLUME, capacity]`; lists int32 `[tiles, LISTED]`; lengths int32 `[tiles]`
    """
    tile = tl.program_id(0)
    number = tl.load(size)
    if tile * BLOCK >= number:
        return
    s = tile * BLOCK + tl.arange(0, BLOCK)
    length = 0
    for start in range(0, VOLUME, 32):
        k = start + tl.arange(0, 32)
        wanted = (k < VOLUME)[:, None] & (s < number)[None, :]
        near = tl.load(inputs + k[:, None] * capacity + s[None, :], mask=wanted, other=-1)
        active = tl.max((near >= 0).to(tl.int32), axis=1)
        place = length + tl.cumsum(active, axis=0) - active
        tl.store(lists + tile * LISTED + place, k, mask=active > 0)
        length += tl.sum(active, axis=0)
    tl.store(lengths + tile, length)


@triton.jit
def finish_plane(
    sums, bias, out, flag, cells, stride, out_stride, width,
    LIMIT: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Ends a convolution over the bird's-eye view: adds the bias, applies ReLU and stores `width` channels a cell.

    sums `[cells, stride]`; bias float32; out `[cells, out_stride]`, which may be the same as `sums`
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    live = row < cells
    inside = column < width
    place = sums + row.to(tl.int64)[:, None] * stride + column[None, :]
    total = tl.load(place, mask=live[:, None] & inside[None, :], other=0.0).to(tl.float32)
    total = tl.maximum(total + tl.load(bias + column, mask=inside, other=0.0)[None, :], 0.0)
    store_rows(total, out, row, column, out_stride, width, live, flag, LIMIT)


@triton.jit
def score_anchors(
    head, keys, anchors, stride, PER_CELL: tl.constexpr, CLASSES: tl.constexpr, LEAST: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Stores a key int64 `[anchors]` for each anchor whose best class scores LEAST or more, 0 for the others.

    The larger of two keys is that of the better score, then that of the first anchor. Its high half is the score's
    bits, its low half `2**32 - 1` less the anchor's number.

    head float32 `[cells, stride]`: the first PER_CELL * CLASSES are the scores of a cell's anchors before the sigmoid
    """
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = i < anchors
    place = head + (i // PER_CELL).to(tl.int64) * stride + (i % PER_CELL) * CLASSES
    best = tl.load(place, mask=live, other=0.0)
    for c in range(1, CLASSES):
        best = tl.maximum(best, tl.load(place + c, mask=live, other=0.0))
    score = tl.sigmoid(best)
    key = (score.to(tl.int32, bitcast=True).to(tl.int64) << 32) | (0xFFFFFFFF - i.to(tl.int64))
    tl.store(keys + i, tl.where(score >= LEAST, key, 0), mask=live)
