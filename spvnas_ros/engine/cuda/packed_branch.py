"""A box branch's weights on a device: BatchNorm folded, channels padded, the head's three layers as one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from spvnas_ros.engine.cuda.packed_weights import Packed, half_range_error, pack_step
from spvnas_ros.engine.plan import Array, Convolution, Kind, Plan, Source, fold
from spvnas_ros.errors import UserError
from spvnas_ros.kernels.cuda.blocks import DTYPES, TILE_ROWS, Precision, pad
from spvnas_ros.nets.bev import BevStage, PlaneConvNorm
from spvnas_ros.nets.box_branch import BoxBranch, branch_anchors
from spvnas_ros.nets.box_spec import BoxBranchSpec
from spvnas_ros.nets.heads import CODE

COLUMNS = "boxes.columns"

_NOWHERE = -1
"""The slot of features that are no slot of the plan."""
_MOST_CANDIDATES = 2**14
"""Boxes of a frame that are compared with each other: a bit for each pair is 32 MB then."""


@dataclass(frozen=True)
class Plane:
    """A convolution over the bird's-eye view, with BatchNorm folded in; ReLU follows.

    weight: `[Cout, Cin, k, k]` (transposed: `[Cin, Cout, k, k]`), channels padded; bias float32 `[padded Cout]`
    width:  channels of the output that mean something
    stride: of the cells; of a transposed convolution its kernel, too
    """

    name: str
    weight: Tensor
    bias: Tensor
    width: int
    stride: int
    transposed: bool


@dataclass(frozen=True)
class Stage:
    """A block over the bird's-eye view: its layers, and the one whose result goes to the head."""

    layers: tuple[Plane, ...]
    up: Plane


@dataclass(frozen=True)
class PackedBranch:
    """A box branch in one precision.

    taken:      slot of the features that it takes
    columns:    weights of the convolution into columns; head: of the 1x1 convolution, whose rows are of all anchors of
                a cell the scores of the classes, then the codes, then the directions
    corner:     float64 `[3]`, the range's lower corner in voxels, plus half a voxel; low: the same in metres
    xs, ys:     float32, centres of the anchors along x and y; kinds: float32 `[anchors per cell, 7]`, the rest of them
    candidates: how many boxes are compared with each other
    """

    spec: BoxBranchSpec
    taken: int
    columns: Packed
    stages: tuple[Stage, ...]
    head: Packed
    corner: Tensor
    low: Tensor
    xs: Tensor
    ys: Tensor
    kinds: Tensor
    candidates: int

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the steps whose results half precision may not hold."""
        return (COLUMNS, *(plane.name for stage in self.stages for plane in (*stage.layers, stage.up)))

    @property
    def most_boxes(self) -> int:
        """The number of boxes that come out at most."""
        return min(self.spec.head.selection.boxes, self.candidates)


def pack_branch(
    branch: BoxBranch,
    plan: Plan,
    precision: Precision,
    device: torch.device,
    tile_rows: tuple[int, ...] = TILE_ROWS,
    capability: int = 80,
) -> PackedBranch:
    """Returns the weights of a box branch. Arguments are those of `pack_step`.

    Raises HalfRangeError for weights beyond the precision, and ValueError for a branch with more anchors than can be
    numbered or a selection that compares more than 16384 boxes.
    """
    spec, taken = branch.spec, plan.taken
    if taken is None:
        raise ValueError("the plan does not say which features the box branch takes")
    cells, per_cell = spec.head_cells[0] * spec.head_cells[1], spec.head.anchors_per_cell
    rule, classes = spec.head.selection, len(spec.head.classes)
    candidates = min(rule.anchors, cells * per_cell) * (classes if rule.per_class else 1)
    if cells * per_cell >= 2**31 or candidates > _MOST_CANDIDATES:
        raise UserError(
            f"the box branch has {cells * per_cell} anchors and compares {candidates} boxes with each other, expected "
            f"less than 2**31 and {_MOST_CANDIDATES} at most; use engine 'torch'"
        )

    def packed(name: str, level: int, pointwise: bool, source: Source, bias: Array) -> Packed:
        kind: Kind = "pointwise" if pointwise else "neighbours"  # columns have a gather of their own, by `BoxFrame`
        step = Convolution(name, kind, level, (source,), bias, not pointwise, _NOWHERE)
        found = pack_step(plan, step, precision, device, tile_rows, capability)
        assert found is not None
        return found

    kernel, bias = fold(branch.columns.conv.kernel, branch.columns.norm)
    layers = (branch.head.classes, branch.head.boxes, branch.head.directions)
    head_kernel = torch.cat([layer.weight[:, :, 0, 0].T for layer in layers], dim=1)[None]
    head_bias = torch.cat([layer.bias for layer in layers if layer.bias is not None])
    anchors = branch_anchors(spec).view(spec.head_cells[1], spec.head_cells[0], per_cell, CODE)
    low = torch.tensor(spec.point_range[:3], dtype=torch.float64)
    return PackedBranch(
        spec,
        taken,
        packed(COLUMNS, spec.level, False, Source(taken, kernel), bias),
        _stages(branch, precision, device),
        packed("boxes.head", 0, True, Source(_NOWHERE, _array(head_kernel)), _array(head_bias)),
        (low / spec.voxel_size + 0.5).to(device),
        low.to(device),
        anchors[0, :, 0, 0].contiguous().to(device),
        anchors[:, 0, 0, 1].contiguous().to(device),
        anchors[0, 0].contiguous().to(device),
        candidates,
    )


def _stages(branch: BoxBranch, precision: Precision, device: torch.device) -> tuple[Stage, ...]:
    stages = []
    for i, stage in enumerate(branch.bev.stages):
        assert isinstance(stage, BevStage)
        name = f"boxes.bev.{i}"
        layers = [layer for layer in stage.layers if isinstance(layer, PlaneConvNorm)]
        planes = (_plane(f"{name}.layers.{j}", layer, precision, device) for j, layer in enumerate(layers))
        stages.append(Stage(tuple(planes), _plane(f"{name}.up", stage.up, precision, device)))
    return tuple(stages)


def _plane(name: str, layer: PlaneConvNorm, precision: Precision, device: torch.device) -> Plane:
    conv, transposed = layer.conv, isinstance(layer.conv, nn.ConvTranspose2d)
    # `fold` takes kernels [..., Cin, Cout].
    axes, back = ((2, 3, 0, 1), (2, 3, 0, 1)) if transposed else ((2, 3, 1, 0), (3, 2, 0, 1))
    sides = conv.weight.shape[2:]
    folded, shift = fold(conv.weight.permute(axes), layer.norm)
    kernel = torch.from_numpy(folded).view(*sides, conv.in_channels, conv.out_channels)
    if kernel.abs().max() > torch.finfo(DTYPES[precision]).max:
        raise half_range_error([f"the weights of {name}"])
    inputs, outputs = pad(conv.in_channels), pad(conv.out_channels)
    padded = torch.zeros(*sides, inputs, outputs)
    padded[:, :, : conv.in_channels, : conv.out_channels] = kernel
    bias = torch.zeros(outputs)
    bias[: conv.out_channels] = torch.from_numpy(shift)
    weight = padded.permute(back).to(device, DTYPES[precision]).contiguous(memory_format=torch.channels_last)
    return Plane(name, weight, bias.to(device), conv.out_channels, conv.stride[0], transposed)


def _array(value: Tensor) -> Array:
    array: Array = value.detach().float().cpu().contiguous().numpy()
    return array
