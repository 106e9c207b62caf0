"""Normalises over all processes of a training, on any backend: PyTorch's own SyncBatchNorm runs on GPUs only."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributed.nn import functional as collective


class SharedNorm(nn.BatchNorm1d):
    """A BatchNorm1d with mean and variance over the rows of all processes; with one process, a plain BatchNorm1d."""

    def forward(self, feats: Tensor) -> Tensor:
        """Normalises rows `[n, C]`. Every process must call it; each may have another number of rows."""
        if not (self.training and torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1):
            return super().forward(feats)
        rows = feats.float()
        sums = _over_all(torch.cat([rows.sum(0), rows.new_tensor([len(rows)])]))
        count = sums[-1].detach()
        mean = sums[:-1] / count
        centred = rows - mean
        variance = _over_all((centred**2).sum(0)) / count
        self._track(mean.detach(), variance.detach() * count / (count - 1).clamp(min=1))
        scaled = centred * torch.rsqrt(variance + self.eps) * self.weight + self.bias
        return scaled.to(feats.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor) -> None:
        assert self.momentum is not None
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)
        self.num_batches_tracked += 1


def share_norms(module: nn.Module) -> None:
    """Replaces every BatchNorm1d in a module by a SharedNorm with the same parameters and statistics."""
    for name, child in module.named_children():
        if type(child) is not nn.BatchNorm1d:
            share_norms(child)
            continue
        shared = SharedNorm(child.num_features, child.eps, child.momentum)
        shared.weight, shared.bias = child.weight, child.bias
        shared.running_mean, shared.running_var = child.running_mean, child.running_var
        shared.num_batches_tracked = child.num_batches_tracked
        setattr(module, name, shared)


def _over_all(values: Tensor) -> Tensor:
    """Returns the sum over all processes; it is differentiable."""
    total: Tensor = collective.all_reduce(values)  # type: ignore[no-untyped-call]
    return total
