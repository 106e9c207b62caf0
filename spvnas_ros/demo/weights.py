"""Chooses the weights of the demo: the named ones, else the ones that ship with the package, else untrained ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from spvnas_ros.zoo.cache import DEFAULT, FetchError, resolve_weights
from spvnas_ros.zoo.checkpoint import Facts, load_checkpoint, save_checkpoint

if TYPE_CHECKING:
    from spvnas_ros.nets.unet import PointVoxelUNet


@dataclass(frozen=True)
class Weights:
    """A checkpoint. `parameters` is the number of values that it holds."""

    path: Path
    facts: Facts
    parameters: int

    def __str__(self) -> str:
        training = self.facts.training
        trained = (training.data if training else self.facts.provenance) if self.facts.trained else "not trained"
        parts = (f"{self.facts.name or self.path.stem}, {self.parameters / 1e6:.1f} million parameters", trained)
        return "; ".join(filter(None, parts))


def choose_weights(named: str | None, out: Path, say: Callable[[str], None]) -> Weights:
    """Loads the named weights. Without a name it loads the network that ships with the package.

    Where that network is missing, it passes the reason to `say` and makes an untrained network below the folder `out`.

    Raises FetchError or CheckpointError where the named weights are missing or cannot be used.
    """
    if named is not None:
        return _load(resolve_weights(named))
    try:
        return _load(resolve_weights(DEFAULT))
    except FetchError:
        say("the network that ships with the package is not there; going on with an untrained one")
        return _untrained(out / "untrained.safetensors")


def _load(path: Path) -> Weights:
    net, facts = load_checkpoint(path)
    return Weights(path, facts, _count(net))


def _untrained(path: Path) -> Weights:
    import torch

    from spvnas_ros.nets.spec import NetSpec
    from spvnas_ros.nets.unet import PointVoxelUNet

    torch.manual_seed(0)
    net = PointVoxelUNet(NetSpec.spvcnn(16))
    save_checkpoint(path, net, Facts(spec=net.spec, name="untrained", trained=False))
    return Weights(path, load_checkpoint(path)[1], _count(net))


def _count(net: PointVoxelUNet) -> int:
    return sum(parameter.numel() for parameter in net.parameters())
