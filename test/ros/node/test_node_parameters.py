"""The node's parameters: as tables, as files, and over the services of a running node."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from places import REPOSITORY

pytest.importorskip("rclpy", reason="ROS 2 is not installed; pip install 'spvnas_ros[ros]' brings it")

from ros_control import operating
from ros_harness import cloud, exchange, ros, segmenter, segmenter_with, weights
from spvnas_ros.clouds.point_cloud2 import decode
from spvnas_ros.clouds.region import Region
from spvnas_ros.labels import SEMANTIC_KITTI
from spvnas_ros.ros.node.parameters import PARAMETERS, Changes, Settings

__all__ = ["ros", "weights"]  # fixtures

CONFIG = REPOSITORY / "config"
SCHEMA = json.loads((CONFIG / "segmenter.schema.json").read_text())
DEFAULTS = {name: entry.default for name, entry in PARAMETERS.items()}


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested names joined with dots, as ROS does."""
    leaves: dict[str, Any] = {}
    for name, value in tree.items():
        leaves |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return leaves


# -- files ------------------------------------------------------------------------------------------------------------


def test_the_parameter_file_lists_the_parameters_with_their_defaults_as_the_schema_wants_them() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    document = YAML(typ="safe").load(CONFIG / "segmenter.param.yaml")
    jsonschema.validate(document, SCHEMA)
    # As text, in which not-a-number equals itself.
    assert repr(flat(document["/**"]["ros__parameters"])) == repr(DEFAULTS)


def test_the_schema_and_the_node_tell_the_same() -> None:
    def entries(tree: dict[str, Any], prefix: str = "") -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        for name, entry in tree["properties"].items():
            found |= entries(entry, f"{prefix}{name}.") if "properties" in entry else {prefix + name: entry}
        return found

    schema = entries(SCHEMA["$defs"]["parameters"])
    assert set(schema) - {"use_sim_time", "qos_overrides"} == set(PARAMETERS)
    for name, entry in PARAMETERS.items():
        assert schema[name]["description"] == entry.description
        limits = entry.limits or (-math.inf, math.inf)
        assert (schema[name].get("minimum", -math.inf), schema[name].get("maximum", math.inf)) == limits
        if not isinstance(entry.default, float) or math.isfinite(entry.default):
            assert schema[name]["default"] == entry.default


@pytest.mark.parametrize(
    "parameters",
    [
        {"weight": "net.safetensors"},
        {"weights": 5},
        {"intensity": "bright"},
        {"intensity": -1},
        {"engine": "steam"},
        {"device": "tpu"},
        {"confidence_threshold": 1.5},
        {"range": {"min": -1.0}},
        {"crop_box": {"min_w": 0.0}},
        {"mount": {"pitch": 181.0}},
        {"mount": {"height": 1.0}},
        {"origin": "here"},
        {"sweeps": {"count": 1.5}},
        {"sweeps": {"count": -1}},
        {"sweeps": {"fixed_frame": "/odom"}},
        {"filter": {"ignored_classes": "road"}},
        {"color": True},
        {"color": {"palette": "kitti"}},
    ],
    ids=json.dumps,
)
def test_the_schema_refuses_what_the_node_would_refuse(parameters: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"/**": {"ros__parameters": parameters}}, SCHEMA)


def test_the_node_starts_with_the_file_and_with_one_that_changes_everything(
    ros: str, weights: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        "/**:\n  ros__parameters:\n    intensity: 100\n    crop_box: {min_x: -30.0, max_x: 30.0}\n"
        "    range: {min: 1, max: .inf}\n    filter: {ignored_classes: []}\n    color: {enabled: false}\n"
    )
    for file in (CONFIG / "segmenter.param.yaml", mine):
        jsonschema.validate(YAML(typ="safe").load(file), SCHEMA)
        with segmenter(ros, weights=weights, files=[file]) as process, exchange(ros) as asking:
            assert asking.ask(cloud(30)).cloud.width == 30
            assert process.stop() == 0
        assert "is not known" not in process.output
        assert "holds nothing" not in process.output


# -- what they mean ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"crop_box.min_y": 3.0, "crop_box.max_y": -3.0}, "crop_box.min_y must be less than crop_box.max_y"),
        ({"crop_box.max_z": math.nan}, "crop_box.max_z must be from"),
        ({"range.min": 80.0, "range.max": 5.0}, "range.min must be at least 0 and less than range.max"),
        ({"range.min": math.nan}, "range.min must be from 0.0 to inf"),
        ({"sweeps.count": 21}, "sweeps.count must be from 0 to 20"),
        ({"confidence_threshold": 1.01}, "confidence_threshold must be from 0.0 to 1.0"),
    ],
)
def test_values_that_contradict_themselves_are_named(changes: dict[str, float], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Settings.of(DEFAULTS | changes)


def test_ignored_classes_are_found_by_name() -> None:
    settings = Settings.of(DEFAULTS | {"filter.ignored_classes": ["", "road", "unlabelled"]})
    table = settings.ignored(SEMANTIC_KITTI.classes)
    assert np.flatnonzero(table).tolist() == [8, 255]
    with pytest.raises(ValueError, match="no class road; it has sand, unlabelled"):
        settings.ignored(["sand"])


coordinates = st.floats(-100, 100, width=32)


@given(
    points=st.lists(st.tuples(coordinates, coordinates, coordinates), max_size=30),
    corners=st.tuples(*[st.floats(-50, 0)] * 3, *[st.floats(1, 50)] * 3),
    near=st.floats(0, 20),
    thickness=st.floats(1, 100),
)
def test_a_region_holds_what_lies_in_box_and_range(
    points: list[tuple[float, float, float]], corners: tuple[float, ...], near: float, thickness: float
) -> None:
    region = Region((corners[0], corners[1], corners[2]), (corners[3], corners[4], corners[5]), near, near + thickness)
    array = np.zeros((len(points), 4), np.float32)
    array[:, :3] = np.array(points, np.float32).reshape(-1, 3)
    for point, inside in zip(array.astype(float), region.contains(array), strict=True):
        distance = math.dist(point[:3], (0, 0, 0))
        margin = min(
            *(abs(point[i % 3] - corners[i]) for i in range(6)), abs(distance - near), abs(distance - near - thickness)
        )
        if margin > 1e-4:
            in_box = all(corners[i] < point[i] < corners[i + 3] for i in range(3))
            assert inside == (in_box and near < distance < near + thickness)


# -- over services ----------------------------------------------------------------------------------------------------


def test_thresholds_and_crop_change_while_the_node_labels_and_what_cannot_be_is_refused(
    ros: str, weights: Path
) -> None:
    with segmenter(ros, weights=weights) as process, exchange(ros) as asking, operating(ros) as operator:
        sent = cloud(400, stamp=1)
        points = decode(sent)
        distance = np.sqrt(points["x"] ** 2 + points["y"] ** 2 + points["z"] ** 2)
        free = decode(asking.ask(sent).cloud)
        assert (free["label"] < 19).all()

        assert operator.set_together(crop_box__min_x=-5.0, crop_box__max_x=10.0, range__max=15.0).successful
        cropped = decode(asking.ask(cloud(400, stamp=2)).cloud)
        inside = (points["x"] >= -5) & (points["x"] <= 10) & (distance <= 15)
        assert 0 < inside.sum() < 400
        np.testing.assert_array_equal(cropped["label"] != 255, inside)
        np.testing.assert_array_equal(cropped["confidence"] > 0, inside)
        for name in ("x", "y", "z", "intensity"):
            np.testing.assert_array_equal(cropped[name], points[name])

        assert operator.set_together(
            crop_box__min_x=-math.inf, crop_box__max_x=math.inf, range__max=math.inf
        ).successful
        middle = float(np.median(free["confidence"]))
        assert operator.set("confidence_threshold", middle).successful
        sure = decode(asking.ask(cloud(400, stamp=3)).cloud)
        np.testing.assert_array_equal(sure["confidence"], free["confidence"])
        np.testing.assert_array_equal(
            sure["label"], np.where(free["confidence"] < middle, 255, free["label"]).astype(np.uint8)
        )

        refusals: dict[str, tuple[object, str]] = {
            "confidence_threshold": (2.0, "confidence_threshold"),
            "range.max": (0.0, "range.min must be at least 0 and less than range.max"),
            "crop_box.min_z": (math.inf, "crop_box.min_z must be less than crop_box.max_z"),
            "filter.ignored_classes": (["sand"], "the network has no class sand; it has car"),
            "weights": ("other", "weights is read when the node is configured; deactivate and clean up first"),
            "intensity": (100, "intensity is read when the node is configured"),
            "autostart": (False, "read-only"),
            "sweeps.count": (1.5, "parameter sweeps.count must be a whole number, found the number 1.5"),
            "color.enabled": ("yes", "parameter color.enabled must be true or false, found the text 'yes'"),
            "color.palette": ("semantic-kitti", "color.palette is read when the node is configured"),
        }
        for name, (value, reason) in refusals.items():
            result = operator.set(name, value)
            assert not result.successful, name
            assert reason in result.reason
        still = decode(asking.ask(cloud(400, stamp=4)).cloud)
        np.testing.assert_array_equal(still["label"], sure["label"])
        assert process.stop() == 0


def test_the_parameters_describe_themselves(ros: str) -> None:
    with segmenter_with(ros, "counting"), operating(ros) as operator:
        for descriptor, (name, entry) in zip(operator.describe(*PARAMETERS), PARAMETERS.items(), strict=True):
            assert (descriptor.name, descriptor.description) == (name, entry.description)
            assert descriptor.read_only == (entry.changes is Changes.START)
            described = [*descriptor.floating_point_range, *descriptor.integer_range]
            ranges = [(limits.from_value, limits.to_value) for limits in described]
            assert ranges == ([entry.limits] if entry.limits else [])
            assert entry.changes.value in descriptor.additional_constraints
