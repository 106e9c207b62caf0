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
    """`OMP_NUM_THREADS` where it is set to a positive number, else the cores this process may use."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    if wanted.isdigit() and int(wanted) > 0:
        return int(wanted)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@intrinsic
def take_ticket(context, counter):
    """In compiled code: atomic `counter[0]++` on the address of an int64; the value before."""

    def generate(context, b, signature, args):
        word = ir.IntType(64)
        return b.atomic_rmw("add", b.inttoptr(args[0], word.as_pointer()), ir.Constant(word, 1), "monotonic")

    return types.int64(types.int64), generate


class Team:
    """Runs compiled kernels that take an int64 counter first and draw their tiles from it until none is left.

    Plain Python threads: the kernels release the interpreter lock, idle threads sleep instead of spinning, tiles are
    dealt out as threads become free (so a busy core slows a frame by its share only), and nothing depends on which
    OpenMP runtime a process has loaded.
    """

    def __init__(self, threads: int) -> None:
        """Raises ValueError for fewer than one thread."""
        if threads < 1:
            raise ValueError(f"an engine needs at least one thread, found {threads}")
        self.threads = threads
        self._pool: ThreadPoolExecutor | None = None
        self._process = 0

    def run(self, kernel: Callable[..., Any], *args: Any) -> None:
        """Run `kernel(counter, *args)` on every thread and wait for all of them."""
        counter = np.zeros(1, np.int64)
        pool = self._workers()
        others = [pool.submit(kernel, counter, *args) for _ in range(self.threads - 1)] if pool else []
        try:
            kernel(counter, *args)
        finally:
            for other in others:
                other.result()

    def map(self, function: Callable[..., T], *columns: Sequence[Any]) -> list[T]:
        """`function` over the columns, on all threads; it should spend its time in compiled code."""
        pool = self._workers()
        if pool is None:
            return [function(*row) for row in zip(*columns, strict=True)]
        return list(pool.map(function, *columns))

    def _workers(self) -> ThreadPoolExecutor | None:
        """The threads of this process: a forked one inherits the pool, but none of its threads."""
        if self.threads > 1 and self._process != os.getpid():
            self._pool, self._process = ThreadPoolExecutor(self.threads, "spvnas-cpu"), os.getpid()
        return self._pool
