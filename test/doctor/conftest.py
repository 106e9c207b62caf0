"""Shared fixtures of the doctor's tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from examined_bags import FACTS
from spvnas_ros.engine.sample_street import street_scan
from spvnas_ros.nets.unet import PointVoxelUNet
from spvnas_ros.zoo.checkpoint import save_checkpoint


@pytest.fixture(scope="session")
def street() -> np.ndarray:
    return street_scan(0, 64, 400)[0]


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_checkpoint(path, PointVoxelUNet(FACTS.spec).eval(), FACTS)
    return path
