"""Torch files are read without running what they pickle."""

from __future__ import annotations

import argparse
import collections
import contextlib
import datetime
import io
import os
import pickle
import struct
import sys
import types
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spvnas_ros.zoo import checkpoint
from spvnas_ros.zoo.checkpoint import CheckpointError
from spvnas_ros.zoo.importers.inert_pickle import Global, Inert, Machine
from spvnas_ros.zoo.importers.torch_file import read_torch_file

CONTAINERS = [
    pytest.param({}, id="zip"),
    pytest.param({"_use_new_zipfile_serialization": False}, id="legacy"),
    pytest.param({"pickle_protocol": 4}, id="zip-protocol-4"),
    pytest.param({"pickle_protocol": 5, "_use_new_zipfile_serialization": False}, id="legacy-protocol-5"),
]


def through_file(value: Any, path: Path, **options: Any) -> Any:
    torch.save(value, path, **options)
    return read_torch_file(path)


def with_pickle(path: Path, pickled: bytes) -> Path:
    """The torch zip file at `path` with another pickle in it, and sound checksums."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, pickled if name.endswith("data.pkl") else content)
    return path


def run_pickle(pickled: bytes) -> Any:
    return Machine({}, {}, lambda identifier: identifier).run(io.BytesIO(pickled))


@pytest.mark.parametrize("options", CONTAINERS)
def test_tensors_and_containers_are_rebuilt(tmp_path: Path, options: dict[str, Any]) -> None:
    base = torch.arange(24, dtype=torch.float32)
    tensors = {
        "plain": torch.randn(3, 4),
        "half": torch.randn(5).half(),
        "bfloat16": torch.randn(5).bfloat16(),
        "double": torch.randn(2, 2, dtype=torch.float64),
        "long": torch.arange(4),
        "uint8": torch.arange(4, dtype=torch.uint8),
        "bool": torch.tensor([True, False]),
        "scalar": torch.tensor(7),
        "empty": torch.empty(0, 3),
        "transposed": base.view(4, 6).T,
        "strided": base[1::3],
        "shared": base[5:9],
        "parameter": torch.nn.Parameter(torch.randn(3)),
        "expanded": torch.ones(1).expand(1000),
    }
    value = {
        "tensors": collections.OrderedDict(tensors),
        "module": torch.nn.Linear(2, 3).state_dict(),
        "others": [1, 2.5, "text", None, True, (1, 2), {3}, b"bytes", 1 << 80],
        "numpy": [np.float64(0.5), np.float32(-1.5), np.int64(3), np.bool_(True)],
        "size": torch.Size([2, 3]),
        "dtype": torch.bfloat16,
        "default": collections.defaultdict(list, {"a": 1}),
    }
    found = through_file(value, tmp_path / "file.pth", **options)
    assert found["tensors"].keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found["tensors"][name].dtype == tensor.dtype
        assert torch.equal(found["tensors"][name], tensor), name
    assert found["module"].keys() == {"weight", "bias"}
    assert found["others"] == value["others"]
    assert found["numpy"] == value["numpy"]
    assert [type(v) for v in found["numpy"]] == [type(v) for v in value["numpy"]]
    assert (found["size"], found["dtype"], found["default"]) == ((2, 3), torch.bfloat16, {"a": 1})


def test_shared_storages_stay_shared(tmp_path: Path) -> None:
    base = torch.zeros(10)
    found = through_file({"all": base, "part": base[2:5]}, tmp_path / "file.pth")
    found["all"][3] = 1
    assert found["part"].tolist() == [0, 1, 0]


@pytest.mark.parametrize("options", CONTAINERS)
def test_a_checkpoint_of_mmengine_is_read_where_mmengine_is_not_installed(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    path = tmp_path / "epoch_15.pth"
    module = types.ModuleType("mmengine_history_buffer")

    class HistoryBuffer:
        def __init__(self) -> None:
            self._log_history = np.arange(2000, dtype=np.float64)
            self._statistics_methods = {"mean": np.mean}

    HistoryBuffer.__module__, HistoryBuffer.__qualname__ = module.__name__, "HistoryBuffer"
    module.HistoryBuffer = HistoryBuffer  # type: ignore[attr-defined]
    net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8))
    optimizer = torch.optim.AdamW(net.parameters())
    net(torch.randn(5, 4)).sum().backward()
    optimizer.step()
    sys.modules[module.__name__] = module
    try:
        saved = {
            "meta": {"epoch": 15, "time": datetime.datetime.now(), "args": argparse.Namespace(lr=0.24), "cfg": "a = 1"},
            "state_dict": net.state_dict(),
            "message_hub": {"log_scalars": {"train/loss": HistoryBuffer()}, "runtime_info": {"iter": np.int64(9)}},
            "optimizer": optimizer.state_dict(),
            "param_schedulers": [{"base_values": [0.24], "_global_step": 3}],
        }
        torch.save(saved, path, **options)
    finally:
        del sys.modules[module.__name__]
    found = read_torch_file(path)
    assert all(torch.equal(found["state_dict"][key], value) for key, value in net.state_dict().items())
    assert torch.equal(found["optimizer"]["state"][0]["exp_avg"], optimizer.state_dict()["state"][0]["exp_avg"])
    buffer = found["message_hub"]["log_scalars"]["train/loss"]
    assert isinstance(buffer, Inert)
    assert buffer.name == f"{module.__name__}.HistoryBuffer"
    assert set(buffer.state) == {"_log_history", "_statistics_methods"}
    assert found["meta"]["time"].name == "datetime.datetime"
    assert found["meta"]["args"].state == {"lr": 0.24}
    assert found["message_hub"]["runtime_info"] == {"iter": 9}


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


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [
        (0, (5,), (1,)),
        (4, (1,), (1,)),
        (0, (2, 2), (3, 1)),
        (-1, (1,), (1,)),
        (0, (-1,), (1,)),
        (0, (2,), (-1,)),
        (0, (1 << 61, 4), (0, 0)),
        (0, (2, 2), (1,)),
        (0, (1.5,), (1,)),
        (1 << 70, (1,), (1,)),
        (0, (1,) * 40, (1,) * 40),
    ],
)
@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
def test_a_tensor_that_reaches_out_of_its_storage_is_refused(
    tmp_path: Path, offset: int, size: tuple[int, ...], stride: tuple[int, ...]
) -> None:
    class Reaching:
        def __init__(self, storage: Any) -> None:
            self.storage = storage

        def __reduce__(self) -> Any:
            return torch._utils._rebuild_tensor_v2, (self.storage, offset, size, stride, False, {})

    torch.save({"model": Reaching(torch.zeros(4).storage())}, tmp_path / "file.pth")
    with pytest.raises(CheckpointError, match=r"shape"):
        read_torch_file(tmp_path / "file.pth")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "an empty file"),
        (b"<!DOCTYPE html><html>404</html>", "a web page"),
        (b"\x1f\x8b\x08" + bytes(300), "a tar or gzip archive"),
        (b"\x10\0\0\0\0\0\0\0{}" + bytes(30), "a .safetensors file"),
        (b"some text", "a file that begins with"),
        (pickle.dumps([1, 2]), "a pickle or another binary file"),
        (b"\x80\x02" + bytes(50), "a pickle or another binary file"),
        (b"PK\x03\x04" + bytes(50), "cut short or damaged"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "file.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_torch_file(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_and_other_zip_archives_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="No such file"):
        read_torch_file(tmp_path / "absent.pth")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("readme.txt", "nothing here")
    with pytest.raises(CheckpointError, match=r"no data\.pkl"):
        read_torch_file(tmp_path / "other.zip")
    torch.save({"a": torch.zeros(3)}, tmp_path / "whole.pth")
    with zipfile.ZipFile(tmp_path / "whole.pth") as whole, zipfile.ZipFile(tmp_path / "part.pth", "w") as part:
        for name in whole.namelist():
            if not name.endswith("data/0"):
                part.writestr(name, whole.read(name))
    with pytest.raises(CheckpointError, match="no part 'data/0'"):
        read_torch_file(tmp_path / "part.pth")
    with zipfile.ZipFile(tmp_path / "whole.pth") as whole, zipfile.ZipFile(tmp_path / "deflated.pth", "w", 8) as packed:
        for name in whole.namelist():
            packed.writestr(name, whole.read(name))
    with pytest.raises(CheckpointError, match="is compressed"):
        read_torch_file(tmp_path / "deflated.pth")


def test_a_damaged_number_is_found_by_the_archives_checksum(tmp_path: Path) -> None:
    path = tmp_path / "file.pth"
    torch.save({"a": torch.full((100,), 3.0)}, path)
    raw = path.read_bytes()
    path.write_bytes(raw.replace(struct.pack("<f", 3.0), struct.pack("<f", 4.0), 1))
    with pytest.raises(CheckpointError, match="damaged"):
        read_torch_file(path)


@pytest.mark.parametrize("options", CONTAINERS)
def test_a_file_cut_anywhere_is_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    path = tmp_path / "file.pth"
    torch.save({"a": torch.randn(40), "b": torch.randn(3).half()}, path, **options)
    raw = path.read_bytes()
    for length in range(0, len(raw), 7):
        path.write_bytes(raw[:length])
        with pytest.raises(CheckpointError):
            read_torch_file(path)


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
@pytest.mark.filterwarnings("ignore:invalid escape sequence")
@pytest.mark.parametrize(
    ("options", "inside"),
    [
        pytest.param({}, False, id="zip"),
        pytest.param({}, True, id="pickle-in-zip"),
        pytest.param({"_use_new_zipfile_serialization": False}, False, id="legacy"),
    ],
)
def test_damaged_files_give_a_named_error_or_a_result(
    tmp_path: Path, options: dict[str, Any], inside: bool, data: st.DataObject
) -> None:
    path = tmp_path / "file.pth"
    value = {
        "a": torch.ones(6),
        "b": {"c": [torch.zeros(2, 3).half(), np.float64(2), {1, 2}, datetime.date(2020, 1, 1)]},
    }
    torch.save(value, path, **options)
    if inside:
        with zipfile.ZipFile(path) as archive:
            raw = archive.read("file/data.pkl")
        with_pickle(path, mutated(raw, data))
    else:
        path.write_bytes(mutated(path.read_bytes(), data))
    with contextlib.suppress(CheckpointError):
        read_torch_file(path)


def mutated(raw: bytes, data: st.DataObject) -> bytes:
    """The bytes with a few of them changed, removed or repeated."""
    changed = bytearray(raw)
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, max(len(changed) - 1, 0)))
        how = data.draw(st.sampled_from(["set", "delete", "insert", "repeat"]))
        if how == "set":
            changed[at : at + 1] = bytes([data.draw(st.integers(0, 255))])
        elif how == "delete":
            del changed[at : at + data.draw(st.integers(1, 20))]
        elif how == "insert":
            changed[at:at] = data.draw(st.binary(min_size=1, max_size=9))
        else:
            changed[at:at] = changed[at : at + 30]
    return bytes(changed)
