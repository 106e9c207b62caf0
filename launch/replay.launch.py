"""Evaluate a bag in real time: play it through the live node, print and keep the report, and end with it.

ros2 launch spvnas_ros replay.launch.py bag:=drive weights:=default out:=runs/drive

The same as `spvnas bag BAG --realtime`; what an earlier run left in `out` is replaced.
"""

from launch.actions import DeclareLaunchArgument, ExecuteProcess, OpaqueFunction, Shutdown
from launch.substitutions import LaunchConfiguration
from launch_ros.substitutions import ExecutableInPackage

from launch import Action, LaunchContext, LaunchDescription
from spvnas_ros.ros import launching
from spvnas_ros.ros.transport import PACKAGE

ARGUMENTS = launching.replay_arguments()


def generate_launch_description() -> LaunchDescription:
    """Called by launch."""
    return LaunchDescription(
        [
            *(
                DeclareLaunchArgument(each.name, default_value=each.default, description=each.text)
                for each in ARGUMENTS
            ),
            OpaqueFunction(function=processes),
        ]
    )


def processes(context: LaunchContext) -> list[Action]:
    """The evaluation, which sets the middleware up itself and starts the node as a process of its own."""
    given = {each.name: LaunchConfiguration(each.name).perform(context) for each in ARGUMENTS}
    spvnas = ExecutableInPackage(executable="spvnas", package=PACKAGE)
    return [
        ExecuteProcess(
            cmd=[spvnas, *launching.replay(given)],
            name="replay",
            output="screen",
            on_exit=Shutdown(reason="the replay has ended"),
        )
    ]
