"""The build step, as a user runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def build(
    *arguments: str | Path, python: str | Path = sys.executable, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the build step, as a user does."""
    return subprocess.run(
        [python, "-m", "spvnas_ros.ros.build_messages", *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def need_packages(*names: str) -> None:
    """Build message packages, and skip the test where this machine cannot."""
    done = build(*names)
    if done.returncode == 3:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stderr
