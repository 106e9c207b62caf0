"""A team does every tile once, raises what its threads raise, and is left by none that is still at work."""

from __future__ import annotations

import multiprocessing
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import numpy as np
import pytest
from numba import njit

from spvnas_ros.kernels.cpu.team import Team, take_ticket


@njit(nogil=True)
def count(counter: np.ndarray, done: np.ndarray) -> None:
    while True:
        tile = take_ticket(counter.ctypes.data)
        if tile >= done.shape[0]:
            return
        done[tile] += 1


def launches(team: Team, number: int, meeting: bool) -> np.ndarray:
    """How often each of 50 tiles was done in so many launches, each of which relies on the one before."""
    done = np.zeros(50, np.int64)
    with team.meeting() if meeting else nullcontext():
        for launch in range(number):
            team.run(count, done)
            assert (done == launch + 1).all()
    return done


@pytest.mark.parametrize("meeting", [False, True])
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_every_tile_is_done_once(threads: int, meeting: bool) -> None:
    assert (launches(Team(threads), 300, meeting) == 300).all()


def test_several_callers_share_a_team() -> None:
    team = Team(3)
    with ThreadPoolExecutor(4) as callers:
        for done in callers.map(lambda _: launches(team, 100, meeting=True), range(8)):
            assert (done == 100).all()


def test_results_come_in_order() -> None:
    team = Team(3)
    assert team.map(lambda a, b: a * b, range(100), range(100, 200)) == [a * (a + 100) for a in range(100)]
    assert team.map(str, [7]) == ["7"]
    assert team.map(str, []) == []


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_what_a_thread_raises_reaches_the_caller_when_all_are_done(error: type[BaseException]) -> None:
    team = Team(3)
    started, finished = [], []

    def work(number: int) -> None:
        started.append(number)
        launches(Team(1), 20, meeting=False)
        finished.append(number)
        if number == 5:
            raise error("number 5")

    with team.meeting():
        for _ in range(3):
            with pytest.raises(error, match="number 5"):
                team.map(work, range(20))
            assert sorted(started) == sorted(finished)
            started.clear()
            finished.clear()
        assert team.map(abs, [-1, -2, -3]) == [1, 2, 3]


def test_threads_that_come_late_are_not_waited_for() -> None:
    """The pool's only threads are held up, as on a machine whose other cores are busy."""
    team, free = Team(2), threading.Event()
    held = [team._workers().submit(free.wait) for _ in range(team.threads)]
    try:
        assert (launches(team, 100, meeting=True) == 100).all()
    finally:
        free.set()
    assert all(future.result() for future in held)
    assert (launches(team, 100, meeting=True) == 100).all()


def in_child(team: Team) -> None:
    assert (launches(team, 10, meeting=True) == 10).all()


def test_a_forked_process_has_threads_of_its_own() -> None:
    team = Team(3)
    launches(team, 10, meeting=True)
    child = multiprocessing.get_context("fork").Process(target=in_child, args=(team,))
    child.start()
    child.join(60)
    assert child.exitcode == 0
