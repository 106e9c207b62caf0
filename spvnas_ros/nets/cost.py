"""The cost of a network on a scan: parameters and multiply-accumulates, counted as the SPVNAS paper counts them.

A convolution costs kernel-map pairs x Cin x Cout, and a linear layer costs rows x Cin x Cout. Normalisation, activation
and interpolation are free. The count depends on the scan, because the pairs do. The dense convolutions of a box branch
cost the same on every scan.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from spvnas_ros.nets.box_spec import BoxBranchSpec
from spvnas_ros.nets.heads import CODE, DIRECTIONS
from spvnas_ros.nets.spec import NUM_STAGES, BlockSpec, NetSpec
from spvnas_ros.nets.unet import PointVoxelUNet
from spvnas_ros.sparse.kernel_map import Levels


@dataclass(frozen=True)
class StageCost:
    """The cost of one stage of a network.

    name: as in the network; stride: of its voxels, in finest voxels; rows: voxels it works on
    width: of its output; parameters and macs: of all its layers
    """

    name: str
    stride: int
    rows: int
    width: int
    parameters: int
    macs: int


def stage_costs(spec: NetSpec, levels: Levels) -> list[StageCost]:
    """Returns the cost of every stage on the scans whose geometry is `levels`.

    The order is stem, encoder, decoder, point branch, classifier, box branch.
    """
    parameters = _stage_parameters(spec)
    rows = [len(level) for level in levels.levels]
    pairs = [len(kernel_map) for kernel_map in levels.neighbours]
    stem = pairs[0] * (spec.in_channels * spec.stem[0] + spec.stem[0] * spec.stem[1])
    costs = [StageCost("stem", 1, rows[0], spec.stem[1], parameters["stem"], stem)]
    width = spec.stem[1]
    for i, stage in enumerate(spec.encoder):
        level = i + 1
        macs = rows[i] * width * stage.transition + _blocks(stage.transition, stage.blocks, rows[level], pairs[level])
        costs.append(_cost(f"encoder.{i}", level, rows, stage.out, parameters, macs))
        width = stage.out
    for i, stage in enumerate(spec.decoder):
        level = NUM_STAGES - 1 - i
        wide = stage.transition + spec.skip_width(i)
        macs = rows[level] * width * stage.transition + _blocks(wide, stage.blocks, rows[level], pairs[level])
        costs.append(_cost(f"decoder.{i}", level, rows, stage.out, parameters, macs))
        width = stage.out
    if spec.point_branch:
        widths = spec.fusions.values()
        macs = rows[0] * sum(into * out for into, out in widths)
        costs.append(_cost("points", 0, rows, [out for _, out in widths][-1], parameters, macs))
    costs.append(_cost("classifier", 0, rows, spec.num_classes, parameters, rows[0] * width * spec.num_classes))
    if branch := spec.boxes:
        level = branch.level
        macs = rows[level] * spec.level_width(level) * branch.width + _bev_macs(branch)  # each voxel is in one column
        costs.append(_cost("boxes", level, rows, branch.width, parameters, macs))
    return costs


def _bev_macs(branch: BoxBranchSpec) -> int:
    x, y = branch.columns
    macs, cells, width = 0, x * y, branch.width
    finest = cells // branch.bev[0].stride ** 2
    for block in branch.bev:
        cells //= block.stride**2
        macs += 9 * cells * (width * block.width + block.layers * block.width**2)
        macs += finest * block.width * block.up  # the upsampling's stride is its kernel, so each cell has one pair
        width = block.width
    up = sum(block.up for block in branch.bev)
    outputs = branch.head.anchors_per_cell * (len(branch.head.classes) + CODE + DIRECTIONS)
    return macs + finest * up * outputs


def count_macs(spec: NetSpec, levels: Levels) -> int:
    """Returns the multiply-accumulates of the whole network."""
    return sum(cost.macs for cost in stage_costs(spec, levels))


def count_parameters(spec: NetSpec) -> int:
    """Returns the number of trainable parameters."""
    return sum(_stage_parameters(spec).values())


def _cost(name: str, level: int, rows: list[int], width: int, parameters: dict[str, int], macs: int) -> StageCost:
    return StageCost(name, 1 << level, rows[level], width, parameters[name], macs)


def _blocks(width: int, blocks: tuple[BlockSpec, ...], rows: int, pairs: int) -> int:
    macs = 0
    for block in blocks:
        macs += pairs * (width * block.middle + block.middle * block.out)
        macs += rows * width * block.out if block.projection else 0
        width = block.out
    return macs


def _stage_parameters(spec: NetSpec) -> dict[str, int]:
    with torch.device("meta"):
        net = PointVoxelUNet(spec)
    counts: dict[str, int] = {}
    for name, parameter in net.named_parameters():
        first, second = name.split(".")[:2]
        stage = f"{first}.{second}" if first in ("encoder", "decoder") else first
        counts[stage] = counts.get(stage, 0) + parameter.numel()
    return counts
