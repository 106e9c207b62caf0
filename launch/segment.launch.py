"""Starts the node that labels clouds, which configures and activates itself; plays a bag and opens RViz if asked to.

ros2 launch spvnas_ros segment.launch.py points:=/velodyne_points weights:=default
ros2 launch spvnas_ros segment.launch.py points:=/points weights:=default bag:=drive use_sim_time:=true rviz:=true

The node is a managed node: with autostart:=false, a lifecycle manager or `ros2 lifecycle set /segmenter configure`
drives it. A bag is played once the node is active. `spvnas_ros.ros.launching.launched` describes what is started.
"""

import os
from collections.abc import Mapping

from launch.actions import RegisterEventHandler, SetEnvironmentVariable
from launch_ros.actions import LifecycleNode, Node
from launch_ros.event_handlers import OnStateTransition
from launch_ros.parameter_descriptions import ParameterValue

from launch import Action, LaunchDescription
from spvnas_ros.ros.launching import launched
from spvnas_ros.ros.launching.description import launch_description
from spvnas_ros.ros.process.transport import cloud_transport


def generate_launch_description() -> LaunchDescription:
    """Returns the launch description. `ros2 launch` calls this."""
    # This also reaches a driver in the same launch. Without it, best-effort clouds get lost.
    transport = (SetEnvironmentVariable(name, value) for name, value in cloud_transport(os.environ).items())
    return launch_description(launched.segment_arguments(), processes, *transport)


def processes(given: Mapping[str, str]) -> list[Action]:
    """Returns what the arguments ask for. A node that starts by itself (autostart) and fails ends with status 1."""
    segmenter = action(LifecycleNode, launched.segmenter(given))
    actions = [segmenter]
    if viewer := launched.viewer(given):
        actions.append(action(Node, viewer))
    if player := launched.player(given):
        play = OnStateTransition(
            target_lifecycle_node=segmenter, goal_state="active", entities=[action(Node, player)], handle_once=True
        )
        # Registered before the node starts, because the node may become active at once.
        actions.insert(0, RegisterEventHandler(play))
    return actions


def action(kind: type[Node], started: launched.Started) -> Node:
    """Returns a launch action that starts this program."""
    parameters = {name: ParameterValue(value, value_type=type(value)) for name, value in started.parameters.items()}
    return kind(
        package=started.package,
        executable=started.executable,
        name=started.name,
        namespace=started.namespace,
        arguments=list(started.arguments),
        parameters=[*started.parameter_files, *([parameters] if parameters else [])],
        remappings=list(started.remappings),
        output="screen",
    )
