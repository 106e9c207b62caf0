"""`spvnas segment` as a command: what is cheap to check is checked before torch is loaded, which takes seconds."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from spvnas_ros.clouds.intensity import Intensity
from spvnas_ros.clouds.mount import PlaceRule
from spvnas_ros.errors import UserError
from spvnas_ros.palettes import SPVNAS
from spvnas_ros.palettes import check as check_palette
from spvnas_ros.recordings.scans import Source, open_source
from spvnas_ros.segment.benchmark_zip import TEST_SCANS, check_benchmark, write_benchmark
from spvnas_ros.segment.label_forms import LabelForm
from spvnas_ros.segment.output import BENCHMARK, check_folder
from spvnas_ros.segment.progress import INTERRUPTED, progress_bar, run_progress, stop_on_signal
from spvnas_ros.segment.summary import Summary, describe
from spvnas_ros.segment.tile_rule import TileRule
from spvnas_ros.zoo.cache import resolve_weights

if TYPE_CHECKING:
    from spvnas_ros.perception import Perception
    from spvnas_ros.segment.run_options import Judge, SegmentOptions
    from spvnas_ros.zoo.checkpoint import Facts

ENGINES = ("auto", "cpu", "cuda", "torch", "spconv", "spconv-triton", "torchsparse")
"""As in `spvnas_ros.engine`, which cannot be asked without torch."""
PRECISIONS = ("auto", "fp32", "int16", "int8", "fp16", "bf16")

_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")


@dataclass(frozen=True)
class SegmentRequest:
    """What `spvnas segment` was asked for.

    intensity, intensity_field, origin, mount: the rules for the sensor, as the options have them
    quiet:    nothing is said about clouds that do not fit the network
    topic:    of a bag's clouds, where it has several
    palette:  name of the colours in pictures
    boxes:    the detector whose boxes are written beside the labels, as `weights`; None for none
    min_score: least score of a box; None for what the detector says, or the weights that find boxes
    columns:  what the numbers of a point are, for scans that do not say it
    form:     in which form the labels of scans are written
    judge:    makes what the labels are compared with, from the source and what the weights say of themselves
    describe: prints the scores that lie in the folder
    sweeps:   of nuScenes, the scans between the keyframes are labelled, too
    tile:     "auto", "off" or metres: which scans are labelled tile by tile
    benchmark: SemanticKITTI's test split alone is labelled, and packed for its server
    """

    source: Path
    out: Path
    weights: str = "default"
    device: str = "auto"
    engine: str = "auto"
    precision: str = "auto"
    intensity: str = "auto"
    intensity_field: str | None = None
    origin: str | None = None
    mount: str | None = None
    quiet: bool = False
    topic: str | None = None
    scores: bool = False
    force: bool = False
    palette: str = SPVNAS
    boxes: str | None = None
    min_score: float | None = None
    columns: str | None = None
    form: LabelForm = field(default_factory=LabelForm)
    judge: Callable[[Source, Facts], Judge] | None = None
    describe: Callable[[Path, Console], None] = lambda *_: None
    sweeps: bool = False
    benchmark: bool = False
    tile: str = "auto"


def run(asked: SegmentRequest) -> int:
    """Checks and loads what is named, labels with progress shown, prints the summary. Returns the exit status.

    Raises the errors of `open_source`, `Perception.load`, `Detector.load`, the judge and `segment`, in this order:
    input, weights, detector, engine and device, output, truth.
    """
    tiles = TileRule.parse(asked.tile)
    rule, place = Intensity(asked.intensity, asked.intensity_field), PlaceRule.parse(asked.origin, asked.mount)
    check_palette(asked.palette)
    if asked.benchmark and not asked.form.raw_ids:
        raise UserError(f"the benchmark takes .label files, which --format {asked.form.form} does not write")
    sequences = TEST_SCANS if asked.benchmark else None
    with open_source(
        asked.source,
        intensity=rule,
        topic=asked.topic,
        place=place,
        columns=asked.columns,
        sweeps=asked.sweeps,
        sequences=sequences,
    ) as source:
        if source.kind == "bag" and asked.form != LabelForm():
            raise UserError(
                f"{asked.source} is a bag, whose labels go into a bag; leave --format, --classification out"
            )
        if source.kind != "bag":
            asked.form.check(source.files)
        resolve_weights(asked.weights)
        if asked.boxes is not None:
            resolve_weights(asked.boxes)
        check_names(asked.device, asked.engine, asked.precision)
        check_folder(asked.out)

        from spvnas_ros.perception import Detector, Perception
        from spvnas_ros.segment.first_look import look_at_source, tell
        from spvnas_ros.segment.run_options import SegmentOptions

        detector = None
        if asked.boxes is not None:
            detector = Detector.load(asked.boxes, device=asked.device, min_score=asked.min_score)
        own = asked.min_score if asked.boxes is None else None
        perception = Perception.load(
            asked.weights, device=asked.device, engine=asked.engine, precision=asked.precision, min_score=own
        )
        if asked.benchmark:
            check_benchmark([frame.name for frame in source], perception.facts.label_map)
        judge = asked.judge(source, perception.facts) if asked.judge else None
        source.sensor.suit(perception.facts.sensor_height)
        found = look_at_source(source, perception.facts, tiles)
        tell(found, quiet=asked.quiet)
        options = SegmentOptions(
            Path(asked.weights).name,
            asked.scores,
            asked.force,
            judge,
            tuple(found),
            asked.palette,
            detector,
            Path(asked.boxes or "").name,
            asked.form,
            tiles,
        )
        console = Console(soft_wrap=True, highlight=False, markup=False)
        summary = _segment(source, perception, asked.out, options, console)
        if asked.benchmark and summary is not None and summary.complete:
            _pack(source, asked.out, console)
    if summary is None:
        return INTERRUPTED
    if summary.frames and judge:
        asked.describe(asked.out, console)
    console.print(describe(summary, asked.out, source.kind))
    return 0 if summary.complete else 1


def _segment(
    source: Source, perception: Perception, out: Path, options: SegmentOptions, console: Console
) -> Summary | None:
    """Labels, or finds that it is done; None where the run was interrupted."""
    from spvnas_ros.segment.label_frames import Interrupted
    from spvnas_ros.segment.run import finished, segment

    if done := finished(source, perception, out, options):
        console.print(f"{out} is finished: nothing to do (--force labels again)")
        return done
    try:
        with (
            stop_on_signal() as stopped,
            run_progress(len(source)) as (on_frame, on_written, on_step),
        ):
            return segment(
                source, perception, out, options,
                on_frame=on_frame, on_written=on_written, on_step=on_step, stopped=stopped.is_set,
            )  # fmt: skip
    except Interrupted as stop:
        again = "the same command without --force" if options.force else "the same command"
        console.print(f"Interrupted: {stop}; {again} goes on there.")
        return None


def _pack(source: Source, out: Path, console: Console) -> None:
    """Writes the benchmark's zip, unless an earlier run of the same command has."""
    if not (out / BENCHMARK).exists():
        # A point is four float32. That each file is so, reading it has shown.
        sizes = {frame.name: file.stat().st_size // 16 for frame, file in zip(source, source.files, strict=True)}
        with progress_bar(len(source), "packing") as on_packed:
            write_benchmark(out, out / BENCHMARK, sizes.__getitem__, on_packed=on_packed)
    console.print(f"{out / BENCHMARK}: sequences {min(TEST_SCANS)} to {max(TEST_SCANS)} for the benchmark's server")


def check_names(device: str, engine: str, precision: str = "auto") -> None:
    """Raises ValueError for an engine, a precision or a device that cannot exist; whether the device is there, torch
    must say."""
    if precision not in PRECISIONS:
        raise UserError(f"unknown precision {precision!r}, expected one of {', '.join(PRECISIONS)}")
    if engine not in ENGINES:
        raise UserError(f"unknown engine {engine!r}, expected one of {', '.join(ENGINES)}")
    if not _DEVICE.fullmatch(device):
        raise UserError(f"unknown device {device!r}, expected 'auto', 'cpu', 'cuda' or 'cuda:N'")
