"""Other libraries' layouts, checked on dense grids, and the engine that runs a network by a library's convolutions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import golden
from spvnas_ros.engine import ENGINES, build_engine
from spvnas_ros.engine.peers import PEERS, PeerError, build_peer
from spvnas_ros.engine.peers.engine import PeerEngine
from spvnas_ros.engine.peers.spconv import SpconvLibrary
from spvnas_ros.engine.peers.weight_layouts import from_torchsparse, spconv_weight, to_torchsparse
from spvnas_ros.engine.plan import Convolution
from spvnas_ros.engine.reference import ReferenceEngine
from spvnas_ros.nets.spec import NetSpec
from spvnas_ros.nets.unet import PointVoxelUNet
from spvnas_ros.sparse import build_levels, conv3d

CPU = torch.device("cpu")
VOXEL_SIZE = 0.8


def dense(coords: Tensor, feats: Tensor, side: int) -> Tensor:
    """`[1, C, side, side, side]` over x, y, z, zero where there is no voxel."""
    grid = feats.new_zeros((feats.shape[1], side, side, side))
    grid[:, coords[:, 1], coords[:, 2], coords[:, 3]] = feats.T
    return grid[None]


def at(grid: Tensor, coords: Tensor) -> Tensor:
    return grid[0, :, coords[:, 1], coords[:, 2], coords[:, 3]].T


def dense_convolution(kind: str, grid: Tensor, weight: Tensor) -> Tensor:
    """What spconv documents its layers to compute, with a weight `[Cout, kx, ky, kz, Cin]`, everywhere on a grid."""
    if kind == "neighbours":
        return functional.conv3d(grid, weight.permute(0, 4, 1, 2, 3), padding=1)
    if kind == "halving":
        return functional.conv3d(grid, weight.permute(0, 4, 1, 2, 3), stride=2)
    return functional.conv_transpose3d(grid, weight.permute(4, 0, 1, 2, 3), stride=2)


@pytest.mark.parametrize("kind", ["neighbours", "halving", "doubling"])
def test_spconv_weights_give_our_convolutions_on_a_dense_grid(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    cells = torch.nonzero(torch.rand((16, 16, 16), generator=generator) < 0.1)
    levels = build_levels(functional.pad(cells, (1, 0)), depth=1)
    fine, coarse = (level.coords for level in levels.levels)
    maps = {"neighbours": levels.neighbours[0], "halving": levels.halvings[0]}
    kernel_map = maps.get(kind, levels.halvings[0].transposed())
    before, after = {"neighbours": (fine, fine), "halving": (fine, coarse), "doubling": (coarse, fine)}[kind]
    kernel = torch.randn((len(kernel_map.sizes), 5, 6), generator=generator)
    feats = torch.randn((kernel_map.num_in, 5), generator=generator)
    weight = spconv_weight(kernel, "KRSC")
    grid = dense_convolution(kind, dense(before, feats, 8 if kind == "doubling" else 16), weight)
    torch.testing.assert_close(at(grid, after), conv3d(feats, kernel, kernel_map), rtol=1e-4, atol=1e-4)
    assert torch.equal(spconv_weight(kernel, "RSKC"), weight.permute(1, 2, 3, 0, 4))
    assert torch.equal(spconv_weight(kernel, "RSCK"), weight.permute(1, 2, 3, 4, 0))


def test_a_kernel_of_another_size_has_no_layout() -> None:
    with pytest.raises(ValueError, match="27 or 8 rows, found 9"):
        spconv_weight(torch.zeros(9, 1, 1), "KRSC")


def test_torchsparse_coordinates_are_the_recorded_ones(shared: Path) -> None:
    with np.load(shared / "golden" / "ops.npz") as recorded:
        levels = build_levels(golden.coords(recorded["b2/C"]), depth=1)
        expected = {tuple(row) for row in recorded["b2/y2/C"].tolist()}
    voxels = levels.levels[1].coords
    theirs = to_torchsparse(voxels, 1, "xyzb")
    assert {tuple(row) for row in theirs.tolist()} == expected
    assert torch.equal(from_torchsparse(theirs, 1, "xyzb"), voxels)
    assert torch.equal(from_torchsparse(to_torchsparse(voxels, 1, "bxyz"), 1, "bxyz"), voxels)


class DenseLibrary:
    """A library of one's own: spconv's weights on dense grids, and rows of a level in an order of its own."""

    def __init__(self) -> None:
        self.weights: dict[int, Tensor] = {}

    def add(self, step: Convolution, kernel: Tensor) -> None:
        self.weights[step.out] = spconv_weight(kernel, "KRSC")

    def begin(self, coords: Tensor) -> DenseGeometry:
        return DenseGeometry(self.weights, coords.long())


class DenseGeometry:
    def __init__(self, weights: dict[int, Tensor], finest: Tensor) -> None:
        self.weights = weights
        self.rows = {0: finest}
        self.side = (int(finest[:, 1:].max()) // 16 + 1) * 16

    def coords(self, level: int) -> Tensor:
        return self.rows[level]

    def convolve(self, step: Convolution, in_level: int, feats: Tensor) -> Tensor:
        if step.level not in self.rows:
            finer = self.rows[in_level]
            self.rows[step.level] = torch.cat([finer[:, :1], finer[:, 1:] >> 1], dim=1).unique(dim=0).flip(0)
        grid = dense(self.rows[in_level], feats, self.side >> in_level)
        return at(dense_convolution(step.kind, grid, self.weights[step.out]), self.rows[step.level])


def varied(spec: NetSpec) -> PointVoxelUNet:
    """A network whose normalisations have seen something: no two classes are alike."""
    torch.manual_seed(0)
    net = PointVoxelUNet(spec).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.05, 0.2)
            nn.init.normal_(module.bias, 0, 0.3)
    return net


NETWORKS = {
    "spvcnn": NetSpec.spvcnn(4),
    "minkunet": NetSpec.minkunet(4),
    "uneven": NetSpec.of([5, 4, 7, 6, 9, 8, 7, 5, 6]),
}


@pytest.fixture(scope="module")
def near(full_scan: np.ndarray) -> np.ndarray:
    """Points within 25 m: 64 voxels of 0.8 m along an axis."""
    return full_scan[np.linalg.norm(full_scan[:, :2], axis=1) < 25][::8]


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_by_other_convolutions_is_the_reference(near: np.ndarray, name: str) -> None:
    net = varied(NETWORKS[name])
    expected = ReferenceEngine(net, VOXEL_SIZE, CPU).segment(near, scores=True)
    found, laps = PeerEngine("dense", DenseLibrary(), net, VOXEL_SIZE, CPU).segment_timed(near, scores=True)
    assert len(np.unique(expected.labels)) > 2
    np.testing.assert_array_equal(found.labels, expected.labels)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
    assert {"voxels", "stem.0", "decoder.3.blocks.1.second", "labels"} <= set(laps)
    assert min(laps.values()) > 0


def test_an_empty_cloud_is_answered(near: np.ndarray) -> None:
    engine = PeerEngine("dense", DenseLibrary(), varied(NETWORKS["spvcnn"]), VOXEL_SIZE, CPU)
    found = engine.segment(near[:0], scores=True)
    assert found.scores is not None
    assert (found.labels.shape, found.scores.shape) == ((0,), (0, 19))


@pytest.mark.parametrize("name", PEERS)
def test_a_library_that_is_not_there_is_named_with_its_source(name: str) -> None:
    assert name in ENGINES
    if PEERS[name].installed:
        pytest.skip(f"{PEERS[name].module} is installed")
    with pytest.raises(PeerError, match=rf"{PEERS[name].module}, which is not installed: pip install"):
        build_engine(varied(NETWORKS["spvcnn"]), VOXEL_SIZE, device="cpu", engine=name)


def test_spconv_triton_says_that_it_needs_a_gpu() -> None:
    with pytest.raises(PeerError, match="CUDA device only"):
        SpconvLibrary.named("spconv_triton", CPU)


@pytest.mark.parametrize("name", PEERS)
def test_an_installed_library_gives_the_references_labels(near: np.ndarray, name: str) -> None:
    if not PEERS[name].installed:
        pytest.skip(f"needs {PEERS[name].module}: {PEERS[name].get}")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    net, threads = varied(NETWORKS["uneven"]), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        engine: Any = build_peer(name, net, VOXEL_SIZE, device)
        found = engine.segment(near, scores=True)
    except PeerError as error:
        pytest.skip(str(error))
    finally:
        torch.set_num_threads(threads)
    expected = ReferenceEngine(net, VOXEL_SIZE, CPU).segment(near, scores=True)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
    assert (found.labels == expected.labels).mean() > 0.999
