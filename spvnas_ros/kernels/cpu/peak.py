"""The machine's peak, measured: the rate of fused multiply-adds that never leave the registers."""

from __future__ import annotations

from time import perf_counter

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from spvnas_ros.kernels.cpu.shape import host_shape
from spvnas_ros.kernels.cpu.team import Team

_SHAPE = host_shape()
_CHAINS = 12
"""Independent sums. They are more than latency times ports of any current core, and they fit 16 registers."""


@intrinsic
def _multiply_add(context, count, seed):
    """Computes `count` rounds of `_CHAINS` vector multiply-adds. Returns a sum, so that nothing is optimised away."""
    signature = types.float32(types.int64, types.float32)

    def generate(context, b, signature, args):
        count, seed = args
        scalar, index = ir.FloatType(), ir.IntType(64)
        vector = ir.VectorType(scalar, _SHAPE.lanes)
        fma = cgutils.get_or_insert_function(
            b.module, ir.FunctionType(vector, [vector] * 3), f"llvm.fmuladd.v{_SHAPE.lanes}f32"
        )
        lanes = ir.Constant(ir.VectorType(ir.IntType(32), _SHAPE.lanes), [0] * _SHAPE.lanes)
        undefined = ir.Constant(vector, ir.Undefined)
        factor = b.shuffle_vector(b.insert_element(undefined, seed, ir.Constant(ir.IntType(32), 0)), undefined, lanes)
        before, loop, after = b.block, b.append_basic_block("round"), b.append_basic_block("done")
        b.branch(loop)
        b.position_at_end(loop)
        number = b.phi(index)
        number.add_incoming(ir.Constant(index, 0), before)
        sums = [b.phi(vector) for _ in range(_CHAINS)]
        results = [b.call(fma, [factor, factor, s]) for s in sums]
        following = b.add(number, ir.Constant(index, 1))
        number.add_incoming(following, loop)
        for i, (s, result) in enumerate(zip(sums, results, strict=True)):
            s.add_incoming(ir.Constant(vector, [float(i)] * _SHAPE.lanes), before)
            s.add_incoming(result, loop)
        b.cbranch(b.icmp_signed("<", following, count), loop, after)
        b.position_at_end(after)
        total = results[0]
        for result in results[1:]:
            total = b.fadd(total, result)
        return b.extract_element(total, ir.Constant(ir.IntType(32), 0))

    return signature, generate


@njit(nogil=True)
def _spin(counter, rounds, seed, out):
    out[0] = _multiply_add(rounds, seed)


def peak_gflops(threads: int, seconds: float = 0.5) -> float:
    """Returns the billions of float32 operations a second that `threads` threads reach together.

    A multiply-add counts as two operations.
    """
    team, out = Team(threads), np.zeros(1, np.float32)
    rounds, elapsed = 1 << 16, 0.0
    _spin(np.zeros(1, np.int64), 1, np.float32(1e-3), out)
    best = 0.0
    stop = perf_counter() + seconds
    while perf_counter() < stop or elapsed < 0.02:
        start = perf_counter()
        team.run(_spin, rounds, np.float32(1e-3), out)
        elapsed = perf_counter() - start
        best = max(best, 2.0 * _CHAINS * _SHAPE.lanes * rounds * threads / elapsed / 1e9)
        if elapsed < 0.02:
            rounds *= 2
    return best
