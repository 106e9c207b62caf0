"""Shared fixtures."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

import spvnas_ros  # sets how idle OpenMP threads wait, before anything loads torch

# isort: split
import on_device  # noqa: F401  # loads torch, and decides how Triton runs before anything loads that
from places import REPOSITORY
from tiny_detectors import write_detector

# A machine may be busy with something else at any moment: how long an example takes says nothing of the code.
settings.register_profile("untimed", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

LONG = ("kernels/cuda", "offline/training", "trials", "demo", "engine", "cli", "offline/search", "viewer", "ros")
"""Rooms with files that take long, the longest first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the long files first: at the end several processes share short ones, and none waits for another."""

    def rank(item: pytest.Item) -> int:
        room = item.path.parent.relative_to(Path(__file__).parent).as_posix()
        return next((number for number, name in enumerate(LONG) if room.startswith(name)), len(LONG))

    items.sort(key=rank)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of recorded upstream outputs and real scans, which is not part of this repository."""
    folder = Path(os.environ.get("SPVNAS_SHARED", REPOSITORY.parent / "shared"))
    if not (folder / "golden").is_dir():
        pytest.skip(f"no recorded outputs and real scans in {folder}; set SPVNAS_SHARED to the folder that has them")
    return folder


@pytest.fixture(scope="session")
def full_scan(shared: Path) -> np.ndarray:
    """A whole real HDL-64E scan, float32 `[123389, 4]`."""
    return np.fromfile(shared / "golden" / "full_scan.bin", np.float32).reshape(-1, 4)


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny network that nobody trained, but whose classes differ from point to point."""
    import torch

    from spvnas_ros.nets.spec import NetSpec
    from spvnas_ros.nets.unet import PointVoxelUNet
    from spvnas_ros.zoo.checkpoint import Facts, save_checkpoint

    torch.manual_seed(1)
    spec = NetSpec.spvcnn(4)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_checkpoint(path, PointVoxelUNet(spec).eval(), Facts(spec=spec, name="tiny", trained=False))
    return path


@pytest.fixture(scope="session")
def perception(weights: Path) -> spvnas_ros.Perception:
    """The tiny network, ready to label."""
    return spvnas_ros.Perception.load(weights, device="cpu")


@pytest.fixture(scope="session")
def detector_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny detector that nobody trained and that finds 40 boxes all around in any cloud."""
    return write_detector(tmp_path_factory.mktemp("detector") / "boxes.safetensors")
