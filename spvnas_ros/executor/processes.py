"""Carries out calls in processes on this machine, which are told by lines of JSON what to do."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import suppress
from types import TracebackType

from spvnas_ros.errors import UserError
from spvnas_ros.executor.calls import Call, Ledger, Outcome, outcome_of
from spvnas_ros.workers import command_of

WORKER = "spvnas_ros.executor.call_worker"
_AHEAD = 4
"""Calls that may be drawn in advance, per worker."""
_CHUNK = 1 << 16


class _Worker:
    """A process that carries out one call at a time.

    number: of the call at hand; None while it is idle
    """

    def __init__(self, environment: dict[str, str]) -> None:
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command_of(WORKER), stdin=pipe, stdout=pipe, env=environment)
        self.number: int | None = None
        self._read = bytearray()
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._in, self.out = self.process.stdin, self.process.stdout

    def give(self, number: int, call: Call) -> None:
        """Sends a call. That the worker has died, reading from it tells."""
        self.number = number
        with suppress(BrokenPipeError):
            self._in.write(call.message().encode() + b"\n")
            self._in.flush()

    def receive(self) -> bytes | None:
        """Returns the whole reply, b"" while a part of it is missing, None where the worker has ended."""
        chunk = os.read(self.out.fileno(), _CHUNK)
        if not chunk:
            return None
        self._read += chunk
        if not self._read.endswith(b"\n"):
            return b""
        reply, self._read = bytes(self._read), bytearray()
        return reply

    def end(self) -> str:
        """Ends the process, and returns how it ended, in words."""
        status = self.process.poll()
        if status is None:
            self.process.kill()
            status = self.process.wait()
        with suppress(BrokenPipeError):
            self._in.close()
        self.out.close()
        return f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"


class Processes:
    """An executor of processes on this machine; see `Executor`. To be made and used in the main thread.

    workers: how many; a process is started when there is a call for it, and replaced where it dies
    threads: that each may compute with (OMP_NUM_THREADS)

    Raises UserError for less than one of either.
    """

    def __init__(self, workers: int, threads: int = 1) -> None:
        if workers < 1 or threads < 1:
            raise UserError(f"found {workers} processes of {threads} threads, expected 1 or more of each")
        self._count = workers
        self._environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        self._workers: set[_Worker] = set()

    @property
    def workers(self) -> int:
        """How many calls are carried out at the same time."""
        return self._count

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for worker in self._workers:
            worker.end()
        self._workers.clear()

    def outcomes(self, calls: Iterable[Call]) -> Iterator[Outcome]:
        """Yields the outcome of each call, in the order of the calls. See `Executor.outcomes`."""
        ledger = Ledger(iter(calls), self._count * _AHEAD)
        while True:
            self._deal(ledger)
            yield from ledger.ready()
            if ledger.finished:
                return
            if not any(worker.number is not None for worker in self._workers):
                continue  # the outcomes just yielded made room for more calls
            self._collect(ledger)

    def _deal(self, ledger: Ledger) -> None:
        """Gives every worker that is free a call."""
        busy = sum(worker.number is not None for worker in self._workers)
        while busy < self._count and (number := ledger.take()) is not None:
            idle = next((worker for worker in self._workers if worker.number is None), None)
            if idle is None:
                idle = _Worker(self._environment)
                self._workers.add(idle)
            idle.give(number, ledger.drawn[number])
            busy += 1

    def _collect(self, ledger: Ledger) -> None:
        """Waits for replies or deaths, and notes them."""
        with selectors.DefaultSelector() as selector:
            for each in self._workers:
                selector.register(each.out, selectors.EVENT_READ, each)
            events = selector.select()
        for worker in [key.data for key, _ in events]:
            reply = worker.receive()
            if reply is None:
                self._workers.remove(worker)
                how = self._buried(worker)
                if worker.number is not None:
                    ledger.lose(worker.number, how)
            elif reply and worker.number is not None:
                ledger.finish(worker.number, outcome_of(ledger.drawn[worker.number], reply))
                worker.number = None

    @staticmethod
    def _buried(worker: _Worker) -> str:
        # Its end of the pipe is closed, so it ends by itself, unless what it works on closed the pipe.
        with suppress(subprocess.TimeoutExpired):
            worker.process.wait(timeout=5.0)
        return worker.end()
