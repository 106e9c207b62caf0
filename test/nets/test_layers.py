"""The layers of a network: their names are the plan's, and their costs add up to those that are counted by stages."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch

from spvnas_ros.engine.plan import build_plan
from spvnas_ros.nets.cost import count_macs, count_parameters
from spvnas_ros.nets.layers import Sizes, layers_of
from spvnas_ros.nets.spec import NetSpec, summary
from spvnas_ros.nets.unet import PointVoxelUNet
from spvnas_ros.sparse.kernel_map import Levels, build_levels

PLAIN = NetSpec.of([8, 12, 4, 20, 16, 12, 8, 4, 12], [1] * 8)
PATTERNS = [replace(PLAIN, point_levels=levels) for levels in product((False, True), repeat=3)]
NETS = [
    NetSpec.spvcnn(4),
    NetSpec.minkunet(5, num_classes=3),
    NetSpec.of([8, 12, 4, 20, 8, 12, 8, 4, 16], [1, 2, 3, 1, 2, 1, 1, 2], in_channels=5),
    *PATTERNS,
]


@pytest.fixture(scope="module")
def levels() -> Levels:
    cells = np.unique(np.random.default_rng(0).integers(0, 12, (900, 3)), axis=0)
    return build_levels(torch.from_numpy(np.pad(cells, ((0, 0), (1, 0)))).int())


@pytest.mark.parametrize("spec", NETS, ids=summary)
def test_layers_are_those_of_the_plan_and_cost_what_the_stages_cost(spec: NetSpec, levels: Levels) -> None:
    layers = layers_of(spec)
    assert [layer.name for layer in layers] == [step.name for step in build_plan(PointVoxelUNet(spec).eval()).steps]
    assert Sizes.of(levels).macs(layers) == count_macs(spec, levels)
    assert sum(layer.parameters for layer in layers) == count_parameters(spec)
    assert Sizes.of(levels, 2).macs(layers) == count_macs(spec, levels) / 2
