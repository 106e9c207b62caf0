"""Turns scans into batches of voxels with both labels and boxes, for networks that give both.

Voxels are those of `batch` (the first point speaks for its voxel), boxes those of `boxed_batch`. Scans may lack one of
the two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spvnas_ros.boxes.inside import counts_inside
from spvnas_ros.clouds.cleaning import Limits
from spvnas_ros.frame import UNLABELLED, Boxes
from spvnas_ros.kernels.cpu.octree import cells_of, voxels_of_points
from spvnas_ros.kernels.grid import MAX_EXTENT, KeyRangeError, key_range_error
from spvnas_ros.nets.box_spec import BoxBranchSpec
from spvnas_ros.nets.spec import NUM_STAGES
from spvnas_ros.offline.augment.boxed_objects import Database
from spvnas_ros.offline.augment.compose import BoxedAugmentation
from spvnas_ros.offline.datasets.boxed import BoxedDataset, BoxedScan
from spvnas_ros.offline.datasets.scan import DatasetError, Labels
from spvnas_ros.offline.training.batch import Tensors
from spvnas_ros.offline.training.boxed_batch import ObjectSamples
from spvnas_ros.segment.progress import Skipped


@dataclass(frozen=True)
class JointSample:
    """One scan as voxels, with its labels and boxes.

    cells:   int32 `[M, 3]`, x, y, z in voxels from the scan's lower corner
    feats:   float32 `[M, 4]`, the first point in each voxel: x, y, z in metres, intensity
    labels:  uint8 `[M]`, label of that point, 255 = none
    truth:   the boxes of the network's classes in its range; scores are 1
    seen:    bool `[B]`, which of these have points enough
    boxed:   whether the data have boxes
    inverse, point_labels: int64 `[N]`, voxel of each point, and uint8 `[N]`; None unless points are kept
    skipped: scans that were asked for and cannot be used
    """

    name: str
    cells: npt.NDArray[np.int32]
    feats: npt.NDArray[np.float32]
    labels: Labels
    truth: Boxes
    seen: npt.NDArray[np.bool_]
    boxed: bool = True
    inverse: npt.NDArray[np.int64] | None = None
    point_labels: Labels | None = None
    skipped: tuple[Skipped, ...] = ()


@dataclass(frozen=True)
class JointBatch(Tensors):
    """Several scans as voxels, with their labels and boxes.

    coords: int32 `[M, 4]` (batch, x, y, z), counted from each scan's own lower corner
    feats:  float32 `[M, 4]`
    labels: int64 `[M]`, 255 = left out
    boxes, classes: of all scans that are to be learnt, float32 `[B, 7]` and int64 `[B]`
    sizes:  how many of them each scan has
    boxed:  bool `[scans]`, which scans have boxes in their data
    samples: what it was made of
    skipped: scans that were asked for and cannot be used; others stand in for them, or nothing does in validation
    """

    coords: Tensor
    feats: Tensor
    labels: Tensor
    boxes: Tensor
    classes: Tensor
    sizes: tuple[int, ...]
    boxed: Tensor
    samples: tuple[JointSample, ...]
    skipped: tuple[Skipped, ...] = ()

    def __len__(self) -> int:
        """Returns the number of scans."""
        return len(self.sizes)


class JointSamples(ObjectSamples[JointSample]):
    """The scans of a data set, augmented and voxelised as samples for the DataLoader.

    scans:        source of the scans
    branch:       the description of the box branch
    kinds:        class index of each of the data's words, in lower case; other objects are background
    augmentation: None for validation: whole scans with all their points, and no scan stands in for another
    database:     objects for the augmentation
    min_points:   an object with fewer points is not seen
    max_voxels:   number of randomly chosen voxels to keep, None to keep all
    seed:         of all random numbers
    limits:       which points the network can use, and its brightest intensity
    alone:        each scan is a batch of its own; then BatchNorm needs more than one voxel of it at every level

    A scan cannot be used that cannot be read or spans too much, nor, for training, one with neither labels nor boxes.
    """

    def __init__(
        self,
        scans: BoxedDataset,
        branch: BoxBranchSpec,
        kinds: Mapping[str, int],
        limits: Limits,
        augmentation: BoxedAugmentation | None = None,
        *,
        database: Database | None = None,
        min_points: int = 0,
        max_voxels: int | None = None,
        seed: int = 0,
        alone: bool = False,
    ) -> None:
        super().__init__(
            scans, branch.point_range, kinds, limits, augmentation, database=database, min_points=min_points, seed=seed
        )
        self.voxel_size, self.max_voxels, self.alone = branch.voxel_size, max_voxels, alone

    def _voxelised(self, scan: BoxedScan, rng: np.random.Generator) -> JointSample:
        training = self.augmentation is not None
        labels = np.full(len(scan), UNLABELLED, np.uint8) if scan.labels is None else scan.labels
        if training and not scan.boxed and (labels == UNLABELLED).all():
            raise DatasetError("it has neither boxes nor a label that counts")
        points = np.ascontiguousarray(scan.points)
        with np.errstate(over="ignore"):
            span = float(np.ptp(points[:, :3], axis=0).max()) / self.voxel_size
        if span >= MAX_EXTENT:
            raise DatasetError(str(key_range_error(span)))
        try:
            cloud = voxels_of_points(points, self.voxel_size)
        except KeyRangeError as error:
            raise DatasetError(str(error)) from error
        keys, first = cloud.keys, cloud.first
        if training and self.max_voxels is not None and len(keys) > self.max_voxels:
            kept = np.sort(rng.choice(len(keys), self.max_voxels, replace=False, shuffle=False))
            keys, first = keys[kept], first[kept]
        if self.alone and training and (keys >> 3 * NUM_STAGES == keys[0] >> 3 * NUM_STAGES).all():
            raise DatasetError("its points are one voxel at the network's coarsest level, expected two at least")
        truth = self.truth(scan)
        seen = counts_inside(scan.points, truth.boxes) >= self.min_points
        sample = JointSample(scan.name, cells_of(keys), points[first], labels[first], truth, seen, boxed=scan.boxed)
        if training:
            return sample
        return replace(sample, inverse=cloud.inverse.astype(np.int64), point_labels=labels)

    def _empty(self, skipped: Skipped) -> JointSample:
        none, labels = np.empty((0, 4), np.float32), np.empty(0, np.uint8)
        return JointSample(
            skipped.name,
            np.empty((0, 3), np.int32),
            none,
            labels,
            Boxes.none(),
            np.zeros(0, np.bool_),
            False,
            np.empty(0, np.int64),
            labels,
            (skipped,),
        )


def collate_joint(samples: Sequence[JointSample]) -> JointBatch:
    """Joins samples of several scans into one batch, in their order."""
    sizes = [len(sample.cells) for sample in samples]
    scan = np.repeat(np.arange(len(samples), dtype=np.int32), sizes)
    learnt = [each.truth.among(each.seen) for each in samples]
    return JointBatch(
        coords=torch.from_numpy(np.column_stack([scan, np.concatenate([sample.cells for sample in samples])])),
        feats=torch.from_numpy(np.concatenate([sample.feats for sample in samples])),
        labels=torch.from_numpy(np.concatenate([sample.labels for sample in samples]).astype(np.int64)),
        boxes=torch.from_numpy(np.concatenate([each.boxes for each in learnt])),
        classes=torch.from_numpy(np.concatenate([each.classes for each in learnt]).astype(np.int64)),
        sizes=tuple(map(len, learnt)),
        boxed=torch.tensor([sample.boxed for sample in samples]),
        samples=tuple(samples),
        skipped=tuple(skipped for each in samples for skipped in each.skipped),
    )
