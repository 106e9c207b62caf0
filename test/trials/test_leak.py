"""A leak is told from all else that memory does: noise, steps, an allocator's saw-tooth, the first clouds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from spvnas_ros.trials.leak import trend

Memory = npt.NDArray[np.float64]
CLOUDS = 600
SAMPLES = 120
MB = 1e6

answered = np.sort(np.random.default_rng(0).integers(0, CLOUDS, SAMPLES))
"""Not evenly: the machine is busy."""


def leak(per_cloud: float) -> Memory:
    return 150 * MB + per_cloud * answered


def noise(size: float) -> Memory:
    return np.random.default_rng(1).normal(0, size, SAMPLES)


def step(size: float, at: float) -> Memory:
    return size * (answered > at * CLOUDS)


def saw_tooth(size: float, teeth: float) -> Memory:
    return size * (answered * teeth / CLOUDS % 1)


def lumps(per_cloud: float, size: float) -> Memory:
    """A leak, as an allocator passes it on to the system."""
    return 150 * MB + np.floor(per_cloud * answered / size) * size


SOUND: dict[str, Callable[[], Memory]] = {
    "nothing": lambda: leak(0),
    "noise": lambda: leak(0) + noise(2 * MB),
    "what the node remembers of its frames": lambda: leak(2_000),
    "a step": lambda: leak(0) + step(20 * MB, 0.6),
    "a step in the middle of what is judged": lambda: leak(0) + step(20 * MB, 0.625),
    "two steps and noise": lambda: leak(1_000) + step(5 * MB, 0.4) + step(5 * MB, 0.8) + noise(0.3 * MB),
    "a step and back": lambda: leak(0) + step(20 * MB, 0.4) - step(20 * MB, 0.7),
    "a saw-tooth": lambda: leak(0) + saw_tooth(10 * MB, 6.3) + noise(0.3 * MB),
    "warming up": lambda: leak(0) + 100 * MB * np.minimum(answered / (0.25 * CLOUDS), 1),
    "memory given back": lambda: leak(-50_000),
}
LEAKS: dict[str, Callable[[], Memory]] = {
    "50 KB a cloud": lambda: leak(50_000),
    "15 KB a cloud and noise": lambda: leak(15_000) + noise(0.3 * MB),
    "behind a step": lambda: leak(50_000) + step(20 * MB, 0.5),
    "in front of a step back": lambda: leak(50_000) - step(20 * MB, 0.5),
    "under a saw-tooth": lambda: leak(50_000) + saw_tooth(10 * MB, 6.3),
    "in lumps of a megabyte": lambda: lumps(50_000, MB),
    "in lumps of what two windows leak": lambda: lumps(50_000, 4 * MB),
}


@pytest.mark.parametrize("what", SOUND)
def test_what_is_no_leak_is_taken_for_none(what: str) -> None:
    found = trend(answered, SOUND[what]())
    assert not found.leaks, f"{found.per_cloud:.0f} bytes per cloud, limit {found.limit:.0f}"


@pytest.mark.parametrize("what", LEAKS)
def test_a_leak_is_found(what: str) -> None:
    found = trend(answered, LEAKS[what]())
    assert found.leaks, f"{found.per_cloud:.0f} bytes per cloud, limit {found.limit:.0f}"


def test_the_size_of_a_leak_is_told() -> None:
    assert trend(answered, leak(50_000)).per_cloud == pytest.approx(50_000)


def test_a_slow_machine_is_judged_like_a_quick_one() -> None:
    """The same clouds in ten times the samples, most of them while it stalls."""
    often = np.sort(np.concatenate([answered, np.repeat(answered[::7], 60)]))
    assert trend(often, 150 * MB + 50_000 * often).per_cloud == pytest.approx(50_000)


def test_the_more_clouds_the_smaller_a_leak_is_found() -> None:
    memory = leak(3_000)
    assert not trend(answered, memory).leaks
    assert trend(answered * 10, 150 * MB + 3_000.0 * answered * 10).leaks


@pytest.mark.parametrize("clouds", [[0, 0, 0], [5, 5]])
def test_without_clouds_there_is_nothing_to_judge(clouds: list[int]) -> None:
    with pytest.raises(ValueError, match="windows"):
        trend(clouds, clouds)
