"""Reads what a command line gives as parameters, for the messages about what ROS refuses or passes over.

ROS itself takes the parameters. It says of a file that it refuses a line of its own source, and of a file for another
node nothing at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

_PARAMETERS = "ros__parameters"
_RULE = re.compile(r"(?:(?P<node>[^:]+):)?(?P<name>[^:]+):=(?P<text>.*)", re.DOTALL)


@dataclass(frozen=True)
class Value:
    """A parameter on a command line, `-p [node:]name:=text`. `node` is "" where it is for every node."""

    node: str
    name: str
    text: str


@dataclass(frozen=True)
class Given:
    """The parameters of a command line: its parameter files and its values, in their order."""

    files: tuple[Path, ...] = ()
    values: tuple[Value, ...] = ()


def given_by(command_line: Sequence[str]) -> Given:
    """Returns the parameters that the ROS arguments of a command line give."""
    files, values, ours = [], [], False
    arguments = iter(command_line)
    for argument in arguments:
        if argument in ("--ros-args", "--"):
            ours = argument == "--ros-args"
        elif ours and argument == "--params-file":
            files.append(Path(next(arguments, "")))
        elif ours and argument in ("-p", "--param") and (rule := _RULE.fullmatch(next(arguments, ""))):
            values.append(Value(rule["node"] or "", rule["name"], rule["text"]))
    return Given(tuple(files), tuple(values))


def nodes_of(file: Path) -> tuple[str, ...]:
    """Returns the names of the nodes that a parameter file is for, such as `/**` or `/car/segmenter`.

    Of a file that cannot be read there are none.
    """
    try:
        document = yaml.safe_load(file.read_text())
    except (OSError, ValueError, yaml.YAMLError):
        return ()
    return tuple(_full(name) for name, _ in _blocks(document, ()))


def is_for(name: str, node: str) -> bool:
    """Returns whether parameters under this name are for the node.

    name: as it stands in a parameter file; `*` stands for one part of a node's name and `**` for any number of parts
    node: full name of the node, such as `/car/segmenter`
    """
    parts = (_part(part) for part in _full(name)[1:].split("/"))
    return re.fullmatch("".join(parts), node) is not None


def fault_in(given: Given) -> str:
    """Returns what ROS cannot take about these parameters, in words; "" where nothing is found."""
    faults = (*(_file_fault(file) for file in given.files), *(_value_fault(value) for value in given.values))
    return next((fault for fault in faults if fault), "")


def _file_fault(file: Path) -> str:
    try:
        document = yaml.safe_load(file.read_text())
    except FileNotFoundError:
        return f"there is no parameter file {file}"
    except OSError as error:
        return f"the parameter file {file} cannot be read: {error.strerror}"
    except UnicodeDecodeError:
        return f"the parameter file {file} is not text"
    except yaml.YAMLError as error:
        return f"the parameter file {file} is not YAML: {' '.join(str(error).split())}"
    if document is None:
        return ""
    if not isinstance(document, Mapping):
        return f"the parameter file {file} holds no parameters by name; expected {_expected('weights: default')}"
    if outside := next(_outside(document, ()), None):
        name, line = outside
        return f"the parameter file {file} has {name} outside of a node's {_PARAMETERS}; expected {_expected(line)}"
    faults = (_refused(*leaf) for _, block in _blocks(document, ()) for leaf in _leaves(block))
    return next((f"in the parameter file {file}, {fault}" for fault in faults if fault), "")


def _value_fault(value: Value) -> str:
    try:
        read = yaml.safe_load(value.text)
    except yaml.YAMLError as error:
        return f"the value of {value.name} on the command line is not YAML: {' '.join(str(error).split())}"
    if isinstance(read, Mapping):
        inner = next((name for name, _ in _leaves(read)), "")
        return f"{value.name} on the command line has values under it; give each alone, -p {value.name}.{inner}:=..."
    # What YAML calls null is a text to ROS here, unless there is nothing at all.
    fault = _refused(value.name, read) if read is not None or not value.text.strip() else ""
    return f"on the command line, {fault}" if fault else ""


def _refused(name: str, value: Any) -> str:
    if value is None:
        return f"parameter {name} has no value; give one, or leave the parameter out"
    if not isinstance(value, list) or len({type(each) for each in value}) < 2:
        return ""
    if {type(each) for each in value} == {int, float}:
        return f"parameter {name} mixes whole numbers with others, {value}; give every number a decimal point"
    return f"parameter {name} mixes kinds of values, {value}; a list is of one kind"


def _expected(line: str) -> str:
    return f"/**: {{{_PARAMETERS}: {{{line}}}}}"


def _blocks(tree: Any, path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """The name of each node in a file, with its parameters."""
    if not isinstance(tree, Mapping):
        return
    for key, value in tree.items():
        if key == _PARAMETERS:
            yield "/".join(path), value
        else:
            yield from _blocks(value, (*path, str(key)))


def _outside(tree: Mapping[Any, Any], path: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """What belongs to no node: each parameter's name, and the line that it should be."""
    for key, value in tree.items():
        if key == _PARAMETERS:
            if not path and isinstance(value, Mapping):
                yield from ((name, f"{name}: {each}") for name, each in _leaves(value))
        elif isinstance(value, Mapping):
            yield from _outside(value, (*path, str(key)))
        else:
            yield str(key), f"{key}: {value}"


def _leaves(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _leaves(value, f"{prefix}.{key}" if prefix else str(key))
    elif prefix:
        yield prefix, tree


def _full(name: str) -> str:
    return "/" + re.sub("/+", "/", name).strip("/")


def _part(part: str) -> str:
    if part == "**":
        return r"(/\w+)*"
    return r"/\w+" if part == "*" else "/" + re.escape(part)
