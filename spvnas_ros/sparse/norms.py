"""BatchNorm with the ReLU behind it and a residual before that: by torch, or by compiled loops in training on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def normalised(norm: nn.Module, feats: Tensor, *, relu: bool, residual: Tensor | None = None) -> Tensor:
    """Returns `relu(norm(feats) + residual)`, or the sum without a ReLU.

    norm: over rows; feats: `[n, C]`, which may be overwritten where no gradient is wanted; residual: `[n, C]`

    Raises torch's ValueError for a single row in training mode, which has no variance.
    """
    if _compiled(norm, feats, residual):
        from spvnas_ros.sparse import norms_on_cpu

        assert isinstance(norm, nn.BatchNorm1d)
        return norms_on_cpu.normalised(norm, feats, relu=relu, residual=residual)
    out: Tensor = norm(feats)
    if residual is not None:
        out = out.add_(residual)
    return out.relu_() if relu else out  # in place: backward needs BatchNorm's input only


def _compiled(norm: nn.Module, feats: Tensor, residual: Tensor | None) -> bool:
    # The type itself: a subclass may normalise over more than these rows.
    return (
        type(norm) is nn.BatchNorm1d
        and norm.training
        and norm.affine
        and norm.running_mean is not None
        and feats.ndim == 2
        and len(feats) > 1
        and feats.shape[1] == norm.num_features
        and all(
            t.device.type == "cpu" and t.dtype == torch.float32
            for t in (feats, norm.weight, norm.running_mean, feats if residual is None else residual)
        )
        and (residual is None or residual.shape == feats.shape)
    )
