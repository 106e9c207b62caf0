"""Declares the node's parameters, says when they may change, and interprets their values."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np
import numpy.typing as npt
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.exceptions import ParameterNotDeclaredException
from rclpy.node import Node
from rclpy.parameter import Parameter

from spvnas_ros.boxes.choice import ALL, SURE, BoxChoice, LeastScores
from spvnas_ros.clouds.intensity import Intensity
from spvnas_ros.clouds.mount import Mount, PlaceRule, parse_origin
from spvnas_ros.clouds.region import Region
from spvnas_ros.errors import UserError
from spvnas_ros.frame import UNLABELLED
from spvnas_ros.palettes import PALETTES, SPVNAS
from spvnas_ros.palettes import check as check_palette
from spvnas_ros.ros.node.following import FollowRules
from spvnas_ros.ros.node.network import Network
from spvnas_ros.ros.node.objects import DROP, MARK, ObjectRules
from spvnas_ros.ros.node.overrides import QOS, ParameterValueError, fitting, nearest, unread, unread_qos
from spvnas_ros.ros.node.sweeps import SweepRules
from spvnas_ros.zoo.cache import DEFAULT

UNLABELLED_NAME = "unlabelled"
"""Name of the points without a class, where classes are named."""

INF, NAN = math.inf, math.nan


class Changes(Enum):
    """When a parameter may change."""

    START = "when the node starts"
    CONFIGURE = "while the node is unconfigured"
    ANY_TIME = "at any time"


@dataclass(frozen=True)
class Entry:
    """A parameter. Its values are of the kind of its default.

    limits:    the smallest and the largest value of a number
    or_number: whether a text may be a number, too
    """

    default: Any
    description: str
    changes: Changes = Changes.ANY_TIME
    limits: tuple[float, float] | None = None
    or_number: bool = False


PARAMETERS: Mapping[str, Entry] = {
    "weights": Entry(
        DEFAULT,
        "Path of a checkpoint (.safetensors), the name of a published model that was fetched, or default, the network "
        "that comes with the package",
        Changes.CONFIGURE,
    ),
    "device": Entry("auto", "Where the network runs: auto, cpu, cuda or cuda:N", Changes.CONFIGURE),
    "engine": Entry(
        "auto",
        "What runs the network: auto, cpu or cuda (fused), torch (reference), or an installed spconv, spconv-triton, "
        "torchsparse",
        Changes.CONFIGURE,
    ),
    "precision": Entry(
        "auto",
        "Of the network's features and weights: auto (the fastest that labels as fp32 does), fp32, int16 and "
        "int8 (CPU), fp16 and bf16 (CUDA)",
        Changes.CONFIGURE,
    ),
    "intensity": Entry(
        "auto",
        "The sensor's intensity scale: auto, unit, u8, u12, u16, db (decibels), none or the value that stands for 1",
        Changes.CONFIGURE,
        or_number=True,
    ),
    "intensity_field": Entry(
        "", "The field that holds the intensity; empty for a known name, calibrated ones first", Changes.CONFIGURE
    ),
    "target_frame": Entry(
        "",
        "TF frame in which the network sees clouds, such as the sensor's; empty for their own",
        Changes.CONFIGURE,
    ),
    "origin": Entry(
        "",
        "The sensor's place in that frame, x,y,z in metres, or auto to find it in each cloud; empty for its origin",
        Changes.CONFIGURE,
    ),
    "mount.z": Entry(
        NAN,
        "Height of that frame's origin above the ground, metres; .nan for that of the network's training sensor",
        Changes.CONFIGURE,
    ),
    "mount.roll": Entry(0.0, "How that frame leans to its right, degrees", Changes.CONFIGURE, (-180.0, 180.0)),
    "mount.pitch": Entry(0.0, "How that frame looks down, degrees", Changes.CONFIGURE, (-180.0, 180.0)),
    "mount.yaw": Entry(0.0, "How that frame is turned to the left, degrees", Changes.CONFIGURE, (-180.0, 180.0)),
    "sweeps.count": Entry(
        0, "Earlier clouds given to the network with each, which TF moves into its frame", Changes.CONFIGURE, (0, 20)
    ),
    "sweeps.fixed_frame": Entry(
        "odom", "TF frame in which what stands still stays where it is from cloud to cloud", Changes.CONFIGURE
    ),
    "sweeps.timeout": Entry(
        0.1, "A cloud waits this long for TF and then goes without the earlier, seconds", Changes.CONFIGURE, (0.0, 10.0)
    ),
    "sweeps.ego_radius": Entry(
        2.0,
        "Points of earlier clouds nearer to their sensor are of the own vehicle and left out, metres",
        Changes.CONFIGURE,
        (0.0, INF),
    ),
    "autostart": Entry(True, "Configure and activate at once, and end with status 1 where that fails", Changes.START),
    "crop_box.min_x": Entry(-INF, "Points farther back than this get no label, metres", limits=(-INF, INF)),
    "crop_box.min_y": Entry(-INF, "Points farther right than this get no label, metres", limits=(-INF, INF)),
    "crop_box.min_z": Entry(-INF, "Points below this get no label, metres", limits=(-INF, INF)),
    "crop_box.max_x": Entry(INF, "Points farther ahead than this get no label, metres", limits=(-INF, INF)),
    "crop_box.max_y": Entry(INF, "Points farther left than this get no label, metres", limits=(-INF, INF)),
    "crop_box.max_z": Entry(INF, "Points above this get no label, metres", limits=(-INF, INF)),
    "range.min": Entry(0.0, "Points nearer to the sensor get no label, metres", limits=(0.0, INF)),
    "range.max": Entry(INF, "Points farther from the sensor get no label, metres", limits=(0.0, INF)),
    "confidence_threshold": Entry(0.0, "Points whose label is less sure get no label", limits=(0.0, 1.0)),
    "filter.ignored_classes": Entry(
        ["road", "parking", "sidewalk", "other-ground", "terrain"],
        "Classes left out of ~/output/filtered_points; 'unlabelled' is one too, [] leaves nothing out",
    ),
    "objects.classes": Entry(
        [ALL], f"Classes of ~/output/objects and its markers; {ALL}: those that the network finds"
    ),
    "objects.min_score": Entry(
        f"{SURE}",
        "Least score of an object, 0..1: a number, or with classes and distances, 0.2,car=0.3,person@30=0.4 (from 30 m "
        "on); empty for the network's own",
        or_number=True,
    ),
    "objects.max_overlap": Entry(
        1.0,
        "Of two objects of any class that overlap more, seen from above, the one with the lower score is left out; "
        "1 leaves both",
        limits=(0.0, 1.0),
    ),
    "objects.max_count": Entry(
        0, "Objects of a cloud at most, those with the highest scores; 0 for all", limits=(0, 10_000)
    ),
    "objects.label_vote": Entry(
        0.0,
        "Least share of the labelled points in an object's box that have to be of its class; 0 asks no points",
        limits=(0.0, 1.0),
    ),
    "objects.unsupported": Entry(
        DROP,
        f"Of which fewer are: {DROP} leaves the object out, {MARK} also publishes what the points say",
    ),
    "objects.track": Entry(
        False, "Follow objects from cloud to cloud: they have ids and are smoothed", Changes.CONFIGURE
    ),
    "objects.track_frame": Entry(
        "odom",
        "TF frame in which they are followed, where what stands stays where it is; empty for the clouds' own",
        Changes.CONFIGURE,
    ),
    "color.enabled": Entry(True, "Offer ~/output/colored_points"),
    "color.palette": Entry(SPVNAS, f"Colours of SemanticKITTI's classes: {', '.join(PALETTES)}", Changes.CONFIGURE),
}
"""The parameters by name. `config/segmenter.param.yaml` lists the same ones, and `config/segmenter.schema.json` says
what a parameter file may contain.
"""


@dataclass(frozen=True)
class Settings:
    """The parameters that may change while clouds are labelled.

    region:               where points get a label
    confidence_threshold: points whose confidence is lower get no label
    ignored_classes:      names of the classes that the filtered cloud leaves out
    color:                whether the coloured cloud is published
    objects:              which objects are published
    """

    region: Region
    confidence_threshold: float
    ignored_classes: tuple[str, ...]
    color: bool
    objects: ObjectRules = field(default_factory=ObjectRules)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Settings:
        """Makes settings from the values of the parameters, by name. Raises ValueError, which names the parameter."""
        for name, entry in PARAMETERS.items():
            _check_limits(name, entry, values[name])
        low, high = ([values[f"crop_box.{side}_{axis}"] for axis in "xyz"] for side in ("min", "max"))
        return cls(
            Region((low[0], low[1], low[2]), (high[0], high[1], high[2]), values["range.min"], values["range.max"]),
            values["confidence_threshold"],
            tuple(name for name in values["filter.ignored_classes"] if name),
            values["color.enabled"],
            _object_rules(values),
        )

    def check(self, network: Network) -> None:
        """Raises ValueError where a class is named that the network does not have.

        What it does not give at all is not published, and then names are not checked.
        """
        if network.classes:
            self.ignored(network.classes)
        if not network.box_names:
            return
        choice, has = self.objects.choice, f"the network has no such objects; it finds {', '.join(network.box_names)}"
        if unknown := [name for name in choice.classes or () if name not in network.box_names]:
            raise UserError(f"objects.classes: {', '.join(unknown)}: {has}")
        if unknown := [name for name in choice.min_scores.names if name not in network.box_names]:
            raise UserError(f"objects.min_score: {', '.join(unknown)}: {has}")

    def ignored(self, classes: Sequence[str]) -> npt.NDArray[np.bool_]:
        """Returns which of the labels 0..255 the filtered cloud leaves out, bool `[256]`.

        Raises ValueError where an ignored class is not among `classes`.
        """
        labels = {name: index for index, name in enumerate(classes)} | {UNLABELLED_NAME: UNLABELLED}
        if unknown := [name for name in self.ignored_classes if name not in labels]:
            raise ValueError(
                f"filter.ignored_classes: the network has no class {', '.join(unknown)}; it has {', '.join(labels)}"
            )
        table = np.zeros(256, np.bool_)
        table[[labels[name] for name in self.ignored_classes]] = True
        return table


class NodeParameters:
    """Declares a node's parameters, checks their changes and reads them.

    Attributes:
        settings: the present values of the parameters that may change while clouds are labelled
    """

    def __init__(self, node: Node, network: Callable[[], Network | None], changed: Callable[[Settings], None]) -> None:
        """network: returns the loaded network, or None where none is loaded. While a network is loaded, the parameters
                 that it was loaded with cannot change, and class names that it does not have are rejected
        changed: called with the new settings after a change at run time

        Warns of parameters that were given to the node and that it does not know. Raises ValueError for values that
        cannot be used; it names each.
        """
        self._node = node
        self._network = network
        self._changed = changed
        self._given = _given_to(node)
        self._warn(unread(self._given, self._known()))
        for name, value in _first_values(self._given).items():
            # rclpy would take the given value as it is, and whole numbers for another type.
            node.declare_parameter(name, value, _descriptor(PARAMETERS[name]), ignore_override=True)
        self.settings = _checked(self.values(), None)
        node.add_on_set_parameters_callback(self._on_set)

    def __getitem__(self, name: str) -> Any:
        return self._node.get_parameter(name).value

    def values(self) -> dict[str, Any]:
        """Returns all values by the name of their parameter."""
        return {name: self[name] for name in PARAMETERS}

    def fitting(self, parameters: Iterable[Parameter[Any]]) -> list[Parameter[Any]]:
        """Returns parameters that are to be set, those of the node with values of their own kind.

        Raises ParameterValueError for values of another kind, and rclpy's ParameterNotDeclaredException for a parameter
        that the node does not have.
        """
        fitting = []
        for each in parameters:
            if (entry := PARAMETERS.get(each.name)) is not None:
                fitting.append(Parameter(each.name, value=_fitting(each.name, entry, each.value)))
            elif not self._node.has_parameter(each.name) and (meant := nearest(each.name, self._known())):
                raise ParameterNotDeclaredException(f"{each.name}; did you mean {meant}?")
            else:
                fitting.append(each)
        return fitting

    def warn_of_unread_qos(self) -> None:
        """Warns, once of each, of `qos_overrides` that no topic of the node has read, once those are there."""
        self._warn(unread_qos(self._given, self._known()))
        self._given = {name: value for name, value in self._given.items() if not name.startswith(QOS)}

    def _known(self) -> set[str]:
        return {*PARAMETERS, *self._node.list_parameters([], 0).names}

    def _warn(self, warnings: Iterable[str]) -> None:
        for warning in warnings:
            self._node.get_logger().warning(warning)

    def _on_set(self, parameters: list[Parameter[Any]]) -> SetParametersResult:
        ours = {parameter.name: parameter.value for parameter in parameters if parameter.name in PARAMETERS}
        if not ours:
            return SetParametersResult(successful=True)
        try:
            self._check_time(ours)
            settings = _checked(self.values() | ours, self._network())
        except ValueError as error:
            return SetParametersResult(successful=False, reason=str(error))
        if settings != self.settings:
            self.settings = settings
            self._changed(settings)
        return SetParametersResult(successful=True)

    def _check_time(self, changes: Mapping[str, Any]) -> None:
        if self._network() is None:
            return
        for name, value in changes.items():
            if PARAMETERS[name].changes is Changes.CONFIGURE and value != self[name]:
                raise ValueError(
                    f"{name} is read when the node is configured; deactivate and clean up first, then set it"
                )


def place_rule(values: Mapping[str, Any]) -> PlaceRule:
    """Returns where the sensor is, by the values of the parameters. Raises ValueError, which names the parameter."""
    z, *angles = (values[f"mount.{name}"] for name in ("z", "roll", "pitch", "yaw"))
    return PlaceRule(parse_origin(values["origin"] or None), Mount(None if math.isnan(z) else z, *angles))


def _object_rules(values: Mapping[str, Any]) -> ObjectRules:
    names = tuple(dict.fromkeys(name for name in values["objects.classes"] if name))
    if not names:
        raise UserError(f"objects.classes must name a class, or {ALL}, found none")
    if ALL in names and len(names) > 1:
        raise UserError(f"objects.classes has {ALL} beside names ({', '.join(names)}); give {ALL} alone, or names")
    try:
        scores = LeastScores.parse(values["objects.min_score"])
    except UserError as error:
        raise UserError(f"objects.min_score: {error}") from error
    if (unsupported := values["objects.unsupported"]) not in (DROP, MARK):
        raise UserError(f"objects.unsupported must be {DROP} or {MARK}, found {unsupported!r}")
    choice = BoxChoice(
        scores, None if ALL in names else names, values["objects.max_overlap"], values["objects.max_count"]
    )
    return ObjectRules(choice, values["objects.label_vote"], unsupported)


def usage() -> str:
    """Returns the help text of the parameters, one line each."""
    return "\n".join(
        f"  {name:<24}{entry.description} (default {entry.default!r})" for name, entry in PARAMETERS.items()
    )


def _given_to(node: Node) -> dict[str, Any]:
    """Returns the values that files, the command line and the constructor give for parameters of the node, by name.

    rclpy has no public way to them.
    """
    return {name: parameter.value for name, parameter in node._parameter_overrides.items()}


def _first_values(given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the first value of every parameter: the given one, or its default. Raises ParameterValueError."""
    values, wrong = {}, []
    for name, entry in PARAMETERS.items():
        try:
            values[name] = _fitting(name, entry, given[name]) if name in given else entry.default
        except ParameterValueError as error:
            wrong.append(str(error))
    if wrong:
        raise ParameterValueError("; ".join(wrong))
    return values


def _fitting(name: str, entry: Entry, value: Any) -> Any:
    value = fitting(name, value, entry.default, entry.or_number)
    _check_limits(name, entry, value)
    return value


def _check_limits(name: str, entry: Entry, value: Any) -> None:
    if entry.limits is not None and not entry.limits[0] <= value <= entry.limits[1]:
        raise ParameterValueError(f"{name} must be from {entry.limits[0]} to {entry.limits[1]}, found {value}")


def _descriptor(entry: Entry) -> ParameterDescriptor:
    return ParameterDescriptor(
        description=entry.description,
        additional_constraints=f"Changes {entry.changes.value}",
        read_only=entry.changes is Changes.START,
        # YAML reads a number as one, not as a text.
        dynamic_typing=entry.or_number,
        floating_point_range=[FloatingPointRange(from_value=low, to_value=high) for low, high in _ranges(entry, float)],
        integer_range=[IntegerRange(from_value=low, to_value=high, step=1) for low, high in _ranges(entry, int)],
    )


def _ranges(entry: Entry, kind: type[int] | type[float]) -> list[tuple[float, float]]:
    return [entry.limits] if entry.limits and type(entry.default) is kind else []


def _checked(values: Mapping[str, Any], network: Network | None) -> Settings:
    Intensity(str(values["intensity"]))
    place_rule(values)
    check_palette(values["color.palette"])
    settings = Settings.of(values)
    SweepRules.of(values)
    FollowRules.of(values)
    if network is not None:
        settings.check(network)
    return settings
