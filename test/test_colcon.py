"""The package as ROS and pip install it: colcon knows it, and its commands are where `ros2 run` and a shell look."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from places import REPOSITORY

PARTS = (
    "spvnas_ros",
    "config",
    "launch",
    "resource",
    "rviz",
    "scripts",
    "package.xml",
    "setup.py",
    "setup.cfg",
    "pyproject.toml",
)

SHARED = (
    "package.xml",
    "config/fastdds_shm.xml",
    "config/segmenter.param.yaml",
    "launch/segment.launch.py",
    "launch/replay.launch.py",
    "rviz/segment.rviz",
)
COMMANDS = {"spvnas", "segmenter_node", "bag_player"}

needs_colcon = pytest.mark.skipif(
    shutil.which("colcon") is None, reason="colcon is not installed; pip install colcon-common-extensions brings it"
)


def run(*command: str, cwd: Path, environment: dict[str, str] | None = None) -> str:
    """Run a command that must succeed; returns its output."""
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package alone, as in `src/` of a ROS workspace."""
    workspace = tmp_path_factory.mktemp("workspace")
    source = workspace / "src" / "spvnas_ros"
    source.mkdir(parents=True)
    for part in PARTS:
        if (REPOSITORY / part).is_dir():
            shutil.copytree(REPOSITORY / part, source / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(REPOSITORY / part, source)
    for extra in ("LICENSE", "README.md"):
        if (REPOSITORY / extra).is_file():
            shutil.copy(REPOSITORY / extra, source)
    return workspace


def without_weights(command: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Start an installed node that cannot run."""
    arguments = [str(command), "--ros-args", "-p", "weights:=nowhere.safetensors"]
    return subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=120, check=False)


def check_installed(prefix: Path, python_path: Path) -> None:
    """The commands and shared files under a prefix are there and work."""
    share = prefix / "share" / "spvnas_ros"
    assert (prefix / "share" / "ament_index" / "resource_index" / "packages" / "spvnas_ros").is_file()
    for file in SHARED:
        assert (share / file).is_file(), file
    assert list((share / "config" / "train").glob("*.yaml"))
    assert {command.name for command in (prefix / "lib" / "spvnas_ros").iterdir()} >= COMMANDS

    environment = os.environ | {
        "PYTHONPATH": str(python_path),
        "AMENT_PREFIX_PATH": str(prefix),
        "ROS_DOMAIN_ID": "101",
    }
    commands = prefix / "lib" / "spvnas_ros"
    assert "Label LiDAR clouds" in run(str(commands / "spvnas"), "--help", cwd=prefix, environment=environment)
    where = "import spvnas_ros.ros.process.transport as t; print(t.__file__, t.share_file('config/fastdds_shm.xml'))"
    code, profile = run(sys.executable, "-c", where, cwd=prefix, environment=environment).split()
    if (share / "config" / "fastdds_shm.xml").is_symlink():
        assert Path(code).samefile(Path(profile).parent.parent / "spvnas_ros" / "ros" / "process" / "transport.py")
    else:
        assert Path(code).is_relative_to(prefix)
        assert Path(profile).samefile(share / "config" / "fastdds_shm.xml")

    definitions = "import spvnas_ros.ros.build_messages.packages as p; print(len(p.VISION_MSGS.definitions))"
    assert run(sys.executable, "-c", definitions, cwd=prefix, environment=environment) == "7\n"

    pytest.importorskip("rclpy", reason="ROS 2 is not installed; the installed node cannot be started")
    node = without_weights(commands / "segmenter_node", environment)
    assert node.returncode == 1, node.stderr
    assert "cannot start: there is no file nowhere.safetensors" in node.stderr
    assert "Traceback" not in node.stderr


@needs_colcon
def test_colcon_sees_a_ros_package(workspace: Path) -> None:
    listed = run("colcon", "--log-base", str(workspace / "log"), "list", cwd=workspace)
    assert listed.split() == ["spvnas_ros", "src/spvnas_ros", "(ros.ament_python)"]


@needs_colcon
@pytest.mark.parametrize("arguments", [[], ["--symlink-install"]], ids=["plain", "symlinks"])
def test_colcon_builds_an_installation_that_runs(workspace: Path, arguments: list[str]) -> None:
    name = "-".join(["install", *arguments])
    run(
        *("colcon", "--log-base", str(workspace / "log"), "build", "--build-base", str(workspace / f"build-{name}")),
        *("--install-base", str(workspace / name), *arguments),
        cwd=workspace,
    )
    prefix = workspace / name / "spvnas_ros"
    site_packages = prefix / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    check_installed(prefix, site_packages if not arguments else workspace / "src" / "spvnas_ros")


def test_pip_installs_commands_for_the_shell_and_for_ros2_run(workspace: Path) -> None:
    prefix = workspace / "pip"
    run(
        *(sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--no-index", "--quiet"),
        *("--ignore-installed", "--prefix", str(prefix), str(workspace / "src" / "spvnas_ros")),
        cwd=workspace,
    )
    site_packages = next(prefix.glob("lib/python*/site-packages"))
    check_installed(prefix, site_packages)
    environment = os.environ | {"PYTHONPATH": str(site_packages)}
    assert "Label LiDAR clouds" in run(str(prefix / "bin" / "spvnas"), "--help", cwd=prefix, environment=environment)
    assert (prefix / "bin" / "segmenter_node").is_file()


def test_the_package_says_what_it_needs() -> None:
    package = ElementTree.parse(REPOSITORY / "package.xml").getroot()
    assert package.get("format") == "3"
    assert package.findtext("export/build_type") == "ament_python"
    needed = {entry.text for entry in package.iterfind("exec_depend")}
    assert {
        "rclpy",
        "sensor_msgs",
        "sensor_msgs_py",
        "std_msgs",
        "vision_msgs",
        "tf2_msgs",
        "launch",
        "launch_ros",
    } <= needed
