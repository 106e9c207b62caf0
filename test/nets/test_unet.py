"""The network computes what the published ones compute: recorded features and logits of the real upstream code."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import golden
from spvnas_ros.nets.spec import NetSpec
from spvnas_ros.nets.spec_error import SpecError
from spvnas_ros.nets.unet import PointVoxelUNet
from spvnas_ros.sparse import build_levels


def tolerance(model: str) -> float:
    # mit-han-lab's SPVCNN takes its points through (x * 0.05) / 0.05 in float32, which does not give integers back.
    return 1e-3 if model.startswith("spvcnn") else 1e-4


def assert_close(ours: Tensor, recorded: np.ndarray, limit: float) -> None:
    theirs = torch.from_numpy(recorded)
    scale = float(theirs.abs().max())
    assert float((ours - theirs).abs().max()) <= limit * max(scale, 1.0)


@pytest.mark.parametrize(("model", "case"), golden.CASES)
@torch.no_grad()
def test_logits_match_upstream(shared: Path, model: str, case: str) -> None:
    folder = shared / "golden"
    net = golden.network(folder, model)
    with np.load(folder / f"{model}_{case}.npz") as data:
        logits = net(golden.coords(data["in/C"]), torch.from_numpy(data["in/F"]))
        assert_close(logits, data["logits_voxel"], tolerance(model))
        assert (logits.argmax(1).numpy() == data["logits_voxel"].argmax(1)).all()


@pytest.mark.parametrize(("model", "case"), [(m, c) for m, c in golden.CASES if c != "20k"])
@torch.no_grad()
def test_intermediate_features_match_upstream(shared: Path, model: str, case: str) -> None:
    folder = shared / "golden"
    net = golden.network(folder, model)
    seen: dict[str, Tensor] = {}
    watched = {
        "stem": net.stem[1],
        **{f"stage{i + 1}": stage for i, stage in enumerate(net.encoder)},
        **{f"up{i + 1}": stage for i, stage in enumerate(net.decoder)},
        **{f"up{i + 1}_deconv": stage.transition for i, stage in enumerate(net.decoder)},
        **{f"z{i + 1}": fusion for i, fusion in enumerate(net.points)},
    }
    for name, module in watched.items():
        module.register_forward_hook(lambda _m, _i, out, name=name: seen.__setitem__(name, out))
    level_of = {"stem": 0} | {f"stage{i}": i for i in range(1, 5)} | {f"up{i}": 4 - i for i in range(1, 5)}
    with np.load(folder / f"{model}_{case}.npz") as data:
        coords = golden.coords(data["in/C"])
        levels = build_levels(coords)
        net(coords, torch.from_numpy(data["in/F"]), levels)
        compared = 0
        for name, feats in seen.items():
            if f"mid/{name}/C" in data.files:
                level = level_of[name.removesuffix("_deconv")]
                rows = levels.levels[level].find(golden.coords(data[f"mid/{name}/C"], 1 << level))
                assert_close(feats[rows], data[f"mid/{name}/F"], tolerance(model))
            elif f"mid/{name}" in data.files:
                assert_close(feats, data[f"mid/{name}"][levels.order.numpy()], tolerance(model))
            elif f"mid/{name}/F" in data.files:
                assert_close(feats, data[f"mid/{name}/F"][levels.order.numpy()], tolerance(model))
            else:
                continue
            compared += 1
    assert compared >= (13 if model.startswith("minkunet") else 12), compared


@pytest.mark.parametrize(
    ("spec", "parameters"),
    [
        (NetSpec.spvcnn(16), 5_449_267),
        (NetSpec.spvcnn(20), 8_793_617),
        (NetSpec.spvcnn(32), 21_778_003),
        (NetSpec.minkunet(16), 5_435_235),
        (NetSpec.minkunet(20), 8_771_298),
        (NetSpec.minkunet(32), 21_723_315),
    ],
)
def test_parameter_counts_are_the_published_ones(spec: NetSpec, parameters: int) -> None:
    with torch.device("meta"):
        net = PointVoxelUNet(spec)
    assert sum(p.numel() for p in net.parameters()) == parameters


def test_w20_has_the_published_widths() -> None:
    spec = NetSpec.spvcnn(20)
    widths = [spec.stem[1], *(stage.out for stage in (*spec.encoder, *spec.decoder))]
    assert widths == [20, 20, 40, 81, 163, 163, 81, 61, 61]


def test_a_spec_survives_its_dictionary(shared: Path) -> None:
    for spec in (NetSpec.spvcnn(20), NetSpec.minkunet(16), golden.spec(shared / "golden", "spvnas_small")):
        assert NetSpec.from_dict(spec.to_dict()) == spec


def test_a_spec_says_levels_only_where_the_point_branch_is_neither_whole_nor_absent() -> None:
    """So that earlier programs read what they can run, and refuse what they cannot."""
    plain = NetSpec.spvcnn(4)
    for levels in product((False, True), repeat=3):
        spec = replace(plain, point_levels=levels)
        document = json.loads(json.dumps(spec.to_dict()))
        assert NetSpec.from_dict(document) == spec
        assert document["point_branch"] == any(levels)
        assert ("point_levels" in document) == (len(set(levels)) > 1)
    for wrong in ([True, False], [1, 0, 1], "yes", [False, False, False]):
        with pytest.raises(SpecError):
            NetSpec.from_dict(plain.to_dict() | {"point_levels": wrong})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"downsample.1.transition": None}, r"'downsample.1.transition' must be a positive integer, found None"),
        ({"output_channels": [8, 4]}, r"'output_channels' must list 9 widths, found \[8, 4\]"),
        ({"point_transforms.0": 44}, r"point transforms of widths \(44, 32, 16\)"),
    ],
)
def test_a_broken_net_config_is_named(shared: Path, change: dict[str, object], message: str) -> None:
    config = json.loads((shared / "golden" / "spvnas_small_net.config.json").read_text())
    with pytest.raises(SpecError, match=message):
        NetSpec.from_net_config(config | change)
    del config["num_classes"]
    with pytest.raises(SpecError, match="no entry 'num_classes'"):
        NetSpec.from_net_config(config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_classes": 256}, "num_classes must be in 1..255"),
        ({"num_classes": 0}, "num_classes"),
        ({"in_channels": 2}, "in_channels must be at least 3"),
    ],
)
def test_networks_whose_labels_or_points_cannot_be_held_are_refused(change: dict[str, int], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        NetSpec.spvcnn(4, **change)


def test_scans_of_a_batch_do_not_see_each_other() -> None:
    torch.manual_seed(0)
    net = PointVoxelUNet(NetSpec.spvcnn(4)).eval()
    a = torch.unique(torch.randint(0, 30, (300, 3)), dim=0)
    b = torch.unique(torch.randint(0, 30, (200, 3)), dim=0)
    feats = [torch.randn(len(a), 4), torch.randn(len(b), 4)]
    coords = [torch.cat([torch.full((len(c), 1), i), c], dim=1) for i, c in enumerate((a, b))]
    with torch.no_grad():
        together = net(torch.cat(coords), torch.cat(feats))
        alone = torch.cat([net(c * torch.tensor([0, 1, 1, 1]), f) for c, f in zip(coords, feats, strict=True)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_gradients_reach_every_parameter() -> None:
    torch.manual_seed(0)
    net = PointVoxelUNet(NetSpec.spvcnn(4)).train()
    cells = torch.unique(torch.randint(0, 40, (500, 3)), dim=0)
    coords = torch.cat([torch.zeros(len(cells), 1, dtype=torch.long), cells], dim=1)
    net(coords, torch.randn(len(cells), 4)).square().mean().backward()
    assert all(p.grad is not None and float(p.grad.abs().sum()) > 0 for p in net.parameters())
