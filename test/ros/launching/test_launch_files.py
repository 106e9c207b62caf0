"""What the launch files start. What needs launch itself, which is not on PyPI, is skipped where it is not installed."""

from __future__ import annotations

import ast
import runpy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from places import REPOSITORY
from spvnas_ros.ros.launching import launched
from spvnas_ros.ros.launching.launched import Argument, LaunchArgumentError

FILES = {
    REPOSITORY / "launch" / "segment.launch.py": launched.segment_arguments(),
    REPOSITORY / "launch" / "replay.launch.py": launched.replay_arguments(),
}
both = pytest.mark.parametrize(("file", "arguments"), FILES.items(), ids=[file.name for file in FILES])


def segment(**given: str) -> dict[str, str]:
    return {each.name: each.default for each in launched.segment_arguments()} | given


def replay(**given: str) -> dict[str, str]:
    return {each.name: each.default for each in launched.replay_arguments()} | given


def test_the_arguments_are_those_that_a_vehicle_needs() -> None:
    names = {each.name for each in launched.segment_arguments()}
    assert names >= {"points", "weights", "device", "params_file", "namespace", "rviz", "use_sim_time", "bag"}
    for arguments in FILES.values():
        assert all(each.text for each in arguments)


def test_by_default_the_parameter_file_speaks_and_nothing_but_the_node_starts() -> None:
    node = launched.segmenter(segment())
    (file,) = node.parameter_files
    assert Path(file).samefile(REPOSITORY / "config" / "segmenter.param.yaml")
    assert node.parameters == {"use_sim_time": False}
    assert node.remappings == (("~/input/points", "/points"),)
    assert launched.player(segment()) is None
    assert launched.viewer(segment()) is None


def test_arguments_become_parameters_of_their_type() -> None:
    node = launched.segmenter(
        segment(
            points="/velodyne_points",
            weights="1e3",
            device="cuda:0",
            precision="fp16",
            autostart="False",
            namespace="car",
            track="yes",
        )
    )
    flags = {"autostart": False, "use_sim_time": False, "objects.track": True}
    assert node.parameters == {"weights": "1e3", "device": "cuda:0", "precision": "fp16"} | flags
    assert node.remappings == (("~/input/points", "/velodyne_points"),)
    assert (node.namespace, node.name) == ("car", "segmenter")


def test_a_bag_gives_the_clock_where_the_node_takes_it_from_there() -> None:
    player = launched.player(segment(bag="/data/drive", rate="2"))
    assert player is not None
    assert player.arguments == ("/data/drive", "--rate", "2")
    with_clock = launched.player(segment(bag="/data/drive", use_sim_time="true"))
    assert with_clock is not None
    assert "--clock" in with_clock.arguments
    assert (REPOSITORY / "scripts" / player.executable).is_file()


def test_rviz_follows_points_and_namespace() -> None:
    if not (REPOSITORY / launched.RVIZ_CONFIG).is_file():
        pytest.skip(f"{launched.RVIZ_CONFIG} is not there")
    shown = (REPOSITORY / launched.RVIZ_CONFIG).read_text()
    viewer = launched.viewer(segment(rviz="true", namespace="/car/", points="/top/points", use_sim_time="true"))
    assert viewer is not None
    assert viewer.arguments == ("-d", str(REPOSITORY / launched.RVIZ_CONFIG))
    assert viewer.parameters == {"use_sim_time": True}
    remapped = dict(viewer.remappings)
    assert remapped["/points"] == "/top/points"
    assert remapped["/segmenter/output/colored_points"] == "/car/segmenter/output/colored_points"
    assert all(topic in shown for topic in remapped)


def test_the_replay_is_a_command_of_ours() -> None:
    from typer.testing import CliRunner

    from spvnas_ros.cli import app

    given = replay(
        bag="nowhere", weights="default", engine="cpu", truth="label", label_ids="class", network_labels="yes"
    )
    command = launched.replay(given)
    assert command[:2] == ("replay", "nowhere")
    for option, value in (("--engine", "cpu"), ("--truth", "label"), ("--label-ids", "class")):
        assert command[command.index(option) + 1] == value
    assert command[-1] == "--network-labels"
    assert "--network-labels" not in launched.replay(given | {"network_labels": "false"})
    pytest.importorskip("rclpy", reason="ROS 2 is not installed; the replay says so before it looks for the bag")
    result = CliRunner().invoke(app, list(command))
    assert result.exit_code == 1
    assert "nowhere" in result.stderr


@pytest.mark.parametrize(
    ("build", "given", "said"),
    [
        (launched.segmenter, segment(use_sim_time="maybe"), "use_sim_time is 'maybe', expected true or false"),
        (launched.viewer, segment(rviz="2"), "rviz is '2', expected true or false"),
        (launched.player, segment(bag="drive", rate="fast"), "rate is 'fast', expected a number above 0"),
        (launched.player, segment(bag="drive", rate="0"), "rate is '0', expected a number above 0"),
        (launched.replay, replay(weights="default"), "bag is missing; add bag:=..."),
    ],
)
def test_arguments_that_cannot_be_are_named(build: Any, given: Mapping[str, str], said: str) -> None:
    with pytest.raises(LaunchArgumentError) as refused:
        build(given)
    assert str(refused.value) == said


@both
def test_launch_files_use_nothing_of_the_package_that_is_not_there(file: Path, arguments: tuple[Argument, ...]) -> None:
    tree = ast.parse(file.read_text(), str(file))
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "launched"
    }
    assert used
    assert [name for name in used if not hasattr(launched, name)] == []
    assert "generate_launch_description" in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert len({each.name for each in arguments}) == len(arguments)


@both
def test_launch_takes_the_files(file: Path, arguments: tuple[Argument, ...]) -> None:
    pytest.importorskip("launch_ros", reason="launch is not installed (it comes with ROS, not from PyPI)")
    from launch import LaunchContext

    module = runpy.run_path(str(file))
    description = module["generate_launch_description"]()
    assert [each.name for each in description.get_launch_arguments()] == [each.name for each in arguments]
    context = LaunchContext()
    given = {each.name: each.default for each in arguments} | {"bag": "drive", "weights": "default"}
    context.launch_configurations.update(given)
    assert description.entities[-1].execute(context)
