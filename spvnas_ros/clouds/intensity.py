"""What a cloud's intensity is: which field, on which scale, and whether it looks like the network's training data."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from threading import Lock
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from spvnas_ros.errors import UserError
from spvnas_ros.frame import Points

INTENSITY_FIELDS = ("intensity", "Intensity", "i", "intensities", "reflectivity", "signal")
"""Names under which drivers publish the strength of the return, the most telling first."""

BRIGHTEST, DARKEST = 2.0, 0.1
"""Times the training's 95th percentile. Beyond them the scale is another one, and so it is above 1."""

_SAMPLES_PER_CLOUD = 512
_CLOUDS = 20


class Intensity:
    """The rule that brings a sensor's intensity to the 0..1 the networks are trained on.

    auto:      8- and 16-bit integers are divided by their type's maximum. Floats and 32-bit integers are taken as
               they are until a finite value over 1 is seen, from then on as 0..255, and once a value over 255 is seen
               as 0..65535. It never goes back, so that a dark cloud between bright ones is not scaled differently.
    unit:      0..1 already
    u8, u16:   0..255, 0..65535
    none:      not used: the network sees zeros
    a number:  the value that stands for 1; intensities are divided by it

    Nothing is clipped. An instance belongs to one sensor, for `auto` remembers what it has seen.

    Attributes:
        divisors: what intensities were divided by, in order, each change once; empty where no cloud had any, and for
                  the rule "none"
    """

    _FIXED: Mapping[str, float] = {"unit": 1.0, "u8": 255.0, "u16": 65535.0}

    def __init__(self, rule: str = "auto") -> None:
        """Raises ValueError for a rule that is none of the above."""
        self.rule = rule
        self.divisors: list[float] = []
        self._divisor = 1.0 if rule in ("auto", "none") else self._parse(rule)

    @property
    def divisor(self) -> float:
        """The number that floats are divided by."""
        return self._divisor

    def scale(self, values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Scales raw intensities `[N]` of any numeric type to float32 `[N]`, 0 where they are not finite."""
        if self.rule == "none":
            return np.zeros(len(values), np.float32)
        with np.errstate(over="ignore"):
            scaled = values.astype(np.float32)
        finite = np.isfinite(scaled)
        scaled[~finite] = 0
        divisor = self._divisor if self.rule != "auto" else self._seen(values.dtype, scaled)
        if self.divisors[-1:] != [divisor]:
            self.divisors.append(divisor)
        if divisor != 1:
            scaled /= np.float32(divisor)
        return scaled

    def describe(self) -> str:
        """Says in half a sentence what was done to the intensities so far."""
        if self.rule == "none":
            return "intensity not used"
        if not self.divisors:
            return "no intensity found"
        if self.divisors == [1]:
            return f"intensity taken as it is ({self.rule})"
        return f"intensity divided by {', later by '.join(f'{divisor:g}' for divisor in self.divisors)} ({self.rule})"

    def _seen(self, dtype: np.dtype[Any], values: npt.NDArray[np.float32]) -> float:
        if dtype.kind in "iu" and dtype.itemsize <= 2:
            return float(np.iinfo(dtype).max)
        largest = float(values.max(initial=0))
        needed = 1.0 if largest <= 1 else 255.0 if largest <= 255 else 65535.0
        self._divisor = max(self._divisor, needed)
        return self._divisor

    @classmethod
    def _parse(cls, rule: str) -> float:
        try:
            divisor = cls._FIXED[rule] if rule in cls._FIXED else float(rule)
        except ValueError:
            divisor = np.nan
        if not (np.isfinite(divisor) and divisor > 0):
            raise UserError(f"intensity rule must be auto, unit, u8, u16, none or a positive number, found {rule!r}")
        return divisor


@dataclass(frozen=True)
class TrainingIntensity:
    """Median and 95th percentile of the training data's intensities, as the network is given them, usually 0..1.

    Raises ValueError where they can be none.
    """

    median: float
    p95: float

    def __post_init__(self) -> None:
        if not 0 <= self.median <= self.p95 < float("inf"):
            raise ValueError(f"intensities need 0 <= median <= p95, found median {self.median}, p95 {self.p95}")


SEMANTIC_KITTI: Final = TrainingIntensity(0.3, 0.5)
"""Of SemanticKITTI's scans (HDL-64E), which all published networks were trained on."""


@dataclass(frozen=True)
class Reference:
    """The intensities that a sensor's are compared with, and whose they are in words that follow "of"."""

    intensity: TrainingIntensity = SEMANTIC_KITTI
    whose: str = "SemanticKITTI's scans"


def reference(recorded: TrainingIntensity | None) -> Reference:
    """Returns what the weights have recorded of their training data, else SemanticKITTI's."""
    return Reference(recorded, "the network's training data") if recorded else Reference()


@dataclass(frozen=True)
class IntensitySpread:
    """Median, 95th percentile and largest of the intensities that the network was given lately."""

    median: float
    p95: float
    largest: float

    def complaint(self, reference: Reference) -> str:
        """Says what is wrong with the scale and what to do; "" where the scale fits."""
        trained = reference.intensity.p95
        if trained == 0:
            text = f"the clouds have intensities, {reference.whose} had none; set the parameter intensity to none"
            return text if self.largest else ""
        if self.largest == 0:
            return "all intensities are 0: the clouds have no intensity field that is known, or nothing in it"
        if DARKEST * trained <= self.p95 <= min(BRIGHTEST * trained, 1.0):
            return ""
        return (
            f"the 95th percentile of the intensities is {self.p95:.3g}, that of {reference.whose} {trained:.3g}: the "
            "sensor has another scale; set the parameter intensity to unit, u8, u16 or the value that stands for 1"
        )


class IntensityWatch:
    """Samples of the last clouds. One thread adds them, another one reads their spread."""

    def __init__(self) -> None:
        self._samples: deque[npt.NDArray[np.float32]] = deque(maxlen=_CLOUDS)
        self._lock = Lock()

    def add(self, points: Points) -> None:
        """Samples a cloud, `[N, 4]`."""
        if len(points):
            sample = points[:: -(-len(points) // _SAMPLES_PER_CLOUD), 3].copy()
            with self._lock:
                self._samples.append(sample)

    def clear(self) -> None:
        """Forgets all samples."""
        with self._lock:
            self._samples.clear()

    def spread(self) -> IntensitySpread | None:
        """Returns the spread over the last clouds; None before the first."""
        with self._lock:
            samples = list(self._samples)
        if not samples:
            return None
        median, p95, largest = np.percentile(np.concatenate(samples), [50, 95, 100])
        return IntensitySpread(float(median), float(p95), float(largest))
