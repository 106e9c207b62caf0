"""The launch file under launch_testing, where launch is installed: `segmenter_launch.py` has what is tested.

As a program of its own, not by launch_testing's plugin: that one takes over how pytest collects all other tests.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from places import HELPERS

pytest.importorskip("rclpy", reason="ROS 2 is not installed; pip install 'spvnas_ros[ros]' brings it")
pytest.importorskip("launch_testing", reason="launch_testing is not installed (it comes with ROS, not from PyPI)")
pytest.importorskip("launch_ros", reason="launch_ros is not installed (it comes with ROS, not from PyPI)")

from ament_index_python.packages import PackageNotFoundError, get_package_prefix

from ros_harness import private_domain, weights

__all__ = ["weights"]  # fixture


def test_launch_walks_the_states_and_a_cloud_comes_back(weights: Path, tmp_path: Path) -> None:
    try:
        get_package_prefix("spvnas_ros")
    except PackageNotFoundError:
        pytest.skip("spvnas_ros is not installed where ROS looks; build it with colcon, and source the workspace")
    # The reference engine: the other compiles its kernels first, once on a machine.
    parameters = tmp_path / "engine.param.yaml"
    parameters.write_text("/**:\n  ros__parameters:\n    engine: torch\n")
    with private_domain() as namespace:
        environment = os.environ | {"NAMESPACE": namespace, "WEIGHTS": str(weights), "PARAMETERS": str(parameters)}
        command = [sys.executable, "-m", "launch_testing.launch_test", str(HELPERS / "segmenter_launch.py")]
        done = subprocess.run(
            command, cwd=HELPERS, env=environment, capture_output=True, text=True, timeout=300, check=False
        )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "Ran 1 test" in done.stderr + done.stdout
