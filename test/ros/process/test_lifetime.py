"""SIGINT and SIGTERM end the node at any moment, with status 0."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from threading import Event

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed; pip install 'spvnas_ros[ros]' brings it")


from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState

from places import REPOSITORY
from ros_control import operating
from ros_harness import Process, eventually, private_domain, ros, segmenter_with, weights

__all__ = ["ros", "weights"]  # fixtures

WRAPPER = REPOSITORY / "scripts" / "segmenter_node"

linux = pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="there is no /proc here")
env_blocks = pytest.mark.skipif(
    not shutil.which("env") or subprocess.run(["env", "--block-signal=INT", "true"], capture_output=True).returncode,
    reason="env here cannot block signals (GNU coreutils from 8.31 on can)",
)


def blocked(pid: int) -> bool:
    """Whether the program behind the wrapper has SIGINT blocked. Its shell has, too, for a moment as it forks."""
    if Path(f"/proc/{pid}/comm").read_text().strip() == WRAPPER.name:
        return False
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    mask = next(int(line.split()[1], 16) for line in lines if line.startswith("SigBlk"))
    return bool(mask >> (signal.SIGINT - 1) & 1)


@linux
@env_blocks
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_at_any_moment_of_the_start_ends_the_node_with_status_0(number: int, weights: Path) -> None:
    """From when Python itself is started, over all imports and the network, until clouds are awaited."""
    rng = np.random.default_rng(number)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    # Most within the imports, some later; the first before Python has begun.
    for delay in (0.0, *rng.uniform(0, 0.7, 2), *rng.uniform(0.7, 4, 1)):
        with private_domain() as namespace:
            child = subprocess.Popen(
                [WRAPPER, "--ros-args", "-r", f"__ns:={namespace}", "-p", f"weights:={weights}"],
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | {"PATH": path},
            )  # fmt: skip
            assert eventually(lambda: blocked(child.pid))  # noqa: B023
            Event().wait(delay)
            child.send_signal(number)
            output, _ = child.communicate(timeout=60)
        assert child.returncode == 0, f"after {delay:.3f} s:\n{output}"
        assert "Traceback" not in output


IN_A_DESTRUCTOR = """
import os, signal, sys
from rclpy.node import Node
from spvnas_ros.ros.process.lifetime import run

class Last:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)

def make():
    Last()
    print("made", flush=True)
    return Node("late")

sys.exit(run(make, []))
"""


def test_a_signal_that_meets_a_destructor_is_not_lost() -> None:
    """Python swallows what is raised there."""
    with private_domain(), Process(sys.executable, "-c", IN_A_DESTRUCTOR) as node:
        assert node.wait() == 0
    assert "made" in node.output


def test_ctrl_c_breaks_no_compiler_that_the_network_has_started() -> None:
    with private_domain() as namespace, segmenter_with(namespace, "interrupted") as node:
        assert node.wait() == 0, node.output
    assert "warmed up" in node.output
    assert "KeyboardInterrupt" not in node.output
    assert "cannot" not in node.output


def test_a_start_that_takes_long_is_not_waited_for() -> None:
    with private_domain() as namespace, segmenter_with(namespace, "endless") as node:
        node.wait_for("warming up")
        assert node.stop() == 0, node.output
    assert "Traceback" not in node.output


def test_a_transition_that_takes_long_is_not_waited_for(ros: str) -> None:
    with segmenter_with(ros, "endless", autostart=False) as node, operating(ros) as operator:
        change = operator.create_client(ChangeState, f"{ros}/segmenter/change_state")
        assert change.wait_for_service(60)
        change.call_async(ChangeState.Request(transition=Transition(id=Transition.TRANSITION_CONFIGURE)))
        node.wait_for("warming up")
        assert node.stop(signal.SIGTERM) == 0, node.output
    assert "Traceback" not in node.output
