"""The segmenter as a managed node, driven through its services from another process."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed; pip install 'spvnas_ros[ros]' brings it")

from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter

from ros_control import Operator, operating
from ros_harness import cloud, eventually, exchange, ros, segmenter, segmenter_with, weights
from segmenter_with import counting
from spvnas_ros.perception import Perception
from spvnas_ros.ros.node.segmenter_node import SegmenterNode

__all__ = ["ros", "weights"]  # fixtures


def test_the_states_are_walked_and_clouds_are_labelled_only_while_active(ros: str) -> None:
    clouds, labelled = f"{ros}/segmenter/input/points", f"{ros}/segmenter/output/labeled_points"

    def answers(operator: Operator) -> None:
        assert eventually(lambda: operator.count_subscribers(clouds) == 1)
        with exchange(ros) as asking:
            assert asking.ask(cloud(30, stamp=9)).cloud.width == 30

    with segmenter_with(ros, "counting", autostart=False) as process, operating(ros) as operator:
        assert operator.state() == "unconfigured"
        assert not operator.change("activate"), "there is nothing to activate yet"
        assert operator.state() == "unconfigured"

        assert operator.change("configure")
        assert operator.state() == "inactive"
        assert eventually(lambda: operator.count_publishers(labelled) == 1)
        assert operator.count_subscribers(clouds) == 0

        assert operator.change("activate")
        assert operator.state() == "active"
        answers(operator)

        assert operator.change("deactivate")
        assert operator.state() == "inactive"
        assert eventually(lambda: operator.count_subscribers(clouds) == 0)
        assert operator.count_publishers(labelled) == 1

        assert operator.change("activate")
        answers(operator)

        assert operator.change("deactivate")
        assert operator.change("cleanup")
        assert operator.state() == "unconfigured"
        assert eventually(lambda: operator.count_publishers(labelled) == 0)

        assert operator.change("configure")
        assert operator.change("activate")
        answers(operator)

        assert operator.change("shutdown")
        assert operator.state() == "finalized"
        assert eventually(lambda: operator.count_publishers(labelled) == 0)
        assert process.stop() == 0
    assert "Traceback" not in process.output


def test_weights_that_cannot_be_loaded_fail_the_transition_with_the_reason_and_can_be_mended(
    ros: str, weights: Path, tmp_path: Path
) -> None:
    missing = tmp_path / "missing.safetensors"
    with segmenter(ros, weights=missing, autostart=False) as process, operating(ros) as operator:
        assert not operator.change("configure")
        process.wait_for(f"cannot configure: .*{missing.name}")
        assert operator.state() == "unconfigured"

        assert operator.set("weights", str(weights)).successful
        assert operator.set("filter.ignored_classes", ["sand"]).successful, "no network says yet what there is"
        assert not operator.change("configure")
        process.wait_for("filter.ignored_classes: the network has no class sand; it has car, ")

        assert operator.set("filter.ignored_classes", ["road"]).successful
        assert operator.change("configure")
        assert operator.change("activate")
        with exchange(ros) as asking:
            assert asking.ask(cloud(30, stamp=9)).cloud.width == 30
        assert process.stop() == 0
    assert "Traceback" not in process.output


def test_a_bug_while_configuring_is_reported_with_its_traceback_and_fails_the_transition(ros: str) -> None:
    with segmenter_with(ros, "broken", autostart=False) as process, operating(ros) as operator:
        assert not operator.change("configure")
        process.wait_for("KeyError: 'no such thing'")
        assert operator.state() == "unconfigured"
        assert process.stop() == 0


def test_a_bug_while_configuring_ends_a_node_that_starts_by_itself(ros: str) -> None:
    with segmenter_with(ros, "broken") as process:
        assert process.wait() == 1
    assert "cannot start: KeyError: 'no such thing'" in process.output


def test_qos_overrides_that_cannot_be_are_named(ros: str) -> None:
    override = {f"qos_overrides.{ros}/segmenter/input/points.subscription.reliability": "hopeful"}
    with segmenter_with(ros, "counting", **override) as process:
        assert process.wait() == 1
    assert "cannot start: " in process.output
    assert "hopeful" in process.output


def test_the_network_is_let_go_when_cleaning_up(ros: str, weights: Path) -> None:
    overrides = [Parameter("weights", value=str(weights)), Parameter("autostart", value=False)]
    node = SegmenterNode(namespace=ros, parameter_overrides=overrides)

    def networks() -> int:
        gc.unfreeze()
        gc.collect()
        return sum(type(thing) is Perception for thing in gc.get_objects())

    before = networks()
    for _ in range(2):
        assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        assert networks() == before + 1
        assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS
        assert node.trigger_deactivate() == TransitionCallbackReturn.SUCCESS
        assert node.trigger_cleanup() == TransitionCallbackReturn.SUCCESS
        assert networks() == before
    node.destroy_node()


def test_the_collector_passes_over_what_a_configured_node_has(ros: str) -> None:
    """What it has are 400 000 objects; looking at all of them stops every thread for the time of two clouds."""
    node = SegmenterNode(counting, namespace=ros, parameter_overrides=[Parameter("autostart", value=False)])
    gc.unfreeze()
    assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
    assert gc.isenabled()
    assert gc.get_freeze_count() > len(gc.get_objects())
    assert node.trigger_cleanup() == TransitionCallbackReturn.SUCCESS
    assert gc.get_freeze_count() == 0
    node.destroy_node()
