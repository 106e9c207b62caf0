"""The same folded network on torchsparse 1.4, for measuring beside it. Needs `torchsparse`; nothing else does.

Later versions will not do: their kernel maps are made by functions that only their CUDA builds have.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torchsparse
from torch import Tensor
from torchsparse.nn import functional

from spvnas_ros.engine.plan import INPUT, Array, Convolution, PointFusion, Step, build_plan
from spvnas_ros.nets.unet import PointVoxelUNet
from spvnas_ros.sparse.coords import Level, quantize
from spvnas_ros.sparse.ops import devoxelize, interpolation, voxelize

Stride = tuple[int, int, int]


class TorchsparseVersionError(ImportError):
    """A torchsparse that cannot convolve on the CPU."""


@dataclass
class _Frame:
    """The geometry of one scan, which torchsparse completes as the convolutions need it.

    voxels:      int32 `[N, 4]` (batch, x, y, z), the finest voxels
    coords:      int32 `[n, 4]` (x, y, z, batch) per stride, as multiples of the stride
    kernel_maps: torchsparse's own, per stride and kernel
    levels:      per stride, the voxels sorted by key and the row of each in `coords`
    """

    voxels: Tensor
    coords: dict[Stride, Tensor] = field(default_factory=dict)
    kernel_maps: dict[Any, Any] = field(default_factory=dict)
    levels: dict[Stride, tuple[Level, Tensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.coords[_stride(0)] = self.voxels[:, [1, 2, 3, 0]].contiguous()

    def tensor(self, features: Tensor, level: int) -> torchsparse.SparseTensor:
        """Features of a level as what torchsparse's functions take; the geometry is shared by all of a frame."""
        tensor = torchsparse.SparseTensor(features, self.coords[_stride(level)], _stride(level))
        tensor.cmaps, tensor.kmaps = self.coords, self.kernel_maps
        return tensor

    def sorted_level(self, level: int) -> tuple[Level, Tensor]:
        """The voxels of a level in the order that look-ups want, and the row of each."""
        stride = _stride(level)
        if stride not in self.levels:
            coords = self.coords[stride][:, [3, 0, 1, 2]].long()
            coords[:, 1:] >>= level
            self.levels[stride] = Level.sort(coords, coords.new_zeros(4))
        return self.levels[stride]


class TorchsparseNet:
    """A plan executed with torchsparse's convolutions; everything between them is plain torch.

    Raises TorchsparseVersionError where the installed torchsparse is not 1.4.
    """

    def __init__(self, net: PointVoxelUNet, voxel_size: float) -> None:
        if not torchsparse.__version__.startswith("1.4."):
            raise TorchsparseVersionError(
                f"found torchsparse {torchsparse.__version__}, expected 1.4: no later version convolves on the CPU; "
                "install 1.4.0 or leave torchsparse out of the comparison"
            )
        self._plan = build_plan(net)
        self._voxel_size = voxel_size
        self._last_read = [last for _, last in self._plan.lifetimes()]
        self._kernels = {step.out: _whole_kernel(step) for step in self._plan.steps if isinstance(step, Convolution)}

    @torch.inference_mode()
    def labels(self, points: Tensor) -> Tensor:
        """Class of every point `[N, 4]`, uint8 `[N]`."""
        voxels = quantize(points, self._voxel_size)
        frame = _Frame(voxels.coords)
        features = points[voxels.first]
        slots = {INPUT: features}
        for index, step in enumerate(self._plan.steps):
            features = self._run(step, slots, frame)
            slots[step.out] = features
            slots = {slot: value for slot, value in slots.items() if self._last_read[slot] > index}
        return features.argmax(1).to(torch.uint8)[voxels.inverse]

    def _run(self, step: Step, slots: dict[int, Tensor], frame: _Frame) -> Tensor:
        if isinstance(step, Convolution):
            return self._convolve(step, slots, frame)
        level, rows = frame.sorted_level(step.level)
        if isinstance(step, PointFusion):
            where = interpolation(level, 1 << step.level, frame.voxels.float())
            own = torch.addmm(torch.from_numpy(step.bias), slots[step.points], torch.from_numpy(step.kernel[0]))
            return own.relu_().add_(devoxelize(slots[step.voxels][rows], where))
        parents = torch.cat([frame.voxels[:, :1], frame.voxels[:, 1:] >> step.level], dim=1)
        return voxelize(slots[step.points], rows[level.find(parents)], len(rows))

    def _convolve(self, step: Convolution, slots: dict[int, Tensor], frame: _Frame) -> Tensor:
        kernel, bias = self._kernels[step.out], torch.from_numpy(step.bias)
        inputs = [slots[source.slot] for source in step.sources]
        whole = inputs[0] if len(inputs) == 1 else torch.cat(inputs, dim=1)
        if step.kind == "pointwise":
            return torch.addmm(bias, whole, kernel[0])
        tensor = frame.tensor(whole, self._plan.slots[step.sources[0].slot].level)
        if step.kind == "neighbours":
            features: Tensor = functional.conv3d(tensor, kernel, 3, bias).feats
        else:
            up = step.kind == "doubling"
            features = functional.conv3d(tensor, kernel, 2, bias, stride=2, transposed=up).feats
        if step.residual is not None:
            features.add_(slots[step.residual])
        for source in step.pointwise:
            features.addmm_(slots[source.slot], torch.from_numpy(source.kernel[0]))
        return features.relu_() if step.relu else features


def _stride(level: int) -> Stride:
    return (1 << level,) * 3


def _whole_kernel(step: Convolution) -> Tensor:
    """The kernel over the concatenated inputs, `[K, Cin, Cout]`; torchsparse's row order is the plan's."""
    parts: list[Array] = [source.kernel for source in step.sources]
    return torch.cat([torch.from_numpy(part) for part in parts], dim=1)
