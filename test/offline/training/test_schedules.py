"""The rate, the average of the weights, and which scans a step takes."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spvnas_ros.nets.spec import NetSpec
from spvnas_ros.nets.unet import PointVoxelUNet
from spvnas_ros.offline.training.config import ScheduleConfig
from spvnas_ros.offline.training.data import StepSampler
from spvnas_ros.offline.training.schedules import rate_factor
from spvnas_ros.offline.training.task import averaged


def test_the_rate_warms_up_and_falls() -> None:
    cosine = ScheduleConfig(warmup_steps=10, warmup_start=0.1, floor=0.01)
    rates = [rate_factor(cosine, step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[50] == pytest.approx(0.505)
    assert max(rates) == rates[10]
    assert rates[10:] == sorted(rates[10:], reverse=True)
    steps = ScheduleConfig(kind="steps", warmup_steps=0, milestones=(0.5, 0.75), gamma=0.1)
    assert [rate_factor(steps, step, 8) for step in (3, 4, 6)] == pytest.approx([1, 0.1, 0.01])


def test_the_average_forgets_its_beginning_and_then_follows_slowly() -> None:
    net = PointVoxelUNet(NetSpec.spvcnn(2))
    average = averaged(net, 0.9)
    for value in (1.0, 1.0, 2.0):
        with torch.no_grad():
            net.classifier.bias.fill_(value)
        net.stem[0].norm.num_batches_tracked += 1
        average.update_parameters(net)
    kept = 3 / 12
    torch.testing.assert_close(average.module.classifier.bias, torch.full((19,), kept * 1 + (1 - kept) * 2))
    assert int(average.module.stem[0].norm.num_batches_tracked) == 3


@given(st.integers(1, 9), st.sampled_from([1, 2]), st.integers(1, 3), st.integers(0, 6))
def test_steps_share_the_scans_among_processes_and_do_not_depend_on_the_start(
    size: int, replicas: int, share: int, start: int
) -> None:
    batch, steps = share * replicas, 7
    whole = list(StepSampler(size, batch, steps, seed=3))
    parts = [
        list(StepSampler(size, batch, steps, seed=3, start=lambda: start, rank=rank, replicas=replicas))
        for rank in range(replicas)
    ]
    assert [[*itertools.chain(*step)] for step in zip(*parts, strict=True)] == whole[start:]
    keys = [key for step in whole for key in step]
    for epoch in range(len(keys) // size):
        assert sorted(keys[epoch * size : (epoch + 1) * size]) == [(epoch, index) for index in range(size)]
