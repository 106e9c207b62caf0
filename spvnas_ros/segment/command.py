"""`spvnas segment` as a command: what is cheap to check is checked before torch is loaded, which takes seconds."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from spvnas_ros.clouds.intensity import Intensity
from spvnas_ros.recordings.scans import open_source
from spvnas_ros.segment.output import BAG, LABELS, PICTURE, SUMMARY, check_output
from spvnas_ros.zoo.cache import resolve_weights

if TYPE_CHECKING:
    from spvnas_ros.segment.run import Summary

ENGINES = ("auto", "cpu", "cuda", "torch", "spconv", "spconv-triton", "torchsparse")
"""As in `spvnas_ros.engine`, which cannot be asked without torch."""

_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")
_TOP_CLASSES = 5


class ReportedIntensity(Intensity):
    """An intensity rule that can say afterwards what it did.

    Attributes:
        divisors: what intensities were divided by, in order, each change once; empty where no cloud had any, and
                  for the rule "none"
    """

    def __init__(self, rule: str = "auto") -> None:
        super().__init__(rule)
        self.divisors: list[float] = []

    def scale(self, values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """As `Intensity.scale`."""
        scaled = super().scale(values)
        if self.rule != "none":
            divisor = self.divisor
            if self.rule == "auto":
                # Integers have a divisor of their own; a one shows it, and is never what changes the rule's mind.
                divisor = float(round(1 / float(super().scale(np.ones(1, values.dtype))[0])))
            if self.divisors[-1:] != [divisor]:
                self.divisors.append(divisor)
        return scaled


def run(
    path: Path,
    weights: str,
    out: Path,
    *,
    device: str = "auto",
    engine: str = "auto",
    intensity: str = "auto",
    topic: str | None = None,
    scores: bool = False,
    force: bool = False,
) -> int:
    """Check and load what is named, label with progress shown, print the summary. Returns the exit status.

    Raises the errors of `open_source`, `Perception.load` and `segment`, in this order: input, weights, engine and
    device, output.
    """
    rule = ReportedIntensity(intensity)
    with open_source(path, intensity=rule, topic=topic) as source:
        resolve_weights(weights)
        check_names(device, engine)
        check_output(source, out, scores=scores, force=force)

        from rich.console import Console

        from spvnas_ros.perception import Perception
        from spvnas_ros.segment.run import INTERRUPTED, progress_bar, segment, stop_on_signal

        perception = Perception.load(weights, device=device, engine=engine)
        with progress_bar(len(source)) as on_frame, stop_on_signal() as stopped:
            summary = segment(
                source,
                perception,
                out,
                scores=scores,
                force=force,
                intensity=rule,
                on_frame=on_frame,
                stopped=stopped.is_set,
            )
    Console(soft_wrap=True, highlight=False, markup=False).print(describe(summary, out, source.kind))
    return INTERRUPTED if summary.interrupted else 0 if summary.complete else 1


def check_names(device: str, engine: str) -> None:
    """Raises ValueError for an engine or a device that cannot exist; whether the device is there, torch must say."""
    if engine not in ENGINES:
        raise ValueError(f"unknown engine {engine!r}, expected one of {', '.join(ENGINES)}")
    if not _DEVICE.fullmatch(device):
        raise ValueError(f"unknown device {device!r}, expected 'auto', 'cpu', 'cuda' or 'cuda:N'")


def describe(summary: Summary, out: Path, kind: str) -> str:
    """The summary for people."""
    if not summary.frames:
        return _describe_nothing(summary, out)
    network = f"{summary.network or 'the network'} (engine {summary.engine}, device {summary.device})"
    lines = [
        f"{summary.frames} frame(s), {summary.points:,} points labelled by {network}: "
        f"{summary.percentile(50):.1f} ms a frame (p50), {summary.percentile(95):.1f} ms (p95)"
    ]
    if summary.intensity is not None:
        lines[0] += f"; {_describe_intensity(summary.intensity, summary.intensity_divisors)}"
    if summary.classes:
        shares = [f"{name} {count / summary.points:.1%}" for name, count in summary.classes.items()]
        rest = len(shares) - _TOP_CLASSES
        lines.append(", ".join(shares[:_TOP_CLASSES]) + (f", {rest} more classes" if rest > 0 else ""))
    lines.append(f"{out / (BAG if kind == 'bag' else LABELS)}, {out / PICTURE}, {out / SUMMARY}")
    if not summary.trained:
        lines.append("These weights are untrained: the labels mean nothing.")
    if summary.skipped:
        lines.append(f"{len(summary.skipped)} frame(s) could not be labelled; see above and {out / SUMMARY}.")
    if summary.interrupted:
        lines.append("Interrupted: the frames above are complete, the others were not begun.")
    return "\n".join(lines)


def _describe_nothing(summary: Summary, out: Path) -> str:
    if summary.interrupted:
        reason = "Interrupted before a frame was labelled"
    elif summary.skipped:
        reason = f"None of {len(summary.skipped)} frame(s) could be labelled, see above"
    else:
        reason = f"{summary.source} holds no frames"
    return f"{reason}: nothing was written to {out}."


def _describe_intensity(rule: str, divisors: list[float]) -> str:
    if rule == "none":
        return "intensity not used"
    if not divisors:
        return "no intensity found"
    if divisors == [1]:
        return f"intensity taken as it is ({rule})"
    return f"intensity divided by {', later by '.join(f'{divisor:g}' for divisor in divisors)} ({rule})"
