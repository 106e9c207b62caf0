"""Reads a recipe file, or another file of settings: every key known, every value of its type, parts that go together.

The command line may change a key: `optimiser.learning_rate=0.1`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from spvnas_ros.nets.space import PAPER_HIGHEST
from spvnas_ros.nets.spec_error import SpecError
from spvnas_ros.offline.training.config import (
    VOXEL_SIZE,
    ConfigError,
    DetectorConfig,
    NetConfig,
    Recipe,
    SupernetConfig,
)
from spvnas_ros.zoo.cache import FetchError
from spvnas_ros.zoo.checkpoint import CheckpointError


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Reads a recipe. Raises ConfigError, which names every wrong key, and OSError where there is no such file.

    overrides: `key=value` with dots in the key; the value as in YAML

    A recipe with a `start` may leave values open; they stay open here, see `start.begin`. Voxels that a recipe with
    `net.like` leaves open are that network's.
    """
    recipe = read_settings(Recipe, path, overrides)
    _check_schedule(path, recipe)
    recipe, voxel_size = _with_form(path, recipe)
    if recipe.detector:
        _check_detector(path, recipe, recipe.detector)
    if recipe.supernet:
        _check_supernet(path, recipe, recipe.supernet)
    if recipe.adapt:
        _check_adapt(path, recipe)
    if recipe.boxes:
        _check_names(path, "boxes", [each.name for each in recipe.boxes.classes])
        if not recipe.boxes.label_weight and not recipe.boxes.box_weight:
            raise ConfigError(f"{path}: boxes.label_weight and boxes.box_weight are both 0, so nothing would be learnt")
        if recipe.boxes.only and not recipe.start:
            raise ConfigError(
                f"{path}: with boxes.only what labels is not learnt, so the recipe needs a start: a network that "
                "labels points, such as start=default"
            )
        if recipe.boxes.start and not recipe.start:
            raise ConfigError(
                f"{path}: boxes.start is {recipe.boxes.start}, but the network before the branch begins at random; "
                "give the recipe a start, or leave out boxes.start"
            )
        if recipe.boxes.only and not recipe.boxes.box_weight:
            raise ConfigError(f"{path}: boxes.only learns boxes alone, and boxes.box_weight is 0")
        if recipe.data.origin or recipe.data.mount:
            raise ConfigError(f"{path} trains on boxes, which data.origin and data.mount do not move; leave them out")
    return recipe if recipe.start else recipe.settled(voxel_size)


def _with_form(path: Path, recipe: Recipe) -> tuple[Recipe, float]:
    """Returns the recipe with the content of the file that describes its network, if it names one, and the edge of a
    voxel where the recipe does not say it, metres.

    Raises ConfigError where `net` says two things of the network, or where the file describes none.
    """
    net, plain = recipe.net, NetConfig()
    if net.like == "":
        if net.number:
            raise ConfigError(f"{path}: net.number chooses among the networks of a file, and net.like names none")
        if net.depths and not net.widths:
            raise ConfigError(f"{path}: net.depths are of a network that net.widths describes; add these nine widths")
        if net.width and net.widths:
            raise ConfigError(
                f"{path}: net.width and net.widths both say how wide the network is; leave one of them out"
            )
        return recipe, VOXEL_SIZE
    if own := [
        key for key in ("width", "widths", "depths", "point_branch") if getattr(net, key) != getattr(plain, key)
    ]:
        raise ConfigError(
            f"{path}: net.like says all of the network, and net has {', '.join(own)} beside it; leave that out, on the "
            "command line by replacing the whole: 'net={like: FILE}'"
        )
    try:
        form = net.form()
    except (SpecError, CheckpointError, FetchError) as error:
        raise ConfigError(f"{path}: net.like: {error}") from error
    assert form is not None
    content = replace(form, spec=replace(form.spec, boxes=None)).to_dict()
    return replace(recipe, net=NetConfig(like=json.loads(json.dumps(content)))), form.voxel_size


class _OtherNumber(Exception):
    """Raised for what looks like a number and is another one in YAML 1.1: 010 is 8 there, and 1:30 is 90."""

    def __init__(self, node: yaml.ScalarNode, value: float) -> None:
        said = repr(value).removesuffix(".0")
        super().__init__(
            f"{node.value} would be read as {said}, as YAML has it; write {said} if that is meant, or "
            f"'{node.value}' in quotes for a name"
        )
        self.line = node.start_mark.line + 1


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML has no types
    """Reads YAML, and refuses numbers that are others than they look."""

    def number(self, node: yaml.ScalarNode) -> float:
        """Returns the number that a node says. Raises _OtherNumber."""
        whole = node.tag.endswith(":int")
        value: float = self.construct_yaml_int(node) if whole else self.construct_yaml_float(node)
        digits = node.value.lstrip("+-").replace("_", "")
        if ":" in digits or (whole and digits.isdecimal() and int(digits) != abs(value)):
            raise _OtherNumber(node, value)
        return value


for _tag in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", _Loader.number)

Settings = TypeVar("Settings")


def read_settings(kind: type[Settings], path: Path, overrides: Sequence[str] = ()) -> Settings:
    """Reads a file of settings of any kind, as `load_recipe` reads recipes. Raises ConfigError and OSError like it."""
    try:
        document = yaml.load(path.read_text(), _Loader)
    except _OtherNumber as error:
        raise ConfigError(f"{path}, line {error.line}: {error}") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueErrors come of dates and numbers that are none: 2024-13-01
        raise ConfigError(f"{path} is not YAML: {error}") from error
    if not isinstance(document, dict):
        raise ConfigError(f"{path} holds {type(document).__name__}, expected keys and values")
    for override in overrides:
        _apply(document, override)
    try:
        text = json.dumps(document, default=str)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{path} holds what no key can have ({error}); write plain values and lists") from error
    try:
        settings = TypeAdapter(kind).validate_json(text)
    except ValidationError as error:
        raise ConfigError(f"{path} cannot be used:{_lines(error)}") from error
    return settings


def _check_schedule(path: Path, recipe: Recipe) -> None:
    """Raises ConfigError where the schedule ends within its warm-up, or sets what its kind does not read."""
    schedule, steps = recipe.schedule, recipe.trainer.steps
    if steps and (wrong := schedule.never_warm(steps)):
        raise ConfigError(f"{path}: {wrong}")
    if ignored := schedule.without_effect():
        raise ConfigError(
            f"{path}: schedule.{' and schedule.'.join(ignored)} would change nothing: schedule.kind is "
            f"{schedule.kind!r}; leave that out, or choose another kind"
        )


def _check_detector(path: Path, recipe: Recipe, detector: DetectorConfig) -> None:
    """Raises ConfigError where the recipe of a detector sets what only networks for labels have."""
    plain = Recipe(recipe.name)
    whole = ("net", "loss", "boxes")
    ignored = [key for key in whole if getattr(recipe, key) != getattr(plain, key)]
    of_labels = ("voxel_size", "max_voxels", "topic", "labels_field", "label_ids", "network_labels", "origin", "mount")
    ignored += [f"data.{key}" for key in of_labels if getattr(recipe.data, key) != getattr(plain.data, key)]
    if ignored:
        raise ConfigError(
            f"{path} trains a detector, and {', '.join(ignored)} {'is' if len(ignored) == 1 else 'are'} of networks "
            "that label points; leave that out (voxels and range of a detector are in `detector`)"
        )
    try:
        names = detector.spec().head.names
    except SpecError as error:
        raise ConfigError(f"{path}: detector: {error}") from error
    _check_names(path, "detector", names)


def _check_supernet(path: Path, recipe: Recipe, supernet: SupernetConfig) -> None:
    """Raises ConfigError where the recipe of a supernet sets what single networks have, or where its space is empty."""
    plain = Recipe(recipe.name)
    if ignored := [key for key in ("net", "detector", "boxes", "start") if getattr(recipe, key) != getattr(plain, key)]:
        raise ConfigError(
            f"{path} trains a supernet, and {', '.join(ignored)} {'is' if len(ignored) == 1 else 'are'} of single "
            "networks; leave that out (widths and depths of a supernet are in `supernet`)"
        )
    if supernet.whole_until > supernet.widths_until:
        raise ConfigError(
            f"{path}: supernet.whole_until is {supernet.whole_until:g} and supernet.widths_until "
            f"{supernet.widths_until:g}; widths vary from the one share of the steps on, depths from the other, so the "
            "first must not be larger"
        )
    if supernet.sampling == "uniform" and supernet.drawn != SupernetConfig().drawn:
        raise ConfigError(
            f"{path}: supernet.drawn is {supernet.drawn} and would change nothing: with sampling 'uniform' one network "
            "learns at a step; leave it out, or set supernet.sampling=sandwich"
        )
    widths, shares = [
        [key for key in keys if getattr(supernet, key) != getattr(SupernetConfig(), key)]
        for keys in (("lowest", "highest"), ("low", "high"))
    ]
    if ignored := widths if supernet.around else shares:
        raise ConfigError(
            f"{path}: supernet.{' and supernet.'.join(ignored)} would change nothing: the space lies from `low` to "
            "`high` times `around`, or, without `around`, from `lowest` to `highest`"
        )
    if supernet.around and len(supernet.around) != len(PAPER_HIGHEST):
        raise ConfigError(
            f"{path}: supernet.around lists {len(PAPER_HIGHEST)} widths, found {len(supernet.around)}: "
            f"{list(supernet.around)}"
        )
    try:
        supernet.space(1, recipe.data.voxel_size or VOXEL_SIZE)
    except SpecError as error:
        raise ConfigError(f"{path}: supernet: {error}") from error


def _check_adapt(path: Path, recipe: Recipe) -> None:
    """Raises ConfigError where a recipe that adapts a network lacks what it needs, or sets what it has not."""
    plain = Recipe(recipe.name)
    others = ("net", "detector", "boxes", "supernet")
    if ignored := [key for key in others if getattr(recipe, key) != getattr(plain, key)]:
        raise ConfigError(
            f"{path} adapts a network that labels points, and {', '.join(ignored)} "
            f"{'is' if len(ignored) == 1 else 'are'} of other trainings; leave that out (what the start finds beside "
            "labels is not kept)"
        )
    if not recipe.start:
        raise ConfigError(f"{path} adapts a network, so it needs one: start=default, or a file")
    if not recipe.trainer.ema:
        raise ConfigError(f"{path}: trainer.ema is 0, but the teacher is the average of the weights; 0.98, say")
    if recipe.trainer.batch_size % 2:
        raise ConfigError(
            f"{path}: trainer.batch_size is {recipe.trainer.batch_size}, but a step has as many labelled as unlabelled "
            "scans; choose an even number"
        )


def _check_names(path: Path, part: str, names: Sequence[str]) -> None:
    """Raises ConfigError where a class has no name of its own."""
    if len({name.lower() for name in names}) < len(names):
        raise ConfigError(f"{path}: {part}.classes names a class twice: {', '.join(names)}")


def _apply(document: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not all(key.split(".")):
        raise ConfigError(f"{override!r} is no key=value, such as trainer.epochs=3")
    try:
        value = yaml.load(text, _Loader)
    except _OtherNumber as error:
        raise ConfigError(f"{override!r}: {error}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"the value of {override!r} is not YAML: {error}") from error
    *parents, last = key.split(".")
    for parent in parents:
        document = document.setdefault(parent, {})
        if not isinstance(document, dict):
            raise ConfigError(f"{override!r}: {parent} is a value, it has no keys of its own")
    document[last] = value


def _lines(error: ValidationError) -> str:
    lines, entries = [], error.errors()
    for entry in entries:
        place = entry["loc"]
        if any(len(other["loc"]) > len(place) and other["loc"][: len(place)] == place for other in entries):
            continue  # a list is said to be too short where its items are wrong
        key = ".".join(map(str, place))
        if entry["type"] == "unexpected_keyword_argument":
            lines.append(f"\n  {key}: there is no such key")
        elif entry["type"] == "missing":
            lines.append(f"\n  {key}: is missing")
        else:
            lines.append(f"\n  {key}: found {entry['input']!r}, expected: {entry['msg']}")
    return "".join(lines)
