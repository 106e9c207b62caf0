"""The time that the parts of a frame take, on whichever device they run."""

from __future__ import annotations

from time import perf_counter

import torch


class Laps:
    """Time marks along a frame. On CUDA they are events in the stream, so that marking waits for nothing."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._names: list[str] = []
        self._marks = [self._now()]

    def lap(self, name: str) -> None:
        """Sets a mark. The work since the last mark is called `name`."""
        self._names.append(name)
        self._marks.append(self._now())

    def seconds(self) -> dict[str, float]:
        """Returns the time of every name, summed over its laps. On CUDA it waits for the last mark."""
        totals = dict.fromkeys(self._names, 0.0)
        for name, before, after in zip(self._names, self._marks, self._marks[1:], strict=False):
            totals[name] += self._between(before, after)
        return totals

    def _now(self) -> torch.cuda.Event | float:
        if self._device.type != "cuda":
            return perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        # The default stream would be that of the current device, which may be another device.
        event.record(torch.cuda.current_stream(self._device))
        return event

    @staticmethod
    def _between(before: torch.cuda.Event | float, after: torch.cuda.Event | float) -> float:
        if isinstance(before, float) or isinstance(after, float):
            return float(after) - float(before)  # type: ignore[arg-type]
        after.synchronize()
        return 1e-3 * float(before.elapsed_time(after))
