"""Products of bfloat16 in training are those of float32 on rounded operands, and close to those on exact ones."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cosine_similarity, cross_entropy

from spvnas_ros.nets.spec import NUM_STAGES, POINT_LEVELS, NetSpec
from spvnas_ros.nets.unet import PointVoxelUNet
from spvnas_ros.sparse import KernelMap, conv3d, quantize
from spvnas_ros.sparse.backend import product_for
from spvnas_ros.sparse.modules import narrow_products
from spvnas_ros.sparse.on_cpu import build_training_levels, multiplies_bf16, narrow, team
from spvnas_ros.zoo.cache import resolve_weights
from spvnas_ros.zoo.checkpoint import load_checkpoint

on_bf16 = pytest.mark.skipif(not multiplies_bf16(), reason="this CPU has no AVX512-BF16")


@pytest.fixture(autouse=True)
def _two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def map_of(kind: str, seed: int, count: int, extent: int) -> KernelMap:
    rng = np.random.default_rng(seed)
    coords = np.unique(np.pad(rng.integers(0, extent, (count, 3)), ((0, 0), (1, 0))), axis=0)
    levels = build_training_levels(torch.from_numpy(coords), NUM_STAGES, POINT_LEVELS)
    maps = {
        "neighbours": levels.neighbours[0],
        "halving": levels.halvings[0],
        "doubling": levels.halvings[0].transposed(),
    }
    return maps[kind]


def run(compute: Callable[[Tensor, Tensor], Tensor], feats: Tensor, kernel: Tensor, grad: Tensor) -> list[Tensor]:
    """Output, input gradient and kernel gradient."""
    feats, kernel = feats.clone().requires_grad_(), kernel.clone().requires_grad_()
    out = compute(feats, kernel)
    out.backward(grad)
    assert feats.grad is not None
    assert kernel.grad is not None
    return [out.detach(), feats.grad, kernel.grad]


def rounded(tensor: Tensor) -> Tensor:
    return tensor.bfloat16().float()


def assert_close(ours: Tensor, plain: Tensor) -> None:
    torch.testing.assert_close(ours, plain, rtol=0, atol=3e-5 * float(plain.abs().max()))


@on_bf16
@settings(max_examples=20)
@given(
    kind=st.sampled_from(["neighbours", "halving", "doubling"]),
    seed=st.integers(0, 2**32 - 1),
    count=st.sampled_from([1, 2, 60, 400]),
    extent=st.sampled_from([1, 3, 8, 100]),
    channels=st.tuples(st.integers(8, 60), st.one_of(st.integers(1, 60), st.just(104))),
    threads=st.integers(1, 3),
)
def test_convolutions_are_those_of_rounded_operands(
    kind: str, seed: int, count: int, extent: int, channels: tuple[int, int], threads: int
) -> None:
    torch.set_num_threads(threads)
    kernel_map = map_of(kind, seed, count, extent)
    torch.manual_seed(seed)
    feats, kernel = torch.randn(kernel_map.num_in, channels[0]), torch.randn(len(kernel_map.sizes), *channels)
    grad = torch.randn(kernel_map.num_out, channels[1])
    ours = run(lambda f, k: conv3d(f, k, kernel_map, narrow=True), feats, kernel, grad)
    plain = run(lambda f, k: conv3d(f, k, kernel_map), rounded(feats), rounded(kernel), rounded(grad))
    for mine, other in zip(ours, plain, strict=True):
        assert_close(mine, other)


@on_bf16
@pytest.mark.parametrize(("rows", "channels"), [(1, (8, 1)), (5, (9, 19)), (1300, (24, 96))])
def test_products_of_points_are_those_of_rounded_operands(rows: int, channels: tuple[int, int]) -> None:
    torch.manual_seed(0)
    feats, kernel, grad = torch.randn(rows, channels[0]), torch.randn(channels), torch.randn(rows, channels[1])
    ours = run(lambda f, k: product_for(f, k, narrow=True), feats, kernel, grad)
    for mine, other in zip(ours, run(torch.matmul, rounded(feats), rounded(kernel), rounded(grad)), strict=True):
        assert_close(mine, other)


def test_features_of_few_channels_are_not_rounded() -> None:
    kernel_map, feats, kernel = map_of("neighbours", 0, 90, 5), torch.randn(0), torch.randn(27, 4, 16)
    feats = 50 * torch.randn(kernel_map.num_in, 4)  # coordinates, in metres
    assert torch.equal(conv3d(feats, kernel, kernel_map, narrow=True), conv3d(feats, kernel, kernel_map))
    assert torch.equal(product_for(feats, kernel[0], narrow=True), feats @ kernel[0])


@on_bf16
def test_values_are_rounded_as_by_torch() -> None:
    torch.manual_seed(0)
    values = torch.cat(
        [
            torch.randn(500) * 10.0 ** torch.randint(-40, 38, (500,)),
            torch.tensor([0.0, -0.0, 1.00390625, 1.01171875, 3.4e38, float("inf"), float("-inf"), float("nan")]),
        ]
    )
    found = narrow(team(), values[None]).view(torch.bfloat16)[0, : len(values)]
    assert torch.equal(found.float().nan_to_num(7.0), rounded(values).nan_to_num(7.0))
    assert int(found.isnan().sum()) == 1


@on_bf16
def test_a_trained_network_has_nearly_the_gradients_of_float32(full_scan: np.ndarray) -> None:
    """At random weights they are further apart: many a ReLU's input is about zero, and passes or not by chance."""
    net, facts = load_checkpoint(resolve_weights("default"))
    cloud = torch.from_numpy(full_scan[::4])
    voxels = quantize(cloud, facts.voxel_size)
    feats = cloud[voxels.first]
    torch.manual_seed(0)
    with torch.no_grad():
        labels = net.eval()(voxels.coords, feats).argmax(1)
    labels[::5] = torch.randint(0, facts.num_classes, labels[::5].shape)
    net.train()
    found = []
    for narrowed in (False, True):
        torch.manual_seed(1)  # the same dropout
        narrow_products(net, narrowed)
        net.zero_grad()
        cross_entropy(net(voxels.coords, feats), labels).backward()
        found.append([p.grad.flatten() for p in net.parameters() if p.grad is not None])
    exact, ours = (torch.cat(grads) for grads in found)
    assert not torch.equal(exact, ours)
    assert float((exact - ours).norm()) < 0.08 * float(exact.norm())
    assert float(cosine_similarity(exact.double(), ours.double(), dim=0)) > 0.997
    large = [(a, b) for a, b in zip(*found, strict=True) if len(a) > 1000]
    assert min(float(cosine_similarity(a.double(), b.double(), dim=0)) for a, b in large) > 0.99


@on_bf16
def test_evaluation_stays_in_float32(full_scan: np.ndarray) -> None:
    voxels = quantize(torch.from_numpy(full_scan), 1.0)
    torch.manual_seed(0)
    net, feats = PointVoxelUNet(NetSpec.spvcnn(8)).eval(), torch.from_numpy(full_scan)[voxels.first]
    before = net(voxels.coords, feats)  # with gradients: through the compiled convolutions
    narrow_products(net)
    assert torch.equal(net(voxels.coords, feats), before)


@on_bf16
def test_results_do_not_depend_on_the_threads() -> None:
    kernel_map = map_of("neighbours", 0, 20_000, 40)
    torch.manual_seed(0)
    feats, kernel = torch.randn(kernel_map.num_in, 24), torch.randn(27, 24, 40)
    grad = torch.randn(kernel_map.num_out, 40)
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(run(lambda f, k: conv3d(f, k, kernel_map, narrow=True), feats, kernel, grad))
        found[-1] += run(lambda f, k: product_for(f, k, narrow=True), feats, kernel[0].contiguous(), grad)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


ASKED = """
from spvnas_ros.offline.training.precision import settle
from spvnas_ros.sparse.on_cpu import multiplies_bf16
print(multiplies_bf16(), settle("auto", "cpu"), settle("bf16", "cpu"), sep="\\n")
"""


def test_a_processor_without_bf16_trains_in_float32_and_says_so() -> None:
    environment = os.environ | {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx2,+fma"}
    answer = subprocess.run(
        [sys.executable, "-c", ASKED], env=environment, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert answer[0] == "False"
    assert "products='fp32', remark=''" in answer[1]
    assert "products='fp32', remark='this CPU has no AVX512-BF16" in answer[2]
