"""Which labels of a teacher are learnt, and confidences that are put right."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spvnas_ros.nets.spec import NetSpec
from spvnas_ros.nets.unet import PointVoxelUNet
from spvnas_ros.offline.training.pseudo_labels import BINS, confidence_of, confident, counted, thresholds
from spvnas_ros.offline.training.temperature import calibration_error, fit_temperature, with_temperature


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), classes=st.integers(1, 6), share=st.floats(0.01, 1))
def test_of_every_class_the_same_share_is_learnt_whatever_its_confidences_and_its_size(
    seed: int, classes: int, share: float
) -> None:
    rng = np.random.default_rng(seed)
    # Some classes are rare or missing, and each is sure of itself in its own way.
    sizes = rng.choice([0, 1, 7, 300], classes)
    counts = np.zeros((classes, BINS))
    for row, size in enumerate(sizes):
        np.add.at(counts[row], np.clip(rng.normal(rng.uniform(0, BINS), 30, size), 0, BINS - 1).astype(int), 1)
    least = thresholds(counts, share)
    for row, size in enumerate(sizes):
        if not size:
            assert least[row] == BINS
            continue
        assert counts[row, least[row] :].sum() >= share * size * (1 - 1e-6)
        assert counts[row, least[row] + 1 :].sum() < share * size


def test_what_is_learnt_of_a_class_does_not_hang_on_the_others() -> None:
    counts = np.random.default_rng(1).integers(0, 9, (3, BINS)).astype(float)
    alone = [thresholds(counts[row : row + 1], 0.3)[0] for row in range(3)]
    assert thresholds(counts * [[1], [1000], [1e-6]], 0.3).tolist() == alone


def test_bins_follow_the_confidence_up_to_where_it_is_almost_certain() -> None:
    logits = torch.tensor([[0.0, 0.0], [0.0, 3.0], [9.0, 0.0], [14.0, 0.0], [90.0, 0.0]])
    labels, bins = confident(logits)
    assert labels[1:].tolist() == [1, 0, 0, 0]
    assert (bins.diff() > 0).all()
    assert bins.max() == BINS - 1
    confidence = logits.double().softmax(dim=1).max(dim=1).values.numpy()
    assert (confidence_of(bins.numpy()) <= confidence + 1e-6).all()
    assert (confidence_of(bins.numpy()[:4] + 1) > confidence[:4] - 1e-9).all()
    counts = counted(labels, bins, 3)
    assert counts.sum(dim=1).tolist() == [4, 1, 0]


def test_a_temperature_is_found_again_and_labels_stay() -> None:
    torch.manual_seed(0)
    logits = 3 * torch.randn(20_000, 5)
    labels = torch.distributions.Categorical(logits=logits / 2).sample()
    found = fit_temperature(logits, labels)
    assert found == pytest.approx(2, rel=0.05)
    before, after = calibration_error(logits, labels), calibration_error(logits / found, labels)
    assert before is not None
    assert after is not None
    assert after < 0.02 < before
    assert fit_temperature(logits, torch.full((20_000,), 255)) == 1

    net = PointVoxelUNet(NetSpec.of([4, 4, 8, 8, 8, 8, 8, 8, 8], [1] * 8, num_classes=5)).eval()
    coords = torch.cat([torch.zeros(50, 1), torch.arange(150).reshape(50, 3)], dim=1).int()
    feats = torch.rand(50, 4)
    with torch.no_grad():
        torch.testing.assert_close(with_temperature(net, 2.0)(coords, feats), net(coords, feats) / 2)
