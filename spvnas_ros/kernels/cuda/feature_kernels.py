"""Triton kernels that compute features: convolution with its epilogue, the point branch, the classifier.

Feature arrays are `[capacity, stride]`. The columns that pad a width to a multiple of 16 hold zeros. Products are
summed in float32. Where LIMIT is positive, a result beyond it sets `flag`: half precision would have stored infinity,
and the next ReLU could hide it.
"""
# No `from __future__ import annotations` here: Triton's interpreter needs the annotations as objects.

import triton
import triton.language as tl

from spvnas_ros.kernels.cuda.geometry_kernels import compact


@triton.jit
def store_rows(values, out, rows, columns, stride, width, live, flag, LIMIT: tl.constexpr):
    """Stores rows of results in the output's precision. Sets `flag` where a result exceeds LIMIT."""
    if LIMIT > 0:
        peak = tl.max(tl.max(tl.abs(values), axis=1), axis=0)
        tl.store(flag, 1, mask=peak > LIMIT)
    place = out + rows.to(tl.int64)[:, None] * stride + columns[None, :]
    tl.store(place, values.to(out.dtype.element_ty), mask=live[:, None] & (columns < width)[None, :])


@triton.jit
def _rows(features, rows, stride, start, there, WIDTH: tl.constexpr, DEPTH: tl.constexpr):
    """Returns columns `start..start + DEPTH` of some rows, zero where a row is missing or the width has ended."""
    c = start + tl.arange(0, DEPTH)
    mask = there[:, None]
    if WIDTH % DEPTH != 0:
        mask = mask & (c < WIDTH)[None, :]
    return tl.load(features + rows.to(tl.int64)[:, None] * stride + c[None, :], mask=mask, other=0.0)


@triton.jit
def gather_inputs(
    points, first, size, out, flag, channels, SPLIT: tl.constexpr, WIDTH: tl.constexpr, LIMIT: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Stores the features of each voxel's first point.

    SPLIT: the part of each feature that half precision drops follows as a further channel
    """
    v = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = v < tl.load(size)
    c = tl.arange(0, WIDTH)
    point = tl.load(first + v, mask=live, other=0).to(tl.int64)
    given = channels * (2 if SPLIT else 1)
    there = live[:, None] & (c < given)[None, :]
    value = tl.load(points + point[:, None] * channels + (c % channels)[None, :], mask=there, other=0.0)
    rounded = value.to(out.dtype.element_ty).to(tl.float32)
    store_rows(tl.where((c < channels)[None, :], value, value - rounded), out, v, c, WIDTH, WIDTH, live, flag, LIMIT)


@triton.jit
def _tile(tile, number, rows, SORTED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Returns a tile's positions in the order of `rows`, the row at each, which positions exist, and its columns."""
    s = tile * ROWS + tl.arange(0, ROWS)
    live = s < number
    row = s
    if SORTED:
        row = tl.load(rows + s, mask=live, other=0)
    return s, row, live, tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)


@triton.jit
def _multiply(
    total, features, rows, stride, there, weights, columns, blocks, WIDTH: tl.constexpr, OUT: tl.constexpr,
    DEPTH: tl.constexpr,
):  # fmt: skip
    """Returns `total` plus the product of some rows with the first blocks of `weights`.

    weights: `[WIDTH padded to DEPTH, OUT]`; `blocks` blocks of DEPTH rows are used
    """
    c = tl.arange(0, DEPTH)
    for j in range(blocks):
        a = _rows(features, rows, stride, j * DEPTH, there, WIDTH, DEPTH)
        b = tl.load(weights + (j * DEPTH + c)[:, None] * OUT + columns[None, :])
        total = tl.dot(a, b, total, input_precision="ieee")
    return total


@triton.jit
def _finish(
    total, row, columns, live, bias, residual, out, flag, residual_stride, out_stride, out_width,
    RESIDUAL: tl.constexpr, RELU: tl.constexpr, LIMIT: tl.constexpr,
):  # fmt: skip
    """Ends a convolution: adds bias and residual to its sums, applies the activation and stores the rows."""
    total += tl.load(bias + columns)[None, :]
    if RESIDUAL:
        there = live[:, None] & (columns < out_width)[None, :]
        place = residual + row.to(tl.int64)[:, None] * residual_stride + columns[None, :]
        total += tl.load(place, mask=there, other=0.0).to(tl.float32)
    if RELU:
        total = tl.maximum(total, 0.0)
    store_rows(total, out, row, columns, out_stride, out_width, live, flag, LIMIT)


@triton.jit
def convolve(
    features, weights, inputs, rows, lists, lengths, size, skip, skip_weights, bias, residual, out, flag,
    capacity, stride, skip_stride, residual_stride, out_stride, out_width,
    VOLUME: tl.constexpr, LISTED: tl.constexpr, SORTED: tl.constexpr, WIDTH: tl.constexpr, SKIP_WIDTH: tl.constexpr,
    OUT: tl.constexpr,
    RESIDUAL: tl.constexpr, RELU: tl.constexpr, LIMIT: tl.constexpr, SPLIT: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Computes one tile `[ROWS, COLUMNS]` of a fused convolution (`engine.plan.Convolution`).

    inputs int32 `[VOLUME, capacity]`: input row at each kernel row, -1 where there is none
    SORTED: the columns of `inputs` are in the order `rows` int32 `[capacity]`, and a tile visits only the kernel rows
            in its list, which has room for LISTED
    weights `[VOLUME, WIDTH padded to DEPTH, OUT]`, skip_weights `[SKIP_WIDTH padded to DEPTH, OUT]`
    SPLIT: each of `num_programs(2)` parts sums its share of the steps into `out`, from where `add_parts` reads it
    """
    tile = tl.program_id(0)
    number = tl.load(size)
    if tile * ROWS >= number:
        return
    s, row, live, columns = _tile(tile, number, rows, SORTED, ROWS, COLUMNS)
    c = tl.arange(0, DEPTH)
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    BLOCKS: tl.constexpr = (WIDTH + DEPTH - 1) // DEPTH
    skip_blocks = (SKIP_WIDTH + DEPTH - 1) // DEPTH
    part = tl.program_id(2)
    if VOLUME > 0:
        length = VOLUME
        if SORTED:
            length = tl.load(lengths + tile)
        first = 0
        last = length * BLOCKS
        if SPLIT:
            first = last * part // tl.num_programs(2)
            last = last * (part + 1) // tl.num_programs(2)
        # One counted loop runs over kernel rows and blocks of channels, because Triton can pipeline such a loop.
        for j in range(first, last):
            k = j // BLOCKS
            if SORTED:
                k = tl.load(lists + tile * LISTED + k)
            start = (j % BLOCKS) * DEPTH
            near = tl.load(inputs + k * capacity + s, mask=live, other=-1)
            a = _rows(features, near, stride, start, near >= 0, WIDTH, DEPTH)
            b = tl.load(weights + (k * (BLOCKS * DEPTH) + start + c)[:, None] * OUT + columns[None, :])
            total = tl.dot(a, b, total, input_precision="ieee")
    if SKIP_WIDTH > 0:
        if SPLIT:
            skip_blocks = tl.where(part == 0, skip_blocks, 0)
        total = _multiply(
            total, skip, row, skip_stride, live, skip_weights, columns, skip_blocks, SKIP_WIDTH, OUT, DEPTH
        )
    if SPLIT:
        place = out + (part.to(tl.int64) * capacity + s)[:, None] * OUT + columns[None, :]
        tl.store(place, total, mask=live[:, None])
    else:
        _finish(
            total, row, columns, live, bias, residual, out, flag, residual_stride, out_stride, out_width,
            RESIDUAL, RELU, LIMIT,
        )  # fmt: skip


@triton.jit
def add_parts(
    partial, parts, rows, size, bias, residual, out, flag, capacity, residual_stride, out_stride, out_width,
    SORTED: tl.constexpr, OUT: tl.constexpr, RESIDUAL: tl.constexpr, RELU: tl.constexpr, LIMIT: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Adds the partial sums of a split convolution and finishes it.

    partial float32 `[parts, capacity, OUT]`: sums in the order of `rows`

    The sums are always added in the same order. Atomic additions would follow the order in which programs end, and the
    same scan would not get the same logits twice.
    """
    tile = tl.program_id(0)
    number = tl.load(size)
    if tile * ROWS >= number:
        return
    s, row, live, columns = _tile(tile, number, rows, SORTED, ROWS, COLUMNS)
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    place = partial + s.to(tl.int64)[:, None] * OUT + columns[None, :]
    for _ in range(parts):
        total += tl.load(place, mask=live[:, None], other=0.0)
        place += capacity.to(tl.int64) * OUT
    _finish(
        total, row, columns, live, bias, residual, out, flag, residual_stride, out_stride, out_width,
        RESIDUAL, RELU, LIMIT,
    )  # fmt: skip


@triton.jit
def _corner(k, key, ancestor, table, capacity, live, LEVEL: tl.constexpr):
    """Returns the row and trilinear weight of corner k (z runs fastest) of the cell at LEVEL around a finest voxel."""
    dx = k >> 2 & 1
    dy = k >> 1 & 1
    dz = k & 1
    offset = (dx + 1) + 3 * (dy + 1) + 9 * (dz + 1)
    near = tl.load(table + offset * capacity + ancestor, mask=live, other=-1)
    LAST: tl.constexpr = (1 << LEVEL) - 1
    SCALE: tl.constexpr = 1.0 / (1 << LEVEL)
    x = (compact(key >> 2) & LAST).to(tl.float32) * SCALE
    y = (compact(key >> 1) & LAST).to(tl.float32) * SCALE
    z = (compact(key) & LAST).to(tl.float32) * SCALE
    weight = tl.where(dx == 1, x, 1 - x) * tl.where(dy == 1, y, 1 - y) * tl.where(dz == 1, z, 1 - z)
    return near, tl.where(near >= 0, weight, 0.0)


@triton.jit
def fuse_points(
    points, weights, bias, voxels, keys, ancestors, table, size, out, flag,
    capacity, stride, voxel_stride, out_stride, out_width,
    LEVEL: tl.constexpr, WIDTH: tl.constexpr, OUT: tl.constexpr, LIMIT: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Computes `relu(bias + points @ weights) + interpolation of voxels` (`engine.plan.PointFusion`).

    A tile consists of finest voxels.

    keys int64: of the finest voxels; ancestors int32: their rows at LEVEL
    table int32 `[27, capacity]`: neighbours at LEVEL
    """
    tile = tl.program_id(0)
    number = tl.load(size)
    if tile * ROWS >= number:
        return
    _, row, live, columns = _tile(tile, number, keys, False, ROWS, COLUMNS)
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    BLOCKS: tl.constexpr = (WIDTH + DEPTH - 1) // DEPTH
    total = _multiply(total, points, row, stride, live, weights, columns, BLOCKS, WIDTH, OUT, DEPTH)
    total = tl.maximum(total + tl.load(bias + columns)[None, :], 0.0)
    inside = columns < out_width
    if LEVEL == 0:
        place = voxels + row.to(tl.int64)[:, None] * voxel_stride + columns[None, :]
        total += tl.load(place, mask=live[:, None] & inside[None, :], other=0.0).to(tl.float32)
    else:
        key = tl.load(keys + row, mask=live, other=0)
        ancestor = tl.load(ancestors + row, mask=live, other=0)
        share = tl.full([ROWS], 1e-8, tl.float32)
        for k in tl.static_range(8):
            share += _corner(k, key, ancestor, table, capacity, live, LEVEL)[1]
        for k in range(8):
            near, weight = _corner(k, key, ancestor, table, capacity, live, LEVEL)
            place = voxels + near.to(tl.int64)[:, None] * voxel_stride + columns[None, :]
            value = tl.load(place, mask=(near >= 0)[:, None] & inside[None, :], other=0.0).to(tl.float32)
            total += (weight / share)[:, None] * value
    store_rows(total, out, row, columns, out_stride, out_width, live, flag, LIMIT)


@triton.jit
def mean_points(
    points, starts, size, finest_size, out, stride, out_stride, out_width, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    """Computes the mean of the consecutive point rows under every voxel (`engine.plan.PointMean`).

    starts int32: first finest voxel under each voxel
    """
    v = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    number = tl.load(size)
    live = v < number
    first = tl.load(starts + v, mask=live, other=0)
    after = tl.load(starts + v + 1, mask=v + 1 < number, other=0)
    after = tl.where(v + 1 == number, tl.load(finest_size), after)
    members = tl.where(live, after - first, 0)
    inside = columns < out_width
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    for j in range(tl.max(members, axis=0)):
        place = points + (first + j).to(tl.int64)[:, None] * stride + columns[None, :]
        total += tl.load(place, mask=(j < members)[:, None] & inside[None, :], other=0.0).to(tl.float32)
    total = total / tl.maximum(members, 1).to(tl.float32)[:, None]
    place = out + v.to(tl.int64)[:, None] * out_stride + columns[None, :]
    tl.store(place, total.to(out.dtype.element_ty), mask=live[:, None] & inside[None, :])


@triton.jit
def classify(
    features, weights, bias, size, logits, labels, confidence, stride, classes,
    WIDTH: tl.constexpr, OUT: tl.constexpr, ROWS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Computes logits float32 `[capacity, classes]`, the best class uint8 and its softmax probability.

    The probability is float32 `[capacity]`.
    """
    tile = tl.program_id(0)
    number = tl.load(size)
    if tile * ROWS >= number:
        return
    row = tile * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, OUT)
    live = row < number
    total = tl.zeros([ROWS, OUT], tl.float32)
    BLOCKS: tl.constexpr = (WIDTH + DEPTH - 1) // DEPTH
    total = _multiply(total, features, row, stride, live, weights, column, BLOCKS, WIDTH, OUT, DEPTH)
    total += tl.load(bias + column)[None, :]
    inside = column < classes
    place = logits + row.to(tl.int64)[:, None] * classes + column[None, :]
    tl.store(place, total, mask=live[:, None] & inside[None, :])
    total = tl.where(inside[None, :], total, float("-inf"))
    peak = tl.max(total, axis=1)
    spread = tl.sum(tl.exp(total - peak[:, None]), axis=1)
    tl.store(labels + row, tl.argmax(total, axis=1).to(tl.uint8), mask=live)
    tl.store(confidence + row, 1.0 / spread, mask=live)


@triton.jit
def label_points(labels, confidence, inverse, number, point_labels, point_confidence, BLOCK: tl.constexpr):
    """Gives every point the label and the confidence of its voxel."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = i < tl.load(number)
    voxel = tl.load(inverse + i, mask=live, other=0)
    tl.store(point_labels + i, tl.load(labels + voxel, mask=live, other=0), mask=live)
    tl.store(point_confidence + i, tl.load(confidence + voxel, mask=live, other=0.0), mask=live)
