"""Turns scans with boxes into batches of voxels for training and validation, in DataLoader workers.

As in `batch`, all random numbers of a sample come from (seed, epoch, index).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from spvnas_ros.boxes.inside import counts_inside
from spvnas_ros.clouds.cleaning import Limits, clean, key_window
from spvnas_ros.frame import Boxes
from spvnas_ros.nets.detector_spec import STEPS, DetectorSpec
from spvnas_ros.offline.augment.boxed_objects import Database
from spvnas_ros.offline.augment.compose import BoxedAugmentation
from spvnas_ros.offline.datasets.boxed import BoxedDataset, BoxedScan
from spvnas_ros.offline.datasets.scan import DatasetError
from spvnas_ros.offline.training.batch import Tensors
from spvnas_ros.segment.progress import Skipped
from spvnas_ros.sparse.backend import means_for

_SAMPLE = 1
"""Stream of random numbers for a sample; see `batch`."""

Sample = TypeVar("Sample")


@dataclass(frozen=True)
class BoxedSample:
    """One scan as voxels, with its boxes.

    coords:  int64 `[M, 3]`, x, y, z in voxels from the range's lower corner
    feats:   float32 `[M, C]`, the mean of each voxel's points
    truth:   the boxes of the network's classes in its range; scores are 1
    seen:    bool `[B]`, which of these have points enough
    skipped: scans that were asked for and cannot be used
    """

    name: str
    coords: Tensor
    feats: Tensor
    truth: Boxes
    seen: npt.NDArray[np.bool_]
    skipped: tuple[Skipped, ...] = ()


@dataclass(frozen=True)
class BoxedBatch(Tensors):
    """Several scans as voxels, with their boxes.

    coords: int64 `[M, 4]` (batch, x, y, z)
    feats:  float32 `[M, C]`
    boxes, classes: of all scans that are to be learnt, float32 `[B, 7]` and int64 `[B]`
    sizes:  how many of them each scan has
    samples: what it was made of
    skipped: scans that were asked for and cannot be used; others stand in for them, or nothing does in validation
    """

    coords: Tensor
    feats: Tensor
    boxes: Tensor
    classes: Tensor
    sizes: tuple[int, ...]
    samples: tuple[BoxedSample, ...]
    skipped: tuple[Skipped, ...] = ()

    def __len__(self) -> int:
        """Returns the number of scans."""
        return len(self.sizes)


class ObjectSamples(Dataset[Sample]):
    """The scans of a data set, augmented and turned into samples for the DataLoader by `_voxelised`.

    scans:        source of the scans
    point_range:  x, y, z minimum, then maximum, metres: objects whose middle lies elsewhere, seen from above, are none
    kinds:        class index of each of the data's words, in lower case; other objects are background
    limits:       which points the network can use, and its brightest intensity
    augmentation: None for validation: whole scans in their own order, and no scan stands in for another
    database:     objects for the augmentation
    min_points:   an object with fewer points is not seen
    seed:         of all random numbers
    """

    def __init__(
        self,
        scans: BoxedDataset,
        point_range: Sequence[float],
        kinds: Mapping[str, int],
        limits: Limits,
        augmentation: BoxedAugmentation | None = None,
        *,
        database: Database | None = None,
        min_points: int = 0,
        seed: int = 0,
    ) -> None:
        self.scans, self.point_range, self.kinds, self.limits = scans, tuple(point_range), dict(kinds), limits
        self.augmentation, self.database = augmentation, database
        self.min_points, self.seed = min_points, seed

    def __len__(self) -> int:
        return len(self.scans)

    def __getitem__(self, key: int | tuple[int, int]) -> Sample:
        """Returns sample `index` of epoch 0, or sample `(epoch, index)`: always the same one, in every process.

        Raises DatasetError where no scan can be used, not this one nor any other.
        """
        epoch, index = (0, key) if isinstance(key, int) else key
        rng = np.random.default_rng((self.seed, _SAMPLE, epoch, index))
        skipped: list[Skipped] = []
        for number in self._from(index):
            try:
                sample: Any = self._sample(number, rng)
                whole: Sample = replace(sample, skipped=tuple(skipped))
                return whole
            except DatasetError as error:
                skipped.append(Skipped(self.scans.name(number), str(error)))
                if self.augmentation is None:
                    return self._empty(skipped[0])
        raise DatasetError(
            f"none of {len(skipped)} scan(s) can be learnt from; the first is {skipped[0].name}: {skipped[0].reason}"
        )

    def _from(self, index: int) -> Iterator[int]:
        """Yields all numbers of scans from `index` on, around the end."""
        return (number % len(self.scans) for number in range(index, index + len(self.scans)))

    def _sample(self, index: int, rng: np.random.Generator) -> Sample:
        scan = self.read(index)
        if self.augmentation is not None:
            scan = self.augmentation(scan, rng, self.database, lambda: self._partner(rng))
            if not len(scan):
                raise DatasetError("augmentation leaves no point of it")
        return self._voxelised(scan, rng)

    def _partner(self, rng: np.random.Generator) -> BoxedScan:
        """Returns a scan to mix into another. Raises DatasetError where none can be read."""
        for number in self._from(int(rng.integers(len(self.scans)))):
            try:
                return self.read(number)
            except DatasetError:
                continue
        raise DatasetError("no scan can be mixed into it")

    def _voxelised(self, scan: BoxedScan, rng: np.random.Generator) -> Sample:
        """Returns the sample of an augmented scan. Raises DatasetError where there is nothing to learn from it."""
        raise NotImplementedError

    def _empty(self, skipped: Skipped) -> Sample:
        """Returns the sample of a scan that cannot be scored."""
        raise NotImplementedError

    def read(self, index: int) -> BoxedScan:
        """Returns the points of a scan that a network can use, with its boxes. Raises DatasetError where there are
        none.
        """
        scan = self.scans[index]
        cleaned = clean(scan.points, self.limits)
        scan = scan if cleaned.kept is None else scan.take(cleaned.kept)
        if not len(scan):
            raise DatasetError("it has no point that a network can use")
        return scan.with_points(cleaned.points)

    def truth(self, scan: BoxedScan) -> Boxes:
        """Returns the objects of the network's classes whose middle lies in its range, seen from above."""
        low, high = np.array(self.point_range[:2]), np.array(self.point_range[3:5])
        classes = np.array([self.kinds.get(kind.lower(), -1) for kind in scan.objects.kinds], np.int64)
        boxes = scan.objects.boxes
        kept = (classes >= 0) & ((boxes[:, :2] >= low) & (boxes[:, :2] <= high)).all(1) & (boxes[:, 3:6] > 0).all(1)
        return Boxes(boxes[kept], np.ones(int(kept.sum()), np.float32), classes[kept].astype(np.uint8))


class BoxedSamples(ObjectSamples[BoxedSample]):
    """The samples of a detector. Arguments are those of `ObjectSamples`, and the detector's spec.

    A scan that cannot be read, or of which no voxel or a single coarse one is in the range, cannot be used; a scan
    without boxes can.
    """

    def __init__(
        self,
        scans: BoxedDataset,
        spec: DetectorSpec,
        kinds: Mapping[str, int],
        augmentation: BoxedAugmentation | None = None,
        *,
        database: Database | None = None,
        min_points: int = 0,
        seed: int = 0,
    ) -> None:
        limits = Limits(key_window(min(spec.voxel_size)))
        super().__init__(
            scans, spec.point_range, kinds, limits, augmentation, database=database, min_points=min_points, seed=seed
        )
        self.spec = spec

    def _voxelised(self, scan: BoxedScan, rng: np.random.Generator) -> BoxedSample:
        if self.augmentation is not None:
            # The first points of a voxel and the first voxels of a scan count.
            scan = scan.take(rng.permutation(len(scan)))
        spec, limit = self.spec, self.spec.max_voxels[0 if self.augmentation is not None else 1]
        points = torch.from_numpy(np.ascontiguousarray(scan.points[:, : spec.in_channels]))
        voxels = means_for(points, spec.point_range, spec.voxel_size, spec.max_points, limit)
        if not _fit(voxels.coords):
            raise DatasetError(
                f"{len(voxels.coords)} voxels of it are in the detector's range, in less than two coarse cells"
            )
        truth = self.truth(scan)
        seen = counts_inside(scan.points, truth.boxes) >= self.min_points
        return BoxedSample(scan.name, voxels.coords, voxels.feats, truth, seen)

    def _empty(self, skipped: Skipped) -> BoxedSample:
        none = torch.zeros((0, 3), dtype=torch.long), torch.zeros((0, self.spec.in_channels))
        return BoxedSample(skipped.name, *none, Boxes.none(), np.zeros(0, np.bool_), (skipped,))


def _fit(coords: Tensor) -> bool:
    """Tells whether voxels reach two cells at the coarsest stage at least: BatchNorm has no deviation of one."""
    scale = 1
    for window in STEPS:
        scale *= window.stride[0]
    cells = torch.div(coords[:, :2], scale, rounding_mode="floor")
    return bool((cells[1:] != cells[:1]).any())


def collate_boxed(samples: Sequence[BoxedSample]) -> BoxedBatch:
    """Joins samples of several scans into one batch, in their order."""
    coords = [
        torch.cat([torch.full_like(each.coords[:, :1], number), each.coords], dim=1)
        for number, each in enumerate(samples)
    ]
    learnt = [each.truth.among(each.seen) for each in samples]
    return BoxedBatch(
        coords=torch.cat(coords),
        feats=torch.cat([each.feats for each in samples]),
        boxes=torch.from_numpy(np.concatenate([each.boxes for each in learnt])),
        classes=torch.from_numpy(np.concatenate([each.classes for each in learnt]).astype(np.int64)),
        sizes=tuple(map(len, learnt)),
        samples=tuple(samples),
        skipped=tuple(skipped for each in samples for skipped in each.skipped),
    )
