"""The `spvnas` command, run in this process or in one of its own."""

from __future__ import annotations

import sys
from pathlib import Path

from click.testing import Result
from typer.testing import CliRunner

from spvnas_ros.cli import app

SPVNAS = str(Path(sys.executable).with_name("spvnas"))


def spvnas(*arguments: object) -> Result:
    """What the command gave; an exception that it does not turn into a sentence is raised."""
    result = CliRunner().invoke(app, [*map(str, arguments)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def segmented(*arguments: object) -> tuple[int, str, str]:
    """Status, stdout and stderr of `spvnas segment`."""
    result = spvnas("segment", *arguments)
    return result.exit_code, result.stdout, result.stderr
