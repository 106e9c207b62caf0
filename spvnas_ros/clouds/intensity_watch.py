"""Whether a sensor's intensities look like those the network was trained on."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from threading import Lock

import numpy as np
import numpy.typing as npt

from spvnas_ros.clouds.training_intensity import Reference
from spvnas_ros.frame import Points

BRIGHTEST, DARKEST = 2.0, 0.1
"""Times the training's 95th percentile. Beyond, it is not another sensor but another scale, and so it is above 1."""

_SAMPLES_PER_CLOUD = 512
_CLOUDS = 20


@dataclass(frozen=True)
class IntensitySpread:
    """Median, 95th percentile and largest of the intensities that the network was given lately."""

    median: float
    p95: float
    largest: float

    def complaint(self, reference: Reference) -> str:
        """What is wrong with the scale, and what to do; "" where nothing is."""
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
