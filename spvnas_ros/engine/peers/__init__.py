"""Engines that run the same network and weights through other libraries' sparse convolutions.

`engine.build_engine` makes one by its name, to check our own engines, and `bench` compares them with ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch

from spvnas_ros.engine.peers.errors import PeerError
from spvnas_ros.nets.unet import PointVoxelUNet

if TYPE_CHECKING:
    from spvnas_ros.engine.peers.engine import Library, PeerEngine


@dataclass(frozen=True)
class Peer:
    """A library that can run the networks.

    module: the module it is imported as
    get:    how to install it
    load:   imports it and makes it ready for a device
    """

    module: str
    get: str
    load: Callable[[torch.device], Library]

    @property
    def installed(self) -> bool:
        """Whether the library can be found. Importing it may still fail."""
        return find_spec(self.module) is not None


def _spconv(device: torch.device) -> Library:
    from spvnas_ros.engine.peers.spconv import SpconvLibrary

    return SpconvLibrary.named("spconv", device)


def _spconv_triton(device: torch.device) -> Library:
    from spvnas_ros.engine.peers.spconv import SpconvLibrary

    return SpconvLibrary.named("spconv_triton", device)


def _torchsparse(device: torch.device) -> Library:
    from spvnas_ros.engine.peers.torchsparse import TorchsparseLibrary

    return TorchsparseLibrary(device)


PEERS = {
    "spconv": Peer("spconv", "pip install spconv-cu126 (or the spconv-cu* of your CUDA; spconv for the CPU)", _spconv),
    "spconv-triton": Peer("spconv_triton", "pip install spconv-triton (beside a CUDA build of torch)", _spconv_triton),
    "torchsparse": Peer(
        "torchsparse",
        "pip install --no-build-isolation git+https://github.com/mit-han-lab/torchsparse.git "
        "(add @v1.4.0 for the CPU; needs a C++ compiler, nvcc for CUDA, and the headers of libsparsehash-dev)",
        _torchsparse,
    ),
}


def build_peer(
    name: str, net: PointVoxelUNet, voxel_size: float, device: torch.device, dtype: torch.dtype = torch.float32
) -> PeerEngine:
    """Builds the engine that runs `net` by the library `name` of `PEERS`, with features of type `dtype`.

    Raises PeerError where the library is not installed, cannot be loaded, or cannot run on the device.
    """
    peer = PEERS[name]
    if not peer.installed:
        raise PeerError(f"engine {name!r} needs the package {peer.module}, which is not installed: {peer.get}")
    from spvnas_ros.engine.peers.engine import PeerEngine

    try:
        library = peer.load(device)
    except (ImportError, OSError) as error:
        raise PeerError(f"engine {name!r} cannot load {peer.module} ({error}); to get it anew: {peer.get}") from error
    return PeerEngine(name, library, net, voxel_size, device, dtype)
