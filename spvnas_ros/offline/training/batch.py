"""Turns labelled scans into batches of voxels for training and evaluation, in DataLoader workers.

All random numbers of a sample come from (seed, epoch, index). So batches do not depend on the number of workers, and a
run that is resumed at some step gets the same batches as an uninterrupted one.

    samples = VoxelDataset(open_dataset(DIR), augmentation)
    batches = DataLoader(samples, batch_size=2, sampler=EpochSampler(len(samples)), collate_fn=collate)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from spvnas_ros.kernels.cpu.octree import cells_of, voxels_of_points
from spvnas_ros.kernels.grid import MAX_BATCH
from spvnas_ros.offline.augment import Augmentation
from spvnas_ros.offline.datasets.scan import DatasetError, LabelledScan, ScanDataset

VOXELS = 80_000
"""Number of voxels that the published recipes keep of a training scan."""

_ORDER, _SAMPLE = 0, 1
"""Streams of random numbers: for the order of an epoch, and for a sample."""


@dataclass(frozen=True)
class Sample:
    """One scan as voxels, in numpy arrays. `inverse` and `points` are None unless they were asked for.

    cells:   int32 `[M, 3]`, x, y, z in voxels from the scan's lower corner
    feats:   float32 `[M, 4]`, the first point in each voxel: x, y, z in metres, intensity
    labels:  uint8 `[M]`, label of that point
    inverse: int64 `[N]`, voxel of each point
    """

    name: str
    cells: npt.NDArray[np.int32]
    feats: npt.NDArray[np.float32]
    labels: npt.NDArray[np.uint8]
    inverse: npt.NDArray[np.int64] | None = None
    points: LabelledScan | None = None


@dataclass(frozen=True)
class Batch:
    """Several scans as voxels: the network's input, and the true labels.

    coords: int32 `[M, 4]` (batch, x, y, z), counted from each scan's own lower corner
    feats:  float32 `[M, 4]`: x, y, z in metres, intensity
    labels: int64 `[M]`, class of each voxel, 255 = left out
    names:  of the scans
    sizes:  number of voxels of each scan

    For evaluation, where points are kept (else None):
    inverse:      int64 `[N]`, row of each point's voxel in this batch
    point_labels: int64 `[N]`
    points:       float32 `[N, 4]`, after augmentation
    """

    coords: Tensor
    feats: Tensor
    labels: Tensor
    names: tuple[str, ...]
    sizes: tuple[int, ...]
    inverse: Tensor | None = None
    point_labels: Tensor | None = None
    points: Tensor | None = None

    def __len__(self) -> int:
        """Returns the number of scans."""
        return len(self.names)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """Returns the batch on another device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """Returns the batch in page-locked memory; the DataLoader calls this."""
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, move: Callable[[Tensor], Tensor]) -> Batch:
        moved = {f.name: getattr(self, f.name) for f in fields(self)}
        moved |= {name: move(value) for name, value in moved.items() if isinstance(value, Tensor)}
        return Batch(**moved)


class VoxelDataset(Dataset[Sample]):
    """The scans of a data set, augmented and voxelised as samples for the DataLoader.

    scans:        source of the scans, and of the partners for mixing
    augmentation: None for no augmentation
    voxel_size:   metres
    max_voxels:   number of randomly chosen voxels to keep, None to keep all
    seed:         of all random numbers
    keep_points:  also give points, their labels and the voxel of each, for evaluation; not with `max_voxels`

    Raises ValueError where `max_voxels` and `keep_points` are both given.
    """

    def __init__(
        self,
        scans: ScanDataset,
        augmentation: Augmentation | None = None,
        *,
        voxel_size: float = 0.05,
        max_voxels: int | None = VOXELS,
        seed: int = 0,
        keep_points: bool = False,
    ) -> None:
        if keep_points and max_voxels is not None:
            raise ValueError("points of voxels that were left out have no result; with keep_points, max_voxels is None")
        self.scans = scans
        self.augmentation = augmentation
        self.voxel_size = voxel_size
        self.max_voxels = max_voxels
        self.seed = seed
        self.keep_points = keep_points

    def __len__(self) -> int:
        return len(self.scans)

    def __getitem__(self, key: int | tuple[int, int]) -> Sample:
        """Returns sample `index` of epoch 0, or sample `(epoch, index)`: always the same one, in every process.

        Raises DatasetError for a scan that cannot be read, and KeyRangeError for one that is too large to be voxelised.
        """
        epoch, index = (0, key) if isinstance(key, int) else key
        rng = np.random.default_rng((self.seed, _SAMPLE, epoch, index))
        scan = self.scans[index]
        if not len(scan):
            raise DatasetError(f"scan {scan.name} has no finite point, so there is nothing to learn from it")
        if self.augmentation is not None:
            scan = self.augmentation(scan, rng, lambda: self.scans[int(rng.integers(len(self.scans)))])
        return self._voxelise(scan, rng)

    def _voxelise(self, scan: LabelledScan, rng: np.random.Generator) -> Sample:
        cloud = voxels_of_points(np.ascontiguousarray(scan.points), self.voxel_size)
        keys, first = cloud.keys, cloud.first
        if self.max_voxels is not None and len(keys) > self.max_voxels:
            kept = np.sort(rng.choice(len(keys), self.max_voxels, replace=False, shuffle=False))
            keys, first = keys[kept], first[kept]
        inverse = cloud.inverse.astype(np.int64) if self.keep_points else None
        points = scan if self.keep_points else None
        return Sample(scan.name, cells_of(keys), scan.points[first], scan.labels[first], inverse, points)


def collate(samples: Sequence[Sample]) -> Batch:
    """Joins samples of several scans into one batch, in their order. Raises ValueError for none, or more than 512."""
    if not 0 < len(samples) <= MAX_BATCH:
        raise ValueError(f"a batch holds 1 to {MAX_BATCH} scans, found {len(samples)}")
    sizes = tuple(len(sample.cells) for sample in samples)
    scan = np.repeat(np.arange(len(samples), dtype=np.int32), sizes)
    cells = np.concatenate([sample.cells for sample in samples])
    batch = Batch(
        coords=torch.from_numpy(np.concatenate([scan[:, None], cells], axis=1)),
        feats=torch.from_numpy(np.concatenate([sample.feats for sample in samples])),
        labels=torch.from_numpy(np.concatenate([sample.labels for sample in samples]).astype(np.int64)),
        names=tuple(sample.name for sample in samples),
        sizes=sizes,
    )
    inverses = [sample.inverse for sample in samples if sample.inverse is not None]
    scans = [sample.points for sample in samples if sample.points is not None]
    if not len(inverses) == len(scans) == len(samples):
        return batch
    starts = np.cumsum((0, *sizes[:-1]))
    return replace(
        batch,
        inverse=torch.from_numpy(np.concatenate([rows + start for rows, start in zip(inverses, starts, strict=True)])),
        point_labels=torch.from_numpy(np.concatenate([scan.labels for scan in scans]).astype(np.int64)),
        points=torch.from_numpy(np.concatenate([scan.points for scan in scans])),
    )


class EpochSampler(Sampler[tuple[int, int]]):
    """Yields the keys `(epoch, index)` of a `VoxelDataset`: each scan once per epoch, in an order drawn from (seed,
    epoch).

    size:    number of scans in the data set
    seed:    of the order
    shuffle: False for the data set's own order
    rank, replicas: this process takes every `replicas`-th key from `rank` on

    `set_epoch` sets the next epoch. Raises ValueError for a rank that no process has.
    """

    def __init__(self, size: int, seed: int = 0, *, shuffle: bool = True, rank: int = 0, replicas: int = 1) -> None:
        if not 0 <= rank < replicas:
            raise ValueError(f"rank is {rank}, expected 0 to {replicas - 1} (replicas - 1)")
        self._size, self._seed, self._shuffle = size, seed, shuffle
        self._rank, self._replicas = rank, replicas
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Sets the next epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(range(self._rank, self._size, self._replicas))

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch, order = self._epoch, np.arange(self._size)
        if self._shuffle:
            np.random.default_rng((self._seed, _ORDER, epoch)).shuffle(order)
        return ((epoch, int(index)) for index in order[self._rank :: self._replicas])
