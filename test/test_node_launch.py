"""The launch file. Without launch (it is not on PyPI) only what can be read from it is checked."""

from __future__ import annotations

import ast
import runpy

import pytest

from conftest import REPOSITORY

FILE = REPOSITORY / "launch" / "segment.launch.py"
ARGUMENTS = ["points", "weights", "device", "autostart", "params_file", "namespace", "use_sim_time"]


def test_the_launch_file_is_python_and_offers_its_arguments() -> None:
    tree = ast.parse(FILE.read_text(), str(FILE))
    compile(tree, str(FILE), "exec")
    assigned = {
        target.id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    table = assigned["ARGUMENTS"]
    assert isinstance(table, ast.Tuple)
    assert [ast.literal_eval(row.elts[0]) for row in table.elts if isinstance(row, ast.Tuple)] == ARGUMENTS
    assert "generate_launch_description" in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_launch_starts_one_node_with_what_was_given() -> None:
    pytest.importorskip("launch_ros", reason="launch is not installed (it comes with ROS, not from PyPI)")
    from launch import LaunchContext

    module = runpy.run_path(str(FILE))
    description = module["generate_launch_description"]()
    assert [argument.name for argument in description.get_launch_arguments()] == ARGUMENTS
    context = LaunchContext()
    context.launch_configurations.update({name: default for name, default, _ in module["ARGUMENTS"]})
    (node,) = module["segmenter"](context)
    assert node.node_executable == "segmenter_node"
