"""Convolutions by spconv 2.x, or by spconv-triton, which has the same interface."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from spvnas_ros.engine.peers.errors import PeerError
from spvnas_ros.engine.peers.weight_layouts import SpconvLayout, spconv_weight
from spvnas_ros.engine.plan import Convolution
from spvnas_ros.nets.spec import NUM_STAGES


class SpconvLibrary:
    """Layers of spconv or spconv-triton, by the step they belong to."""

    def __init__(self, module: Any, constants: Any, algorithm: Any) -> None:
        self._module = module
        self._all_krsc = bool(getattr(constants, "ALL_WEIGHT_IS_KRSC", False))
        self._hwio = bool(getattr(constants, "FILTER_HWIO", False))
        self._algorithm = algorithm
        self._layers: dict[int, nn.Module] = {}

    @classmethod
    def named(cls, package: str, device: torch.device) -> SpconvLibrary:
        """Returns the library imported as `package`.

        Raises PeerError where its results would be wrong, or where it cannot run on the device.
        """
        if package == "spconv_triton" and device.type != "cuda":
            raise PeerError("engine 'spconv-triton' runs on a CUDA device only; use engine 'cpu' or 'torch' there")
        if device.type == "cpu" and torch.get_num_threads() != 1:
            raise PeerError(
                f"engine 'spconv' mixes up rows on the CPU with more than one thread, and torch has "
                f"{torch.get_num_threads()}: set OMP_NUM_THREADS=1"
            )
        module, constants = import_module(f"{package}.pytorch"), import_module(f"{package}.constants")
        algorithm = module.ConvAlgo.Native if device.type == "cpu" else None
        return cls(module, constants, algorithm)

    def add(self, step: Convolution, kernel: Tensor) -> None:
        """Takes a kernel, as `Library.add` says."""
        layer = self._layer(step, kernel.shape[1], kernel.shape[2])
        native = layer.algo == self._module.ConvAlgo.Native
        layout: SpconvLayout = "KRSC" if self._all_krsc or not native else "RSCK" if self._hwio else "RSKC"
        weight = spconv_weight(kernel, layout)
        if weight.shape != layer.weight.shape:
            raise PeerError(
                f"this version of {self._module.__name__} keeps weights {tuple(layer.weight.shape)}, "
                f"expected {tuple(weight.shape)} ({layout}); spconv 2.1 to 2.3 and spconv-triton 1.0 are known"
            )
        layer.weight.data = weight
        self._layers[step.out] = layer.to(kernel.device).eval()

    def _layer(self, step: Convolution, inputs: int, outputs: int) -> Any:
        options = {"bias": False, "algo": self._algorithm}
        if step.kind == "neighbours":
            key = f"neighbours{step.level}"
            return self._module.SubMConv3d(inputs, outputs, 3, padding=1, indice_key=key, **options)
        if step.kind == "halving":
            key = f"halving{step.level}"
            return self._module.SparseConv3d(inputs, outputs, 2, stride=2, indice_key=key, **options)
        key = f"halving{step.level + 1}"
        return self._module.SparseInverseConv3d(inputs, outputs, 2, indice_key=key, **options)

    def begin(self, coords: Tensor) -> SpconvGeometry:
        """Returns the geometry, as `Library.begin` says."""
        coarsest = 1 << NUM_STAGES
        sides = [(int(side) // coarsest + 1) * coarsest for side in coords[:, 1:].amax(0).tolist()]
        nothing = torch.zeros((len(coords), 1), device=coords.device)
        batches = int(coords[:, 0].max()) + 1
        return SpconvGeometry(self._layers, self._module.SparseConvTensor(nothing, coords.int(), sides, batches))


class SpconvGeometry:
    """A scan as spconv's tensors, one per level. They share the indices that the layers find."""

    def __init__(self, layers: dict[int, nn.Module], finest: Any) -> None:
        self._layers = layers
        self._tensors = {0: finest}

    def coords(self, level: int) -> Tensor:
        """Returns the voxels of a level, as `Geometry.coords` says."""
        indices: Tensor = self._tensors[level].indices
        return indices

    def convolve(self, step: Convolution, in_level: int, feats: Tensor) -> Tensor:
        """Convolves as `Geometry.convolve` says."""
        out = self._layers[step.out](self._tensors[in_level].replace_feature(feats))
        self._tensors.setdefault(step.level, out)
        features: Tensor = out.features
        return features
