"""Multiply-accumulates and parameters are counted as the paper counts them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from spvnas_ros.nets.cost import count_macs, count_parameters, stage_costs
from spvnas_ros.nets.spec import NetSpec
from spvnas_ros.sparse import Levels, build_levels, quantize


@pytest.fixture(scope="module")
def levels(full_scan: np.ndarray) -> Levels:
    return build_levels(quantize(torch.from_numpy(full_scan), 0.05).coords)


def test_the_full_scan_has_the_recorded_geometry(levels: Levels) -> None:
    assert [len(level) for level in levels.levels] == [94_625, 68_931, 42_166, 21_525, 9_522]
    assert [len(m) for m in levels.neighbours] == [286_263, 309_177, 267_754, 166_517, 82_740]
    assert [len(m) for m in levels.halvings] == [94_625, 68_931, 42_166, 21_525]


def test_macs_of_spvcnn_w16(levels: Levels) -> None:
    assert count_macs(NetSpec.spvcnn(16), levels) == 35_737_951_056


@pytest.mark.parametrize(
    ("spec", "giga_macs"),
    [(NetSpec.spvcnn(32), 142.74), (NetSpec.minkunet(16), 34.48), (NetSpec.minkunet(32), 137.70)],
)
def test_macs_of_the_other_networks(levels: Levels, spec: NetSpec, giga_macs: float) -> None:
    assert round(count_macs(spec, levels) / 1e9, 2) == giga_macs


def test_stages_add_up_to_the_network(levels: Levels) -> None:
    spec = NetSpec.spvcnn(20)
    costs = stage_costs(spec, levels)
    assert sum(cost.parameters for cost in costs) == count_parameters(spec) == 8_793_617
    assert [cost.name for cost in costs][:2] == ["stem", "encoder.0"]
