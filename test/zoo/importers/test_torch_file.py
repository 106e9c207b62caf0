"""Torch files of every container give back what was saved."""

from __future__ import annotations

import argparse
import collections
import datetime
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from spvnas_ros.zoo.importers.inert_pickle import Inert
from spvnas_ros.zoo.importers.torch_file import read_torch_file
from torch_files import CONTAINERS


def through_file(value: Any, path: Path, **options: Any) -> Any:
    torch.save(value, path, **options)
    return read_torch_file(path)


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
