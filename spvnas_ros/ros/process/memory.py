"""How this process gets its memory, and when Python looks for garbage in it."""

from __future__ import annotations

import ctypes
import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
"""Options of glibc's mallopt."""

_KEEP_FREED_BYTES = 128 << 20
_SERVE_FROM_HEAP_BYTES = 32 << 20
"""The most glibc allows."""


def keep_freed_memory() -> bool:
    """Have glibc keep what is freed, up to 128 MB, instead of giving it back to the kernel after every cloud.

    A cloud's few buffers of some megabytes are made and freed for every frame. Returned to the kernel, they come back
    a page fault at a time: of 16 ms around the network for 120 000 points, 11 ms were page faults. All threads take
    from one heap: with one for each, what one thread has freed is of no use to the others. Returns False where there is
    no glibc, or the user has set its MALLOC_ variables.
    """
    if any(name.startswith("MALLOC_") for name in os.environ) or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    kept = mallopt(_M_TRIM_THRESHOLD, _KEEP_FREED_BYTES) and mallopt(_M_ARENA_MAX, 1)
    return bool(kept and mallopt(_M_MMAP_THRESHOLD, _SERVE_FROM_HEAP_BYTES))


@contextmanager
def collector_at_rest() -> Iterator[None]:
    """Has Python's collector look for nothing while the block runs.

    While modules and weights are loaded it looks at all of them again and again, 0.5 s in all, and finds little.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def spare_from_collector() -> None:
    """Has Python's collector pass over all objects that there are from now on; those that come are looked at as ever.

    A full collection looks at every object while no other thread runs Python: those of torch and numba, 400 000, take
    0.2 s, in which two clouds come and one of them is lost. What nobody refers to is freed all the same, without the
    collector.
    """
    gc.collect()
    gc.freeze()


def hand_to_collector() -> None:
    """Undoes `spare_from_collector`, so that what is in reference cycles can be freed."""
    gc.unfreeze()


def resident_bytes() -> int | None:
    """How much memory this process has in RAM; None where the system does not tell it this way."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")
