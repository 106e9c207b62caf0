"""Carries out calls on a Ray cluster. Files that calls name must lie at the same path on every machine of it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any

from spvnas_ros.errors import UserError
from spvnas_ros.executor.calls import Call, Ledger, Outcome, outcome_of, perform

LOCAL = "local"
"""Instead of an address: a cluster of this machine alone, which ends with the executor."""

_AHEAD = 4
_PATIENCE = 1.0
"""Seconds between two looks for Ctrl-C."""


class OnRay:
    """An executor on a Ray cluster; see `Executor`.

    address: of the cluster, as Ray has it ("HOST:6379", "ray://HOST:10001"); "auto" = the one this machine belongs to;
             `LOCAL` = a new one of this machine alone
    workers: of a new one: how many processes; None = one for each core
    threads: cores that a call takes; gpus: GPUs that it takes, and without which it sees none

    Raises UserError where Ray is not installed or the cluster does not answer.
    """

    def __init__(self, address: str, workers: int | None = None, threads: int = 1, gpus: int = 0) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
        try:
            import ray
        except ModuleNotFoundError as error:
            raise UserError("--ray needs Ray; install it: pip install 'spvnas_ros[ray]'") from error
        self._ray: Any = ray
        self._owned = not ray.is_initialized()
        if self._owned:
            where: dict[str, Any] = {"address": address}
            if address == LOCAL:
                where |= {"num_cpus": workers, "include_dashboard": False}
            try:
                ray.init(**where, logging_level=logging.ERROR, log_to_driver=False)
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise UserError(
                    f"no Ray cluster answers at {address} ({error}); start one (ray start --head), name another "
                    f"address, or take --ray {LOCAL}"
                ) from error
        self._perform = ray.remote(num_cpus=threads, num_gpus=gpus, max_retries=0)(perform)
        self._threads = threads
        self._pending: dict[Any, int] = {}

    @property
    def workers(self) -> int:
        """How many calls the cluster carries out at the same time now; it may grow and shrink."""
        return max(1, int(self._ray.cluster_resources().get("CPU", 1)) // self._threads)

    def __enter__(self) -> OnRay:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for reference in self._pending:
            self._ray.cancel(reference, force=True)
        self._pending.clear()
        if self._owned:
            self._ray.shutdown()

    def outcomes(self, calls: Iterable[Call]) -> Iterator[Outcome]:
        """Yields the outcome of each call, in the order of the calls. See `Executor.outcomes`."""
        ledger = Ledger(iter(calls), self.workers * _AHEAD)
        while True:
            ledger.window = self.workers * _AHEAD
            while len(self._pending) < 2 * self.workers and (number := ledger.take()) is not None:
                self._pending[self._perform.remote(ledger.drawn[number].message())] = number
            yield from ledger.ready()
            if ledger.finished:
                return
            if not self._pending:
                continue  # the outcomes just yielded made room for more calls
            done, _ = self._ray.wait(list(self._pending), timeout=_PATIENCE)
            for reference in done:
                self._note(ledger, reference)

    def _note(self, ledger: Ledger, reference: Any) -> None:
        number = self._pending.pop(reference)
        try:
            ledger.finish(number, outcome_of(ledger.drawn[number], self._ray.get(reference)))
        except self._ray.exceptions.RayTaskError:
            raise  # `perform` catches what calls raise, so this is a fault of the worker's installation
        except self._ray.exceptions.RayError as error:
            ledger.lose(number, f"ended so: {str(error).splitlines()[0]}")
