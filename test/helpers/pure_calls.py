"""Functions for workers to carry out."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from spvnas_ros.errors import UserError


def square(number: float) -> float:
    """A result."""
    return number * number


def chat(number: int) -> int:
    """A result, and words on stdout that are none."""
    print("not a reply", flush=True)
    os.system("echo nor this")
    return number


def where(_: Any) -> int:
    """The worker's process id."""
    return os.getpid()


def die_once(argument: dict[str, Any]) -> float:
    """Kills its worker for every number of `deadly`, the first time only; a file in `folder` remembers it."""
    number, mark = argument["number"], Path(argument["folder"]) / str(argument["number"])
    if number in argument["deadly"] and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return float(number) / 3


def die(_: Any) -> None:
    """Kills its worker."""
    os.kill(os.getpid(), signal.SIGKILL)


def refuse(word: str) -> None:
    """A mistake of the user's."""
    raise UserError(f"{word} is no number")


def blunder(_: Any) -> float:
    """A fault of the program's."""
    return 1 / 0


def wait_for(path: str) -> str:
    """Says in a file that it works, and works until it is killed."""
    Path(path).write_text(str(os.getpid()))
    while True:
        time.sleep(60)
