"""The same folded network on spconv 2.x, for measuring beside it. Needs the `spconv` package; nothing else does."""

from __future__ import annotations

import spconv.pytorch as spconv
import torch
from torch import Tensor

from spvnas_ros.engine.plan import INPUT, Convolution, PointFusion, Source, Step, build_plan
from spvnas_ros.nets.unet import PointVoxelUNet
from spvnas_ros.sparse.coords import Level, quantize
from spvnas_ros.sparse.ops import devoxelize, interpolation, voxelize


def spatial_kernel(kernel: Tensor) -> Tensor:
    """A kernel `[K, Cin, Cout]` with its rows spread over x, y, z: `[kx, ky, kz, Cin, Cout]`.

    3x3x3 rows run x fastest, 2x2x2 rows z fastest (see `sparse.kernel_map` and `sparse.ops`).
    """
    volume, *channels = kernel.shape
    if volume == 27:
        return kernel.view(3, 3, 3, *channels).permute(2, 1, 0, 3, 4)
    return kernel.view(2, 2, 2, *channels)


class SpconvNet:
    """A plan executed with spconv's convolutions; everything between them is plain torch.

    spconv's CPU wheel must be used with one thread: with more, its scatter-add mixes up rows.
    """

    def __init__(self, net: PointVoxelUNet, voxel_size: float) -> None:
        self._plan = build_plan(net)
        self._voxel_size = voxel_size
        self._fused = {step.out: step.voxels for step in self._plan.steps if isinstance(step, PointFusion)}
        self._layers = {
            (step.name, source.slot): _layer(step, source)
            for step in self._plan.steps
            if isinstance(step, Convolution) and step.kind != "pointwise"
            for source in _concatenated(step)
        }

    @torch.inference_mode()
    def labels(self, points: Tensor) -> Tensor:
        """Class of every point `[N, 4]`, uint8 `[N]`."""
        voxels = quantize(points, self._voxel_size)
        sides = [(int(side) // 32 + 1) * 32 for side in voxels.coords[:, 1:].amax(0)]
        start = spconv.SparseConvTensor(points[voxels.first], voxels.coords, sides, 1)
        slots: dict[int, spconv.SparseConvTensor] = {INPUT: start}
        last_read = [last for _, last in self._plan.lifetimes()]
        out = start
        for index, step in enumerate(self._plan.steps):
            out = self._run(step, slots, voxels.coords)
            # The mean after a fusion needs the voxels it came from: keep what the next step may ask for.
            slots = {slot: value for slot, value in (slots | {step.out: out}).items() if last_read[slot] >= index}
        logits = out.features
        labels: Tensor = logits.argmax(1).to(torch.uint8)[voxels.inverse]
        return labels

    def _run(self, step: Step, slots: dict[int, spconv.SparseConvTensor], coords: Tensor) -> spconv.SparseConvTensor:
        if isinstance(step, Convolution):
            return self._convolve(step, slots)
        if isinstance(step, PointFusion):
            points, voxels = slots[step.points], slots[step.voxels]
            level, rows = _sorted_level(voxels)
            near = devoxelize(voxels.features[rows], interpolation(level, 1 << step.level, coords.float()))
            own = torch.addmm(torch.from_numpy(step.bias), points.features, torch.from_numpy(step.kernel[0]))
            return points.replace_feature(own.relu_() + near)
        voxels = slots[self._fused[step.points]]
        level, rows = _sorted_level(voxels)
        parents = torch.cat([coords[:, :1], coords[:, 1:] >> step.level], dim=1)
        features = torch.empty(len(rows), slots[step.points].features.shape[1])
        features[rows] = voxelize(slots[step.points].features, level.find(parents), len(rows))
        return voxels.replace_feature(features)

    def _convolve(self, step: Convolution, slots: dict[int, spconv.SparseConvTensor]) -> spconv.SparseConvTensor:
        bias = torch.from_numpy(step.bias)
        first = slots[step.sources[0].slot] if step.sources else slots[step.pointwise[0].slot]
        if step.kind == "pointwise":
            return first.replace_feature(torch.addmm(bias, first.features, torch.from_numpy(step.sources[0].kernel[0])))
        if len(step.sources) > 1:
            first = first.replace_feature(torch.cat([slots[s.slot].features for s in step.sources], dim=1))
        out = self._layers[step.name, step.sources[0].slot](first)
        features = out.features.add_(bias)
        if step.residual is not None:
            features.add_(slots[step.residual].features)
        for source in step.pointwise:
            features.addmm_(slots[source.slot].features, torch.from_numpy(source.kernel[0]))
        return out.replace_feature(features.relu_() if step.relu else features)


def _concatenated(step: Convolution) -> list[Source]:
    """The sources of a concatenation as the one source that spconv wants."""
    parts = [torch.from_numpy(source.kernel) for source in step.sources]
    return [Source(step.sources[0].slot, torch.cat(parts, dim=1).numpy())]


def _layer(step: Convolution, source: Source) -> torch.nn.Module:
    kernel = spatial_kernel(torch.from_numpy(source.kernel))
    channels = kernel.shape[3:]
    native = {"bias": False, "algo": spconv.ConvAlgo.Native}
    if step.kind == "neighbours":
        layer = spconv.SubMConv3d(*channels, 3, padding=1, indice_key=f"neighbours{step.level}", **native)
    elif step.kind == "halving":
        layer = spconv.SparseConv3d(*channels, 2, stride=2, indice_key=f"halving{step.level}", **native)
    else:
        layer = spconv.SparseInverseConv3d(*channels, 2, indice_key=f"halving{step.level + 1}", **native)
    # The wheels differ: GPU builds keep [Cout, kx, ky, kz, Cin], the CPU build [kx, ky, kz, Cin, Cout].
    if tuple(layer.weight.shape) != tuple(kernel.shape):
        kernel = kernel.permute(4, 0, 1, 2, 3)
    layer.weight.data = kernel.contiguous()
    out: torch.nn.Module = layer.eval()
    return out


def _sorted_level(voxels: spconv.SparseConvTensor) -> tuple[Level, Tensor]:
    """The tensor's voxels in the order that look-ups want, and the tensor's row of each."""
    coords = voxels.indices.long()
    return Level.sort(coords, coords.new_zeros(4))
