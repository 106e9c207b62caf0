"""One contender of the CPU benchmark, in a process of its own.

`python -m spvnas_ros.bench.cpu_worker '{...}'` prints one JSON object. A process for each contender keeps their peak
memory, thread settings and OpenMP runtimes apart.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from time import perf_counter, process_time

import numpy as np
import torch

from spvnas_ros.frame import Points
from spvnas_ros.nets.spec import NetSpec
from spvnas_ros.nets.unet import PointVoxelUNet
from spvnas_ros.recordings.scans import read_scan

VOXEL_SIZE = 0.05


@dataclass(frozen=True)
class Job:
    """One measurement to make.

    contender: "engine", "engine-fp32" (the same in float32), "torch", "spconv" or "torchsparse"
    family, width: the network; frames: how many are counted
    """

    contender: str
    family: str
    width: int
    scan: str
    threads: int
    frames: int


@dataclass(frozen=True)
class Timing:
    """The result of a measurement.

    wall_ms, cpu_ms: per frame; first_ms: the first frame, which is not among them
    stages_ms: mean of each stage, where the contender tells them; peak_gflops: the machine's, before and after
    labels: how many points got each class, to see that the contenders agree
    """

    wall_ms: list[float]
    cpu_ms: list[float]
    first_ms: float
    peak_memory_mb: float
    peak_gflops: float
    stages_ms: dict[str, float] = field(default_factory=dict)
    labels: list[int] = field(default_factory=list)


def network(family: str, width: int) -> PointVoxelUNet:
    """Returns a seeded network of a published family and width."""
    return seeded(NetSpec.spvcnn(width) if family == "spvcnn" else NetSpec.minkunet(width))


def seeded(spec: NetSpec) -> PointVoxelUNet:
    """Returns a network of this spec with seeded weights.

    Speed does not depend on the values of the weights, but features must neither vanish nor explode, and they must be
    in the range that BatchNorm says, as a trained network's are. The first layer sees metres.
    """
    torch.manual_seed(0)
    net = PointVoxelUNet(spec)
    for name, module in net.named_modules():
        if isinstance(module, torch.nn.BatchNorm1d) and module.running_var is not None:
            module.running_var.fill_(10.0 if name.startswith("stem.0.") else 0.1)
    return net.eval()


def measure(job: Job) -> Timing:
    """Runs one contender on one scan."""
    from spvnas_ros.kernels.cpu.peak import peak_gflops

    torch.set_num_threads(job.threads)
    points = read_scan(Path(job.scan), "unit")
    frame, stages = _contender(job, points)
    start = perf_counter()
    labels = frame()
    first = perf_counter() - start
    peaks, wall, cpu = [peak_gflops(job.threads)], [], []
    stages.clear()
    for _ in range(job.frames):
        wall_start, cpu_start = perf_counter(), process_time()
        frame()
        wall.append(1e3 * (perf_counter() - wall_start))
        cpu.append(1e3 * (process_time() - cpu_start))
    peaks.append(peak_gflops(job.threads))
    return Timing(
        wall,
        cpu,
        1e3 * first,
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        max(peaks),
        {name: 1e3 * total / job.frames for name, total in stages.items()},
        np.bincount(labels, minlength=19).tolist(),
    )


def _contender(job: Job, points: Points) -> tuple[Callable[[], np.ndarray], dict[str, float]]:
    """Returns a function that labels one frame, and the dictionary in which it sums up its stages."""
    net, stages = network(job.family, job.width), dict[str, float]()
    if job.contender in ("engine", "engine-fp32"):
        from spvnas_ros.engine.cpu import CpuEngine

        precision = "auto" if job.contender == "engine" else "fp32"
        again = partial(network, job.family, job.width)
        engine = CpuEngine(net, VOXEL_SIZE, job.threads, precision, again=again)

        def fused() -> np.ndarray:
            segmentation, laps = engine.segment_timed(points)
            for name, seconds in laps.items():
                stages[name] = stages.get(name, 0.0) + seconds
            return segmentation.labels

        return fused, stages
    if job.contender == "torch":
        from spvnas_ros.engine.reference import ReferenceEngine

        reference = ReferenceEngine(net, VOXEL_SIZE, torch.device("cpu"))
        return lambda: reference.segment(points, scores=False).labels, stages
    from spvnas_ros.engine.peers import build_peer

    peer = build_peer(job.contender, net, VOXEL_SIZE, torch.device("cpu"))
    return lambda: peer.segment(points, scores=False).labels, stages


if __name__ == "__main__":
    print(json.dumps(asdict(measure(Job(**json.loads(sys.argv[1]))))))
