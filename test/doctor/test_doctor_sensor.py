"""Beams are counted from the points."""

from __future__ import annotations

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from spvnas_ros.doctor import sensor_guess


@given(
    count=st.integers(8, 128),
    lowest=st.floats(-30, -5),
    step=st.floats(0.2, 2),
    by_beam=st.booleans(),
    clockwise=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_beams_are_counted_however_the_points_are_ordered(
    count: int, lowest: float, step: float, by_beam: bool, clockwise: bool, seed: int
) -> None:
    assume(lowest + count * step < 60)
    rng = np.random.default_rng(seed)
    elevation = np.radians(lowest + step * np.arange(count))[:, None]
    azimuth = np.linspace(0.1, 2 * np.pi - 0.1, 200) * (-1 if clockwise else 1)
    distance = rng.uniform(2, 80, (count, 200))
    flat = distance * np.cos(elevation)
    points = np.stack(
        (flat * np.cos(azimuth), flat * np.sin(azimuth), distance * np.sin(elevation), np.zeros_like(flat)), axis=-1
    ).astype(np.float32)
    cloud = points.reshape(-1, 4) if by_beam else rng.permutation(points.reshape(-1, 4))
    found = sensor_guess.beams(cloud)
    assert found is not None
    assert found[0] == count
    low, high = sensor_guess.vertical_view(cloud) or (0.0, 0.0)
    assert abs(low - lowest) < step + 0.1
    assert abs(high - (lowest + step * (count - 1))) < step + 0.1
