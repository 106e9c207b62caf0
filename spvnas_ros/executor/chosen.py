"""Chooses where calls are carried out: in processes on this machine, or on a Ray cluster."""

from __future__ import annotations

import os

from spvnas_ros.executor.calls import Executor
from spvnas_ros.executor.processes import Processes


def cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def open_executor(processes: int | None = None, ray: str | None = None, threads: int = 1, gpus: int = 0) -> Executor:
    """Returns an executor.

    processes: how many workers on this machine; None = as many as its cores allow
    ray:       address of a Ray cluster, see `OnRay`; None = this machine
    threads:   that each call may compute with
    gpus:      of a cluster, that each call takes; on this machine calls share those it has

    Raises UserError where there is no such cluster, or for less than one process.
    """
    if ray is None:
        return Processes(max(1, cores() // threads) if processes is None else processes, threads)
    from spvnas_ros.executor.on_ray import OnRay

    return OnRay(ray, processes, threads, gpus)
