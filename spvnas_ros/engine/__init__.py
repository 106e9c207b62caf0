"""Engines that run a trained network. They differ in speed and agree in meaning; tests on real scans check that.

`perception` builds one by `build_engine`, and `bench` compares them. No other code knows which engine runs.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Callable
from typing import Any, Protocol, cast

import numpy as np
import torch

from spvnas_ros.errors import UserError
from spvnas_ros.frame import Boxes, Points, Segmentation
from spvnas_ros.kernels.grid import MAX_EXTENT
from spvnas_ros.nets.unet import PointVoxelUNet

logger = logging.getLogger(__name__)

ENGINES = ("auto", "cpu", "cuda", "torch", "spconv", "spconv-triton", "torchsparse")
"""The last three run the same weights through other libraries (`engine.peers`), where those are installed."""

PRECISIONS = ("auto", "fp32", "int16", "int8", "fp16", "bf16")
"""Of features and weights. int16 and int8 are the CPU engine's, fp16 and bf16 are the CUDA engine's; "auto" is the
fastest of the engine that labels as float32 does, but for about a point in a thousand, on which classes all but tie."""

OLDEST_CAPABILITY = (7, 5)
"""Compute capability of the oldest GPUs that the CUDA engine's kernels are compiled for in the tests."""

CHECKED_POINTS = 20_000
LEAST_AGREEMENT = 0.9
"""The CUDA engine and the reference label `CHECKED_POINTS` points of a sample. The CUDA engine is trusted where at
least this share of the points gets the same label. Half precision alone changes one label in a thousand, and more in a
network without training."""

CLEAR_SCORE = 0.05
ALIKE = 0.5
STRAY_BOXES = 2
"""Likewise of boxes: of those that score at least `CLEAR_SCORE` more than the least score of any, `LEAST_AGREEMENT`
must have one of the other engine's, of their class, that covers them by `ALIKE` (intersection over union from above).
`STRAY_BOXES` may have none in any case: of few boxes one is a large share."""


class Engine(Protocol):
    """An engine that runs one network.

    name:        as in `ENGINES`
    device:      as torch names it
    in_channels: values per point: x, y, z and the features after them
    finds_boxes: whether it runs the network's box branch; False without one
    """

    name: str
    device: str
    in_channels: int
    finds_boxes: bool

    @property
    def precision(self) -> str:
        """The precision of features and weights, as in `PRECISIONS` but "auto"."""
        ...

    def segment(self, points: Points, scores: bool, boxes: bool = False, labels: bool = True) -> Segmentation:
        """Labels a cloud of finite points float32 `[N, in_channels]`; N may be 0.

        scores: whether the result holds the probabilities of all classes
        boxes:  whether it holds the objects that the network's box branch finds; no branch finds none
        labels: without them the points stay unlabelled, and an engine may skip what only they need

        Raises KeyRangeError for a cloud that spans more voxels than can be keyed.
        """
        ...


def build_engine(
    net: PointVoxelUNet,
    voxel_size: float,
    *,
    device: str = "auto",
    engine: str = "auto",
    precision: str = "auto",
    sample: Points | None = None,
    trained: bool = True,
    again: Callable[[], PointVoxelUNet] | None = None,
) -> Engine:
    """Builds the engine called `engine` for `net` (used in eval mode) on `device`.

    Device "auto" is CUDA where torch finds a device and the CPU otherwise. Engine "auto" is the fastest engine of the
    device.

    precision: of features and weights, one of `PRECISIONS` that the engine has
    trained: False for random weights, which the CPU engine's "auto" does not run on integers
    again: returns the network once more, for the CPU engine, which then need not keep what only few frames need
    sample: a scan float32 `[N, in_channels]` like those to come, on which the CUDA engine is made ready: compiled,
    captured, checked for values beyond half precision and against the reference (default: a generated street)

    Raises ValueError for a name that is unknown, a precision that the engine has not, a library that is not
    installed, or a device that is not there. Raises OSError where there is no folder to keep the CPU engine's compiled
    kernels in.
    """
    if engine not in ENGINES:
        raise UserError(f"unknown engine {engine!r}, expected one of {', '.join(ENGINES)}")
    if precision not in PRECISIONS:
        raise UserError(f"unknown precision {precision!r}, expected one of {', '.join(PRECISIONS)}")
    place = resolve_device("cpu" if engine == "cpu" and device == "auto" else device)
    if engine == "cpu" and place.type != "cpu":
        raise UserError(f"engine 'cpu' runs on the CPU, but device {device!r} was asked for; use engine 'torch' there")
    if engine == "cuda" or (engine == "auto" and place.type == "cuda"):
        if precision in ("int16", "int8"):
            raise UserError(f"precision {precision!r} is the CPU engine's; the CUDA engine has auto, fp16, bf16, fp32")
        build = cuda_engine if engine == "cuda" else gpu_engine
        return build(net, voxel_size, place, sample, precision)
    if engine not in ("auto", "cpu") and precision not in ("auto", "fp32"):
        raise UserError(f"engine {engine!r} runs in fp32 alone, not in {precision!r}")
    if engine == "torch":
        from spvnas_ros.engine.reference import ReferenceEngine

        return ReferenceEngine(net, voxel_size, place)
    if engine not in ("auto", "cpu"):
        from spvnas_ros.engine.peers import build_peer

        if net.spec.boxes:
            logger.warning("engine %r gives labels alone; the boxes that the network finds, too, are left out", engine)
        return build_peer(engine, net, voxel_size, place)
    try:
        from spvnas_ros.engine.cpu import CpuEngine
    except RuntimeError as error:  # numba raises it when it finds no folder to write to
        raise OSError(
            f"the compiled CPU kernels have no place to be kept ({error}); set NUMBA_CACHE_DIR to a folder that can be "
            "written"
        ) from error

    return CpuEngine(net, voxel_size, precision=precision, trained=trained, again=again)


def gpu_engine(
    net: PointVoxelUNet, voxel_size: float, place: torch.device, sample: Points | None = None, precision: str = "auto"
) -> Engine:
    """Builds the CUDA engine, or the reference where the CUDA engine does not start or cannot be trusted.

    A warning says why the reference was built. Arguments are those of `build_engine`.
    """
    try:
        return cuda_engine(net, voxel_size, place, sample, precision)
    except Exception as error:  # Triton raises many: no C compiler, a kernel it cannot compile, an old version
        logger.warning(
            "engine 'cuda' cannot start on %s: %s: %s (see docs/gpu.md); the reference engine runs instead, "
            "which is slower", place, type(error).__name__, error,
        )  # fmt: skip
    from spvnas_ros.engine.reference import ReferenceEngine

    return ReferenceEngine(net, voxel_size, place)


def cuda_engine(
    net: PointVoxelUNet, voxel_size: float, place: torch.device, sample: Points | None = None, precision: str = "auto"
) -> Engine:
    """Builds the CUDA engine and makes it ready for scans like the sample. Arguments are those of `build_engine`.

    Raises ValueError where the device or the installation cannot run it, RuntimeError where it disagrees with the
    reference, and the errors of Triton and CUDA.
    """
    if problem := _cuda_engine_problem(place):
        raise UserError(problem)
    from spvnas_ros.engine.cuda import CudaEngine
    from spvnas_ros.engine.reference import ReferenceEngine

    scan = _street(net.spec.in_channels, voxel_size) if sample is None else sample
    engine = CudaEngine(net, voxel_size, place, cast(Any, precision), sample=scan)
    check_agreement(engine, ReferenceEngine(net, voxel_size, place), scan[:CHECKED_POINTS])
    if place.type == "cuda":
        torch.cuda.empty_cache()  # returns the memory that the reference took
    return engine


def check_agreement(engine: Engine, reference: Engine, points: Points) -> None:
    """Raises RuntimeError where an engine's labels or boxes differ from the reference's by more than rounding explains.

    Boxes are compared where the network has a branch for them.
    """
    if len(points) == 0:
        return
    found, expected = (each.segment(points, scores=False, boxes=True) for each in (engine, reference))
    agreement = float(np.mean(found.labels == expected.labels))
    report = "please report this with the GPU and the versions of torch and triton"
    if agreement < LEAST_AGREEMENT:
        raise RuntimeError(
            f"engine {engine.name!r} gives {agreement:.1%} of the points of a sample the reference's label, expected "
            f"{LEAST_AGREEMENT:.0%} or more; {report}"
        )
    ours, theirs = found.boxes or Boxes.none(), expected.boxes or Boxes.none()
    if len(ours) == len(theirs) == 0:
        return
    least = CLEAR_SCORE + min([*ours.scores.tolist(), *theirs.scores.tolist()])
    for one, other, words in ((theirs, ours, "misses"), (ours, theirs, "adds")):
        alone, clear = _without_alike(one, other, least)
        if alone > max(STRAY_BOXES, (1 - LEAST_AGREEMENT) * clear):
            raise RuntimeError(
                f"engine {engine.name!r} {words} {alone} boxes of {clear} in a sample, beside the reference, expected "
                f"{1 - LEAST_AGREEMENT:.0%} or less; {report}"
            )


def _without_alike(boxes: Boxes, others: Boxes, least: float) -> tuple[int, int]:
    """Returns how many boxes with a score of `least` or more have nothing like them among others, and of how many."""
    from spvnas_ros.boxes.overlap import bev_overlap

    clear = boxes.among(boxes.scores >= least)
    alike = (bev_overlap(clear.boxes, others.boxes) >= ALIKE) & (clear.classes[:, None] == others.classes[None])
    return int(np.sum(~alike.any(axis=1))), len(clear)


def _street(channels: int, voxel_size: float) -> Points:
    """Returns a generated scan whose points have `channels` values and whose extent can be keyed at any voxel size.

    Values that the generated street does not have are zero.
    """
    from spvnas_ros.engine.sample_street import street_scan

    street = street_scan(seed=0)[0]
    street = street[np.abs(street[:, :3]).max(axis=1) < voxel_size * MAX_EXTENT / 4]
    points = np.zeros((len(street), channels), np.float32)
    points[:, : street.shape[1]] = street[:, :channels]
    return points


def _cuda_engine_problem(place: torch.device) -> str:
    """Returns the reason why the CUDA engine cannot run on a device, or an empty string where it can."""
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if place.type != "cuda" and not interpreted:
        return f"engine 'cuda' runs on CUDA devices, not on {place}; use engine 'cpu' or 'torch' there"
    if importlib.util.find_spec("triton") is None:
        return "engine 'cuda' needs triton, which is not installed: python -m pip install triton"
    if place.type == "cuda" and (found := torch.cuda.get_device_capability(place)) < OLDEST_CAPABILITY:
        name = torch.cuda.get_device_name(place)
        return f"engine 'cuda' needs compute capability {OLDEST_CAPABILITY}, {name} has {found}; use engine 'torch'"
    return ""


def resolve_device(device: str) -> torch.device:
    """Returns the device called `device` ("auto" or a torch device name).

    Raises ValueError for a device that does not exist.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
    except RuntimeError as error:
        raise UserError(f"unknown device {device!r}, expected 'auto', 'cpu', 'cuda' or 'cuda:N'") from error
    if place.type not in ("cpu", "cuda"):
        raise UserError(f"device {device!r} is not supported, expected 'auto', 'cpu', 'cuda' or 'cuda:N'")
    if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"device {device!r} is not there: torch {torch.__version__} sees {torch.cuda.device_count()} CUDA "
            "device(s); use 'cpu', or install a torch build with CUDA and a driver it supports"
        )
    return place
