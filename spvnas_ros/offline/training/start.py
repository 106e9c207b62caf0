"""Begins a training from the weights of a checkpoint (fine-tuning), with the settings that these were trained with."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

from spvnas_ros.labels import LabelMap
from spvnas_ros.nets.spec import NetSpec
from spvnas_ros.nets.unet import PointVoxelUNet
from spvnas_ros.offline.training.config import ConfigError, NetConfig, Recipe
from spvnas_ros.zoo.cache import resolve_weights
from spvnas_ros.zoo.checkpoint import Facts, load_checkpoint


@dataclass(frozen=True)
class Start:
    """A network to begin from.

    weights: as the recipe names them
    sha256:  of the weights
    net:     the network, with the blocks that the recipe asks for
    """

    weights: str
    sha256: str
    net: PointVoxelUNet
    facts: Facts

    @property
    def name(self) -> str:
        """The name in records: the model's name, or the file name of a path."""
        return Path(self.weights).name

    @property
    def story(self) -> str:
        """The origin of the start, for the provenance of the network trained from it: terms of use pass on."""
        return f"from {self.name} (weights sha256 {self.sha256}; {self.facts.provenance or 'of unknown origin'})"


def begin(recipe: Recipe) -> tuple[Recipe, Start | None]:
    """Returns the recipe, completed from its start, and the start; None where the recipe has none.

    Raises ConfigError where the recipe contradicts the settings that the start was trained with, and FetchError and
    CheckpointError where the start cannot be read.
    """
    if not recipe.start:
        return recipe, None
    net, facts = load_checkpoint(resolve_weights(recipe.start))
    assert facts.weights_sha256 is not None
    start = Start(recipe.start, facts.weights_sha256, net, facts)
    settled = recipe.settled(facts.voxel_size, facts.label_map)
    _check(settled, start)
    if recipe.net != NetConfig():
        start = replace(start, net=_shallower(net, recipe.net.spec(facts.num_classes), recipe.start))
    return replace(settled, start_sha256=start.sha256), start


def spec_of(recipe: Recipe, start: Start | None, label_map: LabelMap) -> NetSpec:
    """Returns the network's description. Raises ConfigError where the start has other classes, and SpecError where no
    network fits the recipe.
    """
    if start is None:
        return recipe.net.spec(len(label_map.classes))
    if label_map.classes != start.facts.classes:
        raise ConfigError(
            f"{start.weights} tells {', '.join(start.facts.classes)} apart, but label map {label_map.name} has "
            f"{', '.join(label_map.classes)}; choose another data.label_map or another start"
        )
    return start.net.spec


def _check(recipe: Recipe, start: Start) -> None:
    facts, data = start.facts, recipe.data
    if recipe.start_sha256 not in ("", start.sha256):
        raise ConfigError(
            f"the weights of {start.weights} have sha256 {start.sha256}, expected {recipe.start_sha256} "
            "(start_sha256); bring those back, or begin a new run without start_sha256"
        )
    if not math.isclose(data.voxel_size, facts.voxel_size):
        raise ConfigError(
            f"data.voxel_size is {data.voxel_size:g} m, but {start.weights} was trained with {facts.voxel_size:g} m; "
            "leave it out of a recipe with a start"
        )


def _shallower(net: PointVoxelUNet, asked: NetSpec, weights: str) -> PointVoxelUNet:
    """Returns the network without the last blocks of the stages where `asked` has fewer blocks. Residual blocks can be
    left out, as in the elastic depth of 3D-NAS (Tang et al., 2020).

    Raises ConfigError where `asked` differs in anything else.
    """
    pairs = zip((*asked.encoder, *asked.decoder), (*net.spec.encoder, *net.spec.decoder), strict=True)
    prefixes = all(stage == replace(full, blocks=full.blocks[: len(stage.blocks)]) for stage, full in pairs)
    if not prefixes or asked != replace(net.spec, encoder=asked.encoder, decoder=asked.decoder):
        raise ConfigError(
            f"the recipe's net ({_short(asked)}) is not that of {weights} ({_short(net.spec)}), nor that with fewer "
            "blocks; leave net out of a recipe with a start"
        )
    cut = PointVoxelUNet(asked)
    state = net.state_dict()
    cut.load_state_dict({key: state[key] for key in cut.state_dict()})
    return cut


def _short(spec: NetSpec) -> str:
    stages = (*spec.encoder, *spec.decoder)
    widths = " ".join(str(width) for width in (spec.stem[1], *(stage.out for stage in stages)))
    return f"{spec.family}, widths {widths}, blocks {' '.join(str(len(stage.blocks)) for stage in stages)}"
