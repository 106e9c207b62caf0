"""What the CUDA engine decides before it launches anything: capacities, memory, blocks."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cuda_engines import narrow
from spvnas_ros.engine.cuda.launches import LEVELS
from spvnas_ros.engine.cuda.layout import build_layout
from spvnas_ros.engine.plan import build_plan
from spvnas_ros.kernels.cuda.blocks import choose_blocks
from spvnas_ros.kernels.cuda.geometry import Capacity
from spvnas_ros.nets.spec import NetSpec, summary
from spvnas_ros.nets.unet import PointVoxelUNet


@given(st.integers(1, 10**6), st.lists(st.integers(1, 10**6), min_size=5, max_size=5), st.integers(1, 10**6))
def test_capacities_leave_room_and_only_grow(points: int, voxels: list[int], more: int) -> None:
    first = Capacity.with_room(points, voxels)
    assert first.holds(points, voxels)
    assert first.holds(points * 5 // 4, [n * 5 // 4 for n in voxels])
    then = first.grown(more, [more] * LEVELS)
    assert then.holds(more, [more] * LEVELS)
    assert then.holds(first.points, first.voxels)
    assert all(n % Capacity.UNIT == 0 for n in (then.points, *then.voxels))


@pytest.mark.parametrize(
    "spec",
    [
        NetSpec.spvcnn(16),
        NetSpec.minkunet(32),
        narrow(True),
        *(replace(narrow(True), point_levels=levels) for levels in product((False, True), repeat=3)),
    ],
    ids=summary,
)
def test_a_step_never_writes_over_what_is_still_read(spec: NetSpec) -> None:
    plan = build_plan(PointVoxelUNet(spec).eval())
    layout = build_layout(plan, (4096, 3072, 2048, 1024, 1024), "fp16")
    arena = torch.full((layout.total,), 0xFF, dtype=torch.uint8)
    views = layout.views(arena, (4096, 3072, 2048, 1024, 1024), "fp16")
    assert layout.total < 0.6 * 2 * sum(v.numel() for v in views)
    holds = {0: views[0].fill_(0)}
    for number, step in enumerate(plan.steps[:-1], start=1):
        for slot in step.reads:
            assert (holds[slot] == holds[slot].reshape(-1)[0]).all()
            assert holds[slot].reshape(-1)[0] == slot, f"{step.name} reads what another step has overwritten"
        holds[step.out] = views[step.out].fill_(step.out)
        assert number <= len(plan.steps)


@given(
    st.integers(1, 300), st.integers(1, 300), st.sampled_from(["fp16", "bf16", "fp32"]), st.sampled_from([75, 80, 90])
)
def test_blocks_cover_every_width_without_much_waste(width: int, out: int, precision: str, capability: int) -> None:
    blocks = choose_blocks(64, [width], out, precision, capability)  # type: ignore[arg-type]
    assert blocks.depth >= 16
    assert blocks.columns >= 16
    assert -(-out // blocks.columns) * blocks.columns < 2 * max(out, 16) + 16
    assert blocks.rows * blocks.columns <= 64 * 128
