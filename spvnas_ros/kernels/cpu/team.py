"""A few threads that work through one kernel together."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
from llvmlite import ir
from numba import njit, types
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


@intrinsic
def _read(context, address):
    """Reads the int64 at an address, which other threads may change."""

    def generate(context, b, signature, args):
        pointer = b.inttoptr(args[0], ir.IntType(64).as_pointer())
        return b.load_atomic(pointer, "acquire", 8)

    return types.int64(types.int64), generate


_sched_yield = types.ExternalFunction("sched_yield", types.int32())


@njit(cache=True, nogil=True)
def _changes(address, value, looks):
    """Returns whether the int64 at an address stops being `value` while it is looked at so many times.

    Every look offers the core to whoever is ready to run on it, so that a busy machine loses nothing to it.
    """
    for _ in range(looks):
        if _read(address) != value:
            return True
        _sched_yield()
    return False


_LOOKS = 150
"""Before a thread goes to sleep, some 50 microseconds: what the caller needs from one kernel to the next. To wake a
thread that sleeps takes as long."""

_LAUNCH, _BUSY = 0, 1


class _Meeting:
    """What the threads of a team agree on while they work through one kernel after the other.

    A kernel is open from its launch until the caller finds no tile left. A thread that comes while it is open takes
    part and is waited for; one that comes later, because its core was busy, is not.
    """

    def __init__(self) -> None:
        self._state = np.zeros(2, np.int64)  # how many launches there were; how many others are at work
        self._address = self._state.ctypes.data
        self._lock = threading.Lock()
        self._launched, self._idle = threading.Condition(self._lock), threading.Condition(self._lock)
        self._job: Callable[[], Any] | None = None
        self._sleeping = 0
        self._over = False
        self._error: BaseException | None = None

    def launch(self, job: Callable[[], Any]) -> None:
        """Opens a job for all threads."""
        with self._lock:
            self._job = job
            self._state[_LAUNCH] += 1
            if self._sleeping:
                self._launched.notify_all()

    def close(self) -> None:
        """Waits for the threads that took part in the last job, and raises what any of them raised.

        The job's arrays are in use until then, so an interrupt is raised afterwards.
        """
        raised: BaseException | None = None
        while True:
            try:
                with self._lock:
                    self._job = None
                    busy = int(self._state[_BUSY])
                if not busy:
                    break
                if not _changes(self._address + 8 * _BUSY, busy, _LOOKS):
                    with self._lock:
                        while self._state[_BUSY]:
                            self._idle.wait()
            except KeyboardInterrupt as error:
                raised = error
        raised, self._error = raised or self._error, None
        if raised:
            raise raised

    def end(self) -> None:
        """Sends the threads away."""
        with self._lock:
            self._over, self._job = True, None
            self._state[_LAUNCH] += 1
            self._launched.notify_all()

    def attend(self) -> None:
        """Takes part in every job that is open, until the end."""
        seen = 0
        while True:
            awake = _changes(self._address + 8 * _LAUNCH, seen, _LOOKS)
            with self._lock:
                if not awake:
                    self._sleeping += 1
                    while self._state[_LAUNCH] == seen:
                        self._launched.wait()
                    self._sleeping -= 1
                if self._over:
                    return
                seen, job = int(self._state[_LAUNCH]), self._job
                if job is None:
                    continue
                self._state[_BUSY] += 1
            try:
                job()
            except BaseException as error:  # raised again by the caller
                self._error = error
            del job
            with self._lock:
                self._state[_BUSY] -= 1
                if not self._state[_BUSY]:
                    self._idle.notify_all()


class Team:
    """Threads that run compiled kernels together.

    A kernel takes an int64 counter first and draws its tiles from the counter until none is left. The threads are plain
    Python threads. The kernels release the interpreter lock, and idle threads sleep; between two kernels of one
    `meeting` they only offer their core to others for some microseconds first. Tiles are dealt out as threads become
    free, so a busy core slows a frame by its share only. Nothing depends on which OpenMP runtime a process has loaded.
    """

    def __init__(self, threads: int) -> None:
        """Raises ValueError for fewer than one thread."""
        if threads < 1:
            raise ValueError(f"an engine needs at least one thread, found {threads}")
        self.threads = threads
        self._pool: ThreadPoolExecutor | None = None
        self._process = 0
        self._own = threading.local()  # a meeting is the caller's own, and so any thread may call

    @contextmanager
    def meeting(self) -> Iterator[None]:
        """Calls the threads together for several kernels, so that each of these starts in a few microseconds."""
        if self.threads == 1 or self._meeting() is not None:
            yield
            return
        pool, meeting = self._workers(), _Meeting()
        for _ in range(self.threads - 1):
            pool.submit(meeting.attend)
        self._own.meeting = meeting
        try:
            yield
        finally:
            self._own.meeting = None
            meeting.end()

    def run(self, kernel: Callable[..., Any], *args: Any, shares: int | None = None) -> None:
        """Runs `kernel(counter, *args)` on every thread and waits for all that took part.

        shares: how many tiles there are, where it is known; one is done by the caller alone
        """
        counter = np.zeros(1, np.int64)
        if self.threads == 1 or shares == 1:
            kernel(counter, *args)
        else:
            self._together(lambda: kernel(counter, *args))

    def map(self, function: Callable[..., T], *columns: Sequence[Any]) -> list[T]:
        """Returns the results of `function` over the columns, computed on all threads.

        The function should spend its time in compiled code.
        """
        rows = list(zip(*columns, strict=True))
        if self.threads == 1 or len(rows) < 2:
            return [function(*row) for row in rows]
        results: dict[int, T] = {}
        left = deque(enumerate(rows))

        def work() -> None:
            while True:
                try:
                    index, row = left.popleft()
                except IndexError:
                    return
                results[index] = function(*row)

        self._together(work)
        return [results[index] for index in range(len(rows))]

    def _together(self, job: Callable[[], Any]) -> None:
        with self.meeting():
            meeting = self._meeting()
            assert meeting is not None
            meeting.launch(job)
            try:
                job()
            finally:
                meeting.close()

    def _meeting(self) -> _Meeting | None:
        return getattr(self._own, "meeting", None)

    def _workers(self) -> ThreadPoolExecutor:
        """Returns the threads of this process.

        A forked process inherits the pool but none of its threads, so it gets a new pool.
        """
        if self._pool is None or self._process != os.getpid():
            self._pool, self._process = ThreadPoolExecutor(self.threads, "spvnas-cpu"), os.getpid()
        return self._pool
