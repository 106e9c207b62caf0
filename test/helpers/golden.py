"""Recorded upstream outputs: coordinates there are (x, y, z, batch) in finest voxels, names are upstream's."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from spvnas_ros.nets.spec import NetSpec
from spvnas_ros.nets.unet import PointVoxelUNet

MODELS = ("spvcnn_cr0.125", "minkunet_cr0.125", "spvnas_small", "mmdet3d_spvcnn_small")
CASES = [(m, c) for m in MODELS for c in ("3k", "20k", "2batch") if (m, c) != ("mmdet3d_spvcnn_small", "2batch")]


def spec(folder: Path, model: str) -> NetSpec:
    if model == "spvnas_small":
        return NetSpec.from_net_config(json.loads((folder / "spvnas_small_net.config.json").read_text()))
    return NetSpec.minkunet(4) if model.startswith("minkunet") else NetSpec.spvcnn(4)


def coords(recorded: np.ndarray, stride: int = 1) -> Tensor:
    """(x, y, z, batch) in finest voxels to (batch, x, y, z) in voxels of the stride."""
    c = torch.from_numpy(recorded.astype(np.int64))
    return torch.cat([c[:, 3:], c[:, :3] // stride], dim=1)


def weights(folder: Path, model: str) -> dict[str, np.ndarray]:
    """The recorded state dict, under upstream's names."""
    with np.load(folder / f"{model}_weights.npz") as archive:
        return {name.removeprefix("sd/"): archive[name] for name in archive.files}


def network(folder: Path, model: str) -> PointVoxelUNet:
    """Our network with the recorded weights, matched name by name and without the importers."""
    net = PointVoxelUNet(spec(folder, model))
    renamed = {ours(name): value for name, value in weights(folder, model).items()}
    state = {}
    for name, expected in net.state_dict().items():
        value = torch.from_numpy(np.asarray(renamed[name]))
        if name == "classifier.weight":
            value = value[:, : expected.shape[1]]
        state[name] = value
    net.load_state_dict(state)
    return net.eval()


def ours(name: str) -> str:
    """An upstream parameter's name in our network."""
    for pattern, replacement in _RULES:
        name = re.sub(pattern, replacement, name)
    return name


def _part(match: re.Match[str]) -> str:
    """Sequential positions: 0 conv, 1 norm, 3 second conv, 4 second norm."""
    return {"0": "first.conv", "1": "first.norm", "3": "second.conv", "4": "second.norm"}[match[1]]


_RULES = (
    # mmdetection3d to mit-han-lab
    (r"^backbone\.|^decode_head\.", ""),
    (r"^conv_seg\.", "classifier."),
    (r"^conv_input\.(\d)\.net\.0", r"stem.\1.conv"),
    (r"^conv_input\.(\d)\.net\.1", r"stem.\1.norm"),
    # mit-han-lab's plain networks
    (r"^stem\.0\.kernel", "stem.0.conv.kernel"),
    (r"^stem\.1\.(?!conv|norm)", "stem.0.norm."),
    (r"^stem\.3\.", "stem.1.conv."),
    (r"^stem\.4\.", "stem.1.norm."),
    (r"^stage(\d)\.", lambda m: f"encoder.{int(m[1]) - 1}."),
    (r"^up(\d)\.", lambda m: f"decoder.{int(m[1]) - 1}."),
    (r"^((?:en|de)coder\.\d)\.0\.net\.0", r"\1.transition.conv"),
    (r"^((?:en|de)coder\.\d)\.0\.net\.1", r"\1.transition.norm"),
    (r"^(encoder\.\d)\.(\d)\.", lambda m: f"{m[1]}.blocks.{int(m[2]) - 1}."),
    (r"^(decoder\.\d)\.1\.(\d)\.", r"\1.blocks.\2."),
    (r"(?<=\d)\.net\.([0134])(?=\.(?:kernel|weight|bias|running|num))", lambda m: "." + _part(m)),
    (r"\.downsample\.0\.kernel", ".projection.conv.kernel"),
    (r"\.downsample\.1\.", ".projection.norm."),
    (r"^point_transforms\.(\d)\.0\.", r"points.\1.linear."),
    (r"^point_transforms\.(\d)\.1\.", r"points.\1.norm."),
    (r"^classifier\.(?:0|linear)\.", "classifier."),
    # SPVNAS
    (r"^downsample\.(\d)\.", r"encoder.\1."),
    (r"^upsample\.(\d)\.", r"decoder.\1."),
    (r"transition\.net\.conv", "transition.conv"),
    (r"transition\.net\.bn", "transition.norm"),
    (r"feature\.(\d)\.net\.0\.net\.conv", r"blocks.\1.first.conv"),
    (r"feature\.(\d)\.net\.0\.net\.bn", r"blocks.\1.first.norm"),
    (r"feature\.(\d)\.net\.1\.net\.conv", r"blocks.\1.second.conv"),
    (r"feature\.(\d)\.net\.1\.net\.bn", r"blocks.\1.second.norm"),
    (r"feature\.(\d)\.downsample\.net\.conv", r"blocks.\1.projection.conv"),
    (r"feature\.(\d)\.downsample\.net\.bn", r"blocks.\1.projection.norm"),
    (r"^point_transforms\.(\d)\.net\.conv\.", r"points.\1.linear."),
    (r"^point_transforms\.(\d)\.net\.bn\.", r"points.\1.norm."),
)


def trained_looking(spec: NetSpec, seed: int = 0) -> PointVoxelUNet:
    """A network whose BatchNorm statistics are not those of a fresh one, so that folding is put to the test."""
    torch.manual_seed(seed)
    net = PointVoxelUNet(spec)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.05, 0.3)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.2)
    return net.eval()
