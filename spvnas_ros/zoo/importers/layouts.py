"""The names that other projects give to the tensors of these networks.

No tensor changes its shape or its order on the way, because the projects differ in names only. The one exception is
SPVNAS, whose classifier is wider than the network. A layout is therefore a table of names, and the spec can be read
from the shapes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from spvnas_ros.nets.spec import NUM_STAGES, BlockSpec, NetSpec, StageSpec

_MAX_BLOCKS = 16
_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")

Pair = tuple[str, str]
"""The names of a convolution (or linear layer) and of the BatchNorm behind it."""

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Layout:
    """The names of one project.

    In the templates `i` is the stage and `j` the block, from 0, and `n` and `m` are the same from 1.

    project:       the project that wrote the files
    label_map:     the map of raw labels its networks were trained with
    marker:        a tensor name that only this layout has
    searched:      whether these are SPVNAS subnets: block 0 of every stage has a 1x1 skip and no other block has one
                   (elsewhere a block has one where its width changes), and the classifier keeps the supernet's width
    """

    project: str
    label_map: str
    marker: str
    stem: tuple[Pair, Pair]
    encoder: str
    decoder: str
    encoder_block: str
    decoder_block: str
    transition: Pair
    first: Pair
    second: Pair
    skip: Pair
    points: Pair
    classifier: str
    searched: bool = False

    def names(self) -> dict[str, str]:
        """Returns the project's name of every tensor a network could have -> its name in `PointVoxelUNet`."""
        table = {f"{self.classifier}.{part}": f"classifier.{part}" for part in ("weight", "bias")}
        for unit, (layer, norm) in self._units().items():
            if unit.startswith("points"):
                table |= {f"{layer}.{part}": f"{unit}.linear.{part}" for part in ("weight", "bias")}
            else:
                table[f"{layer}.kernel"] = f"{unit}.conv.kernel"
            table |= {f"{norm}.{part}": f"{unit}.norm.{part}" for part in _NORM}
        return table

    def _units(self) -> dict[str, Pair]:
        units = {f"stem.{i}": pair for i, pair in enumerate(self.stem)}
        units |= {f"points.{i}": (self.points[0].format(i=i), self.points[1].format(i=i)) for i in range(3)}
        sides = (("encoder", self.encoder, self.encoder_block), ("decoder", self.decoder, self.decoder_block))
        for side, stage, block in sides:
            for i in range(NUM_STAGES):
                here = stage.format(i=i, n=i + 1)
                units[f"{side}.{i}.transition"] = _join(here, self.transition)
                for j in range(_MAX_BLOCKS):
                    where, ours = f"{here}.{block.format(j=j, m=j + 1)}", f"{side}.{i}.blocks.{j}"
                    units[f"{ours}.first"] = _join(where, self.first)
                    units[f"{ours}.second"] = _join(where, self.second)
                    units[f"{ours}.projection"] = _join(where, self.skip)
        return units


def _join(prefix: str, pair: Pair) -> Pair:
    return f"{prefix}.{pair[0]}", f"{prefix}.{pair[1]}"


MIT_HAN_LAB = Layout(
    project="mit-han-lab/spvnas",
    label_map="mit-han-lab",
    marker="stage1.0.net.0.kernel",
    stem=(("stem.0", "stem.1"), ("stem.3", "stem.4")),
    encoder="stage{n}",
    decoder="up{n}",
    encoder_block="{m}",
    decoder_block="1.{j}",
    transition=("0.net.0", "0.net.1"),
    first=("net.0", "net.1"),
    second=("net.3", "net.4"),
    skip=("downsample.0", "downsample.1"),
    points=("point_transforms.{i}.0", "point_transforms.{i}.1"),
    classifier="classifier.0",
)
"""SPVCNN and MinkUNet, which hold the same names. The MinkUNet has point transforms that it never uses."""

SPVNAS = Layout(
    project="mit-han-lab/spvnas",
    label_map="mit-han-lab",
    marker="downsample.0.transition.net.conv.kernel",
    stem=MIT_HAN_LAB.stem,
    encoder="downsample.{i}",
    decoder="upsample.{i}",
    encoder_block="feature.{j}",
    decoder_block="feature.{j}",
    transition=("transition.net.conv", "transition.net.bn"),
    first=("net.0.net.conv", "net.0.net.bn"),
    second=("net.1.net.conv", "net.1.net.bn"),
    skip=("downsample.net.conv", "downsample.net.bn"),
    points=("point_transforms.{i}.net.conv", "point_transforms.{i}.net.bn"),
    classifier="classifier.linear",
    searched=True,
)
"""Networks that the architecture search found and that were cut out of the supernet."""

SUPERNET = replace(
    SPVNAS,
    marker="downsample.0.feature.layers.0.net.layers.0.net.conv.kernel",
    encoder_block="feature.layers.{j}",
    decoder_block="feature.layers.{j}",
    transition=("transition.net.conv", "transition.net.bn.bn"),
    first=("net.layers.0.net.conv", "net.layers.0.net.bn.bn"),
    second=("net.layers.1.net.conv", "net.layers.1.net.bn.bn"),
    skip=("downsample.net.conv", "downsample.net.bn.bn"),
    points=("point_transforms.{i}.net.conv.linear", "point_transforms.{i}.net.bn.bn"),
)
"""The supernet from which those were cut."""

MMDET3D = Layout(
    project="open-mmlab/mmdetection3d",
    label_map="semantic-kitti",
    marker="backbone.conv_input.0.net.0.kernel",
    stem=(
        ("backbone.conv_input.0.net.0", "backbone.conv_input.0.net.1"),
        ("backbone.conv_input.1.net.0", "backbone.conv_input.1.net.1"),
    ),
    encoder="backbone.encoder.{i}",
    decoder="backbone.decoder.{i}",
    encoder_block="{m}",
    decoder_block="1.{j}",
    transition=MIT_HAN_LAB.transition,
    first=MIT_HAN_LAB.first,
    second=MIT_HAN_LAB.second,
    skip=MIT_HAN_LAB.skip,
    points=("backbone.point_transforms.{i}.0", "backbone.point_transforms.{i}.1"),
    classifier="decode_head.conv_seg",
)
"""SPVCNN, and MinkUNet on mmdetection3d's torchsparse backend."""

LAYOUTS = (MIT_HAN_LAB, SPVNAS, MMDET3D)


class MissingLayer(LookupError):
    """The error for a missing layer without which the widths of the network are unknown.

    Its argument is the layer's name.
    """


def spec_of(shapes: Shapes, family: str, layout: Layout) -> NetSpec:
    """Returns the spec of the network whose tensors, by their names in `PointVoxelUNet`, have these shapes.

    Widths are read from BatchNorms first, so that a kernel of a wrong shape is found when it is compared. Raises
    MissingLayer, or SpecError for widths that fit no network.
    """
    stem = (_width(shapes, "stem.0"), _width(shapes, "stem.1"))
    encoder = tuple(_stage(shapes, f"encoder.{i}", 0, layout.searched) for i in range(NUM_STAGES))
    skips = (*(stage.out for stage in encoder[2::-1]), stem[1])
    decoder = tuple(_stage(shapes, f"decoder.{i}", skip, layout.searched) for i, skip in enumerate(skips))
    head = shapes.get("classifier.bias") or shapes.get("classifier.weight")
    if not head:
        raise MissingLayer("classifier")
    kernel = shapes.get("stem.0.conv.kernel", ())
    in_channels = kernel[1] if len(kernel) == 3 else 4
    points = (family != "minkunet",) * 3
    return NetSpec(family, stem, encoder, decoder, points, num_classes=head[0], in_channels=in_channels)


def _stage(shapes: Shapes, name: str, skip: int, searched: bool) -> StageSpec:
    transition = _width(shapes, f"{name}.transition")
    width, blocks = transition + skip, list[BlockSpec]()
    while not blocks or any(key.startswith(f"{name}.blocks.{len(blocks)}.") for key in shapes):
        block = f"{name}.blocks.{len(blocks)}"
        out = _width(shapes, f"{block}.second")
        projection = not blocks if searched else width != out
        blocks.append(BlockSpec(_width(shapes, f"{block}.first"), out, projection))
        width = out
    return StageSpec(transition, tuple(blocks))


def _width(shapes: Shapes, unit: str) -> int:
    for key in (f"{unit}.norm.weight", f"{unit}.norm.bias", f"{unit}.conv.kernel"):
        if shape := shapes.get(key):
            return shape[-1]
    raise MissingLayer(unit)
