"""The convolution loops of training with operands in bfloat16 and sums in float32, for CPUs with AVX512-BF16.

`vdpbf16ps` multiplies pairs of values, so rows and panels are read as 32-bit words of two values each: neighbouring
channels in the convolution, neighbouring pairs of rows in the weight gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic

from spvnas_ros.kernels.cpu.gradients import prefetch_address
from spvnas_ros.kernels.cpu.team import take_ticket

STEP = 8
"""Rows of bfloat16 values are padded with zeros to a multiple of this, and so are the columns of sums."""

_ROWS = 8
_HALF = _ROWS // 2
_MOST_STEPS = 6
"""A register block has at most 8 rows of 48 columns: 24 of the 32 registers."""

_CACHED_WORDS = 2048
"""Gathered words worked on at a time: 8 KiB, so that they stay in the first-level cache for all column blocks."""

_FEWEST_PAIRS = 64
"""In the weight gradient, a block of sums is loaded and stored once per at least this many pairs."""

_FLOAT, _I16, _I32, _I64 = ir.FloatType(), ir.IntType(16), ir.IntType(32), ir.IntType(64)
_REGISTER = {16: "512", 8: "256"}


def available() -> bool:
    """Returns whether numba compiles for AVX512-BF16. The NUMBA_CPU_* settings count, as for `shape.host_shape`."""
    _, _, features = cpu_target.target_context.codegen().magic_tuple()
    return {"+avx512f", "+avx512vl", "+avx512bf16"} <= set(features.split(","))


def pad(channels: int) -> int:
    """Returns `channels` rounded up to a multiple of `STEP`."""
    return -(-channels // STEP) * STEP


def column_blocks(padded: int) -> np.ndarray:
    """Returns int64 `[B, 2]`: first column and steps (of 8 columns) of each block that `padded` columns are cut into.

    Blocks are wide, but a narrow one is never left over at the end, where its few sums would wait for each other.
    """
    blocks, column = [], 0
    while column < padded:
        left = (padded - column) // STEP
        steps = left if left <= _MOST_STEPS else 4 if left <= _MOST_STEPS + 2 else _MOST_STEPS
        blocks.append((column, steps))
        column += steps * STEP
    return np.array(blocks, np.int64)


class _BFloat(ir.Type):  # type: ignore[misc]
    """LLVM's type bfloat, which llvmlite has not."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash("bfloat")


def _lanes_of(steps: int) -> tuple[int, ...]:
    """Returns the lanes of the registers that hold `steps` times 8 columns.

    The data path of many of these CPUs is 256 bits wide, so three narrow registers beat two wide ones that are padded.
    """
    return {1: (8,), 2: (16,), 3: (8, 8, 8), 4: (16, 16), 5: (16, 16, 8), 6: (16, 16, 16)}[steps]


def _dot(b: Any, lanes: int, total: Any, left: Any, right: Any) -> Any:
    """Emits `total + left.low * right.low + left.high * right.high` of words `<lanes x i32>`."""
    halves = ir.VectorType(_BFloat(), 2 * lanes)
    name = f"llvm.x86.avx512bf16.dpbf16ps.{_REGISTER[lanes]}"
    function = cgutils.get_or_insert_function(b.module, ir.FunctionType(total.type, [total.type, halves, halves]), name)
    return b.call(function, [total, b.bitcast(left, halves), b.bitcast(right, halves)])


def _spread(b: Any, word: Any, lanes: int) -> Any:
    kind = ir.VectorType(_I32, lanes)
    undefined = ir.Constant(kind, ir.Undefined)
    return b.shuffle_vector(b.insert_element(undefined, word, ir.Constant(_I32, 0)), undefined, ir.Constant(kind, None))


def _pointer(b: Any, address: Any, offset: int, kind: Any) -> Any:
    return b.inttoptr(b.add(address, ir.Constant(_I64, offset)), kind.as_pointer())


def _accumulate(b: Any, lanes: tuple[int, ...], targets: list[Any], count: Any, walk: Any) -> None:
    """Emits a loop that adds products of words to rows of float32 sums, which stay in registers meanwhile.

    targets: the rows' addresses; count: turns of the loop, at least one
    walk:    (address before the loop, bytes a turn) of the columns' words, then those of whatever holds the rows'
             words, then a function that returns the address of a row's word from the latter's address now
    """
    (columns, column_step), (rows, row_step), place = walk
    offsets = [4 * sum(lanes[:v]) for v in range(len(lanes))]
    sums_of = [ir.VectorType(_FLOAT, width) for width in lanes]
    start = [
        [b.load(_pointer(b, target, at, kind), align=4) for at, kind in zip(offsets, sums_of, strict=True)]
        for target in targets
    ]
    before, loop, after = b.block, b.append_basic_block("word"), b.append_basic_block("done")
    b.branch(loop)
    b.position_at_end(loop)
    number, column, row = b.phi(_I64), b.phi(_I64), b.phi(_I64)
    totals = [[b.phi(kind) for kind in sums_of] for _ in targets]
    following = b.add(number, ir.Constant(_I64, 1))
    for phi, first, then in (
        (number, ir.Constant(_I64, 0), following),
        (column, columns, b.add(column, column_step)),
        (row, rows, b.add(row, row_step)),
    ):
        phi.add_incoming(first, before)
        phi.add_incoming(then, loop)
    words = [
        b.load(_pointer(b, column, at, ir.VectorType(_I32, width)), align=4)
        for at, width in zip(offsets, lanes, strict=True)
    ]
    results = []
    for r in range(len(targets)):
        word = b.load(b.inttoptr(place(r, row), _I32.as_pointer()), align=4)
        spread = {width: _spread(b, word, width) for width in sorted(set(lanes))}
        results.append(
            [_dot(b, width, totals[r][v], spread[width], words[v]) for v, width in enumerate(lanes)]
        )  # fmt: skip
    for r in range(len(targets)):
        for v in range(len(lanes)):
            totals[r][v].add_incoming(start[r][v], before)
            totals[r][v].add_incoming(results[r][v], loop)
    b.cbranch(b.icmp_signed("<", following, count), loop, after)
    b.position_at_end(after)
    for r, target in enumerate(targets):
        for v, at in enumerate(offsets):
            b.store(results[r][v], _pointer(b, target, at, sums_of[v]), align=4)


def _row_kernel(rows: int, steps: int) -> Callable[..., Any]:
    """Returns a numba intrinsic that multiplies gathered rows with a panel.

    The intrinsic is `f(x, x_stride, in_rows, panel, out, out_stride, out_rows, words)`, all int64 addresses, byte
    strides, and the words of a row. It computes `out[out_rows[r], :8*steps] += x[in_rows[r]] @ panel`. The panel is
    `[words, 8*steps]` of words.
    """
    lanes = _lanes_of(steps)

    @intrinsic
    def kernel(context, x, x_stride, in_rows, panel, out, out_stride, out_rows, words):
        def generate(context, b, signature, args):
            x, x_stride, in_rows, panel, out, out_stride, out_rows, words = args

            def row(base, stride, indices, number):
                index = b.sext(b.load(_pointer(b, indices, 4 * number, _I32), align=4), _I64)
                return b.add(base, b.mul(index, stride))

            inputs = [row(x, x_stride, in_rows, r) for r in range(rows)]
            targets = [row(out, out_stride, out_rows, r) for r in range(rows)]
            offsets = (ir.Constant(_I64, 0), ir.Constant(_I64, 4))
            panels = (panel, ir.Constant(_I64, 4 * STEP * steps))
            _accumulate(b, lanes, targets, words, (panels, offsets, lambda r, offset: b.add(inputs[r], offset)))
            return context.get_dummy_value()

        return types.void(*[types.int64] * 8), generate

    return kernel


def _outer_kernel(steps: int) -> Callable[..., Any]:
    """Returns a numba intrinsic that sums outer products, two pairs of rows at a time.

    The intrinsic is `f(x, x_stride, g, g_stride, sums, sums_stride, count)`, all int64: addresses, byte strides, and
    the number of rows of words, at least one. A word holds the same channel of two rows.
    """
    lanes = _lanes_of(steps)

    @intrinsic
    def kernel(context, x, x_stride, g, g_stride, sums, sums_stride, count):
        def generate(context, b, signature, args):
            x, x_stride, g, g_stride, sums, sums_stride, count = args
            targets = [b.add(sums, b.mul(sums_stride, ir.Constant(_I64, r))) for r in range(_ROWS)]
            walk = (g, g_stride), (x, x_stride), lambda r, row: b.add(row, ir.Constant(_I64, 4 * r))
            _accumulate(b, lanes, targets, count, walk)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 7), generate

    return kernel


@intrinsic
def _interleave(context, first, second, out, steps):
    """Stores words of two rows' 16-bit values; all int64: addresses, and the number of steps of 8 values."""

    def generate(context, b, signature, args):
        first, second, out, steps = args
        narrow, wide = ir.VectorType(_I16, STEP), ir.VectorType(_I16, 2 * STEP)
        order = [place for i in range(STEP) for place in (i, STEP + i)]
        before, loop, after = b.block, b.append_basic_block("step"), b.append_basic_block("done")
        b.branch(loop)
        b.position_at_end(loop)
        number = b.phi(_I64)
        place = b.mul(number, ir.Constant(_I64, 2 * STEP))
        low, high = (b.load(b.inttoptr(b.add(row, place), narrow.as_pointer()), align=2) for row in (first, second))
        mixed = b.shuffle_vector(low, high, ir.Constant(ir.VectorType(_I32, 2 * STEP), order))
        b.store(mixed, b.inttoptr(b.add(out, b.add(place, place)), wide.as_pointer()), align=4)
        following = b.add(number, ir.Constant(_I64, 1))
        number.add_incoming(ir.Constant(_I64, 0), before)
        number.add_incoming(following, loop)
        b.cbranch(b.icmp_signed("<", following, steps), loop, after)
        b.position_at_end(after)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), generate


_full_1, _full_2, _full_3, _full_4, _full_5, _full_6 = (_row_kernel(_ROWS, steps) for steps in range(1, 7))
_half_1, _half_2, _half_3, _half_4, _half_5, _half_6 = (_row_kernel(_HALF, steps) for steps in range(1, 7))
_outer_1, _outer_2, _outer_3, _outer_4, _outer_5, _outer_6 = (_outer_kernel(steps) for steps in range(1, 7))


@njit(cache=True, nogil=True)
def _rounded(bits):
    """Returns the upper half of a float32's bits, rounded to the nearest, ties to even. NaN stays NaN."""
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    no_number = (bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
    return np.uint16((bits >> np.uint32(16)) | np.uint32(0x40)) if no_number else np.uint16(rounded)


@njit(cache=True, nogil=True)
def narrow_rows(counter, tile_rows, channels, x, out):
    """Rounds rows to bfloat16.

    x: uint32 `[n, channels or more]`, the bits of float32; out: uint16 `[n, padded]`, zeros behind the channels
    """
    while True:
        start = take_ticket(counter.ctypes.data) * tile_rows
        if start >= x.shape[0]:
            return
        for i in range(start, min(x.shape[0], start + tile_rows)):
            for c in range(channels):
                out[i, c] = _rounded(x[i, c])
            for c in range(channels, out.shape[1]):
                out[i, c] = 0


@njit(cache=True, nogil=True)
def pack_panels(counter, kernel, mirrored, transposed, blocks, packed):
    """Packs a kernel, or that of its input gradient, into panels of words.

    kernel: uint32 `[K, Cin, Cout]`, the bits of float32; mirrored: kernel rows in reverse; transposed: every kernel row
    transposed; blocks: those of the columns; packed: uint16, room for all panels

    A kernel row's panels follow each other by column block, each `[padded channels / 2, columns, 2]`.
    """
    volume = kernel.shape[0]
    channels, columns = (kernel.shape[2], kernel.shape[1]) if transposed else (kernel.shape[1], kernel.shape[2])
    words = (channels + STEP - 1) // STEP * STEP // 2
    padded = blocks[-1, 0] + blocks[-1, 1] * STEP
    while True:
        k = take_ticket(counter.ctypes.data)
        if k >= volume:
            return
        source = kernel[volume - 1 - k] if mirrored else kernel[k]
        place = k * words * padded * 2
        for block in range(blocks.shape[0]):
            first, width = blocks[block, 0], blocks[block, 1] * STEP
            for word in range(words):
                for c in range(width):
                    for half in range(2):
                        i, o = 2 * word + half, first + c
                        bits = np.uint32(0)
                        if i < channels and o < columns:
                            bits = source[o, i] if transposed else source[i, o]
                        packed[place + 2 * c + half] = _rounded(bits)
                place += 2 * width


@njit(cache=True, nogil=True)
def _group(x, x_stride, ins, outs, first, last, panels, blocks, out, out_stride, words):
    """Adds the products of pairs first..last (a multiple of 4) of one kernel row to the output rows."""
    chunk = max(_ROWS, _CACHED_WORDS // words // _ROWS * _ROWS)
    while first < last:
        stop = min(first + chunk, last)
        for block in range(blocks.shape[0]):
            column, steps = blocks[block, 0], blocks[block, 1]
            panel, target = panels + 4 * column * words, out + 4 * column
            p = first
            # The branches are written out here: in a function of their own, LLVM would not inline the microkernels.
            while p + _ROWS <= stop:
                i, o = ins + 4 * p, outs + 4 * p
                if steps == 1:
                    _full_1(x, x_stride, i, panel, target, out_stride, o, words)
                elif steps == 2:
                    _full_2(x, x_stride, i, panel, target, out_stride, o, words)
                elif steps == 3:
                    _full_3(x, x_stride, i, panel, target, out_stride, o, words)
                elif steps == 4:
                    _full_4(x, x_stride, i, panel, target, out_stride, o, words)
                elif steps == 5:
                    _full_5(x, x_stride, i, panel, target, out_stride, o, words)
                else:
                    _full_6(x, x_stride, i, panel, target, out_stride, o, words)
                p += _ROWS
            if p < stop:
                i, o = ins + 4 * p, outs + 4 * p
                if steps == 1:
                    _half_1(x, x_stride, i, panel, target, out_stride, o, words)
                elif steps == 2:
                    _half_2(x, x_stride, i, panel, target, out_stride, o, words)
                elif steps == 3:
                    _half_3(x, x_stride, i, panel, target, out_stride, o, words)
                elif steps == 4:
                    _half_4(x, x_stride, i, panel, target, out_stride, o, words)
                elif steps == 5:
                    _half_5(x, x_stride, i, panel, target, out_stride, o, words)
                else:
                    _half_6(x, x_stride, i, panel, target, out_stride, o, words)
        first = stop


@njit(cache=True, nogil=True)
def convolve(counter, num_out, pairs, x, panels, blocks, out):
    """Computes tiles of the convolution until the counter runs out of tiles.

    pairs: `convolve.Pairs`, grouped by 4; x: uint16 `[n, padded]`; panels: those of `pack_panels`
    out:   float32 `[num_out + 1, padded columns]`; the last row takes the sums of padded pairs
    """
    columns, words = out.shape[1], x.shape[1] // 2
    step = 4 * words * columns
    while True:
        tile = take_ticket(counter.ctypes.data)
        start = tile * pairs.tile_rows
        if start >= num_out:
            return
        for i in range(start, min(num_out, start + pairs.tile_rows)):
            for c in range(columns):
                out[i, c] = 0
        for k in range(pairs.volume):
            first, last = pairs.starts[tile * pairs.volume + k], pairs.starts[tile * pairs.volume + k + 1]
            if first < last:
                _group(
                    x.ctypes.data, 4 * words, pairs.ins.ctypes.data, pairs.outs.ctypes.data, first, last,
                    panels.ctypes.data + k * step, blocks, out.ctypes.data, 4 * columns, words,
                )  # fmt: skip


@njit(cache=True, nogil=True)
def _fetch_rows(rows, first, last, base, stride):
    for p in range(first, last):
        address = base + np.int64(rows[p]) * stride
        for offset in range(0, stride, 64):
            prefetch_address(address + offset)


@njit(cache=True, nogil=True)
def sum_outer_products(counter, tasks, x_rows, g_rows, x, g, blocks, partial):
    """Computes `partial[t] = sum of x[x_rows[p]]^T g[g_rows[p]]` over the pairs p of every task t.

    tasks: int64 `[T, 3]` (kernel row, first pair, last pair); x: uint16 `[n, rows]`; g: uint16 `[m, columns]`
    blocks: those of the columns; partial: float32 `[T, rows, columns]`
    """
    rows, columns = partial.shape[1], partial.shape[2]
    chunk = max(_FEWEST_PAIRS, 2 * _CACHED_WORDS // (rows + columns) * 2)
    # The gathered rows are copied side by side, two to a row of words.
    left, right = np.zeros((chunk // 2, rows), np.uint32), np.zeros((chunk // 2, columns), np.uint32)
    none = np.zeros(max(rows, columns), np.uint16)
    xs, gs, x_stride, g_stride = x.ctypes.data, g.ctypes.data, 2 * rows, 2 * columns
    while True:
        t = take_ticket(counter.ctypes.data)
        if t >= tasks.shape[0]:
            return
        sums = partial[t]
        sums[:] = 0
        first, last = tasks[t, 1], tasks[t, 2]
        while first < last:
            count = min(chunk, last - first)
            for p in range(0, count, 2):
                low = first + p
                x_low, g_low = xs + np.int64(x_rows[low]) * x_stride, gs + np.int64(g_rows[low]) * g_stride
                x_high, g_high = none.ctypes.data, none.ctypes.data
                if p + 1 < count:
                    x_high = xs + np.int64(x_rows[low + 1]) * x_stride
                    g_high = gs + np.int64(g_rows[low + 1]) * g_stride
                _interleave(x_low, x_high, left.ctypes.data + 2 * p * rows, rows // STEP)
                _interleave(g_low, g_high, right.ctypes.data + 2 * p * columns, columns // STEP)
            turns = (count + 1) // 2
            following = first + count
            share = (chunk * _ROWS + rows - 1) // rows
            for block in range(blocks.shape[0]):
                column, steps = blocks[block, 0], blocks[block, 1]
                ys = right.ctypes.data + 4 * column
                for row in range(0, rows, _ROWS):
                    source, target = left.ctypes.data + 4 * row, sums.ctypes.data + 4 * (row * columns + column)
                    if steps == 1:
                        _outer_1(source, 4 * rows, ys, 4 * columns, target, 4 * columns, turns)
                    elif steps == 2:
                        _outer_2(source, 4 * rows, ys, 4 * columns, target, 4 * columns, turns)
                    elif steps == 3:
                        _outer_3(source, 4 * rows, ys, 4 * columns, target, 4 * columns, turns)
                    elif steps == 4:
                        _outer_4(source, 4 * rows, ys, 4 * columns, target, 4 * columns, turns)
                    elif steps == 5:
                        _outer_5(source, 4 * rows, ys, 4 * columns, target, 4 * columns, turns)
                    else:
                        _outer_6(source, 4 * rows, ys, 4 * columns, target, 4 * columns, turns)
                    if block == 0:
                        stop = min(following + share, last)
                        _fetch_rows(x_rows, following, stop, xs, x_stride)
                        _fetch_rows(g_rows, following, stop, gs, g_stride)
                        following = stop
            first += count
