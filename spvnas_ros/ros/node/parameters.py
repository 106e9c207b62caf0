"""Declares the node's parameters, says when they may change, and interprets their values."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import numpy.typing as npt
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from spvnas_ros.clouds.intensity import Intensity
from spvnas_ros.clouds.region import Region
from spvnas_ros.frame import UNLABELLED
from spvnas_ros.palettes import PALETTES, SPVNAS
from spvnas_ros.palettes import check as check_palette
from spvnas_ros.ros.node.sweeps import SweepRules

UNLABELLED_NAME = "unlabelled"
"""Name of the points without a class, where classes are named."""

INF = math.inf


class Changes(Enum):
    """When a parameter may change."""

    START = "when the node starts"
    CONFIGURE = "while the node is unconfigured"
    ANY_TIME = "at any time"


@dataclass(frozen=True)
class Entry:
    """A parameter. `limits` are the smallest and the largest value of a number."""

    default: Any
    description: str
    changes: Changes = Changes.ANY_TIME
    limits: tuple[float, float] | None = None


PARAMETERS: Mapping[str, Entry] = {
    "weights": Entry(
        "",
        "Path of a checkpoint (.safetensors), or the name of a published model that was fetched",
        Changes.CONFIGURE,
    ),
    "device": Entry("auto", "Where the network runs: auto, cpu, cuda or cuda:N", Changes.CONFIGURE),
    "engine": Entry(
        "auto",
        "What runs the network: auto, cpu or cuda (fused), torch (reference), or an installed spconv, spconv-triton, "
        "torchsparse",
        Changes.CONFIGURE,
    ),
    "intensity": Entry(
        "auto",
        "The sensor's intensity scale: auto, unit, u8, u16, none or the value that stands for 1",
        Changes.CONFIGURE,
    ),
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
        "Classes left out of ~/output/filtered_points; 'unlabelled' is one too, [''] leaves nothing out",
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
    """

    region: Region
    confidence_threshold: float
    ignored_classes: tuple[str, ...]
    color: bool

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Settings:
        """Makes settings from the values of the parameters, by name. Raises ValueError, which names the parameter."""
        for name, entry in PARAMETERS.items():
            if entry.limits is not None and not entry.limits[0] <= values[name] <= entry.limits[1]:
                raise ValueError(f"{name} must be from {entry.limits[0]} to {entry.limits[1]}, found {values[name]}")
        low, high = ([values[f"crop_box.{side}_{axis}"] for axis in "xyz"] for side in ("min", "max"))
        return cls(
            Region((low[0], low[1], low[2]), (high[0], high[1], high[2]), values["range.min"], values["range.max"]),
            values["confidence_threshold"],
            tuple(name for name in values["filter.ignored_classes"] if name),
            values["color.enabled"],
        )

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

    def __init__(
        self, node: Node, classes: Callable[[], Sequence[str] | None], changed: Callable[[Settings], None]
    ) -> None:
        """classes: returns the classes of the loaded network, or None where none is loaded. While a network is loaded,
                 the parameters that it was loaded with cannot change, and class names that it does not have are
                 rejected
        changed: called with the new settings after a change at run time

        Raises rclpy's ParameterException for a value of the wrong type or out of range, and ValueError for a value that
        cannot be used.
        """
        self._node = node
        self._classes = classes
        self._changed = changed
        for name, entry in PARAMETERS.items():
            node.declare_parameter(name, entry.default, _descriptor(name, entry))
        self.settings = _checked(self.values(), None)
        node.add_on_set_parameters_callback(self._on_set)

    def __getitem__(self, name: str) -> Any:
        return self._node.get_parameter(name).value

    def values(self) -> dict[str, Any]:
        """Returns all values by the name of their parameter."""
        return {name: self[name] for name in PARAMETERS}

    def _on_set(self, parameters: list[Parameter[Any]]) -> SetParametersResult:
        ours = {parameter.name: parameter.value for parameter in parameters if parameter.name in PARAMETERS}
        if not ours:
            return SetParametersResult(successful=True)
        try:
            self._check_time(ours)
            settings = _checked(self.values() | ours, self._classes())
        except ValueError as error:
            return SetParametersResult(successful=False, reason=str(error))
        if settings != self.settings:
            self.settings = settings
            self._changed(settings)
        return SetParametersResult(successful=True)

    def _check_time(self, changes: Mapping[str, Any]) -> None:
        if self._classes() is None:
            return
        for name, value in changes.items():
            if PARAMETERS[name].changes is Changes.CONFIGURE and value != self[name]:
                raise ValueError(
                    f"{name} is read when the node is configured; deactivate and clean up first, then set it"
                )


def usage() -> str:
    """Returns the help text of the parameters, one line each."""
    return "\n".join(
        f"  {name:<24}{entry.description} (default {entry.default!r})" for name, entry in PARAMETERS.items()
    )


def _descriptor(name: str, entry: Entry) -> ParameterDescriptor:
    return ParameterDescriptor(
        description=entry.description,
        additional_constraints=f"Changes {entry.changes.value}",
        read_only=entry.changes is Changes.START,
        # A number is a valid intensity rule, and YAML reads it as a number instead of a string.
        dynamic_typing=name == "intensity",
        floating_point_range=[FloatingPointRange(from_value=low, to_value=high) for low, high in _ranges(entry, float)],
        integer_range=[IntegerRange(from_value=low, to_value=high, step=1) for low, high in _ranges(entry, int)],
    )


def _ranges(entry: Entry, kind: type[int] | type[float]) -> list[tuple[float, float]]:
    return [entry.limits] if entry.limits and type(entry.default) is kind else []


def _checked(values: Mapping[str, Any], classes: Sequence[str] | None) -> Settings:
    Intensity(str(values["intensity"]))
    check_palette(values["color.palette"])
    settings = Settings.of(values)
    SweepRules.of(values)
    if classes is not None:
        settings.ignored(classes)
    return settings
