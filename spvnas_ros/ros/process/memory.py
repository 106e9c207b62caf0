"""How this process gets its memory."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Options of glibc's mallopt."""

_KEEP_FREED_BYTES = 128 << 20
_SERVE_FROM_HEAP_BYTES = 32 << 20
"""The most glibc allows."""


def keep_freed_memory() -> bool:
    """Have glibc keep what is freed, up to 128 MB, instead of giving it back to the kernel after every cloud.

    A cloud's few buffers of some megabytes are made and freed for every frame. Returned to the kernel, they come back
    a page fault at a time: of 16 ms around the network for 120 000 points, 11 ms were page faults. Returns False where
    there is no glibc, or the user has set its MALLOC_ variables.
    """
    if any(name.startswith("MALLOC_") for name in os.environ) or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    kept = mallopt(_M_TRIM_THRESHOLD, _KEEP_FREED_BYTES)
    return bool(kept and mallopt(_M_MMAP_THRESHOLD, _SERVE_FROM_HEAP_BYTES))


def resident_bytes() -> int | None:
    """How much memory this process has in RAM; None where the system does not tell it this way."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")
