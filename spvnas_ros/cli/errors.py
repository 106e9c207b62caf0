"""The one place where errors become sentences."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextvars import ContextVar
from typing import ParamSpec, TypeVar

import typer

from spvnas_ros.errors import UserError

_INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""

Given = ParamSpec("Given")
Result = TypeVar("Result")

debugging: ContextVar[bool] = ContextVar("debugging", default=False)
"""Whether `spvnas --debug` was asked for; the command line sets it before a command runs."""


def _said(error: Exception) -> str:
    """Returns an error in words; of the system's with the file in front, and without its number."""
    if not isinstance(error, OSError) or error.filename is None or not error.strerror:
        return str(error)
    places = " and ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
    return f"{places}: {error.strerror}; name another file or folder, or see what keeps this one from being used"


def readable_errors(command: Callable[Given, Result]) -> Callable[Given, Result]:
    """Ends a command with one sentence on stderr and status 1 where it meets an error that the user can mend.

    Those are the project's named errors, all of them UserErrors, and the system's OSErrors. Any other error is a fault
    of the program and keeps its traceback. Ctrl-C ends it with a line and status 130. `spvnas --debug` shows every
    traceback.
    """

    @functools.wraps(command)
    def run(*args: Given.args, **options: Given.kwargs) -> Result:
        try:
            return command(*args, **options)
        except KeyboardInterrupt as interrupt:
            if debugging.get():
                raise
            typer.echo(": ".join(("spvnas: interrupted", *map(str, interrupt.args))), err=True)
            raise typer.Exit(_INTERRUPTED) from None
        except (UserError, OSError) as error:
            if debugging.get():
                raise
            typer.echo(f"spvnas: {_said(error)}", err=True)
            raise typer.Exit(1) from error

    return run
