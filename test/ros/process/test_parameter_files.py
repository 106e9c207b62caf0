"""What a command line gives as parameters, and what of it ROS refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from spvnas_ros.ros.process.parameter_files import Given, Value, fault_in, given_by, is_for, nodes_of


def test_files_and_values_are_those_of_the_ros_arguments() -> None:
    line = "node --params-file no.yaml --ros-args --params-file a.yaml -r x:=y -p range.max:=60 -- -p no:=1 --ros-args"
    more = ["--param", "qos_overrides./a.subscription.depth:=2", "-p", "other:weights:=a:=b", "--params-file", "b.yaml"]
    assert given_by([*line.split(), *more]) == Given(
        (Path("a.yaml"), Path("b.yaml")),
        (
            Value("", "range.max", "60"),
            Value("", "qos_overrides./a.subscription.depth", "2"),
            Value("other", "weights", "a:=b"),
        ),
    )
    assert given_by(["--ros-args", "-p"]) == Given()


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("/**", True),
        ("**", True),
        ("/car/segmenter", True),
        ("car/segmenter", True),
        ("/*/segmenter", True),
        ("/**/segmenter", True),
        ("/car/*", True),
        ("/car/segmenter/**", True),
        ("segmenter", False),
        ("/*", False),
        ("/car", False),
        ("/car/segmenter2", False),
        ("/cars/segmenter", False),
    ],
)
def test_names_are_matched_as_ros_matches_them(name: str, ours: bool) -> None:
    assert is_for(name, "/car/segmenter") == ours


def test_nodes_are_found_under_their_namespaces(tmp_path: Path) -> None:
    file = tmp_path / "many.yaml"
    file.write_text("/**: {ros__parameters: {a: 1}}\ncar:\n  segmenter: {ros__parameters: {b: 1}}\n")
    assert nodes_of(file) == ("/**", "/car/segmenter")
    assert nodes_of(tmp_path / "nowhere.yaml") == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "weights: default",
            "has weights outside of a node's ros__parameters; expected /**: {ros__parameters: {weights",
        ),
        ("segmenter: {range: {max: 60.0}}", "has max outside of a node's ros__parameters"),
        ("ros__parameters: {range: {max: 60.0}}", "expected /**: {ros__parameters: {range.max: 60.0}}"),
        ("- weights", "holds no parameters by name"),
        ("/**: {ros__parameters: {weights: [a}}", "is not YAML: "),
        ("/**: {ros__parameters: {range: {max: }}}", "parameter range.max has no value"),
        ("/**: {ros__parameters: {a: [1, 2.5]}}", "mixes whole numbers with others, [1, 2.5]; give every number a"),
        ("/**: {ros__parameters: {a: [1, road]}}", "parameter a mixes kinds of values"),
        ("/**: {ros__parameters: {a: [1, 2], b: [], c: 1}}", ""),
        ("", ""),
    ],
)
def test_what_ros_refuses_in_a_file_is_told_in_words(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    fault = fault_in(Given((file,)))
    assert said in fault
    assert (str(file) in fault) == bool(said)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "on the command line, parameter a has no value"),
        ("[1, 2.5]", "on the command line, parameter a mixes whole numbers with others"),
        ("{b: 1}", "give each alone, -p a.b:=..."),
        ("[1", "the value of a on the command line is not YAML"),
        ("null", ""),
        ("5", ""),
    ],
)
def test_what_ros_refuses_on_the_command_line_is_told_in_words(text: str, said: str) -> None:
    fault = fault_in(Given(values=(Value("", "a", text),)))
    assert said in fault
    assert bool(fault) == bool(said)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    assert fault_in(Given((tmp_path / "nowhere.yaml",))) == f"there is no parameter file {tmp_path / 'nowhere.yaml'}"
    assert "cannot be read: Is a directory" in fault_in(Given((tmp_path,)))
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    assert "is not text" in fault_in(Given((tmp_path / "binary.yaml",)))
