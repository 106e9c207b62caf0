"""Vector code for features and weights of 16 or 8 bits, as LLVM IR: what the loops of `convolve_words` are made of.

Two or four channels share a word of 32 bits. Products are summed in int32 over one call, and added to float32 sums at
its end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from spvnas_ros.kernels.cpu.shape import WordShape


@dataclass(frozen=True)
class Integers:
    """Unsigned features and signed weights of so many bits.

    top, weight_top: the largest feature, and the largest weight of either sign
    """

    bits: int
    top: int
    weight_top: int

    @property
    def per_word(self) -> int:
        """How many channels share a word of 32 bits."""
        return 32 // self.bits


HALVES = Integers(16, top=32767, weight_top=32767)
"""15 bits of a feature, because the multiplication of 16 bits is signed on both sides."""
BYTES = Integers(8, top=255, weight_top=127)
FAR = 4
"""A byte may be cut off at its range. What is beyond so many ranges is no rounding but another input."""

_FLOAT, _I8, _I16, _I32, _I64 = ir.FloatType(), *(ir.IntType(bits) for bits in (8, 16, 32, 64))
_EIGHT, _CHAINS = 8, 4


def multiplier(shape: WordShape, rows: int) -> Callable[..., Any]:
    """Returns a numba intrinsic that multiplies gathered rows of words with a panel of a kernel.

    The intrinsic is `f(eighths, x, x_stride, in_rows, panel, sums, sums_stride, out_rows, words, kind)`, int64 but for
    the last: numbers, addresses and byte strides. For r in range(rows) it adds `x[in_rows[r], :n * words] @ panel` to
    the float32 `sums[out_rows[r], :8 * eighths]`, n channels a word. The product is exact where no int32 overflows.

    eighths: 1..shape.eighths; words: at least one; kind: the dtype of x
    panel: int16 `[words, 8 * eighths, 2]` or int8 `[words, 8 * eighths, 4]`, contiguous
    x: uint16 of at most `HALVES.top`, or uint8 where the shape is fused
    """

    @intrinsic
    def multiply(context, eighths, x, x_stride, in_rows, panel, sums, sums_stride, out_rows, words, kind):
        def generate(context, b, signature, args):
            def block(number):
                _multiply_block(b, shape, kind.dtype.bitwidth, rows, shape.vectors(number), *args[1:-1])

            _choose(b, args[0], shape.eighths, block)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 9, kind), generate

    return multiply


def mixer(shape: WordShape, rows: int) -> Callable[..., Any]:
    """Returns a numba intrinsic that adds weighted sums of eight rows of features to float32 sums.

    The intrinsic is `f(eighths, weights, x, offsets, sums, sums_stride, kind)`, int64 but for the dtype of x. For r in
    range(rows) it adds `weights[r] @ rows` to `sums[r, :8 * eighths]`.

    weights: float32 `[rows, 8]`; offsets: int64 `[8]`, bytes from the address x to each of the eight rows
    """

    @intrinsic
    def mix(context, eighths, weights, x, offsets, sums, sums_stride, kind):
        def generate(context, b, signature, args):
            def block(number):
                _mix_block(b, kind.dtype.bitwidth, rows, shape.vectors(number), *args[1:-1])

            _choose(b, args[0], shape.eighths, block)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 6, kind), generate

    return mix


@intrinsic
def weigh_corners(context, cells, mask, unit, there, weights, count):
    """Computes the trilinear weights of the eight corners of a coarse cell for `count` points in it, at least one.

    All but `unit` are int64, addresses or numbers. Corners that are not there weigh 0, the others 1 together.

    cells: int32 `[count, 3]`; `cell & mask`, times the float32 `unit`, is the place between the corners
    there: float32 `[8]`, 1 or 0; weights: float32 `[count, 8]`, corner by corner: x changes last, z first
    """
    eight = ir.VectorType(_FLOAT, _EIGHT)

    def generate(context, b, signature, args):
        cells, mask, unit, there, weights, count = args
        present, inside = b.load(_at(b, there, 0, eight), align=4), b.trunc(mask, _I32)
        loop = _Loop(b, [])
        cell, weight = b.add(cells, _times(b, loop.index, 12)), present
        for axis, bit in enumerate((4, 2, 1)):
            place = b.and_(b.load(_at(b, cell, 4 * axis, _I32), align=4), inside)
            fraction = _spread(b, b.fmul(b.sitofp(place, _FLOAT), unit), _EIGHT)
            starts = ir.Constant(eight, [float(not corner & bit) for corner in range(_EIGHT)])
            slopes = ir.Constant(eight, [1.0 if corner & bit else -1.0 for corner in range(_EIGHT)])
            weight = b.fmul(weight, _add_product(b, fraction, slopes, starts))
        total = weight
        for distance in (4, 2, 1):
            turned = ir.Constant(ir.VectorType(_I32, _EIGHT), [lane ^ distance for lane in range(_EIGHT)])
            total = b.fadd(total, b.shuffle_vector(total, total, turned))
        total = b.fadd(total, _splat(1e-8, _FLOAT, _EIGHT))
        b.store(b.fdiv(weight, total), _at(b, weights, _times(b, loop.index, 4 * _EIGHT), eight), align=4)
        loop.end([], count)
        return context.get_dummy_value()

    integers = [types.int64] * 3
    return types.void(types.int64, types.int64, types.float32, *integers), generate


def row_summer(shape: WordShape) -> Callable[..., Any]:
    """Returns a numba intrinsic that convolves one output row in float32, whose sums never leave the registers.

    The intrinsic is `f(eighths, x, x_stride, kernel_rows, rows, count, panels, step, panel_stride, channels, sums)`,
    all int64, `channels` a multiple of 4. It computes
    `sums[:8 * eighths] = sum over q < count of x[rows[q], :channels] @ panels[kernel_rows[q]]`.

    kernel_rows: uint8; rows: int32; panels: float32, `step` bytes from one kernel row to the next and `panel_stride`
    from one channel to the next
    """

    @intrinsic
    def sum_row(context, eighths, x, x_stride, kernel_rows, rows, count, panels, step, panel_stride, channels, sums):
        def generate(context, b, signature, args):
            def block(number):
                _sum_row_block(b, shape.vectors(number), *args[1:])

            _choose(b, args[0], shape.eighths, block)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 11), generate

    return sum_row


def finisher(
    shape: WordShape,
    scaled: bool = True,
    relu: bool = True,
    residual: Literal["none", "before", "after"] = "none",
    into: Literal["features", "floats", "sums"] = "features",
) -> Callable[..., Any]:
    """Returns a numba intrinsic that turns the float32 sums of rows into features.

    The intrinsic is `f(sums, scale, bias, residual, ratio, out, eighths, clipped, rows, kind)`: int64 addresses and
    numbers, and the dtype of `out` and `residual`. Rows, at least one, have `8 * eighths` columns and lie close
    together. It computes `relu(sums * scale + bias)`.

    scaled:   without it, sums are taken as they are
    residual: whether `ratio * residual` is added, before or after the ReLU; ratio: float32, one a column
    into:     features: rounded into `out`, at most the top; what is rounded must not be negative
              floats: into `out`, float32; sums: float32 in the place of the sums
    clipped:  int32 `[2, 16]`; row 0 counts the values that no feature could hold: those above the top, of bytes those
              above `FAR` times the top, and those that are no numbers; row 1 counts, of bytes, all above the top
    """

    @intrinsic
    def finish(context, sums, scale, bias, residual_, ratio, out, eighths, clipped, rows, kind):
        def generate(context, b, signature, args):
            _finish_rows(b, shape, kind.dtype.bitwidth, scaled, relu, residual, into, *args[:-1])
            return context.get_dummy_value()

        return types.void(*[types.int64] * 9, kind), generate

    return finish


def _choose(b: ir.IRBuilder, number: ir.Value, most: int, block: Callable[[int], None]) -> None:
    """Writes a block for every number in 1..most, and the choice between them."""
    done = b.append_basic_block("done")
    choice = b.switch(number, done)
    for each in range(1, most + 1):
        case = b.append_basic_block(f"case_{each}")
        choice.add_case(ir.Constant(_I64, each), case)
        b.position_at_end(case)
        block(each)
        b.branch(done)
    b.position_at_end(done)


class _Loop:
    """A loop over 0, 1, ..., that carries values from one turn to the next.

    Its body is written between `_Loop(...)` and `end`. It runs at least once.
    """

    def __init__(self, b: ir.IRBuilder, start: Sequence[ir.Value]) -> None:
        self._b, before = b, b.block
        self._block = b.append_basic_block("loop")
        b.branch(self._block)
        b.position_at_end(self._block)
        self.index = b.phi(_I64)
        self.index.add_incoming(ir.Constant(_I64, 0), before)
        self.values = []
        for value in start:
            self.values.append(b.phi(value.type))
            self.values[-1].add_incoming(value, before)

    def end(self, values: Sequence[ir.Value], count: ir.Value) -> None:
        """Ends the body: carries `values` on, and leaves after `count` turns."""
        b = self._b
        following = b.add(self.index, ir.Constant(_I64, 1))
        self.index.add_incoming(following, b.block)
        for phi, value in zip(self.values, values, strict=True):
            phi.add_incoming(value, b.block)
        after = b.append_basic_block("after")
        b.cbranch(b.icmp_signed("<", following, count), self._block, after)
        b.position_at_end(after)


def _at(b: ir.IRBuilder, address: ir.Value, offset: int | ir.Value, kind: ir.Type) -> ir.Value:
    """Returns the pointer to a `kind` that lies `offset` bytes behind an address."""
    shift = ir.Constant(_I64, offset) if isinstance(offset, int) else offset
    return b.inttoptr(b.add(address, shift), kind.as_pointer())


def _times(b: ir.IRBuilder, value: ir.Value, factor: int) -> ir.Value:
    return b.mul(value, ir.Constant(_I64, factor))


def _splat(value: float, kind: ir.Type, lanes: int) -> ir.Value:
    return ir.Constant(ir.VectorType(kind, lanes), [value] * lanes)


def _spread(b: ir.IRBuilder, value: ir.Value, lanes: int) -> ir.Value:
    """Returns a vector that holds a value in every lane."""
    undefined = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
    first = b.insert_element(undefined, value, ir.Constant(_I32, 0))
    return b.shuffle_vector(first, undefined, _splat(0, _I32, lanes))


def _call(b: ir.IRBuilder, name: str, result: ir.Type, *args: ir.Value) -> ir.Value:
    kind = ir.FunctionType(result, [arg.type for arg in args])
    return b.call(cgutils.get_or_insert_function(b.module, kind, name), args)


def _add_product(b: ir.IRBuilder, a: ir.Value, c: ir.Value, sums: ir.Value) -> ir.Value:
    return _call(b, f"llvm.fmuladd.v{sums.type.count}f32", sums.type, a, c, sums)


def _add_dots(b: ir.IRBuilder, fused: bool, bits: int, sums: ir.Value, words: ir.Value, panel: ir.Value) -> ir.Value:
    """Returns int32 sums plus, lane by lane, the products of the integers of a word of each side."""
    lanes = sums.type.count
    if bits == BYTES.bits:
        if not fused:
            # Two instructions would go by way of int16, which saturates.
            raise ValueError("no exact product of bytes on this machine")
        fours = ir.VectorType(_I8, 4 * lanes)
        name = f"llvm.x86.avx512.vpdpbusd.{32 * lanes}"
        return _call(b, name, sums.type, sums, b.bitcast(words, fours), b.bitcast(panel, fours))
    pairs = ir.VectorType(_I16, 2 * lanes)
    words, panel = b.bitcast(words, pairs), b.bitcast(panel, pairs)
    if fused:
        return _call(b, f"llvm.x86.avx512.vpdpwssd.{32 * lanes}", sums.type, sums, words, panel)
    name = "llvm.x86.avx512.pmaddw.d.512" if lanes == 16 else "llvm.x86.avx2.pmadd.wd"
    return b.add(sums, _call(b, name, sums.type, words, panel))


def _offsets(vectors: Sequence[int]) -> list[int]:
    """Returns where each vector begins, in lanes."""
    return [sum(vectors[:number]) for number in range(len(vectors))]


def _multiply_block(b, shape, bits, rows, vectors, x, x_stride, in_rows, panel, sums, sums_stride, out_rows, words):
    def row(base, stride, indices, number):
        index = b.sext(b.load(_at(b, indices, 4 * number, _I32), align=4), _I64)
        return b.add(base, b.mul(index, stride))

    inputs = [row(x, x_stride, in_rows, r) for r in range(rows)]
    outputs = [row(sums, sums_stride, out_rows, r) for r in range(rows)]
    width, starts = sum(vectors), _offsets(vectors)
    loop = _Loop(b, [_splat(0, _I32, lanes) for _ in range(rows) for lanes in vectors])
    line = b.add(panel, _times(b, loop.index, 4 * width))
    columns = [
        b.load(_at(b, line, 4 * start, ir.VectorType(_I32, lanes)), align=4)
        for start, lanes in zip(starts, vectors, strict=True)
    ]
    totals = []
    for r in range(rows):
        word = b.load(_at(b, inputs[r], _times(b, loop.index, 4), _I32), align=4)
        spread = {lanes: _spread(b, word, lanes) for lanes in vectors}
        for v, lanes in enumerate(vectors):
            totals.append(_add_dots(b, shape.fused, bits, loop.values[r * len(vectors) + v], spread[lanes], columns[v]))
    loop.end(totals, words)
    for r in range(rows):
        for v, lanes in enumerate(vectors):
            kind = ir.VectorType(_FLOAT, lanes)
            place = _at(b, outputs[r], 4 * starts[v], kind)
            total = b.sitofp(totals[r * len(vectors) + v], kind)
            b.store(b.fadd(b.load(place, align=4), total), place, align=4)


def _mix_block(b, bits, rows, vectors, weights, x, offsets, sums, sums_stride):
    starts = _offsets(vectors)
    places = [
        _at(b, b.add(sums, _times(b, sums_stride, r)), 4 * start, ir.VectorType(_FLOAT, lanes))
        for r in range(rows)
        for start, lanes in zip(starts, vectors, strict=True)
    ]
    loop = _Loop(b, [b.load(place, align=4) for place in places])
    row = b.add(x, b.load(_at(b, offsets, _times(b, loop.index, 8), _I64), align=8))
    columns = []
    for start, lanes in zip(starts, vectors, strict=True):
        stored = b.load(_at(b, row, bits // 8 * start, ir.VectorType(ir.IntType(bits), lanes)), align=bits // 8)
        columns.append(b.sitofp(b.zext(stored, ir.VectorType(_I32, lanes)), ir.VectorType(_FLOAT, lanes)))
    totals = []
    for r in range(rows):
        weight = b.load(_at(b, weights, b.add(_times(b, loop.index, 4), ir.Constant(_I64, 32 * r)), _FLOAT), align=4)
        for v, lanes in enumerate(vectors):
            before = loop.values[r * len(vectors) + v]
            totals.append(_add_product(b, _spread(b, weight, lanes), columns[v], before))
    loop.end(totals, ir.Constant(_I64, 8))
    for place, total in zip(places, totals, strict=True):
        b.store(total, place, align=4)


def _sum_row_block(b, vectors, x, x_stride, kernel_rows, rows, count, panels, step, panel_stride, channels, sums):
    starts = _offsets(vectors)
    # Each of four channels has sums of its own: one chain of sums would wait for its own results.
    outer = _Loop(b, [_splat(0.0, _FLOAT, lanes) for _ in range(_CHAINS) for lanes in vectors])
    kernel_row = b.zext(b.load(_at(b, kernel_rows, outer.index, ir.IntType(8)), align=1), _I64)
    index = b.sext(b.load(_at(b, rows, _times(b, outer.index, 4), _I32), align=4), _I64)
    row, panel = b.add(x, b.mul(index, x_stride)), b.add(panels, b.mul(kernel_row, step))
    inner = _Loop(b, outer.values)
    totals = []
    for chain in range(_CHAINS):
        channel = b.add(_times(b, inner.index, _CHAINS), ir.Constant(_I64, chain))
        value = b.load(_at(b, row, _times(b, channel, 4), _FLOAT), align=4)
        line = b.add(panel, b.mul(channel, panel_stride))
        for v, lanes in enumerate(vectors):
            column = b.load(_at(b, line, 4 * starts[v], ir.VectorType(_FLOAT, lanes)), align=4)
            before = inner.values[chain * len(vectors) + v]
            totals.append(_add_product(b, _spread(b, value, lanes), column, before))
    inner.end(totals, b.sdiv(channels, ir.Constant(_I64, _CHAINS)))
    outer.end(totals, count)
    for v, start in enumerate(starts):
        first, second, third, fourth = totals[v :: len(vectors)]
        total = b.fadd(b.fadd(first, second), b.fadd(third, fourth))
        b.store(total, _at(b, sums, 4 * start, total.type), align=4)


def _finish_rows(
    b, shape, bits, scaled, relu, residual, into, sums, scale, bias, others, ratio, out, eighths, clipped, rows
):
    """Writes, for every row, whole registers in a loop, and then the eight columns that may be left."""

    item = bits // 8
    top, hardest = (BYTES.top, FAR * BYTES.top) if bits == BYTES.bits else (HALVES.top, HALVES.top)

    def columns(lanes, first):
        floats, ints, narrows = (ir.VectorType(kind, lanes) for kind in (_FLOAT, _I32, ir.IntType(bits)))
        wide, narrow = _times(b, first, 4), _times(b, first, item)
        place = _at(b, sums, wide, floats)
        value = b.load(place, align=4)
        if scaled:
            factors, shifts = (b.load(_at(b, each, wide, floats), align=4) for each in (scale, bias))
            value = _add_product(b, value, factors, shifts)
        if residual != "none":
            there = b.load(_at(b, others, narrow, narrows), align=item)
            other = b.fmul(b.sitofp(b.zext(there, ints), floats), b.load(_at(b, ratio, wide, floats), align=4))
        if residual == "before":
            value = b.fadd(value, other)
        if relu:
            # What is no number stays none, to be counted below.
            zero = _splat(0.0, _FLOAT, lanes)
            value = b.select(b.fcmp_ordered("<", value, zero), zero, value)
        if residual == "after":
            value = b.fadd(value, other)
        if into != "features":
            b.store(value, place if into == "sums" else _at(b, out, wide, floats), align=4)
            return
        value = b.fadd(value, _splat(0.5, _FLOAT, lanes))
        for limit in limits:
            fits = b.fcmp_ordered("<", value, _splat(limit, _FLOAT, lanes))
            count = counts[limit, lanes]
            b.store(b.add(b.load(count), b.zext(b.not_(fits), ints)), count)
        most = _splat(top + 0.5, _FLOAT, lanes)
        value = b.select(b.fcmp_ordered("<", value, most), value, most)
        b.store(b.trunc(b.fptosi(value, ints), narrows), _at(b, out, narrow, narrows), align=item)

    limits = [hardest + 1.0, top + 1.0][: 1 if hardest == top else 2]
    # The compiler keeps these in registers.
    counts = {
        (limit, lanes): cgutils.alloca_once_value(b, _splat(0, _I32, lanes))
        for limit in limits
        for lanes in sorted({shape.lanes, _EIGHT})
    }
    for count in counts.values():
        b.store(ir.Constant(count.type.pointee, [0] * count.type.pointee.count), count)
    every = _Loop(b, [sums, others, out])
    sums, others, out = every.values
    per_register = shape.lanes // _EIGHT
    registers = b.sdiv(eighths, ir.Constant(_I64, per_register))
    with b.if_then(b.icmp_signed(">", registers, ir.Constant(_I64, 0))):
        loop = _Loop(b, [])
        columns(shape.lanes, _times(b, loop.index, shape.lanes))
        loop.end([], registers)
    if per_register > 1:
        done = _times(b, registers, per_register)
        with b.if_then(b.icmp_signed("<", done, eighths)):
            columns(_EIGHT, _times(b, done, _EIGHT))
    wide, narrow = _times(b, eighths, 4 * _EIGHT), _times(b, eighths, item * _EIGHT)
    every.end([b.add(sums, wide), b.add(others, narrow), b.add(out, wide if into == "floats" else narrow)], rows)
    for (limit, lanes), count in counts.items():
        total = _at(b, clipped, 64 * limits.index(limit), ir.VectorType(_I32, lanes))
        b.store(b.add(b.load(total, align=4), b.load(count)), total, align=4)
