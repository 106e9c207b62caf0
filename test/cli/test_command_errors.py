"""What all commands have in common: errors as sentences, tracebacks where they help, the version."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import spvnas_ros
from spvnas_cli import SPVNAS, spvnas
from spvnas_ros.cli.errors import readable_errors
from spvnas_ros.errors import UserError


def outcome(error: Exception) -> tuple[int, str, BaseException | None]:
    """Status, stderr and exception of a command that meets the error."""
    app = typer.Typer()

    @app.command()
    @readable_errors
    def command() -> None:
        raise error

    result = CliRunner().invoke(app, [])
    exception = None if isinstance(result.exception, SystemExit) else result.exception
    return result.exit_code, result.stderr, exception


@pytest.mark.parametrize("error", [UserError("the scan is empty"), FileNotFoundError("no such file")])
def test_what_the_user_can_mend_is_a_sentence(error: Exception) -> None:
    assert outcome(error) == (1, f"spvnas: {error}\n", None)


@pytest.mark.parametrize("error", [ValueError("shapes (3,) and (4,)"), KeyError("feats"), AssertionError()])
def test_a_fault_of_the_program_keeps_its_traceback(error: Exception) -> None:
    status, said, exception = outcome(error)
    assert (status, said) == (1, "")
    assert exception is error


def test_debug_shows_the_traceback_of_any_error(tmp_path: Path) -> None:
    command = ["segment", str(tmp_path / "none.bin"), "-o", str(tmp_path / "out")]
    for options, shown in (((), False), (("--debug",), True)):
        done = subprocess.run([SPVNAS, *options, *command], capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert ("Traceback" in done.stderr) == shown
        assert "none.bin does not exist" in done.stderr


def test_an_error_of_the_system_is_a_sentence_with_the_file_and_no_number(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    recipe = tmp_path / "file" / "recipe.yaml"
    for arguments in (("train", recipe), ("search", recipe)):
        done = spvnas(*arguments)
        assert done.exit_code == 1
        assert f"spvnas: {recipe}: Not a directory; name another file or folder" in done.stderr, done.stderr
        assert "Errno" not in done.stderr


def test_the_version_is_the_packages() -> None:
    assert spvnas("--version").stdout == f"spvnas {spvnas_ros.__version__}\n"


def test_inspect_takes_weights_without_the_option_too() -> None:
    named, asked = spvnas("inspect", "default"), spvnas("inspect", "-w", "default")
    assert named.exit_code == 0, named.output
    assert named.stdout == asked.stdout
    twice = spvnas("inspect", "default", "-w", "default")
    assert twice.exit_code == 2
    assert "named twice" in twice.stderr
    assert "spvnas: there is no file other" in spvnas("inspect", "other").stderr.replace("\n", " ")


def test_every_command_takes_weights_by_the_same_option() -> None:
    for command in ("segment", "replay", "view", "evaluate", "calibrate", "doctor", "inspect", "blend"):
        text = spvnas(command, "--help").stdout
        assert "-w, --weights" in " ".join(text.replace("│", " ").split()), command
