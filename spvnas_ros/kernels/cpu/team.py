"""A few threads that work through one kernel together."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

T = TypeVar("T")


def default_threads() -> int:
    """Returns `OMP_NUM_THREADS` where it is a positive number, else the number of cores this process may use."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    if wanted.isdigit() and int(wanted) > 0:
        return int(wanted)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@intrinsic
def take_ticket(context, counter):
    """Adds one to the int64 at the address `counter`, atomically, and returns the value before; for compiled code."""

    def generate(context, b, signature, args):
        word = ir.IntType(64)
        return b.atomic_rmw("add", b.inttoptr(args[0], word.as_pointer()), ir.Constant(word, 1), "monotonic")

    return types.int64(types.int64), generate


class Team:
    """Threads that run compiled kernels together.

    A kernel takes an int64 counter first and draws its tiles from the counter until none is left. The threads are plain
    Python threads. The kernels release the interpreter lock, and idle threads sleep instead of spinning. Tiles are
    dealt out as threads become free, so a busy core slows a frame by its share only. Nothing depends on which OpenMP
    runtime a process has loaded.
    """

    def __init__(self, threads: int) -> None:
        """Raises ValueError for fewer than one thread."""
        if threads < 1:
            raise ValueError(f"an engine needs at least one thread, found {threads}")
        self.threads = threads
        self._pool: ThreadPoolExecutor | None = None
        self._process = 0

    def run(self, kernel: Callable[..., Any], *args: Any, shares: int | None = None) -> None:
        """Runs `kernel(counter, *args)` on every thread and waits for all of them.

        shares: how many tiles there are, where it is known; no more threads than that are started
        """
        counter = np.zeros(1, np.int64)
        threads = self.threads if shares is None else min(self.threads, shares)
        pool = self._workers() if threads > 1 else None
        others = [pool.submit(kernel, counter, *args) for _ in range(threads - 1)] if pool else []
        try:
            kernel(counter, *args)
        finally:
            for other in others:
                other.result()

    def map(self, function: Callable[..., T], *columns: Sequence[Any]) -> list[T]:
        """Returns the results of `function` over the columns, computed on all threads.

        The function should spend its time in compiled code.
        """
        pool = self._workers()
        if pool is None:
            return [function(*row) for row in zip(*columns, strict=True)]
        return list(pool.map(function, *columns))

    def _workers(self) -> ThreadPoolExecutor | None:
        """Returns the threads of this process, None for a team of one.

        A forked process inherits the pool but none of its threads, so it gets a new pool.
        """
        if self.threads > 1 and self._process != os.getpid():
            self._pool, self._process = ThreadPoolExecutor(self.threads, "spvnas-cpu"), os.getpid()
        return self._pool
