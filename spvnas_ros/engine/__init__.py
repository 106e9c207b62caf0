"""Ways to run a trained network on a cloud. They differ in speed and agree in meaning; tests on real scans hold them
together, and nothing outside this package knows which one runs."""

from __future__ import annotations

import importlib.util
import logging
from typing import Protocol

import torch

from spvnas_ros.frame import Points, Segmentation
from spvnas_ros.nets.unet import PointVoxelUNet

logger = logging.getLogger(__name__)

ENGINES = ("auto", "cpu", "cuda", "torch", "spconv", "spconv-triton", "torchsparse")
"""The last three run the same weights through other libraries (`engine.peers`), where those are installed."""

OLDEST_CAPABILITY = (7, 5)
"""Compute capability of the oldest GPUs that the CUDA engine's kernels are compiled for in the tests."""


class Engine(Protocol):
    """Runs one network. `segment` raises KeyRangeError for a cloud that spans more voxels than can be keyed.

    name:        as in `ENGINES`
    device:      as torch names it
    in_channels: values per point: x, y, z and the features after them
    """

    name: str
    device: str
    in_channels: int

    def segment(self, points: Points, scores: bool) -> Segmentation:
        """Label a cloud of finite points float32 `[N, in_channels]`; N may be 0."""
        ...


def build_engine(net: PointVoxelUNet, voxel_size: float, *, device: str = "auto", engine: str = "auto") -> Engine:
    """The engine called `engine` for `net` (used in eval mode) on `device`.

    "auto" takes CUDA where torch finds a device and the CPU otherwise, and the fastest engine of that device.
    Raises ValueError for a name that is unknown, a library that is not installed, or a device that is not there, and
    OSError where the CPU engine's compiled kernels have no place to be kept.
    """
    if engine not in ENGINES:
        raise ValueError(f"unknown engine {engine!r}, expected one of {', '.join(ENGINES)}")
    place = resolve_device("cpu" if engine == "cpu" and device == "auto" else device)
    if engine == "cpu" and place.type != "cpu":
        raise ValueError(f"engine 'cpu' runs on the CPU, but device {device!r} was asked for; use engine 'torch' there")
    if engine == "cuda" or (engine == "auto" and place.type == "cuda"):
        problem = _cuda_engine_problem(place)
        if not problem:
            try:
                from spvnas_ros.engine.cuda import CudaEngine

                return CudaEngine(net, voxel_size, place)
            except Exception as error:  # Triton has many: no C compiler, a kernel it cannot compile, an old version
                if engine == "cuda":
                    raise
                problem = f"engine 'cuda' cannot start on {place}: {type(error).__name__}: {error} (see docs/gpu.md)"
        elif engine == "cuda":
            raise ValueError(problem)
        logger.warning("%s; the reference engine runs instead, which is slower", problem)
    if engine == "torch" or (engine == "auto" and place.type != "cpu"):
        from spvnas_ros.engine.reference import ReferenceEngine

        return ReferenceEngine(net, voxel_size, place)
    if engine not in ("auto", "cpu"):
        from spvnas_ros.engine.peers import build_peer

        return build_peer(engine, net, voxel_size, place)
    try:
        from spvnas_ros.engine.cpu import CpuEngine
    except RuntimeError as error:  # numba's, when it finds no folder to write to
        raise OSError(
            f"the compiled CPU kernels have no place to be kept ({error}); set NUMBA_CACHE_DIR to a folder that can be "
            "written"
        ) from error

    return CpuEngine(net, voxel_size)


def _cuda_engine_problem(place: torch.device) -> str:
    """What keeps the CUDA engine from running on a device; nothing where it can run."""
    if place.type != "cuda":
        return f"engine 'cuda' runs on CUDA devices, not on {place}; use engine 'cpu' or 'torch' there"
    if importlib.util.find_spec("triton") is None:
        return "engine 'cuda' needs triton, which is not installed: python -m pip install triton"
    if (found := torch.cuda.get_device_capability(place)) < OLDEST_CAPABILITY:
        name = torch.cuda.get_device_name(place)
        return f"engine 'cuda' needs compute capability {OLDEST_CAPABILITY}, {name} has {found}; use engine 'torch'"
    return ""


def resolve_device(device: str) -> torch.device:
    """ "auto" or a torch device name to a device that exists."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"unknown device {device!r}, expected 'auto', 'cpu', 'cuda' or 'cuda:N'") from error
    if place.type not in ("cpu", "cuda"):
        raise ValueError(f"device {device!r} is not supported, expected 'auto', 'cpu', 'cuda' or 'cuda:N'")
    if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device {device!r} is not there: torch {torch.__version__} sees {torch.cuda.device_count()} CUDA "
            "device(s); use 'cpu', or install a torch build with CUDA and a driver it supports"
        )
    return place
