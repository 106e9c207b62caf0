"""Triton kernels for the weight gradient of a sparse convolution.

Sums are float32, and their order never changes.
"""
# No `from __future__ import annotations` here: Triton's interpreter needs the annotations as objects.

import triton
import triton.language as tl


@triton.jit
def sum_outer_products(
    feats, grad, in_rows, out_rows, tasks, partial, in_stride, grad_stride, in_width, out_width,
    PAIRS: tl.constexpr, INPUTS: tl.constexpr, OUTPUTS: tl.constexpr,
):  # fmt: skip
    """Computes a block `[INPUTS, OUTPUTS]` of `sum of feats[i].T @ grad[o]` over one task's pairs.

    in_rows, out_rows int32 `[P]`; tasks int32 `[T + 1]`: first pair of each; partial float32 `[T, in_width, out_width]`
    """
    task = tl.program_id(0)
    first = tl.load(tasks + task)
    last = tl.load(tasks + task + 1)
    inputs = tl.program_id(1) * INPUTS + tl.arange(0, INPUTS)
    outputs = tl.program_id(2) * OUTPUTS + tl.arange(0, OUTPUTS)
    inside = (inputs < in_width)[None, :]
    outside = (outputs < out_width)[None, :]
    total = tl.zeros([INPUTS, OUTPUTS], tl.float32)
    for j in range((last - first + PAIRS - 1) // PAIRS):
        p = first + j * PAIRS + tl.arange(0, PAIRS)
        live = p < last
        i = tl.load(in_rows + p, mask=live, other=0).to(tl.int64)
        o = tl.load(out_rows + p, mask=live, other=0).to(tl.int64)
        a = tl.load(feats + i[:, None] * in_stride + inputs[None, :], mask=live[:, None] & inside, other=0.0)
        b = tl.load(grad + o[:, None] * grad_stride + outputs[None, :], mask=live[:, None] & outside, other=0.0)
        total = tl.dot(tl.trans(a), b, total, input_precision="ieee")
    row = task.to(tl.int64) * in_width + inputs
    there = (inputs < in_width)[:, None] & outside
    tl.store(partial + row[:, None] * out_width + outputs[None, :], total, mask=there)


@triton.jit
def add_partial(partial, starts, out, size, BLOCK: tl.constexpr):
    """Adds the partial sums of each kernel row's tasks.

    partial float32 `[T, size]`; starts int32 `[K + 1]`: first task of each kernel row; out `[K, size]`
    """
    k = tl.program_id(0)
    e = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    first = tl.load(starts + k)
    last = tl.load(starts + k + 1)
    total = tl.zeros([BLOCK], tl.float32)
    place = partial + first.to(tl.int64) * size + e
    for _ in range(last - first):
        total += tl.load(place, mask=e < size, other=0.0)
        place += size
    tl.store(out + k.to(tl.int64) * size + e, total.to(out.dtype.element_ty), mask=e < size)
