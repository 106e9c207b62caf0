"""The build step, as a user runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


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
