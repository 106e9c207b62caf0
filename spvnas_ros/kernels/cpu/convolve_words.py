"""The loops of the CPU on features and weights of 16 or 8 bits, compiled by numba for the machine they run on.

The types of features choose the instructions, so bytes are compiled only where they are asked for. On machines that
`shape.host_words` names no way for, this file cannot be imported.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from spvnas_ros.kernels.cpu.convolve import UNIT, prefetch
from spvnas_ros.kernels.cpu.shape import host_words
from spvnas_ros.kernels.cpu.team import take_ticket
from spvnas_ros.kernels.cpu.word_vectors import finisher, mixer, multiplier, row_summer, weigh_corners

WORDS_VERSION = "e71a90894cdb"
"""The start of the SHA-256 of `word_vectors.py`. Numba's cache follows the file that holds a loop, so this line changes
with that file; a test holds them together."""

_CACHED_WORDS = 2048
"""Input words worked on at a time: 8 KiB, so that they stay in the first-level cache for all column blocks."""

_found = host_words()
if _found is None:
    raise ImportError("this machine has no way to multiply 16-bit integers that is faster than float32")
SHAPE = _found
_ROWS, _EIGHTHS = SHAPE.rows, SHAPE.eighths

_multiply, _multiply_half = multiplier(SHAPE, _ROWS), multiplier(SHAPE, UNIT)
_mix, _mix_half = mixer(SHAPE, _ROWS), mixer(SHAPE, UNIT)
_sum_row = row_summer(SHAPE)
_finish, _finish_sum = finisher(SHAPE), finisher(SHAPE, residual="before")
_finish_then_add, _rectify = finisher(SHAPE, residual="after"), finisher(SHAPE, into="sums")
_store, _scale = finisher(SHAPE, relu=False), finisher(SHAPE, relu=False, into="floats")
_load = finisher(SHAPE, scaled=False, relu=False, residual="before", into="sums")
_add = finisher(SHAPE, scaled=False, relu=False, residual="before")

CHUNK_ROWS = 256
"""Points that `exchange_points` takes at a time: their sums stay in the second-level cache."""


class WordTerm(NamedTuple):
    """One input of a fused convolution.

    rows: uint16 or uint8 `[n + 1, columns]`, columns a multiple of 8; words: per row and kernel row (0 = no such input)
    panels: int32, the kernel's words, one contiguous `[words, columns of the block]` per kernel row and column block
    """

    rows: Any
    words: int
    panels: Any


class Scratch(NamedTuple):
    """Memory of each thread.

    seats: int64 `[1]`, 0 when the threads start; each draws a seat
    sums: float32 `[threads, rows * columns]` for the largest tile and one row more, on cache lines
    clipped: int32 `[threads, 32]`, 64 or more bytes apart: the counts of `finisher`
    local: int32, 0, 1, 2, ... up to the rows of the largest tile
    points: uint16 `[threads, (CHUNK_ROWS + rows of a block) * columns]`, the features of the points of a chunk
    """

    seats: Any
    sums: Any
    clipped: Any
    local: Any
    points: Any


class Finish(NamedTuple):
    """What turns sums into features: `relu(sums * scale + bias + ratio * residual)`, in units of the output.

    scale, bias, ratio: float32 `[columns]`, ratio of the residual's unit; blocks: int64, eighths of each column block
    """

    scale: Any
    bias: Any
    blocks: Any
    ratio: Any


class Coarse(NamedTuple):
    """The level at which points and voxels meet, as `geometry.LevelGeometry` has it; number: 1 or more."""

    number: Any
    starts: Any
    ancestors: Any
    corners: Any


class Mean(NamedTuple):
    """Where the means of points go. rows: uint16 or uint8 `[voxels + 1, columns]`; ratio: float32 `[columns]`, to their
    unit; top: the largest that is stored."""

    rows: Any
    ratio: Any
    top: Any


class After(NamedTuple):
    """The next layer of the points, and where its output goes: rows, uint16 `[points + 1, columns or more]`."""

    words: Any
    panels: Any
    finish: Any
    rows: Any


@njit(cache=True, nogil=True)
def _group(x, x_stride, ins, outs, first, last, panels, blocks, columns, sums, words, kind):
    """Adds the products of pairs first..last (a multiple of UNIT) of one kernel row to a tile's sums."""
    chunk = max(_ROWS, _CACHED_WORDS // words // _ROWS * _ROWS)
    lines = (4 * words + 63) // 64
    while first < last:
        stop = min(first + chunk, last)
        column = 0
        for block in range(blocks.shape[0]):
            eighths = blocks[block]
            panel, target = panels + 4 * column * words, sums + 4 * column
            p = first
            while p + _ROWS <= stop:
                i, o = ins + 4 * p, outs + 4 * p
                if block == 0:
                    # Prefetch the next chunk's rows. The list goes on into the next kernel row and the next tile.
                    for r in range(chunk, chunk + _ROWS):
                        for line in range(lines):
                            prefetch(x, x_stride, i + 4 * r, line)
                _multiply(eighths, x, x_stride, i, panel, target, 4 * columns, o, words, kind)
                p += _ROWS
            if p < stop:
                _multiply_half(eighths, x, x_stride, ins + 4 * p, panel, target, 4 * columns, outs + 4 * p, words, kind)
            column += 8 * eighths
        first = stop


@njit(cache=True, nogil=True)
def _pointwise(term, identity, local, start, stop, finish, columns, sums):
    """Adds `term.rows[start:stop] @ kernel` to a tile's sums.

    Tiles are multiples of `UNIT` rows. Only the last tile is rounded up, into the spare row.
    """
    if term.words > 0:
        count = (stop - start + UNIT - 1) // UNIT * UNIT
        # Of the types that `_gathered` gives, too, so that this is compiled once.
        _group(
            term.rows.ctypes.data, term.rows.strides[0], np.int64(identity.ctypes.data + 4 * start), local.ctypes.data,
            np.int64(0), np.int64(count), np.int64(term.panels.ctypes.data), finish.blocks, columns, sums, term.words,
            term.rows.dtype,
        )  # fmt: skip


@njit(cache=True, nogil=True)
def _gathered(term, pairs, tile, finish, columns, sums):
    """Adds one input's products over all kernel rows to a tile's sums."""
    if term.words > 0:
        step = 4 * term.words * columns
        for k in range(pairs.volume):
            place = tile * pairs.volume + k
            first, last = np.int64(pairs.starts[place]), np.int64(pairs.starts[place + 1])
            if first < last:
                _group(
                    term.rows.ctypes.data, term.rows.strides[0], np.int64(pairs.ins.ctypes.data),
                    pairs.outs.ctypes.data, first, last, np.int64(term.panels.ctypes.data + k * step), finish.blocks,
                    columns, sums, term.words, term.rows.dtype,
                )  # fmt: skip


@njit(cache=True, nogil=True)
def convolve(counter, num_out, pairs, identity, sources, skips, finish, residual, scratch, out):
    """Computes tiles of `out = relu(bias + residual + sources + skips)` until the counter runs out of tiles.

    sources, skips: two `WordTerm` each; pairs: with output rows counted inside their tile
    out: uint16 or uint8 `[num_out + 1, columns]`
    residual: the same, or `[0, columns]`; identity: int32 0, 1, ..., num_out - 1 and then num_out for the padding
    """
    columns = out.shape[1]
    seat = take_ticket(scratch.seats.ctypes.data)
    tile_sums = scratch.sums[seat]
    sums, clipped = tile_sums.ctypes.data, scratch.clipped[seat].ctypes.data
    scale, bias, ratio = finish.scale.ctypes.data, finish.bias.ctypes.data, finish.ratio.ctypes.data
    eighths = columns // 8
    while True:
        tile = take_ticket(counter.ctypes.data)
        start = tile * pairs.tile_rows
        if start >= num_out:
            return
        stop = min(num_out, start + pairs.tile_rows)
        tile_sums[: (stop - start) * columns] = 0
        for term in skips:
            _pointwise(term, identity, scratch.local, start, stop, finish, columns, sums)
        for term in sources:
            _gathered(term, pairs, tile, finish, columns, sums)
        target, rows = out.ctypes.data + start * out.strides[0], stop - start
        if residual.shape[0] > 0:
            other = residual.ctypes.data + start * residual.strides[0]
            _finish_sum(sums, scale, bias, other, ratio, target, eighths, clipped, rows, out.dtype)
        else:
            _finish(sums, scale, bias, 0, 0, target, eighths, clipped, rows, out.dtype)


@njit(cache=True, nogil=True)
def take_rows(counter, tile_rows, rows, chosen, out):
    """Copies the chosen rows in order, and fills the columns behind them with zeros."""
    channels = rows.shape[1]
    while True:
        start = take_ticket(counter.ctypes.data) * tile_rows
        if start >= chosen.shape[0]:
            return
        for i in range(start, min(chosen.shape[0], start + tile_rows)):
            row = np.uint32(chosen[i])
            for c in range(channels):
                out[i, c] = rows[row, c]
            for c in range(channels, out.shape[1]):
                out[i, c] = 0


@njit(cache=True, nogil=True)
def convolve_input(counter, tile_rows, around, x, kernel, finish, scratch, out):
    """Computes tiles of the first layer's output, row by row from float32 rows of few channels.

    around: the neighbours of every output row, compressed; x: float32 `[n + 1, channels]`, channels in fours
    kernel: float32 `[K, channels, columns]`; out: uint16 or uint8 `[n + 1, columns]`
    """
    columns, num_out = out.shape[1], around.starts.shape[0] - 1
    seat = take_ticket(scratch.seats.ctypes.data)
    sums, clipped = scratch.sums[seat].ctypes.data, scratch.clipped[seat].ctypes.data
    while True:
        start = take_ticket(counter.ctypes.data) * tile_rows
        if start >= num_out:
            return
        stop = min(num_out, start + tile_rows)
        for i in range(start, stop):
            q, count = np.int64(around.starts[i]), np.int64(around.starts[i + 1]) - np.int64(around.starts[i])
            column = 0
            for block in range(finish.blocks.shape[0]):
                _sum_row(
                    finish.blocks[block], x.ctypes.data, x.strides[0], around.kernel_rows.ctypes.data + q,
                    around.rows.ctypes.data + 4 * q, count, kernel.ctypes.data + 4 * column, kernel.strides[0],
                    kernel.strides[1], x.shape[1], sums + 4 * ((i - start) * columns + column),
                )  # fmt: skip
                column += 8 * finish.blocks[block]
        _finish(
            sums, finish.scale.ctypes.data, finish.bias.ctypes.data, 0, 0, out.ctypes.data + start * out.strides[0],
            columns // 8, clipped, stop - start, out.dtype,
        )  # fmt: skip


@njit(cache=True, nogil=True)
def classify_words(counter, num_out, tile_rows, identity, term, finish, scratch, out):
    """Computes tiles of the logits `out = term @ kernel * scale + bias`, float32 `[num_out + 1, columns]`."""
    columns = out.shape[1]
    seat = take_ticket(scratch.seats.ctypes.data)
    tile_sums = scratch.sums[seat]
    sums, clipped = tile_sums.ctypes.data, scratch.clipped[seat].ctypes.data
    while True:
        start = take_ticket(counter.ctypes.data) * tile_rows
        if start >= num_out:
            return
        stop = min(num_out, start + tile_rows)
        tile_sums[: (stop - start) * columns] = 0
        _pointwise(term, identity, scratch.local, start, stop, finish, columns, sums)
        _scale(
            sums, finish.scale.ctypes.data, finish.bias.ctypes.data, 0, 0, out.ctypes.data + start * out.strides[0],
            columns // 8, clipped, stop - start, out.dtype,
        )  # fmt: skip


@njit(cache=True, nogil=True)
def _interpolate(first, last, cells, ancestors, corners, level, voxels, weights, there, offsets, columns, sums):
    """Adds the trilinear interpolation of voxels to the sums of points first..last.

    Points of one coarse cell are consecutive and meet the same eight voxels: up to `_ROWS` of them at a time.
    """
    mask, unit = (1 << level) - 1, np.float32(1.0 / (1 << level))
    stride = np.int64(voxels.strides[0])
    i = first
    while i < last:
        a = ancestors[i]
        stop = i + 1
        while stop < last and stop < i + _ROWS and ancestors[stop] == a:
            stop += 1
        for k in range(8):
            near = corners[a, k]
            offsets[k], there[k] = max(near, 0) * stride, np.float32(near >= 0)
        weigh_corners(
            cells.ctypes.data + i * cells.strides[0], mask, unit, there.ctypes.data, weights.ctypes.data, stop - i
        )  # fmt: skip
        rows = UNIT if stop - i <= UNIT else _ROWS
        # Rows that no point is in get nothing; they may be the next points', or lie behind the tile.
        weights[stop - i : rows] = 0
        column, eighths_left = 0, columns // 8
        while eighths_left > 0:
            eighths = min(eighths_left, _EIGHTHS)
            source, target = voxels.ctypes.data + voxels.itemsize * column, sums + 4 * ((i - first) * columns + column)
            if rows == UNIT:
                _mix_half(eighths, weights.ctypes.data, source, offsets.ctypes.data, target, 4 * columns, voxels.dtype)
            else:
                _mix(eighths, weights.ctypes.data, source, offsets.ctypes.data, target, 4 * columns, voxels.dtype)
            column += 8 * eighths
            eighths_left -= eighths
        i = stop


@njit(cache=True, nogil=True)
def fuse_points(counter, tile_rows, points, identity, finish, cells, ancestors, corners, level, voxels, scratch, out):
    """Computes tiles of `out = relu(bias + points @ kernel) + ratio * trilinear interpolation of voxels`.

    The arguments are those of `convolve.fuse_points`; features are uint16 or uint8. Where voxels are interpolated,
    `finish.scale` and `finish.bias` lead to their unit, not to that of the output.
    """
    num_out, columns = cells.shape[0], out.shape[1]
    seat = take_ticket(scratch.seats.ctypes.data)
    tile_sums = scratch.sums[seat]
    sums, clipped = tile_sums.ctypes.data, scratch.clipped[seat].ctypes.data
    scale, bias, ratio = finish.scale.ctypes.data, finish.bias.ctypes.data, finish.ratio.ctypes.data
    eighths = columns // 8
    weights, there, offsets = np.zeros((_ROWS, 8), np.float32), np.zeros(8, np.float32), np.zeros(8, np.int64)
    nothing = np.zeros(columns, np.float32)
    while True:
        start = take_ticket(counter.ctypes.data) * tile_rows
        if start >= num_out:
            return
        stop = min(num_out, start + tile_rows)
        tile_sums[: (stop - start) * columns] = 0
        _pointwise(points, identity, scratch.local, start, stop, finish, columns, sums)
        target, rows = out.ctypes.data + start * out.strides[0], stop - start
        if level == 0:
            near = voxels.ctypes.data + start * voxels.strides[0]
            _finish_then_add(sums, scale, bias, near, ratio, target, eighths, clipped, rows, out.dtype)
            continue
        _rectify(sums, scale, bias, 0, 0, 0, eighths, clipped, rows, out.dtype)
        _interpolate(start, stop, cells, ancestors, corners, level, voxels, weights, there, offsets, columns, sums)
        _store(sums, ratio, nothing.ctypes.data, 0, 0, target, eighths, clipped, rows, out.dtype)


@njit(cache=True, nogil=True)
def exchange_points(
    counter, tile_rows, points, product, identity, finish, entry, cells, level, voxels, mean, out, scratch
):
    """Computes what points and voxels exchange at a level, without the points' features ever leaving the cache: tiles
    of `features = relu(bias + points @ kernel) + ratio * trilinear interpolation of voxels`, of their means in the
    coarse voxels, and of the next layer's `relu(bias + features @ kernel)`.

    points: a `WordTerm` and, with no words, `product` in its place: `relu(bias + points @ kernel)`, as `out` of an
    earlier exchange, in which `entry`, float32 `[columns]`, leads to the unit of the voxels
    level: a `Coarse`; mean: a `Mean`; out: an `After`
    """
    num_out, columns, following = cells.shape[0], voxels.shape[1], out.finish.scale.shape[0]
    seat = take_ticket(scratch.seats.ctypes.data)
    tile_sums = scratch.sums[seat]
    chunk = scratch.points[seat][: (CHUNK_ROWS + _ROWS) * columns].reshape(-1, columns)
    features = WordTerm(chunk, out.words, out.panels)
    sums, clipped, counts = tile_sums.ctypes.data, scratch.clipped[seat].ctypes.data, scratch.clipped[seat]
    scale, bias, ratio = finish.scale.ctypes.data, finish.bias.ctypes.data, finish.ratio.ctypes.data
    eighths = columns // 8
    weights, there, offsets = np.zeros((_ROWS, 8), np.float32), np.zeros(8, np.float32), np.zeros(8, np.int64)
    nothing, totals = np.zeros(columns, np.float32), np.zeros(columns, np.float32)
    while True:
        # A tile begins and ends between two coarse voxels.
        begin = take_ticket(counter.ctypes.data) * tile_rows
        if begin >= num_out:
            return
        voxel = _first_within(begin, level)
        start, end = level.starts[voxel], np.int64(num_out)
        if begin + tile_rows < num_out:
            end = np.int64(level.starts[_first_within(begin + tile_rows, level)])
        while start < end:
            stop = min(end, start + CHUNK_ROWS)
            rows = stop - start
            tile_sums[: rows * columns] = 0
            if points.words > 0:
                _pointwise(points, identity, scratch.local, start, stop, finish, columns, sums)
                _rectify(sums, scale, bias, 0, 0, 0, eighths, clipped, rows, chunk.dtype)
            else:
                before = product.ctypes.data + start * product.strides[0]
                _load(sums, 0, 0, before, entry.ctypes.data, 0, eighths, clipped, rows, chunk.dtype)
            _interpolate(
                start, stop, cells, level.ancestors, level.corners, level.number, voxels, weights, there, offsets,
                columns, sums,
            )  # fmt: skip
            _store(sums, ratio, nothing.ctypes.data, 0, 0, chunk.ctypes.data, eighths, clipped, rows, chunk.dtype)
            tile_sums[: rows * following] = 0
            _pointwise(features, scratch.local, scratch.local, 0, rows, out.finish, following, sums)
            target, at_once = out.rows.ctypes.data + start * out.rows.strides[0], _at_once(out.rows, following, rows)
            for r in range(0, rows, at_once):
                _finish(
                    sums + 4 * r * following, out.finish.scale.ctypes.data, out.finish.bias.ctypes.data, 0, 0,
                    target + r * out.rows.strides[0], following // 8, clipped, at_once, out.rows.dtype,
                )  # fmt: skip
            for i in range(rows):
                for c in range(columns):
                    totals[c] += np.float32(chunk[i, c])
                if start + i + 1 == level.starts[voxel + 1]:
                    share = np.float32(1.0) / np.float32(level.starts[voxel + 1] - level.starts[voxel])
                    counts[16] += _round_mean(totals, share, mean.ratio, mean.top, mean.rows[voxel])
                    totals[:] = 0
                    voxel += 1
            start = stop


@njit(cache=True, nogil=True)
def _at_once(array, columns, rows):
    """Returns how many rows a finisher may take at a time, which expects them close together: all or one."""
    return rows if array.shape[1] == columns else 1


@njit(cache=True, nogil=True)
def _first_within(row, level):
    """Returns the first coarse voxel none of whose points lie before a row."""
    voxel = np.int64(level.ancestors[row])
    return voxel if level.starts[voxel] == row else voxel + 1


@njit(cache=True, nogil=True)
def _round_mean(totals, share, ratio, top, out):
    """Stores the rounded `totals * share * ratio`, at most the top. Returns how many are above it."""
    most, cut = np.float32(top + 0.5), np.int32(0)
    for c in range(out.shape[0]):
        value = totals[c] * share * ratio[c] + np.float32(0.5)
        cut += np.int32(value >= most + np.float32(0.5))
        out[c] = np.int32(min(value, most))
    return cut


@njit(cache=True, nogil=True)
def add_voxels(counter, tile_rows, product, entry, voxels, ratio, scratch, out):
    """Computes tiles of `out = entry * product + ratio * voxels`, the end of `fuse_points` at level 0."""
    num_out, columns = out.shape[0] - 1, out.shape[1]
    seat = take_ticket(scratch.seats.ctypes.data)
    tile_sums = scratch.sums[seat]
    sums, clipped, eighths = tile_sums.ctypes.data, scratch.clipped[seat].ctypes.data, columns // 8
    while True:
        start = take_ticket(counter.ctypes.data) * tile_rows
        if start >= num_out:
            return
        rows = min(num_out, start + tile_rows) - start
        tile_sums[: rows * columns] = 0
        near, at_once = voxels.ctypes.data + start * voxels.strides[0], _at_once(product, columns, rows)
        for r in range(0, rows, at_once):
            before = product.ctypes.data + (start + r) * product.strides[0]
            _load(sums + 4 * r * columns, 0, 0, before, entry.ctypes.data, 0, eighths, clipped, at_once, product.dtype)
        target = out.ctypes.data + start * out.strides[0]
        _add(sums, 0, 0, near, ratio.ctypes.data, target, eighths, clipped, rows, out.dtype)


@njit(cache=True, nogil=True)
def mean_points(counter, tile_rows, starts, points, finish, top, scratch, out):
    """Computes the rounded mean of the consecutive point rows `starts[v]..starts[v + 1]` of every voxel v, times
    `finish.ratio`. What is above the top is cut off and counted, as `finisher` counts it.
    """
    num_out, columns = starts.shape[0] - 1, out.shape[1]
    sums, ratio = np.empty(columns, np.float32), finish.ratio
    clipped = scratch.clipped[take_ticket(scratch.seats.ctypes.data)]
    while True:
        start = take_ticket(counter.ctypes.data) * tile_rows
        if start >= num_out:
            return
        for v in range(start, min(num_out, start + tile_rows)):
            share = np.float32(1.0) / np.float32(starts[v + 1] - starts[v])
            sums[:] = 0
            for i in range(starts[v], starts[v + 1]):
                for c in range(columns):
                    sums[c] += np.float32(points[i, c])
            clipped[16] += _round_mean(sums, share, ratio, top, out[v])
