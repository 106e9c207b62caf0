"""Counts what a node has done so far."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from threading import Lock

import numpy as np

from spvnas_ros.frame import NONE_UNUSABLE, Unusable

STAGES = ("decode", "preprocess", "inference", "postprocess", "publish", "total")
"""The stages of a frame, by the names of the timing topics."""

OBJECTS, HEAD = "objects", "box_head"
"""Parts of the stages of a frame for which objects were looked for, likewise: of `postprocess` what chooses those that
are published, of `inference` the box branch."""

_REMEMBERED_FRAMES = 4096
_REMEMBERED_ARRIVALS = 21


@dataclass(frozen=True)
class FrameTimes:
    """When a cloud passed the stages of a frame, nanoseconds of the monotonic clock, which all processes share.

    stamp:     the stamp of the cloud, nanoseconds of the sensor's clock
    received:  its callback ran
    taken:     decoding began
    decoded:   its points were decoded
    resumed:   labelling began
    prepared:  the points for the network were ready
    inferred:  labels and boxes were ready
    chosen:    the objects to publish were ready
    composed:  the messages were ready
    published: `publish` returned
    head_ms:   milliseconds that the network's box branch took of it; None where it did not run or is not measured
    labels_composing, labels_publishing: nanoseconds before `inferred` in which the labels were published, where the
               network had them before the boxes
    """

    stamp: int
    received: int
    taken: int
    decoded: int
    resumed: int
    prepared: int
    inferred: int
    chosen: int
    composed: int
    published: int
    head_ms: float | None = None
    labels_composing: int = 0
    labels_publishing: int = 0

    @property
    def inference_ms(self) -> float:
        """Milliseconds in the network."""
        return (self.inferred - self.prepared - self.labels_composing - self.labels_publishing) / 1e6

    @property
    def total_ms(self) -> float:
        """Milliseconds from the callback until the messages were published."""
        return (self.published - self.received) / 1e6

    @property
    def work_ms(self) -> float:
        """Milliseconds of work on a cloud: decoding, labelling and publishing, without the time that it waited."""
        return (self.decoded - self.taken + self.published - self.resumed) / 1e6

    @property
    def overhead_ms(self) -> float:
        """Milliseconds of work on a cloud without the network."""
        return self.work_ms - self.inference_ms

    def stages_ms(self) -> dict[str, float]:
        """Returns the milliseconds by the names in `STAGES`. Only `total` includes the time that the cloud waited."""
        parts = (
            (self.decoded - self.taken) / 1e6,
            (self.prepared - self.resumed) / 1e6,
            self.inference_ms,
            (self.composed - self.inferred + self.labels_composing) / 1e6,
            (self.published - self.composed + self.labels_publishing) / 1e6,
        )
        return dict(zip(STAGES, (*parts, self.total_ms), strict=True))

    def parts_ms(self) -> dict[str, float]:
        """Returns the milliseconds of OBJECTS, and of HEAD where it is known; see there."""
        head = {} if self.head_ms is None else {HEAD: self.head_ms}
        return {OBJECTS: (self.chosen - self.inferred) / 1e6} | head


@dataclass(frozen=True)
class Snapshot:
    """The counters of `FrameStatistics` at one moment.

    period_ms: time between the arrivals of recent clouds (median); None before the second cloud
    age_ms:    age of the newest cloud when it arrived, by its stamp and the node's clock; None before the first cloud
    frames:    times of the last frames, oldest first
    """

    received: int = 0
    published: int = 0
    dropped: int = 0
    lost: int = 0
    unwatched: int = 0
    bad: Counter[str] = field(default_factory=Counter)
    tf_failed: int = 0
    period_ms: float | None = None
    age_ms: float | None = None
    points: int = 0
    unusable: Unusable = NONE_UNUSABLE
    objects: int = 0
    with_objects: int = 0
    without_objects: int = 0
    frames: tuple[FrameTimes, ...] = ()


@dataclass
class FrameStatistics:
    """The counters of a node. Several threads write and read them.

    received:  clouds that reached the node: published, dropped, unwatched and bad ones, and those waiting or in work
    published: clouds that were labelled and published
    dropped:   clouds that a newer one replaced before the worker took them
    lost:      clouds that were sent and did not reach the node, as far as the middleware tells; not among the received
    unwatched: clouds that were not labelled because no output had a subscriber
    bad:       clouds that could not be labelled, by kind
    tf_failed: clouds that were labelled without the earlier ones, because TF did not say where those were
    points:    points of the published clouds
    unusable:  those of them that no network sees
    objects:   objects that were published
    with_objects, without_objects: clouds for which objects were looked for, and some or none were published
    """

    received: int = 0
    published: int = 0
    dropped: int = 0
    lost: int = 0
    unwatched: int = 0
    bad: Counter[str] = field(default_factory=Counter)
    tf_failed: int = 0
    points: int = 0
    unusable: Unusable = NONE_UNUSABLE
    objects: int = 0
    with_objects: int = 0
    without_objects: int = 0
    _age_ns: int | None = None
    _arrivals: deque[int] = field(default_factory=lambda: deque(maxlen=_REMEMBERED_ARRIVALS))
    _times: deque[FrameTimes] = field(default_factory=lambda: deque(maxlen=_REMEMBERED_FRAMES))
    _lock: Lock = field(default_factory=Lock, repr=False)

    def count_received(self, at: int, age_ns: int) -> None:
        """Counts a cloud that arrived.

        at:     time of the monotonic clock, nanoseconds
        age_ns: age of the cloud by its stamp, nanoseconds
        """
        with self._lock:
            self.received += 1
            self._arrivals.append(at)
            self._age_ns = age_ns

    def count_published(
        self, times: FrameTimes, points: int = 0, unusable: Unusable = NONE_UNUSABLE, objects: int | None = None
    ) -> None:
        """Counts a cloud that was published, its points, and those of them that no network sees.

        objects: those of the cloud that were published; None where none were looked for
        """
        with self._lock:
            self.published += 1
            self.points += points
            self.unusable += unusable
            if objects is not None:
                self.objects += objects
                self.with_objects += objects > 0
                self.without_objects += objects == 0
            self._times.append(times)

    def count_dropped(self) -> None:
        """Counts a cloud that a newer one replaced before it was labelled."""
        with self._lock:
            self.dropped += 1

    def count_lost(self, clouds: int) -> None:
        """Counts clouds that did not reach the node."""
        with self._lock:
            self.lost += clouds

    def count_unwatched(self) -> None:
        """Counts a cloud that arrived while no output had a subscriber."""
        with self._lock:
            self.unwatched += 1

    def count_bad(self, kind: str) -> bool:
        """Counts a cloud that could not be labelled. Returns True for the first of its kind."""
        with self._lock:
            self.bad[kind] += 1
            return self.bad[kind] == 1

    def count_tf_failed(self) -> None:
        """Counts a cloud that is labelled without the earlier ones."""
        with self._lock:
            self.tf_failed += 1

    def times(self) -> list[FrameTimes]:
        """Returns the times of the last frames, oldest first."""
        with self._lock:
            return list(self._times)

    def snapshot(self) -> Snapshot:
        """Returns all counters at this moment."""
        with self._lock:
            gaps = np.diff(np.array(self._arrivals, np.int64))
            return Snapshot(
                self.received,
                self.published,
                self.dropped,
                self.lost,
                self.unwatched,
                Counter(self.bad),
                self.tf_failed,
                float(np.median(gaps)) / 1e6 if len(gaps) else None,
                None if self._age_ns is None else self._age_ns / 1e6,
                self.points,
                self.unusable,
                self.objects,
                self.with_objects,
                self.without_objects,
                tuple(self._times),
            )

    def summary(self) -> str:
        """Returns all counters in one line."""
        now = self.snapshot()
        bad = ", ".join(f"{kind} {count}" for kind, count in sorted(now.bad.items()))
        text = (
            f"{now.published} clouds labelled, {now.dropped} dropped for newer ones, "
            f"{now.unwatched} without subscribers, {now.bad.total()} bad" + (f" ({bad})" if bad else "")
        )
        if now.lost:
            text += f"; {now.lost} lost on the way to the node"
        if looked := now.with_objects + now.without_objects:
            text += f"; {now.objects} objects in {looked} of them, none in {now.without_objects}"
        if now.unusable.total:
            text += f"; points without a label: {now.unusable}"
        if not now.frames:
            return text
        p50, p95 = np.percentile([times.total_ms for times in now.frames], [50, 95])
        return f"{text}; {p50:.1f} ms per cloud (p50), {p95:.1f} ms (p95)"
