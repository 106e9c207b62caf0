"""Tiles dealt out on paper: the schedule keeps the bounds of list scheduling, and the frame stays the same frame."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import golden
from spvnas_ros.bench.schedule import OnPaper, makespan, row, table
from spvnas_ros.engine.cpu import CpuEngine
from spvnas_ros.nets.spec import NetSpec


@given(st.lists(st.floats(0, 10), min_size=1, max_size=60), st.integers(1, 16))
def test_a_schedule_is_within_grahams_bounds(times: list[float], threads: int) -> None:
    found, longest, shared = makespan(times, threads), max(times), sum(times) / threads
    assert max(longest, shared) <= found * (1 + 1e-9) + 1e-9
    assert found <= (shared + longest * (1 - 1 / threads)) * (1 + 1e-9) + 1e-9


def test_a_frame_on_paper_is_accounted_for() -> None:
    net = golden.trained_looking(NetSpec.spvcnn(4))
    points = np.random.default_rng(0).uniform(-10, 10, (5000, 4)).astype(np.float32)
    team = OnPaper(4)
    answer = CpuEngine(net, 0.2, team, precision="fp32").segment(points, scores=False)
    alone = CpuEngine(net, 0.2, 1, precision="fp32").segment(points, scores=False)
    np.testing.assert_array_equal(answer.labels, alone.labels)
    for launch in team.launches:
        assert sum(launch.shares) == pytest.approx(1)
        assert makespan(launch.shares, 4) >= 1 / 4
    rows = [row(net, 0.2, points, threads, 2, 15.0, "fp32") for threads in (1, 2)]
    assert rows[0].starts == 0
    assert rows[1].starts > 0
    lines = table(rows).splitlines()
    assert len(lines) == 4
    assert lines[2].endswith("| 1.00 | 100% |")
