"""Computes the figures of a replay in real time from the times of its clouds. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_NS_PER_MS = 1e6
_PERCENT = (50, 95, 99)


@dataclass(frozen=True)
class Passage:
    """The way of a cloud through the node. Times are nanoseconds of the monotonic clock, taken in one process.

    number:   its number in the bag
    sent:     when it was sent
    answered: when its labels came back; None where they did not
    boxed:    when its objects did; None where they did not, or nobody listened to them
    """

    number: int
    sent: int
    answered: int | None = None
    boxed: int | None = None


@dataclass(frozen=True)
class Spread:
    """Median, 95th percentile, 99th percentile and largest of some milliseconds."""

    p50: float
    p95: float
    p99: float
    max: float

    @classmethod
    def of(cls, milliseconds: Sequence[float]) -> Spread | None:
        """Returns the spread of the values, or None without values."""
        if not milliseconds:
            return None
        return cls(*(float(value) for value in np.percentile(milliseconds, [*_PERCENT, 100])))


@dataclass(frozen=True)
class NodeCounts:
    """The counts of the node since it was made. The names are those of its diagnostics."""

    received: int = 0
    labelled: int = 0
    dropped: int = 0
    unwatched: int = 0
    bad: int = 0

    @classmethod
    def of(cls, values: Mapping[str, str]) -> NodeCounts:
        """Makes the counts from the values of the diagnostics' `input`. Raises KeyError or ValueError for others."""
        names = ("received", "labelled", "dropped", "without subscribers", "bad")
        return cls(*(int(values[name]) for name in names))

    @property
    def at_rest(self) -> bool:
        """Whether no cloud waits or is in work."""
        return self.received == self.labelled + self.dropped + self.unwatched + self.bad

    def __sub__(self, before: NodeCounts) -> NodeCounts:
        return NodeCounts(
            self.received - before.received,
            self.labelled - before.labelled,
            self.dropped - before.dropped,
            self.unwatched - before.unwatched,
            self.bad - before.bad,
        )


@dataclass(frozen=True)
class Replay:
    """The figures of a bag that was played through a live node.

    sent, answered: clouds
    seconds:        from the first cloud that was sent to the last
    dropped:        clouds that reached the node and were replaced by a newer one
    lost:           clouds that did not reach the node
    bad:            clouds that the node could not label
    latency_ms:     from `publish` to having the labels; None where nothing was answered
    age_ms:         age of the newest labelled cloud at a random moment; None without two answers
    late_ms:        largest delay of the player; where it is long, this machine could not keep the rate of the bag
    stages_ms:      times that the node measured, by the names of its timing topics
    node:           description of the node and its network, from its diagnostics
    boxes_ms:       from `publish` to having the objects; None where nobody listened to them, or none came
    """

    sent: int
    answered: int
    seconds: float
    dropped: int
    lost: int
    bad: int
    latency_ms: Spread | None
    age_ms: Spread | None
    late_ms: float
    stages_ms: dict[str, Spread]
    node: dict[str, str]
    boxes_ms: Spread | None = None

    @property
    def hertz(self) -> float | None:
        """Clouds sent each second; None where there were not two."""
        return (self.sent - 1) / self.seconds if self.seconds > 0 else None


def evaluate(
    passages: Sequence[Passage],
    counts: NodeCounts,
    late_ns: int,
    stages_ms: Mapping[str, Sequence[float]],
    node: Mapping[str, str],
) -> Replay:
    """Returns all figures of a replay.

    passages:  the clouds that were sent, in order
    counts:    the node's counts, of this replay only
    late_ns:   largest delay of the player, nanoseconds
    stages_ms: times that the node measured, by the names of its timing topics
    node:      description of the node, from its diagnostics
    """
    answered = [each for each in passages if each.answered is not None]
    spreads = {name: spread for name, values in stages_ms.items() if (spread := Spread.of(values))}
    return Replay(
        sent=len(passages),
        answered=len(answered),
        seconds=(passages[-1].sent - passages[0].sent) / 1e9 if passages else 0.0,
        dropped=counts.dropped,
        lost=max(0, len(passages) - counts.received),
        bad=counts.bad,
        latency_ms=Spread.of(latencies_ms(passages)),
        age_ms=age_ms(passages),
        late_ms=late_ns / _NS_PER_MS,
        stages_ms=spreads,
        node=dict(node),
        boxes_ms=Spread.of([(each.boxed - each.sent) / _NS_PER_MS for each in passages if each.boxed is not None]),
    )


def latencies_ms(passages: Iterable[Passage]) -> list[float]:
    """Returns the milliseconds from sending to the answer, for the clouds that were answered."""
    return [(each.answered - each.sent) / _NS_PER_MS for each in passages if each.answered is not None]


def age_ms(passages: Iterable[Passage]) -> Spread | None:
    """Returns the age of the newest answered cloud, over all moments between the first answer and the last.

    After an answer, the age is the latency of that cloud. It then grows with time until the next answer ("age of
    information", Kaul, Yates and Gruteser 2012). Returns None without two answers of different times.
    """
    times = sorted((each.answered, each.sent) for each in passages if each.answered is not None)
    if len(times) < 2:
        return None
    answered, sent = np.array(times, np.int64).T
    # A cloud that is answered after a newer one does not lower the age.
    newest = np.maximum.accumulate(sent)[:-1]
    youngest, oldest = (answered[:-1] - newest) / _NS_PER_MS, (answered[1:] - newest) / _NS_PER_MS
    if (oldest - youngest).sum() <= 0:
        return None
    p50, p95, p99 = (_age_below(share / 100, youngest, oldest) for share in _PERCENT)
    return Spread(p50, p95, p99, float(oldest.max()))


def _age_below(share: float, youngest: npt.NDArray[np.float64], oldest: npt.NDArray[np.float64]) -> float:
    """Returns the age that is not exceeded for this share of the time.

    Between two answers the age grows from `youngest` to `oldest` as fast as time.
    """
    ages = np.unique(np.concatenate([youngest, oldest]))
    spent = [float(np.clip(age - youngest, 0, oldest - youngest).sum()) for age in ages]
    return float(np.interp(share * spent[-1], spent, ages))
