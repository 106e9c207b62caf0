"""Normalises over all processes of a training, on any backend: PyTorch's own SyncBatchNorm runs on GPUs only."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributed.nn import functional as collective


class SharedNorm(nn.BatchNorm1d):
    """A BatchNorm1d with mean and variance over the rows of all processes; with one process, a plain BatchNorm1d."""

    def forward(self, feats: Tensor) -> Tensor:
        """Normalises rows `[n, C]`. Every process must call it; each may have another number of rows."""
        return _normalised(self, feats) if _shares(self) else super().forward(feats)


class SharedMapNorm(nn.BatchNorm2d):
    """A BatchNorm2d with mean and variance over the maps of all processes; with one process, a plain BatchNorm2d."""

    def forward(self, feats: Tensor) -> Tensor:
        """Normalises maps `[n, C, Y, X]`. Every process must call it."""
        return _normalised(self, feats) if _shares(self) else super().forward(feats)


_SHARED: dict[type[nn.Module], type[SharedNorm | SharedMapNorm]] = {
    nn.BatchNorm1d: SharedNorm,
    nn.BatchNorm2d: SharedMapNorm,
}


def _shares(norm: nn.Module) -> bool:
    return norm.training and torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1


def _normalised(norm: SharedNorm | SharedMapNorm, feats: Tensor) -> Tensor:
    values = feats.to(torch.promote_types(feats.dtype, torch.float32))
    others = [axis for axis in range(values.ndim) if axis != 1]
    shape = [1, -1] + [1] * (values.ndim - 2)
    sums = _over_all(torch.cat([values.sum(others), values.new_tensor([values.numel() / values.shape[1]])]))
    count = sums[-1].detach()
    mean = sums[:-1] / count
    centred = values - mean.view(shape)
    variance = _over_all((centred**2).sum(others)) / count
    _track(norm, mean.detach(), variance.detach() * count / (count - 1).clamp(min=1))
    scaled = centred * torch.rsqrt(variance + norm.eps).view(shape) * norm.weight.view(shape) + norm.bias.view(shape)
    return scaled.to(feats.dtype)


@torch.no_grad()
def _track(norm: SharedNorm | SharedMapNorm, mean: Tensor, variance: Tensor) -> None:
    assert norm.momentum is not None
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    norm.running_mean.lerp_(mean, norm.momentum)
    norm.running_var.lerp_(variance, norm.momentum)
    norm.num_batches_tracked += 1


def share_norms(module: nn.Module) -> None:
    """Replaces every BatchNorm in a module by a shared one with the same parameters and statistics."""
    for name, child in module.named_children():
        kind = _SHARED.get(type(child))
        if kind is None:
            share_norms(child)
            continue
        assert isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d)
        shared = kind(child.num_features, child.eps, child.momentum)
        shared.weight, shared.bias = child.weight, child.bias
        shared.running_mean, shared.running_var = child.running_mean, child.running_var
        shared.num_batches_tracked = child.num_batches_tracked
        setattr(module, name, shared)


def _over_all(values: Tensor) -> Tensor:
    """Returns the sum over all processes; it is differentiable."""
    total: Tensor = collective.all_reduce(values)  # type: ignore[no-untyped-call]
    return total
