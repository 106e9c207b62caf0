"""Strided convolutions make the sites that dense ones reach, and voxel means are those of the first points."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

import detection_golden as golden
from spvnas_ros.sparse import KeyRangeError
from spvnas_ros.sparse.backend import neighbours_for, spread_for
from spvnas_ros.sparse.kernel_map import KernelMap, neighbour_map
from spvnas_ros.sparse.ops import conv3d
from spvnas_ros.sparse.sites import Sites, Window, mean_voxels, site_exchange, sort_sites, spread

WINDOWS = (
    Window((3, 3, 3), (2, 2, 2), (1, 1, 1)),
    Window((3, 3, 3), (2, 2, 2), (1, 1, 0)),
    Window((1, 1, 3), (1, 1, 2), (0, 0, 0)),
    Window((2, 3, 1), (1, 3, 2), (1, 2, 0)),
)


def some_sites(seed: int, shape: tuple[int, int, int] = (9, 8, 7), share: float = 0.1) -> Tensor:
    mask = torch.rand((2, *shape), generator=torch.Generator().manual_seed(seed)) < share
    mask[1, 3, 2, 1] = True
    return mask.nonzero()


def laid_out(sites: Sites, feats: Tensor) -> Tensor:
    """`[batch, C, z, y, x]`"""
    dense = feats.new_zeros((2, *sites.shape, feats.shape[1]))
    return dense.index_put(tuple(sites.level.coords.T), feats).permute(0, 4, 3, 2, 1)


def kernels(kernel: Tensor, window: Window) -> Tensor:
    """`[volume, in, out]` to torch's `[out, in, z, y, x]`"""
    x, y, z = window.kernel
    return kernel.reshape(z, y, x, *kernel.shape[1:]).permute(4, 3, 0, 1, 2)


@pytest.mark.parametrize("window", WINDOWS)
@given(seed=st.integers(0, 1000))
@settings(max_examples=10)
def test_a_strided_convolution_is_the_dense_one_at_every_site_it_reaches(window: Window, seed: int) -> None:
    torch.manual_seed(seed)
    coords = some_sites(seed)
    sites, order = sort_sites(coords, (9, 8, 7))
    feats = torch.randn(len(coords), 3, dtype=torch.float64)[order].requires_grad_()
    kernel = torch.randn(window.volume, 3, 5, dtype=torch.float64, requires_grad=True)
    grown, step = spread(sites, window)
    ours = laid_out(grown, conv3d(feats, kernel, step))
    stride, padding = window.stride[::-1], window.padding[::-1]
    theirs = functional.conv3d(laid_out(sites, feats), kernels(kernel, window), stride=stride, padding=padding)
    torch.testing.assert_close(ours, theirs)
    ones = laid_out(sites, torch.ones(len(sites), 1, dtype=torch.float64))
    reached = functional.conv3d(ones, torch.ones((1, 1, *window.kernel[::-1])).double(), stride=stride, padding=padding)
    assert len(grown) == int((reached > 0).sum()), "sites are those that an input reaches, and no others"
    weights = torch.randn_like(ours)
    gradients = torch.autograd.grad((ours * weights).sum(), (feats, kernel))
    expected = torch.autograd.grad((theirs * weights).sum(), (feats, kernel))
    torch.testing.assert_close(gradients, expected)


def both_ways(kernel_map: KernelMap, feats: Tensor, kernel: Tensor) -> tuple[Tensor, ...]:
    out = conv3d(feats, kernel, kernel_map)
    return (out.detach(), *torch.autograd.grad(out.sin().sum(), (feats, kernel)))


@pytest.mark.parametrize("window", [*WINDOWS, None])
def test_compiled_convolutions_of_training_are_the_plain_ones(window: Window | None) -> None:
    torch.manual_seed(0)
    sites, _ = sort_sites(some_sites(1, (40, 30, 9)), (40, 30, 9))
    kernel_map = neighbour_map(sites.level) if window is None else spread(sites, window)[1]
    feats = torch.randn(len(sites), 6, requires_grad=True)
    kernel = torch.randn(len(kernel_map.sizes), 6, 11, requires_grad=True)

    def found(feats: Tensor) -> KernelMap:
        return neighbours_for(sites.level, feats) if window is None else spread_for(sites, window, feats)[1]

    compiled = found(feats)
    assert compiled.convolver is not None
    for ours, plain in zip(both_ways(compiled, feats, kernel), both_ways(kernel_map, feats, kernel), strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-4)
    assert found(feats.double()).convolver is None, "the compiled loops are for float32"


def test_cells_lie_where_their_windows_are_centred() -> None:
    path = [sort_sites(torch.tensor([[0, 8, 4, 6]]), (32, 32, 41))[0]]
    for window in (WINDOWS[0], WINDOWS[0], WINDOWS[1], WINDOWS[2]):
        path.append(spread(path[-1], window)[0])
    assert [s.shape for s in path] == [(32, 32, 41), (16, 16, 21), (8, 8, 11), (4, 4, 5), (4, 4, 2)]
    assert [s.scale for s in path] == [(1, 1, 1), (2, 2, 2), (4, 4, 4), (8, 8, 8), (8, 8, 16)]
    assert [s.offset[2] for s in path] == [0, 0, 0, 4, 12]


def test_every_point_has_a_site_and_gets_the_average_of_those_around() -> None:
    sites, _ = sort_sites(some_sites(3, (32, 32, 41), 0.01), (32, 32, 41))
    path = [sites]
    for window in (WINDOWS[0], WINDOWS[0], WINDOWS[1], WINDOWS[2]):
        path.append(spread(path[-1], window)[0])
        between = site_exchange(sites.level, path)
        assert (between.ancestors >= 0).all()
        assert (path[-1].level.coords[between.ancestors, 0] == sites.level.coords[:, 0]).all()
        constant = between.to_points(torch.ones(len(path[-1]), 2))
        torch.testing.assert_close(constant, torch.ones(len(sites), 2))
        # A linear function of place is interpolated exactly where all eight sites are there.
        centres = path[-1].level.coords[:, 1:] * torch.tensor(path[-1].scale) + torch.tensor(path[-1].offset)
        inside = (between.where.rows >= 0).all(dim=1)
        found = between.to_points(centres.float())[inside]
        torch.testing.assert_close(found, sites.level.coords[inside, 1:].float(), rtol=1e-4, atol=1e-3)
    means = site_exchange(sites.level, path[:2]).to_voxels(torch.ones(len(sites), 1))[:, 0]
    assert set(means.tolist()) == {0.0, 1.0}, "sites that only grew have no points"


def test_no_voxel_makes_no_site() -> None:
    sites, _ = sort_sites(torch.zeros((0, 4), dtype=torch.long), (8, 8, 8))
    grown, step = spread(sites, WINDOWS[0])
    assert (len(grown), len(step), grown.shape) == (0, 0, (4, 4, 4))
    assert conv3d(torch.zeros(0, 3), torch.ones(27, 3, 2), step).shape == (0, 2)


def test_cells_that_no_grid_has_are_refused() -> None:
    with pytest.raises(ValueError, match=r"from 0 to below \[512, 8, 8, 8\], found \[0, 1, 2, 8\]"):
        sort_sites(torch.tensor([[0, 1, 2, 8]]), (8, 8, 8))
    with pytest.raises(ValueError, match="the same cell more than once"):
        sort_sites(torch.tensor([[0, 1, 2, 3], [0, 1, 2, 3]]), (8, 8, 8))
    with pytest.raises(ValueError, match=r"found shape \(1, 3\)"):
        sort_sites(torch.tensor([[0, 1, 2]]), (8, 8, 8))
    with pytest.raises(KeyRangeError):
        sort_sites(torch.zeros((0, 4), dtype=torch.long), (1 << 19, 8, 8))


@pytest.mark.parametrize(
    ("name", "size", "limit"),
    [
        ("vox", (0.05, 0.05, 0.1), 40_000),
        ("vox_capped", (0.05, 0.05, 0.1), 300),
        ("vox_coarse", (0.2, 0.2, 0.4), 40_000),
    ],
)
def test_voxel_means_are_spconvs(shared: Path, name: str, size: tuple[float, float, float], limit: int) -> None:
    recorded = golden.load(shared / "golden" / "detection", "ops")
    means = mean_voxels(torch.from_numpy(recorded["vox/points"]), (0, 0, 0, 2, 2, 1), size, 5, limit)
    assert np.array_equal(means.coords.flip(1), recorded[f"{name}/coords_zyx"])
    assert np.array_equal(means.counts, recorded[f"{name}/num"])
    sums = recorded[f"{name}/voxels_sum"] if f"{name}/voxels_sum" in recorded else recorded[f"{name}/voxels"].sum(1)
    np.testing.assert_allclose((means.feats * means.counts[:, None]).numpy(), sums, rtol=1e-5, atol=1e-6)


def test_points_outside_or_not_finite_make_no_voxel() -> None:
    rows = [[0, 0, 0], [2, 0, 0], [1.99, 1, 0.5], [float("nan"), 0, 0], [float("inf"), 0, 0], [-1e-9, 0, 0]]
    cloud = torch.tensor([[*row, 0.5] for row in rows])
    means = mean_voxels(cloud, (0, 0, 0, 2, 2, 1), (0.5, 0.5, 0.5), 5, 10)
    assert means.coords.tolist() == [[0, 0, 0], [3, 2, 1]]
    assert len(mean_voxels(cloud[:0], (0, 0, 0, 2, 2, 1), (0.5, 0.5, 0.5), 5, 10).feats) == 0
