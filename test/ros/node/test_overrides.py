"""What users give as parameters: names nobody reads, files for other nodes, whole numbers, empty lists."""

from __future__ import annotations

import re
from array import array
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed; pip install 'spvnas_ros[ros]' brings it")

from rclpy.exceptions import ParameterNotDeclaredException
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter

from ros_control import operating
from ros_harness import Process, cloud, exchange, ros, segmenter, segmenter_with, weights
from spvnas_ros.frame import Points, Segmentation
from spvnas_ros.ros.node.overrides import ParameterValueError, fitting, for_others, nearest, unread, unread_qos
from spvnas_ros.ros.node.parameters import PARAMETERS
from spvnas_ros.ros.node.segmenter_node import SegmenterNode
from spvnas_ros.ros.process.lifetime import StartError
from spvnas_ros.ros.process.parameter_files import Given, Value

__all__ = ["ros", "weights"]  # fixtures

KNOWN = [*PARAMETERS, "use_sim_time", "start_type_description_service"]
KINDS = {
    bool: ("true or false", ["true", "maybe", 1, 0.5, [True], []]),
    int: ("a whole number", ["2", 2.5, float("inf"), True, [1], []]),
    float: ("a number", ["60", "far", True, [1.0], []]),
    str: ("text", [5, 1.5, True, ["a"], []]),
    list: ("a list of names", ["road", 5, True, [1, 2], [True]]),
}


def zeros(points: Points, **_asked: bool) -> Segmentation:
    """A network that knows one class."""
    return Segmentation(np.zeros(len(points), np.uint8), np.ones(len(points), np.float32))


def said(process: Process) -> list[str]:
    """What the node has warned of."""
    return re.findall(r"\[WARN\] \[[\d.]+\] \[[\w.]*segmenter\]: (.*)", process.output)


# -- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("confidence_treshold", "confidence_threshold"),
        ("threshold", "confidence_threshold"),
        ("max_X", "crop_box.max_x"),
        ("crop_box.max_X", "crop_box.max_x"),
        ("segmenter.crop_box.max_x", "crop_box.max_x"),
        ("range_max", "range.max"),
        ("ignore_classes", "filter.ignored_classes"),
        ("weight", "weights"),
        ("colour.enabled", "color.enabled"),
        ("sim_time", "use_sim_time"),
        ("frame_id", None),
        ("baud_rate", None),
        ("a", None),
    ],
)
def test_the_name_that_was_meant_is_found(name: str, meant: str | None) -> None:
    assert nearest(name, KNOWN) == meant


def test_every_name_is_found_with_a_letter_left_out_and_without_its_prefix() -> None:
    for name in PARAMETERS:
        assert nearest(name[:-2] + name[-1], KNOWN) in (name, name.replace("min", "max"), name.replace("max", "min"))
        last = name.rpartition(".")[2]
        assert str(nearest(last, KNOWN)).endswith(last)


def test_names_that_are_like_none_share_a_warning_and_known_ones_have_none() -> None:
    assert unread(["weights", "use_sim_time", "qos_overrides./a.subscription.depth"], KNOWN) == []
    assert unread(["baud_rate", "weight", "ip"], KNOWN) == [
        "parameter weight is not known; did you mean weights?",
        "parameters baud_rate, ip are not known and not used; segmenter_node --help lists what is",
    ]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        (
            "/segmenter/input/points.subscription.depth",
            "the node has no subscription of this topic; did you mean /top?",
        ),
        ("/out/labeld.publisher.depth", "the node has no publisher of this topic; did you mean /out/labeled?"),
        ("/top.publisher.depth", "the node has no publisher on /top but a subscription"),
        ("/top.subscription.durability", "of /top, depth, reliability can be set"),
        ("/top.depth", "expected qos_overrides./TOPIC.publisher or .subscription, and one of depth, reliability"),
    ],
)
def test_quality_of_service_that_no_topic_has_read_is_told_with_the_reason(name: str, why: str) -> None:
    read = [
        *(f"qos_overrides./top.subscription.{policy}" for policy in ("depth", "reliability")),
        *(f"qos_overrides.{topic}.publisher.depth" for topic in ("/out/labeled", "/out/colored")),
    ]
    name = f"qos_overrides.{name}"
    assert unread_qos([*read, "weight", name], [*KNOWN, *read]) == [f"parameter {name} is not known: {why}"]


def test_what_is_for_other_nodes_only_is_told(tmp_path: Path) -> None:
    files = {
        "ours.yaml": "/**/segmenter: {ros__parameters: {a: 1}}\nother: {ros__parameters: {a: 1}}",
        "other.yaml": "other: {ros__parameters: {a: 1}}\nlidar: {front: {ros__parameters: {a: 1}}}",
        "empty.yaml": "",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    values = (Value("", "a", "1"), Value("other", "b", "1"))
    nothing, wanted = "holds nothing for this node", "expected /car/segmenter or /**"
    assert for_others(Given(tuple(tmp_path / name for name in files), values), "/car/segmenter") == [
        f"the parameter file {tmp_path}/other.yaml {nothing}: it is for /other, /lidar/front; {wanted}",
        f"the parameter file {tmp_path}/empty.yaml {nothing}: it is empty; {wanted} above ros__parameters",
        f"parameter b on the command line is for the node other; {wanted}",
    ]


def test_a_running_node_names_what_nobody_reads_in_files_and_on_its_command_line(ros: str, tmp_path: Path) -> None:
    mine, other = tmp_path / "mine.yaml", tmp_path / "other.yaml"
    mine.write_text(
        "/**:\n  ros__parameters:\n    confidence_treshold: 0.9\n    crop_box: {max_X: 20.0}\n    use_sim_time: false\n"
        f"    qos_overrides:\n      {ros}/segmenter/input/points: {{subscription: {{depth: 3}}}}\n"
        f"      {ros}/segmenter/output/labeled_points: {{publisher: {{depth: 3}}}}\n"
        "      /points: {subscription: {depth: 3}}\n"
    )
    other.write_text("segmenter:\n  ros__parameters:\n    range: {max: 20.0}\n")
    given = {"max_X": 3.0, "autostart": False, "start_type_description_service": True}
    with segmenter_with(ros, "counting", files=[mine, other], **given) as process, operating(ros) as operator:
        before = [
            f"the parameter file {other} holds nothing for this node: it is for /segmenter; expected "
            f"{ros}/segmenter or /**",
            "parameter confidence_treshold is not known; did you mean confidence_threshold?",
            "parameter crop_box.max_X is not known; did you mean crop_box.max_x?",
            "parameter max_X is not known; did you mean crop_box.max_x?",
        ]
        process.wait_for("parameter max_X")
        assert sorted(said(process)) == sorted(before)
        for _ in range(2):
            assert operator.change("configure")
            assert operator.change("activate")
            with exchange(ros) as asking:
                assert asking.ask(cloud(30, stamp=9)).cloud.width == 30
            assert operator.change("deactivate")
            assert operator.change("cleanup")
        assert process.stop() == 0
    after = (
        "parameter qos_overrides./points.subscription.depth is not known: the node has no subscription of this topic; "
        f"did you mean {ros}/segmenter/input/points?"
    )
    assert sorted(said(process)) == sorted([*before, after])


def test_a_file_that_ros_refuses_ends_the_node_with_words(ros: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("segmenter:\n  weights: default\n")
    with segmenter(ros, files=[file]) as process:
        assert process.wait() == 1
    assert f"cannot start: the parameter file {file} has weights outside of a node's ros__parameters" in process.output


# -- values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "entry"), PARAMETERS.items(), ids=PARAMETERS)
def test_values_of_another_kind_are_named_with_what_is_expected(name: str, entry: Any) -> None:
    wanted, values = KINDS[type(entry.default)]
    assert repr(fitting(name, entry.default, entry.default, entry.or_number)) == repr(entry.default)
    for value in values:
        if entry.or_number and type(value) in (int, float):
            assert fitting(name, value, entry.default, True) == value
            continue
        with pytest.raises(ParameterValueError, match=f"^parameter {re.escape(name)} must be {wanted}.*, found "):
            fitting(name, None if value == [] else value, entry.default, entry.or_number)


def test_whole_numbers_do_for_others_and_the_other_way_round() -> None:
    for value, default in ((60, 0.0), (2.0, 0), (array("q", [1, 2]), [0.0]), (array("d", [1.0]), [0])):
        found = fitting("a", value, default)
        one, kind = (found[0], default[0]) if isinstance(default, list) else (found, default)
        assert found == (list(value) if isinstance(value, array) else value)
        assert type(one) is type(kind)
    empties: tuple[Any, ...] = (None, [], array("b"))
    for empty in empties:
        assert fitting("a", empty, ["road"]) == [""]
        with pytest.raises(ParameterValueError, match="parameter a must be a list of numbers, found an empty list"):
            fitting("a", empty, [0.0])


@pytest.mark.parametrize(
    ("value", "default", "advice"),
    [
        (5, "", "found the number 5; write it in quotes, '\"5\"'"),
        ("true", False, "found the text 'true'; write it without quotes"),
        ("6e1", 0.0, "found the text '6e1'; write it without quotes"),
        ("road", ["car"], "found the text 'road'; write it in brackets, [road]"),
    ],
)
def test_the_mending_is_told(value: Any, default: Any, advice: str) -> None:
    with pytest.raises(ParameterValueError) as refused:
        fitting("a", value, default)
    assert str(refused.value).endswith(advice)


def test_a_node_takes_whole_numbers_and_empty_lists_and_has_floats_and_names(ros: str) -> None:
    given = {
        "crop_box.min_z": -3,
        "range.max": 60,
        "confidence_threshold": 1,
        "sweeps.count": 0.0,
        "sweeps.timeout": 1,
        "filter.ignored_classes": [],
    }
    node = SegmenterNode(
        zeros, namespace=ros, parameter_overrides=[Parameter(name, value=value) for name, value in given.items()]
    )
    try:
        values = {name: node.get_parameter(name).value for name in given}
        assert values == given | {"filter.ignored_classes": [""]}
        types = {name: node.get_parameter(name).type_ for name in given}
        assert types.pop("filter.ignored_classes") == Parameter.Type.STRING_ARRAY
        assert types.pop("sweeps.count") == Parameter.Type.INTEGER
        assert set(types.values()) == {Parameter.Type.DOUBLE}

        (done,) = node.set_parameters([Parameter("range.max", value=40)])
        assert done.successful
        assert node.get_parameter("range.max").type_ == Parameter.Type.DOUBLE
        assert node.set_parameters_atomically([Parameter("filter.ignored_classes", value=["road"])]).successful
        assert node.set_parameters_atomically([Parameter("filter.ignored_classes", value=[])]).successful
        assert node.get_parameter("filter.ignored_classes").value == [""]
        for name in ("intensity", "range.max"):
            refused = node.set_parameters_atomically([Parameter(name)])
            assert f"parameter {name} must be" in refused.reason
        assert node.get_parameter("intensity").value == "auto"
        with pytest.raises(ParameterNotDeclaredException, match=r"max_X; did you mean crop_box\.max_x\?"):
            node.set_parameters([Parameter("max_X", value=1.0)])
        assert node.trigger_deactivate() == TransitionCallbackReturn.SUCCESS
    finally:
        node.destroy_node()


def test_all_values_that_do_not_fit_are_named_at_once(ros: str) -> None:
    overrides = [
        Parameter("device", value=0),
        Parameter("color.enabled", value="true"),
        Parameter("range.max", value=-1),
    ]
    with pytest.raises(StartError) as refused:
        SegmenterNode(zeros, namespace=ros, parameter_overrides=overrides)
    for part in (
        "parameter device must be text, found the number 0",
        "color.enabled",
        "range.max must be from 0.0 to inf",
    ):
        assert part in str(refused.value)


def test_whole_numbers_and_an_empty_list_come_from_a_file_and_over_the_service(ros: str, tmp_path: Path) -> None:
    file = tmp_path / "whole.yaml"
    file.write_text(
        "/**:\n  ros__parameters:\n    confidence_threshold: 0\n    crop_box: {min_z: -3, max_z: 2}\n"
        "    range: {max: 60}\n    sweeps: {count: 0.0}\n    filter: {ignored_classes: []}\n"
    )
    with segmenter_with(ros, "counting", files=[file]) as process, operating(ros) as operator:
        with exchange(ros) as asking:
            assert asking.ask(cloud(30, stamp=9)).cloud.width == 30
        assert operator.set("range.max", 40).successful
        result = operator.set("range.max", "far")
        assert (result.successful, result.reason) == (
            False,
            "parameter range.max must be a number, found the text 'far'",
        )
        result = operator.set("confidence_treshold", 0.5)
        assert not result.successful
        assert "did you mean confidence_threshold?" in result.reason
        assert process.stop() == 0
    assert said(process) == []


# -- weights ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [{}, {"weights": '""'}], ids=["unset", "empty"])
def test_without_weights_the_network_that_comes_with_the_package_labels_and_the_log_says_so(
    ros: str, given: dict[str, object]
) -> None:
    with segmenter(ros, device="cpu", engine="torch", **given) as process:
        process.wait_for(r"weights default, the network that comes with the package \(")
        process.wait_for("labels clouds of")
        assert process.stop() == 0
