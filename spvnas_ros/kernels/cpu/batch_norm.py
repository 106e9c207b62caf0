"""BatchNorm over rows with the ReLU behind it and a residual before that, in two passes either way, compiled.

Sums over rows are in float64, always in the same order. Formulas: Ioffe and Szegedy, "Batch Normalization", ICML 2015.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from spvnas_ros.kernels.cpu.team import take_ticket

TILE_ROWS = 256
"""Rows of which a thread sums one column block after the other: they stay in the first-level cache meanwhile."""

_LANES = 8
"""Columns worked on at a time; what is left over goes column by column."""

_FLOAT, _DOUBLE, _I64 = ir.FloatType(), ir.DoubleType(), ir.IntType(64)


class Rows(NamedTuple):
    """A matrix of float32 rows as compiled code finds it.

    address: of the first value; stride: bytes from row to row, 0 = there is no such matrix
    """

    address: Any
    stride: Any


class _Block:
    """Emits what is done to `lanes` columns of one row after the other."""

    def __init__(self, builder: Any, lanes: int) -> None:
        self.b, self.lanes = builder, lanes
        self.narrow, self.wide = ir.VectorType(_FLOAT, lanes), ir.VectorType(_DOUBLE, lanes)
        self.zero = ir.Constant(self.narrow, None)

    def load(self, address: Any, kind: Any = None) -> Any:
        kind = self.narrow if kind is None else kind
        return self.b.load(self.b.inttoptr(address, kind.as_pointer()), align=4)

    def store(self, value: Any, address: Any) -> None:
        self.b.store(value, self.b.inttoptr(address, value.type.as_pointer()), align=4)

    def fused(self, a: Any, x: Any, y: Any) -> Any:
        """Emits a * x + y, always alike, so that a mask that is computed again is the same."""
        name = f"llvm.fmuladd.v{self.lanes}{'f32' if a.type == self.narrow else 'f64'}"
        function = cgutils.get_or_insert_function(self.b.module, ir.FunctionType(a.type, [a.type] * 3), name)
        return self.b.call(function, [a, x, y])

    def positive(self, value: Any, otherwise: Any) -> Any:
        """Emits `otherwise` where the value is above zero, else 0. What is no number passes, as in torch's ReLU."""
        return self.b.select(self.b.fcmp_ordered("<=", value, self.zero), self.zero, otherwise)

    def rows(self, count: Any, places: list[tuple[Any, Any]], sums: list[Any], body: Callable[..., list[Any]]) -> Any:
        """Emits a loop over rows: `body(addresses, sums)` returns the sums behind the row. Returns those at the end.

        places: address and stride of each matrix; sums: their values before the first row
        """
        b = self.b
        before, loop, after = b.block, b.append_basic_block("row"), b.append_basic_block("done")
        b.branch(loop)
        b.position_at_end(loop)
        number = b.phi(_I64)
        addresses, totals = [b.phi(_I64) for _ in places], [b.phi(value.type) for value in sums]
        results = body(addresses, totals)
        following = b.add(number, ir.Constant(_I64, 1))
        steps = [b.add(address, stride) for address, (_, stride) in zip(addresses, places, strict=True)]
        firsts = [ir.Constant(_I64, 0), *(address for address, _ in places), *sums]
        for phi, first, then in zip(
            [number, *addresses, *totals], firsts, [following, *steps, *results], strict=True
        ):
            phi.add_incoming(first, before)
            phi.add_incoming(then, loop)
        b.cbranch(b.icmp_signed("<", following, count), loop, after)
        b.position_at_end(after)
        return results


def _offset(b: Any, address: Any, values: int, lanes: int, item: int) -> Any:
    return b.add(address, ir.Constant(_I64, values * lanes * item))


def _moments_of(lanes: int) -> Callable[..., Any]:
    """Returns the intrinsic `f(x, stride, count, sums, squares)`, all int64.

    It stores the sum and the sum of squares of `lanes` columns of `count` rows, float64, at two addresses.
    """

    @intrinsic
    def kernel(context, x, stride, count, sums, squares):
        def generate(context, b, signature, args):
            x, stride, count, sums, squares = args
            block = _Block(b, lanes)
            none = ir.Constant(block.wide, None)

            def add(addresses, totals):
                value = b.fpext(block.load(addresses[0]), block.wide)
                return [b.fadd(totals[0], value), block.fused(value, value, totals[1])]

            total, square = block.rows(count, [(x, stride)], [none, none], add)
            block.store(total, sums)
            block.store(square, squares)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 5), generate

    return kernel


def _apply_of(lanes: int, relu: bool, residual: bool) -> Callable[..., Any]:
    """Returns the intrinsic `f(x, x_stride, r, r_stride, out, out_stride, count, scale, shift)`, all int64.

    It stores `act(x * scale + shift + r)` of `lanes` columns.
    """

    @intrinsic
    def kernel(context, x, x_stride, r, r_stride, out, out_stride, count, scale, shift):
        def generate(context, b, signature, args):
            x, x_stride, r, r_stride, out, out_stride, count, scale, shift = args
            block = _Block(b, lanes)
            scales, shifts = block.load(scale), block.load(shift)

            def store(addresses, totals):
                value = block.fused(block.load(addresses[0]), scales, shifts)
                value = b.fadd(value, block.load(addresses[1])) if residual else value
                block.store(block.positive(value, value) if relu else value, addresses[2])
                return totals

            block.rows(count, [(x, x_stride), (r, r_stride), (out, out_stride)], [], store)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 9), generate

    return kernel


def _gradient(b, block, relu, residual, addresses, coefficients):
    """Emits the gradient before the ReLU of one row, and the row's distance from the mean.

    addresses: of x, the gradient, and the result; with a residual the result tells what passed the ReLU, without one
    it is computed again
    """
    scales, shifts, means = coefficients
    value, grad = block.load(addresses[0]), block.load(addresses[1])
    if relu:
        result = block.load(addresses[2]) if residual else block.fused(value, scales, shifts)
        grad = block.positive(result, grad)
    return grad, b.fsub(value, means)


def _sums_of(lanes: int, relu: bool, residual: bool) -> Callable[..., Any]:
    """Returns the intrinsic that sums what the input's gradient needs, all arguments int64.

    It is `f(x, x_stride, g, g_stride, y, y_stride, passed, p_stride, count, scale, shift, mean, sums, products)`, and
    stores the sums of the gradients before the ReLU, and of their products with the distance from the mean, float64.
    With a residual it stores these gradients at `passed`, too.
    """

    @intrinsic
    def kernel(context, x, x_s, g, g_s, y, y_s, passed, p_s, count, scale, shift, mean, sums, products):
        def generate(context, b, signature, args):
            x, x_s, g, g_s, y, y_s, passed, p_s, count, scale, shift, mean, sums, products = args
            block = _Block(b, lanes)
            none = ir.Constant(block.wide, None)
            coefficients = [block.load(each) for each in (scale, shift, mean)]

            def add(addresses, totals):
                grad, distance = _gradient(b, block, relu, residual, addresses, coefficients)
                if relu and residual:
                    block.store(grad, addresses[3])
                grad, distance = b.fpext(grad, block.wide), b.fpext(distance, block.wide)
                return [b.fadd(totals[0], grad), block.fused(grad, distance, totals[1])]

            total, product = block.rows(count, [(x, x_s), (g, g_s), (y, y_s), (passed, p_s)], [none, none], add)
            block.store(total, sums)
            block.store(product, products)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 14), generate

    return kernel


def _inputs_of(lanes: int, relu: bool) -> Callable[..., Any]:
    """Returns the intrinsic of the input's gradient, all arguments int64.

    It is `f(x, x_stride, g, g_stride, out, out_stride, count, scale, shift, mean, slope, level)`, and stores
    `scale * gradient + slope * (x - mean) + level`. With `relu`, g is the gradient behind a ReLU without residual.
    """

    @intrinsic
    def kernel(context, x, x_s, g, g_s, out, out_s, count, scale, shift, mean, slope, level):
        def generate(context, b, signature, args):
            x, x_s, g, g_s, out, out_s, count, scale, shift, mean, slope, level = args
            block = _Block(b, lanes)
            coefficients = [block.load(each) for each in (scale, shift, mean)]
            slopes, levels = block.load(slope), block.load(level)

            def store(addresses, totals):
                grad, distance = _gradient(b, block, relu, False, addresses, coefficients)
                block.store(
                    block.fused(coefficients[0], grad, block.fused(slopes, distance, levels)), addresses[2]
                )
                return totals

            block.rows(count, [(x, x_s), (g, g_s), (out, out_s)], [], store)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 12), generate

    return kernel


_moments_8, _moments_1 = _moments_of(_LANES), _moments_of(1)
_plain_8, _plain_1 = _apply_of(_LANES, False, False), _apply_of(1, False, False)
_relu_8, _relu_1 = _apply_of(_LANES, True, False), _apply_of(1, True, False)
_residual_8, _residual_1 = _apply_of(_LANES, True, True), _apply_of(1, True, True)
_plain_sums_8, _plain_sums_1 = _sums_of(_LANES, False, False), _sums_of(1, False, False)
_relu_sums_8, _relu_sums_1 = _sums_of(_LANES, True, False), _sums_of(1, True, False)
_residual_sums_8, _residual_sums_1 = _sums_of(_LANES, True, True), _sums_of(1, True, True)
_plain_inputs_8, _plain_inputs_1 = _inputs_of(_LANES, False), _inputs_of(1, False)
_relu_inputs_8, _relu_inputs_1 = _inputs_of(_LANES, True), _inputs_of(1, True)


@njit(cache=True, nogil=True)
def sum_moments(counter, num, x, partial):
    """Computes the sums and the sums of squares of every column over each tile of rows.

    x: `Rows` of `num` rows; partial: float64 `[tiles, 2, columns]`
    """
    columns = partial.shape[2]
    while True:
        tile = take_ticket(counter.ctypes.data)
        start = tile * TILE_ROWS
        if start >= num:
            return
        count, first = min(TILE_ROWS, num - start), x.address + start * x.stride
        sums, squares = partial[tile, 0].ctypes.data, partial[tile, 1].ctypes.data
        c = 0
        while c + _LANES <= columns:
            _moments_8(first + 4 * c, x.stride, count, sums + 8 * c, squares + 8 * c)
            c += _LANES
        while c < columns:
            _moments_1(first + 4 * c, x.stride, count, sums + 8 * c, squares + 8 * c)
            c += 1


@njit(cache=True, nogil=True)
def apply_norm(counter, num, x, residual, relu, coefficients, out):
    """Computes tiles of `act(x * scale + shift + residual)`, where a residual always has a ReLU behind it.

    x, residual, out: `Rows`; coefficients: float32 `[2, columns]`, scale and shift
    """
    columns = coefficients.shape[1]
    scale, shift = coefficients[0].ctypes.data, coefficients[1].ctypes.data
    while True:
        start = take_ticket(counter.ctypes.data) * TILE_ROWS
        if start >= num:
            return
        count = min(TILE_ROWS, num - start)
        xs, rs, os = x.address + start * x.stride, residual.address + start * residual.stride, 0
        os = out.address + start * out.stride
        c = 0
        while c < columns:
            at = 4 * c
            wide = c + _LANES <= columns
            if residual.stride > 0:
                if wide:
                    _residual_8(
                        xs + at, x.stride, rs + at, residual.stride, os + at, out.stride, count, scale + at, shift + at
                    )
                else:
                    _residual_1(
                        xs + at, x.stride, rs + at, residual.stride, os + at, out.stride, count, scale + at, shift + at
                    )
            elif relu:
                if wide:
                    _relu_8(xs + at, x.stride, 0, 0, os + at, out.stride, count, scale + at, shift + at)
                else:
                    _relu_1(xs + at, x.stride, 0, 0, os + at, out.stride, count, scale + at, shift + at)
            elif wide:
                _plain_8(xs + at, x.stride, 0, 0, os + at, out.stride, count, scale + at, shift + at)
            else:
                _plain_1(xs + at, x.stride, 0, 0, os + at, out.stride, count, scale + at, shift + at)
            c += _LANES if wide else 1


@njit(cache=True, nogil=True)
def sum_gradients(counter, num, x, grad, result, passed, relu, coefficients, partial):
    """Sums, over each tile of rows, the gradients before the ReLU and their products with the distance from the mean.

    result: `Rows` of what came out, where there was a residual; then the gradients before the ReLU go to `passed`
    coefficients: float32 `[3, columns]`, scale, shift and mean; partial: float64 `[tiles, 2, columns]`
    """
    columns = partial.shape[2]
    scale, shift, mean = coefficients[0].ctypes.data, coefficients[1].ctypes.data, coefficients[2].ctypes.data
    while True:
        tile = take_ticket(counter.ctypes.data)
        start = tile * TILE_ROWS
        if start >= num:
            return
        count = min(TILE_ROWS, num - start)
        xs, gs = x.address + start * x.stride, grad.address + start * grad.stride
        ys, ps = result.address + start * result.stride, passed.address + start * passed.stride
        c = 0
        while c < columns:
            at = 4 * c
            wide = c + _LANES <= columns
            sums, products = partial[tile, 0].ctypes.data + 8 * c, partial[tile, 1].ctypes.data + 8 * c
            if result.stride > 0:
                if wide:
                    _residual_sums_8(
                        xs + at, x.stride, gs + at, grad.stride, ys + at, result.stride, ps + at, passed.stride,
                        count, scale + at, shift + at, mean + at, sums, products,
                    )  # fmt: skip
                else:
                    _residual_sums_1(
                        xs + at, x.stride, gs + at, grad.stride, ys + at, result.stride, ps + at, passed.stride,
                        count, scale + at, shift + at, mean + at, sums, products,
                    )  # fmt: skip
            elif relu:
                if wide:
                    _relu_sums_8(
                        xs + at, x.stride, gs + at, grad.stride, 0, 0, 0, 0,
                        count, scale + at, shift + at, mean + at, sums, products,
                    )  # fmt: skip
                else:
                    _relu_sums_1(
                        xs + at, x.stride, gs + at, grad.stride, 0, 0, 0, 0,
                        count, scale + at, shift + at, mean + at, sums, products,
                    )  # fmt: skip
            elif wide:
                _plain_sums_8(
                    xs + at, x.stride, gs + at, grad.stride, 0, 0, 0, 0,
                    count, scale + at, shift + at, mean + at, sums, products,
                )  # fmt: skip
            else:
                _plain_sums_1(
                    xs + at, x.stride, gs + at, grad.stride, 0, 0, 0, 0,
                    count, scale + at, shift + at, mean + at, sums, products,
                )  # fmt: skip
            c += _LANES if wide else 1


@njit(cache=True, nogil=True)
def input_gradients(counter, num, x, grad, relu, coefficients, out):
    """Computes tiles of the input's gradient, `scale * gradient + slope * (x - mean) + level`.

    grad: `Rows` behind the ReLU with `relu`, else before it
    coefficients: float32 `[5, columns]`: scale, shift, mean, slope and level
    """
    columns = coefficients.shape[1]
    first = coefficients.ctypes.data
    while True:
        start = take_ticket(counter.ctypes.data) * TILE_ROWS
        if start >= num:
            return
        count = min(TILE_ROWS, num - start)
        xs, gs, os = x.address + start * x.stride, grad.address + start * grad.stride, out.address + start * out.stride
        c = 0
        while c < columns:
            at = 4 * c
            wide = c + _LANES <= columns
            scale, shift, mean = first + at, first + at + 4 * columns, first + at + 8 * columns
            slope, level = first + at + 12 * columns, first + at + 16 * columns
            if relu and wide:
                _relu_inputs_8(
                    xs + at, x.stride, gs + at, grad.stride, os + at, out.stride, count, scale, shift, mean, slope, level
                )
            elif relu:
                _relu_inputs_1(
                    xs + at, x.stride, gs + at, grad.stride, os + at, out.stride, count, scale, shift, mean, slope, level
                )
            elif wide:
                _plain_inputs_8(
                    xs + at, x.stride, gs + at, grad.stride, os + at, out.stride, count, scale, shift, mean, slope, level
                )
            else:
                _plain_inputs_1(
                    xs + at, x.stride, gs + at, grad.stride, os + at, out.stride, count, scale, shift, mean, slope, level
                )
            c += _LANES if wide else 1


def tiles_of(num: int) -> int:
    """Returns how many tiles `num` rows are."""
    return -(-num // TILE_ROWS)


def in_order(partial: np.ndarray) -> np.ndarray:
    """Returns the sum of the tiles' sums, float64 `[2, columns]`, always in their order."""
    total: np.ndarray = partial.sum(axis=0)
    return total
