"""Losses by their definitions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from spvnas_ros.offline.training.losses import cross_entropy_sum, inverse_sqrt_weights, lovasz_softmax


def jaccard_loss(truth: np.ndarray, wrong: np.ndarray) -> float:
    """1 - IoU of a class whose voxels are `truth` when the voxels `wrong` are mistaken for the opposite."""
    found = truth ^ wrong
    return 1 - (truth & found).sum() / (truth | found).sum()


def lovasz_by_definition(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The Lovász extension as the maximum over the base polytope: of <errors, marginals> over all orders of voxels."""
    losses = []
    for index in np.unique(labels):
        truth = labels == index
        errors = np.where(truth, 1 - probabilities[:, index], probabilities[:, index])
        best = -np.inf
        for order in itertools.permutations(range(len(labels))):
            value, before, wrong = 0.0, 0.0, np.zeros(len(labels), bool)
            for voxel in order:
                wrong[voxel] = True
                value += errors[voxel] * (jaccard_loss(truth, wrong) - before)
                before = jaccard_loss(truth, wrong)
            best = max(best, value)
        losses.append(best)
    return float(np.mean(losses))


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.integers(1, 5))
def test_the_lovasz_loss_is_the_extension_of_the_jaccard_loss(seed: int, voxels: int) -> None:
    rng = np.random.default_rng(seed)
    logits, labels = rng.normal(size=(voxels, 3)), rng.integers(0, 3, voxels)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    padded = torch.from_numpy(np.append(labels, 255))
    loss = lovasz_softmax(torch.from_numpy(np.vstack([logits, rng.normal(size=3)])), padded)
    assert float(loss) == pytest.approx(lovasz_by_definition(probabilities, labels))


@given(st.integers(1, 60), st.integers(0, 2**32 - 1), st.booleans())
@settings(max_examples=40)
def test_lovasz_in_single_precision_is_that_in_double(count: int, seed: int, ties: bool) -> None:
    drawn = torch.randn(count, 4, generator=torch.Generator().manual_seed(seed))
    exact = (drawn.round() if ties else drawn).double().requires_grad_()
    single = exact.detach().float().requires_grad_()
    labels = torch.randint(0, 4, (count,), generator=torch.Generator().manual_seed(seed + 1))
    losses = [lovasz_softmax(logits, labels) for logits in (exact, single)]
    torch.testing.assert_close(losses[1].double(), losses[0], rtol=1e-5, atol=1e-6)
    for loss in losses:
        loss.backward()
    assert single.grad is not None
    assert exact.grad is not None
    if not ties:
        torch.testing.assert_close(single.grad.double(), exact.grad, rtol=1e-4, atol=1e-6)


def test_losses_without_any_truth_are_zero_and_have_a_gradient() -> None:
    logits = torch.randn(4, 3, requires_grad=True)
    nothing = torch.full((4,), 255)
    loss = lovasz_softmax(logits, nothing) + cross_entropy_sum(logits, nothing)[0]
    loss.backward()
    assert float(loss) == 0
    assert logits.grad is not None
    assert not logits.grad.any()


@pytest.mark.parametrize("weights", [None, torch.tensor([0.5, 1.0, 4.0])])
def test_the_cross_entropy_comes_in_parts_that_make_the_mean(weights: torch.Tensor | None) -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(50, 3), torch.randint(0, 3, (50,))
    labels[::7] = 255
    parts = [cross_entropy_sum(logits[part], labels[part], weights) for part in (slice(0, 20), slice(20, 50))]
    mean = sum(total for total, _ in parts) / sum(count for _, count in parts)
    torch.testing.assert_close(mean, nn.functional.cross_entropy(logits, labels, weights, ignore_index=255))


def test_rare_classes_weigh_more_and_absent_ones_one() -> None:
    weights = inverse_sqrt_weights(np.array([900, 100, 0]))
    np.testing.assert_allclose(weights, [0.5, 1.5, 1.0])
