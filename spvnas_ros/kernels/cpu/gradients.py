"""Compiled loops that only training needs: kernel packing, the weight gradient, and sums of weighted rows.

The forward pass and the input gradient of a convolution are `kernels.cpu.convolve`. The register-blocked microkernel of
the weight gradient stands in this file for the reason given there: numba's cache follows the file.
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

_CACHED_FLOATS = 4096
"""Gathered values worked on at a time: 16 KiB, half of the smallest first-level cache."""

_FEWEST_PAIRS = 32
"""A block of sums is loaded and stored once per at least this many pairs."""

_FLOAT, _I32, _I64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)


def outer_microkernel(rows: int, vectors: int, lanes: int) -> Callable[..., Any]:
    """Returns a numba intrinsic that sums outer products in registers.

    The intrinsic is `f(x, x_stride, g, g_stride, sums, sums_stride, count)`. All arguments are int64: addresses, byte
    strides, and the number of rows, at least one. It computes
    `sums[:rows, :vectors*lanes] += x[:count, :rows].T @ g[:count, :vectors*lanes]`.
    """
    vector = ir.VectorType(_FLOAT, lanes)

    @intrinsic
    def kernel(context, x, x_stride, g, g_stride, sums, sums_stride, count):
        signature = types.void(*[types.int64] * 7)

        def generate(context, b, signature, args):
            x, x_stride, g, g_stride, sums, sums_stride, count = args
            fma = cgutils.get_or_insert_function(
                b.module, ir.FunctionType(vector, [vector] * 3), f"llvm.fmuladd.v{lanes}f32"
            )

            def const(value):
                return ir.Constant(_I64, value)

            def pointer(address, offset, kind):
                return b.inttoptr(b.add(address, const(offset)), kind.as_pointer())

            targets = [b.add(sums, b.mul(sums_stride, const(r))) for r in range(rows)]
            start = [
                [b.load(pointer(targets[r], 4 * lanes * v, vector), align=4) for v in range(vectors)]
                for r in range(rows)
            ]
            before, loop, after = b.block, b.append_basic_block("row"), b.append_basic_block("done")
            b.branch(loop)
            b.position_at_end(loop)
            number, left, right = b.phi(_I64), b.phi(_I64), b.phi(_I64)
            totals = [[b.phi(vector) for _ in range(vectors)] for _ in range(rows)]
            following = b.add(number, const(1))
            for phi, first, following_value in (
                (number, const(0), following),
                (left, x, b.add(left, x_stride)),
                (right, g, b.add(right, g_stride)),
            ):
                phi.add_incoming(first, before)
                phi.add_incoming(following_value, loop)
            columns = [b.load(pointer(right, 4 * lanes * v, vector), align=4) for v in range(vectors)]
            undefined = ir.Constant(vector, ir.Undefined)
            zeros = ir.Constant(ir.VectorType(_I32, lanes), [0] * lanes)
            results = []
            for r in range(rows):
                value = b.load(pointer(left, 4 * r, _FLOAT), align=4)
                spread = b.shuffle_vector(b.insert_element(undefined, value, ir.Constant(_I32, 0)), undefined, zeros)
                results.append([b.call(fma, [spread, columns[v], totals[r][v]]) for v in range(vectors)])
            for r in range(rows):
                for v in range(vectors):
                    totals[r][v].add_incoming(start[r][v], before)
                    totals[r][v].add_incoming(results[r][v], loop)
            b.cbranch(b.icmp_signed("<", following, count), loop, after)
            b.position_at_end(after)
            for r in range(rows):
                for v in range(vectors):
                    b.store(results[r][v], pointer(targets[r], 4 * lanes * v, vector), align=4)
            return context.get_dummy_value()

        return signature, generate

    return kernel


@intrinsic
def prefetch_address(context, address):
    """Prefetches the cache line at an address."""

    def generate(context, b, signature, args):
        byte = ir.IntType(8).as_pointer()
        prefetch = cgutils.get_or_insert_function(
            b.module, ir.FunctionType(ir.VoidType(), [byte, _I32, _I32, _I32]), "llvm.prefetch.p0"
        )
        hints = [ir.Constant(_I32, v) for v in (0, 3, 1)]  # read, keep in all levels, data
        b.call(prefetch, [b.inttoptr(args[0], byte), *hints])
        return context.get_dummy_value()

    return types.void(types.int64), generate


@njit(cache=True, nogil=True)
def _fetch_rows(rows, first, last, base, stride):
    for p in range(first, last):
        address = base + np.int64(rows[p]) * stride
        for offset in range(0, stride, 64):
            prefetch_address(address + offset)


_outer_1, _outer_2, _outer_3, _outer_4 = (
    outer_microkernel(SHAPE.rows, min(vectors, SHAPE.vectors), SHAPE.lanes) for vectors in (1, 2, 3, 4)
)
_LANES, _ROWS = SHAPE.lanes, SHAPE.rows


@njit(cache=True, nogil=True)
def pack_panels(counter, kernel, mirrored, transposed, blocks, packed):
    """Packs a kernel as `convolve.pack_kernel` does, on several threads.

    It packs the kernel itself or the kernel of its input gradient.

    kernel: float32 `[K, Cin, Cout]`; mirrored: kernel rows in reverse; transposed: every kernel row transposed
    blocks: int64 `[B, 2]`, first column and vectors of each panel; packed: float32, room for all panels
    """
    volume = kernel.shape[0]
    channels, columns = (kernel.shape[2], kernel.shape[1]) if transposed else (kernel.shape[1], kernel.shape[2])
    padded = blocks[-1, 0] + blocks[-1, 1] * _LANES
    while True:
        k = take_ticket(counter.ctypes.data)
        if k >= volume:
            return
        source = kernel[volume - 1 - k] if mirrored else kernel[k]
        place = k * channels * padded
        for block in range(blocks.shape[0]):
            first = blocks[block, 0]
            width = blocks[block, 1] * _LANES
            inside = min(width, columns - first)
            for i in range(channels):
                for c in range(inside):
                    packed[place + c] = source[first + c, i] if transposed else source[i, first + c]
                for c in range(inside, width):
                    packed[place + c] = 0
                place += width


@njit(cache=True, nogil=True)
def sum_outer_products(counter, tasks, x_rows, g_rows, x, g, blocks, partial):
    """Computes `partial[t] = sum of x[x_rows[p]]^T g[g_rows[p]]` over the pairs p of every task t.

    tasks: int64 `[T, 3]` (kernel row, first pair, last pair); x: float32 `[n, Cin]`; g: float32 `[m, Cout]`
    blocks: column blocks of g, as for `pack_panels`; partial: float32 `[T, rows, columns]`, whole register blocks
    """
    rows, columns = partial.shape[1], partial.shape[2]
    chunk = max(_FEWEST_PAIRS, _CACHED_FLOATS // (rows + columns))
    # The gathered rows are copied side by side, so that every register block reads them at full speed.
    left, right = np.zeros((chunk, rows), np.float32), np.zeros((chunk, columns), np.float32)
    x_stride, g_stride = 4 * rows, 4 * columns
    while True:
        t = take_ticket(counter.ctypes.data)
        if t >= tasks.shape[0]:
            return
        sums = partial[t]
        sums[:] = 0
        first, last = tasks[t, 1], tasks[t, 2]
        while first < last:
            count = min(chunk, last - first)
            for p in range(count):
                i, o = np.uint64(x_rows[first + p]), np.uint64(g_rows[first + p])
                for c in range(x.shape[1]):
                    left[p, c] = x[i, c]
                for c in range(g.shape[1]):
                    right[p, c] = g[o, c]
            following = first + count
            share = (chunk * _ROWS + rows - 1) // rows
            for block in range(blocks.shape[0]):
                column, vectors = blocks[block, 0], blocks[block, 1]
                ys = right.ctypes.data + 4 * column
                for row in range(0, rows, _ROWS):
                    xs, target = left.ctypes.data + 4 * row, sums.ctypes.data + 4 * (row * columns + column)
                    if vectors == 1:
                        _outer_1(xs, x_stride, ys, g_stride, target, g_stride, count)
                    elif vectors == 2:
                        _outer_2(xs, x_stride, ys, g_stride, target, g_stride, count)
                    elif vectors == 3:
                        _outer_3(xs, x_stride, ys, g_stride, target, g_stride, count)
                    else:
                        _outer_4(xs, x_stride, ys, g_stride, target, g_stride, count)
                    if block == 0:
                        stop = min(following + share, last)
                        _fetch_rows(x_rows, following, stop, x.ctypes.data, 4 * x.shape[1])
                        _fetch_rows(g_rows, following, stop, g.ctypes.data, 4 * g.shape[1])
                        following = stop
            first += count


@njit(cache=True, nogil=True)
def add_partial(counter, tasks, partial, out):
    """Computes `out[k]`, the sum of the partial sums of kernel row k, always in the order of the tasks."""
    while True:
        k = take_ticket(counter.ctypes.data)
        if k >= out.shape[0]:
            return
        out[k] = 0
        for t in range(tasks.shape[0]):
            if tasks[t, 0] == k:
                for i in range(out.shape[1]):
                    for c in range(out.shape[2]):
                        out[k, i, c] += partial[t, i, c]


class Mixture(NamedTuple):
    """Weighted sums of rows, as compressed rows of a sparse matrix.

    starts: int32 `[n + 1]`; rows: int32 `[q]`, the input rows that an output row sums; weights: float32 `[q]`
    """

    starts: Any
    rows: Any
    weights: Any


@njit(cache=True, nogil=True)
def mix_rows(counter, tile_rows, mixture, x, out):
    """Computes tiles of `out[i] = sum over q of weights[q] * x[rows[q]]`."""
    while True:
        start = take_ticket(counter.ctypes.data) * tile_rows
        if start >= out.shape[0]:
            return
        for i in range(start, min(out.shape[0], start + tile_rows)):
            out[i] = 0
            for q in range(mixture.starts[i], mixture.starts[i + 1]):
                row, weight = mixture.rows[q], mixture.weights[q]
                for c in range(out.shape[1]):
                    out[i, c] += weight * x[row, c]


@njit(cache=True, nogil=True)
def transpose_mixture(mixture, num_in):
    """Returns the transposed matrix: the contributions of every input row, in the order of the output rows."""
    starts = np.zeros(num_in + 1, np.int32)
    for row in mixture.rows:
        starts[row + 1] += 1
    for i in range(num_in):
        starts[i + 1] += starts[i]
    place = starts[:-1].copy()
    rows, weights = np.empty_like(mixture.rows), np.empty_like(mixture.weights)
    for i in range(mixture.starts.shape[0] - 1):
        for q in range(mixture.starts[i], mixture.starts[i + 1]):
            p = place[mixture.rows[q]]
            place[mixture.rows[q]] = p + 1
            rows[p], weights[p] = i, mixture.weights[q]
    return Mixture(starts, rows, weights)


@njit(cache=True, nogil=True)
def interpolating_mixture(cells, ancestors, corners, level):
    """Returns the trilinear weights of the finest voxels' corners in a coarse level.

    The weights are those of `sparse.ops.interpolation`.

    cells: int32 `[n, 3]`; ancestors: int32 `[n]` row at `level`; corners: int32 `[n_level, 8]`, -1 where there is none
    """
    n = cells.shape[0]
    starts, rows, weights = np.empty(n + 1, np.int32), np.empty(8 * n, np.int32), np.empty(8 * n, np.float32)
    mask, scale = (1 << level) - 1, np.float32(1.0 / (1 << level))
    place = 0
    for i in range(n):
        starts[i] = place
        fx, fy, fz = (cells[i, 0] & mask) * scale, (cells[i, 1] & mask) * scale, (cells[i, 2] & mask) * scale
        total = np.float32(1e-8)
        for k in range(8):
            near = corners[ancestors[i], k]
            weight = (fx if k & 4 else 1 - fx) * (fy if k & 2 else 1 - fy) * (fz if k & 1 else 1 - fz)
            if near >= 0 and weight > 0:
                rows[place], weights[place] = near, weight
                total += np.float32(weight)
                place += 1
        for q in range(starts[i], place):
            weights[q] /= total
    starts[n] = place
    return Mixture(starts, rows[:place].copy(), weights[:place].copy())


@njit(cache=True, nogil=True)
def by_kernel_row(starts, kernel_rows, rows, volume):
    """Regroups compressed rows (per output row: kernel row and input row) as `sparse.KernelMap` wants them.

    Returns in_rows int64, out_rows int64, sizes int64 `[volume]`.
    """
    sizes = np.zeros(volume, np.int64)
    for k in kernel_rows:
        sizes[k] += 1
    place = np.cumsum(sizes) - sizes
    in_rows, out_rows = np.empty(rows.shape[0], np.int64), np.empty(rows.shape[0], np.int64)
    for i in range(starts.shape[0] - 1):
        for q in range(starts[i], starts[i + 1]):
            p = place[kernel_rows[q]]
            place[kernel_rows[q]] = p + 1
            in_rows[p], out_rows[p] = rows[q], i
    return in_rows, out_rows, sizes
