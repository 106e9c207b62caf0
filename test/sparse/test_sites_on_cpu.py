"""A detector's geometry by compiled loops is that of the plain torch definition, to the last bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from spvnas_ros.nets.detector_spec import KITTI_RANGE, STEPS, DetectorSpec
from spvnas_ros.nets.second import encoder_sites
from spvnas_ros.sparse import sites_on_cpu
from spvnas_ros.sparse.backend import map_for, means_for, neighbours_for, sites_for, spread_for
from spvnas_ros.sparse.kernel_map import KernelMap, neighbour_map
from spvnas_ros.sparse.ops import PlainExchange
from spvnas_ros.sparse.sites import (
    MeanVoxels,
    Sites,
    Triple,
    Window,
    mean_voxels,
    site_exchange,
    sort_sites,
    spread,
)

ODD_WINDOWS = (Window((2, 3, 1), (1, 3, 2), (1, 2, 0)), Window((5, 1, 4), (2, 1, 3), (4, 0, 1)))


def assert_equal(ours: Tensor, plain: Tensor) -> None:
    torch.testing.assert_close(ours, plain, rtol=0, atol=0, equal_nan=True)


def assert_same_sites(ours: Sites, plain: Sites) -> None:
    for name in ("keys", "coords", "origin"):
        assert_equal(getattr(ours.level, name), getattr(plain.level, name))
    assert (ours.shape, ours.scale, ours.offset) == (plain.shape, plain.scale, plain.offset)


def assert_same_map(ours: KernelMap, plain: KernelMap) -> None:
    assert_equal(ours.in_rows, plain.in_rows)
    assert_equal(ours.out_rows, plain.out_rows)
    assert (ours.sizes, ours.num_in, ours.num_out) == (plain.sizes, plain.num_in, plain.num_out)


def assert_same_exchange(ours: PlainExchange, plain: PlainExchange) -> None:
    assert_equal(ours.ancestors, plain.ancestors)
    assert_equal(ours.where.rows, plain.where.rows)
    assert_equal(ours.where.weights, plain.where.weights)
    assert ours.num_voxels == plain.num_voxels


def assert_same_geometry(coords: Tensor, shape: Triple, windows: tuple[Window, ...]) -> None:
    """Compares everything that is made of a batch of voxels."""
    feats = torch.zeros(len(coords), 4)
    (ours, our_order), (plain, order) = sites_for(coords, shape), sort_sites(coords, shape)
    assert_equal(our_order, order)
    path, plain_path = [ours], [plain]
    for window in (*windows, None):
        assert_same_sites(path[-1], plain_path[-1])
        around, plain_map = neighbours_for(path[-1].level, feats), neighbour_map(plain_path[-1].level)
        assert_same_map(around, plain_map)
        assert (around.convolver is not None) == bool(len(plain_map))
        between = sites_on_cpu.site_exchange(ours.level, path)
        assert_same_exchange(between, site_exchange(plain.level, plain_path))
        if window is not None:
            (grown, step), (plain_grown, plain_step) = (
                spread_for(path[-1], window, feats),
                spread(plain_path[-1], window),
            )
            assert_same_map(step, plain_step)
            path.append(grown)
            plain_path.append(plain_grown)


@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(*[st.integers(1, 40)] * 3),
    count=st.integers(0, 200),
    borders=st.booleans(),
    dtype=st.sampled_from([torch.int32, torch.int64]),
)
@settings(max_examples=25)
def test_any_batch(seed: int, shape: Triple, count: int, borders: bool, dtype: torch.dtype) -> None:
    rng = np.random.default_rng(seed)
    cells = rng.integers(0, shape, (count, 3))
    if borders:  # on the first or the last cell of an axis
        cells[:, 0] = rng.integers(0, 2, count) * (shape[0] - 1)
        cells[:, 2] = rng.integers(0, 2, count) * (shape[2] - 1)
    frames = rng.choice([0, 1, 3, 511], (count, 1))  # frame 2 is empty
    coords = rng.permutation(np.unique(np.hstack([frames, cells]), axis=0).reshape(-1, 4))
    coords = torch.from_numpy(np.asfortranarray(coords)).to(dtype)
    fitting = tuple(w for w in (*STEPS[:3], *ODD_WINDOWS) if min(w.shape(shape)) > 0)[:3]
    assert_same_geometry(coords, shape, fitting[:1])
    for window in fitting[1:]:
        assert_same_geometry(coords, shape, (window,))


def test_a_full_grid_and_an_empty_batch() -> None:
    assert_same_geometry(torch.ones(2, 7, 6, 41).nonzero(), (7, 6, 41), STEPS)
    assert_same_geometry(torch.zeros((0, 4), dtype=torch.long), (64, 64, 41), STEPS)


def means(points: Tensor, **changed: object) -> tuple[MeanVoxels, MeanVoxels]:
    options = {"point_range": KITTI_RANGE, "size": (0.05, 0.05, 0.1), "max_points": 5, "max_voxels": 40_000} | changed
    return means_for(points, **options), mean_voxels(points, **options)  # type: ignore[arg-type]


def assert_same_means(ours: MeanVoxels, plain: MeanVoxels) -> None:
    for name in ("coords", "feats", "counts"):
        assert_equal(getattr(ours, name), getattr(plain, name))


def test_real_scans(full_scan: np.ndarray) -> None:
    clouds = [torch.from_numpy(full_scan[::3].copy()), torch.from_numpy(full_scan[::-3, [1, 0, 2, 3]].copy())]
    spec = DetectorSpec.second("openpcdet", width=1)
    coords = []
    for i, cloud in enumerate(clouds):
        ours, plain = means(cloud)
        assert_same_means(ours, plain)
        assert len(plain.coords) > 3000
        coords.append(torch.cat([torch.full_like(plain.coords[:, :1], i), plain.coords], dim=1))
        assert_same_means(*means(cloud, max_voxels=3000))
        assert_same_means(*means(cloud, max_points=1, size=(2.0, 1.0, 0.5)))
    assert_same_geometry(torch.cat(coords), spec.shapes()[0], STEPS)


@given(seed=st.integers(0, 2**32 - 1), count=st.integers(0, 300), channels=st.integers(3, 6))
@settings(max_examples=25)
def test_means_of_any_cloud(seed: int, count: int, channels: int) -> None:
    rng = np.random.default_rng(seed)
    points = rng.normal(0, 1, (count, channels)).astype(np.float32)
    points[rng.random(points.shape) < 0.02] = rng.choice([np.nan, np.inf, -np.inf, 1e30, -0.0, 1.0, -1.0])
    grid = {"point_range": (-1, -1, -0.5, 1, 1, 0.6), "size": (0.3, 0.1, 0.2), "max_points": 3}
    for max_voxels in (1, 20, 1000):
        assert_same_means(*means(torch.from_numpy(points), max_voxels=max_voxels, **grid))
    assert_same_means(*means(torch.from_numpy(points[::2]), max_voxels=1000, **grid))  # rows of a larger array


@pytest.mark.parametrize("window", [*STEPS, *ODD_WINDOWS])
def test_tiles_are_those_of_the_pairs_alone(window: Window) -> None:
    coords = (torch.rand(2, 30, 20, 11, generator=torch.Generator().manual_seed(0)) < 0.05).nonzero()
    sites, _ = sites_for(coords, (30, 20, 11))
    feats = torch.zeros(1)
    _, found = spread_for(sites, window, feats)
    again = map_for(spread(sites, window)[1], feats)
    for side in ("forward", "backward"):
        ours, theirs = (getattr(each.convolver, side).pairs for each in (found, again))
        for name in ("starts", "ins", "outs"):
            assert np.array_equal(getattr(ours, name), getattr(theirs, name))


def test_double_precision_goes_the_plain_way() -> None:
    spec = DetectorSpec.second("openpcdet", width=1, point_branch=True)
    coords = torch.tensor([[0, 5, 6, 7], [1, 5, 6, 7]])
    sites = encoder_sites(spec, coords, torch.zeros(2, 4, dtype=torch.float64))
    assert all(each.convolver is None for each in (*sites.neighbours, *sites.steps))
    assert len(encoder_sites(spec, coords, torch.zeros(2, 4)).sites[-1]) == len(sites.sites[-1])
