"""Where compiled loops put their results: into arrays of their own, or into memory that is kept from frame to frame."""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

_LINE = 64
"""Bytes: arrays start on a cache line. Without that, half of all vector accesses would straddle two."""
_SPARE = 8
"""Memory that grows gets an eighth more than is asked for, so that the next frame of a moving sensor fits, too."""


class Memory(Protocol):
    """What hands out arrays."""

    def array(self, name: str, shape: int | tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Returns an array of undefined values that starts on a cache line.

        name: distinguishes the arrays that are in use at the same time
        """
        ...

    def brief(self, name: str, shape: int | tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Returns such an array for what nobody needs any more when voxels or geometry are complete."""
        ...


class Fresh:
    """Memory that nobody else has: every array is new, and lives as long as it is used."""

    def array(self, name: str, shape: int | tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:  # noqa: ARG002
        """Returns a new array; the name does not count."""
        size = _size(shape, dtype)
        return _aligned(size)[:size].view(dtype).reshape(shape)

    def brief(self, name: str, shape: int | tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Returns a new array, too."""
        return self.array(name, shape, dtype)


class Buffers:
    """Memory that is kept: an array lives until its name is asked for again, and then holds whatever it held.

    Memory that is freed and taken again costs a page fault every 4 KiB. Buffers only grow. They belong to one frame at
    a time; its threads may ask for different names at once, but one alone for brief arrays.

    later: the name of an array that is asked for when no brief array is in use any more. Brief arrays lie in it, where
           they find room, else in new memory that is not kept
    """

    def __init__(self, later: str = "") -> None:
        self._kept: dict[str, npt.NDArray[np.uint8]] = {}
        self._later, self._used = later, 0

    def begin(self, room: int = 0) -> None:
        """Ends all brief arrays. room: bytes that those to come may need"""
        self._used = 0
        if room:
            self.array(self._later, room, np.uint8)

    def brief(self, name: str, shape: int | tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:  # noqa: ARG002
        """Returns an array of undefined values that is in use until `begin`, or until `later` is asked for."""
        size, room, begin = _size(shape, dtype), self._kept.get(self._later), self._used
        if room is None or begin + size > len(room):
            return FRESH.array("", shape, dtype)
        self._used = -(-(begin + size) // _LINE) * _LINE
        return room[begin : begin + size].view(dtype).reshape(shape)

    def array(self, name: str, shape: int | tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Returns the array of this name, which is no longer what it was for those who have it from earlier."""
        size = _size(shape, dtype)
        kept = self._kept.get(name)
        if kept is None or len(kept) < size:
            self._kept.pop(name, None)  # given back before more is taken
            del kept
            kept = self._kept[name] = _aligned(size + size // _SPARE)
        return kept[:size].view(dtype).reshape(shape)

    @property
    def nbytes(self) -> int:
        """How much is kept, bytes."""
        return sum(len(kept) for kept in self._kept.values())


FRESH = Fresh()


def _size(shape: int | tuple[int, ...], dtype: npt.DTypeLike) -> int:
    return math.prod(shape if isinstance(shape, tuple) else (shape,)) * np.dtype(dtype).itemsize


def _aligned(size: int) -> npt.NDArray[np.uint8]:
    raw = np.empty(size + _LINE, np.uint8)
    skip = -raw.ctypes.data % _LINE
    return raw[skip : skip + size]
