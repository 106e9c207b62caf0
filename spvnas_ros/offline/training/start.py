"""Begins a training from the weights of a checkpoint (fine-tuning), with the settings that these were trained with."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from spvnas_ros.labels import LabelMap
from spvnas_ros.nets.box_spec import BoxBranchSpec, BoxClass, branch_difference
from spvnas_ros.nets.detector_spec import CONVENTIONS, DetectorSpec
from spvnas_ros.nets.second import Second
from spvnas_ros.nets.spec import NetSpec, summary
from spvnas_ros.nets.unet import PointVoxelUNet
from spvnas_ros.offline.training.config import (
    BoxBranchConfig,
    BoxClassConfig,
    ConfigError,
    DetectorConfig,
    NetConfig,
    Recipe,
)
from spvnas_ros.zoo.cache import resolve_weights
from spvnas_ros.zoo.checkpoint import Facts, load_checkpoint
from spvnas_ros.zoo.detector_checkpoint import DetectorFacts, load_detector


@dataclass(frozen=True)
class _Origin:
    """Where weights come from.

    weights: as the recipe names them
    sha256:  of the weights
    """

    weights: str
    sha256: str
    facts: Facts | DetectorFacts

    @property
    def name(self) -> str:
        """The name in records: the model's name, or the file name of a path."""
        return Path(self.weights).name

    @property
    def story(self) -> str:
        """The origin of the start, for the provenance of the network trained from it: terms of use pass on."""
        return f"from {self.name} (weights sha256 {self.sha256}; {self.facts.provenance or 'of unknown origin'})"


@dataclass(frozen=True)
class Start(_Origin):
    """A network to begin from, with the blocks that the recipe asks for.

    branch: another network, whose box branch is taken over
    """

    facts: Facts
    net: PointVoxelUNet
    branch: Start | None = None

    @property
    def story(self) -> str:
        """The origin of the start, and of its branch where that is another's."""
        return super().story + (f", its box branch {self.branch.story}" if self.branch else "")


@dataclass(frozen=True)
class DetectorStart(_Origin):
    """A detector to begin from.

    net:  as it is in the file
    spec: of the detector to train: its own, with the recipe's classes, limits of voxels and momentum
    """

    facts: DetectorFacts
    net: Second
    spec: DetectorSpec

    @property
    def keeps_head(self) -> bool:
        """Whether the head is taken over: its classes have the same names and anchors, in the same order.

        What a head has learnt hangs on its anchors; overlaps are of training alone.
        """
        ours, theirs = ([_anchors(each) for each in spec.head.classes] for spec in (self.spec, self.net.spec))
        return ours == theirs

    def remark(self) -> str | None:
        """Returns what is not taken over, None where all is."""
        if self.keeps_head:
            return None
        theirs, ours = (", ".join(spec.head.names) for spec in (self.net.spec, self.spec))
        return (
            f"{self.weights} finds {theirs}, the recipe {ours}, with other names or anchors: everything before the "
            "head begins with its weights, the head with random ones"
        )

    def fill(self, net: Second) -> None:
        """Gives a detector of `spec` the weights that are taken over."""
        ours, theirs = net.state_dict(), self.net.state_dict()
        taken = {key: value for key, value in theirs.items() if self.keeps_head or not key.startswith("head.")}
        net.load_state_dict(ours | taken)


def _anchors(known: BoxClass) -> tuple[str, tuple[float, ...], float]:
    return known.name.lower(), known.size, known.bottom


def begin(recipe: Recipe) -> tuple[Recipe, Start | DetectorStart | None]:
    """Returns the recipe, completed from its start, and the start; None where the recipe has none.

    A detector's convention, width, point branch, range and voxel size must be the start's or left at their defaults.
    Classes, limits of voxels and momentum may be others; those that are left are the start's.

    Raises ConfigError where the recipe contradicts the settings that the start was trained with, and FetchError and
    CheckpointError where the start cannot be read.
    """
    if not recipe.start:
        return recipe, None
    if recipe.detector:
        return _begin_detector(recipe, recipe.detector)
    start = _open(recipe.start)
    net, facts = start.net, start.facts
    if recipe.boxes and recipe.boxes.start:
        start = replace(start, branch=_branch(recipe.boxes, start))
    settled = recipe.settled(facts.voxel_size, facts.label_map)
    _check(settled, start)
    if recipe.net != NetConfig():
        family = net.spec.family if recipe.net.like else None  # where a description came from changes nothing
        asked = recipe.net.spec(facts.num_classes)
        asked = replace(asked, boxes=net.spec.boxes, family=family or asked.family)
        start = replace(start, net=_shallower(net, asked, recipe.start))
    return replace(settled, start_sha256=start.sha256), start


def _open(weights: str) -> Start:
    net, facts = load_checkpoint(resolve_weights(weights))
    assert facts.weights_sha256 is not None
    return Start(weights, facts.weights_sha256, facts, net)


def _branch(asked: BoxBranchConfig, start: Start) -> Start:
    """Returns the network whose box branch is taken over. Raises ConfigError where it has not the one asked for, or
    where it reads features of another width than the start has.
    """
    branch, spec = _open(asked.start), asked.spec(start.facts.voxel_size)
    if (theirs := branch.net.spec.boxes) is None:
        raise ConfigError(f"boxes.start: {asked.start} has no box branch; name a network that finds boxes")
    if _with_overlaps(theirs, spec) != spec:
        raise ConfigError(
            f"boxes.start: the branch of {asked.start} is not the recipe's: {branch_difference(theirs, spec)}; change "
            "the recipe's boxes, or leave out boxes.start"
        )
    given, wanted = (each.net.spec.level_width(spec.level) for each in (branch, start))
    if given != wanted:
        raise ConfigError(
            f"boxes.start: the branch of {asked.start} reads {given} features of a voxel, and {start.weights} has "
            f"{wanted} there (level {spec.level}); name a network as wide as the start, or leave out boxes.start"
        )
    return branch


def _with_overlaps(branch: BoxBranchSpec, other: BoxBranchSpec) -> BoxBranchSpec:
    """Returns a branch with the overlaps of another one, which are of training alone."""
    pairs = zip(branch.head.classes, other.head.classes, strict=False)
    classes = tuple(replace(a, positive=b.positive, negative=b.negative) for a, b in pairs)
    if len(classes) < len(branch.head.classes):
        return branch
    return replace(branch, head=replace(branch.head, classes=classes))


def _begin_detector(recipe: Recipe, asked: DetectorConfig) -> tuple[Recipe, DetectorStart]:
    net, facts = load_detector(resolve_weights(recipe.start))
    assert facts.weights_sha256 is not None
    _check_sha(recipe, recipe.start, facts.weights_sha256)
    spec, plain = net.spec, DetectorConfig()
    theirs: dict[str, Any] = {
        "convention": spec.convention if spec.convention in CONVENTIONS else asked.convention,
        "width": spec.stem,
        "point_branch": spec.point_branch,
        "point_range": spec.point_range,
        "voxel_size": spec.voxel_size,
    }
    for key, value in theirs.items():
        if getattr(asked, key) not in (getattr(plain, key), value):
            raise ConfigError(
                f"detector.{key} is {getattr(asked, key)}, but {recipe.start} has {value}; leave it out of a recipe "
                "with a start"
            )
    free: dict[str, Any] = {
        "max_voxels": spec.max_voxels,
        "norm_momentum": spec.momentum,
        "classes": tuple(map(BoxClassConfig.of, spec.head.classes)),
    }
    left = {key: value for key, value in free.items() if getattr(asked, key) == getattr(plain, key)}
    detector = replace(asked, **theirs, **left)
    known = (BoxClass(c.name, c.size, c.bottom, c.positive, c.negative) for c in detector.classes)
    trained = replace(
        spec,
        max_voxels=detector.max_voxels,
        momentum=detector.norm_momentum,
        head=replace(spec.head, classes=tuple(known)),
    )
    start = DetectorStart(recipe.start, facts.weights_sha256, facts, net, trained)
    return replace(recipe.settled(), detector=detector, start_sha256=start.sha256), start


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
    _check_sha(recipe, start.weights, start.sha256)
    if not math.isclose(data.voxel_size, facts.voxel_size):
        raise ConfigError(
            f"data.voxel_size is {data.voxel_size:g} m, but {start.weights} was trained with {facts.voxel_size:g} m; "
            "leave it out of a recipe with a start"
        )


def _check_sha(recipe: Recipe, weights: str, sha256: str) -> None:
    if recipe.start_sha256 not in ("", sha256):
        raise ConfigError(
            f"the weights of {weights} have sha256 {sha256}, expected {recipe.start_sha256} "
            "(start_sha256); bring those back, or begin a new run without start_sha256"
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
            f"the recipe's net ({summary(asked)}) is not that of {weights} ({summary(net.spec)}), nor that with fewer "
            "blocks; leave net out of a recipe with a start"
        )
    cut = PointVoxelUNet(asked)
    state = net.state_dict()
    cut.load_state_dict({key: state[key] for key in cut.state_dict()})
    return cut
