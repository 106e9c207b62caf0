"""What a cloud's intensity is: which field, on which scale, and whether it looks like the network's training data."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from spvnas_ros.clouds.wording import TO_NODE, Wording
from spvnas_ros.errors import UserError
from spvnas_ros.frame import Points

INTENSITY_FIELDS: Final = (
    "reflectivity",
    "reflectance",
    "remission",
    "refl",
    "intensity",
    "intensities",
    "i",
    "signal",
    "quality",
)
"""Names of fields with the strength of the return: calibrated ones first, then raw ones. They are found in any case,
and behind CloudCompare's prefix `scalar_`.
"""

BRIGHTEST, DARKEST = 2.0, 0.1
"""Times the training's 95th percentile. Beyond them the scale is another one, and so it is above 1."""

_SAMPLES_PER_CLOUD = 512
_CLOUDS = 20

_PREFIX = "scalar_"
_HIGH = 99.5
"""Percentile of a cloud's intensities that tells the scale: a few retroreflectors or errors are brighter."""
_CLOUD_SHARE = 75
"""Percentile over clouds: a quarter of them may be wrong, three quarters may be dark."""
_SLACK = 1.05
_STANDARD: Final = ((1.0, 0.0), (255.0, 0.0), (4095.0, 1024.0), (65535.0, 16384.0))
"""Scales that sensors have, and the least of `_HIGH` that tells them from counts of photons."""
_NEGATIVE = 0.05
"""Share of values below 0 that is no noise around it."""
_DECIBELS = (-90.0, 20.0)
_SETTLED_AFTER = 5
"""Clouds of a stream after which the scale only changes with good reason."""
_OTHER_COUNTS = 1.5
"""Factor between two scales of counts that are the same scale."""

Values = npt.NDArray[Any]


class IntensityError(UserError):
    """No intensity can be had as it was asked for. The message lists the fields, or the values that were found."""


@dataclass(frozen=True)
class Scale:
    """What brings raw intensities to 0..1.

    divisor:  the value that stands for 1
    decibels: whether they are logarithms, 10 log10 of the share that a white surface returns (RIEGL's reflectance)
    """

    divisor: float = 1.0
    decibels: bool = False

    def apply(self, values: Values) -> npt.NDArray[np.float32]:
        """Scales raw intensities `[N]` of any numeric type to float32 `[N]`. What is not finite stays so."""
        with np.errstate(over="ignore", invalid="ignore"):
            scaled = values.astype(np.float32)
            if self.decibels:
                return np.asarray(np.float32(10) ** (scaled / np.float32(10)), np.float32)
        if self.divisor != 1:
            scaled /= np.float32(self.divisor)
        return scaled

    def __str__(self) -> str:
        if self.decibels:
            return "turned from decibels into shares"
        return "taken as it is" if self.divisor == 1 else f"divided by {self.divisor:g}"


def intensity_fields(record: npt.NDArray[np.void]) -> list[str]:
    """Returns the fields of a structured array that may be its intensity, the most telling first."""
    known = {name: place for place, name in enumerate(INTENSITY_FIELDS)}
    names = [name for name in record.dtype.names or () if _plain(name) in known and is_number(record, name)]
    return sorted(names, key=lambda name: known[_plain(name)])


def is_number(record: npt.NDArray[np.void], name: str) -> bool:
    """Returns whether a field of a structured array is there and holds one number a point."""
    return name in (record.dtype.names or ()) and record.dtype[name].kind in "iuf"


def _plain(name: str) -> str:
    return name.lower().removeprefix(_PREFIX)


@dataclass(frozen=True)
class _Look:
    """What a cloud showed of one field: the percentile `_HIGH`, the median, the share below 0, whether all values are
    whole, whether any is not 0, and the largest number that its type holds.
    """

    high: float
    median: float
    negative: float
    whole: bool
    alive: bool
    largest: float

    @classmethod
    def at(cls, values: Values) -> _Look | None:
        with np.errstate(invalid="ignore"):  # signalling NaN
            # An odd step: beams and returns alternate by powers of two.
            sample = values[:: len(values) // 4096 | 1].astype(np.float64)
        sample = sample[np.isfinite(sample)]
        if not len(sample):
            return None
        high, median = np.percentile(sample, (_HIGH, 50))
        return cls(
            float(high),
            float(median),
            float((sample < 0).mean()),
            bool((sample == np.floor(sample)).all()),
            bool(sample.any()),
            float(np.iinfo(values.dtype).max) if values.dtype.kind in "iu" else np.inf,
        )


def scale_of(looks: Sequence[_Look]) -> Scale:
    """Returns the scale of a sensor from what several clouds showed.

    It is the smallest of 1, 255, 4095 and 65535 that holds the 99.5th percentile in three quarters of the clouds. Whole
    numbers above 0 never stand for 0..1. A percentile far below its scale is a count (of photons), which has no
    largest value: it becomes 1 itself. No scale is larger than what the type holds (127 of signed bytes). Clouds in
    which all is 0 say nothing. Raises IntensityError for values below 0 that are no decibels.
    """
    looks = [look for look in looks if look.alive] or looks
    # A value that a cloud has: one between a good cloud's and a wrong one's would be nobody's scale.
    high = float(np.percentile([look.high for look in looks], _CLOUD_SHARE, method="nearest"))
    median = float(np.median([look.median for look in looks]))
    if np.median([look.negative for look in looks]) > _NEGATIVE:
        if _DECIBELS[0] <= median < 0 and high <= _DECIBELS[1]:
            return Scale(decibels=True)
        raise IntensityError(
            f"intensities are below 0 (median {median:g}, 99.5th percentile {high:g}), which is no known scale; choose "
            "another field for them, or the intensity rule none"
        )
    whole = all(look.whole for look in looks) and high > 0 and median != high
    for largest, least in _STANDARD:
        if high <= _SLACK * largest:
            if largest == 1 and whole:
                continue
            found = largest if high >= least else _rounded(high)
            return Scale(min(found, max(look.largest for look in looks)))
    return Scale(_rounded(high))


def _alone(look: _Look) -> Scale:
    """Returns the scale of one cloud; the smallest, which contradicts none, where it has no known one."""
    try:
        return scale_of([look])
    except IntensityError:
        return Scale()


def _rounded(value: float) -> float:
    """Two digits are enough, and the same for similar recordings."""
    return float(f"{value:.1e}")


class Intensity:
    """The rule that finds a sensor's intensity and brings it to the 0..1 the networks are trained on.

    auto:          the scale that the values of the first clouds have, see `scale_of`
    unit:          0..1 already
    u8, u12, u16:  0..255, 0..4095, 0..65535
    db:            decibels of the share that a white surface returns
    none:          not used: the network sees zeros
    a number:      the value that stands for 1; intensities are divided by it

    Give it clouds to look at before the first is read; equal clouds then get equal intensities. A rule that has seen
    none decides by the first that it reads. With `live` it goes on looking: the decision follows the last 20 clouds,
    changes upwards when a quarter of them need it, and back only when all of them agree.

    Nothing is clipped. An instance belongs to one sensor.

    Attributes:
        rule:  the rule it was made with
        asked: the field that it was asked to take; None for any
        scale: what intensities are brought to 0..1 with; None before the decision
        field: where they come from; None before the decision, and where the clouds have none
        fields: names of all fields of the last cloud
    """

    _FIXED: Mapping[str, Scale] = {
        "unit": Scale(1.0),
        "u8": Scale(255.0),
        "u12": Scale(4095.0),
        "u16": Scale(65535.0),
        "db": Scale(decibels=True),
        "none": Scale(1.0),
    }

    def __init__(self, rule: str = "auto", field: str | None = None, *, live: bool = False) -> None:
        """field: the field to take; None for the first of `INTENSITY_FIELDS` that is not all 0

        Raises UserError for a rule that is none of the above.
        """
        self.rule = rule
        self.scale = None if rule == "auto" else self._parse(rule)
        self.field: str | None = None
        self.fields: tuple[str, ...] = ()
        self.asked = field
        self._live = live
        self._decided = False
        # Fields of clouds of another layout, and what their own values ask for.
        self._others: dict[str, Scale] = {}
        self._looks: deque[dict[str, _Look]] = deque(maxlen=_CLOUDS if live else None)

    @property
    def decided(self) -> bool:
        """Whether field and scale are known, or there is nothing to know."""
        return self._decided or self.rule == "none"

    @property
    def known(self) -> list[str]:
        """The fields of the last cloud that may hold intensities, whatever is in them."""
        return [name for name in self.fields if name == self.asked or _plain(name) in INTENSITY_FIELDS]

    def look(self, record: npt.NDArray[np.void]) -> None:
        """Looks at a cloud, a structured array `[N]`, before the decision."""
        if self.rule == "none" or not len(record):
            return
        self.fields = record.dtype.names or ()
        looks = {name: _Look.at(record[name]) for name in self._candidates(record)}
        self._looks.append({name: look for name, look in looks.items() if look is not None})

    def settle(self, records: Iterable[npt.NDArray[np.void]] = ()) -> None:
        """Decides by the clouds looked at, after looking at these. Raises IntensityError where none can be had."""
        for record in records:
            self.look(record)
        self._decide()

    def read(self, record: npt.NDArray[np.void]) -> npt.NDArray[np.float32]:
        """Returns the intensities of a cloud, float32 `[N]`; NaN or infinite where they are in the cloud.

        Raises IntensityError where the field that was asked for is missing, or the values have no known scale.
        """
        if self.rule == "none" or not len(record):
            return np.zeros(len(record), np.float32)
        if self._live or not self._decided:
            self.look(record)
            self._decide()
        field = self._field_in(record)
        if field is None:
            return np.zeros(len(record), np.float32)
        return self._scale_in(record, field).apply(record[field])

    def describe(self) -> str:
        """Says in half a sentence where intensities come from and what is done to them."""
        if self.rule == "none":
            return "intensity not used"
        if not self._decided:
            return "no intensity seen yet"
        if self.field is None and self._others:
            return f"intensity {', '.join(f'from field {name!r}, {scale}' for name, scale in self._others.items())}"
        if self.field is None and self.known:
            return f"no intensity found (field {self.known[0]!r} holds no number)"
        if self.field is None:
            return f"no intensity found (fields: {', '.join(self.fields) or 'none'})"
        others = "".join(f", in other clouds from {name!r}, {scale}" for name, scale in self._others.items())
        return f"intensity from field {self.field!r}, {self.scale or Scale()}{others} ({self.rule})"

    def _candidates(self, record: npt.NDArray[np.void]) -> list[str]:
        if self.asked is None:
            return intensity_fields(record)
        if not is_number(record, self.asked):
            raise IntensityError(
                f"intensity_field is {self.asked!r}, expected a field that holds one number a point; the cloud has "
                f"{', '.join(record.dtype.names or ()) or 'no fields'}"
            )
        return [self.asked]

    def _field_in(self, record: npt.NDArray[np.void]) -> str | None:
        """Returns the decided field; another one where a cloud of another layout lacks it."""
        if self.field is not None and is_number(record, self.field):
            return self.field
        return next(iter(self._candidates(record)), None)

    def _scale_in(self, record: npt.NDArray[np.void], field: str) -> Scale:
        """Returns the scale of a field; of one that is not the decided one by the values of the first such cloud."""
        if self.rule != "auto" or (field == self.field and self.scale is not None):
            return self.scale or Scale()
        if field not in self._others:
            seen = [looks[field] for looks in self._looks if field in looks]
            if not seen:
                here = _Look.at(record[field])
                if here is None:
                    return Scale()
                seen = [here]
            self._others[field] = scale_of(seen)
        return self._others[field]

    def _decide(self) -> None:
        names = dict.fromkeys(name for looks in self._looks for name in looks)
        by_name = {name: [looks[name] for looks in self._looks if name in looks] for name in names}
        if not by_name:
            self._decided = self._decided or bool(self._looks)
            return
        ranked = sorted(names, key=lambda name: (not any(look.alive for look in by_name[name]), self._rank(name)))
        if not (self._decided and self.field in by_name and any(look.alive for look in by_name[self.field])):
            self.field = ranked[0]
        self._decided = True
        if self.rule == "auto":
            self.scale = self._next_scale(by_name[self.field or ranked[0]])

    def _rank(self, name: str) -> int:
        return 0 if self.asked is not None else INTENSITY_FIELDS.index(_plain(name))

    def _next_scale(self, looks: Sequence[_Look]) -> Scale:
        alive = [look for look in looks if look.alive]
        if self.scale is not None and not alive:
            return self.scale
        found = scale_of(looks)
        if self.scale is None or found == self.scale or len(looks) <= _SETTLED_AFTER:
            return found
        down = found.decibels == self.scale.decibels and found.divisor < self.scale.divisor
        doubted = len(looks) < _CLOUDS or any(_alone(look).divisor >= self.scale.divisor for look in alive)
        if down and doubted:
            return self.scale
        standard = [largest for largest, _ in _STANDARD]
        if found.divisor not in standard and self.scale.divisor not in standard:
            ratio = found.divisor / self.scale.divisor
            return self.scale if 1 / _OTHER_COUNTS < ratio < _OTHER_COUNTS else found
        return found

    @classmethod
    def _parse(cls, rule: str) -> Scale:
        if rule in cls._FIXED:
            return cls._FIXED[rule]
        try:
            divisor = float(rule)
        except ValueError:
            divisor = np.nan
        if not (np.isfinite(divisor) and divisor > 0):
            raise UserError(
                f"intensity rule must be auto, unit, u8, u12, u16, db, none or a positive number, found {rule!r}"
            )
        return Scale(divisor)


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

    def complaint(self, reference: Reference, divisor: float = 1.0, to: Wording = TO_NODE) -> tuple[str, str] | None:
        """Says what is wrong with the scale, and what to do; None where the scale fits.

        divisor: what the intensities were divided by
        to:      whom the advice is for
        """
        trained = reference.intensity.p95
        if trained == 0:
            found = f"the clouds have intensities, {reference.whose} had none"
            return (found, to.scale("none")) if self.largest else None
        if self.p95 == 0:
            many = "all" if self.largest == 0 else "nearly all"
            return f"{many} of them are 0", f"the network knows less; choose another field with {to.field}"
        if DARKEST * trained <= self.p95 <= min(BRIGHTEST * trained, 1.0):
            return None
        return (
            f"their 95th percentile is {self.p95:.3g}, that of {reference.whose} {trained:.3g}",
            f"the sensor has another scale; {to.scale('unit, u8, u12, u16 or the value that stands for 1, such as')} "
            f"{_rounded(self.p95 * divisor / trained):g}",
        )


class IntensityWatch:
    """Samples of the last clouds. One thread adds them, another one reads their spread."""

    def __init__(self) -> None:
        self._samples: deque[npt.NDArray[np.float32]] = deque(maxlen=_CLOUDS)
        self._lock = Lock()

    def add(self, points: Points) -> None:
        """Samples a cloud, `[N, 4]`."""
        if len(points):
            sample = points[:: -(-len(points) // _SAMPLES_PER_CLOUD), 3]
            sample = sample[np.isfinite(sample)]
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
        if not sum(map(len, samples)):
            return None
        median, p95, largest = np.percentile(np.concatenate(samples), [50, 95, 100])
        return IntensitySpread(float(median), float(p95), float(largest))
