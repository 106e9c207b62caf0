"""A few threads that work through one kernel together."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np


def default_threads() -> int:
    """`OMP_NUM_THREADS` where it is set to a positive number, else the cores this process may use."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    if wanted.isdigit() and int(wanted) > 0:
        return int(wanted)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Team:
    """Runs compiled kernels that take an int64 counter first and draw their tiles from it until none is left.

    Plain Python threads: the kernels release the interpreter lock, idle threads sleep instead of spinning, tiles are
    dealt out as threads become free (so a busy core slows a frame by its share only), and nothing depends on which
    OpenMP runtime a process has loaded.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._pool = ThreadPoolExecutor(threads - 1, "spvnas-cpu") if threads > 1 else None

    def run(self, kernel: Callable[..., Any], *args: Any) -> None:
        """Run `kernel(counter, *args)` on every thread and wait for all of them."""
        counter = np.zeros(1, np.int64)
        helpers = [self._pool.submit(kernel, counter, *args) for _ in range(self.threads - 1)] if self._pool else []
        try:
            kernel(counter, *args)
        finally:
            for helper in helpers:
                helper.result()
