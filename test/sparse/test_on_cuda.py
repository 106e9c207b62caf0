"""Training through Triton kernels has the outputs and gradients of the plain torch operations, on real points."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from on_device import DEVICE  # first: it decides how triton runs
from places import HELPERS
from spvnas_ros.nets.spec import NUM_STAGES, NetSpec
from spvnas_ros.nets.unet import PointVoxelUNet
from spvnas_ros.sparse import KernelMap, Levels, build_levels, conv3d, quantize
from spvnas_ros.sparse.on_cuda import build_training_levels, gather_of, shares_of

LIMITS = {torch.float32: 2e-6, torch.float16: 4e-3}
"""Of the largest value: what sums in another order, or rounded once instead of 27 times, may differ by."""

training_levels = partial(build_training_levels, depth=NUM_STAGES)
KINDS = ("neighbours", "halving", "doubling")


@pytest.fixture(scope="module")
def coords(full_scan: np.ndarray) -> Tensor:
    """Voxels of two crops of a real scan as a batch, on both sides of zero."""
    near = full_scan[np.linalg.norm(full_scan[:, :2], axis=1) < 8]
    first = quantize(torch.from_numpy(near[:800]), 0.25).coords
    second = quantize(torch.from_numpy(near[-800:, [1, 0, 2, 3]].copy()), 0.25, batch=1).coords
    return (torch.cat([second, first - torch.tensor([0, 9, 4, 2])])).to(DEVICE)


def map_of(levels: Levels, kind: str) -> KernelMap:
    if kind == "neighbours":
        return levels.neighbours[0]
    return levels.halvings[0] if kind == "halving" else levels.halvings[0].transposed()


def convolution(kernel_map: KernelMap, channels: tuple[int, int], dtype: torch.dtype) -> list[Tensor]:
    """Output, input gradient and kernel gradient."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(DEVICE, dtype)

    feats = random(kernel_map.num_in, channels[0]).requires_grad_()
    kernel = random(len(kernel_map.sizes), *channels).requires_grad_()
    out = conv3d(feats, kernel, kernel_map)
    out.backward(random(*out.shape))
    assert feats.grad is not None
    assert kernel.grad is not None
    return [out.detach(), feats.grad, kernel.grad]


def assert_close(ours: Tensor, plain: Tensor, limit: float) -> None:
    assert ours.dtype == plain.dtype
    scale = float(plain.abs().max())
    torch.testing.assert_close(ours.float(), plain.float(), rtol=0, atol=limit * scale)


@pytest.mark.parametrize(
    ("channels", "dtype"),
    [((4, 16), torch.float32), ((40, 75), torch.float32), ((33, 20), torch.float16)],
    ids=["narrow", "wide", "half"],
)
@pytest.mark.parametrize("kind", KINDS)
def test_convolutions_and_their_gradients(
    coords: Tensor, kind: str, channels: tuple[int, int], dtype: torch.dtype
) -> None:
    kernels, plain = map_of(training_levels(coords), kind), map_of(build_levels(coords), kind)
    assert kernels.convolver is not None
    assert plain.convolver is None
    for ours, theirs in zip(convolution(kernels, channels, dtype), convolution(plain, channels, dtype), strict=True):
        assert_close(ours, theirs, LIMITS[dtype])


def test_under_autocast_features_are_half_and_the_kernels_gradient_is_not(coords: Tensor) -> None:
    levels = training_levels(coords)
    feats = torch.randn(levels.neighbours[0].num_in, 8, device=DEVICE)
    kernel = torch.randn(27, 8, 8, device=DEVICE, requires_grad=True)
    with torch.autocast(DEVICE.type, torch.float16):
        out = conv3d(feats, kernel, levels.neighbours[0])
    out.float().square().mean().backward()
    assert kernel.grad is not None
    assert (out.dtype, kernel.grad.dtype) == (torch.float16, torch.float32)
    expected = conv3d(feats, kernel.detach(), build_levels(coords).neighbours[0])
    assert_close(out.detach().float(), expected, 4e-3)


def test_a_frozen_kernel_and_given_features_get_no_gradient(coords: Tensor) -> None:
    kernel_map = training_levels(coords).halvings[0]
    feats = torch.randn(kernel_map.num_in, 4, device=DEVICE)
    kernel = torch.randn(8, 4, 4, device=DEVICE, requires_grad=True)
    conv3d(feats, kernel, kernel_map).sum().backward()
    assert kernel.grad is not None
    assert not conv3d(feats, kernel.detach(), kernel_map).requires_grad


def test_double_precision_goes_the_plain_way(coords: Tensor) -> None:
    kernel_map = training_levels(coords).halvings[0]
    feats, kernel = torch.randn(kernel_map.num_in, 2).double().to(DEVICE), torch.randn(8, 2, 2).double().to(DEVICE)
    assert torch.equal(conv3d(feats, kernel, kernel_map), conv3d(feats, kernel, build_levels(coords).halvings[0]))


def test_a_whole_networks_gradients(coords: Tensor) -> None:
    few = coords[::40]
    torch.manual_seed(0)
    net = PointVoxelUNet(NetSpec.of([4] * 9, [1] * 8, num_classes=3)).to(DEVICE).eval()
    feats = torch.randn(len(few), 4, device=DEVICE)

    def gradients(levels: Levels) -> list[Tensor]:
        net.zero_grad()
        net(few, feats, levels).square().mean().backward()
        return [p.grad.clone() for p in net.parameters() if p.grad is not None]

    ours, plain = gradients(training_levels(few)), gradients(build_levels(few))
    assert len(ours) == len(plain) > 50
    for found, expected in zip(ours, plain, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@given(sizes=st.lists(st.integers(0, 20_000), min_size=1, max_size=27))
def test_shares_cover_every_kernel_rows_pairs_once(sizes: list[int]) -> None:
    tasks, starts = shares_of(sizes)
    assert tasks[-1] == sum(sizes)
    assert len(starts) == len(sizes) + 1
    for k, size in enumerate(sizes):
        assert tasks[starts[k]] == sum(sizes[:k])
        assert tasks[starts[k + 1]] - tasks[starts[k]] == size
        assert all(after > before for before, after in itertools.pairwise(tasks))


@given(seed=st.integers(0, 2**32 - 1), number=st.integers(1, 90), volume=st.sampled_from([8, 27]))
@settings(max_examples=25)
def test_a_gather_holds_every_pair_and_lists_what_a_tile_needs(seed: int, number: int, volume: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows, out_rows = torch.nonzero(torch.rand((volume, number), generator=generator) < 0.2, as_tuple=True)
    in_rows = torch.randint(0, 1000, (len(rows),), generator=generator)
    gather = gather_of(rows, in_rows, out_rows, volume, number, tile_rows=16)
    assert gather.rows is not None
    assert gather.lists is not None
    assert gather.lengths is not None
    assert torch.equal(gather.rows.long().sort().values, torch.arange(number))
    table = torch.full((volume, number), -1, dtype=torch.int32)
    table[:, gather.rows.long()] = gather.inputs
    assert torch.equal(table[rows, out_rows].long(), in_rows)
    assert int((table >= 0).sum()) == len(rows)
    for tile, length in enumerate(gather.lengths.tolist()):
        needed = (gather.inputs[:, 16 * tile : 16 * tile + 16] >= 0).any(dim=1).nonzero().flatten()
        assert gather.lists[tile, :length].tolist() == needed.tolist()


def test_the_weight_gradient_compiles_without_spills_and_in_a_pipeline() -> None:
    """In a process of its own: in this one triton interprets."""
    script = HELPERS / "cuda_gradient_launches.py"
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert {kernel["name"] for kernel in found} == {"sum_outer_products", "add_partial"}
    for kernel in found:
        assert kernel["spilled"] == 0, kernel
        assert kernel["copies"] > 0 or kernel["name"] == "add_partial", kernel
