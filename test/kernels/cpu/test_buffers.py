"""Memory that is kept gives what new memory gives, whatever it held before."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st

from spvnas_ros.kernels.cpu.buffers import FRESH, Buffers, Memory
from spvnas_ros.kernels.cpu.geometry import Geometry, build_geometry
from spvnas_ros.kernels.cpu.octree import voxels_of_points
from spvnas_ros.kernels.cpu.team import Team


class Spoiled(Buffers):
    """Kept memory in which nothing of the last frame is left."""

    def array(self, name: str, shape: int | tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        array = super().array(name, shape, dtype)
        array.view(np.uint8)[...] = 0xA5
        return array

    def brief(self, name: str, shape: int | tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        array = super().brief(name, shape, dtype)
        array.view(np.uint8)[...] = 0xA5
        return array


def geometry(points: np.ndarray, team: Team, memory: Memory, in_tiles: bool) -> Geometry:
    if isinstance(memory, Buffers):
        memory.begin(room=30 * len(points))  # for some of the brief arrays
    cloud = voxels_of_points(points, 0.1, memory)
    if isinstance(memory, Buffers):
        memory.begin()
    return build_geometry(team, cloud.keys, 4, (4, 2, 0), in_tiles, memory)


def arrays(value: Any) -> list[np.ndarray]:
    """All arrays in a geometry, in one order."""
    if isinstance(value, np.ndarray):
        return [value]
    if isinstance(value, tuple):
        return [array for each in value for array in arrays(each)]
    if hasattr(value, "__dict__"):
        return arrays(tuple(vars(value).values()))
    return []


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 3000), st.sampled_from([0.2, 2.0, 30.0])), min_size=1, max_size=4),
    st.integers(1, 3),
    st.booleans(),
)
def test_a_geometry_is_the_same_in_any_memory(frames: list[tuple[int, float]], threads: int, in_tiles: bool) -> None:
    team, kept = Team(threads), Spoiled(later="features")
    for seed, (count, spread) in enumerate(frames):
        points = np.random.default_rng(seed).normal(0, spread, (count, 4)).astype(np.float32)
        ours, theirs = (arrays(geometry(points, team, memory, in_tiles)) for memory in (kept, FRESH))
        kept.array("features", 100 * count, np.uint8)
        assert len(ours) == len(theirs) > 50
        for mine, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(mine, other)


def test_brief_arrays_lie_in_what_comes_later() -> None:
    buffers = Buffers(later="features")
    buffers.begin(room=1000)
    first, second = buffers.brief("a", 60, np.int32), buffers.brief("b", 60, np.int32)
    third = buffers.brief("c", 300, np.int32)
    assert first.ctypes.data % 64 == second.ctypes.data % 64 == third.ctypes.data % 64 == 0
    later = buffers.array("features", 1000, np.uint8)
    assert np.shares_memory(first, later)
    assert np.shares_memory(second, later)
    assert not np.shares_memory(first, second)
    assert not np.shares_memory(third, later)  # which has no room for it
    buffers.begin()
    assert np.shares_memory(first, buffers.brief("d", 10, np.int8))


def test_buffers_grow_and_stay() -> None:
    buffers = Buffers()
    first = buffers.array("a", (10, 3), np.float32)
    other = buffers.array("b", 30, np.int64)
    assert not np.shares_memory(first, other)
    assert first.ctypes.data % 64 == other.ctypes.data % 64 == 0
    assert np.shares_memory(first, buffers.array("a", 12, np.uint8))
    kept = buffers.nbytes
    assert buffers.array("a", (1000, 3), np.float32).shape == (1000, 3)
    grown = buffers.nbytes
    assert grown > kept
    buffers.array("a", 0, np.float32)
    assert buffers.nbytes == grown
    assert not np.shares_memory(FRESH.array("a", 5, np.int8), FRESH.array("a", 5, np.int8))
