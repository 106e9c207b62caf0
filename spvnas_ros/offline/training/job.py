"""What differs between the trainings of networks that label points (`label_job`), that find boxes, that do both
(`joint_job`), of supernets (`supernet_job`), and those that adapt networks (`adapt_job`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol

from torch.utils.data import DataLoader

from spvnas_ros.errors import UserError
from spvnas_ros.offline.augment.boxed_objects import Database, build_database
from spvnas_ros.offline.augment.compose import BoxedAugmentation
from spvnas_ros.offline.datasets.boxed import BoxedScan, join_boxed, open_boxed
from spvnas_ros.offline.datasets.joined import Several, Source
from spvnas_ros.offline.datasets.scan import DatasetError
from spvnas_ros.offline.training.adapt_job import AdaptJob
from spvnas_ros.offline.training.batch import EpochSampler
from spvnas_ros.offline.training.box_task import BoxTask, box_exam, keep_boxes
from spvnas_ros.offline.training.boxed_batch import BoxedSamples, collate_boxed
from spvnas_ros.offline.training.config import Recipe
from spvnas_ros.offline.training.data import (
    StepSampler,
    loader_of,
    remarks,
    sensor_of,
)
from spvnas_ros.offline.training.joint_job import JointJob
from spvnas_ros.offline.training.label_job import LabelJob
from spvnas_ros.offline.training.recorder import Exam, Keep
from spvnas_ros.offline.training.simulated import folders
from spvnas_ros.offline.training.start import DetectorStart, Start
from spvnas_ros.offline.training.stop_signals import StopSignals
from spvnas_ros.offline.training.story import begun, provenance_of, record_of
from spvnas_ros.offline.training.supernet_job import SupernetJob
from spvnas_ros.offline.training.task import RecipeTask
from spvnas_ros.zoo.checkpoint import Facts
from spvnas_ros.zoo.detector_checkpoint import DetectorFacts


class Job(Protocol):
    """A training: its data, its network, its loaders, and how the network is scored and kept."""

    @property
    def scans(self) -> Source[Any]: ...

    @property
    def validation(self) -> Source[Any] | None: ...

    def check(self, replicas: int) -> None:
        """Raises DatasetError where nothing can be learnt, or nothing scored."""
        ...

    def remarks(self) -> list[str]:
        """Returns what is done to the data and what about them may be wrong, a line each."""
        ...

    def task(self, steps: int) -> RecipeTask: ...

    def facts(self, task: RecipeTask) -> Facts | DetectorFacts: ...

    def exam(self) -> Exam: ...

    def keep(self) -> Keep: ...

    def training_loader(
        self,
        steps: int,
        facts: Any,
        *,
        start: Callable[[], int],
        rank: int,
        replicas: int,
        pin_memory: bool,
        stop: StopSignals,
    ) -> DataLoader[Any]: ...

    def validation_loader(self, facts: Any, stop: StopSignals) -> Callable[[int, int], DataLoader[Any]] | None: ...


class BoxJob:
    """The training of a detector. Raises DatasetError where the recipe's data cannot be opened."""

    def __init__(self, recipe: Recipe, start: DetectorStart | None) -> None:
        assert recipe.detector is not None
        self.recipe, self.detector, self.start = recipe, recipe.detector, start
        self.spec = start.spec if start else recipe.detector.spec()
        self.kinds = recipe.detector.classes_of_kinds()
        self.augmentation = BoxedAugmentation.from_config(recipe.augment)
        config = recipe.data
        simulated = {
            validates: [folder.path for folder in folders(config.simulate, boxes=True) if folder.validates == validates]
            for validates in (False, True)
        }
        train = self._open(config.train, config.sequences) + self._open(simulated[False], ())
        if not train:
            raise DatasetError("the recipe names no scans to train on; add data.train=FOLDER")
        validation = self._open(config.validation, config.validation_sequences) + self._open(simulated[True], ())
        self.scans: Several[BoxedScan] = join_boxed(train)
        self.validation = join_boxed(validation).spread(config.validation_scans) if validation else None

    def _open(self, sources: Sequence[str | Path], sequences: Sequence[str]) -> list[Source[BoxedScan]]:
        config = self.recipe.data
        return [
            open_boxed(
                source,
                label_map=config.label_map or "semantic-kitti",
                sequences=sequences or None,
                intensity=config.intensity or None,
                intensity_field=config.intensity_field or None,
            )
            for source in sources
        ]

    def check(self, replicas: int) -> None:  # noqa: ARG002
        """Raises DatasetError where no scan has a box of the detector's classes in its range that could be learnt, or
        scored.
        """
        for scans, verb, key in ((self.scans, "learnt", "train"), (self.validation, "scored", "validation")):
            if scans is not None and not any(self._has_boxes(scans, index) for index in range(len(scans))):
                raise DatasetError(
                    f"none of {len(scans)} scan(s) has a box of {', '.join(self.spec.head.names)} within the "
                    f"detector's range that could be {verb} (data.{key}, detector.classes, detector.min_points)"
                )

    def _has_boxes(self, scans: Source[BoxedScan], index: int) -> bool:
        try:
            return bool(self._samples(scans)[index].seen.any())
        except UserError:
            return False

    def _samples(self, scans: Source[BoxedScan]) -> BoxedSamples:
        return BoxedSamples(scans, self.spec, self.kinds, min_points=self.detector.min_points)

    @cached_property
    def database(self) -> Database | None:
        """The objects to put into other scans; None where the recipe asks for none."""
        if self.augmentation.least is None:
            return None
        return build_database(self._readable(), self.augmentation.least)

    def _readable(self) -> Any:
        samples = self._samples(self.scans)
        for index in range(len(self.scans)):
            try:
                yield samples.read(index)
            except DatasetError:
                continue

    def remarks(self) -> list[str]:
        """Returns what is done to the scans, what about them is unlike those that networks know, and which objects they
        lack.
        """
        lines = remarks(self.scans, self.start.facts.sensor_height if self.start else None)
        if self.start and (remark := self.start.remark()):
            lines.append(remark)
        there = () if self.database is None else tuple(self.database.rows)
        if missing := [kind for kind in self.augmentation.kinds if kind not in there]:
            lines.append(
                f"warning: augment.sample_objects wants {', '.join(missing)}, of which the training scans have no "
                f"object with points enough; they have {', '.join(there) or 'none at all'}"
            )
        return lines

    def task(self, steps: int) -> BoxTask:
        """Returns the steps of the training, on the detector to begin with."""
        task = BoxTask(self.recipe, self.spec, steps)
        if self.start:
            self.start.fill(task.net)
        return task

    def facts(self, task: RecipeTask) -> DetectorFacts:
        """Returns the facts about the detector to come."""
        provenance, record = begun(self.start, provenance_of(self.recipe), record_of(self.recipe, len(self.scans)))
        return DetectorFacts(
            spec=task.net.spec,
            name=self.recipe.name,
            provenance=provenance,
            training=record,
            sensor_height=sensor_of(self.scans)[1],
        )

    def exam(self) -> Exam:
        """Returns the exam of the validation."""
        return box_exam(self.spec.head.names)

    def keep(self) -> Keep:
        """Returns what writes the detector."""
        return partial(keep_boxes, half=self.recipe.trainer.half)

    def training_loader(
        self,
        steps: int,
        facts: DetectorFacts,  # noqa: ARG002
        *,
        start: Callable[[], int],
        rank: int,
        replicas: int,
        pin_memory: bool,
        stop: StopSignals,
    ) -> DataLoader[Any]:
        """Returns the loader of the steps' batches."""
        recipe = self.recipe
        samples = BoxedSamples(
            self.scans,
            self.spec,
            self.kinds,
            self.augmentation,
            database=self.database,
            min_points=self.detector.min_points,
            seed=recipe.seed,
        )
        size, batch = len(self.scans), recipe.trainer.batch_size
        sampler = StepSampler(size, batch, steps, seed=recipe.seed, start=start, rank=rank, replicas=replicas)
        return loader_of(samples, sampler, recipe.data.workers, pin_memory, stop, collate_boxed)

    def validation_loader(
        self,
        facts: DetectorFacts,  # noqa: ARG002
        stop: StopSignals,
    ) -> Callable[[int, int], DataLoader[Any]] | None:
        """Returns what makes the loader of the scans; None where there are none."""
        if self.validation is None:
            return None
        samples, workers = self._samples(self.validation), min(self.recipe.data.workers, 1)
        size = len(self.validation)

        def loader(rank: int, replicas: int) -> DataLoader[Any]:
            sampler = EpochSampler(size, shuffle=False, rank=rank, replicas=replicas)
            return loader_of(samples, [[key] for key in sampler], workers, False, stop, collate_boxed)

        return loader


def job_of(recipe: Recipe, start: Start | DetectorStart | None) -> Job:
    """Returns the training that a recipe asks for, from the start that `start.begin` found for it. Raises the errors of
    all.
    """
    if recipe.detector:
        assert not isinstance(start, Start)
        return BoxJob(recipe, start)
    assert not isinstance(start, DetectorStart)
    if recipe.adapt:
        return AdaptJob(recipe, start)
    if recipe.supernet:
        return SupernetJob(recipe)
    return JointJob(recipe, start) if recipe.boxes else LabelJob(recipe, start)
