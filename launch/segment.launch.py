"""Start the node that labels clouds, and have it configure and activate itself.

ros2 launch spvnas_ros segment.launch.py points:=/velodyne_points weights:=spvcnn_w16.safetensors

It is a managed node: with autostart:=false a lifecycle manager, or `ros2 lifecycle set /segmenter configure`, drives
it.
"""

import os

from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode
from launch_ros.parameter_descriptions import ParameterValue

from launch import LaunchContext, LaunchDescription
from spvnas_ros.ros.transport import cloud_transport, share_file

ARGUMENTS = (
    ("points", "/points", "Topic of the clouds (sensor_msgs/PointCloud2)"),
    ("weights", "", "Checkpoint (.safetensors) or name of a fetched model; empty: as in params_file"),
    ("device", "", "auto, cpu, cuda or cuda:N; empty: as in params_file"),
    ("autostart", "", "Whether the node configures and activates itself; empty: as in params_file"),
    ("params_file", str(share_file("config/segmenter.param.yaml") or ""), "Parameters of the node (YAML)"),
    ("namespace", "", "Namespace of the node"),
    ("use_sim_time", "false", "Take the time from /clock, as when a bag plays"),
)

OVERRIDES = {"weights": str, "device": str, "autostart": bool, "use_sim_time": bool}
"""Arguments that go before the parameter file where they are not empty, and their types."""


def segmenter(context: LaunchContext) -> list[LifecycleNode]:
    """The node. Its process ends with status 1 where it starts by itself and cannot."""
    given = {name: LaunchConfiguration(name).perform(context) for name, _, _ in ARGUMENTS}
    overrides = {
        name: ParameterValue(given[name], value_type=value_type)
        for name, value_type in OVERRIDES.items()
        if given[name]
    }
    return [
        LifecycleNode(
            package="spvnas_ros",
            executable="segmenter_node",
            name="segmenter",
            namespace=given["namespace"],
            parameters=[*filter(None, [given["params_file"]]), overrides],
            remappings=[("~/input/points", given["points"])],
            output="screen",
        )
    ]


def generate_launch_description() -> LaunchDescription:
    """Called by launch."""
    return LaunchDescription(
        [
            *(DeclareLaunchArgument(name, default_value=value, description=text) for name, value, text in ARGUMENTS),
            # Also for the driver, where it is included in the same launch: without it best-effort clouds get lost.
            *(SetEnvironmentVariable(name, value) for name, value in cloud_transport(os.environ).items()),
            OpaqueFunction(function=segmenter),
        ]
    )
