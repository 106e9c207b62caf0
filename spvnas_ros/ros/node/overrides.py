"""Judges what users give as parameters: names that nobody reads, files for other nodes, values of another type."""

from __future__ import annotations

import math
import re
from array import array
from collections.abc import Collection, Iterable, Sequence
from difflib import SequenceMatcher
from typing import Any

from spvnas_ros.errors import UserError
from spvnas_ros.ros.process.parameter_files import Given, is_for, nodes_of

QOS = "qos_overrides."
"""What the names of the parameters begin with that rclpy reads when a publisher or a subscription is made."""

_QOS_NAME = re.compile(rf"{re.escape(QOS)}(?P<topic>.+)\.(?P<kind>publisher|subscription)\w*\.(?P<policy>\w+)")
_ALIKE = 0.7
"""How alike two names are, 0..1, where one is taken for the other misspelt."""
_LONG_PART = 5
"""Letters from which on a part of a name tells which name is meant."""
_SHOWN_NAMES = 5


class ParameterValueError(UserError):
    """A parameter has a value of a kind that it does not take. Names the parameter, the value and what is expected."""


# -- names ------------------------------------------------------------------------------------------------------------


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Returns the known name that a user who wrote `name` has probably meant, or None where none is like it.

    Upper case and separators do not count, and a name may lack its prefix or have a wrong one.
    """
    scored = [(_likeness(name, each), _alike(name, each), each) for each in known]
    score, _, best = max(scored, default=(0.0, 0.0, ""))
    return best if score >= _ALIKE else None


def unread(names: Iterable[str], known: Collection[str]) -> list[str]:
    """Returns a warning for each name that is not known.

    Names that are like no known one share a warning. Those of `qos_overrides` are not judged here.
    """
    known = [each for each in known if not each.startswith(QOS)]
    warnings, strange = [], []
    for name in names:
        if name in known or name.startswith(QOS):
            continue
        if meant := nearest(name, known):
            warnings.append(f"parameter {name} is not known; did you mean {meant}?")
        else:
            strange.append(name)
    if strange:
        what = f"parameter {strange[0]} is" if len(strange) == 1 else f"parameters {', '.join(strange)} are"
        warnings.append(f"{what} not known and not used; segmenter_node --help lists what is")
    return warnings


def unread_qos(names: Iterable[str], known: Collection[str]) -> list[str]:
    """Returns a warning for each name of `qos_overrides` that no publisher or subscription has read.

    known: the parameters that the node has once its topics are there
    """
    read = [name for name in known if name.startswith(QOS)]
    policies = sorted({name.rpartition(".")[2] for name in read})
    warnings = []
    for name in names:
        if not name.startswith(QOS) or name in known:
            continue
        parts = _QOS_NAME.fullmatch(name)
        if parts is None:
            why = f"expected {QOS}/TOPIC.publisher or .subscription, and one of {', '.join(policies)}"
        elif any(_topic(each) == (parts["topic"], parts["kind"]) for each in read):
            why = f"of {parts['topic']}, {', '.join(policies)} can be set"
        elif kinds := sorted({_topic(each)[1] for each in read if _topic(each)[0] == parts["topic"]}):
            why = f"the node has no {parts['kind']} on {parts['topic']} but a {kinds[0]}"
        else:
            why = f"the node has no {parts['kind']} of this topic"
            topics = {topic for topic, kind in map(_topic, read) if kind == parts["kind"]}
            # A remapped topic goes by its new name here, which may be like nothing.
            if meant := nearest(parts["topic"], topics) or (next(iter(topics)) if len(topics) == 1 else None):
                why += f"; did you mean {meant}?"
        warnings.append(f"parameter {name} is not known: {why}")
    return warnings


def for_others(given: Given, node: str) -> list[str]:
    """Returns a warning for each parameter file, and each parameter on the command line, that is for other nodes only.

    node: full name of the node
    """
    wanted = f"expected {node} or /**"
    warnings = []
    for file in given.files:
        names = nodes_of(file)
        if any(is_for(name, node) for name in names):
            continue
        shown = ", ".join(names[:_SHOWN_NAMES]) + (" and others" if len(names) > _SHOWN_NAMES else "")
        held = f"it is for {shown}; {wanted}" if names else f"it is empty; {wanted} above ros__parameters"
        warnings.append(f"the parameter file {file} holds nothing for this node: {held}")
    for value in given.values:
        if value.node and not is_for(value.node, node):
            warnings.append(f"parameter {value.name} on the command line is for the node {value.node}; {wanted}")
    return warnings


# -- values -----------------------------------------------------------------------------------------------------------


def fitting(name: str, value: Any, default: Any, or_number: bool = False) -> Any:
    """Returns a parameter's value as one of the kind of its default.

    Whole numbers do for others, and others that are whole for whole numbers. An empty list, which has no kind in YAML,
    does for a list of texts.

    value:     as rclpy has read it; None for an empty list
    or_number: whether a parameter that is a text takes numbers, too

    Raises ParameterValueError.
    """
    found = list(value) if isinstance(value, (list, tuple, array)) else value
    if isinstance(default, (list, tuple)):
        return _list(name, found, default)
    if or_number and isinstance(found, (int, float)) and not isinstance(found, bool):
        return found
    wanted, advice = _WANTED[type(default)] + (" or a number" if or_number else ""), ""
    if type(default) is float and type(found) is int:
        return float(found)
    if type(default) is int and type(found) is float and math.isfinite(found) and found == int(found):
        return int(found)
    if type(found) is type(default):
        return found
    if type(found) is str and _reads_as(found, type(default)):
        advice = "; write it without quotes"
    elif type(default) is str and type(found) in (bool, int, float) and not or_number:
        advice = f"; write it in quotes, '\"{_shown(found)}\"'"
    raise ParameterValueError(f"parameter {name} must be {wanted}, found {_described(found)}{advice}")


def _list(name: str, found: Any, default: Sequence[Any]) -> list[Any]:
    kind = type(default[0])
    wanted = _WANTED_LISTS[kind]
    if found is None or found == []:
        if kind is str:
            # rclpy takes an empty list for one of bytes, which could not be changed to texts any more.
            return [""]
        raise ParameterValueError(f"parameter {name} must be {wanted}, found an empty list")
    if not isinstance(found, list):
        advice = f"; write it in brackets, [{found}]" if type(found) is kind else ""
        raise ParameterValueError(f"parameter {name} must be {wanted}, found {_described(found)}{advice}")
    try:
        return [fitting(name, each, default[0]) for each in found]
    except ParameterValueError:
        raise ParameterValueError(f"parameter {name} must be {wanted}, found {found}") from None


_WANTED = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
_WANTED_LISTS = {int: "a list of whole numbers", float: "a list of numbers", str: "a list of names"}


def _described(found: Any) -> str:
    if found is None or found == []:
        return "an empty list"
    if isinstance(found, str):
        return f"the text {found!r}"
    if isinstance(found, list):
        return f"the list {found}"
    return f"{_shown(found)}" if isinstance(found, bool) else f"the number {_shown(found)}"


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _reads_as(text: str, kind: type) -> bool:
    if kind is bool:
        return text.lower() in ("true", "false", "yes", "no", "on", "off")
    try:
        number = float(text)
    except ValueError:
        return False
    return kind is float or (kind is int and number.is_integer())


def _likeness(name: str, known: str) -> float:
    """How probable it is, 0..1, that a user who wrote `name` has meant `known`: the whole, its end or a part of it."""
    part = len(_plain(name)) >= _LONG_PART and _plain(name) in _plain(known)
    return max(_alike(name, known), 0.95 * _alike(_last(name), _last(known)), 0.8 * part)


def _alike(one: str, other: str) -> float:
    return SequenceMatcher(None, _plain(one), _plain(other), autojunk=False).ratio()


def _plain(name: str) -> str:
    return re.sub(r"[._/\-\s]", "", name).lower()


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _topic(name: str) -> tuple[str, str]:
    """The topic and the kind, `publisher` or `subscription`, of a parameter that rclpy has made for QoS."""
    parts = _QOS_NAME.fullmatch(name)
    return (parts["topic"], parts["kind"]) if parts else ("", "")
