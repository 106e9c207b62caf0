"""Calls in processes of this machine: results in order, whatever dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from places import HELPERS, REPOSITORY
from spvnas_ros.errors import UserError
from spvnas_ros.executor import Call, CallFailed, Executor, WorkerLost, open_executor
from spvnas_ros.executor.calls import ATTEMPTS, Ledger, Outcome


@pytest.fixture(autouse=True)
def _workers_find_helpers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(REPOSITORY), str(HELPERS))))


def call(function: str, argument: object, name: str = "") -> Call:
    return Call(name or f"{function} {argument}", f"pure_calls:{function}", argument)


def results(executor: Executor, calls: list[Call]) -> list[object]:
    return [outcome.value() for outcome in executor.outcomes(calls)]


def test_results_come_in_the_order_of_the_calls_and_floats_to_the_bit() -> None:
    numbers = [0.1 * n for n in range(20)]
    with open_executor(2) as executor:
        assert results(executor, [call("square", n) for n in numbers]) == [n * n for n in numbers]
        assert results(executor, []) == []
        assert results(executor, [call("chat", n) for n in range(3)]) == [0, 1, 2]  # what they print is no reply


def test_a_worker_that_is_killed_loses_nothing(tmp_path: Path) -> None:
    argument = {"folder": str(tmp_path), "deadly": [0, 3, 4]}
    with open_executor(2) as executor:
        calls = [call("die_once", argument | {"number": n}) for n in range(8)]
        assert results(executor, calls) == [n / 3 for n in range(8)]
    assert sorted(mark.name for mark in tmp_path.iterdir()) == ["0", "3", "4"]


def test_an_idle_worker_that_is_killed_is_replaced() -> None:
    with open_executor(1) as executor:
        (first,) = results(executor, [call("where", None)])
        os.kill(int(str(first)), signal.SIGKILL)
        (second,) = results(executor, [call("where", None)])
    assert first != second


def test_what_kills_its_worker_twice_is_named_and_the_others_go_on() -> None:
    with open_executor(2) as executor:
        found = list(executor.outcomes([call("square", 2), call("die", 0, "drive 7"), call("square", 3)]))
    assert [outcome.result for outcome in found] == [4, None, 9]
    with pytest.raises(WorkerLost, match=r"drive 7: 2 workers died .* SIGKILL"):
        found[1].value()


def test_faults_are_told_apart_and_named() -> None:
    with open_executor(1) as executor:
        user, program = executor.outcomes([call("refuse", "x", "one"), call("blunder", 0, "two")])
    with pytest.raises(UserError, match="one: x is no number"):
        user.value()
    with pytest.raises(CallFailed, match=r"(?s)two: .*in blunder.*ZeroDivisionError"):
        program.value()


def test_no_process_is_none() -> None:
    with pytest.raises(UserError, match="expected 1 or more"):
        open_executor(0)


INTERRUPTED = """
import sys
from spvnas_ros.executor import Call, open_executor
with open_executor(1) as executor:
    list(executor.outcomes([Call("wait", "pure_calls:wait_for", sys.argv[1])]))
"""


def test_ctrl_c_leaves_no_worker(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "begun")
    program = subprocess.Popen([sys.executable, "-c", INTERRUPTED, str(tmp_path / "begun")], stderr=subprocess.PIPE)
    worker = os.pidfd_open(int((tmp_path / "begun").read_text()))
    program.send_signal(signal.SIGINT)
    _, said = program.communicate(timeout=60)
    assert b"KeyboardInterrupt" in said
    with pytest.raises(ProcessLookupError):
        signal.pidfd_send_signal(worker, 0)
    os.close(worker)


@settings(max_examples=30)
@given(st.integers(0, 12), st.integers(1, 5), st.data())
def test_whatever_ends_first_and_dies_the_ledger_yields_all_in_order(
    count: int, window: int, data: st.DataObject
) -> None:
    drawn = 0

    def calls() -> Iterator[Call]:
        nonlocal drawn
        for number in range(count):
            drawn += 1
            yield call("square", number)

    ledger, under_way, yielded, losses = Ledger(calls(), window), list[int](), list[Outcome](), dict[int, int]()
    while not ledger.finished:
        while (number := ledger.take()) is not None:
            under_way.append(number)
        if under_way:
            number = under_way.pop(data.draw(st.integers(0, len(under_way) - 1)))
            if data.draw(st.booleans()):
                losses[number] = losses.get(number, 0) + 1
                ledger.lose(number, "fell")
            else:
                ledger.finish(number, Outcome(ledger.drawn[number], number))
        yielded += ledger.ready()
        assert drawn - len(yielded) <= window
    assert [outcome.call.argument for outcome in yielded] == list(range(count))
    given_up = [bool(outcome.fault) for outcome in yielded]
    assert given_up == [losses.get(number, 0) == ATTEMPTS for number in range(count)]
