"""The training of a supernet."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, partial

import numpy as np

from spvnas_ros.clouds.cleaning import Limits
from spvnas_ros.nets.space import Space
from spvnas_ros.nets.supernet import Batch
from spvnas_ros.offline.datasets.scan import ScanDataset
from spvnas_ros.offline.training.batch import collate
from spvnas_ros.offline.training.config import Recipe
from spvnas_ros.offline.training.data import training_samples
from spvnas_ros.offline.training.label_job import LabelJob
from spvnas_ros.offline.training.recorder import Exam, Keep
from spvnas_ros.offline.training.supernet_task import SupernetTask, keep_supernet, supernet_exam, validated
from spvnas_ros.perception import limits_of
from spvnas_ros.zoo.checkpoint import Facts


class SupernetJob(LabelJob):
    """The training of a supernet of networks that label points.

    Raises DatasetError where the recipe's data cannot be opened, and SpecError where no network lies in its space.
    """

    def __init__(self, recipe: Recipe) -> None:
        assert recipe.supernet is not None
        super().__init__(recipe, None)
        self.config = recipe.supernet

    @cached_property
    def space(self) -> Space:
        """The design space, for the classes and voxels of the recipe."""
        return self.config.space(len(self.scans.label_map.classes), self.recipe.data.voxel_size)

    @cached_property
    def calibration(self) -> Sequence[Batch]:
        """The scans on which statistics are estimated anew."""
        label_map = self.scans.label_map
        facts = Facts(
            spec=self.space.largest().spec,
            classes=label_map.classes,
            palette=label_map.palette,
            voxel_size=self.recipe.data.voxel_size,
        )
        return calibration_batches(self.recipe, self.scans, self.config.calibration, limits_of(facts))

    def remarks(self) -> list[str]:
        """Returns what is done to the scans, what about them is unlike those that networks know, and what is learnt."""
        size = f"{self.space.size:.1e}".replace("e+", " x 10^")
        return [*super().remarks(), f"a supernet of {size} networks, sampling {self.config.sampling}"]

    def task(self, steps: int) -> SupernetTask:
        """Returns the steps of the training, on random weights."""
        return SupernetTask(self.recipe, self.space, steps, self.class_weights())

    def exam(self) -> Exam:
        """Returns the exam of the validation."""
        return supernet_exam(
            self.scans.label_map.classes,
            validated(self.space, self.config.validated, self.recipe.seed),
            lambda: self.calibration,
            boxes_only=self.validation is not None and self.validation.boxes_only,
        )

    def keep(self) -> Keep:
        """Returns what writes the supernet."""
        return partial(keep_supernet, half=self.recipe.trainer.half)


def calibration_batches(recipe: Recipe, scans: ScanDataset, count: int, limits: Limits | None = None) -> list[Batch]:
    """Returns up to `count` evenly spread training scans, augmented as in the recipe's first epoch, in batches of its
    size or little more.

    limits: which points the network will be given, see `VoxelDataset`

    They depend on the recipe and the scans alone.
    """
    samples = training_samples(recipe, scans, 1, limits)
    rows = np.unique(np.linspace(0, len(scans) - 1, min(count, len(scans))).round().astype(int))
    shares = np.array_split(rows, max(1, len(rows) // recipe.trainer.batch_size))
    batches = [collate([samples[0, int(row)] for row in share]) for share in shares]
    return [(batch.coords, batch.feats, None) for batch in batches]
