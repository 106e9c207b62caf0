"""Sparse convolution for training on CUDA: the kernels of `kernels.cuda` under autograd.

The input gradient of a convolution is a convolution over the exchanged pairs with transposed kernel rows, so it runs
through the same kernel. The weight gradient sums outer products of gathered rows, in shares that are added in order. No
sum therefore depends on the order in which programs run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
import triton
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional

from spvnas_ros.kernels.cuda import feature_kernels, gradient_kernels
from spvnas_ros.kernels.cuda.blocks import DTYPES, TILE_ROWS, capability_of, choose_blocks
from spvnas_ros.kernels.cuda.geometry import RARE_FIRST, Gather
from spvnas_ros.kernels.cuda.launch import run
from spvnas_ros.sparse.kernel_map import KernelMap, Levels, build_levels

_FEWEST_PAIRS = 1024
_MOST_SHARES = 256
"""The weight gradient of a kernel row is summed in shares of `_FEWEST_PAIRS` pairs or more. All rows together have
about `_MOST_SHARES` shares."""

PAIRS = {2: 64, 4: 32}
"""Pairs that a program of the weight gradient gathers at a time, by bytes of a feature. More pairs in float32 spill
registers."""

_SUM_BLOCK = 1024
_LIST_LENGTH = 32
_PRECISIONS = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class Side:
    """The computation of one side of a kernel map from the other side.

    mirrored: kernel row k of the map is row K - 1 - k in `gather`
    size:     int32 `[1]` on the device, and number: rows of the computed side
    """

    gather: Gather
    mirrored: bool
    tile_rows: int
    size: Tensor
    number: int

    def run(self, feats: Tensor, kernel: Tensor, transposed: bool) -> Tensor:
        """Computes `out[o] += feats[i] @ kernel[k]` over the pairs, or with `kernel[k].T` where `transposed`.

        `out` has the type of `feats`.
        """
        kernel = kernel.flip(0) if self.mirrored else kernel
        kernel = kernel.transpose(1, 2) if transposed else kernel
        volume, width, columns = kernel.shape
        out = feats.new_empty((self.number, columns))
        if self.number == 0:
            return out
        blocks = choose_blocks(self.tile_rows, [width], columns, _PRECISIONS[feats.dtype], capability_of(feats.device))
        padded = -(-columns // blocks.columns) * blocks.columns
        more = (0, padded - columns, 0, -width % blocks.depth)
        weights = functional.pad(kernel.to(feats.dtype), more).contiguous()
        bias = torch.zeros(padded, device=feats.device)
        # The kernel's skip, residual and range check are not used: `out` and `bias` stand in for their arguments.
        run(
            feature_kernels.convolve, (triton.cdiv(self.number, blocks.rows), padded // blocks.columns),
            feats, weights, self.gather.inputs, self.gather.rows, self.gather.lists, self.gather.lengths, self.size,
            out, out, bias, out, out, bias,
            self.number, feats.stride(0), 0, 0, out.stride(0), columns,
            VOLUME=volume, LISTED=32, SORTED=True, WIDTH=width, SKIP_WIDTH=0, OUT=padded, RESIDUAL=False, RELU=False,
            LIMIT=0.0, SPLIT=False, ROWS=blocks.rows, COLUMNS=blocks.columns, DEPTH=blocks.depth, **blocks.options,
        )  # fmt: skip
        return out


@dataclass(frozen=True)
class TritonConvolution:
    """A convolution over one kernel map by Triton kernels, as a `sparse.kernel_map.Convolver`.

    in_rows, out_rows: int32 `[P]`, the pairs by kernel row; tasks: int32 `[T + 1]`, the first pair of each share
    starts: int32 `[K + 1]`, the first share of every kernel row
    """

    forward: Side
    backward: Side
    in_rows: Tensor
    out_rows: Tensor
    tasks: Tensor
    starts: Tensor

    def fits(self, feats: Tensor, kernel: Tensor) -> bool:
        """Returns whether features and kernel are on the pairs' device and of a type that the kernels take.

        Both must have the same type, except under autocast.
        """
        alike = feats.dtype == kernel.dtype or torch.is_autocast_enabled(feats.device.type)
        floats = feats.dtype in _PRECISIONS and kernel.dtype in _PRECISIONS
        return alike and floats and feats.device == kernel.device == self.in_rows.device

    def __call__(self, feats: Tensor, kernel: Tensor, narrow: bool = False) -> Tensor:  # noqa: ARG002
        """Convolves as `sparse.conv3d` does.

        How narrow operands are is autocast's choice: the result has its type, and the kernel's gradient has the
        kernel's own.
        """
        if torch.is_autocast_enabled(feats.device.type):
            feats = feats.to(torch.get_autocast_dtype(feats.device.type))
        out: Tensor = _Convolution.apply(feats, kernel, self)  # type: ignore[no-untyped-call]
        return out

    def transposed(self) -> TritonConvolution:
        """Returns the convolution over the same pairs with input and output exchanged."""
        return dataclasses.replace(
            self, forward=self.backward, backward=self.forward, in_rows=self.out_rows, out_rows=self.in_rows
        )

    def kernel_gradient(self, feats: Tensor, grad: Tensor, kernel: Tensor) -> Tensor:
        """Returns `sum of feats[i].T @ grad[o]` over the pairs of every kernel row.

        The gradient is `[K, Cin, Cout]` of type `kernel.dtype`.
        """
        volume, width, columns = kernel.shape
        shares = len(self.tasks) - 1
        partial = torch.empty((shares, width, columns), device=feats.device)
        inputs, outputs = (min(64, max(16, triton.next_power_of_2(n))) for n in (width, columns))
        if shares:
            run(
                gradient_kernels.sum_outer_products,
                (shares, triton.cdiv(width, inputs), triton.cdiv(columns, outputs)),
                feats, grad, self.in_rows, self.out_rows, self.tasks, partial, feats.stride(0), grad.stride(0), width,
                columns, PAIRS=PAIRS[feats.element_size()], INPUTS=inputs, OUTPUTS=outputs, num_warps=4, num_stages=2,
            )  # fmt: skip
        out = torch.empty(kernel.shape, dtype=kernel.dtype, device=kernel.device)
        size = width * columns
        grid = (volume, triton.cdiv(size, _SUM_BLOCK))
        run(gradient_kernels.add_partial, grid, partial, self.starts, out, size, BLOCK=_SUM_BLOCK)
        return out


class _Convolution(Function):
    @staticmethod
    def forward(ctx: Any, feats: Tensor, kernel: Tensor, convolution: TritonConvolution) -> Tensor:
        ctx.save_for_backward(feats, kernel)
        ctx.convolution = convolution
        with torch.cuda.device_of(feats):  # type: ignore[no-untyped-call]
            return convolution.forward.run(feats.contiguous(), kernel, transposed=False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        feats, kernel = ctx.saved_tensors
        grad, convolution = grads[0].contiguous(), ctx.convolution
        with torch.cuda.device_of(feats):  # type: ignore[no-untyped-call]
            grad_feats = convolution.backward.run(grad, kernel, transposed=True) if ctx.needs_input_grad[0] else None
            grad_kernel = None
            if ctx.needs_input_grad[1]:
                grad_kernel = convolution.kernel_gradient(feats.contiguous(), grad, kernel)
        return grad_feats, grad_kernel, None


def build_training_levels(coords: Tensor, depth: int) -> Levels:
    """Builds the same levels as `sparse.build_levels`, with Triton convolutions in their kernel maps.

    Arguments and errors are those of `build_levels`.
    """
    levels = build_levels(coords, depth)
    neighbours = tuple(_with_neighbours(m, rows) for m, rows in zip(levels.neighbours, TILE_ROWS, strict=False))
    halvings = tuple(_with_halving(m, TILE_ROWS[i], TILE_ROWS[i + 1]) for i, m in enumerate(levels.halvings))
    return dataclasses.replace(levels, neighbours=neighbours, halvings=halvings)


def gather_of(rows: Tensor, in_rows: Tensor, out_rows: Tensor, volume: int, number: int, tile_rows: int) -> Gather:
    """Returns the gather of `number` output rows from pairs.

    Every output row has at most one pair per kernel row. Output rows are sorted by their masks of kernel rows, rare
    ones on top, so that a tile needs few kernel rows.

    rows, in_rows, out_rows: int64 `[P]`, kernel, input and output row of each pair
    """
    device = in_rows.device
    table = torch.full((volume, number), -1, dtype=torch.int32, device=device)
    table[rows, out_rows] = in_rows.int()
    masks = torch.zeros(number, dtype=torch.int64, device=device)
    for bit, k in enumerate(reversed(RARE_FIRST) if volume == len(RARE_FIRST) else range(volume)):
        masks |= (table[k] >= 0).long() << bit
    order = torch.argsort(masks, stable=True)
    table = table[:, order].contiguous()
    filled = functional.pad(table, (0, -number % tile_rows), value=-1)
    needed = (filled.view(volume, -1, tile_rows) >= 0).any(dim=2).T
    lists = torch.argsort(~needed, dim=1, stable=True).int()
    lists = functional.pad(lists, (0, _LIST_LENGTH - volume)).contiguous()
    return Gather(table, order.int(), lists, needed.sum(dim=1, dtype=torch.int32))


def _with_neighbours(kernel_map: KernelMap, tile_rows: int) -> KernelMap:
    gather = gather_of(*_pairs(kernel_map), len(kernel_map.sizes), kernel_map.num_out, tile_rows)
    size = _size(kernel_map.num_out, kernel_map.in_rows.device)
    # A pair at offset d is a pair at -d with the roles exchanged, so one gather serves both directions.
    sides = [Side(gather, mirrored, tile_rows, size, kernel_map.num_out) for mirrored in (False, True)]
    return _with(kernel_map, *sides)


def _with_halving(kernel_map: KernelMap, fine_rows: int, coarse_rows: int) -> KernelMap:
    rows, fine, coarse = _pairs(kernel_map)
    volume, device = len(kernel_map.sizes), fine.device
    down = gather_of(rows, fine, coarse, volume, kernel_map.num_out, coarse_rows)
    up = gather_of(rows, coarse, fine, volume, kernel_map.num_in, fine_rows)
    return _with(
        kernel_map,
        Side(down, False, coarse_rows, _size(kernel_map.num_out, device), kernel_map.num_out),
        Side(up, False, fine_rows, _size(kernel_map.num_in, device), kernel_map.num_in),
    )


def _with(kernel_map: KernelMap, forward: Side, backward: Side) -> KernelMap:
    tasks, starts = shares_of(kernel_map.sizes)
    device = kernel_map.in_rows.device
    convolution = TritonConvolution(
        forward,
        backward,
        kernel_map.in_rows.int(),
        kernel_map.out_rows.int(),
        torch.tensor(tasks, dtype=torch.int32, device=device),
        torch.tensor(starts, dtype=torch.int32, device=device),
    )
    return dataclasses.replace(kernel_map, convolver=convolution)


def shares_of(sizes: Sequence[int]) -> tuple[list[int], list[int]]:
    """Divides every kernel row's pairs into shares. No share crosses from one kernel row into the next.

    Returns the first pair of each share, followed by the number of pairs, and the first share of each kernel row,
    followed by the number of shares.

    sizes: pairs of each kernel row
    """
    share = max(_FEWEST_PAIRS, sum(sizes) // _MOST_SHARES)
    counts = [-(-size // share) for size in sizes]
    firsts = [0, *accumulate(sizes)]
    tasks = [first + i * share for first, count in zip(firsts, counts, strict=False) for i in range(count)]
    return [*tasks, firsts[-1]], [0, *accumulate(counts)]


def _pairs(kernel_map: KernelMap) -> tuple[Tensor, Tensor, Tensor]:
    sizes = torch.tensor(kernel_map.sizes, device=kernel_map.in_rows.device)
    rows = torch.repeat_interleave(sizes, output_size=len(kernel_map))
    return rows, kernel_map.in_rows, kernel_map.out_rows


def _size(number: int, device: torch.device) -> Tensor:
    return torch.tensor([number], dtype=torch.int32, device=device)
