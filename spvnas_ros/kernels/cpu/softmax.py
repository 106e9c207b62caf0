"""The end of a frame: a softmax in vectors turns logits into labels and confidences, and points get their voxel's."""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from spvnas_ros.kernels.cpu.team import take_ticket

_BESIDE = 16
"""Rows that are worked on at a time."""


@intrinsic
def _softmax(context, beside, classes, best, shares):
    """Finds the best class of `_BESIDE` rows that lie side by side, and its probability.

    All arguments are addresses, but for the number of classes. beside: float32 `[classes, _BESIDE]`, in which
    `e**(logit - largest logit)` takes the place of the logits; best: int32 `[_BESIDE]`; shares: float32 `[_BESIDE]`

    Written as vectors, because loops over these arrays are not made vectors: for all the compiler knows, they overlap.
    """
    floats, ints = ir.VectorType(ir.FloatType(), _BESIDE), ir.VectorType(ir.IntType(32), _BESIDE)
    int64 = ir.IntType(64)

    def generate(context, b, signature, args):
        beside, classes, best, shares = args
        entry = b.block
        find, found, total_up, done = (b.append_basic_block(name) for name in ("find", "found", "total", "done"))

        def row(c):
            return b.inttoptr(b.add(beside, b.mul(c, ir.Constant(int64, 4 * _BESIDE))), floats.as_pointer())

        def spread(c):
            single = b.insert_element(ir.Constant(ints, ir.Undefined), b.trunc(c, ir.IntType(32)), ir.IntType(32)(0))
            return b.shuffle_vector(single, ir.Constant(ints, ir.Undefined), ir.Constant(ints, [0] * _BESIDE))

        initial = b.load(row(int64(0)), align=4)
        b.branch(find)
        b.position_at_end(find)
        c, top, at = b.phi(int64), b.phi(floats), b.phi(ints)
        value = b.load(row(c), align=4)
        above = b.fcmp_ordered(">", value, top)
        new_top, new_at, following = b.select(above, value, top), b.select(above, spread(c), at), b.add(c, int64(1))
        for phi, before, after in (
            (c, int64(0), following), (top, initial, new_top), (at, ir.Constant(ints, [0] * _BESIDE), new_at),
        ):  # fmt: skip
            phi.add_incoming(before, entry)
            phi.add_incoming(after, find)
        b.cbranch(b.icmp_signed("<", following, classes), find, found)
        b.position_at_end(found)
        b.store(new_at, b.inttoptr(best, ints.as_pointer()), align=4)
        b.branch(total_up)
        b.position_at_end(total_up)
        c, total = b.phi(int64), b.phi(floats)
        place = row(c)
        power = _exp(b, b.fsub(b.load(place, align=4), new_top))
        b.store(power, place, align=4)
        new_total, following = b.fadd(total, power), b.add(c, int64(1))
        for phi, before, after in ((c, int64(0), following), (total, _constant(0), new_total)):
            phi.add_incoming(before, found)
            phi.add_incoming(after, total_up)
        b.cbranch(b.icmp_signed("<", following, classes), total_up, done)
        b.position_at_end(done)
        b.store(b.fdiv(_constant(1), new_total), b.inttoptr(shares, floats.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), generate


def _constant(value: float) -> ir.Constant:
    number = ir.Constant(ir.FloatType(), float(np.float32(value)))
    return ir.Constant(ir.VectorType(ir.FloatType(), _BESIDE), [number] * _BESIDE)


def _exp(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """Writes e**x for a vector of x <= 0 to float32 precision; below -87 it is e**-87.

    x = n ln 2 + r with |r| <= ln(2) / 2. e**r is its Taylor polynomial (remainder below 2e-8), and 2**n comes from its
    bits.
    """
    floats, ints = ir.VectorType(ir.FloatType(), _BESIDE), ir.VectorType(ir.IntType(32), _BESIDE)
    floor = cgutils.get_or_insert_function(b.module, ir.FunctionType(floats, [floats]), f"llvm.floor.v{_BESIDE}f32")
    x = b.select(b.fcmp_ordered("<", x, _constant(-87)), _constant(-87), x)
    n = b.call(floor, [b.fadd(b.fmul(x, _constant(1.44269504)), _constant(0.5))])
    # ln 2 in two parts (Cody and Waite)
    r = b.fadd(b.fsub(x, b.fmul(n, _constant(0.693359375))), b.fmul(n, _constant(2.12194440e-4)))
    value = _constant(1 / 5040)
    for coefficient in (1 / 720, 1 / 120, 1 / 24, 1 / 6, 0.5, 1, 1):
        value = b.fadd(_constant(coefficient), b.fmul(r, value))
    exponent = b.add(b.fptosi(n, ints), ir.Constant(ints, [127] * _BESIDE))
    return b.fmul(value, b.bitcast(b.shl(exponent, ir.Constant(ints, [23] * _BESIDE)), floats))


@njit(cache=True, nogil=True)
def classify(counter, tile_rows, num_classes, logits, keep, labels, confidence):
    """Stores each row's best class and its probability by the softmax.

    keep: whether the probabilities of all classes take the place of the logits
    """
    num_rows = labels.shape[0]
    beside = np.zeros((num_classes, _BESIDE), np.float32)
    best, shares = np.empty(_BESIDE, np.int32), np.empty(_BESIDE, np.float32)
    while True:
        start = take_ticket(counter.ctypes.data) * tile_rows
        if start >= num_rows:
            return
        stop = min(num_rows, start + tile_rows)
        for first in range(start, stop, _BESIDE):
            count = min(_BESIDE, stop - first)
            for r in range(count):
                for c in range(num_classes):
                    beside[c, r] = logits[first + r, c]
            _softmax(beside.ctypes.data, num_classes, best.ctypes.data, shares.ctypes.data)
            for r in range(count):
                labels[first + r], confidence[first + r] = best[r], shares[r]
            if keep:
                for r in range(count):
                    for c in range(num_classes):
                        logits[first + r, c] = beside[c, r] * shares[r]


@njit(cache=True, nogil=True)
def label_points(counter, tile_rows, inverse, labels, confidence, point_labels, point_confidence):
    """Stores for every point what its voxel has. inverse: int32 `[N]`, the voxel of each point"""
    while True:
        start = take_ticket(counter.ctypes.data) * tile_rows
        if start >= inverse.shape[0]:
            return
        for i in range(np.uint64(start), np.uint64(min(inverse.shape[0], start + tile_rows))):
            voxel = np.uint64(inverse[i])
            point_labels[i], point_confidence[i] = labels[voxel], confidence[voxel]
