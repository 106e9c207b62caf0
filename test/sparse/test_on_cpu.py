"""Training on the CPU runs through compiled loops with the outputs and gradients of the plain torch operations."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from spvnas_ros.nets.spec import NUM_STAGES, POINT_LEVELS, NetSpec
from spvnas_ros.nets.unet import PointVoxelUNet
from spvnas_ros.sparse import KernelMap, KeyRangeError, Levels, build_levels, conv3d, quantize
from spvnas_ros.sparse.on_cpu import build_training_levels
from spvnas_ros.sparse.ops import exchange

RELATIVE_LIMIT = 1e-4
training_levels = partial(build_training_levels, depth=NUM_STAGES, point_levels=POINT_LEVELS)
KINDS = ("neighbours", "halving", "doubling")


@pytest.fixture(autouse=True)
def _two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def scans(full_scan: np.ndarray) -> Tensor:
    """Voxels of 0.3 m of two real scans (one of them turned), with coordinates on both sides of zero."""
    first = quantize(torch.from_numpy(full_scan), 0.3).coords
    second = quantize(torch.from_numpy(full_scan[:40_000, [1, 0, 2, 3]].copy()), 0.3, batch=1).coords
    return torch.cat([second, first - torch.tensor([0, 300, 40, 5])])


def random_scans(seed: int, count: int, extent: int, scans: int) -> Tensor:
    rng = np.random.default_rng(seed)
    coords = np.concatenate([rng.integers(0, scans, (count, 1)), rng.integers(-extent, extent, (count, 3))], axis=1)
    return torch.from_numpy(rng.permutation(np.unique(coords, axis=0)))


def map_of(levels: Levels, kind: str, level: int) -> KernelMap:
    if kind == "neighbours":
        return levels.neighbours[level]
    return levels.halvings[level] if kind == "halving" else levels.halvings[level].transposed()


def convolution(kernel_map: KernelMap, channels: tuple[int, int], seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Output, input gradient and kernel gradient."""
    generator = torch.Generator().manual_seed(seed)
    feats = torch.randn(kernel_map.num_in, channels[0], generator=generator, requires_grad=True)
    kernel = torch.randn(len(kernel_map.sizes), *channels, generator=generator, requires_grad=True)
    out = conv3d(feats, kernel, kernel_map)
    out.backward(torch.randn(out.shape, generator=generator))
    assert feats.grad is not None
    assert kernel.grad is not None
    return out.detach(), feats.grad, kernel.grad


def assert_close(ours: Tensor, plain: Tensor) -> None:
    scale = float(plain.abs().max()) if plain.numel() else 1.0
    torch.testing.assert_close(ours, plain, rtol=0, atol=RELATIVE_LIMIT * scale)


@pytest.mark.parametrize("channels", [(4, 16), (32, 48), (81, 61), (1, 1)])
@pytest.mark.parametrize("kind", KINDS)
def test_convolutions_and_their_gradients_on_real_scans(scans: Tensor, kind: str, channels: tuple[int, int]) -> None:
    compiled, plain = training_levels(scans), build_levels(scans)
    for level in (0, 3):
        found = convolution(map_of(compiled, kind, level), channels)
        for ours, theirs in zip(found, convolution(map_of(plain, kind, level), channels), strict=True):
            assert_close(ours, theirs)


CLOUDS = {
    "seed": st.integers(0, 2**32 - 1),
    "count": st.integers(1, 300),
    "extent": st.sampled_from([1, 4, 12, 100]),
    "number": st.sampled_from([1, 2, 40]),
}


@settings(max_examples=25)
@given(kind=st.sampled_from(KINDS), channels=st.tuples(*[st.integers(1, 50)] * 2), threads=st.integers(1, 3), **CLOUDS)
def test_convolutions_and_their_gradients_on_any_cloud(
    seed: int, count: int, extent: int, number: int, kind: str, channels: tuple[int, int], threads: int
) -> None:
    coords = random_scans(seed, count, extent, number)
    torch.set_num_threads(threads)
    found = convolution(map_of(training_levels(coords), kind, 0), channels)
    for ours, theirs in zip(found, convolution(map_of(build_levels(coords), kind, 0), channels), strict=True):
        assert_close(ours, theirs)


@settings(max_examples=25)
@given(**CLOUDS)
def test_the_geometry_is_the_plain_one(seed: int, count: int, extent: int, number: int) -> None:
    coords = random_scans(seed, count, extent, number) + torch.tensor([20, 0, 0, 0])
    compiled, plain = training_levels(coords), build_levels(coords)
    assert (compiled.order == plain.order).all()
    for ours, theirs in zip(compiled.levels, plain.levels, strict=True):
        assert (ours.coords == theirs.coords).all()
        assert (ours.find(theirs.coords) == torch.arange(len(theirs))).all()
    for mine, other in zip(compiled.parents, plain.parents, strict=True):
        assert (mine == other).all()
    for ours, theirs in zip(
        (*compiled.neighbours, *compiled.halvings), (*plain.neighbours, *plain.halvings), strict=True
    ):
        assert (ours.sizes, ours.num_in, ours.num_out) == (theirs.sizes, theirs.num_in, theirs.num_out)
        for (k, ins, outs), (other_k, other_ins, other_outs) in zip(ours.pairs(), theirs.pairs(), strict=True):
            assert k == other_k
            assert sorted(zip(ins.tolist(), outs.tolist(), strict=True)) == sorted(
                zip(other_ins.tolist(), other_outs.tolist(), strict=True)
            )


@pytest.mark.parametrize("level", [0, 2, 4])
def test_points_and_voxels_exchange_the_same_features(scans: Tensor, level: int) -> None:
    results = []
    for levels in (training_levels(scans), build_levels(scans)):
        generator = torch.Generator().manual_seed(0)
        voxels = torch.randn(len(levels.levels[level]), 13, generator=generator, requires_grad=True)
        points = exchange(levels, level, voxels).to_points(voxels)
        weights = torch.randn(points.shape, generator=generator)
        means = exchange(levels, level, voxels).to_voxels(points * weights)
        (means * torch.randn(means.shape, generator=generator)).sum().backward()
        assert voxels.grad is not None
        results.append((points.detach(), means.detach(), voxels.grad))
    for ours, theirs in zip(*results, strict=True):
        assert_close(ours, theirs)


@pytest.mark.parametrize(
    "spec", [NetSpec.spvcnn(8), NetSpec.minkunet(5, num_classes=7)], ids=["spvcnn-w8", "minkunet-w5"]
)
def test_the_whole_network_has_the_same_gradients(scans: Tensor, spec: NetSpec) -> None:
    coords = scans[:: len(scans) // 9000]
    torch.manual_seed(0)
    net, feats = PointVoxelUNet(spec).train(), torch.randn(len(coords), spec.in_channels)
    labels = torch.randint(0, spec.num_classes, (len(coords),))

    def gradients(levels: Levels | None) -> list[Tensor]:
        torch.manual_seed(1)  # the same dropout
        net.zero_grad()
        torch.nn.functional.cross_entropy(net(coords, feats, levels), labels).backward()
        return [p.grad.clone() for p in net.parameters() if p.grad is not None]

    ours, theirs = gradients(None), gradients(build_levels(coords))
    total = float(torch.cat([grad.flatten() for grad in theirs]).norm())
    for found, expected in zip(ours, theirs, strict=True):
        # Not tighter: a ReLU whose input rounds to the other side of zero passes another gradient.
        assert float((found - expected).norm()) <= 0.03 * float(expected.norm()) + 1e-4 * total


def test_results_do_not_depend_on_the_threads(scans: Tensor) -> None:
    results = []
    for threads in (1, 2, 3, 2):
        torch.set_num_threads(threads)
        results.append(convolution(training_levels(scans).neighbours[0], (16, 24)))
    for other in results[1:]:
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(results[0], other, strict=True))


def test_a_broadcast_gradient_and_a_slice_of_features_are_taken(scans: Tensor) -> None:
    wide = torch.randn(len(scans), 20)
    grads = []
    for levels in (training_levels(scans), build_levels(scans)):
        kernel = torch.linspace(-1, 1, 27 * 7 * 3).reshape(3, 27, 7).permute(1, 2, 0).requires_grad_()
        conv3d(wide[:, 3:10], kernel, levels.neighbours[0]).sum().backward()
        assert kernel.grad is not None
        grads.append(kernel.grad)
    assert_close(*grads)


@pytest.mark.parametrize("kind", KINDS)
def test_double_precision_goes_the_plain_way(kind: str) -> None:
    kernel_map = map_of(training_levels(random_scans(0, 40, 3, 2)), kind, 0)
    feats = torch.randn(kernel_map.num_in, 3, dtype=torch.float64, requires_grad=True)
    kernel = torch.randn(len(kernel_map.sizes), 3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda f, w: conv3d(f, w, kernel_map), (feats, kernel))


def test_no_voxels_give_no_scores() -> None:
    net = PointVoxelUNet(NetSpec.spvcnn(4)).train()
    assert net(torch.zeros(0, 4, dtype=torch.int32), torch.zeros(0, 4)).shape == (0, 19)


def test_unusable_coordinates_are_refused_as_by_the_plain_path() -> None:
    with pytest.raises(ValueError, match="same voxel more than once"):
        training_levels(torch.tensor([[0, 1, 2, 3], [0, 1, 2, 3]]))
    with pytest.raises(ValueError, match=r"must be integers \[N, 4\]"):
        training_levels(torch.zeros(3, 3, dtype=torch.long))
    with pytest.raises(KeyRangeError, match="at most 262144"):
        training_levels(torch.tensor([[0, 0, 0, 0], [0, 1 << 20, 0, 0]]))
    with pytest.raises(ValueError, match="batch indices must be in"):
        training_levels(torch.tensor([[-1, 0, 0, 0]]))
