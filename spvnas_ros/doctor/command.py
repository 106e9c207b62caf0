"""Runs `spvnas doctor`: observes the clouds, measures the network where weights are given, prints the findings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from spvnas_ros.clouds.intensity import Intensity
from spvnas_ros.clouds.mount import SENSOR_HEIGHT, PlaceRule
from spvnas_ros.doctor.checks import examine
from spvnas_ros.doctor.finding import BAD, OK, WARN, Finding
from spvnas_ros.doctor.observe import Clouds, observe
from spvnas_ros.doctor.stream_checks import Timing
from spvnas_ros.errors import UserError
from spvnas_ros.frame import Points

if TYPE_CHECKING:
    from spvnas_ros.perception import Detector, Perception

_STYLES = {OK: "green", WARN: "yellow", BAD: "bold red"}


class TopicError(UserError):
    """A live topic cannot be examined. The message says what is there instead."""


def measure(network: Perception | Detector, clouds: Clouds, frames: int) -> Timing | None:
    """Has a network look at up to `frames` of the sampled clouds and returns the times, or None where there are none.

    It looks at the first cloud once more before the measurement, to warm up. A network that labels and finds boxes is
    measured with the labels alone, and with both.
    """
    from spvnas_ros.perception import Perception

    chosen = [sample.points for sample in clouds.samples][:frames]
    if not chosen:
        return None
    if isinstance(network, Perception):
        where = f"{network.engine.device} (engine {network.engine.name}, {network.engine.precision})"
        timing = _timed(partial(network, boxes=False), chosen, where)
        if not network.box_names or timing.failure:
            return timing
        boxed = _timed(network, chosen, where)
        return replace(timing, boxed_ms=boxed.ms, failure=boxed.failure)
    return _timed(network, chosen, network.device)


def _timed(network: Callable[[Points], object], clouds: Sequence[Points], where: str) -> Timing:
    ms = []
    try:
        network(clouds[0])
        for points in clouds:
            start = perf_counter()
            network(points)
            ms.append((perf_counter() - start) * 1e3)
    except ValueError as error:
        return Timing((), where, str(error))
    return Timing(tuple(ms), where)


@dataclass(frozen=True)
class Looking:
    """How to examine the clouds.

    weights: the weights to compare the clouds with; None examines the clouds without a network
    frames:  how many clouds to label
    device, engine, intensity, intensity_field, origin, mount, precision: as the options have them
    """

    weights: str | None = None
    frames: int = 5
    device: str = "auto"
    engine: str = "auto"
    intensity: str = "auto"
    intensity_field: str | None = None
    origin: str | None = None
    mount: str | None = None
    precision: str = "auto"

    def observe(self, path: Path, topic: str | None = None, columns: str | None = None) -> Clouds:
        """Observes a recording by these rules. Raises what `observe` raises."""
        rule, place = Intensity(self.intensity, self.intensity_field), PlaceRule.parse(self.origin, self.mount)
        height = self._sensor_height
        return observe(path, intensity=rule, topic=topic, place=place, columns=columns, sensor_height=height)

    def _sensor_height(self) -> float:
        if self.weights is None:
            return SENSOR_HEIGHT
        from spvnas_ros.zoo.cache import resolve_weights
        from spvnas_ros.zoo.checkpoint import BOXES, gives, load_checkpoint
        from spvnas_ros.zoo.detector_checkpoint import load_detector

        path = resolve_weights(self.weights)
        facts = load_detector(path)[1] if gives(path) == BOXES else load_checkpoint(path)[1]
        return facts.sensor_height


def run(path: Path, looking: Looking, *, topic: str | None = None, columns: str | None = None) -> int:
    """Prints the findings about a bag or scans. Returns 1 where a finding is bad, else 0.

    Raises what `observe` and `spvnas_ros.perception.load` raise.
    """
    return report(looking.observe(path, topic, columns), looking)


def report(clouds: Clouds, looking: Looking, before: Sequence[Finding] = ()) -> int:
    """Prints the findings about clouds, after the findings `before`. Returns 1 where a finding is bad, else 0.

    Raises what `spvnas_ros.perception.load` raises.
    """
    facts = timing = None
    if looking.weights is not None:
        from spvnas_ros.perception import load

        network = load(looking.weights, looking.device, looking.engine, looking.precision)
        facts, timing = network.facts, measure(network, clouds, looking.frames)
    findings = [*before, *examine(clouds, facts, timing)]
    console = Console(soft_wrap=True, highlight=False)
    for finding in findings:
        console.print(_line(finding))
    console.print(_summary(findings))
    return int(any(finding.level == BAD for finding in findings))


def _line(finding: Finding) -> Text:
    line = Text(f"{finding.level:<4}", _STYLES[finding.level])
    line.append(f"  {finding.about:<10} {finding.found}", "default")
    if finding.advice:
        line.append(f"\n{'':16} -> {finding.advice}", "default")
    return line


def _summary(findings: list[Finding]) -> str:
    counts = {level: sum(finding.level == level for finding in findings) for level in (OK, WARN, BAD)}
    return f"{counts[OK]} fit, {counts[WARN]} to watch, {counts[BAD]} bad"
