"""Ends a training on a signal at a moment when nothing is lost."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from types import FrameType
from typing import Any, TypeVar

_SIGNALS = tuple(number for name in ("SIGINT", "SIGTERM", "SIGHUP") if (number := getattr(signal, name, None)))
_INSISTS = 1.0
"""Seconds after which another signal is meant as one: shells and launchers like to send several at once."""

Item = TypeVar("Item")


class Stopped(BaseException):
    """Raised where SIGINT, SIGTERM or SIGHUP ends the training. No Exception, so that nobody takes it for a failure."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class StopSignals:
    """Answers Ctrl-C, SIGTERM and the end of a terminal while it is open; a context manager.

    At first, and wherever a batch is waited for (`guarded`), the signal raises `Stopped` at once, in the main thread.
    In a block that is `held` it is kept until `check` asks for it. Another signal, a second later or more, ends the
    process there and then. What is ignored stays so (SIGHUP under nohup), but for Ctrl-C.
    """

    def __init__(self) -> None:
        self.asked: int | None = None
        self.immediate = True
        self._since = 0.0
        self._held = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            before = {number: signal.getsignal(number) for number in _SIGNALS}
            self._before = {n: now for n, now in before.items() if now != signal.SIG_IGN or n == signal.SIGINT}
            self.install()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def install(self) -> None:
        """Takes the signals over, again where somebody else has taken them since."""
        for number in self._before:
            signal.signal(number, self._on_signal)

    @contextmanager
    def held(self) -> Iterator[None]:
        """In the block a signal is kept until somebody asks for it."""
        self._held = True
        try:
            yield
        finally:
            self._held = False

    def check(self) -> None:
        """Raises Stopped where a signal came."""
        if self.asked is not None:
            raise Stopped(self.asked)

    def guarded(self, items: Iterator[Item]) -> Iterator[Item]:
        """Yields the items; a signal ends the waiting for the next one, unless `immediate` is off."""
        while True:
            held, self._held = self._held, self._held and not self.immediate
            try:
                if self.immediate:
                    self.check()
                item = next(items)
            except StopIteration:
                return
            finally:
                self._held = held
            yield item

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        if self.asked is not None:
            if monotonic() - self._since >= _INSISTS:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return
        self.asked, self._since = number, monotonic()
        if not self._held:
            raise Stopped(number)
