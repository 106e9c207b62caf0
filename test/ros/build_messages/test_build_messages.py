"""vision_msgs and tf2_msgs are built without ROS, and what keeps them from it is named."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed; pip install 'spvnas_ros[ros]' brings it")

from message_builds import build
from places import REPOSITORY
from ros_harness import Process
from spvnas_ros.ros.build_messages.errors import BuildError, CannotBuild
from spvnas_ros.ros.build_messages.packages import VISION_MSGS


@pytest.fixture(scope="module")
def prefix(messages: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prefix into which two processes built tf2_msgs at the same time, over what a killed build left."""
    if "tf2_msgs: provided" in messages:
        pytest.skip("ROS provides tf2_msgs; nothing is built")
    prefix = tmp_path_factory.mktemp("prefix")
    left = prefix / ".building-tf2_msgs" / "tf2_msgs" / "msg"
    left.mkdir(parents=True)
    (left / "Half.json").write_text("{")
    command = (sys.executable, "-m", "spvnas_ros.ros.build_messages", "tf2_msgs", "--prefix", str(prefix))
    with Process(*command) as first, Process(*command) as second:
        assert (first.wait(), second.wait()) == (0, 0), first.output + second.output
        outputs = sorted((first.output, second.output))
    assert outputs[0].startswith("tf2_msgs: built in")
    assert outputs[1] == "tf2_msgs: up to date\n"
    return prefix


def test_two_builds_at_once_leave_one_whole_package(prefix: Path) -> None:
    assert not list(prefix.glob(".building-*/**"))
    code = "import tf2_msgs.msg; print(tf2_msgs.__file__, tf2_msgs.msg.TFMessage().transforms)"
    (site_packages,) = prefix.glob("lib/python*/site-packages")
    environment = os.environ | {"PYTHONPATH": str(site_packages)}
    printed = subprocess.check_output([sys.executable, "-c", code], env=environment, text=True)
    assert printed == f"{site_packages}/tf2_msgs/__init__.py []\n"
    share = prefix / "share"
    assert sorted(path.name for path in (share / "tf2_msgs" / "msg").iterdir()) == [
        "TFMessage.idl",
        "TFMessage.json",
        "TFMessage.msg",
    ]
    assert (share / "tf2_msgs" / "package.xml").is_file()
    index = share / "ament_index" / "resource_index"
    assert (index / "packages" / "tf2_msgs").is_file()
    assert (index / "rosidl_interfaces" / "tf2_msgs").read_text().split() == ["msg/TFMessage.idl", "msg/TFMessage.msg"]


def test_nothing_is_built_again_and_no_compiler_is_needed(prefix: Path, tmp_path: Path) -> None:
    def times() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in prefix.rglob("*") if path.suffix != ".pyc"}

    before = times()
    done = build("tf2_msgs", "--prefix", prefix, PATH=str(tmp_path))
    assert (done.returncode, done.stdout) == (0, "tf2_msgs: up to date\n")
    assert times() == before


def test_a_build_from_something_else_is_not_up_to_date(prefix: Path, tmp_path: Path) -> None:
    (stamp,) = prefix.glob("lib/python*/site-packages/tf2_msgs/built_by_spvnas_ros")
    built_from = stamp.read_text()
    stamp.write_text("something else")
    done = build("tf2_msgs", "--prefix", prefix, PATH=str(tmp_path))
    stamp.write_text(built_from)
    assert done.returncode == 3, done.stdout


def installed(prefix: Path) -> list[Path]:
    """What is under a prefix, but for locks."""
    return [path for path in prefix.rglob("*") if path.suffix != ".lock"]


@pytest.mark.usefixtures("prefix")
@pytest.mark.parametrize(
    ("environment", "compiler"),
    [({}, "gcc"), ({"CC": "/no/such/cc"}, "/no/such/cc"), ({"CC": sys.executable}, "g++")],
    ids=["none", "named", "half"],
)
def test_a_missing_compiler_is_named(tmp_path: Path, environment: dict[str, str], compiler: str) -> None:
    (empty := tmp_path / "bin").mkdir()
    prefix = tmp_path / "prefix"
    done = build("tf2_msgs", "--prefix", prefix, PATH=str(empty), **environment)
    assert done.returncode == 3
    assert done.stderr.startswith(f"build_messages: tf2_msgs: there is no compiler {compiler} on the PATH; install one")
    assert not installed(prefix)


def test_missing_python_headers_are_named(tmp_path: Path) -> None:
    from spvnas_ros.ros.build_messages.toolchain import Toolchain

    with pytest.raises(CannotBuild, match=r"there is no .*/Python\.h; install Python's header files"):
        Toolchain.find(headers=tmp_path)


@pytest.mark.usefixtures("prefix")
def test_a_compiler_that_fails_is_quoted_and_nothing_installed(tmp_path: Path) -> None:
    compiler = tmp_path / "cc"
    compiler.write_text("#!/bin/sh\necho no memory left >&2\nexit 7\n")
    compiler.chmod(0o755)
    prefix = tmp_path / "prefix"
    done = build("tf2_msgs", "--prefix", prefix, CC=str(compiler))
    assert done.returncode == 1
    assert "ended with status 7:\nno memory left" in done.stderr
    assert "Traceback" not in done.stderr
    assert not [path for path in installed(prefix) if path != prefix]


@pytest.mark.parametrize(
    ("environment", "advice"),
    [({}, "pip install 'spvnas_ros[ros]'"), ({"ROS_DISTRO": "kilted"}, "apt install ros-kilted-tf2-msgs")],
    ids=["pip", "distribution"],
)
def test_missing_generators_are_named(tmp_path: Path, environment: dict[str, str], advice: str) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    done = build("tf2_msgs", python=python, PYTHONPATH=str(REPOSITORY), **environment)
    assert done.returncode == 3
    assert advice in done.stderr


def test_packages_that_ros_provides_are_left_alone(tmp_path: Path) -> None:
    provided = tmp_path / "opt" / "vision_msgs"
    provided.mkdir(parents=True)
    (provided / "__init__.py").touch()
    prefix = tmp_path / "prefix"
    done = build("vision_msgs", "--prefix", prefix, PYTHONPATH=str(provided.parent))
    assert (done.returncode, done.stdout) == (0, "vision_msgs: provided by this Python's own ROS; nothing to build\n")
    assert not prefix.exists()


@pytest.mark.usefixtures("prefix")
def test_a_type_that_others_would_not_understand_is_an_error(tmp_path: Path) -> None:
    from spvnas_ros.ros.build_messages.generate import generate

    other = MappingProxyType({**VISION_MSGS.type_hashes, "LabelInfo": "0" * 64})
    with pytest.raises(BuildError, match=r"vision_msgs/msg/LabelInfo has type hash 3d37df.*, expected 0000"):
        generate(replace(VISION_MSGS, type_hashes=other), Path(sys.prefix), tmp_path)


def test_unknown_packages_are_refused() -> None:
    done = build("sensor_msgs")
    assert done.returncode == 2
    assert "unknown package sensor_msgs; there are vision_msgs, tf2_msgs, point_cloud_interfaces, livox" in done.stderr


def test_a_distribution_without_a_sensors_messages_is_told_and_goes_on(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    for name in ("vision_msgs", "tf2_msgs", "point_cloud_interfaces"):
        (tmp_path / "opt" / name).mkdir(parents=True)
        (tmp_path / "opt" / name / "__init__.py").touch()
    python = tmp_path / "venv" / "bin" / "python"
    environment = {"PYTHONPATH": os.pathsep.join((str(tmp_path / "opt"), str(REPOSITORY))), "ROS_DISTRO": "jazzy"}
    done = build(python=python, **environment)
    assert done.returncode == 0, done.stderr
    assert "livox_ros_driver2: not built, and only some sensors need it" in done.stdout
    named = build("livox_ros_driver2", python=python, **environment)
    assert named.returncode == 3
    assert "source the workspace of Livox's driver" in named.stderr
