"""One contender of the GPU benchmark, in a process of its own, so that a crash ends nothing else."""

from __future__ import annotations

import multiprocessing
import os
import resource
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from time import perf_counter
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from spvnas_ros.bench.cpu_worker import VOXEL_SIZE, seeded
from spvnas_ros.bench.roofline import Rates, measure_rates
from spvnas_ros.engine import Engine
from spvnas_ros.errors import UserError
from spvnas_ros.frame import Points
from spvnas_ros.nets.spec import NetSpec
from spvnas_ros.sparse.coords import quantize
from spvnas_ros.sparse.kernel_map import build_levels
from spvnas_ros.workers import begin_worker

Precision = Literal["fp16", "fp32"]

DTYPES: dict[Precision, torch.dtype] = {"fp16": torch.float16, "fp32": torch.float32}
WARM_UP = 5


class ContenderError(RuntimeError):
    """The error for a contender that failed at its task. The text says why."""


@dataclass(frozen=True)
class Case:
    """A network, by the name it has in the table, in one precision."""

    network: str
    spec: NetSpec
    precision: Precision


@dataclass(frozen=True)
class Event:
    """An event that a profiler saw, with its microseconds.

    on_device: True for a kernel or a copy on the device, False for a call of the CUDA libraries
    """

    name: str
    on_device: bool
    microseconds: float


@dataclass(frozen=True)
class Profile:
    """One frame under the profiler.

    kernels: number that ran on the device; launches: calls that started kernels or graphs
    waits: calls in which the host waits for the device
    kernel_ms: device time by the kernel's name; stages_ms: by the engine's own stages
    """

    kernels: int
    launches: int
    waits: int
    kernel_ms: dict[str, float]
    stages_ms: dict[str, float]
    peak_mb: float


class Bench:
    """An engine at a time. Every method is called by its name through a connection."""

    def __init__(self, contender: str, device: str) -> None:
        self._contender = contender
        self._device = torch.device(device)
        if self._device.type == "cuda" and self._device.index is not None:
            torch.cuda.set_device(self._device)
        self._engine: Engine | None = None
        self._points = np.zeros((0, 4), np.float32)
        self._boxes = False

    def prepare(self, case: Case, points: Points) -> npt.NDArray[np.uint8]:
        """Builds and warms up the engine, and returns the labels it gives. Peak memory counts from here."""
        self._engine = None
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        self._points, self._boxes = points, case.spec.boxes is not None
        self._engine = build(self._contender, case, self._device, points)
        for _ in range(WARM_UP if self._device.type == "cuda" else 1):
            labels = self._engine.segment(points, scores=False, boxes=self._boxes).labels
        return labels

    def frames(self, count: int) -> list[float]:
        """Returns the milliseconds of `count` frames, from points to labels in the host's memory.

        Boxes are found, too, where the network has a branch for them.
        """
        times = []
        engine = self._ready()
        for _ in range(count):
            self._wait()
            start = perf_counter()
            engine.segment(self._points, scores=False, boxes=self._boxes)
            times.append(1e3 * (perf_counter() - start))
        return times

    def profile(self) -> Profile:
        """Runs frames under the profiler, and one frame by the engine's own clock where it has one."""
        engine = self._ready()
        engine.segment(self._points, scores=False, boxes=self._boxes)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        if self._device.type == "cuda":
            peak = torch.cuda.max_memory_allocated() / 2**20
        timed: Callable[..., tuple[Any, dict[str, float]]] | None = getattr(engine, "segment_timed", None)
        stages = {} if timed is None else self._stages(timed)
        events = self._events(engine) if self._device.type == "cuda" else []
        return summarise(events, stages, peak)

    def _stages(self, timed: Callable[..., tuple[Any, dict[str, float]]]) -> dict[str, float]:
        asked = {"boxes": True} if self._boxes else {}
        return {name: 1e3 * seconds for name, seconds in timed(self._points, **asked)[1].items()}

    def train(self, case: Case, points: Points, steps: int) -> list[float]:
        """Returns the milliseconds of `steps` training steps, after a first one that is not counted."""
        net = seeded(case.spec).to(self._device).train()
        optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4)
        cloud = torch.from_numpy(points).to(self._device)
        voxels = quantize(cloud, VOXEL_SIZE)
        labels = torch.randint(0, case.spec.num_classes, (len(voxels.first),), device=self._device)
        scaler = torch.amp.GradScaler(self._device.type, enabled=case.precision == "fp16")
        times = []
        for _ in range(steps + 1):
            self._wait()
            start = perf_counter()
            with torch.autocast(self._device.type, torch.float16, enabled=case.precision == "fp16"):
                # Plain torch is given its geometry. Without one a network takes its device's training kernels.
                levels = build_levels(voxels.coords) if self._contender == "torch" else None
                logits = net(voxels.coords, cloud[voxels.first], levels)
            loss = scaler.scale(functional.cross_entropy(logits.float(), labels))
            loss.backward()  # type: ignore[no-untyped-call]
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            self._wait()
            times.append(1e3 * (perf_counter() - start))
        return times[1:]

    def rates(self, precision: Precision) -> Rates:
        """Measures the rates of the device."""
        return measure_rates(self._device, DTYPES[precision])

    def _ready(self) -> Engine:
        if self._engine is None:
            raise ContenderError("no engine was prepared")
        return self._engine

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def _events(self, engine: Engine) -> list[Event]:
        from torch.profiler import ProfilerActivity, profile

        activities = [ProfilerActivity.CPU, ProfilerActivity.CUDA]
        for _ in range(2):  # the first use of the profiler is slow
            with profile(activities=activities) as profiler:
                engine.segment(self._points, scores=False, boxes=self._boxes)
                self._wait()
        events = profiler.events() or []
        return [Event(e.name, e.device_type.name == "CUDA", float(e.time_range.elapsed_us())) for e in events]


def build(contender: str, case: Case, device: torch.device, sample: Points) -> Engine:
    """Builds the contender's engine for a case, ready for scans like the sample.

    Raises ValueError where the engine cannot be built or does not do what the case asks for.
    """
    if case.spec.boxes and contender not in ("cuda", "cpu", "torch"):
        raise UserError(f"{contender} gives labels alone")
    net, dtype = seeded(case.spec), DTYPES[case.precision]
    if contender == "cuda":
        from spvnas_ros.engine.cuda import CudaEngine

        return CudaEngine(net, VOXEL_SIZE, device, case.precision, sample)
    if contender == "cpu":
        from spvnas_ros.engine.cpu import CpuEngine

        return CpuEngine(net, VOXEL_SIZE)
    if contender == "torch":
        from spvnas_ros.engine.reference import ReferenceEngine

        return ReferenceEngine(net, VOXEL_SIZE, device, dtype)
    from spvnas_ros.engine.peers import build_peer

    return build_peer(contender, net, VOXEL_SIZE, device, dtype)


def summarise(events: Iterable[Event], stages_ms: dict[str, float], peak_mb: float) -> Profile:
    """Counts the kernels, launches and waits among a profiler's events.

    Waits for the whole device are not counted, because they are the benchmark's and the profiler's own.
    """
    kernel_ms: dict[str, float] = {}
    kernels = launches = waits = 0
    for event in events:
        name = event.name
        if event.on_device:
            kernel_ms[name] = kernel_ms.get(name, 0.0) + 1e-3 * event.microseconds
            kernels += not name.startswith(("Memcpy", "Memset"))
        elif name.startswith("cu"):
            launches += "Launch" in name
            waits += "Synchronize" in name and "DeviceSynchronize" not in name
    return Profile(kernels, launches, waits, kernel_ms, stages_ms, peak_mb)


class Worker:
    """A contender in its process. After an error the process is started anew: a CUDA error poisons its process."""

    def __init__(self, contender: str, device: str) -> None:
        self.contender = contender
        self._device = device
        self._process: Any = None
        self._connection: Connection | None = None

    def ask(self, method: str, *arguments: Any, timeout_s: float) -> Any:
        """Returns the result of one of `Bench`'s methods. Raises ContenderError with the reason where there is none."""
        connection = self._connection or self._start()
        try:
            connection.send((method, arguments))
            answered = connection.poll(timeout_s)
            done, result = connection.recv() if answered else (False, f"{method} took more than {timeout_s:.0f} s")
        except (EOFError, OSError):
            self._process.join()
            done, result = False, f"the process ended with status {self._process.exitcode} in {method}"
        if not done:
            self.stop()
            raise ContenderError(result)
        return result

    def stop(self) -> None:
        """Ends the process."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
        if self._connection is not None:
            self._connection.close()
        self._process = self._connection = None

    def _start(self) -> Connection:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=serve, args=(theirs, self.contender, self._device, os.getpid()), daemon=True
        )
        self._process.start()
        theirs.close()
        return self._connection


def serve(connection: Connection, contender: str, device: str, parent: int) -> None:
    """Answers requests until the other side, the process `parent`, goes away."""
    begin_worker(parent)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # libraries print, but standard output is for the table only
    bench = Bench(contender, device)
    while True:
        try:
            method, arguments = connection.recv()
        except EOFError:
            return
        try:
            connection.send((True, getattr(bench, method)(*arguments)))
        except Exception as error:
            traceback.print_exc()
            connection.send((False, describe(error)))


def describe(error: BaseException) -> str:
    """Returns an error as one line."""
    lines: Sequence[str] = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}".rstrip(": ")[:300]
