"""Turns labelled scans into batches of voxels for training and evaluation, in DataLoader workers.

All random numbers of a sample come from (seed, epoch, index). So batches do not depend on the number of workers, and a
run that is resumed at some step gets the same batches as an uninterrupted one.

    samples = VoxelDataset(open_dataset(DIR), augmentation)
    batches = DataLoader(samples, batch_size=2, sampler=EpochSampler(len(samples)), collate_fn=collate)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from spvnas_ros.clouds.cleaning import Limits, clean, key_window
from spvnas_ros.frame import UNLABELLED
from spvnas_ros.kernels.cpu.octree import cells_of, voxels_of_points
from spvnas_ros.kernels.grid import MAX_BATCH, MAX_EXTENT, KeyRangeError, key_range_error
from spvnas_ros.nets.spec import NUM_STAGES
from spvnas_ros.offline.augment import Augmentation
from spvnas_ros.offline.datasets.scan import DatasetError, LabelledScan, ScanDataset
from spvnas_ros.segment.progress import Skipped

if TYPE_CHECKING:
    from typing_extensions import Self

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
    skipped: scans that were asked for and cannot be used
    """

    name: str
    cells: npt.NDArray[np.int32]
    feats: npt.NDArray[np.float32]
    labels: npt.NDArray[np.uint8]
    inverse: npt.NDArray[np.int64] | None = None
    points: LabelledScan | None = None
    skipped: tuple[Skipped, ...] = ()


class Tensors:
    """A data class with tensors, which moves to other memory as a whole."""

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """Returns the batch on another device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """Returns the batch in page-locked memory; the DataLoader calls this."""
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, move: Callable[[Tensor], Tensor]) -> Self:
        moved = {name: move(value) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return type(self)(**vars(self) | moved)


@dataclass(frozen=True)
class Batch(Tensors):
    """Several scans as voxels: the network's input, and the true labels.

    coords: int32 `[M, 4]` (batch, x, y, z), counted from each scan's own lower corner
    feats:  float32 `[M, 4]`: x, y, z in metres, intensity
    labels: int64 `[M]`, class of each voxel, 255 = left out
    names:  of the scans
    sizes:  number of voxels of each scan
    skipped: scans that were asked for and cannot be used; others stand in for them, or nothing does in evaluation

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
    skipped: tuple[Skipped, ...] = ()

    def __len__(self) -> int:
        """Returns the number of scans."""
        return len(self.names)


def _cleaned(scan: LabelledScan, limits: Limits) -> LabelledScan:
    """Returns what inference would give the network of a scan."""
    cleaned = clean(scan.points, limits)
    return (scan if cleaned.kept is None else scan.take(cleaned.kept)).with_points(cleaned.points)


class VoxelDataset(Dataset[Sample]):
    """The scans of a data set, augmented and voxelised as samples for the DataLoader.

    scans:        source of the scans, and of the partners for mixing
    augmentation: None for no augmentation
    voxel_size:   metres
    max_voxels:   number of randomly chosen voxels to keep, None to keep all
    seed:         of all random numbers
    keep_points:  also give points, their labels and the voxel of each, for evaluation; not with `max_voxels`
    limits:       which points the network can use, and its brightest intensity; None for those of 0..1
    alone:        each scan is a batch of its own; then BatchNorm needs more than one voxel of it at every level
    labelled:     scans without any label cannot be used for training; False where they get theirs later

    A scan that cannot be read, is empty or spans too much cannot be used; nor, for training, one without any label. The
    next scan that can stands in for it, in the sample and as a partner; with `keep_points` its sample is empty. The
    sample says so.

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
        limits: Limits | None = None,
        alone: bool = False,
        labelled: bool = True,
    ) -> None:
        if keep_points and max_voxels is not None:
            raise ValueError("points of voxels that were left out have no result; with keep_points, max_voxels is None")
        self.scans = scans
        self.augmentation = augmentation
        self.voxel_size = voxel_size
        self.max_voxels = max_voxels
        self.seed = seed
        self.keep_points = keep_points
        self.alone = alone
        self.labelled = labelled
        self.limits = limits or Limits(key_window(voxel_size))
        self._faults: dict[int, str] = {}

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
                sample = self._sample(number, rng)
            except (DatasetError, KeyRangeError) as error:
                skipped.append(Skipped(self.scans.name(number), str(error)))
                if self.keep_points:
                    return _empty(skipped[0])
                continue
            return replace(sample, skipped=tuple(skipped))
        raise DatasetError(
            f"none of {len(skipped)} scan(s) can be learnt from; the first is {skipped[0].name}: {skipped[0].reason}"
        )

    def usable(self, index: int) -> tuple[LabelledScan, tuple[Skipped, ...]]:
        """Returns scan `index` as the network is given it, neither augmented nor voxelised, or the next one that can be
        used, and those that cannot. Raises DatasetError where none can.
        """
        skipped: list[Skipped] = []
        for number in self._from(index):
            try:
                return self._read(number), tuple(skipped)
            except (DatasetError, KeyRangeError) as error:
                skipped.append(Skipped(self.scans.name(number), str(error)))
        raise DatasetError(
            f"none of {len(skipped)} scan(s) can be used; the first is {skipped[0].name}: {skipped[0].reason}"
        )

    def _from(self, index: int) -> Iterator[int]:
        """Yields all numbers of scans from `index` on, around the end."""
        return (number % len(self.scans) for number in range(index, index + len(self.scans)))

    def _sample(self, index: int, rng: np.random.Generator) -> Sample:
        scan = self._read(index)
        if self.augmentation is not None:
            scan = self.augmentation(scan, rng, lambda: self._partner(rng))
            if not len(scan):
                raise DatasetError("augmentation leaves no point of it")
        return self.voxelise(scan, rng)[0]

    def _partner(self, rng: np.random.Generator) -> LabelledScan:
        for number in self._from(int(rng.integers(len(self.scans)))):
            try:
                return self._read(number)
            except DatasetError:
                continue
        raise DatasetError("no scan can be mixed into it")

    def _read(self, index: int) -> LabelledScan:
        """Returns a scan that can be used. Raises DatasetError for another."""
        if index not in self._faults:
            try:
                scan = _cleaned(self.scans[index], self.limits)
                fault = self._fault(scan)
            except DatasetError as error:
                fault = str(error)
            if not fault:
                return scan
            self._faults[index] = fault
        raise DatasetError(self._faults[index])

    def _fault(self, scan: LabelledScan) -> str:
        if not len(scan):
            return "it has no point that could be labelled, so there is nothing to learn from it"
        if self.labelled and not self.keep_points and (scan.labels == UNLABELLED).all():
            return "none of its points has a label that counts"
        with np.errstate(over="ignore"):
            span = float(np.ptp(scan.points[:, :3], axis=0).max()) / self.voxel_size
        return str(key_range_error(span)) if span >= MAX_EXTENT else ""

    def voxelise(self, scan: LabelledScan, rng: np.random.Generator) -> tuple[Sample, npt.NDArray[np.int64]]:
        """Returns a scan as voxels, and the row of the point that speaks for each voxel, int64 `[M]`.

        Raises DatasetError for a scan that cannot be a batch of its own where it has to, KeyRangeError for one that
        spans too much.
        """
        cloud = voxels_of_points(np.ascontiguousarray(scan.points), self.voxel_size)
        keys, first = cloud.keys, cloud.first
        if self.max_voxels is not None and len(keys) > self.max_voxels:
            kept = np.sort(rng.choice(len(keys), self.max_voxels, replace=False, shuffle=False))
            keys, first = keys[kept], first[kept]
        if self.alone and (keys >> 3 * NUM_STAGES == keys[0] >> 3 * NUM_STAGES).all():
            raise DatasetError(
                "its points are one voxel at the network's coarsest level, and BatchNorm needs two at least where a "
                "step has one scan (trainer.batch_size)"
            )
        inverse = cloud.inverse.astype(np.int64) if self.keep_points else None
        points = scan if self.keep_points else None
        sample = Sample(scan.name, cells_of(keys), scan.points[first], scan.labels[first], inverse, points)
        return sample, first.astype(np.int64)


def _empty(skipped: Skipped) -> Sample:
    """Returns the sample of a scan that cannot be scored, without a voxel or a point."""
    points, labels = np.empty((0, 4), np.float32), np.empty(0, np.uint8)
    scan = LabelledScan(skipped.name, points, labels, np.empty(0, np.uint16))
    return Sample(skipped.name, np.empty((0, 3), np.int32), points, labels, np.empty(0, np.int64), scan, (skipped,))


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
        skipped=tuple(skipped for sample in samples for skipped in sample.skipped),
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
