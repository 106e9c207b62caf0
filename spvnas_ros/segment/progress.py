"""A long run as its user sees it: a progress bar, and Ctrl-C that loses nothing."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""


@dataclass(frozen=True)
class Skipped:
    """A frame that could not be labelled, and why."""

    name: str
    reason: str


OnFrame = Callable[[Skipped | None], None]
"""Is called after each frame: with the reason where the frame was skipped, else with None."""


@contextmanager
def progress_bars(count: int, *doing: str) -> Iterator[list[OnFrame]]:
    """Shows a bar for each thing that is done with `count` frames, on stderr where that is a terminal.

    A bar appears with its first frame, the first bar at once. Skipped frames are told in any case.
    """
    console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        tasks = [
            progress.add_task(each, total=count, start=each is doing[0], visible=each is doing[0]) for each in doing
        ]

        def advance(task: TaskID, skipped: Skipped | None) -> None:
            if skipped:
                progress.console.print(f"skipped {skipped.name}: {skipped.reason}")
            progress.start_task(task)
            progress.update(task, advance=1, visible=True)

        yield [partial(advance, task) for task in tasks]


@contextmanager
def run_progress(count: int) -> Iterator[tuple[OnFrame, OnFrame, Callable[[str, int, int], None]]]:
    """Shows bars as `progress_bars` does, for labelling and writing, and one for the steps of a frame in tiles.

    The third function takes what is done, how much of it, and of how much; it goes when that is done.
    """
    console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        labelling = progress.add_task("labelling", total=count)
        writing = progress.add_task("writing", total=count, start=False, visible=False)
        steps: dict[str, TaskID] = {}

        def advance(task: TaskID, skipped: Skipped | None) -> None:
            if skipped:
                progress.console.print(f"skipped {skipped.name}: {skipped.reason}")
            progress.start_task(task)
            progress.update(task, advance=1, visible=True)

        def step(doing: str, done: int, total: int) -> None:
            if doing not in steps:
                steps[doing] = progress.add_task(doing, total=total or None)
            finished = bool(total) and done >= total
            progress.update(steps[doing], completed=done, total=total or None, visible=not finished)
            if finished:
                progress.remove_task(steps.pop(doing))

        yield partial(advance, labelling), partial(advance, writing), step


@contextmanager
def progress_bar(count: int, doing: str = "labelling") -> Iterator[OnFrame]:
    """Shows one bar, as `progress_bars` does."""
    with progress_bars(count, doing) as (on_frame,):
        yield on_frame


@contextmanager
def stop_on_signal() -> Iterator[threading.Event]:
    """Sets an event on Ctrl-C or SIGTERM: the run ends after the frame at hand. A second signal ends it at once."""
    stopped = threading.Event()

    def stop(number: int, _: object) -> None:
        stopped.set()
        signal.signal(number, before[signal.Signals(number)])

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
