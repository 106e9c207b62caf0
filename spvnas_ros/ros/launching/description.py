"""Builds a launch description from arguments and processes, for the launch files.

Only the launch files import this file: the package `launch` comes with ROS and is not on PyPI.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration

from launch import Action, LaunchContext, LaunchDescription
from spvnas_ros.ros.launching.launched import Argument


def launch_description(
    arguments: Sequence[Argument], processes: Callable[[Mapping[str, str]], list[Action]], *before: Action
) -> LaunchDescription:
    """Returns a launch description that declares the arguments, runs the actions `before`, and starts the processes.

    processes: makes the actions from the values of the arguments, by name
    """

    def started(context: LaunchContext) -> list[Action]:
        return processes({each.name: LaunchConfiguration(each.name).perform(context) for each in arguments})

    declared = [
        DeclareLaunchArgument(each.name, default_value=each.default, description=each.text) for each in arguments
    ]
    return LaunchDescription([*declared, *before, OpaqueFunction(function=started)])
