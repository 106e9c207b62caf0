"""Sparse operations in plain torch: the definition that every engine is measured against.

The conventions are those of torchsparse 1.x, which the published weights were trained with. Golden tests hold them in
place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional

from spvnas_ros.kernels.grid import CORNERS
from spvnas_ros.sparse.coords import Level
from spvnas_ros.sparse.kernel_map import Exchange, KernelMap, Levels


class _SparseConv3d(Function):
    """A convolution that gathers, multiplies and scatters per kernel row.

    Only the inputs are kept for the backward pass.
    """

    @staticmethod
    def forward(ctx: Any, feats: Tensor, kernel: Tensor, kernel_map: KernelMap) -> Tensor:
        ctx.save_for_backward(feats, kernel)
        ctx.kernel_map = kernel_map
        out = feats.new_zeros((kernel_map.num_out, kernel.shape[2]))
        for k, in_rows, out_rows in kernel_map.pairs():
            out.index_add_(0, out_rows, (feats[in_rows] @ kernel[k]).to(out.dtype))
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (grad_out,) = grads
        feats, kernel = ctx.saved_tensors
        grad_feats = torch.zeros_like(feats) if ctx.needs_input_grad[0] else None
        grad_kernel = torch.zeros_like(kernel) if ctx.needs_input_grad[1] else None
        for k, in_rows, out_rows in ctx.kernel_map.pairs():
            grad = grad_out[out_rows]
            if grad_feats is not None:
                grad_feats.index_add_(0, in_rows, (grad @ kernel[k].T).to(grad_feats.dtype))
            if grad_kernel is not None:
                grad_kernel[k] = feats[in_rows].T @ grad
        return grad_feats, grad_kernel, None


def conv3d(feats: Tensor, kernel: Tensor, kernel_map: KernelMap, *, narrow: bool = False) -> Tensor:
    """Computes the sparse convolution `out[o] += feats[i] @ kernel[k]` for every pair (i, o) of kernel row k.

    feats `[num_in, Cin]`, kernel `[K, Cin, Cout]` -> `[num_out, Cout]`.

    narrow: products, those of the gradients too, may be of operands rounded to bfloat16, where that is faster; sums are
            float32
    """
    if kernel_map.convolver is not None and kernel_map.convolver.fits(feats, kernel):
        return kernel_map.convolver(feats, kernel, narrow)
    out: Tensor = _SparseConv3d.apply(feats, kernel, kernel_map)  # type: ignore[no-untyped-call]
    return out


@dataclass(frozen=True)
class Interpolation:
    """The voxels that surround each point, and the weight of each.

    rows:    int64 `[P, 8]`, -1 where the corner is not occupied
    weights: float32 `[P, 8]`, summing to 1 (0 where no corner is occupied)
    """

    rows: Tensor
    weights: Tensor


def interpolation(level: Level, stride: int, points: Tensor) -> Interpolation:
    """Returns the trilinear weights of points in the voxels of a level.

    Missing corners are left out, and the weights of the others are renormalised.

    points: `[P, 4]` (batch, x, y, z) in units of the finest voxel, not necessarily integers
    """
    cells = torch.floor(points[:, 1:] / stride)
    fraction = points[:, 1:] / stride - cells
    base = torch.cat([points[:, :1], cells], dim=1).long()
    rows, weights = [], []
    for corner in CORNERS:
        offset = torch.tensor([0, *corner], device=points.device)
        near = offset[1:].bool()
        rows.append(level.find(base + offset))
        weights.append(torch.where(near, fraction, 1 - fraction).prod(dim=1))
    row_table = torch.stack(rows, dim=1)
    weight_table = torch.stack(weights, dim=1).float() * (row_table >= 0)
    return Interpolation(row_table, weight_table / (weight_table.sum(dim=1, keepdim=True) + 1e-8))


def devoxelize(feats: Tensor, where: Interpolation) -> Tensor:
    """Interpolates the features `[n, C]` of voxels at points, `[P, C]` (the paper's voxel-to-point)."""
    return functional.embedding_bag(
        where.rows.clamp(min=0), feats, per_sample_weights=where.weights.to(feats.dtype), mode="sum"
    )


def voxelize(feats: Tensor, rows: Tensor, num_voxels: int) -> Tensor:
    """Returns the mean feature `[num_voxels, C]` of the points `[P, C]` in each voxel (point-to-voxel).

    rows: int64 `[P]`, the voxel of each point

    Half precision is summed in float32, because hundreds of points may share a voxel.
    """
    exact = torch.promote_types(feats.dtype, torch.float32)
    total = feats.new_zeros((num_voxels, feats.shape[1]), dtype=exact).index_add(0, rows, feats.to(exact))
    counts = torch.bincount(rows, minlength=num_voxels).clamp(min=1)
    return (total / counts[:, None].to(exact)).to(feats.dtype)


@dataclass(frozen=True)
class PlainExchange:
    """An `Exchange` in plain torch."""

    where: Interpolation
    ancestors: Tensor
    num_voxels: int

    def fits(self, feats: Tensor) -> bool:
        """Returns whether the features are on the device of the geometry."""
        return feats.device == self.ancestors.device

    def to_points(self, voxels: Tensor) -> Tensor:
        """Interpolates as `devoxelize` does."""
        return devoxelize(voxels, self.where)

    def to_voxels(self, points: Tensor) -> Tensor:
        """Averages as `voxelize` does."""
        return voxelize(points, self.ancestors, self.num_voxels)


def exchange(levels: Levels, level: int, feats: Tensor) -> Exchange:
    """Returns the exchange that carries features like `feats` between the points and the voxels of `level`."""
    ready = levels.exchanges.get(level)
    if ready is not None and ready.fits(feats):
        return ready
    where = interpolation(levels.levels[level], 1 << level, levels.levels[0].coords.float())
    return PlainExchange(where, levels.ancestors(level), len(levels.levels[level]))
