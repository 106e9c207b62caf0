"""The messages that we build are understood by everybody else's ROS."""

from __future__ import annotations

import os
import subprocess
import sys
from array import array
from collections.abc import Iterator
from threading import Condition
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
from ros_harness import WAIT, Process, ros
from spvnas_ros.ros.build_messages.packages import PACKAGES, TF2_MSGS
from spvnas_ros.ros.process.lifetime import spinning

__all__ = ["ros"]  # a fixture
KINDS = [f"{package.name}/{name}" for package in PACKAGES.values() for name in package.type_hashes]
HASHES = {f"{p.name}/{name}": value for p in PACKAGES.values() for name, value in p.type_hashes.items()}


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
    for package in PACKAGES.values():
        for definition in package.definitions if package is not TF2_MSGS else ():
            store.register(get_types_from_msg(definition.read_text(), f"{package.name}/msg/{definition.stem}"))
    return store


@pytest.mark.parametrize("kind", KINDS)
def test_an_independent_implementation_computes_the_same_hashes(typestore: Any, kind: str) -> None:
    package, name = kind.split("/")
    assert typestore.hash_rihs01(f"{package}/msg/{name}") == f"RIHS01_{HASHES[kind]}"


def plain(message: Any) -> Any:
    """A message of rclpy or rosbags as lists and dictionaries."""
    if isinstance(message, np.ndarray | array):
        return message.tolist()
    if isinstance(message, list):
        return [plain(part) for part in message]
    if hasattr(message, "get_fields_and_field_types"):
        return {name: plain(getattr(message, name)) for name in message.get_fields_and_field_types()}
    if hasattr(message, "__msgtype__"):
        return {name: plain(value) for name, value in vars(message).items() if name == name.lower().strip("_")}
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
