"""Runs pure functions with JSON-able arguments in many processes, on this machine or on a Ray cluster.

The search and the labelling of fleets call `open_executor`. Results come in the order of submission, and a worker that
dies loses nothing: calls.py says what travels, processes.py and on_ray.py carry it out.
"""

from spvnas_ros.executor.calls import Call, CallFailed, Executor, Outcome, WorkerLost
from spvnas_ros.executor.chosen import open_executor

__all__ = ["Call", "CallFailed", "Executor", "Outcome", "WorkerLost", "open_executor"]
