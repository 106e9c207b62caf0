"""`NetSpec`: the description of every network of the family, as a value.

SPVCNN, MinkUNet and all SPVNAS subnets share one skeleton: a stem, four encoder stages and four decoder stages. They
differ in widths, in depths and in which parts of the fine point branch are there. Reference: Tang et al., "Searching
Efficient 3D Architectures with Sparse Point-Voxel Convolution", ECCV 2020.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from spvnas_ros.nets.box_spec import BoxBranchSpec, branch_difference
from spvnas_ros.nets.spec_error import SpecError

BASE_WIDTHS = (32, 32, 64, 128, 256, 256, 128, 96, 96)
"""Output widths at width ratio 1: stem, four encoder stages, four decoder stages."""

NUM_STAGES = 4
POINT_LEVELS = (4, 2, 0)
"""Levels (log2 of the stride) at which voxel features flow back to the points: after the encoder, after decoder stage 2
and after decoder stage 4."""

MAX_CLASSES = 255
"""Labels are uint8, and 255 means unlabelled."""

NET_CONFIG_VOXEL_SIZE = 0.05
"""Edge of a voxel where a published net.config does not say, metres."""

_WIDTH_RATIOS = {16: 0.5, 20: 0.64, 32: 1.0}


@dataclass(frozen=True)
class BlockSpec:
    """A residual block: 3x3x3 convolution to `middle`, 3x3x3 convolution to `out`, and a skip.

    projection: the skip is a 1x1 convolution with BatchNorm; otherwise it is the identity, and the widths must agree
    """

    middle: int
    out: int
    projection: bool


@dataclass(frozen=True)
class StageSpec:
    """A change of resolution (2x2x2, stride 2, to width `transition`) and the residual blocks that follow."""

    transition: int
    blocks: tuple[BlockSpec, ...]

    @property
    def out(self) -> int:
        """The width of the stage's output."""
        return self.blocks[-1].out


@dataclass(frozen=True)
class NetSpec:
    """The description of a network, without its weights.

    Checkpoints contain it. A new variant is data and needs no code.

    Where points and voxels do not meet, voxels go on as they are, and points keep the features of the last fusion
    before that, or of the stem. With the fusion at level 0 the points are classified, without it the voxels of level 0,
    which are the same rows.

    family:       "spvcnn", "minkunet" or "spvnas": where the description came from; it changes nothing
    stem:         widths of the two 3x3x3 convolutions at full resolution
    encoder:      four stages, each halving the resolution
    decoder:      four stages, each doubling it; block 0 sees the transition concatenated with the encoder's features
    point_levels: at which of the three `POINT_LEVELS` the fine point branch meets the voxels (SPVConv), in their order:
                  all as published, or none (MinkUNet), or some (beyond the paper)
    boxes:        the branch that finds boxes in the features; None where the network labels points only
    """

    family: str
    stem: tuple[int, int]
    encoder: tuple[StageSpec, ...]
    decoder: tuple[StageSpec, ...]
    point_levels: tuple[bool, bool, bool]
    num_classes: int = 19
    in_channels: int = 4
    boxes: BoxBranchSpec | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.num_classes <= MAX_CLASSES:
            raise SpecError(f"num_classes must be in 1..{MAX_CLASSES} (labels are uint8), found {self.num_classes}")
        if self.in_channels < 3:
            raise SpecError(f"in_channels must be at least 3 (x, y, z), found {self.in_channels}")
        if len(self.point_levels) != len(POINT_LEVELS):
            raise SpecError(
                f"point_levels say of each of the levels {POINT_LEVELS} whether points meet the voxels there, found "
                f"{self.point_levels!r}"
            )
        if len(self.encoder) != NUM_STAGES or len(self.decoder) != NUM_STAGES:
            raise SpecError(
                f"a network has {NUM_STAGES} encoder and {NUM_STAGES} decoder stages, "
                f"found {len(self.encoder)} and {len(self.decoder)}"
            )
        for name, stages in (("encoder", self.encoder), ("decoder", self.decoder)):
            for index, stage in enumerate(stages):
                width = stage.transition + (self.skip_width(index) if name == "decoder" else 0)
                if not stage.blocks:
                    raise SpecError(f"{name} stage {index} has no residual block, expected at least one")
                for number, block in enumerate(stage.blocks):
                    if not block.projection and width != block.out:
                        raise SpecError(
                            f"{name} stage {index}, block {number}: an identity skip needs equal widths, "
                            f"found {width} in and {block.out} out"
                        )
                    width = block.out
        if min(self.widths()) < 1:
            raise SpecError(f"every width must be at least 1, found {sorted(set(self.widths()))}")

    def level_width(self, level: int) -> int:
        """Returns the width of the features at a level, 4 after the encoder and 3 to 0 after the decoder's stages."""
        return self.encoder[-1].out if level == NUM_STAGES else self.decoder[NUM_STAGES - 1 - level].out

    def skip_width(self, decoder_stage: int) -> int:
        """Returns the width of the encoder features that are concatenated in decoder stage 0..3."""
        return self.encoder[2 - decoder_stage].out if decoder_stage < 3 else self.stem[1]

    @property
    def point_branch(self) -> bool:
        """Whether points meet the voxels at any level."""
        return any(self.point_levels)

    @property
    def classifies_points(self) -> bool:
        """Whether the last features are those of the points, not of the voxels."""
        return self.point_levels[-1]

    @property
    def fusions(self) -> dict[int, tuple[int, int]]:
        """Width of the points before and after each fusion that is there, by its index in `POINT_LEVELS`."""
        found, width = {}, self.stem[1]
        for index, there in enumerate(self.point_levels):
            if there:
                found[index] = width, self.point_widths[index + 1]
                width = self.point_widths[index + 1]
        return found

    @property
    def point_widths(self) -> tuple[int, int, int, int]:
        """The widths of the point features where all fusions are there: at the stem, and after each of the three."""
        return self.stem[1], self.encoder[3].out, self.decoder[1].out, self.decoder[3].out

    def widths(self) -> tuple[int, ...]:
        """Returns every convolution's output width, in order."""
        stages = (*self.encoder, *self.decoder)
        inner = (w for s in stages for w in (s.transition, *(v for b in s.blocks for v in (b.middle, b.out))))
        return (*self.stem, *inner)

    @classmethod
    def spvcnn(cls, width: int = 32, *, num_classes: int = 19, in_channels: int = 4) -> NetSpec:
        """Returns SPVCNN with a stem `width` wide: 16, 20 and 32 are the published W16, W20 (ratio 0.64) and W32."""
        return cls._uniform("spvcnn", width, True, num_classes, in_channels)

    @classmethod
    def minkunet(cls, width: int = 32, *, num_classes: int = 19, in_channels: int = 4) -> NetSpec:
        """Returns MinkUNet, the baseline: the same network without the point branch."""
        return cls._uniform("minkunet", width, False, num_classes, in_channels)

    @classmethod
    def _uniform(cls, family: str, width: int, point_branch: bool, num_classes: int, in_channels: int) -> NetSpec:
        if width < 1:
            raise SpecError(f"width must be a positive integer, found {width}")
        ratio = _WIDTH_RATIOS.get(width, width / BASE_WIDTHS[0])
        widths = [int(ratio * base) for base in BASE_WIDTHS]
        if min(widths) < 1:
            raise SpecError(f"width {width} is too small: it gives the stage widths {widths}")
        spec = cls.of(widths, point_branch=point_branch, num_classes=num_classes, in_channels=in_channels)
        return replace(spec, family=family)

    @classmethod
    def of(
        cls,
        widths: Sequence[int],
        depths: Sequence[int] = (2,) * (2 * NUM_STAGES),
        *,
        point_branch: bool = True,
        num_classes: int = 19,
        in_channels: int = 4,
    ) -> NetSpec:
        """Returns a network with widths and depths of one's own.

        widths: of the stem, the four encoder stages and the four decoder stages
        depths: residual blocks of each stage

        Raises SpecError where these are not nine widths and eight depths, or where no network has them.
        """
        if len(widths) != len(BASE_WIDTHS) or len(depths) != 2 * NUM_STAGES:
            raise SpecError(
                f"a network has {len(BASE_WIDTHS)} widths and {2 * NUM_STAGES} depths, "
                f"found {len(widths)} and {len(depths)}"
            )

        if min(depths) < 1:
            raise SpecError(f"every stage has at least one residual block, found depths {list(depths)}")

        def stage(transition: int, block_in: int, out: int, depth: int) -> StageSpec:
            first = BlockSpec(out, out, projection=block_in != out)
            return StageSpec(transition, (first, *[BlockSpec(out, out, projection=False)] * (depth - 1)))

        stem, skips = widths[0], widths[3::-1]
        encoder = tuple(stage(widths[i], widths[i], widths[i + 1], depths[i]) for i in range(4))
        decoder = tuple(stage(widths[5 + i], widths[5 + i] + skips[i], widths[5 + i], depths[4 + i]) for i in range(4))
        family = "spvcnn" if point_branch else "minkunet"
        return cls(family, (stem, stem), encoder, decoder, _all(point_branch), num_classes, in_channels)

    @classmethod
    def from_net_config(cls, config: Mapping[str, Any]) -> NetSpec:
        """Returns the SPVNAS subnet that a published `net.config` (parsed JSON) describes.

        Widths are read and never recomputed, because upstream's rounding rule changed after the models were published.
        In a subnet, block 0 of every stage has a 1x1 skip and no other block has one, whatever the widths.

        Raises SpecError with the missing or unusable entry.
        """

        def entry(key: str) -> Any:
            if key not in config:
                raise SpecError(f"net.config has no entry {key!r}; is this an SPVNAS net.config file?")
            return config[key]

        def integer(key: str) -> int:
            value = entry(key)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise SpecError(f"net.config entry {key!r} must be a positive integer, found {value!r}")
            return value

        def stage(prefix: str) -> StageSpec:
            blocks = []
            for number in range(integer(f"{prefix}.feature")):
                layers = f"{prefix}.feature.layers.{number}.net.layers"
                blocks.append(BlockSpec(integer(f"{layers}.0"), integer(f"{layers}.1"), projection=number == 0))
            return StageSpec(integer(f"{prefix}.transition"), tuple(blocks))

        widths = entry("output_channels")
        if not isinstance(widths, list) or len(widths) != len(BASE_WIDTHS):
            raise SpecError(f"net.config 'output_channels' must list {len(BASE_WIDTHS)} widths, found {widths!r}")
        encoder = tuple(stage(f"downsample.{i}") for i in range(NUM_STAGES))
        decoder = tuple(stage(f"upsample.{i}") for i in range(NUM_STAGES))
        spec = cls("spvnas", (widths[0], widths[0]), encoder, decoder, _all(True), integer("num_classes"))
        transforms = tuple(integer(f"point_transforms.{i}") for i in range(3))
        if transforms != spec.point_widths[1:]:
            raise SpecError(
                f"net.config gives point transforms of widths {transforms}, "
                f"but the stages they meet are {spec.point_widths[1:]} wide"
            )
        return spec

    def to_net_config(self, voxel_size: float) -> dict[str, Any]:
        """Returns the network in the published form, which `from_net_config` reads: a dictionary for JSON.

        voxel_size: edge of a voxel, metres

        Raises SpecError for what that form cannot say: networks without point branch, with a box branch, with inputs of
        their own, or whose skips are not those of a supernet's subnet.
        """
        stages = {
            f"{side}.{i}": stage
            for side, found in (("downsample", self.encoder), ("upsample", self.decoder))
            for i, stage in enumerate(found)
        }
        skips = all(b.projection == (not j) for stage in stages.values() for j, b in enumerate(stage.blocks))
        even = all(block.out == stage.out for stage in stages.values() for block in stage.blocks)
        whole = all(self.point_levels)
        if not (whole and skips and even and self.stem[0] == self.stem[1] and self.in_channels == 4):
            raise SpecError(
                "a net.config describes subnets of a supernet: with the whole point branch, 4 input channels, a 1x1 "
                "skip in block 0 of every stage and in no other, one width in each stage and in the stem; found "
                f"{summary(self)}"
            )
        if self.boxes:
            raise SpecError("a net.config cannot describe a box branch, and the network has one")
        outs = [self.stem[1], *(stage.out for stage in stages.values())]
        config: dict[str, Any] = {
            "num_classes": self.num_classes,
            "pres": voxel_size,
            "vres": voxel_size,
            "macro_depth_constraint": 1,
            "output_channels": outs,
        }
        for name, stage in stages.items():
            config |= {f"{name}.transition": stage.transition, f"{name}.feature": len(stage.blocks)}
            for j in range(max(2, len(stage.blocks))):
                layer = f"{name}.feature.layers.{j}"
                block = stage.blocks[j] if j < len(stage.blocks) else None
                config[f"{layer}.net"] = block and 2
                config[f"{layer}.net.layers.0"] = block and block.middle
                config[f"{layer}.net.layers.1"] = block and block.out
                if j == 0:
                    config[f"{layer}.downsample"] = stage.out
        return config | {f"point_transforms.{i}": width for i, width in enumerate(self.point_widths[1:])}

    def to_dict(self) -> dict[str, Any]:
        """Returns the spec as dictionaries, lists and numbers that JSON can hold."""
        document = asdict(self)
        levels = document.pop("point_levels")
        # As before there were levels, and in that place, so that earlier programs read what is whole or not there.
        document = {
            key: value for key, value in document.items() if key in ("family", "stem", "encoder", "decoder")
        } | {"point_branch": self.point_branch, **document}
        if len(set(levels)) > 1:
            document["point_levels"] = levels
        if self.boxes is None:
            del document["boxes"]  # programs that know no boxes read the rest
        return document

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> NetSpec:
        """Returns the spec that `to_dict` wrote. Raises SpecError where the data does not describe a network."""

        def stages(items: Any) -> tuple[StageSpec, ...]:
            return tuple(StageSpec(s["transition"], tuple(BlockSpec(**b) for b in s["blocks"])) for s in items)

        try:
            known = dict(data)
            branch = known.pop("point_branch")
            levels = tuple(known.get("point_levels", (branch,) * len(POINT_LEVELS)))
            if "point_levels" in known and any(levels) != branch:
                raise SpecError(f"point_branch is {branch!r} and point_levels are {levels!r}, of which one cannot be")
            fields = known | {
                "point_levels": levels,
                "stem": tuple(data["stem"]),
                "encoder": stages(data["encoder"]),
                "decoder": stages(data["decoder"]),
                "boxes": None if data.get("boxes") is None else BoxBranchSpec.from_dict(data["boxes"]),
            }
            spec = cls(**fields)
        except SpecError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise SpecError(f"not a network description: {error!r}") from error
        return spec._checked()

    def _checked(self) -> NetSpec:
        """Returns the spec where its values have their types, which a file may not say. Raises SpecError."""
        blocks = [block for stage in (*self.encoder, *self.decoder) for block in stage.blocks]
        flags = (*self.point_levels, *(block.projection for block in blocks))
        for name, kind, values in (
            ("widths", int, (*self.widths(), self.num_classes, self.in_channels)),
            ("flags", bool, flags),
            ("family", str, (self.family,)),
        ):
            if wrong := [value for value in values if type(value) is not kind]:
                raise SpecError(f"the spec's {name} must be of type {kind.__name__}, found {wrong[0]!r}")
        if len(self.stem) != 2:
            raise SpecError(f"not a network description: its stem has two widths, found {list(self.stem)}")
        return self


def net_config_voxel_size(config: Mapping[str, Any]) -> float:
    """Returns the edge of a voxel of a published `net.config` (parsed JSON), metres. Raises SpecError."""
    point, voxel = config.get("pres", NET_CONFIG_VOXEL_SIZE), config.get("vres", NET_CONFIG_VOXEL_SIZE)
    number = isinstance(voxel, int | float) and not isinstance(voxel, bool) and math.isfinite(voxel) and voxel > 0
    if not number or point != voxel:
        raise SpecError(
            f"net.config has pres {point!r} and vres {voxel!r}; a network whose voxels differ from the grid its points "
            "are thinned on is not supported, and both are a positive number of metres"
        )
    return float(voxel)


def difference(one: NetSpec, other: NetSpec) -> str:
    """Returns in what two networks differ, for people."""
    if one.boxes and other.boxes and replace(one, boxes=None) == replace(other, boxes=None):
        return f"their box branches: {branch_difference(one.boxes, other.boxes)}"
    return f"their networks: {summary(one)} and {summary(other)}"


def summary(spec: NetSpec) -> str:
    """Returns a network in a line: its family, widths and blocks."""
    stages = (*spec.encoder, *spec.decoder)
    widths = " ".join(str(width) for width in (spec.stem[1], *(stage.out for stage in stages)))
    boxes = ", with a box branch" if spec.boxes else ""
    points = f", {point_words(spec.point_levels)}" if len(set(spec.point_levels)) > 1 else ""
    blocks = " ".join(str(len(stage.blocks)) for stage in stages)
    return f"{spec.family}, widths {widths}, blocks {blocks}{points}{boxes}"


def point_words(point_levels: Sequence[bool]) -> str:
    """Returns for people where a network has its point branch."""
    there = [str(level) for level, there in zip(POINT_LEVELS, point_levels, strict=True) if there]
    if len(there) == len(POINT_LEVELS):
        return "with point branch"
    return f"with point branch at level {' and '.join(there)} only" if there else "without point branch"


def _all(there: bool) -> tuple[bool, bool, bool]:
    return there, there, there
