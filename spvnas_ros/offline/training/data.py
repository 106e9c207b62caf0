"""Opens the scans of a training and loads them in batches, step by step."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from torch.utils.data import DataLoader, Dataset, Sampler

from spvnas_ros.clouds.cleaning import Limits
from spvnas_ros.clouds.fit import Known, concerns, look_at_all
from spvnas_ros.clouds.intensity import TrainingIntensity
from spvnas_ros.clouds.mount import SAME_HEIGHT, SENSOR_HEIGHT, PlaceRule, find_ground, typical_ground
from spvnas_ros.clouds.wording import TO_COMMAND
from spvnas_ros.errors import UserError
from spvnas_ros.frame import NONE_UNUSABLE, UNLABELLED, Points
from spvnas_ros.labels import LabelMap
from spvnas_ros.offline.augment import Augmentation
from spvnas_ros.offline.datasets import (
    DatasetError,
    LabelField,
    LabelledScan,
    ScanDataset,
    is_bag,
    open_dataset,
)
from spvnas_ros.offline.datasets.joined import Several, Source
from spvnas_ros.offline.training.batch import EpochSampler, Sample, VoxelDataset, collate
from spvnas_ros.offline.training.config import DataConfig, Recipe
from spvnas_ros.offline.training.simulated import folders
from spvnas_ros.offline.training.stop_signals import StopSignals
from spvnas_ros.workers import begin_worker

_INTENSITY_SCANS = 20
"""Number of scans that are read to record the intensities that a network was trained on."""

Key = tuple[int, int]
"""Epoch and number of a sample in its data set."""

Scan = TypeVar("Scan")


class _HasPoints(Protocol):
    """Any scan."""

    @property
    def points(self) -> Points: ...


class Joined(Several[LabelledScan]):
    """Several data sets one after another, or a selection of their scans.

    parts: at least one data set, all with one label map
    rows:  numbers of the selected scans, in this order; None = all
    """

    def __init__(self, parts: Sequence[ScanDataset], rows: Sequence[int] | None = None) -> None:
        super().__init__(parts, rows)
        self._labelled = tuple(parts)

    @property
    def parts(self) -> tuple[ScanDataset, ...]:
        """The data sets, whatever is selected of them."""
        return self._labelled

    @property
    def label_map(self) -> LabelMap:
        """The map that turned raw ids into classes."""
        return self._labelled[0].label_map

    @property
    def boxes_only(self) -> bool:
        """Whether only points in boxes have a truth in one of the data sets."""
        return any(part.boxes_only for part in self._labelled)

    def spread(self, count: int) -> Joined:
        """Returns `count` evenly spread scans of these; returns all where `count` is 0 or there are not more scans."""
        return Joined(self._labelled, self._spread(count))


def open_training(config: DataConfig) -> Joined:
    """Opens the scans to train on. Raises DatasetError where there are none, or where a source is no data set."""
    _check_choice(config)
    parts = open_sources(config.train, config.sequences, config) + _open_simulated(config, validates=False)
    if not any(map(len, parts)):
        raise DatasetError("the recipe names no scans to train on; add data.train=FOLDER")
    return Joined(parts)


def open_validation(config: DataConfig) -> Joined | None:
    """Opens the scans to validate on; returns None where the recipe names none. Raises DatasetError like
    `open_training`.
    """
    parts = open_sources(config.validation, config.validation_sequences, config) + _open_simulated(
        config, validates=True
    )
    return Joined(parts).spread(config.validation_scans) if any(map(len, parts)) else None


def _check_choice(config: DataConfig) -> None:
    """Raises DatasetError where options of bags are set but no source is a bag, because they would be ignored."""
    plain = DataConfig()
    keys = ("topic", "labels_field", "label_ids", "network_labels")
    if chosen := [key for key in keys if getattr(config, key) != getattr(plain, key)]:
        sources = (*config.train, *config.validation)
        if not any(is_bag(Path(source)) for source in sources):
            raise DatasetError(
                f"data.{chosen[0]} is {getattr(config, chosen[0])!r}, which chooses in bags, but none of "
                f"{', '.join(sources) or 'no sources'} is a bag"
            )


def open_sources(sources: Sequence[str], sequences: Sequence[str], config: DataConfig) -> list[ScanDataset]:
    """Opens sources of labelled scans with the options of a recipe. Raises DatasetError where one is no data set."""
    field = LabelField(config.labels_field, config.label_ids, config.network_labels)
    parts = []
    for path in map(Path, sources):
        bag = is_bag(path)
        parts.append(
            open_dataset(
                path,
                label_map=config.label_map,
                sequences=sequences or None,
                topic=(config.topic or None) if bag else None,
                field=field if bag else None,
                intensity=config.intensity or None,
                intensity_field=config.intensity_field or None,
                place=PlaceRule.parse(config.origin or None, config.mount or None),
            )
        )
    return parts


def _open_simulated(config: DataConfig, *, validates: bool) -> list[ScanDataset]:
    paths = [folder.path for folder in folders(config.simulate) if folder.validates == validates]
    return [open_dataset(path, label_map=config.label_map) for path in paths]


class StepSampler(Sampler[list[Key]]):
    """Yields the keys of each step's batch, from step `start` on. The batch of a step depends only on the seed and the
    step.

    size:        number of scans in the data set; they come in epochs, each in its own order
    batch_size:  scans per step, over all processes; each of `replicas` takes its share, `rank` counts from 0
    steps:       of the whole training; it is also the sampler's length, because Lightning counts from the first step

    Raises ValueError where `batch_size` cannot be shared evenly.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        steps: int,
        *,
        seed: int = 0,
        start: Callable[[], int] = lambda: 0,
        rank: int = 0,
        replicas: int = 1,
    ) -> None:
        if batch_size % replicas:
            raise UserError(f"a batch of {batch_size} scans cannot be shared by {replicas} processes evenly")
        self._order = EpochSampler(size, seed)
        self._size, self._batch, self._steps, self._start = size, batch_size, steps, start
        self._share = batch_size // replicas
        self._rank = rank

    def __len__(self) -> int:
        return self._steps

    def __iter__(self) -> Iterator[list[Key]]:
        epoch, keys = -1, list[Key]()
        for step in range(self._start(), self._steps):
            begin = step * self._batch + self._rank * self._share
            batch = []
            for position in range(begin, begin + self._share):
                if position // self._size != epoch:
                    epoch = position // self._size
                    self._order.set_epoch(epoch)
                    keys = list(self._order)
                batch.append(keys[position % self._size])
            yield batch


def training_loader(
    recipe: Recipe,
    scans: ScanDataset,
    steps: int,
    *,
    start: Callable[[], int] = lambda: 0,
    rank: int = 0,
    replicas: int = 1,
    pin_memory: bool = False,
    limits: Limits | None = None,
    stop: StopSignals | None = None,
) -> DataLoader[Sample]:
    """Returns a loader of batches for steps `start()` to `steps` - 1. Worker processes augment and voxelise them.

    limits: which points the network will be given, see `VoxelDataset`
    """
    dataset = training_samples(recipe, scans, replicas, limits)
    sampler = StepSampler(
        len(scans), recipe.trainer.batch_size, steps, seed=recipe.seed, start=start, rank=rank, replicas=replicas
    )
    return loader_of(dataset, sampler, recipe.data.workers, pin_memory, stop)


def training_samples(recipe: Recipe, scans: ScanDataset, replicas: int, limits: Limits | None = None) -> VoxelDataset:
    """Returns the scans as the network learns them: augmented, and as voxels.

    limits: which points the network will be given, see `VoxelDataset`
    """
    return VoxelDataset(
        scans,
        Augmentation.from_config(recipe.augment),
        voxel_size=recipe.data.voxel_size,
        max_voxels=recipe.data.max_voxels or None,
        seed=recipe.seed,
        limits=limits,
        alone=recipe.trainer.batch_size // replicas == 1,
    )


def check_training(recipe: Recipe, scans: ScanDataset, replicas: int = 1) -> None:
    """Raises DatasetError where no scan can be learnt from. Reads until one can."""
    training_samples(recipe, scans, replicas)[0]


def check_validation(scans: ScanDataset) -> None:
    """Raises DatasetError where no scan has a label, so that nothing could be scored."""
    first = None
    for index in range(len(scans)):
        try:
            if (scans[index].labels != UNLABELLED).any():
                return
            reason = "none of its points has a label that counts"
        except DatasetError as error:
            reason = str(error)
        first = first or f"the first is {scans.name(index)}: {reason}"
    raise DatasetError(
        f"none of {len(scans)} scan(s) to validate on has a label, so nothing could be scored; {first}. Name others "
        "(data.validation), or none: data.validation=[]"
    )


def validation_loader(
    recipe: Recipe,
    scans: ScanDataset,
    rank: int = 0,
    replicas: int = 1,
    *,
    limits: Limits | None = None,
    stop: StopSignals | None = None,
) -> DataLoader[Sample]:
    """Returns a loader of this process's scans: one at a time, whole, not augmented, with the voxel of each point."""
    size = recipe.data.voxel_size
    dataset = VoxelDataset(scans, voxel_size=size, max_voxels=None, limits=limits, keep_points=True)
    sampler = EpochSampler(len(scans), shuffle=False, rank=rank, replicas=replicas)
    return loader_of(dataset, [[key] for key in sampler], min(recipe.data.workers, 1), False, stop)


class _Loader(DataLoader[Any]):
    """A loader whose waiting for a batch is ended by a signal."""

    stop: StopSignals | None = None

    def __iter__(self) -> Any:
        batches = super().__iter__()
        return batches if self.stop is None else self.stop.guarded(batches)


def loader_of(
    dataset: Dataset[Any],
    batches: Sampler[Any] | list[list[Key]],
    workers: int,
    pin_memory: bool,
    stop: StopSignals | None,
    join: Callable[[Sequence[Any]], Any] = collate,
) -> DataLoader[Any]:
    """Returns a loader of batches, each with the samples of the given keys, by so many worker processes.

    join: of samples to a batch
    """
    loader = _Loader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=join,
        pin_memory=pin_memory,
        persistent_workers=workers > 0,
        worker_init_fn=partial(_begin_worker, os.getpid()),
    )
    loader.stop = stop
    return loader


def _begin_worker(parent: int, _: int) -> None:
    begin_worker(parent)


def class_counts(scans: ScanDataset, at_most: int) -> npt.NDArray[np.int64]:
    """Counts the points of each class, int64 `[C]`, in up to `at_most` evenly spread scans."""
    counts = np.zeros(256, np.int64)
    for scan in _some(scans, at_most):
        counts += np.bincount(scan.labels, minlength=256)
    return counts[: len(scans.label_map.classes)]


def sensor_of(scans: Source[_HasPoints], at_most: int = _INTENSITY_SCANS) -> tuple[TrainingIntensity | None, float]:
    """Returns what up to `at_most` evenly spread scans say of their sensor, before augmentation.

    Median and 95th percentile of the intensities, None where these scans have no points; and the height above the
    ground, metres: `SENSOR_HEIGHT` where it is about that, or where no ground is seen.
    """
    values, grounds = [], []
    for scan in _some(scans, at_most):
        values.append(scan.points[:, 3])
        if ground := find_ground(scan.points[:, :3]):
            grounds.append(ground)
    intensities = np.concatenate(values) if values else np.empty(0)
    found = TrainingIntensity(*np.percentile(intensities, (50, 95)).tolist()) if len(intensities) else None
    ground = typical_ground(grounds)
    if ground is None or abs(ground.height - SENSOR_HEIGHT) <= SAME_HEIGHT:
        return found, SENSOR_HEIGHT
    return found, round(ground.height, 2)


def remarks(scans: Source[Any], sensor_height: float | None) -> list[str]:
    """Returns what is done to the clouds, what is left out of those looked at, and what about them is unlike those that
    networks know, a line each.

    sensor_height: of the network to begin from, metres; None for a new one, which learns any height

    Another scale of the intensities is no fault either: the network learns it.
    """
    known = Known(uses_intensity=False, sensor_height=SENSOR_HEIGHT if sensor_height is None else sensor_height)
    lines = []
    for looked in scans.look():
        looks = look_at_all(looked.clouds, looked.sensor, known.limits)
        unusable = sum((look.unusable for look in looks), NONE_UNUSABLE)
        left_out = f"; not seen by the network, of {len(looks)} clouds looked at: {unusable}" if unusable.total else ""
        lines.append(f"{looked.sensor.describe()}{left_out}")
        lines += [f"warning: {remark}" for remark in looked.remarks]
        lines += [
            f"warning: {concern}"
            for concern in concerns(looks, looked.sensor, known, TO_COMMAND)
            if sensor_height is not None or concern.about != "ground"
        ]
    return list(dict.fromkeys(lines))


def _some(scans: Source[Scan], at_most: int) -> Iterator[Scan]:
    """Yields up to `at_most` evenly spread scans, but none that cannot be read."""
    rows = np.linspace(0, len(scans) - 1, min(at_most, len(scans))).round().astype(int)
    for index in np.unique(rows).tolist():
        with suppress(DatasetError):
            yield scans[index]


def steps_of(recipe: Recipe, scans: int) -> int:
    """Returns the number of steps of the whole training, for a data set of `scans` scans."""
    if recipe.trainer.steps:
        return recipe.trainer.steps
    return max(1, round(recipe.trainer.epochs * scans / recipe.trainer.batch_size))
