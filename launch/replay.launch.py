"""Evaluates a bag in real time: plays it through the live node, prints and keeps the report, and then ends.

ros2 launch spvnas_ros replay.launch.py bag:=drive out:=runs/drive

This does the same as `spvnas replay BAG`. It replaces what an earlier run left in `out`.
"""

from collections.abc import Mapping

from launch.actions import ExecuteProcess, Shutdown
from launch_ros.substitutions import ExecutableInPackage

from launch import Action, LaunchDescription
from spvnas_ros.ros.launching import launched
from spvnas_ros.ros.launching.description import launch_description
from spvnas_ros.ros.process.transport import PACKAGE


def generate_launch_description() -> LaunchDescription:
    """Returns the launch description. `ros2 launch` calls this."""
    return launch_description(launched.replay_arguments(), processes)


def processes(given: Mapping[str, str]) -> list[Action]:
    """Returns the evaluation. It sets up the middleware itself and starts the node as a process of its own."""
    spvnas = ExecutableInPackage(executable="spvnas", package=PACKAGE)
    return [
        ExecuteProcess(
            cmd=[spvnas, *launched.replay(given)],
            name="replay",
            output="screen",
            on_exit=Shutdown(reason="the replay has ended"),
        )
    ]
