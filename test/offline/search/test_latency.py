"""Frame times are predicted from measured layers. That they rank networks of a machine, `--check-latency` shows."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from searches import TINY
from spvnas_ros.engine.sample_street import street_scan
from spvnas_ros.errors import UserError
from spvnas_ros.nets.layers import Layer, Sizes, layers_of
from spvnas_ros.offline.search.drives import sizes_of
from spvnas_ros.offline.search.latency import (
    FRAME,
    LatencyTable,
    Measured,
    Stopwatch,
    probes,
    rank_correlation,
    table_of,
)

SIZES = Sizes((80e3, 40e3, 16e3, 5e3, 1.5e3), (700e3, 400e3, 170e3, 60e3, 17e3))


def takes(layer: Layer) -> float:
    """Seconds that a made-up engine takes."""
    pairs, rows = SIZES.terms(layer)
    return 2e-6 + 1e-11 * pairs * layer.into * -(-layer.out // 16) * 16 + 3e-10 * rows * layer.out


@pytest.mark.parametrize("whole", [False, True], ids=["steps", "frames"])
def test_layers_of_other_networks_are_predicted(whole: bool) -> None:
    found = []
    for candidate in probes(TINY, 0.5, 16, np.random.default_rng(0)):
        steps = {layer.name: takes(layer) for layer in layers_of(candidate.spec)} | {"geometry": 1e-3}
        frame = sum(steps.values())
        found.append(Measured(candidate.spec, {FRAME: frame} if whole else steps, frame))
    table = LatencyTable("here", "cpu", 1, SIZES, tuple(found))
    table = LatencyTable.from_dict(json.loads(json.dumps(table.to_dict())))
    rng = np.random.default_rng(1)
    specs = [TINY.sample(rng).spec for _ in range(30)]
    predicted = [table.seconds(spec) for spec in specs]
    real = [1e-3 + sum(map(takes, layers_of(spec))) for spec in specs]
    assert predicted == pytest.approx(real, rel=0.05)
    assert rank_correlation(predicted, real) > 0.95


@pytest.mark.parametrize("precision", ["auto", "fp32"])
def test_every_layer_of_the_engine_is_measured(precision: str) -> None:
    torch.manual_seed(0)
    points = street_scan(seed=0, beams=16, columns=300)[0]
    sizes = sizes_of([points], 0.5)
    stopwatch = Stopwatch(repeats=1, precision=precision)
    table = table_of(stopwatch, sizes, stopwatch.measured(probes(TINY, 0.5, 6, np.random.default_rng(0)), points))
    for probe in table.probes:
        assert {layer.name for layer in layers_of(probe.spec)} < set(probe.seconds)
    assert table.machine.endswith(f"precision {precision}")
    assert 0 < table.seconds(TINY.smallest().spec) <= table.seconds(TINY.largest().spec)


def test_integers_are_timed_on_a_cpu_alone() -> None:
    with pytest.raises(UserError, match=r"timing\.precision int16 is the CPU engine's"):
        Stopwatch("cuda", precision="int16")
