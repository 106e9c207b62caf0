"""What a node has done so far, in numbers."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from threading import Lock

import numpy as np

_REMEMBERED_FRAMES = 4096


@dataclass(frozen=True)
class FrameTimes:
    """When a cloud passed the stages of a frame, in nanoseconds of the monotonic clock (one for all processes).

    received: its callback ran; taken: the worker began; decoded: points are there; inferred: labels are there;
    published: `publish` returned
    """

    stamp: int
    received: int
    taken: int
    decoded: int
    inferred: int
    published: int

    @property
    def total_ms(self) -> float:
        """Callback to published."""
        return (self.published - self.received) / 1e6

    @property
    def overhead_ms(self) -> float:
        """Callback to published, without waiting for the worker and without the network."""
        return self.total_ms - (self.taken - self.received + self.inferred - self.decoded) / 1e6


@dataclass
class FrameStatistics:
    """Counters of one node, written and read by several threads.

    received:  clouds that reached the node; all of the below, and those waiting or in work
    published: clouds labelled and published
    dropped:   clouds that a newer one replaced before the worker took them
    unwatched: clouds left alone because nobody subscribed to the labels
    bad:       clouds that could not be labelled, by kind
    """

    received: int = 0
    published: int = 0
    dropped: int = 0
    unwatched: int = 0
    bad: Counter[str] = field(default_factory=Counter)
    _times: deque[FrameTimes] = field(default_factory=lambda: deque(maxlen=_REMEMBERED_FRAMES))
    _lock: Lock = field(default_factory=Lock, repr=False)

    def count_received(self) -> None:
        """A cloud came."""
        with self._lock:
            self.received += 1

    def count_published(self, times: FrameTimes) -> None:
        """A cloud went out."""
        with self._lock:
            self.published += 1
            self._times.append(times)

    def count_dropped(self) -> None:
        """A newer cloud came before this one was looked at."""
        with self._lock:
            self.dropped += 1

    def count_unwatched(self) -> None:
        """A cloud came while nobody wanted labels."""
        with self._lock:
            self.unwatched += 1

    def count_bad(self, kind: str) -> bool:
        """A cloud could not be labelled; True for the first of its kind."""
        with self._lock:
            self.bad[kind] += 1
            return self.bad[kind] == 1

    def times(self) -> list[FrameTimes]:
        """The stages of the last frames, oldest first."""
        with self._lock:
            return list(self._times)

    def summary(self) -> str:
        """All counters in one line."""
        with self._lock:
            bad = ", ".join(f"{kind} {count}" for kind, count in sorted(self.bad.items()))
            text = (
                f"{self.published} clouds labelled, {self.dropped} dropped for newer ones, "
                f"{self.unwatched} without subscribers, {self.bad.total()} bad" + (f" ({bad})" if bad else "")
            )
            if not self._times:
                return text
            p50, p95 = np.percentile([times.total_ms for times in self._times], [50, 95])
            return f"{text}; {p50:.1f} ms per cloud (p50), {p95:.1f} ms (p95)"
