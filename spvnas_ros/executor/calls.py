"""What travels to workers and back: calls of functions by name, and what came of them."""

from __future__ import annotations

import json
import traceback
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Literal, Protocol

from spvnas_ros.errors import UserError

ATTEMPTS = 2
"""How many workers a call may lose before it is given up."""

Fault = Literal["", "user", "program", "lost"]


class CallFailed(RuntimeError):
    """Raised for a call whose function has a fault. The message holds the worker's traceback."""


class WorkerLost(UserError):
    """Raised for a call during which worker after worker died. The message names the call."""


@dataclass(frozen=True)
class Call:
    """A pure function and its argument.

    name:     for people
    function: "package.module:function", which takes the argument alone
    argument: anything that JSON can hold; so is what the function returns

    Its result must depend on nothing but the argument and on files that stay as they are, because a call whose worker
    died is made again.
    """

    name: str
    function: str
    argument: Any

    def message(self) -> str:
        """Returns the call as one line of JSON."""
        return json.dumps({"function": self.function, "argument": self.argument})


@dataclass(frozen=True)
class Outcome:
    """What came of a call.

    result: what its function returned, as JSON has it
    fault:  "" = none, "user" = it raised a UserError or OSError, "program" = any other error, "lost" = its workers died
    said:   of a fault: the error's message, the traceback, or how the last worker ended
    """

    call: Call
    result: Any = None
    fault: Fault = ""
    said: str = ""

    def value(self) -> Any:
        """Returns the result. Raises UserError, CallFailed or WorkerLost where there is none; they name the call."""
        if not self.fault:
            return self.result
        words = f"{self.call.name}: {self.said}"
        raise {"user": UserError, "program": CallFailed, "lost": WorkerLost}[self.fault](words)


class Executor(AbstractContextManager["Executor"], Protocol):
    """Carries out calls. A context manager: at its end no worker is left, whatever ended it.

    workers: how many calls are carried out at the same time, about
    """

    @property
    def workers(self) -> int: ...

    def outcomes(self, calls: Iterable[Call]) -> Iterator[Outcome]:
        """Yields the outcome of each call, in the order of the calls.

        Calls are drawn as workers become free, and a few in advance of the outcome that is waited for, so that memory
        does not grow with their number.
        """
        ...


def perform(message: str | bytes) -> str:
    """Carries out the call in a message, and returns a line of JSON that `outcome_of` reads. To be used in a worker."""
    call = json.loads(message)
    module, _, name = call["function"].partition(":")
    reply: dict[str, Any]
    try:
        reply = {"result": getattr(import_module(module), name)(call["argument"])}
        return json.dumps(reply)
    except (UserError, OSError) as error:
        reply = {"fault": "user", "said": str(error)}
    except Exception:
        reply = {"fault": "program", "said": traceback.format_exc()}
    return json.dumps(reply)


def outcome_of(call: Call, reply: str | bytes) -> Outcome:
    """Returns the outcome that a worker's reply tells."""
    return Outcome(call, **json.loads(reply))


def lost(call: Call, how: str) -> Outcome:
    """Returns the outcome of a call whose workers died, `how` is how the last one ended."""
    return Outcome(call, fault="lost", said=f"{ATTEMPTS} workers died while they carried it out; the last one {how}")


@dataclass
class Ledger:
    """The calls that are under way, and outcomes that wait for those before them.

    calls:  all of them, drawn one by one
    window: greatest distance between the call that is waited for and the newest one drawn
    """

    calls: Iterator[Call]
    window: int
    again: deque[int] = field(default_factory=deque)
    drawn: dict[int, Call] = field(default_factory=dict)
    done: dict[int, Outcome] = field(default_factory=dict)
    losses: dict[int, int] = field(default_factory=dict)
    due: int = 0
    next: int = 0
    exhausted: bool = False

    def take(self) -> int | None:
        """Returns the number of a call to carry out; None where there is none now."""
        if self.again:
            return self.again.popleft()
        if self.exhausted or self.next - self.due >= self.window:
            return None
        try:
            self.drawn[self.next] = next(self.calls)
        except StopIteration:
            self.exhausted = True
            return None
        self.next += 1
        return self.next - 1

    def finish(self, number: int, outcome: Outcome) -> None:
        """Notes what came of a call."""
        self.done[number] = outcome

    def lose(self, number: int, how: str) -> None:
        """Notes that the worker of a call died: the call is taken again, or given up."""
        self.losses[number] = self.losses.get(number, 0) + 1
        if self.losses[number] < ATTEMPTS:
            self.again.append(number)
        else:
            self.finish(number, lost(self.drawn[number], how))

    def ready(self) -> Iterator[Outcome]:
        """Yields the outcomes whose turn it is."""
        while self.due in self.done:
            outcome = self.done.pop(self.due)
            del self.drawn[self.due]
            self.losses.pop(self.due, None)
            self.due += 1
            yield outcome

    @property
    def finished(self) -> bool:
        """Whether every call has been drawn and its outcome was yielded."""
        return self.exhausted and not self.drawn
