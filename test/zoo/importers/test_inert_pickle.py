"""Pickles are read without running what they ask for."""

from __future__ import annotations

import collections
import io
import os
import struct
from pathlib import Path
from typing import Any

import pytest
import torch

from spvnas_ros.zoo import checkpoint
from spvnas_ros.zoo.checkpoint import CheckpointError
from spvnas_ros.zoo.importers.inert_pickle import Global, Inert, Machine
from spvnas_ros.zoo.importers.torch_file import read_torch_file
from torch_files import CONTAINERS, with_pickle


def run_pickle(pickled: bytes) -> Any:
    return Machine({}, {}, lambda identifier: identifier).run(io.BytesIO(pickled))


class Evil:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, how: str, marker: Path) -> None:
        self.how, self.marker = how, str(marker)

    def __reduce__(self) -> Any:
        touch = f"open({self.marker!r}, 'w').close()"
        return {
            "system": (os.system, (f"touch '{self.marker}'",)),
            "eval": (eval, (touch,)),
            "exec": (exec, (touch,)),
            "getattr": (getattr, (LeavesAFile(self.marker), "now")),
            "setstate": (SetsState, (), {"marker": self.marker}),
            "dict-items": (dict, (), None, None, iter([(KeyThatActs(self.marker), 1)])),
        }[self.how]


class LeavesAFile:
    def __init__(self, marker: str) -> None:
        self.marker = marker

    def __getattr__(self, name: str) -> Any:
        if name == "now":
            Path(self.__dict__["marker"]).touch()
        raise AttributeError(name)

    def __reduce__(self) -> Any:
        return (LeavesAFile, (self.marker,))


class SetsState:
    def __setstate__(self, state: dict[str, str]) -> None:
        Path(state["marker"]).touch()


class KeyThatActs:
    def __init__(self, marker: str) -> None:
        self.marker = marker

    def __hash__(self) -> int:
        Path(self.marker).touch()
        return 0

    def __reduce__(self) -> Any:
        return (KeyThatActs, (self.marker,))


@pytest.mark.parametrize("options", CONTAINERS)
@pytest.mark.parametrize("how", ["system", "eval", "exec", "getattr", "setstate", "dict-items"])
def test_nothing_in_a_malicious_file_runs(tmp_path: Path, how: str, options: dict[str, Any]) -> None:
    path, marker = tmp_path / "file.pth", tmp_path / "marker"
    weights = torch.nn.Linear(2, 3).state_dict()
    state = collections.OrderedDict(weights)
    state["poison"] = Evil(how, marker)  # type: ignore[assignment]
    nested = {"meta": [{"deep": (Evil(how, marker),)}], "state_dict": state, "hook": Evil(how, marker)}
    torch.save(nested, path, **options)
    marker.unlink(missing_ok=True)

    found = read_torch_file(path)
    assert not marker.exists()
    assert all(torch.equal(found["state_dict"][key], value) for key, value in weights.items())
    assert isinstance(found["hook"], Inert | dict)

    # The same file, given to the unpickler that trusts it, does leave the marker: the attack is a real one.
    try:
        torch.load(path, weights_only=False)
    except AttributeError:
        assert how == "getattr"
    assert marker.exists()


def test_a_pickle_cannot_write_into_live_classes() -> None:
    before = dict(vars(CheckpointError))
    pickled = (
        b"\x80\x02cspvnas_ros.zoo.checkpoint\nCheckpointError\n"
        b"N}X\x07\x00\x00\x00__str__X\x04\x00\x00\x00gone\x73\x86b."
    )
    assert run_pickle(pickled) == Global("spvnas_ros.zoo.checkpoint.CheckpointError")
    assert dict(vars(checkpoint.CheckpointError)) == before


def test_old_and_rare_opcodes_stay_inert(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    command = f"touch {marker}".encode()
    obj = b"(cos\nsystem\n(U" + bytes([len(command)]) + command + b"o."
    inst = b"(S'" + command + b"'\nios\nsystem\n."
    stack_global = b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c" + bytes([len(command)]) + command + b"\x85R."
    extension = b"\x80\x02\x82\x07)R."
    new_object_ex = b"\x80\x04\x8c\x02os\x8c\x06system\x93)}\x92."
    found = [run_pickle(p) for p in (obj.replace(b"\n(U", b"\nU"), inst, stack_global, extension, new_object_ex)]
    assert [value.name for value in found] == [
        "os.system",
        "os.system",
        "os.system",
        "copyreg extension 7",
        "os.system",
    ]
    assert not marker.exists()


def test_a_pickle_that_asks_for_too_much_is_refused_at_once() -> None:
    memo = b"\x80\x02Nr\xff\xff\xff\x7f."
    long_bytes = b"\x80\x04\x8e" + struct.pack("<Q", 1 << 60) + b"abc."
    long_bytearray = b"\x80\x05\x96" + struct.pack("<Q", 1 << 60) + b"abc."
    assert run_pickle(memo) is None
    for pickled in (
        long_bytes,
        long_bytearray,
        b"",
        b"\x80\x02",
        b"garbage",
        b"\x80\x02R.",
        b"\x80\x05\x97.",
    ):
        with pytest.raises(CheckpointError, match="malformed pickle"):
            run_pickle(pickled)


def test_keys_that_nest_without_end_are_not_hashed() -> None:
    pickled = b"\x80\x02})" + b"2\x86" * 60 + b"K\x01s."
    (key,) = run_pickle(pickled)
    assert isinstance(key, Inert)


def test_a_file_that_copies_itself_over_and_over_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file.pth"
    torch.save({}, path)
    text = b"X" + struct.pack("<I", 1 << 20) + b"a" * (1 << 20) + b"q\x01"
    copies = b"c_codecs\nencode\nh\x01X\x06\x00\x00\x00latin1\x86R0" * 200
    with_pickle(path, b"\x80\x02" + text + copies + b".")
    with pytest.raises(CheckpointError, match="over and over"):
        read_torch_file(path)
