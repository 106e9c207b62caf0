"""Provides threads that always work on the newest item and drop the older ones."""

from __future__ import annotations

from collections.abc import Callable
from threading import Condition, Thread
from typing import Generic, TypeVar

Item = TypeVar("Item")
Prepared = TypeVar("Prepared")


class LatestWorker(Generic[Item]):
    """Calls `handle` for the newest item, one item at a time, in a thread of its own.

    An item that still waits when the next one arrives is dropped: a sensor does not wait, and a late answer about an
    old cloud is worth less than an early answer about the newest. `handle` must not raise.
    """

    def __init__(self, handle: Callable[[Item], None], name: str) -> None:
        self._handle = handle
        self._waiting: Item | None = None
        self._stopping = False
        self._changed = Condition()
        self._thread = Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, item: Item) -> bool:
        """Hands over an item. Returns True where a waiting item is dropped for it."""
        with self._changed:
            dropped = self._waiting is not None
            self._waiting = item
            self._changed.notify()
            return dropped

    def stop(self) -> bool:
        """Finishes the item in work and ends the thread. Returns True where a waiting item is dropped."""
        with self._changed:
            dropped = self._waiting is not None
            self._waiting = None
            self._stopping = True
            self._changed.notify()
        self._thread.join()
        return dropped

    def _run(self) -> None:
        while (item := self._take()) is not None:
            self._handle(item)

    def _take(self) -> Item | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting is not None or self._stopping)
            item, self._waiting = self._waiting, None
            return item


class LatestPipeline(Generic[Item, Prepared]):
    """Runs two workers in a row: it prepares the newest item while the item before it is still handled.

    prepare: what the first thread does with an item; None means that there is nothing to handle
    handle:  what the second thread does with a prepared item
    dropped: called for each item that a newer one replaced, or that was still waiting at the end

    Neither `prepare` nor `handle` may raise.
    """

    def __init__(
        self,
        prepare: Callable[[Item], Prepared | None],
        handle: Callable[[Prepared], None],
        dropped: Callable[[], None],
        name: str,
    ) -> None:
        self._prepare, self._dropped = prepare, dropped
        self._second = LatestWorker(handle, name)
        self._first = LatestWorker(self._hand_on, f"{name}-prepare")

    def put(self, item: Item) -> None:
        """Hands over an item."""
        if self._first.put(item):
            self._dropped()

    def stop(self) -> None:
        """Finishes the items in work and ends the threads."""
        for worker in (self._first, self._second):
            if worker.stop():
                self._dropped()

    def _hand_on(self, item: Item) -> None:
        prepared = self._prepare(item)
        if prepared is not None and self._second.put(prepared):
            self._dropped()
