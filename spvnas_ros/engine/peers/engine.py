"""The engine that executes a plan with a library's convolutions. Everything between them is plain torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from spvnas_ros.engine.laps import Laps
from spvnas_ros.engine.plan import INPUT, Array, Convolution, PointFusion, PointMean, Source, Step, build_plan
from spvnas_ros.frame import Points, Segmentation
from spvnas_ros.nets.unet import PointVoxelUNet
from spvnas_ros.sparse.coords import Level, Voxels, quantize
from spvnas_ros.sparse.ops import devoxelize, interpolation, voxelize


class Geometry(Protocol):
    """One scan's voxels, kept by a library. The rows of a level are in the library's order."""

    def coords(self, level: int) -> Tensor:
        """Returns the voxels int `[n, 4]` (batch, x, y, z) of a level, in its own units.

        Some convolution must have reached the level.
        """
        ...

    def convolve(self, step: Convolution, in_level: int, feats: Tensor) -> Tensor:
        """Returns features of `step.level` from features of `in_level`, without bias and activation."""
        ...


class Library(Protocol):
    """A library and the kernels that it was given."""

    def add(self, step: Convolution, kernel: Tensor) -> None:
        """Takes the kernel `[K, Cin, Cout]` of a step, on the device and in the type it will run in."""
        ...

    def begin(self, coords: Tensor) -> Geometry:
        """Returns the geometry of voxels int32 `[N, 4]` (batch, x, y, z), none negative, every row once."""
        ...


@dataclass(frozen=True)
class _Weights:
    """The weights that plain torch multiplies in a step: a 1x1 kernel per source, and the bias `[Cout]`."""

    bias: Tensor
    pointwise: tuple[tuple[int, Tensor], ...]


@dataclass
class _Scan:
    """A scan while the plan runs.

    voxels: int32 `[N, 4]`, the finest ones
    levels: sorted voxels and the library's row of each
    """

    voxels: Tensor
    geometry: Geometry
    levels: dict[int, tuple[Level, Tensor]] = field(default_factory=dict)

    def sorted_level(self, level: int) -> tuple[Level, Tensor]:
        """Returns the voxels of a level in the order that look-ups need, and the library's row of each."""
        if level not in self.levels:
            coords = self.geometry.coords(level).long()
            self.levels[level] = Level.sort(coords, coords.new_zeros(4))
        return self.levels[level]


class PeerEngine:
    """An engine that runs a network by another library's convolutions."""

    def __init__(
        self,
        name: str,
        library: Library,
        net: PointVoxelUNet,
        voxel_size: float,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.name = name
        self.precision = "fp32" if dtype == torch.float32 else "fp16"
        self.device = str(device)
        self.in_channels = net.spec.in_channels
        self.finds_boxes = False
        self._device = device
        self._dtype = dtype
        self._voxel_size = voxel_size
        self._library = library
        self._plan = build_plan(net)
        self._last_read = [last for _, last in self._plan.lifetimes()]
        self._weights = {step.out: self._load(step) for step in self._plan.steps if not isinstance(step, PointMean)}

    def segment(self, points: Points, scores: bool, boxes: bool = False, labels: bool = True) -> Segmentation:  # noqa: ARG002
        """Labels a cloud of finite points, as `Engine.segment` says."""
        return self.segment_timed(points, scores)[0] if labels else Segmentation.unlabelled(len(points))

    @torch.inference_mode()
    def segment_timed(self, points: Points, scores: bool = False) -> tuple[Segmentation, dict[str, float]]:
        """Labels a cloud as `segment` does, and returns the seconds of each stage too.

        The stages are voxels, the steps of the plan by name, and labels. The libraries find neighbours in the first
        convolution that needs them, so the time for the geometry counts there.
        """
        if len(points) == 0:
            none = np.zeros((0, self._plan.num_classes), np.float32) if scores else None
            return Segmentation(np.zeros(0, np.uint8), np.zeros(0, np.float32), none), {}
        laps = Laps(self._device)
        cloud = torch.from_numpy(points).to(self._device)
        voxels = quantize(cloud, self._voxel_size)
        laps.lap("voxels")
        probabilities = self._run(voxels, cloud, laps).float().softmax(dim=1)
        confidence, labels = probabilities.max(dim=1)
        result = Segmentation(
            labels[voxels.inverse].to(torch.uint8).cpu().numpy(),
            confidence[voxels.inverse].cpu().numpy(),
            probabilities[voxels.inverse].cpu().numpy() if scores else None,
        )
        laps.lap("labels")
        return result, laps.seconds()

    def _load(self, step: Convolution | PointFusion) -> _Weights:
        bias = self._move(step.bias)
        if isinstance(step, PointFusion):
            return _Weights(bias, ((step.points, self._move(step.kernel[0])),))
        if step.kind == "pointwise":
            return _Weights(bias, self._products(step.sources))
        parts = [torch.from_numpy(source.kernel) for source in step.sources]
        self._library.add(step, torch.cat(parts, dim=1).to(self._device, self._dtype))
        return _Weights(bias, self._products(step.pointwise))

    def _products(self, sources: tuple[Source, ...]) -> tuple[tuple[int, Tensor], ...]:
        return tuple((source.slot, self._move(source.kernel[0])) for source in sources)

    def _move(self, array: Array) -> Tensor:
        return torch.from_numpy(array).to(self._device, self._dtype)

    def _run(self, voxels: Voxels, cloud: Tensor, laps: Laps) -> Tensor:
        """Returns the logits of the finest voxels."""
        scan = _Scan(voxels.coords, self._library.begin(voxels.coords))
        slots = {INPUT: cloud[voxels.first].to(self._dtype)}
        features = slots[INPUT]
        for index, step in enumerate(self._plan.steps):
            features = self._execute(step, slots, scan)
            slots[step.out] = features
            slots = {slot: value for slot, value in slots.items() if self._last_read[slot] > index}
            laps.lap(step.name)
        return features

    def _execute(self, step: Step, slots: dict[int, Tensor], scan: _Scan) -> Tensor:
        if isinstance(step, Convolution):
            return self._convolve(step, slots, scan)
        if isinstance(step, PointFusion):
            weights = self._weights[step.out]
            own = torch.addmm(weights.bias, slots[step.points], weights.pointwise[0][1]).relu_()
            voxels = slots[step.voxels]
            if step.level == 0:  # every point is its voxel
                return own.add_(voxels)
            level, rows = scan.sorted_level(step.level)
            where = interpolation(level, 1 << step.level, scan.voxels.float())
            return own.add_(devoxelize(voxels[rows], where))
        level, rows = scan.sorted_level(step.level)
        parents = torch.cat([scan.voxels[:, :1], scan.voxels[:, 1:] >> step.level], dim=1)
        return voxelize(slots[step.points].float(), rows[level.find(parents)], len(rows)).to(self._dtype)

    def _convolve(self, step: Convolution, slots: dict[int, Tensor], scan: _Scan) -> Tensor:
        weights = self._weights[step.out]
        if step.kind == "pointwise":
            ((slot, kernel),) = weights.pointwise
            features = torch.addmm(weights.bias, slots[slot], kernel)
            return features.relu_() if step.relu else features
        inputs = [slots[source.slot] for source in step.sources]
        whole = inputs[0] if len(inputs) == 1 else torch.cat(inputs, dim=1)
        in_level = self._plan.slots[step.sources[0].slot].level
        features = scan.geometry.convolve(step, in_level, whole).add_(weights.bias)
        if step.residual is not None:
            features.add_(slots[step.residual])
        for slot, kernel in weights.pointwise:
            features.addmm_(slots[slot], kernel)
        return features.relu_() if step.relu else features
