"""Voxels in batches: exactly as the published models see them, and the same whoever makes them."""

from __future__ import annotations

import itertools
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from spvnas_ros.engine.sample_street import street_scan
from spvnas_ros.labels import SEMANTIC_KITTI, LabelMap
from spvnas_ros.offline.augment import Augmentation
from spvnas_ros.offline.datasets import DatasetError, LabelledScan, open_dataset
from spvnas_ros.offline.training.batch import Batch, EpochSampler, VoxelDataset, collate
from spvnas_ros.sparse import quantize

SCANS = 6
AUGMENTATION = {"one_of": {"lasermix": {"probability": 0.5}, "polarmix": {"probability": 0.5}}, "rotate": None}


class Streets:
    """A few generated scans, small enough to voxelise in no time."""

    label_map: LabelMap = SEMANTIC_KITTI

    def __len__(self) -> int:
        return SCANS

    def __getitem__(self, index: int) -> LabelledScan:
        points, labels = street_scan(index, 16, 60)
        return LabelledScan(f"street/{index}", points, labels, np.zeros(len(labels), np.uint16))


class One:
    """A data set of one scan."""

    label_map: LabelMap = SEMANTIC_KITTI

    def __init__(self, points: np.ndarray) -> None:
        count = len(points)
        self.scan = LabelledScan("one", points, np.zeros(count, np.uint8), np.zeros(count, np.uint16))

    def __len__(self) -> int:
        return 1

    def name(self, _: int) -> str:
        return "one"

    def __getitem__(self, index: int) -> LabelledScan:
        return self.scan


def augmented(max_voxels: int | None = 300) -> VoxelDataset:
    return VoxelDataset(Streets(), Augmentation.from_config(AUGMENTATION), max_voxels=max_voxels, seed=7)


def same(first: Batch, second: Batch) -> bool:
    pairs = ((getattr(first, field.name), getattr(second, field.name)) for field in fields(Batch))
    return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in pairs)


def batches(dataset: VoxelDataset, keys: list[tuple[int, int]], workers: int) -> list[Batch]:
    return list(DataLoader(dataset, 2, sampler=keys, num_workers=workers, collate_fn=collate))


def upstream(points: np.ndarray, labels: np.ndarray) -> dict[tuple[int, ...], tuple[bytes, int]]:
    """Voxels as mit-han-lab/spvnas forms them, point by point: the first point in a voxel gives feature and label."""
    cells = np.round(points[:, :3] / np.float32(0.05)).astype(np.int32)
    cells -= cells.min(axis=0)
    found: dict[tuple[int, ...], tuple[bytes, int]] = {}
    for cell, point, label in zip(cells.tolist(), points, labels.tolist(), strict=True):
        found.setdefault(tuple(cell), (point.tobytes(), label))
    return found


def test_voxels_are_upstreams() -> None:
    scan = Streets()[0]
    batch = collate([VoxelDataset(Streets(), max_voxels=None)[0]])
    voxels = zip(batch.coords[:, 1:].tolist(), batch.feats.numpy(), batch.labels.tolist(), strict=True)
    assert {tuple(c): (f.tobytes(), label) for c, f, label in voxels} == upstream(scan.points, scan.labels)


def test_a_real_scans_voxels_are_the_tensor_librarys(shared: Path) -> None:
    scans = open_dataset(shared / "data" / "semantickitti", sequences=0)
    sample = VoxelDataset(scans, max_voxels=None, keep_points=True)[1]
    expected = quantize(torch.from_numpy(scans[1].points), 0.05)
    np.testing.assert_array_equal(sample.cells, expected.coords[:, 1:])
    np.testing.assert_array_equal(sample.feats, scans[1].points[expected.first])
    np.testing.assert_array_equal(sample.labels, scans[1].labels[expected.first])
    np.testing.assert_array_equal(sample.inverse, expected.inverse)


def test_a_batch_keeps_its_scans_apart_and_every_point_finds_its_voxel() -> None:
    dataset = VoxelDataset(Streets(), max_voxels=None, keep_points=True)
    batch = collate([dataset[2], dataset[4]])
    assert batch.inverse is not None
    assert batch.points is not None
    assert batch.point_labels is not None
    assert (len(batch), batch.names) == (2, ("street/2", "street/4"))
    assert (batch.coords.dtype, batch.feats.dtype, batch.labels.dtype) == (torch.int32, torch.float32, torch.int64)
    assert torch.equal(torch.bincount(batch.coords[:, 0].long()), torch.tensor(batch.sizes))
    scans = [Streets()[2], Streets()[4]]
    np.testing.assert_array_equal(batch.points, np.concatenate([scan.points for scan in scans]))
    np.testing.assert_array_equal(batch.point_labels, np.concatenate([scan.labels for scan in scans]))
    scan_of = np.repeat([0, 1], [len(scan) for scan in scans])
    np.testing.assert_array_equal(batch.coords[batch.inverse, 0], scan_of)
    # A point and its voxel's first point are rounded to the same cell.
    assert (batch.feats[batch.inverse, :3] - batch.points[:, :3]).abs().max() <= 0.05 + 1e-4


def test_training_keeps_a_random_choice_of_voxels() -> None:
    whole = collate([VoxelDataset(Streets(), max_voxels=None)[0]])
    capped = VoxelDataset(Streets(), max_voxels=100)
    first, second = (collate([capped[epoch, 0]]) for epoch in (0, 1))
    everything = set(map(tuple, whole.coords.tolist()))
    chosen = [set(map(tuple, batch.coords.tolist())) for batch in (first, second)]
    assert [len(voxels) for voxels in chosen] == [100, 100]
    assert chosen[0] != chosen[1]
    assert chosen[0] | chosen[1] <= everything


def test_workers_make_the_batches_that_one_process_makes() -> None:
    keys = [*EpochSampler(SCANS, seed=3)]
    alone, shared_out = (batches(augmented(), keys, workers) for workers in (0, 2))
    assert len(alone) == SCANS // 2
    assert all(same(a, b) for a, b in zip(alone, shared_out, strict=True))


def test_a_run_that_goes_on_from_a_step_sees_the_same_batches() -> None:
    sampler = EpochSampler(SCANS, seed=3)
    sampler.set_epoch(4)
    whole, rest = (batches(augmented(), keys, 0) for keys in ([*sampler], [*sampler][4:]))
    assert same(whole[2], rest[0])


def test_epochs_and_seeds_differ() -> None:
    sampler, orders = EpochSampler(50, seed=3), []
    for epoch in (0, 1, 0):
        sampler.set_epoch(epoch)
        orders.append([*sampler])
    assert orders[0] == orders[2]
    assert [index for _, index in orders[0]] != [index for _, index in orders[1]]
    assert {index for _, index in orders[1]} == set(range(50))
    assert [*EpochSampler(50, seed=4)] != orders[0]
    first, second = (collate([augmented()[epoch, 0]]) for epoch in (0, 1))
    assert not same(first, second)


def test_processes_share_an_epoch() -> None:
    shares = [[*EpochSampler(SCANS, seed=1, rank=rank, replicas=4)] for rank in range(4)]
    assert sorted(itertools.chain(*shares)) == sorted(EpochSampler(SCANS, seed=1))
    assert [len(EpochSampler(SCANS, rank=rank, replicas=4)) for rank in range(4)] == list(map(len, shares))
    assert [*EpochSampler(3, shuffle=False)] == [(0, 0), (0, 1), (0, 2)]
    with pytest.raises(ValueError, match="rank is 4"):
        EpochSampler(SCANS, rank=4, replicas=4)


def test_a_batch_moves_as_a_whole() -> None:
    dataset = VoxelDataset(Streets(), max_voxels=None, keep_points=True)
    moved = collate([dataset[0]]).to("meta")
    for field in fields(Batch):
        value = getattr(moved, field.name)
        assert not isinstance(value, torch.Tensor) or value.device.type == "meta"
    assert moved.names == ("street/0",)


def test_what_cannot_be_voxelised_is_refused() -> None:
    with pytest.raises(ValueError, match="max_voxels is None"):
        VoxelDataset(Streets(), keep_points=True)
    with pytest.raises(DatasetError, match=r"none of 1 scan\(s\) .* one: it has no point that could be labelled"):
        VoxelDataset(One(np.zeros((0, 4), np.float32)))[0]
    with pytest.raises(DatasetError, match="the first is one: it has no point that could be labelled"):
        VoxelDataset(One(np.array([[0, 0, 0, 0], [1e5, 0, 0, 0]], np.float32)))[0]
    with pytest.raises(ValueError, match="a batch holds 1 to 512 scans"):
        collate([])
