"""Looks at the node's first clouds beside its work, and says what about them the network does not know."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Event, Lock, Thread

import numpy as np

from spvnas_ros.clouds.cleaning import measured
from spvnas_ros.clouds.fit import LOOKED_AT, NOTHING_MEASURED, Concern, Known, Look, concerns, look_at
from spvnas_ros.clouds.mount import typical_ground
from spvnas_ros.clouds.sensor_rules import Record, Sensor
from spvnas_ros.frame import Points
from spvnas_ros.workers import give_way

_FEW_POINTS = 100
_PAUSE = 0.4
"""Seconds before each look, which takes 0.1 s: the first frames have the processor to themselves."""
_PATIENCE = 20
"""Clouds without a measured point after which it is told."""


@dataclass(frozen=True)
class Fit:
    """What the first clouds showed.

    concerns:      what does not fit
    ground_height: of the origin above the ground as the network is given it, metres; None where no ground is seen
    tilt:          of the ground, degrees
    """

    concerns: tuple[Concern, ...] = ()
    ground_height: float | None = None
    tilt: float | None = None


class FitWatch:
    """Takes the first clouds of an activation, and looks at them in a thread of its own: it takes longer than a frame.
    The thread gives way to the frames, and rests between two clouds.

    Clouds in which hardly a point was measured tell nothing and are passed over; where none is better, that is said.

    Attributes:
        fit: what was found; None before
    """

    def __init__(self, known: Known, sensor: Sensor, say: Callable[[Fit], None]) -> None:
        """say: is called with each fit, from other threads"""
        self.fit: Fit | None = None
        self._known, self._sensor, self._say = known, sensor, say
        self._clouds: SimpleQueue[tuple[Record, Points] | None] = SimpleQueue()
        self._taken, self._blind = 0, 0
        self._ending = Event()
        self._lock = Lock()
        self._thread: Thread | None = None

    def add(self, cloud: Record, points: Points) -> None:
        """Keeps one of the first clouds, and what the network is given of it; later ones cost nothing."""
        if self._taken == LOOKED_AT:
            return
        with self._lock:
            if int(np.count_nonzero(measured(points))) < _FEW_POINTS:
                self._blind += len(points) >= _FEW_POINTS
                if self._blind == _PATIENCE and self.fit is None:
                    self.fit = Fit((NOTHING_MEASURED,))
                    self._say(self.fit)
                return
            self._taken += 1
            self._clouds.put((cloud, points))
            if self._thread is None:
                self._thread = Thread(target=self._look, name="first look", daemon=True)
                self._thread.start()

    def finish(self) -> None:
        """Waits for the looks, where enough clouds have come."""
        self._ending.set()
        self._clouds.put(None)
        if self._thread is not None:
            self._thread.join()

    def _look(self) -> None:
        give_way()
        looks: list[Look] = []
        while len(looks) < LOOKED_AT:
            taken = self._clouds.get()
            if taken is None:
                return
            if self._ending.wait(_PAUSE) and self._taken < LOOKED_AT:
                return
            cloud, points = taken
            looks.append(look_at(cloud, self._sensor, self._known.limits, points))
            del taken, cloud, points  # not kept while it waits for the next
        ground = typical_ground([look.ground for look in looks if look.ground])
        self.fit = Fit(
            tuple(concerns(looks, self._sensor, self._known)),
            ground.height if ground else None,
            ground.tilt if ground else None,
        )
        self._say(self.fit)
