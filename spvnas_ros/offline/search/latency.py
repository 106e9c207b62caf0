"""Predicts how long a network takes for a frame on this machine, from layers that were measured on its engine.

Some networks of the space, the probes, run on a sample scan, and every step is timed. The time of other layers is
interpolated: for each kind of layer and each level it is a non-negative combination of what grows with the work (pairs
of the kernel, by widths in whole steps) and of what grows with the data read and written. A network's frame
time is the sum over its layers and what comes before and after them. An engine that does not time its steps (CUDA) is
fitted by whole frames in the same terms; that has not been tried on a GPU yet.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from time import perf_counter, thread_time
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import nnls
from scipy.stats import spearmanr

from spvnas_ros.engine import build_engine
from spvnas_ros.engine.cpu import CpuEngine
from spvnas_ros.errors import UserError
from spvnas_ros.frame import Points
from spvnas_ros.kernels.cpu.convolve import SHAPE
from spvnas_ros.nets.layers import Layer, Sizes, layers_of
from spvnas_ros.nets.space import Candidate, Space
from spvnas_ros.nets.spec import NetSpec
from spvnas_ros.nets.supernet import levels_of, re_estimate
from spvnas_ros.nets.unet import PointVoxelUNet
from spvnas_ros.sparse.coords import quantize

Device = Literal["cpu", "cuda"]
FRAME = "frame"
"""What a whole frame is called where steps are not timed."""

TURNS, _MOST_TURNS = 3, 10
"""How often every network has its turn, at least and at most."""
_BETTER = 0.99
"""Times below this share of the best so far are better ones."""
_RESOLUTION = 1e-7
"""Seconds; layers that take less count as that long."""
_GRAINS = tuple((lanes, vectors) for lanes in (1, 2, 4, 8, 16, 32) for vectors in (1, 2, 3, 4))
"""Channels that an engine may calculate at once, and how many of these in a row."""


@dataclass(frozen=True)
class Measured:
    """What a network took, at best.

    spec:    the network
    seconds: of each step by name, and of what comes before and after; or of the whole `FRAME`
    whole:   seconds of the fastest frame
    """

    spec: NetSpec
    seconds: Mapping[str, float]
    whole: float


@dataclass(frozen=True)
class LatencyTable:
    """The measured layers of one voxel size on one machine.

    machine: where it was measured, for people
    device:  of the engine; threads: that it ran on, of a CPU
    sizes:   of the sample scan's geometry
    probes:  networks, and what their steps took
    """

    machine: str
    device: Device
    threads: int
    sizes: Sizes
    probes: tuple[Measured, ...]

    def seconds(self, spec: NetSpec) -> float:
        """Returns the predicted time of a frame."""
        return self._scale * self._sum(spec)

    def _sum(self, spec: NetSpec) -> float:
        return self._fixed + sum(
            float(self._terms(layer) @ self._weights[key])
            for layer in layers_of(spec)
            if (key := self._key(layer)) in self._weights
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns the table as values that JSON can hold."""
        return {
            "machine": self.machine,
            "device": self.device,
            "threads": self.threads,
            "rows": self.sizes.rows,
            "pairs": self.sizes.pairs,
            "probes": [
                {"spec": probe.spec.to_dict(), "seconds": dict(probe.seconds), "whole": probe.whole}
                for probe in self.probes
            ],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> LatencyTable:
        """Returns the table that `to_dict` wrote."""
        probes = tuple(
            Measured(NetSpec.from_dict(each["spec"]), each["seconds"], each["whole"]) for each in data["probes"]
        )
        sizes = Sizes(tuple(data["rows"]), tuple(data["pairs"]))
        return cls(data["machine"], data["device"], data["threads"], sizes, probes)

    @property
    def _whole(self) -> bool:
        return FRAME in self.probes[0].seconds

    def _key(self, layer: Layer) -> str:
        return FRAME if self._whole else f"{layer.kind} {layer.level}"

    def _terms(self, layer: Layer) -> npt.NDArray[np.float64]:
        return self._terms_by(layer, *self._grain)

    def _terms_by(self, layer: Layer, lanes: int, vectors: int) -> npt.NDArray[np.float64]:
        pairs, rows = self.sizes.terms(layer)
        wide, blocks = -(-layer.out // lanes) * lanes, -(-layer.out // (lanes * vectors))
        into = layer.into
        terms = (1.0, pairs * into * wide, pairs * into * blocks, rows * wide, rows * layer.skip * wide, pairs * into)
        return np.array(terms, np.float64)

    @cached_property
    def _grain(self) -> tuple[int, int]:
        """The steps in which a wider output takes longer, see `_GRAINS`: those with which the probes' layers are told
        best. They differ between engines, their precisions and machines, so nothing is assumed of them.
        """
        return min(_GRAINS, key=lambda grain: sum(misfit for _, misfit in self._fits(grain).values()))

    @cached_property
    def _scale(self) -> float:
        """How much longer the probes' frames take than the sum of what is predicted of their layers: these are not at
        their best at once, and a fit of relative errors predicts too little rather than too much.
        """
        return float(np.median([probe.whole / self._sum(probe.spec) for probe in self.probes]))

    @cached_property
    def _fixed(self) -> float:
        """Seconds of a frame outside of its layers: the fastest of all probes, which all do the same there."""
        if self._whole:
            return 0.0  # the fit of whole frames has a constant for each layer
        named = {layer.name for probe in self.probes for layer in layers_of(probe.spec)}
        others = {name for probe in self.probes for name in probe.seconds} - named
        return sum(min(probe.seconds[name] for probe in self.probes if name in probe.seconds) for name in others)

    @cached_property
    def _weights(self) -> dict[str, npt.NDArray[np.float64]]:
        """What each term of a layer costs, by kind and level."""
        return {key: weights for key, (weights, _) in self._fits(self._grain).items()}

    def _fits(self, grain: tuple[int, int]) -> dict[str, tuple[npt.NDArray[np.float64], float]]:
        rows: dict[str, list[npt.NDArray[np.float64]]] = {}
        times: dict[str, list[float]] = {}
        for probe in self.probes:
            layers = layers_of(probe.spec)
            if self._whole:
                rows.setdefault(FRAME, []).append(np.sum([self._terms_by(layer, *grain) for layer in layers], axis=0))
                times.setdefault(FRAME, []).append(probe.seconds[FRAME])
                continue
            for layer in layers:
                rows.setdefault(self._key(layer), []).append(self._terms_by(layer, *grain))
                times.setdefault(self._key(layer), []).append(probe.seconds[layer.name])
        return {key: _fit(np.stack(rows[key]), np.array(times[key])) for key in rows}


def _fit(terms: npt.NDArray[np.float64], seconds: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], float]:
    """Returns the non-negative weights `[T]` of the terms `[n, T]` with the least squares of relative errors, and the
    sum of these squares, each weighted by the seconds that it is about.
    """
    seconds = np.maximum(seconds, _RESOLUTION)
    scale = np.maximum(terms.max(axis=0), 1e-12)
    weights, _ = nnls(terms / scale / seconds[:, None], np.ones(len(seconds)))
    found: npt.NDArray[np.float64] = weights / scale
    return found, float(seconds @ (terms @ found / seconds - 1) ** 2)


class Stopwatch:
    """Times networks on the engine that a node would use.

    device:  "cpu" or "cuda"
    threads: of the CPU engine
    precision: of features and weights; "auto" is the engine's own choice
    repeats: frames of each turn; the best time counts, of each step by itself

    A single thread is timed by the processor time it gets, which other programs do not lengthen. Several threads are
    timed by the clock, so the machine should have nothing else to do. Raises UserError for a device that is not there.
    """

    def __init__(self, device: Device = "cpu", threads: int = 1, repeats: int = 5, precision: str = "auto") -> None:
        if device == "cuda" and precision == "int16":
            raise UserError("timing.precision int16 is the CPU engine's; with timing.device cuda use auto or fp32")
        if device == "cuda" and not torch.cuda.is_available():
            raise UserError("milliseconds are asked for on cuda, and torch sees no CUDA device; use device: cpu")
        self.device: Device = device
        self.threads, self._repeats, self.precision = threads, repeats, precision
        self._now: Callable[[], float] = thread_time if device == "cpu" and threads == 1 else perf_counter

    def measured(
        self, candidates: Sequence[Candidate], points: Points, on_visit: Callable[[], None] = lambda: None
    ) -> list[Measured]:
        """Returns what each network took. They take turns, so that a machine that is busy now slows all alike; turns
        end when no better times come.

        on_visit: is called when a network had its turn
        """
        nets = [_net(candidate, points) for candidate in candidates]
        steps: list[dict[str, float]] = [{} for _ in candidates]
        whole = [float("inf")] * len(candidates)
        for turn in range(_MOST_TURNS if self.device == "cpu" else 1):  # a CUDA engine takes long to be made ready
            before = sum(whole)
            for number, (net, candidate) in enumerate(zip(nets, candidates, strict=True)):
                run = self._runner(net, candidate.voxel_size, points)
                for _ in range(self._repeats):
                    laps = run()
                    steps[number] = {name: min(took, steps[number].get(name, took)) for name, took in laps.items()}
                    whole[number] = min(whole[number], sum(laps.values()))
                on_visit()
            if turn + 1 >= TURNS and sum(whole) > _BETTER * before:
                break
        specs = [candidate.spec for candidate in candidates]
        return [Measured(*took) for took in zip(specs, steps, whole, strict=True)]

    def _runner(self, net: PointVoxelUNet, voxel_size: float, points: Points) -> Callable[[], dict[str, float]]:
        """Returns what runs a network once and returns the seconds of its steps, or of the whole frame."""
        if self.device == "cpu":
            cpu = CpuEngine(net, voxel_size, self.threads, self.precision)
            return lambda: cpu.segment_timed(points, now=self._now)[1]
        engine = build_engine(net, voxel_size, device=self.device, precision=self.precision, sample=points)

        def run() -> dict[str, float]:
            begin = self._now()
            engine.segment(points, scores=False)
            return {FRAME: self._now() - begin}

        return run


def _net(candidate: Candidate, points: Points) -> PointVoxelUNet:
    """Returns a network with random weights and the BatchNorm statistics that belong to them, as in a trained one: an
    engine may run otherwise on values that these do not tell.
    """
    torch.manual_seed(0)
    net = PointVoxelUNet(candidate.spec)
    voxels = quantize(torch.from_numpy(points), candidate.voxel_size)
    feats = torch.from_numpy(points)[voxels.first]
    re_estimate(net, [(voxels.coords, feats, levels_of(voxels.coords, feats))])
    return net.eval()


def probes(space: Space, voxel_size: float, count: int, rng: np.random.Generator) -> list[Candidate]:
    """Returns networks that span the space: the smallest, the largest, uniformly narrow ones, and random ones."""
    firm = [space.largest(), space.smallest(), *(space.narrowed(share) for share in (0.25, 0.5, 0.75))]
    drawn = [space.sample(rng) for _ in range(count - len(firm))]
    return [Candidate(each.spec, voxel_size) for each in (*firm, *drawn)]


def table_of(stopwatch: Stopwatch, sizes: Sizes, measured: Sequence[Measured]) -> LatencyTable:
    """Returns the table of what was measured on a scan whose geometry has these sizes."""
    machine = f"{platform.node()}, {platform.machine()}, {SHAPE.name}, precision {stopwatch.precision}"
    return LatencyTable(machine, stopwatch.device, stopwatch.threads, sizes, tuple(measured))


def rank_correlation(predicted: Sequence[float], measured: Sequence[float]) -> float:
    """Returns Spearman's rank correlation of two lists of numbers."""
    return float(spearmanr(predicted, measured).statistic)
