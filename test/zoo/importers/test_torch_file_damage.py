"""What is no whole torch file is refused, and the error says what was found."""

from __future__ import annotations

import contextlib
import datetime
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spvnas_ros.zoo.checkpoint import CheckpointError
from spvnas_ros.zoo.importers.torch_file import read_torch_file
from torch_files import CONTAINERS, with_pickle


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
