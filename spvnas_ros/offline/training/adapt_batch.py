"""Pairs of scans for adapting a network: one with labels and one without, and how the two are mixed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from spvnas_ros.offline.augment import Augmentation
from spvnas_ros.offline.datasets.scan import LabelledScan
from spvnas_ros.offline.training.batch import Batch, Sample, VoxelDataset, collate
from spvnas_ros.offline.training.data import Key, StepSampler
from spvnas_ros.segment.progress import Skipped

if TYPE_CHECKING:
    from typing_extensions import Self

_MIXED = 4
"""Stream of random numbers, for mixing. `batch` has 0 and 1, supernets 2 and 3."""
_SOURCE, _TARGET = 1, 0
"""Instances of the points of either scan: mixing keeps 0, and gives other numbers free ones."""


@dataclass(frozen=True)
class Pair:
    """A labelled scan and an unlabelled one, as the network is given them, before augmentation.

    keys: epochs and numbers of the two samples
    """

    source: LabelledScan
    target: LabelledScan
    keys: tuple[Key, Key]
    skipped: tuple[Skipped, ...] = ()


@dataclass(frozen=True)
class PairBatch:
    """The pairs of a step. They stay on the CPU until they are mixed."""

    pairs: tuple[Pair, ...]

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """Scans that were asked for and cannot be used."""
        return tuple(skipped for pair in self.pairs for skipped in pair.skipped)

    def to(self, *_: Any, **__: Any) -> Self:
        """Returns itself; Lightning calls this."""
        return self

    def pin_memory(self) -> Self:
        """Returns itself; the DataLoader calls this."""
        return self


def pair_up(pairs: Sequence[Pair]) -> PairBatch:
    """Joins pairs into a batch."""
    return PairBatch(tuple(pairs))


class Pairs(Dataset[Pair]):
    """Pairs by the keys of their scans."""

    def __init__(self, sources: VoxelDataset, targets: VoxelDataset) -> None:
        self.sources, self.targets = sources, targets

    def __getitem__(self, keys: tuple[Key, Key]) -> Pair:
        (source, first), (target, second) = (
            part.usable(key[1]) for part, key in zip((self.sources, self.targets), keys, strict=True)
        )
        return Pair(source, target, keys, (*first, *second))


class PairSampler(Sampler[list[tuple[Key, Key]]]):
    """Yields the keys of each step's pairs: sources and targets come in epochs of their own."""

    def __init__(self, sources: StepSampler, targets: StepSampler) -> None:
        self._sources, self._targets = sources, targets

    def __len__(self) -> int:
        return len(self._sources)

    def __iter__(self) -> Iterator[list[tuple[Key, Key]]]:
        for sources, targets in zip(self._sources, self._targets, strict=True):
            yield list(zip(sources, targets, strict=True))


@dataclass(frozen=True)
class Mixer:
    """Makes the scans that a student sees, of a labelled scan and of one that its teacher has labelled.

    augmentation: each scan is changed by it; the partner to mix with is the other
    samples:      how scans become voxels
    seed:         of all random numbers, with the keys of a pair
    """

    augmentation: Augmentation
    samples: VoxelDataset
    seed: int

    def __call__(self, pairs: Sequence[Pair]) -> tuple[list[Sample], list[npt.NDArray[np.bool_]]]:
        """Returns two samples of each pair, and which of a sample's voxels are of the unlabelled scan, bool `[M]`.

        The first of the two is the labelled scan, changed and with parts of the other; the second the other way round.
        """
        samples, ours = [], []
        for pair in pairs:
            rng = np.random.default_rng((self.seed, _MIXED, *pair.keys[0], *pair.keys[1]))
            source, target = _marked(pair.source, _SOURCE), _marked(pair.target, _TARGET)
            for scan, other in ((source, target), (target, source)):
                changed = self.augmentation(scan, rng, _always(other))
                sample, rows = self.samples.voxelise(changed, rng)
                samples.append(sample)
                ours.append(changed.instances[rows] == _TARGET)
        return samples, ours


def _always(scan: LabelledScan) -> Any:
    return lambda: scan


def _marked(scan: LabelledScan, mark: int) -> LabelledScan:
    return replace(scan, instances=np.full(len(scan), mark, np.uint16))


def batch_of(samples: Sequence[Sample], device: torch.device) -> Batch:
    """Joins samples into a batch on a device."""
    return collate(samples).to(device)


def mask_of(parts: Sequence[npt.NDArray[np.bool_]], device: torch.device) -> Tensor:
    """Joins masks in the order of `batch_of`."""
    return torch.from_numpy(np.concatenate(parts)).to(device)
