"""Shared fixtures of the training's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

from drives import write_drive
from training_runs import STEPS


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Small networks are no faster on several threads, and far slower where others use the machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five small labelled scans in SemanticKITTI's layout."""
    folder = tmp_path_factory.mktemp("drive")
    write_drive(folder, 5)
    return folder


@pytest.fixture
def recipe(drive: Path, tmp_path: Path) -> Path:
    """A recipe with everything in it: augmentation with mixing, dropout, an average, weights, Lovász, validation."""
    path = tmp_path / "small.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "name": "small",
                "seed": 5,
                "net": {"widths": [4, 4, 8, 8, 8, 8, 8, 8, 8], "depths": [1] * 8},
                "data": {"train": str(drive), "validation": str(drive), "voxel_size": 0.3, "workers": 0}
                | {"max_voxels": 1500, "validation_scans": 2},
                "augment": {"lasermix": {"probability": 0.5}, "rotate": None, "jitter": None},
                "loss": {"class_weights": "inverse-sqrt", "lovasz": 0.5},
                "optimiser": {"kind": "adamw", "learning_rate": 0.01, "clip": 10},
                "schedule": {"warmup_steps": 2},
                "trainer": {"steps": STEPS, "batch_size": 2, "log_every": 1, "validate_every": 4, "ema": 0.9}
                | {"save_every": 3, "device": "cpu"},
            },
            sort_keys=False,  # augmentations are applied in their order
        )
    )
    return path
