"""BatchNorm of a training on the CPU is torch's, with the ReLU behind it and a residual before that."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from spvnas_ros.offline.training.shared_norm import SharedNorm
from spvnas_ros.sparse.norms import normalised


@pytest.fixture(autouse=True)
def _two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def a_norm(columns: int, momentum: float | None = 0.1, seed: int = 0) -> nn.BatchNorm1d:
    torch.manual_seed(seed)
    norm = nn.BatchNorm1d(columns, momentum=momentum)
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    return norm


@settings(max_examples=40)
@given(
    rows=st.sampled_from([2, 3, 4, 5, 255, 256, 257, 1030]),
    columns=st.integers(1, 40),
    spare=st.sampled_from([0, 3]),
    relu=st.booleans(),
    summed=st.booleans(),
    shift=st.sampled_from([0.0, 30.0]),
    momentum=st.sampled_from([0.1, 0.01, None]),
    threads=st.integers(1, 3),
    seed=st.integers(0, 2**32 - 1),
)
def test_results_gradients_and_statistics_are_those_of_torch_in_double_precision(
    rows: int,
    columns: int,
    spare: int,
    relu: bool,
    summed: bool,
    shift: float,
    momentum: float | None,
    threads: int,
    seed: int,
) -> None:
    torch.set_num_threads(threads)
    ours = a_norm(columns, momentum, seed)
    exact = copy.deepcopy(ours).double()
    feats = torch.randn(rows + 1, columns + spare)[:rows, :columns] + shift
    feats = nn.functional.pad(feats, (0, spare))[:, :columns].requires_grad_()  # rows lie apart, as padded ones do
    residual = torch.randn(rows, columns, requires_grad=True) if summed else None
    grad = torch.randn(rows, columns)
    for _ in range(2):
        out = normalised(ours, feats, relu=relu, residual=residual)
        feats64 = feats.detach().double().requires_grad_()
        residual64 = None if residual is None else residual.detach().double().requires_grad_()
        before = exact(feats64) if residual64 is None else exact(feats64) + residual64
        torch.testing.assert_close(out.double(), before.relu() if relu else before, rtol=1e-5, atol=2e-5)
        # A ReLU whose input rounds to the other side of zero passes another gradient.
        (before * (out > 0) if relu else before).backward(grad.double())
        out.backward(grad)
    steep = float((exact.weight.detach().abs() / feats64.detach().var(0, unbiased=False).add(exact.eps).sqrt()).max())
    assert feats.grad is not None
    torch.testing.assert_close(
        feats.grad.double(), 2 * grad_of(feats64), rtol=1e-4, atol=2e-5 * max(steep, 1) * float(grad.abs().max())
    )
    for mine, theirs in zip(ours.parameters(), exact.parameters(), strict=True):
        torch.testing.assert_close(grad_of(mine).double(), grad_of(theirs), rtol=1e-4, atol=1e-5 * rows)
    if residual is not None and residual64 is not None:
        torch.testing.assert_close(grad_of(residual).double(), 2 * grad_of(residual64), rtol=0, atol=1e-6)
    for name, buffer in ours.named_buffers():
        torch.testing.assert_close(buffer.double(), exact.get_buffer(name).double(), rtol=1e-5, atol=1e-5)


def grad_of(tensor: Tensor) -> Tensor:
    assert tensor.grad is not None
    return tensor.grad


def test_a_single_row_is_refused_as_by_torch() -> None:
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        normalised(a_norm(3), torch.randn(1, 3), relu=True)


def test_evaluation_and_other_types_go_the_way_of_torch() -> None:
    feats = torch.randn(7, 3)
    assert torch.equal(normalised(a_norm(3).eval(), feats.clone(), relu=False), a_norm(3).eval()(feats))
    double = a_norm(3).double()
    assert torch.equal(normalised(double, feats.double(), relu=True), a_norm(3).double()(feats.double()).relu())
    shared = SharedNorm(3)
    assert torch.equal(normalised(shared, feats, relu=False), SharedNorm(3)(feats))
    plain = nn.BatchNorm1d(3, affine=False, track_running_stats=False)
    assert torch.equal(normalised(plain, feats, relu=False, residual=feats), plain(feats) + feats)


def test_what_is_no_number_stays_none() -> None:
    feats = torch.randn(9, 2)
    feats[4, 1] = float("nan")
    out = normalised(a_norm(2), feats, relu=True)
    assert out[:, 1].isnan().all()
    assert out[:, 0].isfinite().all()


def test_a_broadcast_gradient_and_frozen_features_are_taken() -> None:
    norm, feats = a_norm(5), torch.randn(600, 5)
    normalised(norm, feats, relu=True).sum().backward()
    expected = a_norm(5)
    expected(feats).relu().sum().backward()
    torch.testing.assert_close(norm.weight.grad, expected.weight.grad, rtol=1e-3, atol=1e-3)


def test_sums_do_not_depend_on_the_threads() -> None:
    found = []
    for threads in (1, 3, 2):
        torch.set_num_threads(threads)
        norm = a_norm(24)
        feats = torch.randn(5000, 24, generator=torch.Generator().manual_seed(0)).requires_grad_()
        normalised(norm, feats, relu=True, residual=feats * 0.5).square().sum().backward()
        found.append([grad_of(feats), grad_of(norm.weight), grad_of(norm.bias), norm.running_var])
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))
