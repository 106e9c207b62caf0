"""Shows a training's progress: a bar in a terminal, else a line from time to time."""

from __future__ import annotations

from time import monotonic

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

_QUIET = 30.0
"""Seconds between two lines where there is no terminal."""


class ProgressLine:
    """Shows steps, loss, score and remaining time on stderr. A context manager.

    steps: of the whole run; `silent` for all processes but the first
    """

    def __init__(self, steps: int, *, silent: bool = False) -> None:
        self._console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False, quiet=silent)
        columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[said]}"))
        self._bar = Progress(*columns, console=self._console, disable=silent or not self._console.is_terminal)
        self._task = self._bar.add_task("training", total=steps, said="")
        self._steps = steps
        self._first, self._begun, self._said = 0, monotonic(), float("-inf")

    def __enter__(self) -> ProgressLine:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def start(self, step: int) -> None:
        """Notes that training begins after this step."""
        self._first, self._begun = step, monotonic()
        self._bar.update(self._task, completed=step)

    def update(self, step: int, loss: float) -> None:
        """Shows that a step is done."""
        pace = (monotonic() - self._begun) / max(step - self._first, 1)
        said = f"loss {loss:.3f}, {pace:.2f} s a step, {_duration(pace * (self._steps - step))} left"
        self._bar.update(self._task, completed=step, said=said)
        if self._bar.disable and (monotonic() - self._said > _QUIET or step == self._steps):
            self._said = monotonic()
            self._console.print(f"step {step}/{self._steps}: {said}")

    def scored(self, step: int, figure: str, score: float | None, best: float | None) -> None:
        """Shows the score of a validation, such as the mIoU; `-` where nothing could be scored."""
        self._console.print(f"step {step}/{self._steps}: validation {figure} {_percent(score)}, best {_percent(best)}")

    def say(self, line: str) -> None:
        """Prints a separate line."""
        self._console.print(line)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
