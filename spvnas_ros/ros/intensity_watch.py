"""Whether a sensor's intensities look like those the networks were trained on."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from threading import Lock

import numpy as np
import numpy.typing as npt

from spvnas_ros.frame import Points

TRAINING_MEDIAN, TRAINING_P95 = 0.3, 0.5
"""Of SemanticKITTI's scans (HDL-64E), on the scale 0..1."""

BRIGHTEST_P95, DARKEST_P95 = 1.0, 0.05
"""Beyond, it is not another sensor but another scale: twice the training's, which ends at 1, and a tenth of it."""

_SAMPLES_PER_CLOUD = 512
_CLOUDS = 20


@dataclass(frozen=True)
class IntensitySpread:
    """Median, 95th percentile and largest of the intensities that the network was given lately."""

    median: float
    p95: float
    largest: float

    def complaint(self) -> str:
        """What is wrong with the scale, and what to do; "" where nothing is."""
        if self.largest == 0:
            return "all intensities are 0: the clouds have no intensity field that is known, or nothing in it"
        if DARKEST_P95 <= self.p95 <= BRIGHTEST_P95:
            return ""
        return (
            f"the 95th percentile of the intensities is {self.p95:.3g}, {TRAINING_P95} in the training: the sensor has "
            "another scale; set the parameter intensity to unit, u8, u16 or the value that stands for 1"
        )


class IntensityWatch:
    """Samples of the last clouds; written by the worker's thread, read by another."""

    def __init__(self) -> None:
        self._samples: deque[npt.NDArray[np.float32]] = deque(maxlen=_CLOUDS)
        self._lock = Lock()

    def add(self, points: Points) -> None:
        """Look at a cloud, `[N, 4]`."""
        if len(points):
            sample = points[:: -(-len(points) // _SAMPLES_PER_CLOUD), 3].copy()
            with self._lock:
                self._samples.append(sample)

    def clear(self) -> None:
        """Forget what was seen."""
        with self._lock:
            self._samples.clear()

    def spread(self) -> IntensitySpread | None:
        """Of the last clouds; None before the first."""
        with self._lock:
            samples = list(self._samples)
        if not samples:
            return None
        median, p95, largest = np.percentile(np.concatenate(samples), [50, 95, 100])
        return IntensitySpread(float(median), float(p95), float(largest))
