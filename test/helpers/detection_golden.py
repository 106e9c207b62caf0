"""Recorded outputs of OpenPCDet's and mmdetection3d's SECOND: coordinates there are (z, y, x), weights are spconv's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spvnas_ros.nets.detector_spec import KITTI_RANGE, DetectorSpec
from spvnas_ros.nets.second import Second

FRAME = "004139"
CROP = (8.0, -22.4, -3.0, 43.2, 16.0, 1.0)


def load(folder: Path, name: str) -> dict[str, np.ndarray]:
    with np.load(folder / f"{name}.npz") as archive:
        return dict(archive)


def facts(folder: Path, name: str) -> Any:
    return json.loads((folder / f"{name}.json").read_text())


def spec(convention: str, *, full: bool = False) -> DetectorSpec:
    return DetectorSpec.second(convention, 4, point_range=KITTI_RANGE if full else CROP)


def network(folder: Path, convention: str = "openpcdet", *, full: bool = False) -> Second:
    """Our network with the recorded weights, matched in order and by shape, and without the importers."""
    net = Second(spec(convention, full=full))
    theirs = [(k, v) for k, v in load(folder, "openpcdet_second_w4_weights").items()]
    ours = net.state_dict()
    renamed = {}
    for (key, value), name in zip(_in_our_order(theirs), ours, strict=True):
        tensor = kernel_of(torch.from_numpy(value)) if value.ndim == 5 else torch.from_numpy(value)
        assert tensor.shape == ours[name].shape, (key, name)
        renamed[name] = tensor
    net.load_state_dict(renamed)
    return net.eval()


def _in_our_order(items: list[tuple[str, np.ndarray]]) -> list[tuple[str, np.ndarray]]:
    """Upsampling layers stand behind their block in our network, and behind all blocks in theirs."""
    ups = [[each for each in items if f"deblocks.{i}." in each[0]] for i in range(2)]
    rest = [each for each in items if "deblocks" not in each[0]]
    second = next(i for i, each in enumerate(rest) if "blocks.1." in each[0])
    head = next(i for i, each in enumerate(rest) if "dense_head" in each[0])
    return [*rest[:second], *ups[0], *rest[second:head], *ups[1], *rest[head:]]


def kernel_of(weight: Tensor) -> Tensor:
    """`[out, kd, kh, kw, in]` to `[volume, in, out]`, x fastest."""
    return weight.permute(1, 2, 3, 4, 0).reshape(-1, weight.shape[4], weight.shape[0])


def coords(recorded: np.ndarray, batch: int = 0) -> Tensor:
    """(z, y, x) to (batch, x, y, z)."""
    c = torch.from_numpy(recorded.astype(np.int64))
    return torch.cat([torch.full_like(c[:, :1], batch), c.flip(1)], dim=1)


def points(shared: Path) -> np.ndarray:
    """The frame's points that project into the image, with depth from 0 on, as FOV_POINTS_ONLY leaves them."""
    training = shared / "data" / "kitti" / "training"
    cloud = np.fromfile(training / "velodyne" / f"{FRAME}.bin", np.float32).reshape(-1, 4)
    lines = (training / "calib" / f"{FRAME}.txt").read_text().splitlines()
    matrices = {k: np.array(v.split(), np.float32) for k, v in (line.split(":") for line in lines if line)}
    p2, rect = matrices["P2"].reshape(3, 4), matrices["R0_rect"].reshape(3, 3)
    to_camera = matrices["Tr_velo_to_cam"].reshape(3, 4)
    ones = np.ones((len(cloud), 1), np.float32)
    camera = np.hstack([cloud[:, :3], ones]) @ (to_camera.T @ rect.T)
    image = np.hstack([camera, ones]) @ p2.T
    u, v = image[:, 0] / camera[:, 2], image[:, 1] / camera[:, 2]
    depth = image[:, 2] - p2[2, 3]
    return cloud[(u >= 0) & (u < 1242) & (v >= 0) & (v < 375) & (depth >= 0)]


def in_range(cloud: np.ndarray, limits: tuple[float, ...]) -> np.ndarray:
    """The points whose x and y lie in the range, both ends included, as OpenPCDet leaves them."""
    x, y = cloud[:, 0], cloud[:, 1]
    return cloud[(x >= limits[0]) & (x <= limits[3]) & (y >= limits[1]) & (y <= limits[4])]


def trained_once(folder: Path, *, full: bool) -> Second:
    """The network after the recorded training step, which moved its running statistics; the files of the full range
    were recorded after it."""
    net = network(folder).double().train()
    recorded = load(folder, f"openpcdet_second_w4_{FRAME}")
    with torch.no_grad():
        net(coords(recorded["voxel_coords"]), torch.from_numpy(recorded["voxel_mean"]).double(), 1)
    after = network(folder, full=full)
    after.load_state_dict(net.state_dict())
    return after
