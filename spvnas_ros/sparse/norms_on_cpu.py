"""BatchNorm in training mode on the CPU: the loops of `kernels.cpu.batch_norm` under autograd.

Statistics are summed in float64. No sum depends on the thread count.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from spvnas_ros.kernels.cpu import batch_norm
from spvnas_ros.sparse.on_cpu import team

_NO_ROWS = np.zeros((0, 0), np.float32)


def normalised(norm: nn.BatchNorm1d, feats: Tensor, *, relu: bool, residual: Tensor | None = None) -> Tensor:
    """Does what `norms.normalised` does, and moves the running statistics as torch does.

    norm: in training mode, with weights and running statistics; feats: float32 `[n, C]`, two rows at least
    """
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    mean, variance = _statistics(feats.detach())
    with torch.no_grad():
        norm.num_batches_tracked.add_(1)
        share = 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
        unbiased = variance * (len(feats) / (len(feats) - 1))
        norm.running_mean.mul_(1 - share).add_(torch.from_numpy((share * mean).astype(np.float32)))
        norm.running_var.mul_(1 - share).add_(torch.from_numpy((share * unbiased).astype(np.float32)))
    statistics = mean, 1 / np.sqrt(variance + norm.eps)
    out: Tensor = _Norm.apply(feats, norm.weight, norm.bias, residual, relu, statistics)
    return out


class _Norm(Function):
    @staticmethod
    def forward(
        ctx: Any,
        feats: Tensor,
        weight: Tensor,
        bias: Tensor,
        residual: Tensor | None,
        relu: bool,
        statistics: tuple[np.ndarray, np.ndarray],
    ) -> Tensor:
        mean, sharpness = statistics
        scale = weight.detach().numpy().astype(np.float64) * sharpness
        rounded = mean.astype(np.float32)
        missed = mean - rounded  # what is left of the mean is made up for in float64
        shift = bias.detach().numpy() - missed * scale
        ctx.line = scale.astype(np.float32), shift.astype(np.float32), rounded
        out = torch.empty(feats.shape)
        rest = _NO_ROWS if residual is None else _rows(residual)
        team().run(batch_norm.apply_norm, _rows(feats), rest, relu, *ctx.line, out.numpy())
        # Behind a residual, the result alone tells what passed the ReLU.
        ctx.save_for_backward(feats, weight, *((out,) if relu and residual is not None else ()))
        ctx.relu, ctx.sharpness, ctx.missed, ctx.summed = relu, sharpness, missed, residual is not None
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        feats, weight, *result = ctx.saved_tensors
        threads, num, relu, grad = team(), len(feats), ctx.relu, grads[0].detach()
        if result:
            behind, relu = grad, False
            grad = torch.empty(feats.shape)
            threads.run(batch_norm.mask_gradients, _rows(behind), result[0].numpy(), grad.numpy())
        x, g = _rows(feats.detach()), _rows(grad)
        partial = np.empty((batch_norm.tiles_of(num), 2, feats.shape[1]))
        threads.run(batch_norm.sum_gradients, num, x, g, relu, *ctx.line, partial)
        total, product = batch_norm.in_order(partial)
        product -= total * ctx.missed
        grad_feats = None
        if ctx.needs_input_grad[0]:
            scale = weight.detach().numpy().astype(np.float64) * ctx.sharpness
            slope = -scale * ctx.sharpness**2 * product / num
            further = slope, -scale * total / num - slope * ctx.missed
            grad_feats = torch.empty(feats.shape)
            threads.run(
                batch_norm.input_gradients, x, g, relu, *ctx.line,
                *(each.astype(np.float32) for each in further), grad_feats.numpy(),
            )  # fmt: skip
        grad_weight, grad_bias = (
            torch.from_numpy(each.astype(np.float32)) for each in (product * ctx.sharpness, total)
        )
        return grad_feats, grad_weight, grad_bias, grad if ctx.summed else None, None, None


def _statistics(feats: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean and biased variance of the columns, float64 `[C]` each."""
    partial = np.empty((batch_norm.tiles_of(len(feats)), 2, feats.shape[1]))
    team().run(batch_norm.sum_moments, len(feats), _rows(feats), partial)
    total, square = batch_norm.in_order(partial) / len(feats)
    return total, np.maximum(square - total**2, 0)


def _rows(matrix: Tensor) -> np.ndarray:
    """Returns a matrix as float32 `[n, C or more]` without gaps, whose further columns mean nothing."""
    matrix, (num, columns) = matrix.detach(), matrix.shape
    wide = matrix.stride(0)
    if matrix.stride(1) != 1 or wide < columns:
        return matrix.contiguous().numpy()
    if matrix.storage_offset() + num * wide > matrix.untyped_storage().nbytes() // 4:
        return matrix.contiguous().numpy()
    return matrix.as_strided((num, wide), (wide, 1)).numpy()
