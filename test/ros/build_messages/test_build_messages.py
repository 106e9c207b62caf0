"""vision_msgs and tf2_msgs without ROS: built from our definitions, and understood by everybody else's."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Condition
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from places import HELPERS

pytest.importorskip("rclpy", reason="ROS 2 is not installed; pip install 'spvnas_ros[ros]' brings it")

from rclpy.node import Node
from rclpy.serialization import deserialize_message, serialize_message
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from message_samples import LATCHED, PUBLISHED, message_class, sample, topic
from places import REPOSITORY
from ros_harness import WAIT, Process, ros
from spvnas_ros.ros.build_messages.errors import BuildError, CannotBuild
from spvnas_ros.ros.build_messages.packages import PACKAGES, VISION_MSGS
from spvnas_ros.ros.process.lifetime import spinning

__all__ = ["ros"]  # a fixture

KINDS = [f"{package.name}/{name}" for package in PACKAGES.values() for name in package.type_hashes]
HASHES = {f"{p.name}/{name}": value for p in PACKAGES.values() for name, value in p.type_hashes.items()}


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


@pytest.fixture(scope="module")
def messages() -> str:
    """Both packages, importable; what the build step said."""
    done = build()
    if done.returncode == 3:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stderr
    importlib.invalidate_caches()
    return done.stdout


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


class Inbox(Node):
    """Keeps what comes on the topics of `message_samples.py`."""

    def __init__(self, namespace: str) -> None:
        super().__init__("inbox")
        self._changed = Condition()
        self._messages: dict[str, Any] = {}
        for kind in PUBLISHED:
            self.create_subscription(message_class(kind), topic(namespace, kind), self._keeper(kind), LATCHED)

    def wait(self) -> dict[str, Any]:
        """One message of every kind."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self._messages) == len(PUBLISHED), WAIT), self._messages.keys()
            return dict(self._messages)

    def _keeper(self, kind: str) -> Any:
        def keep(message: Any) -> None:
            with self._changed:
                self._messages[kind] = message
                self._changed.notify_all()

        return keep


@pytest.fixture
def inbox(messages: str, ros: str) -> Iterator[tuple[Inbox, str]]:  # noqa: ARG001
    node = Inbox(ros)
    with Process(sys.executable, str(HELPERS / "message_samples.py"), ros), spinning(node):
        yield node, ros


def test_messages_cross_between_processes_with_every_field(inbox: tuple[Inbox, str]) -> None:
    node, namespace = inbox
    received = node.wait()
    for kind in PUBLISHED:
        assert received[kind] == sample(kind, seed=0)
        assert received[kind] != sample(kind, seed=1)
        # What other nodes on the network are told the type is.
        (publisher,) = node.get_publishers_info_by_topic(topic(namespace, kind))
        assert bytes(publisher.topic_type_hash.value).hex() == HASHES[kind]


PUBLISHES_AND_SUBSCRIBES = """
from rclpy.node import Node
from std_msgs.msg import String
from message_samples import LATCHED, PUBLISHED, message_class, sample, topic
from spvnas_ros.ros.process.lifetime import ros_process

with ros_process([]):
    node = Node("quiet")
    for kind in PUBLISHED:
        node.create_publisher(message_class(kind), topic("quiet", kind), LATCHED).publish(sample(kind, seed=0))
        node.create_subscription(String, "text", print, LATCHED)
    print("published")
"""


@pytest.mark.usefixtures("messages", "ros")
def test_publishing_leaves_no_error_for_the_next_subscription_to_print() -> None:
    environment = os.environ | {"PYTHONPATH": str(HELPERS)}
    command = (sys.executable, "-c", PUBLISHES_AND_SUBSCRIBES)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=WAIT, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "published\n", "")


@pytest.fixture(scope="module")
def typestore() -> Any:
    """rosbags with our definitions; it has one of its own for tf2_msgs."""
    store = get_typestore(Stores.ROS2_KILTED)
    for definition in VISION_MSGS.definitions:
        store.register(get_types_from_msg(definition.read_text(), f"vision_msgs/msg/{definition.stem}"))
    return store


@pytest.mark.parametrize("kind", KINDS)
def test_an_independent_implementation_computes_the_same_hashes(typestore: Any, kind: str) -> None:
    package, name = kind.split("/")
    assert typestore.hash_rihs01(f"{package}/msg/{name}") == f"RIHS01_{HASHES[kind]}"


def plain(message: Any) -> Any:
    """A message of rclpy or rosbags as lists and dictionaries."""
    if isinstance(message, np.ndarray):
        return message.tolist()
    if isinstance(message, list):
        return [plain(part) for part in message]
    if hasattr(message, "get_fields_and_field_types"):
        return {name: plain(getattr(message, name)) for name in message.get_fields_and_field_types()}
    if hasattr(message, "__msgtype__"):
        return {name: plain(value) for name, value in vars(message).items() if not name.startswith("__")}
    return message


@pytest.mark.usefixtures("messages")
@given(kind=st.sampled_from(KINDS), seed=st.integers(0, 2**32 - 1))
def test_serialised_messages_are_the_same_for_rosbags(typestore: Any, kind: str, seed: int) -> None:
    message = sample(kind, seed)
    package, name = kind.split("/")
    type_name = f"{package}/msg/{name}"
    read = typestore.deserialize_cdr(serialize_message(message), type_name)
    assert plain(read) == plain(message)
    back = bytes(typestore.serialize_cdr(read, type_name))
    assert deserialize_message(back, message_class(kind)) == message


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
    assert "unknown package sensor_msgs; there are vision_msgs, tf2_msgs" in done.stderr
