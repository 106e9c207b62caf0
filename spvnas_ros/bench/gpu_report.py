"""The rows and tables of the GPU benchmark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

import numpy as np

from spvnas_ros.bench.gpu_worker import Profile
from spvnas_ros.bench.roofline import Rates, Work, floor_ms

OURS = ("cuda", "cpu")
BEGIN, END = "<!-- bench-gpu: begin -->", "<!-- bench-gpu: end -->"

_GEOMETRY = ("encode", "mark_levels", "build_levels", "search_neighbours", "refine_neighbours", "tile_")
_CONVOLUTIONS = ("convolve", "add_parts")
_POINTS = ("fuse_points", "mean_points")
_LABELS = ("classify", "label_points")
_BOXES = (
    "mark_columns", "mark_leads", "gather_columns", "list_kernel_rows", "finish_plane", "score_anchors",
    "find_overlaps", "suppress",
)  # fmt: skip
_DENSE = ("cudnn", "implicit_gemm", "implicit_convolve", "xmma", "cutlass", "conv2d", "fprop", "dgrad", "nhwc", "nchw")
"""Parts of the names of cuDNN's kernels."""


@dataclass(frozen=True)
class Row:
    """One contender on one network in one precision. Times are in milliseconds; `error` says why the rest is missing.

    wall: from points in the host's memory to labels there; device_ms: of it kernels and copies, by the profiler
    agree: share of the points with the label of the reference in float32
    profile_error, train_error: why counts, memory and stages, or the training step, are missing
    """

    network: str
    precision: str
    contender: str
    error: str = ""
    wall_p50: float = 0.0
    wall_p95: float = 0.0
    device_ms: float = 0.0
    kernels: int = 0
    launches: int = 0
    waits: int = 0
    peak_mb: float = 0.0
    flop: int = 0
    bytes: int = 0
    floor: float = 0.0
    agree: float = 0.0
    stages: dict[str, float] | None = None
    profile_error: str = ""
    train_p50: float = 0.0
    train_error: str = ""

    def line(self) -> str:
        """Returns the row as a line for people who wait for it."""
        head = f"{self.network} {self.precision} {self.contender}:"
        if self.error:
            return f"{head} {self.error}"
        times = f"{head} p50 {self.wall_p50:.2f} ms, p95 {self.wall_p95:.2f} ms"
        counts = f"{self.device_ms:.2f} ms in {self.kernels} kernels, {self.waits} waits, {self.peak_mb:.0f} MB"
        agree = f"labels agree {self.agree:.3%}"
        step = self.train_error or (f"training step {self.train_p50:.1f} ms" if self.train_p50 else "")
        return ", ".join(filter(None, [times, self.profile_error or counts, agree, step]))


@dataclass(frozen=True)
class Setting:
    """The facts that all rows of a report share. rates: by precision."""

    machine: str
    scan: str
    points: int
    voxels: int
    frames: int
    rates: dict[str, Rates]

    def to_dict(self) -> dict[str, Any]:
        """Returns the setting as dictionaries and numbers for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Setting:
        """Returns the setting that `to_dict` wrote."""
        return cls(**(dict(data) | {"rates": {name: Rates(**rates) for name, rates in data["rates"].items()}}))


def row_of(
    key: tuple[str, str, str],
    times: Sequence[Sequence[float]],
    profile: Profile,
    work: Sequence[Work],
    rates: Rates,
    agree: float,
) -> Row:
    """Returns a contender's row from the measurements of all its turns.

    key: network, precision, contender
    """
    wall = [ms for turn in times for ms in turn]
    total = sum(work, Work(0, 0))
    return Row(
        *key,
        wall_p50=percentile(wall, 50),
        wall_p95=percentile(wall, 95),
        device_ms=sum(profile.kernel_ms.values()),
        kernels=profile.kernels,
        launches=profile.launches,
        waits=profile.waits,
        peak_mb=profile.peak_mb,
        flop=total.flop,
        bytes=total.bytes,
        floor=floor_ms(work, rates),
        agree=agree,
        stages=stages_of(profile),
    )


def percentile(values: Sequence[float], share: float) -> float:
    """Returns a percentile with linear interpolation, as numpy does."""
    return float(np.percentile(np.asarray(values), share))


def stages_of(profile: Profile) -> dict[str, float]:
    """Returns milliseconds by stage: the engine's own laps, or its kernels grouped by purpose."""
    stages: dict[str, float] = {}
    for name, ms in (profile.stages_ms or profile.kernel_ms).items():
        stage = _stage_of_lap(name) if profile.stages_ms else _stage_of_kernel(name)
        stages[stage] = stages.get(stage, 0.0) + ms
    return stages


def _stage_of_lap(name: str) -> str:
    parts = name.split(".")
    return ".".join(parts[:2]) if parts[0] in ("encoder", "decoder") else parts[0]


def _stage_of_kernel(name: str) -> str:
    lowered = name.lower()
    if name.startswith(_BOXES) or "topk" in lowered:
        return "boxes"
    if name.startswith(_CONVOLUTIONS):
        return "convolutions"
    if any(part in lowered for part in _DENSE):
        return "bird's-eye view"
    if name.startswith(_GEOMETRY) or any(word in lowered for word in ("sort", "scan", "reduce")):
        return "geometry"
    if name.startswith(_POINTS):
        return "points"
    if name.startswith(_LABELS):
        return "labels"
    return "copies" if lowered.startswith(("memcpy", "memset")) else "other"


def markdown(setting: Setting, rows: Sequence[Row]) -> str:
    """Returns the tables for the documentation."""
    rates = "; ".join(
        f"{name}: {r.flops / 1e12:.3g} TFLOP/s in matrix products, {r.bytes_per_second / 1e9:.4g} GB/s in copies"
        for name, r in setting.rates.items()
    )
    title = f"{setting.machine}; {setting.scan}: {setting.points} points, {setting.voxels} finest voxels"
    parts = [f"{title}; {setting.frames} frames a row. Measured rates: {rates}.", _frames_table(setting, rows)]
    if any(row.stages for row in rows):
        parts.append("Stages, in milliseconds of one frame:\n\n" + _stages_table(rows))
    if any(row.train_p50 or row.train_error for row in rows):
        parts.append("One training step on one scan, forward, backward and optimizer:\n\n" + _training_table(rows))
    return "\n\n".join(parts)


def _frames_table(setting: Setting, rows: Sequence[Row]) -> str:
    columns = (
        "network", "precision", "engine", "p50, ms", "p95, ms", "on device, ms", "x fastest other", "kernels",
        "launches", "waits", "peak memory, MB", "of matrix rate", "of copy rate", "x floor", "labels agree",
    )  # fmt: skip
    lines = []
    for _, group in groupby(rows, key=lambda row: (row.network, row.precision)):
        members = list(group)
        peers = [row.wall_p50 for row in members if not row.error and row.contender not in OURS]
        for row in members:
            cells = [row.network, row.precision, row.contender]
            lines.append(_line([*cells, *_measured(row, setting.rates[row.precision], min(peers, default=0.0))]))
    return "\n".join([_line(columns), "| --- " * len(columns) + "|", *lines])


def _measured(row: Row, rates: Rates, best: float) -> list[str]:
    if row.error:
        return [_cell(row.error), *[""] * 11]
    seconds = 1e-3 * row.wall_p50
    return [
        f"{row.wall_p50:.2f}",
        f"{row.wall_p95:.2f}",
        "-" if row.profile_error else f"{row.device_ms:.2f}",
        f"{best / row.wall_p50:.1f}" if best else "-",
        *(["-"] * 4 if row.profile_error else map(str, [row.kernels, row.launches, row.waits, round(row.peak_mb)])),
        f"{row.flop / seconds / rates.flops:.1%}",
        f"{row.bytes / seconds / rates.bytes_per_second:.1%}",
        f"{row.wall_p50 / row.floor:.1f}",
        f"{row.agree:.2%}",
    ]


def _stages_table(rows: Sequence[Row]) -> str:
    lines = [
        _line(
            [
                row.network,
                row.precision,
                row.contender,
                ", ".join(f"{name} {ms:.2f}" for name, ms in row.stages.items()),
            ]
        )
        for row in rows
        if row.stages
    ]
    return "\n".join([_line(("network", "precision", "engine", "stages")), "| --- " * 4 + "|", *lines])


def _training_table(rows: Sequence[Row]) -> str:
    lines = [
        _line([row.network, row.precision, row.contender, _cell(row.train_error) or f"{row.train_p50:.1f}"])
        for row in rows
        if row.train_p50 or row.train_error
    ]
    return "\n".join([_line(("network", "precision", "engine", "step, ms")), "| --- " * 4 + "|", *lines])


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _cell(text: str) -> str:
    return text.replace("|", "/").replace("\n", " ")


def place(document: str, tables: str) -> str:
    """Returns the document with the tables between its two markers.

    Raises ValueError where the document does not have both markers, in order.
    """
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the document has no place for the tables: expected a line {BEGIN!r} and a later one {END!r}")
    return f"{before}{BEGIN}\n\n{tables}\n\n{END}{after}"
