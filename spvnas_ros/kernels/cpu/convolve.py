"""The convolution loops of the CPU, compiled by numba for the machine they run on.

The vector microkernel and the loops that call it share this file on purpose. Numba invalidates its cache by the file
that holds a function, so it would keep loops in another file that were compiled around an older microkernel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from spvnas_ros.kernels.cpu.shape import host_shape
from spvnas_ros.kernels.cpu.team import take_ticket

SHAPE = host_shape()
UNIT = SHAPE.rows // 2
"""Pair lists are padded to a multiple of this. Full groups of `SHAPE.rows` pairs go first."""

_CACHED_FLOATS = 2048
"""Input values worked on at a time: 8 KiB, so that they stay in the first-level cache for all column blocks."""

AHEAD = _CACHED_FLOATS
"""Input rows are prefetched at most this many pairs ahead. Index lists must be readable that far behind their end."""

_FLOAT, _I32, _I64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)


def microkernel(rows: int, vectors: int, lanes: int) -> Callable[..., Any]:
    """Returns a numba intrinsic that multiplies gathered rows with a panel of a kernel, accumulating in registers.

    The intrinsic is `f(x, x_stride, in_rows, panel, out, out_stride, out_rows, channels)`, all int64 addresses and byte
    strides. For r in range(rows) it computes `out[out_rows[r], :vectors*lanes] += x[in_rows[r], :channels] @ panel`.
    The panel is `[channels, vectors*lanes]` and contiguous.
    """
    vector = ir.VectorType(_FLOAT, lanes)

    @intrinsic
    def kernel(context, x, x_stride, in_rows, panel, out, out_stride, out_rows, channels):
        signature = types.void(*[types.int64] * 8)

        def generate(context, b, signature, args):
            x, x_stride, in_rows, panel, out, out_stride, out_rows, channels = args
            fma = cgutils.get_or_insert_function(
                b.module, ir.FunctionType(vector, [vector] * 3), f"llvm.fmuladd.v{lanes}f32"
            )

            def const(value):
                return ir.Constant(_I64, value)

            def pointer(address, offset, kind):
                return b.inttoptr(b.add(address, const(offset)), kind.as_pointer())

            def row(base, stride, indices, number):
                index = b.sext(b.load(pointer(indices, 4 * number, _I32), align=4), _I64)
                return b.add(base, b.mul(index, stride))

            inputs = [row(x, x_stride, in_rows, r) for r in range(rows)]
            outputs = [row(out, out_stride, out_rows, r) for r in range(rows)]
            start = [
                [b.load(pointer(outputs[r], 4 * lanes * v, vector), align=4) for v in range(vectors)]
                for r in range(rows)
            ]
            before, loop, after = b.block, b.append_basic_block("channel"), b.append_basic_block("done")
            b.branch(loop)
            b.position_at_end(loop)
            channel, weights = b.phi(_I64), b.phi(_I64)
            channel.add_incoming(const(0), before)
            weights.add_incoming(panel, before)
            sums = [[b.phi(vector) for _ in range(vectors)] for _ in range(rows)]
            columns = [b.load(pointer(weights, 4 * lanes * v, vector), align=4) for v in range(vectors)]
            offset = b.mul(channel, const(4))
            undefined = ir.Constant(vector, ir.Undefined)
            zeros = ir.Constant(ir.VectorType(_I32, lanes), [0] * lanes)
            results = []
            for r in range(rows):
                value = b.load(b.inttoptr(b.add(inputs[r], offset), _FLOAT.as_pointer()), align=4)
                spread = b.shuffle_vector(b.insert_element(undefined, value, ir.Constant(_I32, 0)), undefined, zeros)
                results.append([b.call(fma, [spread, columns[v], sums[r][v]]) for v in range(vectors)])
            following = b.add(channel, const(1))
            channel.add_incoming(following, loop)
            weights.add_incoming(b.add(weights, const(4 * lanes * vectors)), loop)
            for r in range(rows):
                for v in range(vectors):
                    sums[r][v].add_incoming(start[r][v], before)
                    sums[r][v].add_incoming(results[r][v], loop)
            b.cbranch(b.icmp_signed("<", following, channels), loop, after)
            b.position_at_end(after)
            for r in range(rows):
                for v in range(vectors):
                    b.store(results[r][v], pointer(outputs[r], 4 * lanes * v, vector), align=4)
            return context.get_dummy_value()

        return signature, generate

    return kernel


@intrinsic
def prefetch(context, x, x_stride, in_rows, line):
    """Prefetches cache line `line` of the row of `x` whose index is at the address `in_rows`."""

    def generate(context, b, signature, args):
        x, x_stride, in_rows, line = args
        byte = ir.IntType(8).as_pointer()
        prefetch = cgutils.get_or_insert_function(
            b.module, ir.FunctionType(ir.VoidType(), [byte, _I32, _I32, _I32]), "llvm.prefetch.p0"
        )
        row = b.sext(b.load(b.inttoptr(in_rows, _I32.as_pointer()), align=4), _I64)
        address = b.add(b.add(x, b.mul(row, x_stride)), b.mul(line, ir.Constant(_I64, 64)))
        hints = [ir.Constant(_I32, v) for v in (0, 3, 1)]  # read, keep in all levels, data
        b.call(prefetch, [b.inttoptr(address, byte), *hints])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), generate


def _kernels(vectors):
    return [microkernel(rows, min(vectors, SHAPE.vectors), SHAPE.lanes) for rows in (SHAPE.rows, UNIT)]


_full_1, _half_1 = _kernels(1)
_full_2, _half_2 = _kernels(2)
_full_3, _half_3 = _kernels(3)
_full_4, _half_4 = _kernels(4)
_LANES, _ROWS, _VECTORS = SHAPE.lanes, SHAPE.rows, SHAPE.vectors


class Pairs(NamedTuple):
    """The pairs of input and output rows of a convolution, grouped by tile of output rows and by kernel row.

    starts: int32 `[tiles * volume + 1]`, where each group begins; every group is padded to a multiple of `UNIT`
    ins, outs: int32, rows of the input and of the output; padded pairs point at the spare row behind the last
    """

    starts: Any
    ins: Any
    outs: Any
    volume: int
    tile_rows: int


class Term(NamedTuple):
    """One input of a fused convolution.

    rows: float32 `[n + 1, stride]`; channels: how many columns count (0 = no such input)
    panels: float32, the kernel packed by `pack_kernel`
    """

    rows: Any
    channels: int
    panels: Any


def aligned(size: int) -> np.ndarray:
    """Returns an uninitialised float32 array `[size]` that starts on a cache line.

    Without that, half of all vector accesses would straddle two cache lines.
    """
    raw = np.empty(size + 16, np.float32)
    skip = -raw.ctypes.data % 64 // 4
    return raw[skip : skip + size]


@njit(cache=True, nogil=True)
def block_vectors(left):
    """Returns the vectors of the next column block when `left` vectors are left.

    Blocks are full, but a single vector is never left over at the end. A block of one vector has too few independent
    sums to keep the multipliers busy.
    """
    if left > _VECTORS + 1 or left <= _VECTORS:
        return min(left, _VECTORS)
    return left // 2


def column_blocks(padded: int) -> list[tuple[int, int]]:
    """Returns (first column, vectors) of each panel that `padded` output columns are cut into."""
    blocks = []
    column = 0
    while column < padded:
        vectors = block_vectors((padded - column) // _LANES)
        blocks.append((column, vectors))
        column += vectors * _LANES
    return blocks


def pack_kernel(kernel: np.ndarray) -> np.ndarray:
    """Packs a kernel `[K, Cin, Cout]` into one flat array.

    It holds one contiguous `[Cin, columns]` panel per kernel row and column block.
    """
    volume, channels, columns = kernel.shape
    padded = SHAPE.pad(columns)
    wide = np.zeros((volume, channels, padded), np.float32)
    wide[:, :, :columns] = kernel
    panels = [wide[k, :, c : c + v * _LANES].ravel() for k in range(volume) for c, v in column_blocks(padded)]
    packed = aligned(sum(len(panel) for panel in panels))
    np.concatenate(panels, out=packed)
    return packed


@njit(cache=True, nogil=True)
def _group(x, x_stride, ins, outs, first, last, panels, columns, out, channels):
    """Adds the products of pairs first..last (a multiple of UNIT) of one kernel row to the output rows."""
    chunk = max(_ROWS, _CACHED_FLOATS // channels // _ROWS * _ROWS)
    lines = (4 * channels + 63) // 64
    while first < last:
        stop = min(first + chunk, last)
        column = 0
        while column < columns:
            vectors = block_vectors((columns - column) // _LANES)
            panel = panels + 4 * column * channels
            target = out + 4 * column
            p = first
            # The branches are written out here: in a function of their own, LLVM would not inline the microkernels.
            while p + _ROWS <= stop:
                i, o = ins + 4 * p, outs + 4 * p
                if column == 0:
                    # Prefetch the next chunk's rows. The list goes on into the next kernel row and the next tile.
                    for r in range(chunk, chunk + _ROWS):
                        for line in range(lines):
                            prefetch(x, x_stride, i + 4 * r, line)
                if vectors == 1:
                    _full_1(x, x_stride, i, panel, target, 4 * columns, o, channels)
                elif vectors == 2:
                    _full_2(x, x_stride, i, panel, target, 4 * columns, o, channels)
                elif vectors == 3:
                    _full_3(x, x_stride, i, panel, target, 4 * columns, o, channels)
                else:
                    _full_4(x, x_stride, i, panel, target, 4 * columns, o, channels)
                p += _ROWS
            if p < stop:
                i, o = ins + 4 * p, outs + 4 * p
                if vectors == 1:
                    _half_1(x, x_stride, i, panel, target, 4 * columns, o, channels)
                elif vectors == 2:
                    _half_2(x, x_stride, i, panel, target, 4 * columns, o, channels)
                elif vectors == 3:
                    _half_3(x, x_stride, i, panel, target, 4 * columns, o, channels)
                else:
                    _half_4(x, x_stride, i, panel, target, 4 * columns, o, channels)
            column += vectors * _LANES
        first = stop


@njit(cache=True, nogil=True)
def _pointwise(term, identity, first, last, out):
    """Computes `out[first:last] += term.rows[first:last] @ kernel`.

    Tiles are multiples of `UNIT` rows. Only the last tile is rounded up, into the spare row.
    """
    if term.channels > 0:
        rows = identity.ctypes.data
        stop = first + (last - first + UNIT - 1) // UNIT * UNIT
        # Of the types that `_gathered` gives, too, so that this is compiled once.
        _group(
            term.rows.ctypes.data, np.int64(4 * term.rows.shape[1]), np.int64(rows), np.int64(rows), np.int64(first),
            np.int64(stop), np.int64(term.panels.ctypes.data), np.int64(out.shape[1]), np.int64(out.ctypes.data),
            np.int64(term.channels),
        )  # fmt: skip


@njit(cache=True, nogil=True)
def _gathered(term, pairs, tile, out):
    """Adds one input's products over all kernel rows to one tile of output rows."""
    if term.channels > 0:
        step = 4 * term.channels * out.shape[1]
        for k in range(pairs.volume):
            place = tile * pairs.volume + k
            first, last = np.int64(pairs.starts[place]), np.int64(pairs.starts[place + 1])
            if first < last:
                _group(
                    term.rows.ctypes.data, np.int64(4 * term.rows.shape[1]), np.int64(pairs.ins.ctypes.data),
                    np.int64(pairs.outs.ctypes.data), first, last, np.int64(term.panels.ctypes.data + k * step),
                    np.int64(out.shape[1]), np.int64(out.ctypes.data), np.int64(term.channels),
                )  # fmt: skip


@njit(cache=True, nogil=True)
def convolve(counter, num_out, pairs, identity, first, second, skip_first, skip_second, bias, residual, relu, out):
    """Computes tiles of `out = act(bias + residual + first + second + skips)` until the counter runs out of tiles.

    out: float32 `[num_out + spare, columns]`; residual: the same, or `[0, columns]`; identity: int32 0, 1, 2, ...,
    num_out - 1 and then num_out for the padding. Several threads may run it on one counter.
    """
    columns = out.shape[1]
    while True:
        tile = take_ticket(counter.ctypes.data)
        start = tile * pairs.tile_rows
        if start >= num_out:
            return
        stop = min(num_out, start + pairs.tile_rows)
        for i in range(start, stop):
            if residual.shape[0] > 0:
                for c in range(columns):
                    out[i, c] = bias[c] + residual[i, c]
            else:
                for c in range(columns):
                    out[i, c] = bias[c]
        _pointwise(skip_first, identity, start, stop, out)
        _pointwise(skip_second, identity, start, stop, out)
        _gathered(first, pairs, tile, out)
        _gathered(second, pairs, tile, out)
        if relu:
            for i in range(start, stop):
                for c in range(columns):
                    out[i, c] = max(out[i, c], np.float32(0))


@njit(cache=True, nogil=True)
def fuse_points(counter, tile_rows, points, identity, bias, cells, ancestors, corners, level, voxels, out):
    """Computes tiles of `out = relu(bias + points @ kernel) + trilinear interpolation of voxels`.

    cells: int32 `[n, 3]` finest voxel coordinates; ancestors: int32 `[n]` row at `level`
    corners: int32 `[n_level, 8]` rows of the voxels at the corners of each voxel's cell, -1 where there is none

    `corners` is not read at level 0, where a finest voxel gets only its own features.
    """
    num_out, columns = cells.shape[0], out.shape[1]
    mask, scale = (1 << level) - 1, np.float32(1.0 / (1 << level))
    w, j = np.empty(8, np.float32), np.empty(8, np.uint32)
    while True:
        start = take_ticket(counter.ctypes.data) * tile_rows
        if start >= num_out:
            return
        stop = min(num_out, start + tile_rows)
        for i in range(start, stop):
            for c in range(columns):
                out[i, c] = bias[c]
        _pointwise(points, identity, start, stop, out)
        for i in range(start, stop):
            if level == 0:
                for c in range(columns):
                    out[i, c] = max(out[i, c], np.float32(0)) + voxels[i, c]
                continue
            a = ancestors[i]
            fx, fy, fz = (cells[i, 0] & mask) * scale, (cells[i, 1] & mask) * scale, (cells[i, 2] & mask) * scale
            total = np.float32(1e-8)
            for k in range(8):
                near = corners[a, k]
                weight = (fx if k & 4 else 1 - fx) * (fy if k & 2 else 1 - fy) * (fz if k & 1 else 1 - fz)
                w[k], j[k] = (weight, near) if near >= 0 else (0, 0)
                total += w[k]
            share = np.float32(1.0) / total
            w0, w1, w2, w3 = w[0] * share, w[1] * share, w[2] * share, w[3] * share
            w4, w5, w6, w7 = w[4] * share, w[5] * share, w[6] * share, w[7] * share
            j0, j1, j2, j3, j4, j5, j6, j7 = j[0], j[1], j[2], j[3], j[4], j[5], j[6], j[7]
            # One pass over the columns adds all corners, so that the sum stays in vector registers.
            for c in range(columns):
                low = w0 * voxels[j0, c] + w1 * voxels[j1, c] + w2 * voxels[j2, c] + w3 * voxels[j3, c]
                high = w4 * voxels[j4, c] + w5 * voxels[j5, c] + w6 * voxels[j6, c] + w7 * voxels[j7, c]
                out[i, c] = max(out[i, c], np.float32(0)) + (low + high)


@njit(cache=True, nogil=True)
def mean_points(counter, tile_rows, starts, points, out):
    """Computes the mean of the consecutive point rows `starts[v]..starts[v + 1]` of every voxel v."""
    num_out = starts.shape[0] - 1
    while True:
        start = take_ticket(counter.ctypes.data) * tile_rows
        if start >= num_out:
            return
        for v in range(start, min(num_out, start + tile_rows)):
            share = np.float32(1.0) / np.float32(starts[v + 1] - starts[v])
            out[v] = 0
            for i in range(starts[v], starts[v + 1]):
                for c in range(out.shape[1]):
                    out[v, c] += points[i, c] * share
