"""Sparse operations agree with the recorded outputs of torchsparse, and with themselves under autograd."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import golden
from spvnas_ros.sparse import (
    KeyRangeError,
    Levels,
    build_levels,
    conv3d,
    devoxelize,
    interpolation,
    quantize,
    voxelize,
)
from spvnas_ros.sparse.coords import MAX_EXTENT, decode, encode

TOLERANCE = 1e-5
BATCHES = ("a", "b2")


@pytest.fixture(scope="module")
def recorded(shared: Path) -> dict[str, np.ndarray]:
    with np.load(shared / "golden" / "ops.npz") as archive:
        return dict(archive)


def tensors(recorded: dict[str, np.ndarray], *names: str) -> list[Tensor]:
    return [torch.from_numpy(recorded[name]) for name in names]


def close(levels: Levels, level: int, feats: Tensor, recorded_coords: np.ndarray, recorded_feats: np.ndarray) -> None:
    """Compare by coordinate: row orders differ."""
    assert len(feats) == len(recorded_coords)
    rows = levels.levels[level].find(golden.coords(recorded_coords, 1 << level))
    assert (rows >= 0).all()
    torch.testing.assert_close(feats[rows], torch.from_numpy(recorded_feats), rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("batch", BATCHES)
def test_convolutions_match_torchsparse(recorded: dict[str, np.ndarray], batch: str) -> None:
    def name(key: str) -> str:
        return f"{batch}/{key}"

    feats, w3, w2, wt, w3b, w2b = tensors(recorded, *map(name, ("F", "w3", "w2", "wt", "w3b", "w2b")))
    levels = build_levels(golden.coords(recorded[name("C")]), depth=2)

    def check(level: int, out: Tensor, key: str) -> None:
        close(levels, level, out, recorded[name(f"{key}/C")], recorded[name(f"{key}/F")])

    y3 = conv3d(feats[levels.order], w3, levels.neighbours[0])
    check(0, y3, "y3")
    y2 = conv3d(y3, w2, levels.halvings[0])
    check(1, y2, "y2")
    check(0, conv3d(y2, wt, levels.halvings[0].transposed()), "yt")
    y3b = conv3d(y2, w3b, levels.neighbours[1])
    check(1, y3b, "y3b")
    check(2, conv3d(y3b, w2b, levels.halvings[1]), "y2b")


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize(
    ("key", "level", "out_level"),
    [("kmap_k3s1", 0, 0), ("kmap_k2s2", 0, 1), ("kmap_s2_k3s1", 1, 1), ("kmap_s2_k2s2", 1, 2)],
)
def test_kernel_maps_hold_the_same_pairs(
    recorded: dict[str, np.ndarray], batch: str, key: str, level: int, out_level: int
) -> None:
    tables = [recorded[f"{batch}/{name}/C"] if name else recorded[f"{batch}/C"] for name in ("", "y2", "y2b")]
    levels = build_levels(golden.coords(tables[0]), depth=2)
    ours = levels.neighbours[level] if level == out_level else levels.halvings[level]
    assert list(ours.sizes) == recorded[f"{batch}/{key}/nbsizes"].tolist()

    pairs = torch.from_numpy(recorded[f"{batch}/{key}/nbmaps"]).long()
    in_rows = levels.levels[level].find(golden.coords(tables[level], 1 << level))[pairs[:, 0]]
    out_rows = levels.levels[out_level].find(golden.coords(tables[out_level], 1 << out_level))[pairs[:, 1]]
    start = 0
    for size in ours.sizes:
        part = slice(start, start + size)
        theirs = set(zip(in_rows[part].tolist(), out_rows[part].tolist(), strict=True))
        assert theirs == set(zip(ours.in_rows[part].tolist(), ours.out_rows[part].tolist(), strict=True))
        start += size


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("case", ["v2p_s1", "v2p_s2", "v2p_s4", "v2p_missing"])
def test_devoxelize_matches_torchsparse(recorded: dict[str, np.ndarray], batch: str, case: str) -> None:
    stride = int(case[-1]) if case[-1].isdigit() else 1
    prefix = f"{batch}/{case}"
    result = prefix if case == "v2p_missing" else f"{prefix}/trilinear"
    point_coords, feats, expected, expected_weights = tensors(
        recorded, f"{batch}/iv1/z_C_after", f"{prefix}/vox_F", f"{result}/F", f"{result}/w8"
    )
    levels = build_levels(golden.coords(recorded[f"{prefix}/vox_C"], stride), depth=0)
    points = torch.cat([point_coords[:, 3:], point_coords[:, :3]], dim=1)
    where = interpolation(levels.levels[0], stride, points)

    torch.testing.assert_close(where.weights, expected_weights, rtol=0, atol=TOLERANCE)
    assert ((where.rows < 0).numpy() == (recorded[f"{result}/idx8"] < 0)).all()
    out = devoxelize(feats[levels.order], where)
    torch.testing.assert_close(out, expected, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("case", ["p2v_s1", "p2v_s2", "p2v_s4", "iv1", "iv_half"])
def test_voxelize_matches_torchsparse(recorded: dict[str, np.ndarray], batch: str, case: str) -> None:
    stride = int(case[-1]) if case.startswith("p2v") else 1
    points = recorded[f"{batch}/{'iv_half' if case == 'iv_half' else 'iv1'}/z_C_after"]
    voxels = recorded[f"{batch}/v2p_s{stride}/vox_C" if case.startswith("p2v") else f"{batch}/{case}/C"]
    levels = build_levels(golden.coords(voxels, stride), depth=0)
    rows = levels.levels[0].find(golden.coords(np.floor(points), stride))
    means = voxelize(torch.from_numpy(recorded[f"{batch}/pt_F"]), rows, len(voxels))
    torch.testing.assert_close(
        means, torch.from_numpy(recorded[f"{batch}/{case}/F"])[levels.order], rtol=TOLERANCE, atol=TOLERANCE
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_means_in_half_precision_are_summed_in_float32(dtype: torch.dtype) -> None:
    feats = torch.full((2000, 3), 100.0, dtype=dtype)  # their sum is beyond float16
    means = voxelize(feats, torch.arange(2000) % 2, 2)
    assert means.dtype == dtype
    torch.testing.assert_close(means, feats[:2])


def small_scan() -> tuple[Levels, Tensor]:
    generator = torch.Generator().manual_seed(0)
    cells = torch.unique(torch.randint(0, 6, (40, 4), generator=generator) // torch.tensor([3, 1, 1, 1]), dim=0)
    levels = build_levels(cells, depth=1)
    return levels, torch.randn(len(cells), 3, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("kind", ["neighbours", "halving", "transposed"])
def test_convolution_gradients(kind: str) -> None:
    levels, feats = small_scan()
    kernel_map = {
        "neighbours": levels.neighbours[0],
        "halving": levels.halvings[0],
        "transposed": levels.halvings[0].transposed(),
    }[kind]
    kernel = torch.randn(len(kernel_map.sizes), 3, 2, dtype=torch.float64, requires_grad=True)
    inputs = feats[: kernel_map.num_in].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda f, w: conv3d(f, w, kernel_map), (inputs, kernel))


def test_point_voxel_exchange_gradients() -> None:
    levels, feats = small_scan()
    where = interpolation(levels.levels[1], 2, levels.levels[0].coords.double())
    where = type(where)(where.rows, where.weights.double())
    coarse = torch.randn(len(levels.levels[1]), 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda f: devoxelize(f, where), (coarse,))
    points = feats.requires_grad_()
    assert torch.autograd.gradcheck(lambda f: voxelize(f, levels.ancestors(1), len(levels.levels[1])), (points,))


@given(st.lists(st.tuples(st.integers(0, 511), *[st.integers(0, MAX_EXTENT - 1)] * 3), min_size=1, max_size=50))
def test_keys_round_trip_and_keep_the_order_of_their_parents(cells: list[tuple[int, int, int, int]]) -> None:
    coords = torch.tensor(cells)
    keys = encode(coords)
    assert (decode(keys) == coords).all()
    parents = encode(torch.cat([coords[:, :1], coords[:, 1:] >> 1], dim=1))
    assert ((parents[:, None] < parents) <= (keys[:, None] < keys)).all()


def test_levels_do_not_depend_on_a_shift_by_the_coarsest_voxel() -> None:
    levels, _ = small_scan()
    cells = levels.levels[0].coords
    shifted = build_levels(cells - torch.tensor([0, 64, 1600, 16]), depth=4)
    plain = build_levels(cells, depth=4)
    assert [len(lv) for lv in shifted.levels] == [len(lv) for lv in plain.levels]
    assert [m.sizes for m in shifted.neighbours] == [m.sizes for m in plain.neighbours]


def test_the_first_point_of_a_voxel_speaks_for_it() -> None:
    points = torch.tensor([[0.0, 0, 0, 0.1], [1, 0, 0, 0.2], [0.01, 0, 0, 0.3], [1.02, 0, 0, 0.4], [-1, 2, 0, 0.5]])
    voxels = quantize(points, 0.05)
    assert sorted(voxels.first.tolist()) == [0, 1, 4]
    assert (voxels.coords[voxels.inverse, 1:] == torch.tensor([[20, 0, 0], [40, 0, 0]] * 2 + [[0, 40, 0]])).all()


def test_scans_beyond_the_key_range_are_refused() -> None:
    far = torch.tensor([[0.0, 0, 0, 0], [0.05 * MAX_EXTENT, 0, 0, 0]])
    with pytest.raises(KeyRangeError, match="262145 voxels along an axis, at most 262144"):
        quantize(far, 0.05)
    with pytest.raises(KeyRangeError, match="262145 voxels"):
        build_levels(torch.tensor([[0, 0, 0, 0], [0, MAX_EXTENT, 0, 0]]))
    with pytest.raises(KeyRangeError, match="from the origin"):
        quantize(torch.tensor([[1e9, 0.0, 0.0, 0.0]]), 0.05)


def test_repeated_voxels_are_refused() -> None:
    with pytest.raises(ValueError, match="same voxel more than once"):
        build_levels(torch.tensor([[0, 1, 2, 3], [0, 1, 2, 3]]))
