"""Convolutions by torchsparse 1.4, 2.0 and 2.1.

The tensors of 1.4 and 2.0 hold their caches as dictionaries. 2.1 has a class for the caches.
"""

from __future__ import annotations

from typing import Any

import torch
import torchsparse
from torch import Tensor
from torchsparse.nn import functional

from spvnas_ros.engine.peers.errors import PeerError
from spvnas_ros.engine.peers.weight_layouts import TorchsparseOrder, from_torchsparse, to_torchsparse
from spvnas_ros.engine.plan import Convolution
from spvnas_ros.nets.spec import NUM_STAGES

_ORDERS: dict[str, TorchsparseOrder] = {"1.4": "xyzb", "2.0": "xyzb", "2.1": "bxyz"}


class TorchsparseLibrary:
    """Kernels by the step they belong to. torchsparse's layout is the plan's.

    Raises PeerError for a version that is unknown, or that does not run on the device.
    """

    def __init__(self, device: torch.device) -> None:
        version = ".".join(torchsparse.__version__.split(".")[:2])
        if version not in _ORDERS:
            raise PeerError(f"found torchsparse {torchsparse.__version__}, expected one of {', '.join(_ORDERS)}")
        if device.type == "cpu" and version != "1.4":
            raise PeerError(
                f"found torchsparse {torchsparse.__version__}, which convolves on CUDA devices only: "
                "torchsparse 1.4 is the last for the CPU"
            )
        self.order = _ORDERS[version]
        self._kernels: dict[int, Tensor] = {}

    def add(self, step: Convolution, kernel: Tensor) -> None:
        """Takes a kernel, as `Library.add` says."""
        self._kernels[step.out] = kernel.contiguous()

    def begin(self, coords: Tensor) -> TorchsparseGeometry:
        """Returns the geometry, as `Library.begin` says."""
        return TorchsparseGeometry(self._kernels, coords.int(), self.order)


class TorchsparseGeometry:
    """A scan's coordinates and kernel maps. torchsparse completes them as the convolutions need them."""

    def __init__(self, kernels: dict[int, Tensor], finest: Tensor, order: TorchsparseOrder) -> None:
        self._kernels = kernels
        self._order = order
        self._coords = {0: to_torchsparse(finest, 0, order)}
        self._caches = _tensor_cache() if order == "bxyz" else ({}, {})
        # 2.1 drops the last coarse cell of an axis unless it is told how far the voxels reach.
        coarsest = 1 << NUM_STAGES
        sides = [(int(side) // coarsest + 1) * coarsest for side in finest[:, 1:].amax(0).tolist()]
        self._range = (int(finest[:, 0].max()) + 1, *sides)

    def coords(self, level: int) -> Tensor:
        """Returns the voxels of a level, as `Geometry.coords` says."""
        return from_torchsparse(self._coords[level], level, self._order)

    def convolve(self, step: Convolution, in_level: int, feats: Tensor) -> Tensor:
        """Convolves as `Geometry.convolve` says."""
        kernel, tensor = self._kernels[step.out], self._tensor(feats, in_level, step.kind == "halving")
        if step.kind == "neighbours":
            out = functional.conv3d(tensor, kernel, 3)
        else:
            out = functional.conv3d(tensor, kernel, 2, stride=2, transposed=step.kind == "doubling")
        self._coords.setdefault(step.level, out.coords)
        features: Tensor = out.feats
        return features

    def _tensor(self, feats: Tensor, level: int, halved: bool) -> Any:
        stride = (1 << level,) * 3
        if self._order == "xyzb":
            tensor = torchsparse.SparseTensor(feats, self._coords[level], stride)
            tensor.cmaps, tensor.kmaps = self._caches
            tensor.cmaps.setdefault(stride, tensor.coords)
            return tensor
        reach = (self._range[0], *(side >> level for side in self._range[1:])) if halved else None
        tensor = torchsparse.SparseTensor(feats, self._coords[level], stride, reach)
        tensor._caches = self._caches
        tensor._caches.cmaps.setdefault(stride, (tensor.coords, None))
        return tensor


def _tensor_cache() -> Any:
    from torchsparse.utils.tensor_cache import TensorCache

    return TensorCache()
