"""Calls on a Ray cluster of this machine: the same results as in its processes, also where a worker is killed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from places import HELPERS, REPOSITORY
from spvnas_ros.errors import UserError
from spvnas_ros.executor import Call, Executor, open_executor

ray = pytest.importorskip("ray", reason="Ray is not installed; pip install 'spvnas_ros[test]' brings it")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Executor]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join((str(REPOSITORY), str(HELPERS))))
        with open_executor(2, ray="local") as executor:
            yield executor


def test_a_cluster_that_is_not_there_is_told() -> None:
    if ray.is_initialized():
        pytest.skip("this process is in a cluster")
    with pytest.raises(UserError, match="no Ray cluster answers at auto"):
        open_executor(ray="auto")


def test_killed_workers_lose_nothing_and_results_are_those_of_processes(cluster: Executor, tmp_path: Path) -> None:
    def calls(folder: Path, deadly: list[int]) -> list[Call]:
        folder.mkdir()
        argument = {"folder": str(folder), "deadly": deadly}
        return [Call(str(n), "pure_calls:die_once", argument | {"number": n}) for n in range(8)]

    assert cluster.workers == 2
    found = [outcome.value() for outcome in cluster.outcomes(calls(tmp_path / "cluster", [1, 4]))]
    assert found == [n / 3 for n in range(8)]
    assert sorted(mark.name for mark in (tmp_path / "cluster").iterdir()) == ["1", "4"]
    with open_executor(1) as processes:
        assert found == [outcome.value() for outcome in processes.outcomes(calls(tmp_path / "processes", []))]


def test_faults_are_named(cluster: Executor) -> None:
    calls = [Call("one", "pure_calls:refuse", "x"), Call("two", "pure_calls:die", 0), Call("3", "pure_calls:square", 3)]
    user, lost, fine = cluster.outcomes(calls)
    assert (user.fault, lost.fault, fine.value()) == ("user", "lost", 9)
    with pytest.raises(UserError, match="two: 2 workers died"):
        lost.value()
