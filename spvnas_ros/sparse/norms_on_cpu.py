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
from spvnas_ros.kernels.cpu.batch_norm import Rows
from spvnas_ros.sparse.on_cpu import team

_NONE = Rows(0, 0)


def normalised(norm: nn.BatchNorm1d, feats: Tensor, *, relu: bool, residual: Tensor | None = None) -> Tensor:
    """Does what `norms.normalised` does, and moves the running statistics as torch does.

    norm: in training mode, with weights and running statistics; feats: float32 `[n, C]`, two rows at least
    residual: only with `relu`
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
        x, r = _dense(feats), None if residual is None else _dense(residual)
        mean, sharpness = statistics
        scale = weight.detach().numpy().astype(np.float64) * sharpness
        coefficients = np.stack([scale, bias.detach().numpy() - mean * scale, mean]).astype(np.float32)
        out = torch.empty_like(feats, memory_format=torch.contiguous_format)
        team().run(
            batch_norm.apply_norm, len(x), _rows(x), _NONE if r is None else _rows(r), relu, coefficients[:2], _rows(out)
        )
        ctx.save_for_backward(x, weight, *(() if residual is None else (out,)))
        ctx.relu, ctx.coefficients, ctx.sharpness = relu, coefficients, sharpness
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, *rest = ctx.saved_tensors
        grad, num = _dense(grads[0]), len(x)
        result, passed = (_rows(rest[0]), torch.empty_like(rest[0])) if rest else (_NONE, None)
        partial = np.empty((batch_norm.tiles_of(num), 2, x.shape[1]))
        threads = team()
        threads.run(
            batch_norm.sum_gradients, num, _rows(x), _rows(grad), result,
            _NONE if passed is None else _rows(passed), ctx.relu, ctx.coefficients, partial,
        )  # fmt: skip
        total, product = batch_norm.in_order(partial)
        grad_feats = None
        if ctx.needs_input_grad[0]:
            scale = weight.detach().numpy().astype(np.float64) * ctx.sharpness
            further = np.stack([-scale * ctx.sharpness**2 * product / num, -scale * total / num]).astype(np.float32)
            grad_feats = torch.empty((num, x.shape[1]))
            before = grad if passed is None else passed
            threads.run(
                batch_norm.input_gradients, num, _rows(x), _rows(before), ctx.relu and passed is None,
                np.concatenate([ctx.coefficients, further]), _rows(grad_feats),
            )  # fmt: skip
        grad_weight = torch.from_numpy((product * ctx.sharpness).astype(np.float32))
        return grad_feats, grad_weight, torch.from_numpy(total.astype(np.float32)), passed, None, None


def _statistics(feats: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean and biased variance of the columns, float64 `[C]` each."""
    x = _dense(feats)
    partial = np.empty((batch_norm.tiles_of(len(x)), 2, x.shape[1]))
    team().run(batch_norm.sum_moments, len(x), _rows(x), partial)
    total, square = batch_norm.in_order(partial) / len(x)
    return total, np.maximum(square - total**2, 0)


def _dense(matrix: Tensor) -> Tensor:
    """Returns the matrix with the values of a row side by side, and rows apart."""
    matrix = matrix.detach()
    return matrix if matrix.stride(1) == 1 and matrix.stride(0) >= matrix.shape[1] else matrix.contiguous()


def _rows(matrix: Tensor) -> Rows:
    return Rows(matrix.data_ptr(), 4 * matrix.stride(0))
