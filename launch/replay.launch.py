"""Evaluate a bag in real time: play it through the live node, print and keep the report, and end with it.

ros2 launch spvnas_ros replay.launch.py bag:=drive out:=runs/drive

The same as `spvnas replay BAG`; what an earlier run left in `out` is replaced.
"""

from collections.abc import Mapping

from launch.actions import ExecuteProcess, Shutdown
from launch_ros.substitutions import ExecutableInPackage

from launch import Action, LaunchDescription
from spvnas_ros.ros.launching import launched
from spvnas_ros.ros.launching.description import launch_description
from spvnas_ros.ros.process.transport import PACKAGE


def generate_launch_description() -> LaunchDescription:
    """Called by launch."""
    return launch_description(launched.replay_arguments(), processes)


def processes(given: Mapping[str, str]) -> list[Action]:
    """The evaluation, which sets the middleware up itself and starts the node as a process of its own."""
    spvnas = ExecutableInPackage(executable="spvnas", package=PACKAGE)
    return [
        ExecuteProcess(
            cmd=[spvnas, *launched.replay(given)],
            name="replay",
            output="screen",
            on_exit=Shutdown(reason="the replay has ended"),
        )
    ]
