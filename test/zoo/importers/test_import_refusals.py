"""A file that does not fit is refused, and every difference is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from published_files import recorded_state, save
from spvnas_ros.nets.box_spec import DetectorSpec
from spvnas_ros.nets.second import Second
from spvnas_ros.nets.spec import NetSpec
from spvnas_ros.nets.unet import PointVoxelUNet
from spvnas_ros.zoo.checkpoint import CheckpointError
from spvnas_ros.zoo.importers.projects import import_checkpoint


def test_every_difference_is_named_with_shapes(golden: Path, tmp_path: Path) -> None:
    state = recorded_state(golden, "spvcnn_cr0.125")
    del state["stage2.1.net.3.kernel"]
    state["up1.0.net.0.kernel"] = torch.zeros(8, 32, 33)
    state["extra.weight"] = torch.zeros(2, 2)
    with pytest.raises(CheckpointError) as caught:
        import_checkpoint(save(state, tmp_path / "init"))
    message = str(caught.value)
    assert "missing: stage2.1.net.3.kernel, expected [27, 8, 8]" in message
    assert "misshapen: up1.0.net.0.kernel, expected [8, 32, 32], found [8, 32, 33]" in message
    assert "unexpected: extra.weight, found [2, 2]" in message
    assert str(tmp_path / "init") in message


@pytest.mark.parametrize("tag", ["spvcnn_cr0.125", "spvnas_small", "mmdet3d_spvcnn_small"])
def test_no_tensor_may_be_missing(golden: Path, tmp_path: Path, tag: str) -> None:
    state = recorded_state(golden, tag)
    # One of each sort; the full cross product takes a minute and finds nothing else.
    for key in (*list(state)[::45], *list(state)[-3:]):
        rest = {name: value for name, value in state.items() if name != key}
        with pytest.raises(CheckpointError) as caught:
            import_checkpoint(save(rest, tmp_path / "init"), kind=None if tag == "spvnas_small" else "spvcnn")
        assert key in str(caught.value)


def test_a_missing_layer_is_named(golden: Path, tmp_path: Path) -> None:
    state = recorded_state(golden, "mmdet3d_spvcnn_small")
    rest = {key: value for key, value in state.items() if not key.startswith("backbone.encoder.3.0.")}
    with pytest.raises(CheckpointError, match=r"whole layer is missing: backbone\.encoder\.3\.0\.net\.0\.kernel"):
        import_checkpoint(save(rest, tmp_path / "a.pth"))


def test_a_supernet_is_no_network_without_a_net_config(golden: Path, tmp_path: Path) -> None:
    state = recorded_state(golden, "spvnas_small_supernet")
    with pytest.raises(CheckpointError, match="supernet, which holds many networks"):
        import_checkpoint(save(state, tmp_path / "init"))


def test_files_with_something_else_in_them_are_refused(golden: Path, tmp_path: Path) -> None:
    state = recorded_state(golden, "spvcnn_cr0.125")
    not_finite = state | {"stem.0.kernel": torch.full((27, 4, 4), float("nan"))}
    expanded = state | {"classifier.0.weight": torch.zeros(1).expand(1 << 20, 1 << 20)}
    other_classes = state | {"classifier.0.weight": torch.zeros(10, 12), "classifier.0.bias": torch.zeros(10)}
    cases: list[tuple[Any, str]] = [
        ({"model": {"conv1.weight": torch.zeros(3)}}, "or SECOND of OpenPCDet or mmdetection3d use; it has ['conv1"),
        (
            Second(DetectorSpec.second("openpcdet", 1)).state_dict(),
            "own names for SECOND, whose spec is not in the file",
        ),
        (PointVoxelUNet(NetSpec.spvcnn(4)).state_dict(), "own names, and the network's spec is not in the file"),
        ({"model": {"a": torch.zeros(3), "b": [1]}}, "entry 'b' is a list, expected a tensor"),
        ({"weights": 3, "epoch": 2}, "holds the entries"),
        ([torch.zeros(3)], "expected a dictionary of tensors"),
        (torch.nn.Linear(2, 2), "class torch.nn.modules.linear.Linear"),
        (not_finite, "stem.0.kernel has values that are not finite"),
        (expanded, "stores fewer values"),
        (other_classes, "tells 10 classes apart"),
    ]
    for content, message in cases:
        torch.save(content, tmp_path / "init")
        with pytest.raises(CheckpointError) as caught:
            import_checkpoint(tmp_path / "init")
        assert message in str(caught.value)


def test_configs_that_do_not_fit_are_refused(golden: Path, tmp_path: Path) -> None:
    config = json.loads((golden / "spvnas_small_net.config.json").read_text())
    source = save(recorded_state(golden, "spvnas_small"), tmp_path / "init")
    uniform = save(recorded_state(golden, "spvcnn_cr0.125"), tmp_path / "uniform")
    path = tmp_path / "net.config"
    for content, file, message in [
        ("{", source, "cannot read the network description"),
        ("[]", source, "must be a JSON object"),
        ("{}", source, "no entry"),
        (json.dumps(config | {"vres": 0.1}), source, "pres 0.05 and vres 0.1"),
        (json.dumps(config), uniform, "is that of an SPVNAS network"),
    ]:
        path.write_text(content)
        with pytest.raises(CheckpointError) as caught:
            import_checkpoint(file, config=path)
        assert message in str(caught.value)
    path.write_text(json.dumps({"num_classes": 19, "cr": 0.125, "pres": 0.05, "vres": 0.05}))
    assert import_checkpoint(uniform, config=path)[0].spec == NetSpec.spvcnn(4)
